//! A limit as the data path sees it: plain values whose bounds were checked when the document was read. Never counts
//! anything; how regions keep to it is the rights ledger's.

mod key;
mod policy;
mod shares;
mod zone;

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use portolan_model::{Name, Rate, Ratio};

pub(crate) use self::{
    key::{API_KEY_HEADER, MAX_KEY_PARTS, TENANT_CLAIM},
    zone::{zone_name, zone_remedy},
};
pub use self::{
    key::{KeyPart, LimitKey},
    policy::OnPartition,
    shares::{SLOT_LEAD, ShareChange, SharePlan, Shares},
};

/// A bound on requests, held over all regions together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the document.
    pub name: Name,
    /// What is counted apart.
    pub key: LimitKey,
    /// How much, and how it is counted.
    pub algorithm: Algorithm,
    /// Behaviour while regions are cut off.
    pub on_partition: OnPartition,
    /// How the quota is split between regions before any of it is lent. Default equal.
    pub shares: Shares,
    /// How far a region may go beyond its rights while the merged view is below the limit. Default 0: strict.
    pub overdraft: Ratio,
    /// How long a request may wait for another region's loan before it is refused. Default 0: refused at once.
    pub borrow_wait: Duration,
    /// How long a region that is not heard keeps its share; `None` means until an operator fences it.
    pub reclaim: Option<Duration>,
    /// Who holds the part of the quota that is not split between regions: a name under `lenders`.
    pub lender: Option<Name>,
    /// Units that a request costs. Default 1.
    pub cost: Cost,
    /// Outcomes that give the cost back.
    pub refund_on: Vec<RefundOn>,
    /// Whether the routes that name the limit share one budget. Default they do.
    pub per: Budget,
    /// Other quotas for consumers of named plans.
    pub plans: Option<Plans>,
    /// Other quotas for single consumers, by what [`LimitKey::consumer`] reads.
    pub overrides: BTreeMap<String, u64>,
    /// Whether a refusal is only counted, and the request passes. Default off.
    pub shadow: bool,
    /// Whether responses name the window that was charged, for clients that verify the limit. Default off.
    pub expose_slot: bool,
}

impl Limit {
    /// Units that all regions together may admit in one window; of a token bucket, per period of its rate; of a
    /// concurrency limit, at one time.
    pub fn quota(&self) -> u64 {
        self.algorithm.quota()
    }

    /// The length that [`Limit::quota`] is counted over: see [`Algorithm::window`].
    pub fn window(&self) -> Duration {
        self.algorithm.window()
    }

    /// Whether it reads a token, so that it stands only on routes with `auth`.
    pub fn needs_token(&self) -> bool {
        let by_claim = |plans: &Plans| matches!(plans.from, PlanSource::Claim(_));
        self.key.needs_token() || self.plans.as_ref().is_some_and(by_claim)
    }
}

/// How much is admitted, and how it is counted. Counts are at least 1 and at most 10⁹.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// So many units in each window, counted from nothing.
    FixedWindow {
        /// Units per window.
        quota: u64,
        /// When windows begin and end.
        window: Window,
    },
    /// So many units by the estimate of two windows: the one before weighs by what is left of it.
    SlidingWindow {
        /// Units per window.
        quota: u64,
        /// At least 1 s, in whole milliseconds.
        window: Duration,
    },
    /// Units drip in at a rate, and pile up to a burst.
    TokenBucket {
        /// How fast they come back.
        rate: Rate,
        /// How many are there at most; at least 1.
        burst: u64,
    },
    /// So many requests at one time.
    Concurrency {
        /// Requests in flight.
        limit: u64,
    },
}

impl Algorithm {
    /// Units that all regions together may admit per [`Algorithm::window`].
    pub const fn quota(&self) -> u64 {
        match self {
            Self::FixedWindow { quota, .. } | Self::SlidingWindow { quota, .. } => *quota,
            Self::TokenBucket { rate, .. } => rate.count,
            Self::Concurrency { limit } => *limit,
        }
    }

    /// The length that the quota is counted over: the window (of months, the longest), the period of a token bucket's
    /// rate, and one second for a concurrency limit, which has none.
    pub const fn window(&self) -> Duration {
        match self {
            Self::FixedWindow { window, .. } => window.longest(),
            Self::SlidingWindow { window, .. } => *window,
            Self::TokenBucket { rate, .. } => rate.per,
            Self::Concurrency { .. } => Duration::from_secs(1),
        }
    }

    /// The same way of counting with another quota; the burst of a token bucket keeps its proportion.
    #[must_use]
    pub fn with_quota(&self, quota: u64) -> Self {
        match self {
            Self::FixedWindow { window, .. } => Self::FixedWindow { quota, window: window.clone() },
            Self::SlidingWindow { window, .. } => Self::SlidingWindow { quota, window: *window },
            Self::TokenBucket { rate, burst } => {
                let scaled = u128::from(*burst) * u128::from(quota) / u128::from(rate.count.max(1));
                let burst = u64::try_from(scaled).unwrap_or(u64::MAX).clamp(1, MAX_QUOTA);
                Self::TokenBucket { rate: Rate { count: quota, per: rate.per }, burst }
            }
            Self::Concurrency { .. } => Self::Concurrency { limit: quota },
        }
    }

    /// Whether spend under `self` can be compared with spend under `other`: all but the counts is the same.
    pub fn comparable(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::FixedWindow { window: a, .. }, Self::FixedWindow { window: b, .. }) => a == b,
            (Self::SlidingWindow { window: a, .. }, Self::SlidingWindow { window: b, .. }) => a == b,
            (Self::TokenBucket { rate: a, .. }, Self::TokenBucket { rate: b, .. }) => a.per == b.per,
            (Self::Concurrency { .. }, Self::Concurrency { .. }) => true,
            _ => false,
        }
    }
}

/// As a document has it, with the keys that say it: `rate 600/min, algorithm sliding`.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FixedWindow { quota, window: Window::Length(per) } => Rate { count: *quota, per: *per }.fmt(f),
            Self::FixedWindow { quota, window: Window::Calendar { period, zone } } => {
                write!(f, "{quota}/{} in {zone}", period.as_str())
            }
            Self::SlidingWindow { quota, window } => write!(f, "{}, sliding", Rate { count: *quota, per: *window }),
            Self::TokenBucket { rate, burst } => write!(f, "{rate}, token bucket of {burst}"),
            Self::Concurrency { limit } => write!(f, "{limit} at one time"),
        }
    }
}

/// When the windows of a limit begin and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// One after the other since the Unix epoch; at least 1 s, in whole milliseconds.
    Length(Duration),
    /// Civil days or months.
    Calendar {
        /// Days or months.
        period: Period,
        /// The name of a time zone in the IANA database.
        zone: String,
    },
}

impl Window {
    /// The longest that a window can be: a civil day has up to 25 hours, a month 31 days and an hour.
    pub const fn longest(&self) -> Duration {
        match self {
            Self::Length(length) => *length,
            Self::Calendar { period: Period::Day, .. } => Duration::from_secs(25 * 3600),
            Self::Calendar { period: Period::Month, .. } => Duration::from_secs((31 * 24 + 1) * 3600),
        }
    }
}

/// A part of the civil calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// The word for it in a document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// Units that a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Always so many; at least 1.
    Fixed(u32),
    /// What a header of the request says.
    Header {
        /// Its name in lower case.
        name: String,
        /// When it is absent or no number.
        default: u32,
        /// Taken for anything larger.
        most: u32,
    },
}

impl Cost {
    /// The most that one request can cost.
    pub const fn most(&self) -> u32 {
        match self {
            Self::Fixed(units) => *units,
            Self::Header { most, .. } => *most,
        }
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(units) => units.fmt(f),
            Self::Header { name, default, most } => write!(f, "header {name}, {default} without it, at most {most}"),
        }
    }
}

/// An outcome that gives the cost back, within the window that was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefundOn {
    /// A response with a status in this range.
    Status(RangeInclusive<u16>),
    /// No response from the service.
    UpstreamFailure,
}

impl RefundOn {
    /// Whether it takes in a request whose client gets `status`, and to which the service gave no answer or did.
    pub fn takes_in(&self, status: u16, upstream_failed: bool) -> bool {
        match self {
            Self::Status(range) => range.contains(&status),
            Self::UpstreamFailure => upstream_failed,
        }
    }
}

impl fmt::Display for RefundOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(range) if range.start() == range.end() => range.start().fmt(f),
            Self::Status(range) => write!(f, "{}xx", range.start() / 100),
            Self::UpstreamFailure => f.write_str("upstream_failure"),
        }
    }
}

/// What the routes that name a limit share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// One budget for all of them.
    #[default]
    Limit,
    /// A budget for each of them.
    Route,
}

impl Budget {
    /// The word for it in a document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Route => "route",
        }
    }
}

/// Quotas of named plans, and where a request says which plan it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    /// Where the plan's name stands. A request without it, or with an unknown one, has the limit's own quota.
    pub from: PlanSource,
    /// In place of the limit's own quota, by plan; at most 100.
    pub quotas: BTreeMap<String, u64>,
}

/// Where a request says which plan it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// A claim of its token.
    Claim(String),
    /// A header in lower case: for gateways behind one that sets it, since a client may write what it likes.
    Header(String),
}

impl fmt::Display for PlanSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

/// One who holds a part of quotas for all regions and lends it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lender {
    /// Its name in the document.
    pub name: Name,
    /// `redis://host:port/database`, or `rediss` over TLS.
    pub redis: String,
}

/// Largest count of a limit, plan, override or burst: counters are 32 bits wide on the request path.
pub const MAX_QUOTA: u64 = 1_000_000_000;
