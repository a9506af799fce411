//! Commands on their way to the leader. Decides when a proposal may be repeated: only where it provably was not
//! appended. A proposal that may be in a log is never sent again, since a second copy could take effect after others.
//! The times that commands carry are held to the leader's clock.

use std::time::Duration;

use openraft::{AsyncRuntime, ServerState};
use portolan_config::{Applied, Command, Refusal};
use portolan_model::{NodeName, WallTime, codec};
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    message::{Request, Response, Unreachable},
    raft::{Inner, Raft},
    runtime::Runtime,
    status,
};

/// How long a proposal is tried.
const DEADLINE: Duration = Duration::from_secs(5);
/// Pause before asking again where nobody led.
const PACE: Duration = Duration::from_millis(50);
/// Largest command in bytes: fits a message together with others.
const MAX_COMMAND: usize = 2 << 20;

/// Largest difference between the clocks of sound nodes.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// No leader in time. The command was not appended anywhere.
    #[error("the cluster has no leader; nothing was changed")]
    NoLeader,
    /// The leader cannot be reached. The command was not appended anywhere.
    #[error("the leader `{leader}` cannot be reached ({reason}); nothing was changed")]
    Unreachable {
        /// The leader.
        leader: NodeName,
        /// Why.
        reason: String,
    },
    /// A disk is full. The command was not appended anywhere.
    #[error("the disk of `{node}` is full: {reason}; nothing was changed")]
    DiskFull {
        /// This node or the leader.
        node: NodeName,
        /// What was looked at and what is missing.
        reason: String,
    },
    /// The command is too long. It was not appended anywhere.
    #[error("the command has {len} bytes, at most {max} are taken; nothing was changed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// No outcome in time.
    #[error("{}", timeout_text(*.may_have_been_applied))]
    Timeout {
        /// Whether it may be in a log: then only the history tells.
        may_have_been_applied: bool,
    },
}

fn timeout_text(may_have_been_applied: bool) -> &'static str {
    if may_have_been_applied {
        "no majority confirmed the command in time; it may still take effect, so look at the history before repeating it"
    } else {
        "no majority confirmed the command in time; nothing was changed"
    }
}

impl Raft {
    /// Brings `command` into force, by way of the leader, within five seconds.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.inner.propose(command, Instant::now() + DEADLINE).await
    }
}

impl Inner {
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Applied, ProposeError> {
        let len = codec::encode(&command).map_or(usize::MAX, |bytes| bytes.len());
        if len > MAX_COMMAND {
            return Err(ProposeError::TooLong { len, max: MAX_COMMAND });
        }
        if let Some(reason) = self.store.shortage(len) {
            return Err(ProposeError::DiskFull { node: self.config.me.clone(), reason });
        }
        if command.change.vouches().is_some() && !self.store.keeps(self.state().applied) {
            // After a restart with no peer in reach, this node would not know what it said it heeds.
            let reason = "what is in force is not on it yet".to_owned();
            return Err(ProposeError::DiskFull { node: self.config.me.clone(), reason });
        }
        let mut failure = ProposeError::NoLeader;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failure);
            }
            if let Some(leader) = self.leader() {
                match self.propose_to(&leader, command.clone(), deadline).await {
                    Ok(Response::Applied(applied)) => return Ok(applied),
                    Ok(Response::DiskFull { reason }) => return Err(ProposeError::DiskFull { node: leader, reason }),
                    Ok(Response::NotLeader { .. }) => failure = ProposeError::NoLeader,
                    Ok(Response::Unavailable { reason }) | Err(Unreachable::NotSent { reason }) => {
                        failure = ProposeError::Unreachable { leader, reason };
                    }
                    Ok(_) | Err(Unreachable::NoAnswer { .. }) => {
                        return Err(ProposeError::Timeout { may_have_been_applied: true });
                    }
                }
            }
            Runtime::sleep(PACE.min(left)).await;
        }
    }

    async fn propose_to(
        &self,
        leader: &NodeName,
        command: Command,
        deadline: Instant,
    ) -> Result<Response, Unreachable> {
        if *leader == self.config.me {
            return Ok(self.propose_here(command, deadline).await);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.transport.call(leader, Request::Propose(command), left).await
    }

    /// The leader as this node knows it.
    pub fn leader(&self) -> Option<NodeName> {
        let metrics = self.core()?.metrics();
        let metrics = metrics.borrow();
        status::leader(&metrics).map(|(_, name)| name)
    }

    /// Appends `command` if this node leads a majority. [`Response::NotLeader`], [`Response::DiskFull`] and
    /// [`Response::Unavailable`] mean that it was not appended.
    pub async fn propose_here(&self, command: Command, deadline: Instant) -> Response {
        let Some(core) = self.core() else {
            return Response::Unavailable { reason: "Raft has not started".to_owned() };
        };
        let len = codec::encode(&command).map_or(usize::MAX, |bytes| bytes.len());
        if len > MAX_COMMAND {
            return Response::Unavailable { reason: "the command is too long".to_owned() };
        }
        if let Some(reason) = self.store.shortage(len) {
            return Response::DiskFull { reason };
        }
        if let Some(refusal) = self.refusal_unless_leading(deadline).await {
            return refusal;
        }
        let command = match at_sound_time(command, (self.config.clock)()) {
            Ok(command) => command,
            Err(refusal) => return Response::Applied(Applied::Refused(refusal)),
        };
        match Runtime::timeout_at(deadline, core.client_write(command)).await {
            Ok(Ok(written)) => written.data.map_or(Response::Uncertain, Response::Applied),
            // Also when openraft says that another node leads: the entry may have been appended and truncated here, and
            // still live on elsewhere.
            Ok(Err(_)) | Err(_) => Response::Uncertain,
        }
    }

    /// Asks the core itself, whose word is later than its metrics, and the followers' answers: a leader that a majority
    /// does not hear would append what it cannot commit.
    async fn refusal_unless_leading(&self, deadline: Instant) -> Option<Response> {
        let core = self.core()?;
        let asked = core.with_raft_state(|state| state.server_state == ServerState::Leader);
        let leads = match Runtime::timeout_at(deadline, asked).await {
            Ok(Ok(leads)) => leads,
            Ok(Err(fatal)) => return Some(Response::Unavailable { reason: fatal.to_string() }),
            Err(_) => return Some(Response::Unavailable { reason: "Raft is busy".to_owned() }),
        };
        let stepping_aside = self.stepping_aside.load(std::sync::atomic::Ordering::Relaxed);
        let heard = self.since_quorum(Instant::now()).is_some_and(|age| age <= self.config.timing.live_for());
        let accepts = leads && heard && !stepping_aside;
        (!accepts).then(|| Response::NotLeader { leader: self.leader().filter(|name| *name != self.config.me) })
    }
}

/// Holds the time of a command to the leader's, `now`: one from a clock that is years off would set when a split begins.
/// A later begin costs only patience. But a node that has spent by a clock that was ahead vouches for what it spent, so
/// its word cannot be moved back, and has to wait until that time has come.
fn at_sound_time(command: Command, now: WallTime) -> Result<Command, Refusal> {
    let (at, latest) = (command.at, now + CLOCK_TOLERANCE);
    if let Some(node) = command.change.vouches().filter(|_| at > latest) {
        return Err(Refusal::ClockAhead { node: node.clone(), ahead: at.since(now) });
    }
    Ok(command.change.at(at.clamp(now - CLOCK_TOLERANCE, latest)))
}
