//! A tree from sorted entries, bottom up, with one page per level in memory.
//!
//! A branch page leaves as soon as it is full, between the leaves: keeping the branches to the
//! end would keep the first key of every leaf.

use crate::layout::{
    ELEMENT, FLAG_BRANCH, FLAG_LEAF, MAX_KEY_BYTES, PAGE_BYTES, PAGE_HEADER, PageHeader,
};

/// Values are no longer: bbolt's own limit.
const MAX_VALUE_BYTES: usize = (1 << 31) - 2;

/// Why an entry does not fit in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    Order,
    Size,
}

/// Takes the entries of one tree. With an output the pages are written there, without one they
/// are only counted.
#[derive(Debug)]
pub(crate) struct Packer {
    next_page: u64,
    leaf: Leaf,
    /// From the parents of the leaves up.
    levels: Vec<Branch>,
    last_key: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Leaf {
    first_key: Vec<u8>,
    /// Flags, length of the key, length of the value.
    elements: Vec<(u32, u32, u32)>,
    /// Keys and values, where they are to be written.
    data: Vec<u8>,
    data_bytes: usize,
}

impl Leaf {
    fn bytes(&self) -> usize {
        PAGE_HEADER + ELEMENT * self.elements.len() + self.data_bytes
    }
}

#[derive(Debug, Default)]
struct Branch {
    children: Vec<(Vec<u8>, u64)>,
    key_bytes: usize,
}

impl Branch {
    fn push(&mut self, key: Vec<u8>, page: u64) {
        self.key_bytes += key.len();
        self.children.push((key, page));
    }

    fn bytes(&self) -> usize {
        PAGE_HEADER + ELEMENT * self.children.len() + self.key_bytes
    }
}

impl Packer {
    /// An empty tree whose first page will be `next_page`.
    pub(crate) fn new(next_page: u64) -> Self {
        Self {
            next_page,
            leaf: Leaf::default(),
            levels: Vec::new(),
            last_key: None,
        }
    }

    /// Adds an entry. `value` is its bytes where there is an output.
    pub(crate) fn push(
        &mut self,
        flags: u32,
        key: &[u8],
        value_bytes: usize,
        value: &[u8],
        mut out: Option<&mut Vec<u8>>,
    ) -> Result<(), Misfit> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || value_bytes > MAX_VALUE_BYTES {
            return Err(Misfit::Size);
        }
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(Misfit::Order);
        }
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        let size = ELEMENT + key.len() + value_bytes;
        if !self.leaf.elements.is_empty() && self.leaf.bytes() + size > PAGE_BYTES {
            self.flush_leaf(out.as_deref_mut());
        }
        if self.leaf.elements.is_empty() {
            self.leaf.first_key.clear();
            self.leaf.first_key.extend_from_slice(key);
        }
        // Both fit: they were checked above.
        let element = (flags, key.len() as u32, value_bytes as u32);
        self.leaf.elements.push(element);
        self.leaf.data_bytes += key.len() + value_bytes;
        if out.is_some() {
            self.leaf.data.extend_from_slice(key);
            self.leaf.data.extend_from_slice(value);
        }
        if self.leaf.bytes() >= PAGE_BYTES {
            // A large value is not kept until the next entry comes.
            self.flush_leaf(out);
        }
        Ok(())
    }

    /// Ends the tree; its root page and the first page after it.
    pub(crate) fn finish(mut self, mut out: Option<&mut Vec<u8>>) -> (u64, u64) {
        if !self.leaf.elements.is_empty() || self.levels.is_empty() {
            self.flush_leaf(out.as_deref_mut());
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            if let (true, [(_, root)]) = (top, &self.levels[level].children[..]) {
                return (*root, self.next_page);
            }
            let branch = std::mem::take(&mut self.levels[level]);
            self.flush_branch(level, branch, out.as_deref_mut());
            level += 1;
        }
    }

    fn flush_leaf(&mut self, mut out: Option<&mut Vec<u8>>) {
        let bytes = self.leaf.bytes();
        let id = self.take_pages(bytes);
        if let Some(out) = out.as_deref_mut() {
            let count = self.leaf.elements.len();
            begin_page(out, id, FLAG_LEAF, count, bytes);
            let mut place = ELEMENT * count;
            for (index, (flags, key, value)) in self.leaf.elements.iter().enumerate() {
                out.extend_from_slice(&flags.to_le_bytes());
                out.extend_from_slice(&position(place, index).to_le_bytes());
                out.extend_from_slice(&key.to_le_bytes());
                out.extend_from_slice(&value.to_le_bytes());
                place += (key + value) as usize;
            }
            out.extend_from_slice(&self.leaf.data);
            end_page(out, bytes);
        }
        let first_key = std::mem::take(&mut self.leaf.first_key);
        self.leaf.elements.clear();
        self.leaf.data.clear();
        // One large value is no reason to keep its memory.
        self.leaf.data.shrink_to(2 * PAGE_BYTES);
        self.leaf.data_bytes = 0;
        self.adopt(0, first_key, id, out);
    }

    /// Notes a page in the level above it.
    fn adopt(&mut self, level: usize, key: Vec<u8>, page: u64, out: Option<&mut Vec<u8>>) {
        if self.levels.len() == level {
            self.levels.push(Branch::default());
        }
        let branch = &mut self.levels[level];
        let full = branch.bytes() + ELEMENT + key.len() > PAGE_BYTES;
        // The last child stays behind, so that no branch page ever has a single child: bbolt
        // makes none either.
        if full && branch.children.len() > 2 {
            let mut rest = Branch::default();
            if let Some((key, page)) = branch.children.pop() {
                branch.key_bytes -= key.len();
                rest.push(key, page);
            }
            rest.push(key, page);
            let done = std::mem::replace(branch, rest);
            self.flush_branch(level, done, out);
        } else {
            branch.push(key, page);
        }
    }

    fn flush_branch(&mut self, level: usize, branch: Branch, mut out: Option<&mut Vec<u8>>) {
        let bytes = branch.bytes();
        let id = self.take_pages(bytes);
        if let Some(out) = out.as_deref_mut() {
            let count = branch.children.len();
            begin_page(out, id, FLAG_BRANCH, count, bytes);
            let mut place = ELEMENT * count;
            for (index, (key, page)) in branch.children.iter().enumerate() {
                out.extend_from_slice(&position(place, index).to_le_bytes());
                out.extend_from_slice(&(key.len() as u32).to_le_bytes());
                out.extend_from_slice(&page.to_le_bytes());
                place += key.len();
            }
            for (key, _) in &branch.children {
                out.extend_from_slice(key);
            }
            end_page(out, bytes);
        }
        let first = branch.children.into_iter().next();
        let (key, _) = first.expect("a branch is flushed only with children");
        self.adopt(level + 1, key, id, out);
    }

    fn take_pages(&mut self, bytes: usize) -> u64 {
        let id = self.next_page;
        self.next_page += bytes.div_ceil(PAGE_BYTES) as u64;
        id
    }
}

/// Positions count from the element itself.
fn position(place: usize, index: usize) -> u32 {
    (place - ELEMENT * index) as u32
}

fn begin_page(out: &mut Vec<u8>, id: u64, flags: u16, count: usize, bytes: usize) {
    let header = PageHeader {
        id,
        flags,
        // An element takes 16 bytes of a page of 4096, or the page has one or two.
        count: count as u16,
        overflow: (bytes.div_ceil(PAGE_BYTES) - 1) as u32,
    };
    out.extend_from_slice(&header.encode());
}

fn end_page(out: &mut Vec<u8>, bytes: usize) {
    let padding = bytes.next_multiple_of(PAGE_BYTES) - bytes;
    out.resize(out.len() + padding, 0);
}
