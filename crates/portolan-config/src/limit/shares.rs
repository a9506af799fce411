//! How a quota is split between regions before any of it is lent, and how one split follows another (rights ledger, rule
//! 9.2: a split belongs to a slot, not to a moment). Never computes a share: `portolan_limits::base_shares` does.

use std::{collections::BTreeMap, fmt, time::Duration};

use portolan_model::{RegionId, WallTime};
use serde::{Deserialize, Serialize};

/// How a document wants the quota split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shares {
    /// By what the regions have asked for over time.
    Demand,
    /// Alike.
    #[default]
    Equal,
    /// By these weights; a region that is not named has none. They never sum to 0.
    Weights(BTreeMap<RegionId, u32>),
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demand => f.write_str("demand"),
            Self::Equal => f.write_str("equal"),
            Self::Weights(weights) => {
                let words: Vec<String> = weights.iter().map(|(region, weight)| format!("{region} {weight}")).collect();
                f.write_str(&words.join(", "))
            }
        }
    }
}

/// The split in force, and the one that follows it: a pure function of the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharePlan {
    /// Weight per region in the order of the scope; empty means equal.
    pub weights: Vec<u32>,
    /// What follows.
    pub change: Option<ShareChange>,
}

/// Another split, on its way into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareChange {
    /// Weight per region in the order of the scope; empty means equal.
    pub weights: Vec<u32>,
    /// Slots that begin at or after this have the new split. `None` while not every region has acknowledged: then a
    /// region that knows of the change takes the smaller of both shares for slots that begin at `earliest` or after.
    pub from: Option<WallTime>,
    /// No slot that begins before this will have the new split.
    pub earliest: WallTime,
}

/// How long before a slot begins any of it may be lent, granted or published; no region touches it sooner.
pub const SLOT_LEAD: Duration = Duration::from_secs(2);
