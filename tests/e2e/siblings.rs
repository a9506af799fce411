//! Three nodes in each region never admit more than the limit, and use it, also when the node that owns most keys is killed.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use portolan_tests::{Document, Fleet, Load, Options, Report, Target, until};
use serde_json::Value;

use crate::support::{check_bound, is_limit, warm};

const NODES: usize = 3;

const LIMIT: u64 = 600;

/// Requests per second over all nodes: twice the limit.
const RATE: u64 = 1200;

/// What warm slots admit at least, mean in percent of the limit. A node whose chunk is empty waits 5 ms for its owner, in
/// vain where the processor is taken: nine processes on a busy machine leave a quarter. The simulator has the figures.
const USED: u64 = 50;

/// Chunks and loans find their places within a few slots.
const WARM: usize = 4;

/// At the end every surviving node has admitted something for so long.
const LAST: Duration = Duration::from_secs(4);

const STEADY: Duration = Duration::from_secs(12);

/// A node that is gone is found silent, the roster changes, and the next owner waits for the old one's horizon.
const AFTER: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_region_share_a_limit_and_survive_the_owner_of_most_keys() {
    let document = Document::default().limit("shared", &format!("key: global, rate: {LIMIT}/s"));
    let arguments = vec!["--nodes-per-region".to_owned(), NODES.to_string()];
    let mut fleet = Fleet::start(Options { arguments, document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    until("every node to own shards", Duration::from_secs(20), || async {
        (shards(&fleet).len() == NODES * fleet.regions().len()).then_some(())
    })
    .await;
    let load = Load::start(&host, targets(&fleet));
    tokio::time::sleep(STEADY).await;
    let steady = Duration::ZERO..load.elapsed();

    let owned = shards(&fleet);
    let (victim, most) = owned.iter().max_by_key(|(_, count)| **count).expect("nodes");
    println!("{victim} owns {most} of 256 shards and is killed");
    fleet.kill_node(victim);
    tokio::time::sleep(AFTER).await;
    let end = load.elapsed();
    let report = load.stop().await;
    println!("{}", report.summary());

    check_bound(&report.admissions(), "shared", LIMIT);
    let slots = whole_slots(&report, &steady);
    let warm = &slots[WARM.min(slots.len())..];
    assert!(warm.len() >= 4, "too few warm slots: {slots:?}");
    let mean = warm.iter().sum::<u64>() / warm.len() as u64;
    println!("warm slots admit {mean} of {LIMIT}, in turn {slots:?}");
    assert!(mean * 100 >= LIMIT * USED, "refused with room: {slots:?} of {LIMIT}");
    let survivors = nodes(&fleet).into_iter().filter(|node| node != victim);
    for node in survivors {
        let last = report.samples.iter().filter(|sample| sample.name == node && sample.at + LAST > end);
        let last: Vec<_> = last.map(|sample| &sample.outcome).collect();
        assert!(last.iter().any(|outcome| **outcome == Ok(200)), "{node} admits nothing without {victim}");
        assert!(last.iter().all(|outcome| outcome.is_ok()), "{node} fails: {last:?}");
    }
}

fn nodes(fleet: &Fleet) -> Vec<String> {
    fleet.regions().iter().flat_map(|region| (1..=NODES).map(move |n| format!("{region}-{n}"))).collect()
}

/// The limit is pressed at every node alike.
fn targets(fleet: &Fleet) -> Vec<Target> {
    let nodes = nodes(fleet);
    let rate = u32::try_from(RATE.div_ceil(nodes.len() as u64)).expect("small");
    let stream = |node: String| Target {
        address: fleet.https_of(&node),
        name: node,
        path: "/shared/x".to_owned(),
        token: None,
        rate,
    };
    nodes.into_iter().map(stream).collect()
}

/// How many shards each node owns in its region, as a node that answers sees it.
fn shards(fleet: &Fleet) -> BTreeMap<String, u64> {
    let Some(status) = fleet.status("us-east") else { return BTreeMap::new() };
    let nodes = status["nodes"].as_object().into_iter().flatten();
    let owned = |(name, node): (&String, &Value)| Some((name.clone(), node["shards"].as_u64().filter(|n| *n > 0)?));
    nodes.filter_map(owned).collect()
}

/// Admissions of each slot that lies wholly within a phase of the load, in order.
fn whole_slots(report: &Report, phase: &Range<Duration>) -> Vec<u64> {
    let mut slots = BTreeMap::<u64, u64>::new();
    for sample in report.samples.iter().filter(|sample| phase.contains(&sample.at) && sample.outcome == Ok(200)) {
        for (_, slot) in sample.slots.iter().filter(|(key, _)| is_limit(key, "shared")) {
            *slots.entry(*slot).or_default() += 1;
        }
    }
    // The first and the last are cut by the phase.
    slots.values().copied().skip(1).take(slots.len().saturating_sub(2)).collect()
}
