//! The words of `/v1/limits`: who used what, where, and under which rights. Every node answers for itself: of its own
//! region exactly, of the others what they told. Whoever asks several nodes takes the larger of two numbers for one
//! region, key and slot.

use std::collections::BTreeMap;

use portolan_model::{Name, NodeName, RegionId, Revision};
use serde::{Deserialize, Serialize};

/// `GET /v1/limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The revision it runs.
    pub revision: Revision,
    /// Every budget: each limit, and each of its plans and overrides.
    pub budgets: Vec<BudgetAnswer>,
    /// The other regions as its limits see them.
    pub peers: BTreeMap<RegionId, PeerAnswer>,
    /// Whether each lender can be counted on.
    pub lenders: BTreeMap<Name, LenderAnswer>,
    /// Regions that are fenced.
    pub fences: BTreeMap<RegionId, FenceAnswer>,
    /// Leases that have lapsed.
    pub lapsed: Vec<LapsedAnswer>,
    /// Splits of limits that are about to change.
    pub changes: Vec<SplitChangeAnswer>,
    /// What this node's limits wait for and no clock ends.
    pub waits: WaitsAnswer,
    /// Marks of long windows that the node had no room for since its start: a limit that needed one is held to the tenth of
    /// its share that needs none.
    pub marks_full: u64,
}

/// What the limits of a node wait for and no clock ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsAnswer {
    /// Parts of the key space, of 256, that the node owns and of which it may not spend before it knows what others did.
    pub shards: usize,
    /// Nodes that have not said what they know of them.
    pub nodes: Vec<NodeName>,
    /// Limits whose split waits until requests end.
    pub over: Vec<OverShareAnswer>,
}

/// A limit of concurrency of which more is in flight than the split leaves that waits for the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverShareAnswer {
    /// The limit.
    pub limit: Name,
    /// Keys with more in flight than the region's smaller share.
    pub keys: u64,
    /// The most that is in flight of one of them.
    pub in_flight: u64,
    /// The smaller share.
    pub share: u64,
}

/// One budget in its current slot, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetAnswer {
    /// The limit.
    pub limit: Name,
    /// The budget's number, as `Portolan-Slot` and the digests name it.
    pub id: u32,
    /// `limit` for its own quota, `plan NAME`, or `override KEY`.
    pub tier: String,
    /// What it counts apart: `user`, `[tenant, route]`.
    pub key: String,
    /// How much, and how it is counted: `600/min`.
    pub counts: String,
    /// Units per slot and key over all regions.
    pub quota: u64,
    /// Length of a slot.
    pub window_ms: u64,
    /// The policy while regions are cut off.
    pub on_partition: String,
    /// `healthy`, `healing` or `degraded`.
    pub mode: String,
    /// Whether that policy is in force.
    pub policy_in_force: bool,
    /// Whether its refusals are only counted.
    pub shadow: bool,
    /// The current slot.
    pub slot: u64,
    /// Keys used in the slot, of those that the node owns in its region.
    pub keys: u64,
    /// Use over these keys, by region. The nodes of a region add up.
    pub used: BTreeMap<RegionId, u64>,
    /// The busiest keys of the slot.
    pub busiest: Vec<KeyAnswer>,
    /// Units lent to other regions since the node started.
    pub lent: u64,
    /// Units borrowed from other regions since the node started.
    pub borrowed: u64,
    /// Units that rights were raised by beyond shares and loans since the node started.
    pub overdraft: u64,
    /// Units refused since the node started, of the keys that it owns in its region.
    pub refused: u64,
    /// Units that all regions used above the quota since the node started.
    pub overshoot: u64,
    /// The same of the last slot and key that had any.
    pub last_overshoot: u64,
}

/// One key in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAnswer {
    /// The counter: a hash, the same on every node.
    pub key: String,
    /// Who it is, where a node remembers it; of a header only its beginning.
    pub name: Option<String>,
    /// The slot.
    pub slot: u64,
    /// Each region's part.
    pub regions: BTreeMap<RegionId, KeyRegionAnswer>,
}

/// One region's part in one key and slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRegionAnswer {
    /// Its share before loans.
    pub share: u64,
    /// Lent to other regions.
    pub lent: u64,
    /// Borrowed from other regions.
    pub borrowed: u64,
    /// What it may use: share and borrowed, less lent.
    pub rights: u64,
    /// What it used.
    pub used: u64,
    /// What it refused of the slot; 0 where it is told by another region, or of a limit of concurrency.
    pub refused: u64,
    /// Units a second that it is asked for; 0 while the key is not under pressure there.
    pub demand: u64,
    /// Whether it told; one that did not has used less than half of its share.
    pub told: bool,
}

/// Another region as the limits see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// `fresh`, `healing` or `stale`.
    pub state: String,
    /// Time since it was heard.
    pub heard_ms: u64,
    /// Time since it heard us, by its own account.
    pub hears_us_ms: u64,
}

/// A lender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LenderAnswer {
    /// Whether it can be counted on.
    pub reachable: bool,
    /// Units it lent to this node.
    pub lent: u64,
    /// Requests that it answered in time.
    pub answered: u64,
    /// Requests that it did not answer in time.
    pub failed: u64,
}

/// A fenced region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAnswer {
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub author: String,
    /// When, RFC 3339.
    pub at: String,
}

/// A region that has lost its lease of a limit that reclaims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LapsedAnswer {
    /// The limit.
    pub limit: Name,
    /// The region.
    pub region: RegionId,
    /// The region has no share of slots that begin from here on, RFC 3339.
    pub from: String,
}

/// Another split of a limit between regions, on its way into force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SplitChangeAnswer {
    /// The limit.
    pub limit: Name,
    /// Slots that begin from here on have it, RFC 3339; none while it waits.
    pub from: Option<String>,
    /// Nodes that have not acknowledged it; it waits for all of them.
    pub waits_for: Vec<NodeName>,
}

/// `POST /v1/limits/explain`: one key, as a person writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainKeyRequest {
    /// `alice`, `192.0.2.7`, `global`; the parts of a tuple separated by commas, a missing value as an empty part.
    pub key: String,
    /// Only this limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Name>,
}

/// What one node knows of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainKeyAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The revision it runs.
    pub revision: Revision,
    /// Every counter that the key can mean.
    pub counters: Vec<CounterAnswer>,
}

/// One counter that a key can mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterAnswer {
    /// The limit.
    pub limit: Name,
    /// What it counts apart.
    pub counted_by: String,
    /// Which quota holds: `limit`, `plan NAME` or `override KEY`. The counters of all plans are listed, since which plan
    /// a consumer is of stands in its requests alone.
    pub tier: String,
    /// The route, where each route of the limit has a budget of its own.
    pub route: Option<Name>,
    /// Units per slot over all regions.
    pub quota: u64,
    /// How it is counted.
    pub counts: String,
    /// The policy while regions are cut off.
    pub on_partition: String,
    /// `healthy`, `healing` or `degraded`.
    pub mode: String,
    /// Its use and rights.
    pub usage: KeyAnswer,
}

/// `POST /v1/limits/fence`: take a region's shares away, since it is gone for good.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceRequest {
    /// The region.
    pub region: RegionId,
    /// Why; kept in the history.
    pub reason: String,
    /// Also where nodes of it are heard: without this such a region is not fenced.
    #[serde(default)]
    pub alive: bool,
}

/// `POST /v1/limits/unfence`: give a region its shares back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnfenceRequest {
    /// The region.
    pub region: RegionId,
}
