//! Two facts that a data directory keeps beside the log and shares its fate: which regions the cluster has, and whether
//! limits were ever in force here. Decides which data is refused, before any file is touched.
//!
//! Every node computes the same state from the same entries only with the same regions; and the share of a limit follows
//! from their number. So data that was written under one list is never read under another.

use std::sync::Arc;

use portolan_config::{Intent, IntentError, RegionMap};
use portolan_model::RegionId;

use crate::{
    database::{Batch, Content, LIMITS_STARTED},
    saved_snapshot::SavedSnapshot,
    store::{Store, StoreError},
    types::StorageError,
};

/// Refuses a log, or without one a snapshot, of a cluster with other regions.
pub fn check_regions(
    log: Option<&Content>,
    snapshot: Option<&SavedSnapshot>,
    regions: &Arc<RegionMap>,
) -> Result<(), StoreError> {
    let known = regions.ids();
    let saved = match (log.and_then(|content| content.regions.clone()), snapshot) {
        (Some(saved), _) => saved,
        (None, Some(snapshot)) => match Intent::from_bytes(&snapshot.state, Arc::clone(regions)) {
            Err(IntentError::OtherRegions { saved, .. }) => saved,
            // Faults of another kind are the snapshot's reader's to judge.
            Ok(_) | Err(_) => return Ok(()),
        },
        (None, None) => return Ok(()),
    };
    if saved == known {
        return Ok(());
    }
    Err(StoreError::OtherRegions { saved: listed(&saved), known: listed(known) })
}

/// As a person reads it.
pub fn listed(regions: &[RegionId]) -> String {
    regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Store {
    /// Whether limits were ever in force under this member id.
    pub fn limits_started(&self) -> bool {
        self.log().limits_started
    }

    /// Notes durably that limits come into force, before the first request is counted. Waits for space on a full disk.
    pub async fn mark_limits_started(&self) -> Result<(), StoreError> {
        if self.limits_started() {
            return Ok(());
        }
        let batch = Batch::default().with(LIMITS_STARTED, &true);
        let noted = self.commit(batch, |log| log.limits_started = true).await;
        noted.map_err(|error: StorageError| StoreError::Log(Box::new(error)))
    }

    /// Whether this node cannot have spent anything of its region's limits before: the cluster knows its first
    /// `incarnation` only, and that one has not begun to spend.
    pub fn is_first_start(&self, incarnation: u64) -> bool {
        incarnation == 1 && !self.limits_started()
    }
}
