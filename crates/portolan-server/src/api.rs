//! The words of the admin API: JSON bodies of requests and answers under `/v1`. Used by the server and by its client.
//!
//! Durations are whole milliseconds in fields that end in `_ms`. Errors are RFC 9457 problem documents ([`Problem`]).

mod limits;

use std::{collections::BTreeMap, net::IpAddr};

use portolan_config::{Bundle, Fault, HistoryEntry};
use portolan_model::{Name, NodeName, RegionId, Revision};
use serde::{Deserialize, Serialize};

pub use self::limits::{
    BudgetAnswer, CounterAnswer, ExplainKeyAnswer, ExplainKeyRequest, FenceAnswer, FenceRequest, KeyAnswer,
    KeyRegionAnswer, LapsedAnswer, LenderAnswer, LimitsAnswer, OverShareAnswer, PeerAnswer, SplitChangeAnswer,
    UnfenceRequest, WaitsAnswer,
};

/// `POST /v1/apply`: put a document in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The document and the files it names.
    pub bundle: Bundle,
    /// Refuse unless this revision is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Revision>,
}

/// `POST /v1/rollback`: put the document of an earlier revision in force, as a new revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The earlier revision.
    pub to: Revision,
}

/// `POST /v1/drain`: take a region out of service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The region.
    pub region: RegionId,
    /// Why; kept in the history.
    pub reason: String,
}

/// `POST /v1/restore`: end a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The region.
    pub region: RegionId,
}

/// The answer to a change that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeAnswer {
    /// `accepted`, `unchanged`, `drained` or `restored`.
    pub result: String,
    /// The revision in force afterwards, where the change was one of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Of a fence: limits whose shares stay where they are, since no region that is not fenced has a part of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stay: Vec<Name>,
}

/// `GET /v1/history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// The revision it runs.
    pub revision: Revision,
    /// What was ordered, oldest first; times are milliseconds since the Unix epoch.
    pub entries: Vec<HistoryEntry>,
}

/// `GET /v1/digests`: equal on all nodes once they have heard the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DigestsAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// The revision it runs.
    pub revision: Revision,
    /// The leader's name, as far as it knows.
    pub leader: Option<NodeName>,
    /// Its Raft term.
    pub term: u64,
    /// Digest of every live slot.
    pub slots: Vec<SlotDigestAnswer>,
}

/// The spend of all regions in one slot of one limit, in one number, over the keys that the node owns: those of a region's
/// nodes combined by exclusive or are equal in all regions that agree. Slots without any are left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotDigestAnswer {
    /// The limit's number.
    pub limit: u32,
    /// The slot.
    pub slot: u64,
    /// The digest, in hexadecimal.
    pub digest: String,
}

/// `GET /v1/status`: the cluster as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The revision it runs.
    pub revision: Revision,
    /// Whether it can serve.
    pub ready: bool,
    /// Whether its region is being drained.
    pub draining: bool,
    /// Raft as this node knows it.
    pub raft: RaftAnswer,
    /// Whether its disk refuses writes for want of space: new revisions wait, traffic goes on.
    pub disk_full: bool,
    /// Every region, by name.
    pub regions: BTreeMap<RegionId, RegionAnswer>,
    /// Every node, this one included, by name.
    pub nodes: BTreeMap<NodeName, NodeAnswer>,
    /// Every limit with its mode and use.
    pub limits: Vec<LimitAnswer>,
    /// Every endpoint as this node finds it.
    pub endpoints: Vec<EndpointAnswer>,
}

/// Raft as one node knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RaftAnswer {
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// The current term.
    pub term: u64,
    /// The leader.
    pub leader: Option<NodeName>,
    /// The nodes that vote.
    pub voters: Vec<NodeName>,
    /// Index of the last applied entry.
    pub applied: Option<u64>,
}

/// One region.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegionAnswer {
    /// `serving`, `draining`, `down` or `draining_down`.
    pub state: String,
    /// Grows each time the nodes that share the region's limits change; 0 before any node has joined.
    #[serde(default)]
    pub roster_epoch: u64,
    /// Why it is drained, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainAnswer>,
}

/// A drain in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainAnswer {
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub author: String,
    /// When, RFC 3339.
    pub at: String,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// Its region.
    pub region: RegionId,
    /// `leader`, `follower`, `learner`, or `silent` for a node that has not been heard for a second; `None` for one that
    /// has not joined.
    pub role: Option<String>,
    /// The revision it runs, as it last said.
    pub revision: Option<Revision>,
    /// Whether it can serve, as it last said.
    pub ready: Option<bool>,
    /// Time since it was heard; `None` for never, 0 for the node that answers.
    pub heard_ms: Option<u64>,
    /// Age of what it said.
    pub facts_age_ms: Option<u64>,
    /// Round trip on the mesh.
    pub rtt_ms: Option<u64>,
    /// Of 256 parts of the region's keys of limits, those that it owns; `None` for a node that does not share them at
    /// present.
    #[serde(default)]
    pub shards: Option<usize>,
}

/// One limit as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitAnswer {
    /// Its name.
    pub limit: Name,
    /// The current slot.
    pub slot: u64,
    /// Requests per slot over all regions.
    pub quota: u64,
    /// This region's share.
    pub share: u64,
    /// `healthy`, `degraded` or `healing`.
    pub mode: String,
    /// `static`, `open` or `closed`.
    pub on_partition: String,
    /// Keys with a count.
    pub keys: u64,
    /// What each region has spent over all keys in the slot, as far as known here.
    pub spent: BTreeMap<RegionId, u64>,
}

/// One endpoint as one node finds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointAnswer {
    /// The service.
    pub service: Name,
    /// The region it stands in.
    pub region: RegionId,
    /// Where it listens.
    pub address: String,
    /// `unknown`, `healthy`, `unhealthy` or `ejected`.
    pub health: String,
    /// Requests under way from the answering node.
    pub in_flight: u32,
}

/// `POST /v1/explain`: what would become of a request. Nothing is sent, nothing is charged.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The method. Default `GET`.
    #[serde(default = "get")]
    pub method: String,
    /// The host, without port.
    pub host: String,
    /// The path, without query.
    pub path: String,
    /// The client's address. Default: the address of who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// A bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Header fields that limits count by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// What would become of a request, step by step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainAnswer {
    /// The node that answers.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The revision it decides by.
    pub revision: Revision,
    /// What the client would get.
    pub verdict: VerdictAnswer,
    /// The route that takes it.
    pub route: Option<Name>,
    /// Every route with the reason why it lost.
    pub candidates: Vec<CandidateAnswer>,
    /// Who asks; `None` when no route takes the request.
    pub auth: Option<AuthAnswer>,
    /// Every limit of the route with the values a decision would use.
    pub limits: Vec<LimitVerdictAnswer>,
    /// Where it would go; `None` when no route takes the request.
    pub upstream: Option<UpstreamAnswer>,
}

/// What the client would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictAnswer {
    /// `forward`, `refuse`, or `wait` where a limit waits for what decides.
    pub outcome: String,
    /// The step that decides, by its name in problems and logs: `framing`, `route`, `authenticate`, `authorise`,
    /// `limits`, `upstream`.
    pub step: String,
    /// The status of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// In words.
    pub why: String,
}

/// One route as seen by the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateAnswer {
    /// The route.
    pub route: Name,
    /// Why it does not take the request; `None` for the one that does.
    pub lost_because: Option<String>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthAnswer {
    /// The issuer's name in the document; `None` when the route asks for none.
    pub required: Option<Name>,
    /// Scopes the route asks for.
    pub scopes: Vec<String>,
    /// The user, when the token proves one.
    pub user: Option<String>,
    /// Why the token is refused, when it is.
    pub refused: Option<String>,
}

/// One limit as the request would meet it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitVerdictAnswer {
    /// The limit.
    pub limit: Name,
    /// What it counts by: `global`, `service`, `route`, `user` or `client`.
    pub key: String,
    /// `static`, `open` or `closed`.
    pub on_partition: String,
    /// The slot the request falls into.
    pub slot: u64,
    /// Requests per slot over all regions.
    pub quota: u64,
    /// This region's share.
    pub share: u64,
    /// What this region has spent.
    pub used: u64,
    /// What it has lent to other regions, and may not spend.
    pub lent: u64,
    /// What it has borrowed from other regions.
    pub borrowed: u64,
    /// What the other regions have spent, as far as known here.
    pub used_elsewhere: u64,
    /// What this region may still admit.
    pub remaining: u64,
    /// `healthy`, `degraded` or `healing`.
    pub mode: String,
    /// Until the next slot.
    pub resets_in_ms: u64,
    /// `allow`, `wait` where a moment may tell, or why not: `exhausted`, `degraded`, `closed`.
    pub verdict: String,
    /// A refusal would only be counted.
    pub shadow: bool,
}

/// Where the request would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamAnswer {
    /// The service.
    pub service: Name,
    /// Regions in the order they are asked, with their state.
    pub order: Vec<RegionChoiceAnswer>,
    /// The endpoint; with several equal ones, one of them.
    pub endpoint: Option<ChosenAnswer>,
}

/// A region in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionChoiceAnswer {
    /// The region.
    pub region: RegionId,
    /// `serving`, `draining`, `down` or `draining_down`.
    pub state: String,
    /// Endpoints of the service there.
    pub endpoints: usize,
    /// Those of them that would be used.
    pub usable: usize,
}

/// The endpoint that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenAnswer {
    /// Its region.
    pub region: RegionId,
    /// Where it listens.
    pub address: String,
    /// Why this one, in words.
    pub why: String,
}

/// An error, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI reference that names the kind of problem; `about:blank` says no more than the status.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence in words, with what to do.
    pub detail: String,
    /// Faults of a document, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

fn get() -> String {
    "GET".to_owned()
}
