//! The worst case of a limit, from its policy and the fleet alone: what the regions together may admit, and what they may
//! refuse although the limit is not reached. Never looks at demand or at a run: a run is held against these figures.
//!
//! Symbols: `L` the quota of one slot, `W` its length, `R` regions, `base_i` the share of region `i` (they add up to `L`),
//! `P` parts that cannot hear each other, `G` the gossip interval, `A` the staleness bound, `ε` the clock tolerance. All
//! figures are per key and count units: requests weighed by their cost.
//!
//! * Strict (`static`, `closed`): a region admits while `base_i + loans in − loans out − spent ≥ cost`. Whatever lowers the
//!   left side is written by the region itself, so what it has not heard can only make it more careful; loans cancel out
//!   over all regions. Hence at most `L` per slot, under any delay, loss or partition.
//! * Overdraft `w`: each region may take `max(1, ⌊w·base_i⌋)` beyond its rights while the spend it knows of is below `L`.
//!   The sum over all regions comes on top, and never more than `(R−1)·L`: no region goes beyond `L` by itself.
//! * `open`: while degraded, a region admits until the spend it has merged reaches `L`, so `L` per region at most, whoever
//!   hears whom. If the regions of each part hear each other at once, `P·L`; between the two lies what the regions of
//!   one part spend within one staleness window `A` (rule 9.11). `open(κ)` stops a region at
//!   `min(L, κ·Σ base)` over its own part.
//! * Any trailing window as long as a slot: it touches two slots, so `2·` the slot's bound for fixed windows. Clocks that
//!   differ by up to `ε` shift which slot a unit is charged to, so a third slot's units can fall into it: `3·`. A sliding
//!   window keeps `C(s−1)·(1−f) + C(s) ≤ L`, so at fraction `f` of a slot the true count is
//!   `C(s−1) + C(s) ≤ L + f·C(s−1) < 2·L` (rule 9.7). Where a slot may see more than `L`, so may the estimate.
//! * Token bucket: shares of rate and burst add up, and a bucket never holds more than its burst less what of it is out
//!   (lent to regions or granted to nodes, until that is spent or too old). So buckets and what is out never hold more than
//!   `b` together, and gain at most `r·t`: any interval `t` admits at most `b + r·t` (rule 9.8). A clock set forward by up
//!   to `ε` adds `r·ε`; further, what is missing of its region's part of `b`.
//! * Refused wrongly: a region that stays cut off from all others admits exactly its share, so the smallest refuses
//!   `L − base_min`. A slot that was lent of is worse: a lender keeps no certain part, so a region that demand jumps to may
//!   refuse all of `L`, until a loan arrives or, if it is cut off, to the end of the slot and of the next, of which it may
//!   have lent before. A loan takes about `RTT + 2·G`: a round for the need to be told, the way there and back, and a round
//!   for the loan to be decided; it may come in parts, so no wait for it makes this 0.

mod admitted;
mod fleet;
mod refused;
mod trouble;

use std::time::Duration;

use portolan_config::{Algorithm, Limit, OnPartition, RegionMap, Shares};
use portolan_model::Ratio;

pub use self::fleet::Fleet;
use crate::{definition::can_be_lent, shares::base_shares};

/// What bounds are computed from: the parts of a limit that decide them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// How much, and how it is counted.
    pub algorithm: Algorithm,
    /// What a region does while it cannot hear all others.
    pub on_partition: OnPartition,
    /// Weight per region in the order of the scope; empty means equal.
    pub weights: Vec<u32>,
    /// Whether the split follows demand; the weights are then those of the most uneven one.
    pub by_demand: bool,
    /// How far regions may go beyond their rights.
    pub overdraft: Ratio,
    /// How long a request may wait for a loan.
    pub borrow_wait: Duration,
    /// After how long an unheard region loses its share.
    pub reclaim: Option<Duration>,
    /// Whether a lender outside the regions holds four fifths of the quota.
    pub lent: bool,
    /// Whether refusals are only counted.
    pub shadow: bool,
    /// The most that one request costs.
    pub cost: u32,
}

impl Promise {
    /// What `limit` promises over these regions.
    pub fn of(limit: &Limit, regions: &RegionMap) -> Self {
        Self {
            algorithm: limit.algorithm.clone(),
            on_partition: limit.on_partition,
            weights: weights(&limit.shares, regions),
            by_demand: limit.shares == Shares::Demand,
            overdraft: limit.overdraft,
            borrow_wait: limit.borrow_wait,
            reclaim: limit.reclaim,
            lent: limit.lender.is_some(),
            shadow: limit.shadow,
            cost: limit.cost.most(),
        }
    }

    /// A strict limit of this algorithm, split equally.
    pub fn strict(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            on_partition: OnPartition::Static,
            weights: Vec::new(),
            by_demand: false,
            overdraft: Ratio::default(),
            borrow_wait: Duration::ZERO,
            reclaim: None,
            lent: false,
            shadow: false,
            cost: 1,
        }
    }

    /// Whether regions may lend each other units of it at all.
    pub fn can_be_lent(&self) -> bool {
        can_be_lent(&self.algorithm)
    }

    /// The shares that regions hold whoever they hear: of a limit with a lender, the part that it does not hold.
    pub fn shares(&self, fleet: &Fleet) -> Vec<u64> {
        let quota = self.algorithm.quota();
        let split = if self.lent { KEPT.of(quota) } else { quota };
        base_shares(split, &self.weights, fleet.regions)
    }
}

/// Weights per region in the order of the map. A split by demand is taken at its worst: everything is asked of the first
/// region, and the others hold the least that they can.
fn weights(shares: &Shares, regions: &RegionMap) -> Vec<u32> {
    let ids = regions.ids();
    match shares {
        Shares::Equal => Vec::new(),
        Shares::Weights(weights) => ids.iter().map(|id| weights.get(id).copied().unwrap_or(0)).collect(),
        Shares::Demand => {
            let alike = 2000 / u32::try_from(ids.len()).unwrap_or(1).max(1);
            (0..ids.len()).map(|at| if at == 0 { 8000 + alike } else { alike }).collect()
        }
    }
}

/// A figure that is never exceeded, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Units: requests weighed by their cost.
    pub units: u64,
    /// The reason, one or two sentences for an operator.
    pub why: String,
}

/// The worst case in one state of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Admitted by all regions together in one slot; of a token bucket, in one period of its rate; of a concurrency limit,
    /// at one time.
    pub admitted_per_slot: Bound,
    /// Admitted in any span as long as a slot, wherever it begins; `None` for a concurrency limit.
    pub admitted_in_any_window: Option<Bound>,
    /// Refused in one slot although the limit is not reached, whatever of it was lent and whenever demand moves.
    pub refused_wrongly: Bound,
}

/// What a limit guarantees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `L`.
    pub quota: u64,
    /// While every region hears every other.
    pub healthy: Case,
    /// While some cannot, whichever they are; slots in which that begins or ends included.
    pub partition: Case,
    /// Of `open` limits: admitted in one slot by so many parts, from two, if the regions of each part hear each other at
    /// once; empty for others.
    pub parts: Vec<u64>,
    /// Admitted beyond the quota by overdraft, in one slot; `None` without overdraft.
    pub overdraft: Option<Bound>,
    /// Of a sliding window: the most that the estimate comes to over all regions; `None` for others.
    pub estimate: Option<Bound>,
    /// Admitted in any span as long as a slot, if clocks differ or step as much as is tolerated, also within a region;
    /// `None` where nothing depends on a clock.
    pub skewed: Option<Bound>,
    /// Of a concurrency limit with several nodes in a region: requests at work at one time once a node is cut from the
    /// others (rule 9.12), in each region once; `None` for others.
    pub cut_node: Option<Bound>,
    /// Of a limit with a lender: admitted in the slot of one failover that forgets what was lent (rule 9.15); `None` for
    /// others.
    pub failover: Option<Bound>,
    /// Refused wrongly in one slot by a region that hears no other: from the second slot that begins after they count as
    /// unheard, until one is heard again.
    pub refused_alone: Bound,
    /// Of requests that may cost more than a region owns: what the smallest owns of a slot, of a token bucket of the burst;
    /// `None` where each region may admit every request by itself.
    pub costly: Option<Bound>,
    /// Refused in one slot because a region is dead and what it held lies idle.
    pub dead_region: Bound,
    /// Refused in one region after its node was restarted, over all slots. What is admitted never grows by it.
    pub restart: Bound,
    /// How long requests of a restarted region are refused at most; `None` where that depends on when others answer.
    pub restart_lasts: Option<Duration>,
}

impl Bounds {
    /// The worst case of `promise` in `fleet`. Figures saturate; none depends on the order of regions.
    pub fn of(promise: &Promise, fleet: &Fleet) -> Self {
        let overdraft = admitted::overdraft(promise, fleet);
        let restart = trouble::restart(promise, fleet);
        Self {
            quota: promise.algorithm.quota(),
            healthy: Case {
                admitted_per_slot: admitted::healthy(promise, fleet),
                admitted_in_any_window: admitted::in_any_window(promise, admitted::healthy(promise, fleet).units),
                refused_wrongly: refused::healthy(promise, fleet),
            },
            partition: Case {
                admitted_per_slot: admitted::in_a_partition(promise, fleet),
                admitted_in_any_window: admitted::in_any_window(
                    promise,
                    admitted::in_a_partition(promise, fleet).units,
                ),
                refused_wrongly: refused::in_a_partition(promise, fleet),
            },
            parts: admitted::by_parts(promise, fleet),
            overdraft: (overdraft > 0).then(|| admitted::overdraft_bound(promise, overdraft)),
            estimate: admitted::estimate(promise, fleet),
            skewed: admitted::skewed(promise, fleet),
            cut_node: trouble::cut_node(promise, fleet),
            failover: trouble::failover(promise, fleet),
            refused_alone: refused::alone(promise, fleet),
            costly: refused::costly(promise, fleet),
            dead_region: trouble::dead_region(promise, fleet),
            restart: restart.0,
            restart_lasts: restart.1,
        }
    }
}

/// Part of a quota that the regions keep while a lender holds the rest (`φ`).
const KEPT: Ratio = Ratio::from_parts(2000);

#[cfg(test)]
mod tests;
