//! Limits as this node sees them, and the orders that concern their shares. Decides nothing about a share: a fence goes
//! through Raft like every change.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::Response,
};
use portolan_config::{Fence, Intent};
use portolan_limits::{Key, KeyUsage, LimitUsage, Mode, OverShare, PeerState, Waits};
use portolan_model::RegionId;
use portolan_node::{Binding, Tier, View};

use super::{
    AdminState,
    problem::{Failure, json, read_json},
    status::{millis, mode_word},
};
use crate::api::{
    BudgetAnswer, CounterAnswer, ExplainKeyAnswer, ExplainKeyRequest, FenceAnswer, KeyAnswer, KeyRegionAnswer,
    LapsedAnswer, LenderAnswer, LimitsAnswer, OverShareAnswer, PeerAnswer, SplitChangeAnswer, WaitsAnswer,
};

/// Longest key that is explained, in bytes.
const MAX_KEY: usize = 1024;

/// Counters that one key may mean: a limit `per: route` has one per route and plan.
const MAX_COUNTERS: usize = 2000;

type Body = Result<Bytes, BytesRejection>;
type Names = BTreeMap<Key, String>;

/// `GET /v1/limits`.
pub(super) async fn limits(State(state): State<Arc<AdminState>>) -> Result<Response, Failure> {
    let status = state.node_status().await?;
    let view = state.view.load_full();
    let names = state.proxy.key_names();
    let peers = status.limit_peers.iter().map(|peer| {
        let answer = PeerAnswer {
            state: peer_word(peer.state).to_owned(),
            heard_ms: millis(peer.heard),
            hears_us_ms: millis(peer.hears_us),
        };
        (peer.region.clone(), answer)
    });
    let lenders = state.lenders.all().into_iter().map(|(name, counters)| {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        let answer = LenderAnswer {
            reachable: counters.is_reachable(),
            lent: read(&counters.lent),
            answered: read(&counters.answered),
            failed: read(&counters.failed),
        };
        (name, answer)
    });
    Ok(json(&LimitsAnswer {
        node: state.me.name.clone(),
        region: state.me.region.clone(),
        revision: view.revision,
        budgets: status.limits.iter().filter_map(|usage| budget(&view, usage, &names)).collect(),
        peers: peers.collect(),
        lenders: lenders.collect(),
        fences: view.intent.limits.fences().iter().map(fence).collect(),
        lapsed: lapsed(&view.intent),
        changes: changes(&view.intent),
        waits: waits(&view, &status.limit_waits),
        marks_full: status.limit_counts.marks_full,
    }))
}

/// `POST /v1/limits/explain`.
pub(super) async fn explain(State(state): State<Arc<AdminState>>, body: Body) -> Result<Response, Failure> {
    let ExplainKeyRequest { key, limit } = read_json(body)?;
    if key.len() > MAX_KEY {
        return Err(Failure::bad_request(format!("`key` has more than {MAX_KEY} bytes")));
    }
    let view = state.view.load_full();
    let meant = view.meant(&key, limit.as_ref(), MAX_COUNTERS + 1);
    if meant.len() > MAX_COUNTERS {
        let why = format!("`key` can mean more than {MAX_COUNTERS} counters; name a `limit` that has fewer");
        return Err(Failure::bad_request(why));
    }
    let places: Vec<_> = meant.iter().map(|(_, meant)| (meant.limit, meant.key)).collect();
    let usage = state.node.counters(&places).await.ok_or_else(|| Failure::unavailable("the node is shutting down"))?;
    let counters = meant.into_iter().zip(usage).filter_map(|((binding, meant), usage)| {
        let usage = usage?;
        let mode = view.limiter.mode(meant.limit).unwrap_or(Mode::Degraded);
        let names = Names::from([(meant.key, key.clone())]);
        let algorithm = binding.algorithm_of(&meant.tier);
        Some(CounterAnswer {
            limit: binding.limit.name.clone(),
            counted_by: binding.limit.key.to_string(),
            tier: tier_word(binding, &meant.tier),
            route: meant.route,
            quota: algorithm.quota(),
            counts: algorithm.to_string(),
            on_partition: binding.limit.on_partition.to_string(),
            mode: mode_word(mode).to_owned(),
            usage: key_answer(&usage, &names),
        })
    });
    Ok(json(&ExplainKeyAnswer {
        node: state.me.name.clone(),
        region: state.me.region.clone(),
        revision: view.revision,
        counters: counters.collect(),
    }))
}

fn fence((region, fence): (&RegionId, &Fence)) -> (RegionId, FenceAnswer) {
    let Fence { reason, author, at } = fence;
    (region.clone(), FenceAnswer { reason: reason.clone(), author: author.clone(), at: at.to_string() })
}

fn lapsed(intent: &Intent) -> Vec<LapsedAnswer> {
    let lapsed = intent.leases.lapsed().map(|(limit, region, from)| LapsedAnswer {
        limit: limit.clone(),
        region: region.clone(),
        from: from.to_string(),
    });
    lapsed.collect()
}

fn waits(view: &View, Waits { shards, nodes, over }: &Waits) -> WaitsAnswer {
    let over = over.iter().filter_map(|&OverShare { limit, keys, in_flight, share }| {
        let (binding, _) = view.budget(limit)?;
        Some(OverShareAnswer { limit: binding.limit.name.clone(), keys, in_flight, share })
    });
    WaitsAnswer { shards: *shards, nodes: nodes.clone(), over: over.collect() }
}

fn changes(intent: &Intent) -> Vec<SplitChangeAnswer> {
    let pending = intent.limits.pending(&intent.leases, &intent.rosters);
    let waiting = pending.map(|pending| SplitChangeAnswer {
        limit: pending.limit.clone(),
        from: None,
        waits_for: pending.missing.into_iter().cloned().collect(),
    });
    let settled = intent.snapshot.limits.keys().filter_map(|limit| {
        let from = intent.limits.shares(limit)?.change.as_ref()?.from?;
        Some(SplitChangeAnswer { limit: limit.clone(), from: Some(from.to_string()), waits_for: Vec::new() })
    });
    waiting.chain(settled).collect()
}

fn budget(view: &View, usage: &LimitUsage, names: &Names) -> Option<BudgetAnswer> {
    let (binding, tier) = view.budget(usage.limit)?;
    Some(BudgetAnswer {
        limit: binding.limit.name.clone(),
        id: usage.limit.0,
        tier: tier_word(binding, &tier),
        key: binding.limit.key.to_string(),
        counts: binding.algorithm_of(&tier).to_string(),
        quota: usage.quota,
        window_ms: millis(usage.window),
        on_partition: binding.limit.on_partition.to_string(),
        mode: mode_word(usage.mode).to_owned(),
        policy_in_force: usage.mode == Mode::Degraded,
        shadow: binding.limit.shadow,
        slot: usage.slot,
        keys: usage.keys,
        used: usage.spent.iter().cloned().collect(),
        busiest: usage.busiest.iter().map(|key| key_answer(key, names)).collect(),
        lent: usage.tally.lent,
        borrowed: usage.tally.borrowed,
        overdraft: usage.tally.overdraft,
        refused: usage.tally.refused,
        overshoot: usage.tally.overshoot,
        last_overshoot: usage.tally.last_overshoot,
    })
}

fn key_answer(usage: &KeyUsage, names: &Names) -> KeyAnswer {
    let region = |region: &portolan_limits::RegionUsage| {
        let answer = KeyRegionAnswer {
            share: region.base,
            lent: region.lent,
            borrowed: region.borrowed,
            rights: region.rights,
            used: region.consumed,
            refused: region.refused,
            demand: region.demand,
            told: region.told,
        };
        (region.region.clone(), answer)
    };
    let regions: BTreeMap<RegionId, KeyRegionAnswer> = usage.regions.iter().map(region).collect();
    KeyAnswer { key: usage.key.to_string(), name: names.get(&usage.key).cloned(), slot: usage.slot, regions }
}

fn tier_word(binding: &Binding, tier: &Tier) -> String {
    match tier {
        Tier::Own => "limit".to_owned(),
        Tier::Plan(plan) => format!("plan {plan}"),
        Tier::Override(consumer) => format!("override {}", binding.shown_consumer(consumer)),
    }
}

/// `fresh`, `healing`, `stale` or `unheard`.
fn peer_word(state: PeerState) -> &'static str {
    match state {
        PeerState::Fresh => "fresh",
        PeerState::Healing => "healing",
        PeerState::Stale => "stale",
        PeerState::Unheard => "unheard",
    }
}
