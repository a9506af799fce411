//! Keeps the log short in bytes. openraft counts entries; documents of a megabyte would fill memory and disk long before
//! it makes a snapshot.

use std::{sync::Arc, time::Duration};

use openraft::AsyncRuntime;

use crate::{raft::Inner, runtime::Runtime, store::Store};

/// Pause between two looks.
const PACE: Duration = Duration::from_secs(5);
/// Bytes of entries beyond which the log is cut to half of them.
const MAX_LOG_BYTES: usize = 8 << 20;

impl Inner {
    /// Has a snapshot made when the log is too long, and purges what the snapshot covers.
    pub async fn keep_log_short(self: Arc<Self>) {
        loop {
            Runtime::sleep(PACE).await;
            let Some(core) = self.core() else { continue };
            let Some(excess) = self.store.excess(MAX_LOG_BYTES) else { continue };
            let covered = self.store.snapshot().and_then(|snapshot| snapshot.meta.last_log_id).map(|id| id.index);
            // Errors mean that the core has stopped, which the status tells.
            if covered.is_some_and(|covered| covered >= excess) {
                let _ = core.trigger().purge_log(excess).await;
            } else {
                let _ = core.trigger().snapshot().await;
            }
        }
    }
}

impl Store {
    /// The index up to which entries must go for half of `most_bytes` to be left; `None` when there are no more than
    /// `most_bytes`.
    fn excess(&self, most_bytes: usize) -> Option<u64> {
        let log = self.log();
        let bytes = log.bytes();
        let mut surplus = bytes.checked_sub(most_bytes).filter(|surplus| *surplus > 0)? + most_bytes / 2;
        for (index, sealed) in &log.entries {
            surplus = surplus.saturating_sub(sealed.len());
            if surplus == 0 {
                return Some(*index);
            }
        }
        None
    }
}
