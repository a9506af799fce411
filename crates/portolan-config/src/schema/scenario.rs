//! The scenario file for editors.
#![expect(dead_code, reason = "only the schema of these types is used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::{
    region::RoundTrip,
    value::{
        Bound, ByteSize, Condition, Distribution, Drift, Duration, Load, Name, OperatorVerb, Percentage, Rate, Shift,
        Version,
    },
};

/// A rehearsal in virtual time: load, faults and operator steps, and what must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Scenario {
    /// Version of the format.
    version: Version,
    /// One line that says what happens.
    title: String,
    /// File with the gateway document, by its path from this file. Either this or `gateway`, or `--config`.
    config: Option<String>,
    /// The gateway document itself, as a block of text.
    gateway: Option<String>,
    /// Directory of the region files, by its path from this file; or the regions themselves, by name.
    regions: Option<Regions>,
    /// Of regions that stand in this file: round trip between any two, or a list of round trips.
    rtt: Option<Trips>,
    /// Nodes of each region, up to 100. Default 1.
    nodes: Option<u32>,
    /// How much virtual time passes, up to 2d.
    length: Duration,
    /// First seed. Default 1.
    seed: Option<u64>,
    /// Seeds to run. Default 1.
    seeds: Option<u64>,
    /// Share of mesh packets lost. Default 0%.
    loss: Option<Percentage>,
    /// Largest extra delay of a mesh packet, up to 10s. Default 0ms.
    jitter: Option<Duration>,
    /// What becomes of packets between nodes of one region. Default: nothing.
    within: Option<Within>,
    /// Keys of limits that a node has room for, up to 262144; what is asked for beyond them shares one. Default: as many as
    /// clients can ask for.
    limit_keys: Option<u32>,
    /// Round trip to the Redis of lenders: for all regions, or by region. Default 2ms.
    redis_rtt: Option<RedisTrips>,
    /// Load.
    clients: Option<Vec<Client>>,
    /// What happens, and when.
    steps: Option<Vec<Step>>,
    /// What must hold.
    expect: Option<Expect>,
}

/// What becomes of packets between nodes of one region.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Within {
    /// Share of them lost. Default 0%.
    loss: Option<Percentage>,
    /// Share of them that come up to 60 ms late, so that others overtake them. Default 0%.
    reorder: Option<Percentage>,
    /// Share of them that come twice. Default 0%.
    duplicate: Option<Percentage>,
}

/// A directory or the regions themselves.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Regions {
    Directory(String),
    Inline(BTreeMap<String, ScenarioRegion>),
}

/// A region that stands in a scenario.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ScenarioRegion {
    /// Its nodes. Default as `nodes` of the scenario says.
    nodes: Option<u32>,
}

/// One round trip for all, or a list.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Trips {
    Same(Duration),
    Each(Vec<RoundTrip>),
}

/// One round trip for all, or by region.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum RedisTrips {
    Same(Duration),
    Each(BTreeMap<String, Duration>),
}

/// Load from one region.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Client {
    /// The region whose gateway the clients reach.
    region: Name,
    /// Requests while it sends.
    rate: Rate,
    /// Host asked for.
    host: String,
    /// Path asked for.
    path: String,
    /// Method. Default GET.
    method: Option<String>,
    /// Authenticated as. Default: without a token.
    user: Option<String>,
    /// Number of users that share the load, each at an address of its own. Default 1.
    users: Option<u32>,
    /// Which of the users sends the next request. Default `in-turn`.
    distribution: Option<Distribution>,
    /// Whether each user keeps to one node of its region, as over a kept connection; else nodes are taken in turn. Default
    /// false.
    sticky: Option<bool>,
    /// Header fields; `{n}` in a value is the number of the user.
    headers: Option<BTreeMap<String, String>>,
    /// Claims of the token; `{n}` in a value is the number of the user.
    claims: Option<BTreeMap<String, String>>,
    /// When requests come. Default `even`.
    arrivals: Option<Arrivals>,
    /// When it begins. Default 0s.
    from: Option<Duration>,
    /// When it ends. Default with the scenario.
    until: Option<Duration>,
    /// Of bursts: from the beginning of one to that of the next.
    every: Option<Duration>,
    /// Of bursts: how long one lasts.
    r#for: Option<Duration>,
    /// How long an admitted request stays at its endpoint. Default 0s.
    lasting: Option<Duration>,
    /// The share of admitted requests to which their endpoint gives no answer. Default 0%.
    failing: Option<Percentage>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Arrivals {
    Even,
    Poisson,
}

/// Something that happens at a time, or when a condition holds: either a `fault` or an order with `do`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Step {
    /// When, from the start; with `when`, not before.
    at: Option<Duration>,
    /// The condition that begins it.
    when: Option<Condition>,
    /// An order as on the command line.
    r#do: Option<OperatorVerb>,
    /// Of an order: whether it may be refused, or find nobody who takes it. Default `false`: then the run fails.
    may_fail: Option<bool>,
    /// A fault.
    fault: Option<Fault>,
    /// The regions it is about; of links: the side.
    regions: Option<Vec<Name>>,
    /// Of links: pairs of regions.
    pairs: Option<Vec<[Name; 2]>>,
    /// Of a partition: the nodes that are cut from all others, or from those of `regions`.
    nodes: Option<Vec<Name>>,
    /// The region whose nodes it is about.
    region: Option<Name>,
    /// The node it is about.
    node: Option<Name>,
    /// The Raft leader, or the whole fleet.
    target: Option<Target>,
    /// Of links: which packets, as the side or the first of a pair sees them. Default `both`.
    direction: Option<Direction>,
    /// Of a crash: what the nodes find when they start again. Default `kept`.
    disk: Option<Disk>,
    /// By how much: of latency, slow nodes and disks a duration, of clocks one with a sign.
    by: Option<Shift>,
    /// Of loss, duplication and reordering: the share of packets.
    share: Option<Percentage>,
    /// Of a narrow link: bytes per second.
    bandwidth: Option<ByteSize>,
    /// Of a clock: how fast it gains on true time.
    drift: Option<Drift>,
    /// Of a surge: the load, as a share of the usual one.
    load: Option<Load>,
    /// Of Redis: `down`, `slow`, or `lost`, which is down and has forgotten what it lent when it is back.
    state: Option<LenderState>,
    /// How long the fault lasts. Default: to the end.
    r#for: Option<Duration>,
    /// From one time to the next, for a step that repeats.
    every: Option<Duration>,
    /// How often it repeats. Default: to the end.
    times: Option<u32>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum Fault {
    Partition,
    Latency,
    Loss,
    Duplicate,
    Reorder,
    Bandwidth,
    Crash,
    Pause,
    Slow,
    ClockStep,
    ClockDrift,
    DiskFull,
    DiskSlow,
    QuorumLoss,
    Surge,
    BadConfig,
    Redis,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Target {
    Leader,
    Fleet,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Direction {
    Both,
    In,
    Out,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Disk {
    Kept,
    Torn,
    Lost,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum LenderState {
    Down,
    Slow,
    Lost,
}

/// What must hold at the end.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Expect {
    /// Share of requests that got an answer other than 5xx.
    availability: Option<Bound>,
    /// Requests answered 503.
    unavailable: Option<Bound>,
    /// Changes of the Raft leader after the first election.
    leader_changes: Option<Bound>,
    /// Time from an acknowledgement until a revision was in force on every node in reach, for 99 of 100.
    config_lag_p99: Option<Duration>,
    /// What limits do.
    limits: Option<Vec<LimitExpectation>>,
    /// Requests forwarded, by region.
    served: Option<BTreeMap<String, Bound>>,
    /// Longest time from the end of the last fault until all nodes agree.
    converged_within: Option<Duration>,
}

/// What must hold of one limit.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LimitExpectation {
    /// The limit.
    limit: Name,
    /// Units admitted in any one slot and key, over all regions.
    per_slot: Option<Bound>,
    /// Units above the quota in the worst slot, as a share of the quota.
    over: Option<Bound>,
    /// The same, mean over slots.
    over_mean: Option<Bound>,
    /// Units refused that the quota had room for, as a share of the quota, mean over slots.
    false_rejects: Option<Bound>,
    /// Units refused with 503.
    unavailable: Option<Bound>,
    /// Requests that waited before they were decided, as a share of those decided.
    waited: Option<Bound>,
    /// Only slots that begin at this time or later count. Default 0s.
    from: Option<Duration>,
    /// Only slots that end by this time count. Default all.
    until: Option<Duration>,
}
