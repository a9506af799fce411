//! How limits decided and what requests waited for, in closed sets that metrics and logs name alike. Counts, and decides
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portolan_limits::{DenyReason, Mode, WaitReason};

/// Decisions of one limit on one worker, by how it decided and in which state it was.
#[derive(Debug, Default)]
pub struct LimitCell([[AtomicU64; MODES.len()]; Decision::ALL.len()]);

impl LimitCell {
    /// Counts a decision.
    pub fn count(&self, decision: Decision, mode: Mode) {
        self.0[decision as usize][mode as usize].fetch_add(1, Relaxed);
    }

    /// How often it decided so.
    pub fn read(&self, decision: Decision, mode: Mode) -> u64 {
        self.0[decision as usize][mode as usize].load(Relaxed)
    }
}

/// How a limit decided a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It was charged.
    Admitted,
    /// The limit is in force: 429.
    Limited,
    /// Our own state allowed no more: 503.
    Unavailable,
    /// The limit is in shadow and would have refused.
    Shadow,
}

impl Decision {
    /// What a refusal for this reason is.
    pub(crate) const fn of_refusal(reason: DenyReason) -> Self {
        match reason {
            DenyReason::Exhausted => Self::Limited,
            DenyReason::Degraded | DenyReason::Closed => Self::Unavailable,
        }
    }

    pub(crate) const ALL: [Self; 4] = [Self::Admitted, Self::Limited, Self::Unavailable, Self::Shadow];

    /// Its name in metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Shadow => "shadow",
        }
    }
}

/// How a request's wait for its limits ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// With a charge.
    Admitted,
    /// With a refusal that waiting does not change.
    Refused,
    /// Nothing came in time.
    InVain,
    /// Too many were waiting.
    Crowded,
}

impl WaitEnd {
    pub(crate) const ALL: [Self; 4] = [Self::Admitted, Self::Refused, Self::InVain, Self::Crowded];

    /// Its name in metrics and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::InVain => "in-vain",
            Self::Crowded => "crowded",
        }
    }
}

pub(crate) const fn reason_word(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Mark => "mark",
        WaitReason::Owner => "owner",
        WaitReason::Borrow => "borrow",
    }
}

/// States of a limit, in the order of their numbers.
pub(crate) const MODES: [Mode; 3] = [Mode::Healthy, Mode::Healing, Mode::Degraded];

/// A state of a limit in one word.
pub(crate) const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Healthy => "healthy",
        Mode::Healing => "healing",
        Mode::Degraded => "degraded",
    }
}
