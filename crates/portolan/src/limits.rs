//! `portolan limits`: who used what and was refused what, where, and under which rights. Asks every node and joins what
//! they say: each knows the keys that it owns in its region exactly and the other regions by what they told, so the nodes
//! of a region add up, and of two regions' numbers for a third the larger is the truer.
//!
//! Decides no policy: the nodes count, and an order to fence goes through them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures_util::{StreamExt, stream};
use portolan_model::{Name, NodeName, RegionId};
use portolan_server::api::{
    BudgetAnswer, ChangeAnswer, CounterAnswer, ExplainKeyAnswer, ExplainKeyRequest, FenceRequest, KeyAnswer,
    KeyRegionAnswer, LapsedAnswer, LimitsAnswer, OverShareAnswer, SplitChangeAnswer, UnfenceRequest,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    cli,
    client::{Client, NO_ANSWER},
    fleet::{client, post, typed},
    output::Table,
};

/// `limits`, `limits explain`, `limits fence`, `limits unfence`
pub async fn run(global: &cli::Global, order: Option<&cli::Limits>) -> Result<()> {
    match order {
        None => run_overview(global).await,
        Some(cli::Limits::Explain { written, limit }) => run_explain(global, written, limit.as_ref()).await,
        Some(cli::Limits::Fence { region, reason, alive }) => run_fence(global, region, reason, *alive).await,
        Some(cli::Limits::Unfence { region }) => run_unfence(global, region).await,
    }
}

async fn run_overview(global: &cli::Global) -> Result<()> {
    let client = client(global)?;
    let (answers, silent) = ask_all::<LimitsAnswer>(&client, "/v1/limits", None).await?;
    let budgets = join_budgets(&answers);
    let value = json!({ "budgets": budgets, "nodes": answers, "silent": silent });
    global.output.print(&value, || overview_text(&answers, &budgets, &silent));
    Ok(())
}

async fn run_explain(global: &cli::Global, key: &str, limit: Option<&Name>) -> Result<()> {
    let client = client(global)?;
    let request = serde_json::to_value(ExplainKeyRequest { key: key.to_owned(), limit: limit.cloned() })?;
    let (answers, silent) = ask_all::<ExplainKeyAnswer>(&client, "/v1/limits/explain", Some(&request)).await?;
    let counters = join_counters(&answers);
    if counters.is_empty() {
        let of = limit.map_or_else(|| "of any limit".to_owned(), |limit| format!("of limit `{limit}`"));
        bail!(
            "`{key}` cannot be a key {of}; write the parts in the order of the limit's `key`, separated by commas: \
             `alice`, `192.0.2.7`, `acme,orders`, or `global`"
        );
    }
    let value = json!({ "key": key, "counters": counters, "nodes": answers, "silent": silent });
    // A consumer is of one plan; which one, only its requests say.
    let shown: Vec<CounterAnswer> = counters
        .iter()
        .filter(|counter| !counter.tier.starts_with("plan ") || used(&counter.usage) > 0)
        .cloned()
        .collect();
    global.output.print(&value, || counters_text(key, &shown, &silent));
    Ok(())
}

async fn run_fence(global: &cli::Global, region: &RegionId, reason: &str, alive: bool) -> Result<()> {
    let request = FenceRequest { region: region.clone(), reason: reason.to_owned(), alive };
    let client = client(global)?;
    let mut answer = post(&client, "/v1/limits/fence", &request).await?;
    let ChangeAnswer { stay, .. } = typed(&answer)?;
    let changes = await_changes(&client, region).await?;
    answer["changes"] = json!(changes);
    global.output.print(&answer, || {
        let effects: String = changes.iter().map(effect).chain(stay.iter().map(stays)).collect();
        format!(
            "{region} is fenced: the other regions get its shares; of limits without `reclaim`, what it spends from then \
             on, if it lives, is beyond them; `limits unfence {region}` ends it\n{effects}"
        )
    });
    Ok(())
}

fn stays(limit: &Name) -> String {
    format!("the shares of {limit} stay: no region that is not fenced has a part of them\n")
}

/// Splits that are about to change, once the fence is known and every node has acknowledged them, or enough time has
/// passed.
async fn await_changes(client: &Client, fenced: &RegionId) -> Result<Vec<SplitChangeAnswer>> {
    let began = Instant::now();
    loop {
        let answer: LimitsAnswer = typed(&client.get("/v1/limits").await?)?;
        let waits = answer.changes.iter().any(|change| change.from.is_none());
        if (!waits && answer.fences.contains_key(fenced)) || began.elapsed() >= ACKNOWLEDGED_WITHIN {
            return Ok(answer.changes);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// When a split changes, as a line.
fn effect(change: &SplitChangeAnswer) -> String {
    match &change.from {
        Some(from) => format!("  {}: with the first window that begins at {from} or after\n", change.limit),
        None => {
            let missing: Vec<&str> = change.waits_for.iter().map(NodeName::as_str).collect();
            format!(
                "  {}: with a window that begins after {} acknowledged it\n",
                change.limit,
                if missing.is_empty() { "all nodes".to_owned() } else { missing.join(", ") }
            )
        }
    }
}

async fn run_unfence(global: &cli::Global, region: &RegionId) -> Result<()> {
    let answer = post(&client(global)?, "/v1/limits/unfence", &UnfenceRequest { region: region.clone() }).await?;
    global.output.print(&answer, || {
        format!("{region} gets its shares back once all regions know, and not before its fence has taken effect\n")
    });
    Ok(())
}

/// Nodes that are asked at one time.
const AT_ONCE: usize = 64;

/// Asks every node without waiting for one after the other; those that do not answer are told of, unless none does.
async fn ask_all<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    body: Option<&Value>,
) -> Result<(Vec<T>, Vec<String>)> {
    let ask = |node| {
        let only = client.only(node);
        async move {
            let answer = match body {
                Some(body) => only.post(path, body).await,
                None => only.get(path).await,
            };
            answer.and_then(|answer| typed(&answer))
        }
    };
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    let mut asked = stream::iter(client.nodes().iter().map(ask)).buffered(AT_ONCE);
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                let error = format!("{error:#}");
                silent.push(error.strip_prefix(NO_ANSWER).unwrap_or(&error).trim_start().to_owned());
            }
        }
    }
    match answers.is_empty() {
        true => bail!("{NO_ANSWER}\n  {}", silent.join("\n  ")),
        false => Ok((answers, silent)),
    }
}

/// One entry per budget, of the newest slot that any node is in. Each node tells of the keys that it owns, so the nodes of
/// a region add up; what regions know of each other overlaps.
fn join_budgets(answers: &[LimitsAnswer]) -> Vec<BudgetAnswer> {
    let mut regions: BTreeMap<&RegionId, BTreeMap<(Name, u32), BudgetAnswer>> = BTreeMap::new();
    for answer in answers {
        let known = regions.entry(&answer.region).or_default();
        answer.budgets.iter().for_each(|budget| join_budget(known, budget, u64::saturating_add));
    }
    let mut joined = BTreeMap::new();
    for budget in regions.into_values().flat_map(BTreeMap::into_values) {
        join_budget(&mut joined, &budget, u64::max);
    }
    let mut budgets: Vec<BudgetAnswer> = joined.into_values().collect();
    for budget in &mut budgets {
        budget.busiest.sort_by_key(|key| std::cmp::Reverse(used(key)));
    }
    budgets
}

/// Joins what is told of one budget; `join` says how two amounts of use become one.
fn join_budget(joined: &mut BTreeMap<(Name, u32), BudgetAnswer>, other: &BudgetAnswer, join: fn(u64, u64) -> u64) {
    let place = (other.limit.clone(), other.id);
    match joined.get_mut(&place) {
        Some(held) if held.slot == other.slot => join_use(held, other, join),
        Some(held) if held.slot > other.slot => {}
        _ => {
            joined.insert(place, other.clone());
        }
    }
}

fn join_use(held: &mut BudgetAnswer, other: &BudgetAnswer, join: fn(u64, u64) -> u64) {
    for (region, used) in &other.used {
        let own = held.used.entry(region.clone()).or_default();
        *own = join(*own, *used);
    }
    held.keys = join(held.keys, other.keys);
    held.lent += other.lent;
    held.borrowed += other.borrowed;
    held.overdraft += other.overdraft;
    held.refused += other.refused;
    held.overshoot = held.overshoot.max(other.overshoot);
    held.last_overshoot = held.last_overshoot.max(other.last_overshoot);
    held.policy_in_force |= other.policy_in_force;
    if other.mode != held.mode {
        held.mode = format!("{}, {}", held.mode, other.mode);
    }
    for key in &other.busiest {
        match held.busiest.iter_mut().find(|held| held.key == key.key) {
            Some(held) => join_key(held, key),
            None => held.busiest.push(key.clone()),
        }
    }
}

fn join_counters(answers: &[ExplainKeyAnswer]) -> Vec<CounterAnswer> {
    let mut joined: BTreeMap<(Name, String), CounterAnswer> = BTreeMap::new();
    for counter in answers.iter().flat_map(|answer| &answer.counters) {
        let place = (counter.limit.clone(), counter.usage.key.clone());
        match joined.get_mut(&place) {
            Some(held) if held.usage.slot == counter.usage.slot => join_key(&mut held.usage, &counter.usage),
            Some(held) if held.usage.slot > counter.usage.slot => {}
            _ => {
                joined.insert(place, counter.clone());
            }
        }
    }
    joined.into_values().collect()
}

fn join_key(held: &mut KeyAnswer, other: &KeyAnswer) {
    held.name = held.name.take().or_else(|| other.name.clone());
    for (region, part) in &other.regions {
        let held = held.regions.entry(region.clone()).or_default();
        let lent = held.lent.max(part.lent);
        let borrowed = held.borrowed.max(part.borrowed);
        let share = held.share.max(part.share);
        *held = KeyRegionAnswer {
            share,
            lent,
            borrowed,
            rights: (share + borrowed).saturating_sub(lent),
            used: held.used.max(part.used),
            refused: held.refused.max(part.refused),
            demand: held.demand.max(part.demand),
            told: held.told || part.told,
        };
    }
}

fn used(key: &KeyAnswer) -> u64 {
    key.regions.values().map(|part| part.used).sum()
}

fn overview_text(answers: &[LimitsAnswer], budgets: &[BudgetAnswer], silent: &[String]) -> String {
    let mut text = String::new();
    let mut table = Table::new([
        "limit",
        "quota of",
        "counts",
        "per",
        "policy",
        "state",
        "keys",
        "used by region",
        "refused",
        "over",
    ]);
    for budget in budgets {
        let policy = match (budget.policy_in_force, budget.shadow) {
            (true, _) => format!("{}, in force", budget.on_partition),
            (false, true) => format!("{}, shadow", budget.on_partition),
            (false, false) => budget.on_partition.clone(),
        };
        table.row([
            budget.limit.to_string(),
            budget.tier.clone(),
            budget.counts.clone(),
            budget.key.clone(),
            policy,
            budget.mode.clone(),
            budget.keys.to_string(),
            by_region(&budget.used),
            budget.refused.to_string(),
            over(budget),
        ]);
    }
    text.push_str(&table.to_string());
    for budget in budgets.iter().filter(|budget| !budget.busiest.is_empty()) {
        text.push_str(&format!("\nbusiest keys of {} ({}), slot {}\n", budget.limit, budget.tier, budget.slot));
        text.push_str(&keys_table(&budget.busiest, budget.quota).to_string());
    }
    text.push_str(&surroundings(answers, silent));
    text
}

fn over(budget: &BudgetAnswer) -> String {
    match (budget.overshoot, budget.last_overshoot) {
        (0, _) => "never".to_owned(),
        (all, last) => format!("{all} in all, {last} last"),
    }
}

fn keys_table(keys: &[KeyAnswer], quota: u64) -> Table {
    let mut table =
        Table::new(["key", "used", "of", "region", "used there", "refused", "rights", "share", "borrowed", "lent"]);
    for key in keys {
        let name = key.name.clone().unwrap_or_else(|| format!("#{}", key.key));
        let mut first = [name, used(key).to_string(), quota.to_string()];
        for (region, part) in &key.regions {
            let there = if part.told { part.used.to_string() } else { "less than half".to_owned() };
            let [name, total, of] = std::mem::take(&mut first);
            table.row([
                name,
                total,
                of,
                region.to_string(),
                there,
                part.refused.to_string(),
                part.rights.to_string(),
                part.share.to_string(),
                part.borrowed.to_string(),
                part.lent.to_string(),
            ]);
        }
    }
    table
}

/// What stands beside the limits: peers that are not well, lenders, fences, nodes that did not answer.
fn surroundings(answers: &[LimitsAnswer], silent: &[String]) -> String {
    let mut lines = Vec::new();
    for answer in answers {
        for (region, peer) in answer.peers.iter().filter(|(_, peer)| peer.state != "fresh") {
            lines.push(format!("{} finds {region} {} (heard {} ms ago)", answer.node, peer.state, peer.heard_ms));
        }
        for (lender, state) in answer.lenders.iter().filter(|(_, state)| !state.reachable) {
            lines.push(format!("{} cannot reach lender {lender}", answer.node));
            let _ = state;
        }
    }
    answers.iter().for_each(|answer| lines.extend(waits(answer)));
    for change in
        answers.iter().flat_map(|answer| &answer.changes).filter(|c| c.from.is_none()).collect::<BTreeSet<_>>()
    {
        lines.push(format!("a split changes: {}", effect(change).trim()));
    }
    for lapsed in answers.iter().flat_map(|answer| &answer.lapsed).collect::<BTreeSet<_>>() {
        let LapsedAnswer { limit, region, from } = lapsed;
        lines.push(format!("{region} has lost its lease of {limit}: others have its share of windows from {from} on"));
    }
    for (region, fence) in answers.iter().flat_map(|answer| &answer.fences).collect::<BTreeMap<_, _>>() {
        lines.push(format!("{region} is fenced: {} (by {}, {})", fence.reason, fence.author, fence.at));
    }
    lines.extend(silent.iter().map(|line| format!("no answer from {line}")));
    lines.iter().fold(String::from(if lines.is_empty() { "" } else { "\n" }), |text, line| text + line + "\n")
}

/// What one node waits for, and what it has no room for.
fn waits(LimitsAnswer { node, waits, marks_full, .. }: &LimitsAnswer) -> Vec<String> {
    let mut lines = Vec::new();
    if waits.shards > 0 {
        let nodes: Vec<&str> = waits.nodes.iter().map(NodeName::as_str).collect();
        let of = if nodes.is_empty() { "the others of its region".to_owned() } else { nodes.join(", ") };
        lines.push(format!("{node} waits for what {of} spent of {} of 256 parts of its keys", waits.shards));
    }
    for OverShareAnswer { limit, keys, in_flight, share } in &waits.over {
        lines.push(format!(
            "{node} waits until requests under {limit} end: of {keys} keys more is in flight than the share of {share} \
             that it changes to, of one {in_flight}"
        ));
    }
    if *marks_full > 0 {
        lines.push(format!(
            "{node} had no room for {marks_full} marks of long windows: limits without one are held to a tenth of their share"
        ));
    }
    lines
}

fn counters_text(key: &str, counters: &[CounterAnswer], silent: &[String]) -> String {
    let mut text = String::new();
    for counter in counters {
        let route = counter.route.as_ref().map_or_else(String::new, |route| format!(" on route {route}"));
        text.push_str(&format!(
            "{key} in {}{route}, counted by {}: {} of {} used in slot {}\n  quota of {}: {}; {}, policy {}\n",
            counter.limit,
            counter.counted_by,
            used(&counter.usage),
            counter.quota,
            counter.usage.slot,
            counter.tier,
            counter.counts,
            counter.mode,
            counter.on_partition,
        ));
        let mut table =
            Table::new(["region", "used", "refused", "rights", "share", "borrowed", "lent", "asked for per second"]);
        for (region, part) in &counter.usage.regions {
            let there = if part.told { part.used.to_string() } else { "less than half of its share".to_owned() };
            table.row([
                region.to_string(),
                there,
                part.refused.to_string(),
                part.rights.to_string(),
                part.share.to_string(),
                part.borrowed.to_string(),
                part.lent.to_string(),
                part.demand.to_string(),
            ]);
        }
        text.push_str(&format!("{table}\n"));
    }
    text.push_str(&surroundings(&[], silent));
    text
}

fn by_region(used: &BTreeMap<RegionId, u64>) -> String {
    let parts: Vec<String> = used.iter().map(|(region, used)| format!("{region} {used}")).collect();
    parts.join(", ")
}

/// Nodes that are well acknowledge a change within a second.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

const ASK_AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node in `region` tells of the one limit.
    fn answer(region: &str, slot: u64, keys: u64, used: [u64; 2]) -> LimitsAnswer {
        let used = json!({ "a": used[0], "b": used[1] });
        let budget = json!({
            "limit": "api", "id": 1, "tier": "limit", "key": "user", "counts": "100/min", "quota": 100,
            "window_ms": 60_000, "on_partition": "static", "mode": "healthy", "policy_in_force": false,
            "shadow": false, "slot": slot, "keys": keys, "used": used, "busiest": [], "lent": 0, "borrowed": 0,
            "overdraft": 0, "refused": 0, "overshoot": 0, "last_overshoot": 0,
        });
        let node = format!("{region}-1");
        let answer = json!({
            "node": node, "region": region, "revision": 1, "budgets": [budget], "peers": {}, "lenders": {}, "fences": {},
            "lapsed": [], "changes": [], "waits": { "shards": 0, "nodes": [], "over": [] }, "marks_full": 0,
        });
        serde_json::from_value(answer).expect("an answer")
    }

    #[test]
    fn nodes_of_a_region_add_up_and_what_regions_know_of_each_other_does_not() {
        let answers = [
            answer("a", 7, 10, [30, 1]),
            answer("a", 7, 20, [50, 2]),
            answer("b", 7, 5, [60, 40]),
            answer("b", 6, 900, [900, 900]),
        ];
        let budgets = join_budgets(&answers);
        let [budget] = budgets.as_slice() else { panic!("one budget: {budgets:?}") };
        let used: Vec<(&str, u64)> = budget.used.iter().map(|(region, used)| (region.as_str(), *used)).collect();
        assert_eq!((budget.slot, budget.keys, used), (7, 30, vec![("a", 80), ("b", 40)]));
    }

    #[test]
    fn what_a_node_waits_for_and_has_no_room_for_is_said() {
        let mut told = answer("a", 7, 10, [30, 1]);
        assert_eq!(waits(&told), Vec::<String>::new());
        told.waits.shards = 80;
        told.waits.nodes = vec![NodeName::new("a-2").expect("a name")];
        let limit = Name::new("api").expect("a name");
        told.waits.over = vec![OverShareAnswer { limit, keys: 2, in_flight: 9, share: 5 }];
        told.marks_full = 3;
        assert_eq!(
            waits(&told),
            [
                "a-1 waits for what a-2 spent of 80 of 256 parts of its keys",
                "a-1 waits until requests under api end: of 2 keys more is in flight than the share of 5 that it changes \
                 to, of one 9",
                "a-1 had no room for 3 marks of long windows: limits without one are held to a tenth of their share",
            ]
        );
    }
}
