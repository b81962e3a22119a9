//! The disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trivet_env::{Disk, DiskFile, DiskLock, OpenMode, Space};

use crate::inode::Inode;
use crate::names::{Names, Node};
use crate::rng::SimRng;

/// A file system in memory that keeps page cache and durable image apart. Clones share it.
/// See the crate's page for the faults.
///
/// Paths are absolute or relative to nothing in particular: they are compared as given. The
/// root directory (`/`, or the empty path) always exists.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    names: Names,
    inodes: Vec<Inode>,
    operations: u64,
    syncs: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fail_sync_at: Option<u64>,
    space_left: Option<u64>,
    tells_space: bool,
    written_bytes: u64,
    /// Who holds the lock on a file.
    locks: BTreeMap<PathBuf, u64>,
    next_lock: u64,
    rng: SimRng,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::with(Names::default(), Vec::new())
    }

    fn with(names: Names, inodes: Vec<Inode>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                names,
                inodes,
                operations: 0,
                syncs: 0,
                crash_at: None,
                crashed: false,
                fail_sync_at: None,
                space_left: None,
                tells_space: false,
                written_bytes: 0,
                locks: BTreeMap::new(),
                next_lock: 0,
                rng: SimRng::new(0),
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing operations (create, mkdir, write, resize, sync, rename, remove,
    /// directory sync) were asked for. Reads do not count: a crash at a read leaves the same
    /// disk as a crash at the next change.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many `sync_data` calls were asked for.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How many bytes were written by `write_all_at`.
    pub fn written_bytes(&self) -> u64 {
        self.state().written_bytes
    }

    /// Lets changing operation number `operation` (the first is 0) and everything after it,
    /// reads too, fail as if the machine were gone. A write cut off this way may have reached
    /// the disk in any part.
    pub fn crash_at(&self, operation: u64) {
        self.state().crash_at = Some(operation);
    }

    /// Whether the crash has happened.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Crashes now.
    pub fn crash(&self) {
        self.state().crashed = true;
    }

    /// Ends a crash as if only the process had died: the page cache is all there, and what was
    /// not synced still is not. Its locks are gone, and a failure of a sync that has not come is
    /// called off.
    pub fn restart_process(&self) {
        let mut state = self.state();
        state.crashed = false;
        state.crash_at = None;
        state.fail_sync_at = None;
        state.locks.clear();
    }

    /// Lets `sync_data` number `sync` (the first is 0) fail once.
    pub fn fail_sync_at(&self, sync: u64) {
        self.state().fail_sync_at = Some(sync);
    }

    /// Leaves so many bytes of free space (in blocks of 4 KiB); `None` is endless.
    pub fn set_space_left(&self, bytes: Option<u64>) {
        self.state().space_left = bytes;
    }

    /// Whether [`Disk::space`] tells what [`SimDisk::set_space_left`] has left. As a rule it does
    /// not, so that a full disk comes as a surprise.
    pub fn set_tells_space(&self, tells: bool) {
        self.state().tells_space = tells;
    }

    /// The disk as the next boot could find it, chosen by `seed`: everything synced, and any
    /// part of the rest. This disk stays as it is, so that several outcomes can be tried.
    pub fn crash_image(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let rng = SimRng::new(seed);
        let mut inodes = Vec::new();
        let mut renumbered = BTreeMap::new();
        let mut names = state.names.after_crash(&rng);
        for node in names.values_mut() {
            if let Node::File(old) = node {
                let new = *renumbered.entry(*old).or_insert_with(|| {
                    inodes.push(Inode::durable(state.inodes[*old].after_crash(&rng)));
                    inodes.len() - 1
                });
                *node = Node::File(new);
            }
        }
        Self::with(Names::durable(names), inodes)
    }

    /// Flips one bit of a file, in the durable image and in the page cache.
    ///
    /// # Panics
    /// When the file or the byte does not exist.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        let mut state = self.state();
        let inode = state.file(path);
        let byte = usize::try_from(byte).expect("simulated files are small");
        for content in [&mut inode.cached, &mut inode.durable] {
            if let Some(value) = content.get_mut(byte) {
                *value ^= 1 << bit;
            }
        }
        assert!(
            byte < inode.cached.len(),
            "{} has no byte {byte}",
            path.display()
        );
    }

    /// Replaces (or creates) a whole file, durably, with its directories.
    pub fn overwrite(&self, path: &Path, content: &[u8]) {
        let mut state = self.state();
        let mut names: BTreeMap<PathBuf, Node> = state
            .names
            .all()
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        for dir in path
            .ancestors()
            .skip(1)
            .filter(|dir| dir.parent().is_some())
        {
            names.insert(dir.to_path_buf(), Node::Directory);
        }
        names.insert(path.to_path_buf(), Node::File(state.inodes.len()));
        state.inodes.push(Inode::durable(content.to_vec()));
        state.names = Names::durable(names);
    }

    /// The content of a file as programs see it.
    ///
    /// # Panics
    /// When the file does not exist.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.state().file(path).cached.clone()
    }

    /// All files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        let files = state
            .names
            .all()
            .filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }
}

fn gone() -> io::Error {
    io::Error::other("simulated crash")
}

impl State {
    fn file(&mut self, path: &Path) -> &mut Inode {
        match self.names.get(path) {
            Some(Node::File(inode)) => &mut self.inodes[inode],
            _ => panic!("no simulated file {}", path.display()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(gone()) } else { Ok(()) }
    }

    /// Counts a changing operation. `true`: the machine dies during this very operation.
    fn change(&mut self) -> io::Result<bool> {
        self.alive()?;
        let number = self.operations;
        self.operations += 1;
        self.crashed = self.crash_at == Some(number);
        Ok(self.crashed)
    }

    fn directory(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Directory) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn parent(&self, path: &Path) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(Path::new("/")))
    }
}

fn finish(dying: bool) -> io::Result<()> {
    if dying { Err(gone()) } else { Ok(()) }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.alive()?;
        let existing = state.names.get(path);
        let inode = match (existing, mode) {
            (Some(Node::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Some(Node::File(inode)), _) => inode,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, OpenMode::CreateNew) => {
                state.parent(path)?;
                let dying = state.change()?;
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.names.add(path, Node::File(inode));
                finish(dying)?;
                inode
            }
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            writable: mode != OpenMode::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<&Path> = Vec::new();
        for dir in path.ancestors() {
            match state.names.get(dir) {
                None => missing.push(dir),
                Some(Node::Directory) => break,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        let dying = state.change()?;
        for dir in missing.into_iter().rev() {
            state.names.add(dir, Node::Directory);
        }
        finish(dying)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        state.directory(path)?;
        Ok(state.names.children(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.get(path).is_some())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        let Some(node) = state.names.get(from) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if node == Node::Directory && state.names.get(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.parent(to)?;
        let dying = state.change()?;
        state.names.rename(from, to, node);
        finish(dying)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        let Some(Node::File(_)) = state.names.get(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let dying = state.change()?;
        state.names.remove(path);
        finish(dying)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        state.directory(path)?;
        if state.change()? {
            return Err(gone());
        }
        state.names.sync(path);
        Ok(())
    }

    /// Creates nothing: no program looks at the file.
    fn space(&self, _path: &Path) -> io::Result<Option<Space>> {
        let state = self.state();
        Ok(state.tells_space.then(|| Space {
            total_bytes: 1 << 40,
            free_bytes: state.space_left.unwrap_or(1 << 40),
        }))
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut state = self.state();
        state.alive()?;
        state.parent(path)?;
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let holder = state.next_lock;
        state.next_lock += 1;
        state.locks.insert(path.to_path_buf(), holder);
        Ok(DiskLock::new(SimLock {
            disk: self.clone(),
            path: path.to_path_buf(),
            holder,
        }))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    holder: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // After a restart of the process it may be somebody else's.
        if state.locks.get(&self.path) == Some(&self.holder) {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        state.alive()?;
        let content = &state.inodes[self.inode].cached;
        let rest = content.get(position(offset)?..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        let start = position(offset)?;
        let mut guard = self.disk.state();
        let state = &mut *guard;
        let dying = state.change()?;
        let mut fits = data.len();
        if let Some(space_left) = &mut state.space_left {
            let inode = &mut state.inodes[self.inode];
            fits = position(inode.allocate(offset, data.len() as u64, space_left))?;
        }
        state.written_bytes += fits as u64;
        state.inodes[self.inode].write(start, &data[..fits]);
        finish(dying)?;
        if fits < data.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.state();
        let state = &mut *guard;
        let dying = state.change()?;
        let number = state.syncs;
        state.syncs += 1;
        finish(dying)?;
        let inode = &mut state.inodes[self.inode];
        if state.fail_sync_at == Some(number) {
            inode.fail_sync(&state.rng);
            return Err(io::Error::other("simulated failure of a sync"));
        }
        inode.sync();
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.inodes[self.inode].cached.len() as u64)
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        let size = position(size_bytes)?;
        let mut state = self.disk.state();
        let dying = state.change()?;
        state.inodes[self.inode].resize(size);
        finish(dying)
    }
}
