//! What a region does with a limit while it cannot hear all others.

use std::fmt;

use portolan_model::Ratio;

/// What a region does with a limit while it cannot hear all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnPartition {
    /// Keep to its own share: the limit holds exactly, some requests are refused early.
    #[default]
    Static,
    /// Allow up to the whole limit on each side: never refuse early, bounded by sides times the limit.
    Open {
        /// Each side admits at most so many times the sum of its shares, 1 or more; `None` is the whole limit.
        cap: Option<Ratio>,
    },
    /// Refuse everything under the limit while any region is unheard.
    Closed,
    /// Refuse everything on sides that hold at most half of the shares; the other keeps to its shares.
    ClosedMinority,
}

impl OnPartition {
    /// `open` without a cap.
    pub const OPEN: Self = Self::Open { cap: None };

    /// The word for it, for labels: without the cap.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Open { .. } => "open",
            Self::Closed => "closed",
            Self::ClosedMinority => "closed(minority)",
        }
    }
}

/// As a document has it: `open(1.5)`.
impl fmt::Display for OnPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { cap: Some(cap) } => {
                let decimals = format!("{:04}", cap.parts() % 10_000);
                let decimals = decimals.trim_end_matches('0');
                let point = if decimals.is_empty() { "" } else { "." };
                write!(f, "open({}{point}{decimals})", cap.parts() / 10_000)
            }
            other => f.write_str(other.as_str()),
        }
    }
}
