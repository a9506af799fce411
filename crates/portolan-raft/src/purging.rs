//! The order of snapshot and purge on disk. Entries go from disk only once a snapshot there covers them, whatever the
//! order in which openraft asks: when it installs a leader's snapshot it purges at once, and a crash in between would
//! leave a node with neither the entries nor the state that they led to.
//!
//! In memory a purge takes effect at once. On disk it is held back until the snapshot is written, and over a full disk.

use crate::{
    database::{Batch, LAST, PURGED},
    store::{LogState, Store},
    types::{LogId, StorageError},
};

/// A purge that is not on disk yet.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    upto: LogId,
    /// The log on disk ends before `upto`, so nothing may follow it there yet.
    gap: bool,
}

impl LogState {
    /// Purges in memory.
    pub fn hold_purge(&mut self, upto: LogId) {
        // A log that ends before what is purged, or in entries of an earlier leader, has nothing that follows.
        let gap = self.last < Some(upto);
        self.entries = if gap { Default::default() } else { self.entries.split_off(&(upto.index + 1)) };
        self.last = self.last.max(Some(upto));
        self.purged = Some(upto);
        let gap = gap || self.held.is_some_and(|held| held.gap);
        self.held = Some(Held { upto, gap });
    }

    /// Whether an entry written now would not follow the last one on disk.
    pub fn has_gap(&self) -> bool {
        self.held.is_some_and(|held| held.gap)
    }
}

impl Store {
    /// Writes a purge that was held back, if the snapshot on disk covers it and there is space. Waits for neither.
    pub(crate) fn flush_purge(&self) -> Result<(), StorageError> {
        let mut log = self.log();
        let Some(Held { upto, gap }) = log.held else { return Ok(()) };
        let covered = self.snapshot().and_then(|snapshot| snapshot.meta.last_log_id);
        if Some(upto) > covered {
            return Ok(());
        }
        let end = if gap { u64::MAX } else { upto.index };
        let batch = Batch { remove: Some((0, end)), ..Batch::default() }.with(PURGED, &upto).with(LAST, &log.last);
        if self.attempt_on(&mut log, &batch)? {
            log.held = None;
        }
        Ok(())
    }
}
