//! Opening and creating a log.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::{Listing, LogDir, Spare};
use crate::prepare::Preparer;
use crate::recover::recover;
use crate::shared::{Shared, State};
use crate::types::{Recovered, WalOptions};
use crate::writer::{Active, Writer, next_size, remove_purged};

/// An opened log whose writer does not run yet.
pub(crate) struct Opened {
    pub(crate) writer: Writer,
    pub(crate) recovered: Recovered,
}

/// Opens or creates.
pub(crate) fn open(dir: &LogDir, options: &WalOptions, preparer: Arc<Preparer>) -> Result<Opened> {
    dir.create()?;
    let listing = dir.list()?;
    if !listing.identity && !listing.segments.is_empty() {
        return Err(Error::damaged(
            &dir.identity_path(),
            0,
            "the file is missing",
        ));
    }
    let salt = if listing.identity {
        dir.read_identity()?
    } else {
        options.salt
    };
    let recovery = recover(dir, listing.segments.clone(), salt)?;
    for path in &listing.unfinished {
        dir.remove(path)?;
    }
    for sequence in &recovery.leftovers {
        dir.remove(&dir.segment_path(*sequence))?;
    }
    if !listing.identity {
        dir.write_identity(salt)?;
    }
    // A name that a killed process left behind may not be durable yet.
    dir.sync()?;
    let active = recovery.held.back().map(|held| Active {
        segment: Arc::clone(&held.segment),
        end: recovery.end,
    });
    let wanted = next_size(
        options,
        active.as_ref().map(|active| active.segment.size_bytes),
    );
    let spares = keep_spares(dir, options, &listing, wanted)?;
    let view = recovery.index.view.clone();
    let recovered = Recovered {
        state: view.state(),
        meta: recovery.meta.clone(),
        fresh: !listing.identity,
        torn_bytes: recovery.torn_bytes,
    };
    let shared = Arc::new(Shared::new(State {
        view,
        meta: recovery.meta.clone(),
        index: recovery.index,
        held: recovery.held,
        spares,
        ..State::default()
    }));
    remove_purged(dir, &shared, options, wanted);
    let newest = listing.segments.last().copied().unwrap_or(0);
    let sequence = active
        .as_ref()
        .map_or(newest.saturating_sub(1), |a| a.segment.sequence);
    let writer = Writer {
        dir: dir.clone(),
        options: options.clone(),
        salt,
        shared,
        preparer,
        active,
        sequence,
        meta: recovery.meta,
        buffer: Vec::new(),
        changes: Vec::new(),
        unproven: true,
        full: false,
    };
    Ok(Opened { writer, recovered })
}

fn keep_spares(
    dir: &LogDir,
    options: &WalOptions,
    listing: &Listing,
    wanted: u32,
) -> Result<Vec<Spare>> {
    let mut spares = Vec::new();
    for path in &listing.spares {
        let size = dir
            .disk
            .open(path, trivet_env::OpenMode::Read)
            .and_then(|file| file.size_bytes())
            .map_err(|e| Error::io("open", path, e))?;
        if size == u64::from(wanted) && spares.len() < options.spares_max {
            spares.push(Spare {
                path: path.clone(),
                size_bytes: wanted,
            });
        } else {
            dir.remove(path)?;
        }
    }
    Ok(spares)
}
