//! What was found damaged while the state is in use.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// So many places are remembered; the rest is counted.
const PLACES_MAX: usize = 16;

/// Places on disk that do not read back. Whoever reads notes them here; whoever heals follows.
#[derive(Debug)]
pub(super) struct DamageLog {
    places: Mutex<BTreeSet<String>>,
    count: watch::Sender<u64>,
}

impl Default for DamageLog {
    fn default() -> Self {
        Self {
            places: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }
}

impl DamageLog {
    fn places(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an error if it is damage. Says so once for every place.
    pub(super) fn note(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::InvalidData {
            return;
        }
        let text = error.to_string();
        let mut places = self.places();
        if places.contains(&text) {
            return;
        }
        if places.len() < PLACES_MAX {
            tracing::error!(%error, "data on this member's disk is damaged");
            places.insert(text);
        }
        drop(places);
        self.count.send_modify(|count| *count += 1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places().is_empty()
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.places().iter().cloned().collect()
    }

    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// All of it is gone, with the files it was in.
    pub(super) fn clear(&self) {
        self.places().clear();
        self.count.send_modify(|count| *count = 0);
    }
}
