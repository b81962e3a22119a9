//! Files that somebody else wrote.

use std::io;

use crate::layout::{
    BUCKET_HEADER, ELEMENT, ELEMENT_BUCKET, FLAG_BRANCH, FLAG_LEAF, MAX_KEY_BYTES, META, Meta,
    PAGE_BYTES, PAGE_HEADER, PageHeader, u32_at, u64_at,
};

/// No tree is deeper: a page has at least two children, so this many levels are 2^63 leaves.
const MAX_DEPTH: usize = 64;
/// Page sizes that bbolt may have been built with or told.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=24;

/// Where a file is read from.
pub trait ReadAt {
    /// Length of the file.
    fn size_bytes(&self) -> io::Result<u64>;
    /// Reads exactly `buffer.len()` bytes at `offset`.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size_bytes(&self) -> io::Result<u64> {
        (**self).size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buffer)
    }
}

impl ReadAt for [u8] {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no bbolt file, or neither of its heads is intact.
    #[error("this is not a bbolt database: {0}")]
    NotADatabase(String),
    /// It ends before its last page.
    #[error(
        "the file is cut off: it should have at least {expected_bytes} bytes and has {actual_bytes}"
    )]
    CutOff {
        /// What its head says.
        expected_bytes: u64,
        /// What there is.
        actual_bytes: u64,
    },
    /// A page is damaged.
    #[error("page {page} (byte {offset} of the file) is damaged: {what}")]
    Damaged {
        /// The page.
        page: u64,
        /// Where in the file the trouble is, about.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A value is larger than the reader was told to accept.
    #[error("page {page} has a value of {value_bytes} bytes; at most {max_bytes} are accepted")]
    ValueTooLarge {
        /// The page.
        page: u64,
        /// Length of the value.
        value_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The file could not be read.
    #[error("reading failed at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// What a reader accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest value.
    pub value_bytes: u32,
}

/// An entry of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value; of a nested bucket its head.
    pub value: Vec<u8>,
    /// Whether this is a nested bucket.
    pub is_bucket: bool,
    /// The page it stands in, for messages.
    pub page: u64,
}

/// An open file.
#[derive(Debug)]
pub struct Database<R> {
    file: R,
    meta: Meta,
    limits: Limits,
}

impl<R: ReadAt> Database<R> {
    /// Reads the head of a file whose first `size_bytes` bytes are a database (a snapshot has
    /// a checksum behind them).
    pub fn open(file: R, size_bytes: u64, limits: Limits) -> Result<Self, Error> {
        let meta = find_meta(&file, size_bytes)?;
        let expected = meta.pages.checked_mul(u64::from(meta.page_bytes));
        match expected {
            Some(expected_bytes) if expected_bytes > size_bytes => Err(Error::CutOff {
                expected_bytes,
                actual_bytes: size_bytes,
            }),
            Some(_) => Ok(Self { file, meta, limits }),
            None => Err(Error::NotADatabase(
                "the number of pages in its head cannot be".to_owned(),
            )),
        }
    }

    /// Length of what the head says is in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// The buckets, in order. Entries that are no buckets do not belong there and are left out.
    pub fn buckets(&self) -> Result<Vec<Bucket>, Error> {
        let mut cursor = Cursor::new(self, &Bucket::top(self.meta.root));
        let mut found = Vec::new();
        while let Some(entry) = cursor.next()? {
            if entry.is_bucket {
                found.push(Bucket::of(entry)?);
            }
        }
        Ok(found)
    }

    /// The bucket of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        Ok(self
            .buckets()?
            .into_iter()
            .find(|bucket| bucket.name == name))
    }

    /// The entries of a bucket, in order.
    pub fn entries<'a>(&'a self, bucket: &Bucket) -> Cursor<'a, R> {
        Cursor::new(self, bucket)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file
            .read_exact_at(offset, buffer)
            .map_err(|source| Error::Io { offset, source })
    }

    fn page_offset(&self, page: u64) -> u64 {
        page.saturating_mul(u64::from(self.meta.page_bytes))
    }

    /// Reads head and table of a page, whose keys must lie within these bounds.
    fn node(&self, page: u64, bounds: Bounds) -> Result<Node, Error> {
        let offset = self.page_offset(page);
        let damaged = |what| Error::Damaged { page, offset, what };
        if page < 2 || page >= self.meta.pages {
            return Err(damaged("the page lies outside of the tree"));
        }
        let mut header = [0; PAGE_HEADER];
        self.read(offset, &mut header)?;
        let header = PageHeader::decode(&header);
        if header.id != page {
            return Err(damaged("it says that it is another page"));
        }
        let after = page.saturating_add(u64::from(header.overflow));
        if after >= self.meta.pages {
            return Err(damaged("it goes on behind the last page"));
        }
        let length = (u64::from(header.overflow) + 1) * u64::from(self.meta.page_bytes);
        let mut node = Node::of(header, page, offset, length)?;
        node.bounds = bounds;
        self.read(offset + PAGE_HEADER as u64, &mut node.table)?;
        Ok(node)
    }

    /// What the next child of a branch may hold: from its own key in the branch to the one that
    /// follows.
    fn child_bounds(&self, node: &Node, element: &Element) -> Result<Bounds, Error> {
        let from = self.branch_key(node, element)?;
        let to = if node.next + 1 < node.count {
            Some(self.branch_key(node, &node.element(node.next + 1)?)?)
        } else {
            node.bounds.to.clone()
        };
        let bounds = Bounds {
            from: Some(from),
            to,
        };
        let within = bounds.from.as_deref().is_none_or(|from| {
            node.bounds.contain(from) && bounds.to.as_deref().is_none_or(|to| from < to)
        });
        if within {
            Ok(bounds)
        } else {
            Err(node.damaged("the keys of the branch are out of order"))
        }
    }

    fn branch_key(&self, node: &Node, element: &Element) -> Result<Vec<u8>, Error> {
        let mut key = vec![0; element.key_bytes];
        self.read(node.offset + element.start, &mut key)?;
        Ok(key)
    }
}

fn find_meta<R: ReadAt>(file: &R, size_bytes: u64) -> Result<Meta, Error> {
    let read = |offset: u64| -> Result<Result<Meta, &'static str>, Error> {
        if size_bytes < offset + (PAGE_HEADER + META) as u64 {
            return Ok(Err("it is too short"));
        }
        let mut bytes = [0; META];
        let offset = offset + PAGE_HEADER as u64;
        file.read_exact_at(offset, &mut bytes)
            .map_err(|source| Error::Io { offset, source })?;
        Ok(Meta::decode(&bytes).and_then(|meta| {
            let fits = meta.page_bytes.is_power_of_two()
                && PAGE_SIZES.contains(&meta.page_bytes.trailing_zeros());
            fits.then_some(meta).ok_or("its page size cannot be")
        }))
    };
    let first = read(0)?;
    let second = match first {
        Ok(first) => read(first.page_bytes.into())?,
        // Only the first head tells where the second one is.
        Err(_) => {
            let mut found = Err("no intact head follows");
            for shift in PAGE_SIZES {
                match read(1 << shift)? {
                    Ok(meta) if meta.page_bytes == 1 << shift => found = Ok(meta),
                    _ => {}
                }
            }
            found
        }
    };
    match (first, second) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(meta), _) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(why), Err(_)) => Err(Error::NotADatabase(why.to_owned())),
    }
}

/// A named tree of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    name: Vec<u8>,
    root: u64,
    /// The one page of a small bucket, kept in the entry itself.
    inline: Option<Vec<u8>>,
    /// Where the bucket stands.
    page: u64,
}

impl Bucket {
    fn top(root: u64) -> Self {
        Self {
            name: Vec::new(),
            root,
            inline: None,
            page: 0,
        }
    }

    fn of(entry: Entry) -> Result<Self, Error> {
        if entry.value.len() < BUCKET_HEADER {
            return Err(Error::Damaged {
                page: entry.page,
                offset: 0,
                what: "the head of a bucket is too short",
            });
        }
        let root = u64_at(&entry.value, 0);
        Ok(Self {
            name: entry.key,
            root,
            inline: (root == 0).then(|| entry.value[BUCKET_HEADER..].to_vec()),
            page: entry.page,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// The first key that may come and the first that may not. `None`: there is no such.
#[derive(Debug, Clone, Default)]
struct Bounds {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl Bounds {
    fn contain(&self, key: &[u8]) -> bool {
        self.from.as_deref().is_none_or(|from| from <= key)
            && self.to.as_deref().is_none_or(|to| key < to)
    }
}

/// A page without its keys and values.
#[derive(Debug)]
struct Node {
    page: u64,
    offset: u64,
    /// With the pages it goes on in.
    length: u64,
    leaf: bool,
    table: Vec<u8>,
    next: usize,
    count: usize,
    bounds: Bounds,
}

/// An element of a page, checked to lie within it.
struct Element {
    /// From the start of the page.
    start: u64,
    key_bytes: usize,
    value_bytes: u32,
    flags: u32,
    child: u64,
}

impl Node {
    fn of(header: PageHeader, page: u64, offset: u64, length: u64) -> Result<Self, Error> {
        let damaged = |what| Error::Damaged { page, offset, what };
        let leaf = match header.flags {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            _ => return Err(damaged("it is no page of a tree")),
        };
        let count = usize::from(header.count);
        if !leaf && count == 0 {
            return Err(damaged("it is a branch without children"));
        }
        if (PAGE_HEADER + ELEMENT * count) as u64 > length {
            return Err(damaged("its table is larger than itself"));
        }
        Ok(Self {
            page,
            offset,
            length,
            leaf,
            table: vec![0; ELEMENT * count],
            next: 0,
            count,
            bounds: Bounds::default(),
        })
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged {
            page: self.page,
            offset: self.offset + (PAGE_HEADER + ELEMENT * self.next) as u64,
            what,
        }
    }

    /// An element; the caller has made sure that there is one.
    fn element(&self, index: usize) -> Result<Element, Error> {
        let at = ELEMENT * index;
        let word = |number: usize| u32_at(&self.table, at + 4 * number);
        let (flags, position, key, value, child) = if self.leaf {
            (word(0), word(1), word(2), word(3), 0)
        } else {
            (0, word(0), word(1), 0, u64_at(&self.table, at + 8))
        };
        let start = (PAGE_HEADER + at) as u64 + u64::from(position);
        let end = start + u64::from(key) + u64::from(value);
        if start < (PAGE_HEADER + self.table.len()) as u64 || end > self.length {
            return Err(self.damaged("an entry does not lie within it"));
        }
        let key_bytes = usize::try_from(key).unwrap_or(usize::MAX);
        if key_bytes > MAX_KEY_BYTES {
            return Err(self.damaged("a key is too long"));
        }
        Ok(Element {
            start,
            key_bytes,
            value_bytes: value,
            flags,
            child,
        })
    }
}

/// Walks the entries of a bucket in order. After an error it is of no more use.
#[derive(Debug)]
pub struct Cursor<'a, R> {
    database: &'a Database<R>,
    /// The pages from the root down to where the walk is.
    path: Vec<Node>,
    inline: Option<Vec<u8>>,
    start: Option<u64>,
    last_key: Option<Vec<u8>>,
    pages_seen: u64,
    bucket_page: u64,
}

impl<'a, R: ReadAt> Cursor<'a, R> {
    fn new(database: &'a Database<R>, bucket: &Bucket) -> Self {
        Self {
            database,
            path: Vec::new(),
            inline: bucket.inline.clone(),
            start: Some(bucket.root),
            last_key: None,
            pages_seen: 0,
            bucket_page: bucket.page,
        }
    }

    /// The next entry.
    #[allow(
        clippy::should_implement_trait,
        reason = "the walk can fail, and ends with the first failure"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        if let Some(root) = self.start.take() {
            let node = match &self.inline {
                Some(page) => self.inline_node(page)?,
                None => self.database.node(root, Bounds::default())?,
            };
            self.path.push(node);
        }
        while let Some(node) = self.path.last_mut() {
            if node.next == node.count {
                self.path.pop();
                continue;
            }
            let element = node.element(node.next)?;
            if node.leaf {
                let entry = self.entry(&element)?;
                return Ok(Some(entry));
            }
            let too_deep = node.damaged("the tree is too deep");
            let loops = node.damaged("the tree has more pages than the file: it goes in circles");
            let bounds = self.database.child_bounds(node, &element)?;
            node.next += 1;
            if self.path.len() == MAX_DEPTH {
                return Err(too_deep);
            }
            self.pages_seen += 1;
            if self.pages_seen > self.database.meta.pages {
                return Err(loops);
            }
            let child = self.database.node(element.child, bounds)?;
            self.path.push(child);
        }
        Ok(None)
    }

    fn entry(&mut self, element: &Element) -> Result<Entry, Error> {
        let node = self.path.last_mut().expect("the walk stands in a leaf");
        let max = self.database.limits.value_bytes;
        if element.value_bytes > max {
            return Err(Error::ValueTooLarge {
                page: node.page,
                value_bytes: element.value_bytes.into(),
                max_bytes: max.into(),
            });
        }
        let mut key = vec![0; element.key_bytes + element.value_bytes as usize];
        match &self.inline {
            // Within the page: `Node::element` has checked it, and the page is this long.
            Some(page) => {
                let (start, length) = (element.start as usize, key.len());
                key.copy_from_slice(&page[start..start + length]);
            }
            None => self.database.read(node.offset + element.start, &mut key)?,
        }
        let value = key.split_off(element.key_bytes);
        if !node.bounds.contain(&key) {
            return Err(node.damaged("a key does not belong into it"));
        }
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(node.damaged("its keys are out of order"));
        }
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(&key);
        node.next += 1;
        Ok(Entry {
            key,
            value,
            is_bucket: element.flags & ELEMENT_BUCKET != 0,
            page: node.page,
        })
    }

    /// The page of a bucket that is kept in its entry.
    fn inline_node(&self, page: &[u8]) -> Result<Node, Error> {
        let (number, offset) = (
            self.bucket_page,
            self.database.page_offset(self.bucket_page),
        );
        let Some(header) = page.first_chunk::<PAGE_HEADER>() else {
            return Err(Error::Damaged {
                page: number,
                offset,
                what: "a small bucket is too short",
            });
        };
        let header = PageHeader::decode(header);
        let mut node = Node::of(header, number, offset, page.len() as u64)?;
        if !node.leaf {
            return Err(node.damaged("a small bucket is no leaf"));
        }
        let table = node.table.len();
        node.table
            .copy_from_slice(&page[PAGE_HEADER..PAGE_HEADER + table]);
        Ok(node)
    }
}

// The unit of `PAGE_SIZES` is the exponent; ours must be among them.
const _: () = assert!(PAGE_BYTES.is_power_of_two() && PAGE_BYTES >= 1 << 10);
