//! How the answers of the fleet look to people. Decides words and columns, nothing else.

use std::{collections::BTreeMap, fmt::Write as _};

use portolan_model::RegionId;
use portolan_server::api::{ExplainAnswer, HistoryAnswer, LimitVerdictAnswer, NodeAnswer, StatusAnswer};

use crate::output::Table;

/// Digits of a digest that people compare.
const DIGEST_DIGITS: usize = 12;

/// The outcome of a request that reaches an endpoint.
const FORWARD: &str = "forward";

/// The accepted orders, oldest first.
pub fn history(answer: &HistoryAnswer) -> String {
    let mut table = Table::new(["revision", "time", "author", "what", "digest"]);
    for entry in &answer.entries {
        let digest: String = entry.digest.to_string().chars().take(DIGEST_DIGITS).collect();
        let (revision, at) = (entry.revision.to_string(), entry.at.to_string());
        table.row([revision, at, entry.author.clone(), entry.what.clone(), digest]);
    }
    table.to_string()
}

/// The fleet as its nodes see it: each node's own word where it answers, the word of the others where it does not.
pub fn status(answers: &[StatusAnswer], silent: &[String]) -> String {
    let Some(witness) = answers.first() else { return String::new() };
    let mut text = String::new();
    let (regions, nodes) = (region_table(witness), node_table(witness, answers));
    let _ = write!(text, "{regions}\n{nodes}");
    for line in silent {
        let _ = writeln!(text, "no answer from {line}");
    }
    if !witness.limits.is_empty() {
        let mut limits = Table::new(["limit", "mode", "quota", "share", "spent by region"]);
        for limit in &witness.limits {
            let spent: Vec<String> = limit.spent.iter().map(|(region, count)| format!("{region} {count}")).collect();
            let (quota, share) = (limit.quota.to_string(), limit.share.to_string());
            limits.row([limit.limit.to_string(), limit.mode.clone(), quota, share, spent.join(", ")]);
        }
        let _ = write!(text, "\nlimits as {} sees them\n{limits}", witness.node);
    }
    let mut endpoints = Table::new(["service", "region", "endpoint", "health"]);
    for endpoint in witness.endpoints.iter().filter(|endpoint| endpoint.health != "healthy") {
        let (service, region) = (endpoint.service.to_string(), endpoint.region.to_string());
        endpoints.row([service, region, endpoint.address.clone(), endpoint.health.clone()]);
    }
    if !endpoints.is_empty() {
        let _ = write!(text, "\nendpoints that are not healthy as {} sees them\n{endpoints}", witness.node);
    }
    text
}

/// What would become of a request, step by step.
pub fn explain(answer: &ExplainAnswer) -> String {
    let mut text = String::new();
    let verdict = &answer.verdict;
    let status = verdict.status.map_or_else(String::new, |status| format!(" with {status}"));
    let _ = match answer.upstream.as_ref().and_then(|upstream| upstream.endpoint.as_ref()) {
        Some(endpoint) if verdict.outcome == FORWARD => {
            writeln!(text, "{FORWARD} to {} in {}: {}", endpoint.address, endpoint.region, endpoint.why)
        }
        _ => writeln!(text, "{}{status} at step {}: {}", verdict.outcome, verdict.step, verdict.why),
    };
    let _ = writeln!(text, "as {} of {} decides by revision {}\n", answer.node, answer.region, answer.revision);
    let mut routes = Table::new(["route", "verdict"]);
    for candidate in &answer.candidates {
        let why = candidate.lost_because.as_ref().map_or_else(|| "takes it".to_owned(), |why| format!("lost: {why}"));
        routes.row([candidate.route.to_string(), why]);
    }
    let _ = write!(text, "{routes}");
    if let Some(auth) = &answer.auth {
        let scopes = if auth.scopes.is_empty() { String::new() } else { format!(" scopes {}", auth.scopes.join(" ")) };
        let found = match (&auth.user, &auth.refused) {
            (_, Some(why)) => format!("refused: {why}"),
            (Some(user), None) => format!("user {user}"),
            (None, None) => "nobody".to_owned(),
        };
        let _ = match &auth.required {
            Some(required) => writeln!(text, "\nauth {required}{scopes}: {found}"),
            None => writeln!(text, "\nauth: the route asks for none"),
        };
    }
    if !answer.limits.is_empty() {
        let _ = write!(text, "\n{}", limits_table(&answer.limits));
    }
    if let Some(upstream) = &answer.upstream {
        let mut order = Table::new(["region", "state", "usable endpoints"]);
        for choice in &upstream.order {
            let usable = format!("{} of {}", choice.usable, choice.endpoints);
            order.row([choice.region.to_string(), choice.state.clone(), usable]);
        }
        let _ = write!(text, "\nservice {}\n{order}", upstream.service);
        if let Some(endpoint) = upstream.endpoint.as_ref().filter(|_| verdict.outcome != FORWARD) {
            let _ = writeln!(text, "endpoint {} in {}: {}", endpoint.address, endpoint.region, endpoint.why);
        }
    }
    text
}

/// What each limit of a request has and says.
fn limits_table(limits: &[LimitVerdictAnswer]) -> Table {
    let head = [
        "limit",
        "verdict",
        "mode",
        "quota",
        "share",
        "lent",
        "borrowed",
        "used here",
        "elsewhere",
        "remaining",
        "resets in",
    ];
    let mut table = Table::new(head);
    for limit in limits {
        table.row([
            limit.limit.to_string(),
            if limit.shadow { format!("{}, in shadow", limit.verdict) } else { limit.verdict.clone() },
            format!("{}, {}", limit.on_partition, limit.mode),
            limit.quota.to_string(),
            limit.share.to_string(),
            limit.lent.to_string(),
            limit.borrowed.to_string(),
            limit.used.to_string(),
            limit.used_elsewhere.to_string(),
            limit.remaining.to_string(),
            format!("{} ms", limit.resets_in_ms),
        ]);
    }
    table
}

/// Each region with how many of its nodes share its limits.
fn region_table(witness: &StatusAnswer) -> Table {
    let mut regions = Table::new(["region", "state", "nodes", "roster", "drain"]);
    for (region, answer) in &witness.regions {
        let drain = answer
            .drain
            .as_ref()
            .map_or_else(String::new, |drain| format!("{} (by {}, {})", drain.reason, drain.author, drain.at));
        let of_region = || witness.nodes.values().filter(|node| node.region == *region);
        let sharing = of_region().filter(|node| node.shards.is_some()).count();
        let nodes = format!("{sharing} of {}", of_region().count());
        regions.row([region.to_string(), answer.state.clone(), nodes, answer.roster_epoch.to_string(), drain]);
    }
    regions
}

/// Each node by its own word, those that did not answer by that of `witness`.
fn node_table(witness: &StatusAnswer, answers: &[StatusAnswer]) -> Table {
    let mut nodes = Table::new(["node", "region", "role", "shards", "revision", "ready", "disk", "regions last heard"]);
    for answer in answers {
        let peers = answer.nodes.iter().filter(|(name, _)| **name != answer.node);
        let own = answer.nodes.get(&answer.node);
        // Of each region the node that was heard last.
        let mut heard = BTreeMap::<&RegionId, Option<u64>>::new();
        for (_, peer) in peers {
            let age = heard.entry(&peer.region).or_default();
            *age = [*age, peer.heard_ms].into_iter().flatten().min();
        }
        let ages = heard.into_iter().map(|(region, age)| match age {
            Some(age) => format!("{region} {age} ms"),
            None => format!("{region} never"),
        });
        nodes.row([
            answer.node.to_string(),
            answer.region.to_string(),
            answer.raft.role.clone(),
            shards(own),
            answer.revision.to_string(),
            yes_no(answer.ready),
            if answer.disk_full { "full" } else { "ok" }.to_owned(),
            ages.collect::<Vec<_>>().join(", "),
        ]);
    }
    for (name, node) in witness.nodes.iter().filter(|(name, _)| answers.iter().all(|answer| answer.node != **name)) {
        let unknown = || "-".to_owned();
        nodes.row([
            name.to_string(),
            node.region.to_string(),
            node.role.clone().unwrap_or_else(unknown),
            shards(Some(node)),
            node.revision.map_or_else(unknown, |revision| revision.to_string()),
            node.ready.filter(|_| node.role.as_deref() != Some("silent")).map_or_else(unknown, yes_no),
            unknown(),
            unknown(),
        ]);
    }
    nodes
}

/// Of 256.
fn shards(node: Option<&NodeAnswer>) -> String {
    node.and_then(|node| node.shards).map_or_else(|| "-".to_owned(), |shards| shards.to_string())
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
