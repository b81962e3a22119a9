//! The `FORMAT` file: whose directory this is. Byte by byte in `docs/formats/store.md`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use trivet_env::{Disk, OpenMode};

/// First word of the file.
pub(crate) const MAGIC: &str = "trivet-store";
/// The version of the directory's layout that this code writes and reads.
pub(crate) const VERSION: u32 = 1;
/// The name of the file in the store's directory.
pub(crate) const FILE: &str = "FORMAT";
/// No genuine file is longer.
pub(crate) const MAX_BYTES: usize = 4096;

const TEMPORARY: &str = "FORMAT.new";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    /// The backend that wrote the directory.
    pub(crate) backend: String,
    /// 0 until a joining member has learnt it.
    pub(crate) cluster_id: u64,
    /// Identity of the member; never 0.
    pub(crate) member_id: u64,
    /// Whether the member was founded or taken in; if not, that is still under way, and may be
    /// taken up again.
    pub(crate) ready: bool,
    /// What the data was imported from, if it was.
    pub(crate) imported_from: Option<String>,
    /// While `ready` is false: the member that this one takes the place of, because its log was
    /// lost. It must never be heard of again.
    pub(crate) replaces: Option<u64>,
}

impl Format {
    pub(crate) fn encode(&self) -> String {
        let mut text = format!(
            "{MAGIC} {VERSION}\nbackend {}\ncluster-id {:016x}\nmember-id {:016x}\nstate {}\nimported-from {}\n{}",
            self.backend,
            self.cluster_id,
            self.member_id,
            if self.ready { "ready" } else { "starting" },
            self.imported_from.as_deref().unwrap_or("-"),
            self.replaces
                .map(|old| format!("replaces {old:016x}\n"))
                .unwrap_or_default(),
        );
        let sum = crc32c::crc32c(text.as_bytes());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "crc32c {sum:08x}");
        text
    }

    /// Reads the text of the file; the error says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        let version = text
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_once('\n'))
            .map(|(version, _)| version.trim())
            .ok_or_else(|| format!("it does not begin with {MAGIC:?}"))?;
        if version != VERSION.to_string() {
            return Err(format!(
                "it has version {version}; this program reads version {VERSION}"
            ));
        }
        let body_end = text.rfind("crc32c ").ok_or("the checksum is missing")?;
        let sum = text[body_end..]
            .trim_end()
            .strip_prefix("crc32c ")
            .unwrap_or_default();
        if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(&bytes[..body_end])) {
            return Err("its checksum does not match".to_owned());
        }
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| format!("the line {name:?} is missing"))
        };
        let number = |name: &str| {
            u64::from_str_radix(field(name)?, 16)
                .map_err(|_| format!("the line {name:?} is not a number"))
        };
        let imported_from = field("imported-from")?;
        Ok(Self {
            backend: field("backend")?.to_owned(),
            cluster_id: number("cluster-id")?,
            member_id: number("member-id")?,
            ready: field("state")? == "ready",
            imported_from: (imported_from != "-").then(|| imported_from.to_owned()),
            replaces: match field("replaces") {
                Ok(_) => Some(number("replaces")?),
                Err(_) => None,
            },
        })
    }

    /// Reads the file in `dir`; `None` when there is none.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open(&path, OpenMode::Read)?;
        let size = usize::try_from(file.size_bytes()?)
            .unwrap_or(usize::MAX)
            .min(MAX_BYTES);
        let mut bytes = vec![0; size];
        file.read_exact_at(0, &mut bytes)?;
        Self::decode(&bytes).map(Some).map_err(|problem| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not usable: {problem}", path.display()),
            )
        })
    }

    /// Writes the file in `dir`, durably, replacing an older one in one step.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(TEMPORARY);
        if disk.exists(&temporary)? {
            disk.remove_file(&temporary)?;
        }
        let file = disk.open(&temporary, OpenMode::CreateNew)?;
        file.write_all_at(0, self.encode().as_bytes())?;
        file.sync_data()?;
        disk.rename(&temporary, &dir.join(FILE))?;
        disk.sync_dir(dir)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> Format {
        Format {
            backend: "etcd".to_owned(),
            cluster_id: 0xfeed,
            member_id: 7,
            ready: true,
            imported_from: Some("/var/lib/rancher/k3s/server/db/state.db".to_owned()),
            replaces: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for format in [
            sample(),
            Format {
                ready: false,
                imported_from: None,
                replaces: Some(0xbad),
                ..sample()
            },
        ] {
            assert_eq!(Format::decode(format.encode().as_bytes()), Ok(format));
        }
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let good = sample().encode().into_bytes();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_ne!(Format::decode(&bad), Ok(sample()), "byte {at}");
        }
        for length in 0..good.len() - 1 {
            assert!(Format::decode(&good[..length]).is_err(), "cut at {length}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::with_cases(256)
        })]

        #[test]
        fn any_bytes_are_refused_in_peace(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            text in ".{0,200}",
        ) {
            // With the right beginning, and with the right end, it gets further in.
            let start = format!("{MAGIC} {VERSION}\n").into_bytes();
            let with_start = [start.as_slice(), &bytes].concat();
            let body = format!("{MAGIC} {VERSION}\n{text}\n");
            let whole = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
            let multibyte = format!("{MAGIC} {VERSION}\n{text}crc32c {text}");
            for file in [bytes, with_start, whole.into_bytes(), multibyte.into_bytes()] {
                let disk = trivet_sim::SimDisk::new();
                disk.overwrite(&Path::new("/db").join(FILE), &file);
                let loaded = Format::load(&disk, Path::new("/db"));
                proptest::prop_assert!(loaded.is_err(), "{loaded:?}");
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let text = sample()
            .encode()
            .replacen("trivet-store 1", "trivet-store 2", 1);
        assert!(
            Format::decode(text.as_bytes())
                .unwrap_err()
                .contains("version 2")
        );
    }

    #[test]
    fn a_stored_file_replaces_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let disk = trivet_env::RealDisk;
        assert_eq!(Format::load(&disk, dir.path()).unwrap(), None);
        Format {
            ready: false,
            ..sample()
        }
        .store(&disk, dir.path())
        .unwrap();
        sample().store(&disk, dir.path()).unwrap();
        assert_eq!(Format::load(&disk, dir.path()).unwrap(), Some(sample()));
    }
}
