//! Directory entries: those programs see, and those that would survive a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::rng::SimRng;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    /// Number of the inode.
    File(usize),
}

#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl Change {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Change::Add(path, _) | Change::Remove(path) => path.parent() == Some(dir),
            Change::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn is_below(&self, dir: &Path) -> bool {
        match self {
            Change::Add(path, _) | Change::Remove(path) | Change::Rename(path, _, _) => {
                path != dir && path.starts_with(dir)
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Change::Rename(from, to, node) => {
                if *node == Node::Directory {
                    let below = names.keys().filter(|path| path.starts_with(from));
                    let below: Vec<PathBuf> = below.cloned().collect();
                    for old in below {
                        let rest = old.strip_prefix(from).unwrap_or(Path::new(""));
                        if let Some(inside) = names.remove(&old)
                            && old != *from
                        {
                            names.insert(to.join(rest), inside);
                        }
                    }
                }
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            Change::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// The tree of names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    cached: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
}

impl Names {
    /// Names that are all durable.
    pub(crate) fn durable(names: BTreeMap<PathBuf, Node>) -> Self {
        Self {
            cached: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }

    pub(crate) fn get(&self, path: &Path) -> Option<Node> {
        // The root needs no entry.
        if path.parent().is_none() {
            Some(Node::Directory)
        } else {
            self.cached.get(path).copied()
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.cached.iter()
    }

    pub(crate) fn children(&self, dir: &Path) -> Vec<String> {
        let inside = self.cached.keys().filter(|path| path.parent() == Some(dir));
        inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push(change);
    }

    pub(crate) fn add(&mut self, path: &Path, node: Node) {
        self.change(Change::Add(path.to_path_buf(), node));
    }

    /// Entries of a directory belong to it and not to its path: those that are pending are made
    /// durable under the old one, which is one of the outcomes they could have.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        if node == Node::Directory {
            let durable = &mut self.durable;
            self.pending.retain(|change| {
                let inside = change.is_below(from);
                if inside {
                    change.apply(durable);
                }
                !inside
            });
        }
        self.change(Change::Rename(from.to_path_buf(), to.to_path_buf(), node));
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.change(Change::Remove(path.to_path_buf()));
    }

    pub(crate) fn sync(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let syncs = change.touches(dir);
            if syncs {
                change.apply(durable);
            }
            !syncs
        });
    }

    /// The names a crash could leave. Whatever lies in a lost directory is lost with it.
    pub(crate) fn after_crash(&self, rng: &SimRng) -> BTreeMap<PathBuf, Node> {
        let percent = [0, 100, 50][rng.below(3) as usize];
        let mut names = self.durable.clone();
        for change in &self.pending {
            if rng.chance(percent) {
                change.apply(&mut names);
            }
        }
        let snapshot = names.clone();
        names.retain(|path, _| {
            path.ancestors()
                .skip(1)
                .all(|dir| dir.parent().is_none() || snapshot.get(dir) == Some(&Node::Directory))
        });
        names
    }
}
