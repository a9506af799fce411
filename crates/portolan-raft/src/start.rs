//! How a node's Raft starts from its disk. Decides what an unreadable snapshot means: one that does not decode is damage,
//! one whose content is refused is left alone and stops the start.

use std::{sync::Arc, time::Duration};

use openraft::SnapshotPolicy;
use portolan_config::IntentError;
use thiserror::Error;

use crate::{
    machine::{Machine, State},
    network::Network,
    raft::{Inner, SNAPSHOT_PIECE},
    timing::Timing,
    types::Core,
};

/// Entries after which a snapshot is made.
const SNAPSHOT_EVERY: u64 = 500;
/// Entries kept behind a snapshot, so that a follower that was away for a while needs no snapshot.
const KEPT_ENTRIES: u64 = 500;
/// Lag beyond which a follower gets a snapshot in place of entries; above [`SNAPSHOT_EVERY`], or one snapshot would not
/// mend it.
const LAG: u64 = 2000;
/// What one piece may take in heartbeats; the last one includes installing the snapshot. Short, since openraft sends the
/// target nothing else meanwhile, and a piece lost in a partition holds it back for as long after the heal.
const PIECE_HEARTBEATS: u32 = 4;

/// Why Raft does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// openraft refuses the timeouts.
    #[error("the Raft timeouts are inconsistent")]
    Timing(#[source] Box<openraft::ConfigError>),
    /// The store fails.
    #[error("the Raft log cannot be used")]
    Storage(#[source] Box<openraft::error::Fatal<u64>>),
    /// A snapshot that does not read cannot be set aside.
    #[error("an unreadable snapshot cannot be set aside")]
    SetAside(#[source] std::io::Error),
    /// The snapshot is whole, and this version or these region files do not take what it says. It is left as it is.
    #[error("the saved state is not accepted by this version with these region files; nothing was changed")]
    Refused(#[source] Box<IntentError>),
}

impl Inner {
    /// Starts openraft, unless a snapshot has to be fetched first. A snapshot that does not decode is set aside.
    pub async fn start_or_recover(self: &Arc<Self>) -> Result<(), StartError> {
        if self.store.lacks_snapshot() {
            self.publish_older_state();
            return Ok(());
        }
        match self.start_core().await {
            Err(StartError::Refused(error)) if matches!(*error, IntentError::Codec(_)) => {
                self.store.reject_snapshot(error.to_string()).map_err(StartError::SetAside)?;
                if self.store.lacks_snapshot() { Ok(()) } else { self.start_core().await }
            }
            started => started,
        }
    }

    /// While a lost snapshot is fetched, an older one on disk is served: it was in force once.
    fn publish_older_state(&self) {
        let Some(saved) = self.store.snapshot() else { return };
        match State::read(&saved, &self.config.regions) {
            Ok(state) => self.publish.reading(&state),
            Err(error) => tracing::error!(%error, "the older snapshot cannot be read either"),
        }
    }

    /// Starts openraft.
    pub async fn start_core(self: &Arc<Self>) -> Result<(), StartError> {
        let regions = Arc::clone(&self.config.regions);
        let machine = Machine::new(self.store.clone(), regions, self.publish.clone())
            .map_err(|error| StartError::Refused(Box::new(error)))?;
        let config = openraft_config(&self.config.timing)?;
        let network = Network { transport: Arc::clone(&self.transport), liveness: Arc::clone(&self.liveness) };
        let id = self.store.member().0;
        let core = Core::new(id, Arc::new(config), network, self.store.clone(), machine)
            .await
            .map_err(|fatal| StartError::Storage(Box::new(fatal)))?;
        if self.core.set(core).is_ok() {
            self.allow_election();
            let inner = Arc::clone(self);
            self.spawn(async move { inner.follow_leadership().await });
        }
        Ok(())
    }
}

fn openraft_config(timing: &Timing) -> Result<openraft::Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "portolan".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        install_snapshot_timeout: millis(timing.heartbeat * PIECE_HEARTBEATS),
        snapshot_max_chunk_size: SNAPSHOT_PIECE,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        replication_lag_threshold: LAG,
        enable_elect: false,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| StartError::Timing(Box::new(error)))
}
