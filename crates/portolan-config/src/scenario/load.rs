//! What clients of a scenario send.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{Rate, Ratio, RegionId};

/// Load from one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLoad {
    /// The region whose gateway the clients reach.
    pub region: RegionId,
    /// Requests while it sends.
    pub rate: Rate,
    /// Host asked for.
    pub host: String,
    /// Path asked for.
    pub path: String,
    /// Method. Default GET.
    pub method: String,
    /// Authenticated as; `None` means without a token.
    pub user: Option<String>,
    /// Number of users that share the load, each at an address of its own: with 3, `alice` becomes `alice-1` to
    /// `alice-3`. Default 1.
    pub users: u32,
    /// Which of the users sends the next request. Default in turn.
    pub distribution: Distribution,
    /// Whether each user keeps to one node of its region, as over a kept connection. Default nodes are taken in turn.
    pub sticky: bool,
    /// Header fields; `{n}` in a value is the number of the user.
    pub headers: BTreeMap<String, String>,
    /// Claims of the token; `{n}` in a value is the number of the user.
    pub claims: BTreeMap<String, String>,
    /// When requests come. Default even.
    pub arrivals: Arrivals,
    /// When it begins. Default at once.
    pub from: Duration,
    /// When it ends. Default with the scenario.
    pub until: Option<Duration>,
    /// Sends in bursts only; `None` sends all the time.
    pub bursts: Option<Bursts>,
    /// How long an admitted request stays at its endpoint: what concurrency limits count. Default not at all.
    pub lasting: Duration,
    /// The share of admitted requests to which their endpoint gives no answer: 502, and a refund where limits say so.
    /// Default none.
    pub failing: Ratio,
}

/// How the load is spread over users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// One after the other.
    #[default]
    InTurn,
    /// Each with the same chance.
    Uniform,
    /// User `k` in proportion to `1 / k^s`; the exponent `s` in thousandths.
    Zipf(u32),
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    #[default]
    Even,
    /// Independently of each other.
    Poisson,
}

/// Bursts of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursts {
    /// From the beginning of one to that of the next.
    pub every: Duration,
    /// How long one lasts.
    pub length: Duration,
}
