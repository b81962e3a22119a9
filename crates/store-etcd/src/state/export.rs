//! Everything at one revision.

use std::sync::Arc;

use bytes::Bytes;
use trivet_mvcc::{KeyRange, KeyValue, LeaseInfo, Location, ReadValues, Revision, Version, View};

use super::segments::Table;
use super::shared::{ReadError, blocking};

/// Pairs in a page at most.
const PAGE_PAIRS: usize = 2048;
/// Bytes of values in a page, about.
const PAGE_BYTES: usize = 1 << 20;

/// A consistent image of all pairs at one revision. Holds no lock: neither later changes nor a
/// compaction disturb it.
pub struct Export {
    view: Arc<View>,
    table: Arc<Table>,
    revision: Revision,
    leases: Vec<LeaseInfo>,
    next: Option<Bytes>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Export {
    pub(super) fn new(
        view: View,
        revision: Revision,
        table: Arc<Table>,
        leases: Vec<LeaseInfo>,
    ) -> Self {
        Self {
            view: Arc::new(view),
            table,
            revision,
            leases,
            next: Some(Bytes::new()),
        }
    }

    /// The revision of the image.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Every lease, as of when the export was opened.
    pub fn leases(&self) -> &[LeaseInfo] {
        &self.leases
    }

    /// The next pairs in key order; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Vec<KeyValue>>, ReadError> {
        let Some(start) = self.next.clone() else {
            return Ok(None);
        };
        let (view, table, at) = (
            Arc::clone(&self.view),
            Arc::clone(&self.table),
            self.revision,
        );
        let (page, next) = blocking(move || page(&view, &table, at, start).map(Ok)).await?;
        self.next = next;
        Ok((!page.is_empty()).then_some(page))
    }
}

type Page = (Vec<KeyValue>, Option<Bytes>);

fn page(view: &View, table: &Table, at: Revision, start: Bytes) -> std::io::Result<Page> {
    let mut found: Vec<(Bytes, Version)> = Vec::new();
    let (mut bytes, mut next) = (0, None);
    view.index
        .scan(&KeyRange::From(start), at.0, |key, version| {
            let key = Bytes::copy_from_slice(key);
            if found.len() == PAGE_PAIRS || bytes >= PAGE_BYTES {
                next = Some(key);
                return false;
            }
            bytes += version.location.length as usize;
            found.push((key, *version));
            true
        });
    let locations: Vec<Location> = found.iter().map(|(_, version)| version.location).collect();
    let values = table.read_many(&locations)?;
    let pairs = found.into_iter().zip(values);
    Ok((
        pairs
            .map(|((key, version), value)| version.pair(key, value))
            .collect(),
        next,
    ))
}
