//! What the cluster agrees on about its limits: numbers of plans and overrides, splits that change only when every node
//! has acknowledged, and fences.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{bundle, regions};
use portolan_config::{Applied, Change, Command, Consumers, Intent, Refusal};
use portolan_model::{MemberId, Name, NodeName, RegionId, WallTime};

/// Three regions with a node each, in the order of the map: ap-southeast, eu-west, us-east.
fn fleet() -> Intent {
    let mut intent = Intent::new(Arc::new(regions()));
    for (member, id) in ["ap-southeast", "eu-west", "us-east"].into_iter().enumerate() {
        let member = MemberId(member as u64);
        let (node, region) = (node(&format!("{id}-1")), region(id));
        accept(&mut intent, &Change::Join { node, region, member }.at(at(0)));
    }
    intent
}

fn accept(intent: &mut Intent, command: &Command) {
    let applied = intent.apply(command);
    assert!(!matches!(applied, Applied::Refused(_)), "{command:?}: {applied:?}");
}

fn at(secs: u64) -> WallTime {
    WallTime::from_unix_millis(secs * 1000)
}

fn region(id: &str) -> RegionId {
    RegionId::new(id).expect("a region")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a node")
}

fn limit() -> Name {
    Name::new("a").expect("a name")
}

fn apply(intent: &mut Intent, limit: &str, secs: u64) {
    let text = format!("version: 1\nlimits: {{ a: {{ {limit} }} }}\n");
    accept(intent, &Change::Apply { bundle: bundle(&text), author: "ann".into(), expected: None }.at(at(secs)));
}

/// Lets a node acknowledge what it should.
fn acknowledge(intent: &mut Intent, name: &str, secs: u64) {
    let command = intent.acknowledgement(&node(name), at(secs)).expect("there is something to acknowledge");
    accept(intent, &command);
}

fn all_acknowledge(intent: &mut Intent, secs: u64) {
    for name in ["ap-southeast-1", "eu-west-1", "us-east-1"] {
        if let Some(command) = intent.acknowledgement(&node(name), at(secs)) {
            accept(intent, &command);
        }
    }
}

/// Nodes that a change of the limit `a` waits for.
fn missing(intent: &Intent) -> Vec<&str> {
    let pending = intent.limits.pending(&intent.leases, &intent.rosters);
    pending.flat_map(|pending| pending.missing).map(NodeName::as_str).collect()
}

/// Weights, and the moment in seconds from which they hold.
type NextWeights = (Vec<u32>, Option<u64>);

/// The split of the limit `a`: weights, and what follows them.
fn split(intent: &Intent) -> (Vec<u32>, Option<NextWeights>) {
    let plan = intent.limits.shares(&limit()).expect("the limit is in force").clone();
    let change = plan.change.map(|change| (change.weights, change.from.map(WallTime::as_unix_secs)));
    (plan.weights, change)
}

fn budgets(intent: &Intent) -> String {
    let shown = intent.limits.budgets(&intent.snapshot).map(|budget| {
        let whose = match budget.consumers {
            Consumers::All => "all".to_owned(),
            Consumers::Plan(plan) => plan.to_owned(),
            Consumers::One(consumer) => format!("={consumer}"),
        };
        let (id, generation) = (budget.binding.id.0, budget.binding.generation);
        format!("{whose} {id}.{generation} {}", budget.algorithm().quota())
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[test]
fn each_plan_and_override_is_a_budget_with_a_number_of_its_own() {
    let mut intent = fleet();
    let mut check = |limit: &str, expected: &str| {
        apply(&mut intent, limit, 1);
        assert_eq!(budgets(&intent), expected, "{limit}");
        // A Raft snapshot leaves the names out and finds them again.
        let bytes = intent.to_bytes().expect("encodes");
        let read = Intent::from_bytes(&bytes, Arc::new(regions())).expect("decodes");
        assert_eq!(budgets(&read), expected, "{limit}");
    };
    let plans = |quotas: &str| format!("key: user, rate: 60/min, plans: {{ claim: plan, quotas: {{ {quotas} }} }}");
    check("key: user, rate: 60/min", "all 1.1 60");
    check(&plans("free: 5, pro: 600"), "all 1.1 60, free 2.1 5, pro 3.1 600");
    check(&plans("free: 6, pro: 600"), "all 1.1 60, free 2.2 6, pro 3.1 600");
    check(&format!("{}, overrides: {{ bob: 7 }}", plans("pro: 600")), "all 1.1 60, pro 3.1 600, =bob 4.1 7");
    check(&plans("free: 6, pro: 601"), "all 1.1 60, free 5.1 6, pro 3.2 601");
    // Another key makes all counts start anew.
    check(&plans("pro: 601").replace("key: user", "key: [user, route]"), "all 6.1 60, pro 7.1 601");
    // The burst of a plan keeps its proportion to the limit's.
    check(
        "key: user, rate: 60/min, algorithm: token_bucket, burst: 6, overrides: { bob: 10 }",
        "all 8.1 60, =bob 9.1 10",
    );
    check(
        "key: user, rate: 60/min, algorithm: token_bucket, burst: 12, overrides: { bob: 10 }",
        "all 8.2 60, =bob 9.2 10",
    );
}

#[test]
fn another_lender_or_another_address_of_it_makes_counts_start_anew() {
    let mut intent = fleet();
    let mut check = |lender: &str, address: &str, expected: &str| {
        let lenders = format!("lenders: {{ x: {{ redis: {address} }}, y: {{ redis: redis://10.0.0.9:6379/0 }} }}");
        let text = format!("version: 1\n{lenders}\nlimits: {{ a: {{ key: user, quota: 90/month{lender} }} }}\n");
        accept(&mut intent, &Change::Apply { bundle: bundle(&text), author: "ann".into(), expected: None }.at(at(1)));
        assert_eq!(budgets(&intent), expected, "{text}");
        assert_eq!(split(&intent), (vec![], None));
    };
    let (one, two) = ("redis://10.0.0.1:6379/0", "redis://10.0.0.2:6379/0");
    check("", one, "all 1.1 90");
    // Regions have a third each of the slot, and the lender would lend four fifths of it again.
    check(", lender: x", one, "all 2.1 90");
    check(", lender: x", two, "all 3.1 90");
    check(", lender: y", two, "all 4.1 90");
    check(", lender: y, shares: demand", one, "all 4.1 90");
    check("", two, "all 5.1 90");
}

#[test]
fn a_new_limit_has_its_shares_at_once_and_a_changed_one_when_all_have_acknowledged() {
    let mut intent = fleet();
    apply(&mut intent, "key: global, rate: 10/10s, shares: { ap-southeast: 6, eu-west: 3, us-east: 1 }", 100);
    assert_eq!(split(&intent), (vec![6, 3, 1], None));
    apply(&mut intent, "key: global, rate: 10/10s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 200);
    let waiting = (vec![6, 3, 1], Some((vec![1, 3, 6], None)));
    assert_eq!(split(&intent), waiting);
    acknowledge(&mut intent, "ap-southeast-1", 201);
    acknowledge(&mut intent, "us-east-1", 202);
    assert_eq!(missing(&intent), ["eu-west-1"]);
    // However long it takes.
    accept(&mut intent, &Change::Settle.at(at(9000)));
    assert_eq!(split(&intent), waiting);
    assert_eq!(intent.acknowledgement(&node("us-east-1"), at(9001)), None);
    acknowledge(&mut intent, "eu-west-1", 9002);
    // With the first window that nobody can have lent of.
    assert_eq!(split(&intent), (vec![6, 3, 1], Some((vec![1, 3, 6], Some(9005)))));
    assert_eq!(intent.acknowledgement(&node("eu-west-1"), at(9003)), None);
}

#[test]
fn a_node_that_lost_its_past_acknowledges_again_and_one_off_the_roster_is_waited_for_until_the_others_go_on_without_it()
{
    let mut intent = fleet();
    let join = |name: &str, id: &str, member| {
        Change::Join { node: node(name), region: region(id), member: MemberId(member) }.at(at(5))
    };
    accept(&mut intent, &join("eu-west-2", "eu-west", 9));
    apply(&mut intent, "key: global, rate: 10/s", 100);
    apply(&mut intent, "key: global, rate: 10/s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 101);
    all_acknowledge(&mut intent, 102);
    assert_eq!(split(&intent).1, Some((vec![1, 3, 6], None)), "eu-west-2 has not acknowledged");
    accept(&mut intent, &join("us-east-1", "us-east", 77));
    let present = vec![node("eu-west-1")];
    let expected = intent.rosters[&region("eu-west")].epoch;
    accept(&mut intent, &Change::Roster { region: region("eu-west"), expected, present }.at(at(103)));
    assert_eq!(split(&intent).1, Some((vec![1, 3, 6], None)), "us-east-1 came without its past");
    acknowledge(&mut intent, "us-east-1", 104);
    // Nobody hears eu-west-2, which may live on beside its standby and go on by the split that it knows.
    assert_eq!(missing(&intent), ["eu-west-2"]);
    assert_eq!(intent.takeover(&node("eu-west-1"), expected, at(104)), None, "under the roster before");
    assert_eq!(intent.takeover(&node("eu-west-2"), expected + 1, at(104)), None, "it is not listed");
    let stale = Change::TakeOver { node: node("eu-west-1"), epoch: expected }.at(at(104));
    assert!(matches!(intent.apply(&stale), Applied::Refused(Refusal::StaleRoster { .. })));
    assert_eq!(split(&intent).1, Some((vec![1, 3, 6], None)));
    let command = intent.takeover(&node("eu-west-1"), expected + 1, at(104)).expect("it is waited for");
    accept(&mut intent, &command);
    assert_eq!(intent.takeover(&node("eu-west-1"), expected + 1, at(105)), None);
    assert_eq!(split(&intent).1, Some((vec![1, 3, 6], Some(107))));
}

#[test]
fn who_is_dropped_is_waited_for_until_it_speaks_is_replaced_or_all_that_are_listed_have_taken_over() {
    let eu = region("eu-west");
    let join = |name: &str, member| {
        Change::Join { node: node(name), region: region("eu-west"), member: MemberId(member) }.at(at(5))
    };
    let list = |intent: &mut Intent, names: &[&str]| {
        let (expected, present) = (intent.rosters[&eu].epoch, names.iter().map(|name| node(name)).collect());
        accept(intent, &Change::Roster { region: eu.clone(), expected, present }.at(at(6)));
    };
    let take_over = |intent: &mut Intent, name: &str| {
        let command = intent.takeover(&node(name), intent.rosters[&eu].epoch, at(7)).expect("it is waited for");
        accept(intent, &command);
    };
    let pending = || {
        let mut intent = fleet();
        accept(&mut intent, &join("eu-west-2", 9));
        accept(&mut intent, &join("eu-west-3", 10));
        apply(&mut intent, "key: global, rate: 10/s", 100);
        list(&mut intent, &["eu-west-1", "eu-west-2"]);
        apply(&mut intent, "key: global, rate: 10/s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 101);
        for name in ["ap-southeast-1", "us-east-1", "eu-west-1", "eu-west-2"] {
            acknowledge(&mut intent, name, 102);
        }
        assert_eq!(missing(&intent), ["eu-west-3"]);
        intent
    };
    // Both that are listed have to take over, under one roster.
    let mut intent = pending();
    take_over(&mut intent, "eu-west-1");
    assert_eq!(missing(&intent), ["eu-west-3"]);
    list(&mut intent, &["eu-west-2"]);
    take_over(&mut intent, "eu-west-2");
    assert_eq!(missing(&intent), [""; 0]);
    // A Raft snapshot does not forget it, nor does a roster that lists it and drops it again.
    let mut intent = pending();
    take_over(&mut intent, "eu-west-1");
    list(&mut intent, &["eu-west-1", "eu-west-2", "eu-west-3"]);
    list(&mut intent, &["eu-west-1", "eu-west-2"]);
    let bytes = intent.to_bytes().expect("encodes");
    let mut intent = Intent::from_bytes(&bytes, Arc::new(regions())).expect("decodes");
    assert_eq!(missing(&intent), ["eu-west-3"]);
    take_over(&mut intent, "eu-west-2");
    assert_eq!(missing(&intent), ["eu-west-3"]);
    take_over(&mut intent, "eu-west-1");
    assert_eq!(missing(&intent), [""; 0]);
    // It speaks, from wherever it is.
    let mut intent = pending();
    acknowledge(&mut intent, "eu-west-3", 103);
    assert_eq!(missing(&intent), [""; 0]);
    // It is replaced: the new one is listed, and speaks for itself.
    let mut intent = pending();
    accept(&mut intent, &join("eu-west-3", 11));
    acknowledge(&mut intent, "eu-west-3", 103);
    assert_eq!(missing(&intent), [""; 0]);
    // Its region is fenced.
    let mut intent = pending();
    let (reason, author) = ("flooded".to_owned(), "ann".to_owned());
    accept(&mut intent, &Change::FenceLimits { region: eu.clone(), reason, author }.at(at(104)));
    assert!(!missing(&intent).contains(&"eu-west-3"));
}

#[test]
fn a_count_changes_at_once_while_its_split_waits() {
    let mut intent = fleet();
    apply(&mut intent, "key: global, rate: 10/s", 100);
    apply(&mut intent, "key: global, rate: 20/s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 101);
    assert_eq!(budgets(&intent), "all 1.2 20");
    assert_eq!(split(&intent), (vec![], Some((vec![1, 3, 6], None))));
    // A limit whose counts start anew has nothing to wait for.
    apply(&mut intent, "key: user, rate: 20/s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 102);
    assert_eq!(split(&intent), (vec![1, 3, 6], None));
}

#[test]
fn a_fenced_region_gives_its_share_to_the_others_and_gets_it_back() {
    let mut intent = fleet();
    apply(&mut intent, "key: global, rate: 10/s", 100);
    let order =
        |at| Change::FenceLimits { region: region("eu-west"), reason: "flooded".into(), author: "ann".into() }.at(at);
    accept(&mut intent, &order(at(200)));
    assert_eq!(split(&intent), (vec![], Some((vec![1, 0, 1], None))));
    assert_eq!(intent.limits.fences()[&region("eu-west")].author, "ann");
    // The dead one is not waited for.
    acknowledge(&mut intent, "ap-southeast-1", 201);
    acknowledge(&mut intent, "us-east-1", 202);
    assert_eq!(split(&intent).1, Some((vec![1, 0, 1], Some(205))));
    let again = intent.apply(&order(at(300)));
    assert_eq!(again.to_string_of_refusal(), "the limits of `eu-west` are fenced already, ordered by ann");
    // Every limit that comes now leaves it out from the start.
    apply(&mut intent, "key: user, rate: 9/s, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 }", 301);
    assert_eq!(split(&intent), (vec![1, 0, 6], None));
    accept(&mut intent, &Change::UnfenceLimits { region: region("eu-west"), author: "ann".into() }.at(at(400)));
    assert_eq!(split(&intent), (vec![1, 0, 6], Some((vec![1, 3, 6], None))));
    all_acknowledge(&mut intent, 401);
    assert_eq!(split(&intent).1, Some((vec![1, 3, 6], Some(404))));
    let history: Vec<&str> = intent.history().iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(history, ["apply", "fence limits of eu-west: flooded", "apply", "unfence limits of eu-west"]);
}

#[test]
fn a_fence_that_leaves_nobody_is_refused() {
    let mut intent = fleet();
    let fence =
        |id: &str| Change::FenceLimits { region: region(id), reason: "flooded".into(), author: "ann".into() }.at(at(1));
    accept(&mut intent, &fence("eu-west"));
    accept(&mut intent, &fence("us-east"));
    let refused = intent.apply(&fence("ap-southeast")).to_string_of_refusal();
    assert_eq!(refused, "`ap-southeast` is the last region that holds shares of limits; unfence another one first");
    let unfence = Change::UnfenceLimits { region: region("ap-southeast"), author: "ann".into() }.at(at(2));
    assert_eq!(intent.apply(&unfence).to_string_of_refusal(), "the limits of `ap-southeast` are not fenced");
    assert_eq!(intent.apply(&fence("mars")).to_string_of_refusal(), "the cluster has no region `mars`");
}

#[test]
fn shares_follow_demand_where_a_limit_asks_for_it() {
    let mut intent = fleet();
    let demand = |amounts: [u64; 3]| {
        let regions = ["ap-southeast", "eu-west", "us-east"].map(region);
        BTreeMap::from([(limit(), regions.into_iter().zip(amounts).collect::<BTreeMap<_, _>>())])
    };
    apply(&mut intent, "key: global, rate: 100/s", 100);
    assert_eq!(intent.weighings(&demand([80, 10, 10]), at(101)), []);
    apply(&mut intent, "key: global, rate: 100/s, shares: demand", 102);
    assert_eq!(split(&intent), (vec![], None), "equal until there was any demand");
    assert_eq!(intent.weighings(&demand([34, 33, 33]), at(103)), []);
    let commands = intent.weighings(&demand([80, 10, 10]), at(104));
    assert_eq!(commands.len(), 1);
    accept(&mut intent, &commands[0]);
    assert_eq!(split(&intent), (vec![], Some((vec![7066, 1466, 1466], None))));
    all_acknowledge(&mut intent, 105);
    assert_eq!(split(&intent).1, Some((vec![7066, 1466, 1466], Some(108))));
    accept(&mut intent, &Change::Settle.at(at(119)));
    assert_eq!(split(&intent), (vec![7066, 1466, 1466], None));
    // Not twice in ten minutes.
    assert_eq!(intent.weighings(&demand([10, 80, 10]), at(703)), []);
    let commands = intent.weighings(&demand([10, 80, 10]), at(704));
    accept(&mut intent, &commands[0]);
    assert_eq!(split(&intent), (vec![7066, 1466, 1466], Some((vec![1466, 7066, 1466], None))));
}

#[test]
fn a_change_that_waits_for_the_one_before_is_begun_by_the_leader() {
    let mut intent = fleet();
    let shares =
        |a, b, c| format!("key: global, rate: 10/s, shares: {{ ap-southeast: {a}, eu-west: {b}, us-east: {c} }}");
    apply(&mut intent, &shares(6, 3, 1), 100);
    apply(&mut intent, &shares(1, 3, 6), 101);
    all_acknowledge(&mut intent, 102);
    apply(&mut intent, &shares(1, 1, 8), 103);
    assert_eq!(split(&intent), (vec![6, 3, 1], Some((vec![1, 3, 6], Some(105)))));
    assert_eq!(intent.weighings(&BTreeMap::new(), at(115)), []);
    let due = intent.weighings(&BTreeMap::new(), at(116));
    assert_eq!(due, [Change::Settle.at(at(116))]);
    accept(&mut intent, &due[0]);
    assert_eq!(split(&intent), (vec![1, 3, 6], Some((vec![1, 1, 8], None))));
}

#[test]
fn a_stranger_acknowledges_nothing() {
    let mut intent = fleet();
    let command = Change::Acknowledge { node: node("mars-1"), change: 7 }.at(at(1));
    assert_eq!(intent.apply(&command), Applied::Refused(Refusal::UnknownNode { node: node("mars-1") }));
    assert_eq!(intent.acknowledgement(&node("mars-1"), at(1)), None);
}

trait RefusalText {
    fn to_string_of_refusal(&self) -> String;
}

impl RefusalText for Applied {
    fn to_string_of_refusal(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.to_string(),
            other => format!("{other:?}"),
        }
    }
}

#[test]
fn a_split_of_concurrency_is_acknowledged_again_when_keys_change_hands() {
    let change = |limit: &str| {
        let mut intent = fleet();
        accept(
            &mut intent,
            &Change::Join { node: node("eu-west-2"), region: region("eu-west"), member: MemberId(9) }.at(at(1)),
        );
        apply(&mut intent, &format!("key: global, {limit}, shares: {{ ap-southeast: 1, eu-west: 3, us-east: 1 }}"), 10);
        apply(&mut intent, &format!("key: global, {limit}, shares: {{ ap-southeast: 1, eu-west: 1, us-east: 3 }}"), 20);
        all_acknowledge(&mut intent, 30);
        assert_eq!(missing(&intent), ["eu-west-2"]);
        let expected = intent.rosters[&region("eu-west")].epoch;
        let present = vec![node("eu-west-1")];
        accept(&mut intent, &Change::Roster { region: region("eu-west"), expected, present }.at(at(40)));
        missing(&intent).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(change("rate: 10/s"), ["eu-west-2"]);
    assert_eq!(change("concurrency: 10"), ["ap-southeast-1", "eu-west-1", "eu-west-2", "us-east-1"]);
}
