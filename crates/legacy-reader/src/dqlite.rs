//! A whole dqlite directory: the newest usable snapshot, and the log behind it.

use std::path::Path;

use trivet_datastore::ReadOnlyDir;

use crate::command::{self, Databases};
use crate::configuration::{self, Server};
use crate::damage::{Damage, Fault, ReadError};
use crate::input::{Input, join};
use crate::kine::Kine;
use crate::metadata::{self, Metadata};
use crate::names::Name;
use crate::segment::{self, Entry, EntryKind, Found, Start};
use crate::snapshot;

/// Longest configuration entry that is looked at.
const MAX_CONFIGURATION: u64 = 1 << 20;

/// What a dqlite directory holds.
///
/// The last entries of a server's log may never have been agreed on by a cluster of several:
/// the commit index is not on disk. Of several servers' directories the one with the highest
/// ([`last_term`](Self::last_term), [`last_index`](Self::last_index)) counts, as in an election.
#[derive(Debug)]
pub struct Dqlite {
    /// The kine database; `None` if there is none (yet).
    pub kine: Option<Kine>,
    /// Everything that is not as it should be. Empty for a healthy directory.
    pub damage: Vec<Damage>,
    /// Name of the snapshot that was used.
    pub snapshot: Option<String>,
    /// Index of the last entry that was applied, or of the snapshot; 0 for none.
    pub last_index: u64,
    /// Term of the last entry that was applied, or of the snapshot.
    pub last_term: u64,
    /// Servers by the newest configuration that was read.
    pub servers: Vec<Server>,
    /// Newest term and vote, if a metadata file is there.
    pub metadata: Option<Metadata>,
    /// The number in `node-id`. K3s v1.0 wrote 64 bits there and used the low 32 in the cluster.
    pub node_id: Option<u64>,
    /// Databases inside, whatever they hold.
    pub databases: Vec<String>,
}

/// A log segment.
#[derive(Debug)]
struct Segment {
    /// First and last index by the name of a closed one.
    range: Option<(u64, u64)>,
    name: String,
}

/// The raft files of a directory.
#[derive(Debug, Default)]
struct Files {
    /// In the order of the log.
    segments: Vec<Segment>,
    /// Term, index, clock and file name; newest first.
    snapshots: Vec<(u64, u64, u64, String)>,
    metas: Vec<String>,
}

impl Files {
    fn list(names: &[String]) -> Self {
        let (mut closed, mut open) = (Vec::new(), Vec::new());
        let mut files = Self::default();
        for name in names {
            match Name::parse(name) {
                Some(Name::Closed { first, last }) => closed.push((first, last, name.clone())),
                Some(Name::Open { counter }) => open.push((counter, name.clone())),
                Some(Name::Snapshot { term, index, ms }) => {
                    files.snapshots.push((term, index, ms, name.clone()));
                }
                Some(Name::SnapshotMeta { .. }) => files.metas.push(name.clone()),
                Some(Name::Metadata | Name::Backup { .. }) | None => {}
            }
        }
        closed.sort();
        open.sort();
        files.snapshots.sort_by(|a, b| b.cmp(a));
        files.segments = closed
            .into_iter()
            .map(|(first, last, name)| Segment {
                range: Some((first, last)),
                name,
            })
            .chain(
                open.into_iter()
                    .map(|(_, name)| Segment { range: None, name }),
            )
            .collect();
        files
    }
}

struct Replay<'a> {
    dir: &'a dyn ReadOnlyDir,
    path: &'a str,
    databases: Databases,
    damage: Vec<Damage>,
    servers: Vec<Server>,
    /// Last entry applied, or contained in the snapshot.
    index: u64,
    term: u64,
}

/// Reads the dqlite directory at `path` below `dir`. Scratch files are made in `scratch` and
/// removed again; they can grow to the size of the database.
pub fn read(dir: &dyn ReadOnlyDir, path: &str, scratch: &Path) -> Result<Dqlite, ReadError> {
    let names = dir.read_dir(path).map_err(|source| ReadError::Io {
        what: format!("cannot list {path:?}"),
        source,
    })?;
    let files = Files::list(&names);
    let mut replay = Replay {
        dir,
        path,
        databases: Databases::new(scratch),
        damage: Vec::new(),
        servers: Vec::new(),
        index: 0,
        term: 0,
    };
    let snapshot = replay.snapshot(&files, scratch)?;
    replay.log(&files)?;
    let metadata = replay.metadata(&names)?;
    replay.finish(snapshot, metadata)
}

impl<'a> Replay<'a> {
    fn file(&self, name: &str) -> String {
        join(self.path, name)
    }

    fn damaged(&mut self, name: &str, offset: u64, what: impl Into<String>) {
        let file = self.file(name);
        self.damage.push(Damage {
            file,
            offset,
            what: what.into(),
        });
    }

    fn open(&self, name: &str) -> Result<Option<Input<'a>>, ReadError> {
        let file = self.file(name);
        Input::open(self.dir, &file).map_err(|fault| failed(fault, &file))
    }

    /// Loads the newest snapshot that is intact.
    fn snapshot(&mut self, files: &Files, scratch: &Path) -> Result<Option<String>, ReadError> {
        for (term, index, _, name) in &files.snapshots {
            let file = self.file(name);
            let meta_name = format!("{name}.meta");
            if !files.metas.contains(&meta_name) {
                self.damaged(name, 0, "a snapshot without its .meta file; not used");
                continue;
            }
            if self.open(name)?.is_none_or(|input| input.len() == 0) {
                // The trace of a crash between making the two files.
                continue;
            }
            let servers = match snapshot::meta(self.dir, &self.file(&meta_name)) {
                Ok(servers) => servers,
                Err(fault) => {
                    let mut damage = fault.into_damage(&self.file(&meta_name))?;
                    damage.what.push_str("; the snapshot is not used");
                    self.damage.push(damage);
                    continue;
                }
            };
            let mut databases = Databases::new(scratch);
            match snapshot::load(self.dir, &file, &mut databases) {
                Ok(()) => {
                    self.databases = databases;
                    self.servers = servers;
                    self.index = *index;
                    self.term = *term;
                    return Ok(Some(name.clone()));
                }
                Err(fault) => {
                    let mut damage = fault.into_damage(&file)?;
                    damage.what.push_str("; the snapshot is not used");
                    self.damage.push(damage);
                }
            }
        }
        Ok(None)
    }

    /// Applies what the log holds beyond the snapshot, up to the first entry that is missing
    /// or damaged.
    fn log(&mut self, files: &Files) -> Result<(), ReadError> {
        let base = self.index;
        // The first open segment goes on behind the last closed one.
        let mut next = None;
        for (place, segment) in files.segments.iter().enumerate() {
            if !self.segment(segment, base, &mut next)? {
                return self.unused(&files.segments[place + 1..]);
            }
        }
        Ok(())
    }

    /// Says so if there is data behind the segment where reading had to stop.
    fn unused(&mut self, segments: &[Segment]) -> Result<(), ReadError> {
        let mut with_data = Vec::new();
        for segment in segments {
            let file = self.file(&segment.name);
            let used = match self.open(&segment.name)? {
                Some(mut input) => {
                    segment::start(&mut input).map_err(|fault| failed(fault, &file))?
                        != Start::Unused
                }
                None => true,
            };
            if used {
                with_data.push(&segment.name);
            }
        }
        if let Some(first) = with_data.first() {
            let what = match with_data.len() {
                1 => "not used, since entries before it are missing".to_owned(),
                n => format!(
                    "not used, nor {} segments behind it, since entries before it are missing",
                    n - 1
                ),
            };
            self.damaged(first, 0, what);
        }
        Ok(())
    }

    /// Applies one segment. `next` is the index behind the segment before it, if there is one.
    /// Returns whether the log can be followed further.
    fn segment(
        &mut self,
        segment: &Segment,
        base: u64,
        next: &mut Option<u64>,
    ) -> Result<bool, ReadError> {
        let name = &segment.name;
        let first = match segment.range {
            Some((first, _)) if first > self.index + 1 => {
                let (from, to) = (self.index + 1, first - 1);
                self.damaged(
                    name,
                    0,
                    format!(
                        "entries {from} to {to} before this segment are missing; it is not used"
                    ),
                );
                return Ok(false);
            }
            Some((first, _)) => {
                if next.is_some_and(|next| first < next) {
                    self.damaged(name, 0, "overlaps the segment before it");
                }
                first
            }
            None => next.unwrap_or(base + 1),
        };
        // A closed segment that the snapshot contains is not needed.
        let needed = segment.range.is_none_or(|(_, last)| last > base);
        *next = segment.range.map(|(_, last)| last + 1).or(*next);
        let file = self.file(name);
        let Some(mut input) = self.open(name)? else {
            self.damaged(name, 0, "is no regular file");
            return Ok(!needed);
        };
        let start = segment::start(&mut input).map_err(|fault| failed(fault, &file))?;
        match (start, segment.range) {
            (Start::Format1, _) => {}
            (Start::Unused, None) => return Ok(true),
            _ => {
                self.damaged(name, 0, "no log segment of format 1");
                return Ok(!needed);
            }
        }
        let last = segment.range.map(|(_, last)| last);
        let Some(end) = self.batches(&mut input, name, first, last, base)? else {
            return Ok(!needed);
        };
        match segment.range {
            Some((_, last)) if end != last + 1 => {
                self.damaged(
                    name,
                    input.len(),
                    format!(
                        "the file holds {} entries, its name says {}",
                        end - first,
                        last + 1 - first
                    ),
                );
                Ok(!needed)
            }
            Some(_) => Ok(true),
            None => {
                *next = Some(end);
                Ok(true)
            }
        }
    }

    /// Applies the batches of a segment; the index behind the last, or `None` where one is
    /// damaged.
    fn batches(
        &mut self,
        input: &mut Input<'a>,
        name: &str,
        first: u64,
        last: Option<u64>,
        base: u64,
    ) -> Result<Option<u64>, ReadError> {
        let file = self.file(name);
        let mut index = first;
        loop {
            let at = input.pos();
            match segment::batch(input).map_err(|fault| failed(fault, &file))? {
                Found::End => return Ok(Some(index)),
                Found::Batch(batch) => {
                    for entry in &batch.entries {
                        if last.is_some_and(|last| index > last) {
                            self.damaged(name, at, "more entries than the file's name says");
                            return Ok(None);
                        }
                        if index > self.index {
                            if let Err(fault) = self.entry(input, entry, &file) {
                                self.damage.push(fault.into_damage(&file)?);
                                return Ok(None);
                            }
                            self.index = index;
                            self.term = entry.term;
                        }
                        index += 1;
                    }
                    input.seek(batch.end);
                }
                Found::BadData(batch, what) => {
                    let behind = index + batch.entries.len() as u64;
                    if behind <= base + 1 {
                        self.damaged(
                            name,
                            at,
                            format!("{what}; the snapshot contains its entries"),
                        );
                        index = behind;
                        input.seek(batch.end);
                        continue;
                    }
                    let intact =
                        intact_behind(input, batch.end).map_err(|fault| failed(fault, &file))?;
                    let lost = match intact {
                        0 => format!("entries from {index} on are not used"),
                        n => format!(
                            "entries from {index} on are not used, though {n} intact ones follow in this file"
                        ),
                    };
                    self.damaged(name, at, format!("{what}; {lost}"));
                    return Ok(None);
                }
                Found::Unreadable(what) => {
                    self.damaged(
                        name,
                        at,
                        format!("{what}; entries from {index} on are not used"),
                    );
                    return Ok(None);
                }
            }
        }
    }

    fn entry(&mut self, input: &mut Input<'a>, entry: &Entry, file: &str) -> Result<(), Fault> {
        match entry.kind {
            EntryKind::Barrier => {}
            EntryKind::Command => {
                input.seek(entry.offset);
                command::apply(input, entry.length, &mut self.databases)?;
            }
            EntryKind::Configuration => {
                let mut bytes = vec![0; entry.length.min(MAX_CONFIGURATION) as usize];
                input.seek(entry.offset);
                input.exact(&mut bytes)?;
                match configuration::decode(&bytes) {
                    Some(servers) => self.servers = servers,
                    // Not needed for the data.
                    None => self.damage.push(Damage {
                        file: file.to_owned(),
                        offset: entry.offset,
                        what: "a list of servers that cannot be read; passed over".to_owned(),
                    }),
                }
            }
        }
        Ok(())
    }

    fn metadata(&mut self, names: &[String]) -> Result<Option<Metadata>, ReadError> {
        let mut newest: Option<Metadata> = None;
        for name in ["metadata1", "metadata2"] {
            if !names.iter().any(|other| other == name) {
                continue;
            }
            let file = self.file(name);
            match metadata::read(self.dir, &file) {
                Ok(Some(found)) => match newest {
                    Some(other) if other.version == found.version => {
                        self.damaged(name, 8, "the same version as in metadata1");
                    }
                    Some(other) if other.version > found.version => {}
                    _ => newest = Some(found),
                },
                Ok(None) => {}
                Err(fault) => self.damage.push(fault.into_damage(&file)?),
            }
        }
        Ok(newest)
    }

    /// Not needed for anything but to be shown.
    fn node_id(&self) -> Option<u64> {
        let text = self.dir.read(&self.file("node-id"), 0, 32).ok()?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok()
    }

    fn finish(
        mut self,
        snapshot: Option<String>,
        metadata: Option<Metadata>,
    ) -> Result<Dqlite, ReadError> {
        let node_id = self.node_id();
        let (mut kine, mut databases) = (None, Vec::new());
        for (name, image) in std::mem::take(&mut self.databases.images) {
            let name = String::from_utf8_lossy(&name).into_owned();
            let file = image.finish().map_err(|fault| failed(fault, self.path))?;
            databases.push(name.clone());
            let Some(file) = file else { continue };
            match Kine::open(file) {
                Ok(Some(found)) => {
                    for problem in found.check() {
                        self.damaged("", 0, format!("database {name}: {problem}"));
                    }
                    kine = kine.or(Some(found));
                }
                Ok(None) => {}
                Err(ReadError::Sqlite(error)) => {
                    self.damaged("", 0, format!("database {name} cannot be read: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Dqlite {
            kine,
            damage: self.damage,
            snapshot,
            last_index: self.index,
            last_term: self.term,
            node_id,
            servers: self.servers,
            metadata,
            databases,
        })
    }
}

/// Entries of intact batches from an offset on.
fn intact_behind(input: &mut Input<'_>, offset: u64) -> Result<usize, Fault> {
    let mut entries = 0;
    input.seek(offset);
    loop {
        match segment::batch(input)? {
            Found::Batch(batch) => {
                entries += batch.entries.len();
                input.seek(batch.end);
            }
            Found::BadData(batch, _) => input.seek(batch.end),
            Found::End | Found::Unreadable(_) => return Ok(entries),
        }
    }
}

/// A failure where bad bytes would have been handled already; those only come from a file that
/// shrinks while it is read.
fn failed(fault: Fault, file: &str) -> ReadError {
    match fault.into_damage(file) {
        Ok(damage) => ReadError::Damaged(damage),
        Err(error) => error,
    }
}
