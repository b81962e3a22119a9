//! The node's own name and password.
//!
//! The password proves on later starts that this machine is the one that first used the node
//! name; the identity makes equal host names distinct. Both live outside the data directory, as
//! in K3s (`/etc/rancher/node/{password,id}`), so that they survive its removal.

use std::io;
use std::path::{Path, PathBuf};

use trivet_env::Rng;

use crate::files;

/// Longest node name (a DNS subdomain).
const NAME_LIMIT: usize = 253;

/// Why a node has no usable name or password.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The files cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The name is not a DNS subdomain.
    #[error(
        "node name {0:?} is not usable: use lower-case letters, digits, '-' and '.', at most 253 \
         characters, beginning and ending with a letter or digit (--node-name)"
    )]
    Name(String),
}

/// Where the files are when nobody says otherwise.
pub fn default_dir(whole_machine: bool, data_dir: &Path) -> PathBuf {
    if whole_machine {
        PathBuf::from("/etc/rancher/node")
    } else {
        data_dir.join("agent/node")
    }
}

/// The node name: checked, lower case, with the identity appended if asked for.
pub fn node_name(
    wanted: &str,
    with_id: bool,
    dir: &Path,
    rng: &dyn Rng,
) -> Result<String, IdentityError> {
    let mut name = wanted.to_lowercase();
    if with_id {
        name = format!("{name}-{}", load_or_create(&dir.join("id"), 4, rng)?);
    }
    let valid = (1..=NAME_LIMIT).contains(&name.len())
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
    if valid {
        Ok(name)
    } else {
        Err(IdentityError::Name(wanted.to_owned()))
    }
}

/// The node password, made on first use.
pub fn node_password(dir: &Path, rng: &dyn Rng) -> Result<String, IdentityError> {
    load_or_create(&dir.join("password"), 16, rng)
}

/// The file's content without white space; when there is none, `bytes` random bytes in
/// hexadecimal, stored with a final newline.
fn load_or_create(path: &Path, bytes: usize, rng: &dyn Rng) -> Result<String, IdentityError> {
    let fail = |source| IdentityError::File {
        path: path.to_owned(),
        source,
    };
    if let Some(text) = files::read_small(path, 4096).map_err(fail)?
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let mut random = vec![0; bytes];
    rng.fill(&mut random);
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    files::write_atomically(path, format!("{text}\n").as_bytes()).map_err(fail)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use trivet_env::RealRng;

    use super::*;

    #[test]
    fn password_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = node_password(dir.path(), &RealRng).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(node_password(dir.path(), &RealRng).unwrap(), first);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(dir.path().join("password"))
                .unwrap()
                .permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn names_are_checked_and_may_carry_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            node_name("Box1", false, dir.path(), &RealRng).unwrap(),
            "box1"
        );
        let with_id = node_name("box1", true, dir.path(), &RealRng).unwrap();
        assert_eq!(with_id.len(), "box1-".len() + 8);
        assert_eq!(
            node_name("box1", true, dir.path(), &RealRng).unwrap(),
            with_id
        );
        for bad in ["", "a_b", "-a", "a.", "ä", &"x".repeat(64)] {
            assert!(
                node_name(bad, false, dir.path(), &RealRng).is_err(),
                "{bad:?}"
            );
        }
    }
}
