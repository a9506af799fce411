//! The scenario file for editors.
#![expect(dead_code, reason = "only the schema of these types is used")]

use schemars::JsonSchema;

use super::value::{Bound, Duration, Name, OperatorVerb, Percentage, Rate, Version};

/// A rehearsal in virtual time: load, faults and operator steps, and what must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Scenario {
    /// Version of the format.
    version: Version,
    /// One line that says what happens.
    title: String,
    /// File with the gateway document, by its path from this file. Either this or `gateway`.
    config: Option<String>,
    /// The gateway document itself, as a block of text.
    gateway: Option<String>,
    /// Directory of the region files, by its path from this file.
    regions: Option<String>,
    /// How much virtual time passes, up to 1d.
    length: Duration,
    /// Share of mesh packets lost. Default 0%.
    loss: Option<Percentage>,
    /// Largest extra delay of a mesh packet, up to 10s. Default 0ms.
    jitter: Option<Duration>,
    /// Load.
    clients: Option<Vec<Client>>,
    /// What happens, and when.
    steps: Option<Vec<Step>>,
    /// What must hold.
    expect: Option<Expect>,
}

/// Steady load from one region.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Client {
    /// The region whose gateway the clients reach.
    region: Name,
    /// Requests, evenly spread.
    rate: Rate,
    /// Host asked for.
    host: String,
    /// Path asked for.
    path: String,
    /// Method. Default GET.
    method: Option<String>,
    /// Authenticated as. Default: without a token.
    user: Option<String>,
    /// Number of users that share the load in turn. Default 1.
    users: Option<u32>,
}

/// Something that happens at a time: either a `fault` or an order with `do`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Step {
    /// When, from the start.
    at: Duration,
    /// An order as on the command line.
    r#do: Option<OperatorVerb>,
    /// A fault.
    fault: Option<Fault>,
    /// Of a partition: the side that is cut off.
    regions: Option<Vec<Name>>,
    /// Of a crash: the region whose nodes stop.
    region: Option<Name>,
    /// Of a crash: `leader` in place of a region.
    target: Option<Target>,
    /// Of a partition: packets that are lost, as the cut-off side sees them. Default `both`.
    direction: Option<Direction>,
    /// Of a crash: what the nodes find when they start again. Default `kept`.
    disk: Option<Disk>,
    /// How long the fault lasts. Default: to the end.
    r#for: Option<Duration>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Fault {
    Partition,
    Crash,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Target {
    Leader,
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
    Lost,
}

/// What must hold at the end.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Expect {
    /// Share of requests that got an answer other than 5xx.
    availability: Option<Bound>,
    /// Changes of the Raft leader after the first election.
    leader_changes: Option<Bound>,
    /// Requests admitted under limits.
    admitted: Option<OneOrMany>,
    /// Longest time from the end of the last fault until all nodes agree.
    converged_within: Option<Duration>,
}

/// A bound or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMany {
    One(Admitted),
    Many(Vec<Admitted>),
}

/// Requests admitted in any one slot of a limit, over all regions.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Admitted {
    /// The limit.
    limit: Name,
    /// Requests per slot and key.
    per_slot: Bound,
}
