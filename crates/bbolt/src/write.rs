//! The second pass: the bytes.

use crate::layout::{
    BUCKET_HEADER, ELEMENT_BUCKET, FIRST_TREE_PAGE, FLAG_FREELIST, FLAG_META, FREELIST_PAGE, Meta,
    PAGE_BYTES, PageHeader,
};
use crate::pack::{Misfit, Packer};
use crate::plan::{Plan, PlanError};

/// Why the second pass stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// See [`PlanError`].
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The entries are not those that the plan was made from; what was written is of no use.
    #[error("the entries are not those of the plan")]
    Differs,
}

impl From<Misfit> for WriteError {
    fn from(misfit: Misfit) -> Self {
        Self::Plan(misfit.into())
    }
}

/// Turns the entries that a [`Plan`] was made from into the file, from front to back.
#[derive(Debug)]
pub struct Writer {
    plan: Plan,
    open: Option<Packer>,
    /// How many buckets were begun.
    begun: usize,
    next_page: u64,
    out: Vec<u8>,
}

impl Writer {
    /// The beginning of the file is ready to be taken.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut out = Vec::with_capacity(16 * PAGE_BYTES);
        for transaction in 0..2 {
            let header = PageHeader {
                id: transaction,
                flags: FLAG_META,
                count: 0,
                overflow: 0,
            };
            let meta = Meta {
                page_bytes: PAGE_BYTES as u32,
                root: plan.root,
                pages: plan.pages,
                transaction,
            };
            add_page(&mut out, header, &meta.encode());
        }
        // Nothing is free.
        let header = PageHeader {
            id: FREELIST_PAGE,
            flags: FLAG_FREELIST,
            count: 0,
            overflow: 0,
        };
        add_page(&mut out, header, &[]);
        Self {
            plan,
            open: None,
            begun: 0,
            next_page: FIRST_TREE_PAGE,
            out,
        }
    }

    /// Begins the next bucket.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.close()?;
        match self.plan.buckets.get(self.begun) {
            Some((planned, _)) if planned == name => {}
            _ => return Err(WriteError::Differs),
        }
        self.begun += 1;
        self.open = Some(Packer::new(self.next_page));
        Ok(())
    }

    /// The next entry of the bucket.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let packer = self.open.as_mut().ok_or(PlanError::NoBucket)?;
        Ok(packer.push(0, key, value.len(), value, Some(&mut self.out))?)
    }

    /// Ends the file; the last of it is ready to be taken.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        self.close()?;
        if self.begun != self.plan.buckets.len() {
            return Err(WriteError::Differs);
        }
        let mut top = Packer::new(self.next_page);
        for (name, root) in &self.plan.buckets {
            let mut header = [0; BUCKET_HEADER];
            header[..8].copy_from_slice(&root.to_le_bytes());
            top.push(
                ELEMENT_BUCKET,
                name,
                BUCKET_HEADER,
                &header,
                Some(&mut self.out),
            )?;
        }
        if top.finish(Some(&mut self.out)) == (self.plan.root, self.plan.pages) {
            Ok(())
        } else {
            Err(WriteError::Differs)
        }
    }

    /// How much can be taken.
    #[must_use]
    pub fn ready_bytes(&self) -> usize {
        self.out.len()
    }

    /// The next part of the file.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let capacity = 16 * PAGE_BYTES;
        std::mem::replace(&mut self.out, Vec::with_capacity(capacity))
    }

    fn close(&mut self) -> Result<(), WriteError> {
        let Some(packer) = self.open.take() else {
            return Ok(());
        };
        let (root, next) = packer.finish(Some(&mut self.out));
        self.next_page = next;
        let planned = self.begun.checked_sub(1).map(|at| self.plan.buckets[at].1);
        if planned == Some(root) {
            Ok(())
        } else {
            Err(WriteError::Differs)
        }
    }
}

fn add_page(out: &mut Vec<u8>, header: PageHeader, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(body);
    out.resize(start + PAGE_BYTES, 0);
}
