//! A leader that gives its place up, for a planned drain of its region. openraft 0.9 cannot name a successor: the leader
//! falls silent once a follower has all that it has, and the others elect as they would after a loss.

use std::{sync::atomic::Ordering, time::Duration};

use openraft::AsyncRuntime;
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    raft::{Inner, Raft},
    runtime::Runtime,
    types::Core,
};

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(20);
/// How long a follower may take to catch up once no proposals are taken.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Why a leader keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StepAsideError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// No other voter has all entries, so an election would lose time or fail.
    #[error("no other voter is up to date")]
    NobodyIsUpToDate,
    /// Nobody was elected in time; this node leads on.
    #[error("nobody else was elected in time")]
    NobodyElected,
}

impl Raft {
    /// Hands the leadership to another voter. Proposals wait meanwhile, about as long as after the loss of a leader.
    pub async fn step_aside(&self) -> Result<(), StepAsideError> {
        let core = self.inner.core().ok_or(StepAsideError::NotLeader)?;
        if !self.inner.leads(core) {
            return Err(StepAsideError::NotLeader);
        }
        let silence = Silence::begin(&self.inner, core);
        let caught_up = Instant::now() + CATCH_UP;
        while !another_is_up_to_date(core) {
            if Instant::now() > caught_up {
                return Err(StepAsideError::NobodyIsUpToDate);
            }
            Runtime::sleep(PACE).await;
        }
        core.runtime_config().heartbeat(false);
        let timing = self.inner.config.timing;
        let deadline = Instant::now() + timing.live_for() + timing.election_max * 6;
        while self.inner.leads(core) {
            if Instant::now() > deadline {
                return Err(StepAsideError::NobodyElected);
            }
            Runtime::sleep(PACE).await;
        }
        drop(silence);
        Ok(())
    }
}

/// While it lives, this node takes no proposals and does not stand; heartbeats come back with its end.
struct Silence<'a> {
    inner: &'a Inner,
    core: &'a Core,
}

impl<'a> Silence<'a> {
    fn begin(inner: &'a Inner, core: &'a Core) -> Self {
        inner.stepping_aside.store(true, Ordering::Relaxed);
        inner.allow_election();
        Self { inner, core }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.core.runtime_config().heartbeat(true);
        self.inner.stepping_aside.store(false, Ordering::Relaxed);
        self.inner.allow_election();
    }
}

impl Inner {
    fn leads(&self, core: &Core) -> bool {
        core.metrics().borrow().state.is_leader()
    }
}

fn another_is_up_to_date(core: &Core) -> bool {
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    let Some(replication) = &metrics.replication else { return false };
    let membership = metrics.membership_config.membership();
    let mut others = membership.voter_ids().filter(|voter| *voter != metrics.id);
    others.any(|voter| replication.get(&voter).is_some_and(|at| at.map(|id| id.index) == metrics.last_log_index))
}
