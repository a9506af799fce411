//! Two facts that a data directory keeps beside the log and shares its fate: which regions the cluster has, and under which
//! process limits were in force here last, if ever. Decides which data is refused, before any file is touched.
//!
//! Every node computes the same state from the same entries only with the same regions; and the share of a limit follows
//! from their number. So data that was written under one list is never read under another.

use std::sync::Arc;

use portolan_config::{Intent, IntentError, RegionMap};
use portolan_model::RegionId;

use crate::{
    database::{Batch, Content, LIMITS_LIFE, LIMITS_STARTED},
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
    /// The number of the last process under which limits were in force here, under this member id; `None` if they never were,
    /// and 0 if it was not noted.
    pub fn limits_life(&self) -> Option<u64> {
        self.log().limits_life
    }

    /// Notes durably that limits come into force, before the first request is counted. Waits for space on a full disk.
    pub async fn note_limits_start(&self, life: u64) -> Result<(), StoreError> {
        let noted = self.commit(limits_start(life), |log| log.limits_life = Some(life)).await;
        noted.map_err(|error: StorageError| StoreError::Log(Box::new(error)))
    }

    /// Does so if the disk has space, for a process that knows by its marks what earlier ones have spent.
    pub fn note_limits_start_if_possible(&self, life: u64) -> Result<(), StoreError> {
        let noted = self.commit_if_possible(&limits_start(life), |log| log.limits_life = Some(life));
        noted.map_err(|error: StorageError| StoreError::Log(Box::new(error)))
    }
}

fn limits_start(life: u64) -> Batch {
    Batch::default().with(LIMITS_STARTED, &true).with(LIMITS_LIFE, &life)
}
