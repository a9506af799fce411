//! The replicated state machine: what each command does, and that a saved state goes on like the one it was saved from.

mod common;

use std::sync::Arc;

use common::{bundle, regions};
use portolan_config::{Applied, Change, Command, Consumers, Intent, IntentError, Refusal, RegionMap, Roster};
use portolan_model::{MemberId, Name, NodeName, RegionId, Revision, WallTime};
use proptest::prelude::*;

const AT: WallTime = WallTime::from_unix_millis(1_795_309_417_123);

fn intent() -> Intent {
    Intent::new(Arc::new(regions()))
}

fn document(limits: &str) -> String {
    format!("version: 1\nlimits: {{ {limits} }}\n")
}

fn apply(text: &str) -> Command {
    Change::Apply { bundle: bundle(text), author: "ann".to_owned(), expected: None }.at(AT)
}

fn region(text: &str) -> RegionId {
    RegionId::new(text).expect("a region")
}

fn drain(name: &str, serving: &[&str]) -> Command {
    let serving = serving.iter().map(|name| region(name)).collect();
    Change::Drain { region: region(name), reason: "upgrade".to_owned(), author: "ann".to_owned(), serving }.at(AT)
}

fn restore(name: &str) -> Command {
    Change::Restore { region: region(name), author: "bob".to_owned() }.at(AT)
}

fn rollback(to: u64) -> Command {
    Change::Rollback { to: Revision(to), author: "bob".to_owned() }.at(AT)
}

fn join(node: &str, home: &str, member: u64) -> Command {
    let node = NodeName::new(node).expect("a node");
    Change::Join { node, region: region(home), member: MemberId(member) }.at(AT)
}

fn accepted(revision: u64) -> Applied {
    Applied::Accepted { revision: Revision(revision) }
}

/// The binding of each limit as `name id.generation`.
fn bindings(intent: &Intent) -> String {
    let shown = intent.limits.budgets(&intent.snapshot).map(|budget| {
        let whose = match budget.consumers {
            Consumers::All => String::new(),
            Consumers::Plan(plan) => format!("/{plan}"),
            Consumers::One(consumer) => format!("={consumer}"),
        };
        format!("{}{whose} {}.{}", budget.limit.name, budget.binding.id.0, budget.binding.generation)
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn history(intent: &Intent) -> Vec<String> {
    intent.history().iter().map(|entry| format!("{} {} {}", entry.revision, entry.author, entry.what)).collect()
}

#[test]
fn the_founder_is_who_joined_first_and_stays_it_over_wipes_and_snapshots() {
    let mut intent = Intent::new(Arc::new(regions()));
    assert_eq!(intent.founder, None);
    for (node, member) in [("us-east-1", 7), ("eu-west-1", 8), ("us-east-1", 9)] {
        let home = node.trim_end_matches("-1");
        assert!(matches!(intent.apply(&join(node, home, member)), Applied::Joined { .. }));
    }
    assert_eq!(intent.founder, Some(MemberId(7)));
    let bytes = intent.to_bytes().expect("a snapshot");
    let restored = Intent::from_bytes(&bytes, Arc::new(regions())).expect("it reads");
    assert_eq!(restored.founder, Some(MemberId(7)));
}

#[test]
fn documents_get_revisions_and_can_be_put_in_force_again() {
    let mut intent = intent();
    let (one, two) = (document("a: { key: global, rate: 1/s }"), document("a: { key: global, rate: 2/s }"));
    assert_eq!(intent.apply(&apply(&one)), accepted(1));
    assert_eq!(intent.apply(&apply(&one)), Applied::Unchanged { revision: Revision(1) });
    assert_eq!(intent.apply(&apply(&two)), accepted(2));
    assert_eq!(intent.apply(&rollback(2)), Applied::Unchanged { revision: Revision(2) });
    assert_eq!(intent.apply(&rollback(1)), accepted(3));
    let unknown = Refusal::UnknownRevision { revision: Revision(9) };
    assert_eq!(intent.apply(&rollback(9)), Applied::Refused(unknown));
    assert_eq!(intent.snapshot.limits[&Name::new("a").expect("a name")].quota(), 1);
    assert_eq!(history(&intent), ["1 ann apply", "2 ann apply", "3 bob rollback to 1"]);
    assert_eq!(intent.history()[0].digest, intent.history()[2].digest);
    assert_ne!(intent.history()[0].digest, intent.history()[1].digest);
}

#[test]
fn a_document_with_faults_changes_nothing() {
    let mut intent = intent();
    intent.apply(&apply(&document("")));
    let outcome = intent.apply(&apply("version: 1\nlimit: {}\n"));
    let faults = "gateway.yaml:2:1: `limit` is not a key of a gateway document; did you mean `limits`?";
    assert_eq!(outcome, Applied::Refused(Refusal::Invalid(faults.to_owned())));
    assert_eq!((intent.revision, intent.history().len()), (Revision(1), 1));
}

#[test]
fn an_operator_who_saw_another_revision_is_refused() {
    let mut intent = intent();
    intent.apply(&apply(&document("")));
    let expecting = |expected| {
        Change::Apply {
            bundle: bundle(&document("a: { key: global, rate: 1/s }")),
            author: "ann".to_owned(),
            expected: Some(Revision(expected)),
        }
        .at(AT)
    };
    let stale = Refusal::StaleRevision { expected: Revision(0), current: Revision(1) };
    assert_eq!(intent.apply(&expecting(0)), Applied::Refused(stale));
    assert_eq!(intent.apply(&expecting(1)), accepted(2));
}

#[test]
fn what_is_too_large_is_refused() {
    let mut intent = intent();
    let outcome = intent.apply(&apply(&"#".repeat(1_500_000)));
    assert!(matches!(outcome, Applied::Refused(Refusal::TooMuch { .. })), "{outcome:?}");
    let mut long = drain("eu-west", &["us-east"]);
    if let Change::Drain { reason, .. } = &mut long.change {
        *reason = "x".repeat(257);
    }
    let refusal = "the reason has 257, at most 256 are kept";
    assert!(matches!(intent.apply(&long), Applied::Refused(refused) if refused.to_string() == refusal));
}

#[test]
fn the_last_serving_region_is_never_drained() {
    let mut intent = intent();
    let all = ["ap-southeast", "eu-west", "us-east"];
    assert_eq!(intent.apply(&drain("eu-west", &all)), Applied::Drained);
    let again = intent.apply(&drain("eu-west", &all));
    assert!(matches!(again, Applied::Refused(Refusal::AlreadyDrained { .. })), "{again:?}");
    // us-east would be the only other one, and is down.
    let last = Applied::Refused(Refusal::LastServingRegion { region: region("ap-southeast") });
    assert_eq!(intent.apply(&drain("ap-southeast", &["ap-southeast", "eu-west"])), last);
    assert_eq!(intent.apply(&drain("ap-southeast", &all)), Applied::Drained);
    let last = Applied::Refused(Refusal::LastServingRegion { region: region("us-east") });
    assert_eq!(intent.apply(&drain("us-east", &all)), last);
    assert_eq!(intent.apply(&restore("eu-west")), Applied::Restored);
    let idle = Applied::Refused(Refusal::NotDrained { region: region("eu-west") });
    assert_eq!(intent.apply(&restore("eu-west")), idle);
    let unknown = Applied::Refused(Refusal::UnknownRegion { region: region("mars") });
    assert_eq!(intent.apply(&drain("mars", &all)), unknown);
    assert_eq!(intent.drains.keys().map(RegionId::as_str).collect::<Vec<_>>(), ["ap-southeast"]);
    let orders = ["0 ann drain eu-west: upgrade", "0 ann drain ap-southeast: upgrade", "0 bob restore eu-west"];
    assert_eq!(history(&intent), orders);
}

#[test]
fn a_new_member_id_is_a_new_incarnation_of_its_node() {
    let mut intent = intent();
    let mut check = |command: Command, incarnation| assert_eq!(intent.apply(&command), Applied::Joined { incarnation });
    check(join("eu-west-1", "eu-west", 7), 1);
    check(join("eu-west-1", "eu-west", 7), 1);
    check(join("us-east-1", "us-east", 8), 1);
    check(join("eu-west-1", "eu-west", 9), 2);
    check(join("eu-west-1", "eu-west", 9), 2);
    let unknown = intent.apply(&join("mars-1", "mars", 1));
    assert_eq!(unknown, Applied::Refused(Refusal::UnknownRegion { region: region("mars") }));
}

/// The roster of `eu-west` as `epoch: nodes`.
fn roster(intent: &Intent) -> String {
    let roster = &intent.rosters[&region("eu-west")];
    let nodes: Vec<&str> = roster.nodes.iter().map(NodeName::as_str).collect();
    format!("{}: {}", roster.epoch, nodes.join(" "))
}

fn list(home: &str, expected: u64, present: &[&str]) -> Command {
    let present = present.iter().map(|name| NodeName::new(name).expect("a node")).collect();
    Change::Roster { region: region(home), expected, present }.at(AT)
}

#[test]
fn every_change_of_a_region_s_nodes_is_an_epoch_of_its_own() {
    let mut intent = intent();
    let mut check = |command: Command, expected: &str| {
        let outcome = intent.apply(&command);
        assert_eq!(roster(&intent), expected, "{outcome:?}");
    };
    check(join("eu-west-1", "eu-west", 7), "1: eu-west-1");
    check(join("eu-west-3", "eu-west", 8), "2: eu-west-1 eu-west-3");
    check(join("eu-west-2", "eu-west", 9), "3: eu-west-1 eu-west-2 eu-west-3");
    check(join("eu-west-2", "eu-west", 9), "3: eu-west-1 eu-west-2 eu-west-3");
    check(list("eu-west", 3, &["eu-west-3", "eu-west-1"]), "4: eu-west-1 eu-west-3");
    check(list("eu-west", 4, &["eu-west-1", "eu-west-3"]), "4: eu-west-1 eu-west-3");
    check(list("eu-west", 3, &["eu-west-1"]), "4: eu-west-1 eu-west-3");
    check(list("eu-west", 4, &["eu-west-1", "eu-west-2", "eu-west-3"]), "5: eu-west-1 eu-west-2 eu-west-3");
    // It lost its disk: what its earlier process agreed with the others is void.
    check(join("eu-west-2", "eu-west", 10), "6: eu-west-1 eu-west-2 eu-west-3");
}

#[test]
fn the_last_rosters_of_a_region_are_known_in_a_saved_state_too() {
    let mut intent = intent();
    let eu = region("eu-west");
    let told = |intent: &Intent, epoch| {
        let text = |roster: &Roster| {
            let nodes: Vec<&str> = roster.nodes.iter().map(|node| &node.as_str()[8..]).collect();
            format!("{}:{}", roster.epoch, nodes.concat())
        };
        intent.rosters_since(&eu, epoch).iter().map(text).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(told(&intent, 0), "");
    for (node, member) in [("eu-west-1", 7), ("eu-west-3", 8), ("eu-west-2", 9)] {
        intent.apply(&join(node, "eu-west", member));
    }
    intent.apply(&list("eu-west", 3, &["eu-west-3"]));
    intent.apply(&list("eu-west", 4, &["eu-west-3"]));
    intent.apply(&list("eu-west", 4, &["eu-west-1", "eu-west-2"]));
    intent.apply(&join("eu-west-1", "eu-west", 10));
    let saved = Intent::from_bytes(&intent.to_bytes().expect("fits"), Arc::new(regions())).expect("it was saved");
    for intent in [&intent, &saved] {
        assert_eq!(told(intent, 0), "1:1 2:13 3:123 4:3 5:12 6:12");
        assert_eq!(told(intent, 4), "5:12 6:12");
        assert_eq!(told(intent, 6), "");
    }
    // As many as a node ranks, however many there were.
    for epoch in 6..40 {
        let present = if epoch % 2 == 0 { vec!["eu-west-1"] } else { vec!["eu-west-1", "eu-west-2"] };
        intent.apply(&list("eu-west", epoch, &present));
    }
    let kept = intent.rosters_since(&eu, 0);
    let (first, last) = (&kept[0], &kept[kept.len() - 1]);
    assert_eq!((kept.len(), first.epoch, last.epoch), (16, 25, 40));
    assert_eq!((first.nodes.len(), last.nodes.len()), (1, 2));
}

#[test]
fn a_roster_keeps_a_node_and_lists_only_nodes_of_its_region() {
    let mut intent = intent();
    intent.apply(&join("eu-west-1", "eu-west", 7));
    intent.apply(&join("us-east-1", "us-east", 8));
    let mut check = |command: Command, expected: &str| match intent.apply(&command) {
        Applied::Refused(refusal) => assert_eq!(refusal.to_string(), expected),
        other => panic!("{other:?}"),
    };
    check(list("eu-west", 1, &[]), "no node of `eu-west` would be left");
    check(list("eu-west", 1, &["us-east-1"]), "`us-east-1` is not a node of region `eu-west`");
    check(list("eu-west", 0, &["eu-west-1"]), "epoch 0 of the nodes of `eu-west` was expected, 1 is in force");
    let moved = "`eu-west-1` is a node of region `eu-west`; a node that moves to `us-east` needs a name of its own";
    check(join("eu-west-1", "us-east", 9), moved);
}

#[test]
fn a_limit_keeps_its_number_while_its_counts_stay_comparable() {
    let mut intent = intent();
    let mut check = |limits: &str, expected: &str| {
        intent.apply(&apply(&document(limits)));
        assert_eq!(bindings(&intent), expected, "{limits}");
    };
    check("a: { key: global, rate: 1/s }", "a 1.1");
    check("a: { key: global, rate: 1/s }, b: { key: user, rate: 5/min }", "a 1.1, b 2.1");
    check("a: { key: global, rate: 9/s }, b: { key: user, rate: 5/min, on_partition: open }", "a 1.2, b 2.1");
    check("a: { key: global, rate: 9/min }, b: { key: client, rate: 5/min }", "a 3.1, b 4.1");
    check("b: { key: client, rate: 4/min }", "b 4.2");
    check("a: { key: global, rate: 9/min }, b: { key: client, rate: 5/min }", "a 5.1, b 4.3");
    intent.apply(&rollback(1));
    assert_eq!(bindings(&intent), "a 6.1");
}

#[test]
fn history_is_bounded_and_the_document_in_force_stays() {
    let mut intent = intent();
    let document = |index: usize| format!("version: 1\n# {index} {}\n", "x".repeat(300_000));
    for index in 0..250 {
        assert_eq!(intent.apply(&apply(&document(index))), accepted(index as u64 + 1));
    }
    assert_eq!(intent.history().len(), 200);
    assert_eq!(intent.history()[0].revision, Revision(51));
    let forgotten = intent.apply(&rollback(60));
    assert_eq!(forgotten, Applied::Refused(Refusal::UnknownRevision { revision: Revision(60) }));
    assert_eq!(intent.apply(&rollback(248)), accepted(251));
    let bytes = intent.to_bytes().expect("fits the codec");
    let read = Intent::from_bytes(&bytes, Arc::new(regions())).expect("reads back");
    assert_eq!(read.bundle, intent.bundle);
}

#[test]
fn a_saved_intent_of_another_cluster_is_refused() {
    let bytes = intent().to_bytes().expect("encodes");
    let read = Intent::from_bytes(&bytes, Arc::new(RegionMap::default()));
    assert!(matches!(read, Err(IntentError::OtherRegions { .. })));
    assert!(matches!(Intent::from_bytes(&bytes[..9], Arc::new(regions())), Err(IntentError::Codec(_))));
}

fn command() -> impl Strategy<Value = Command> {
    let names = prop::sample::select(vec!["ap-southeast", "eu-west", "us-east", "mars"]);
    let serving = prop::sample::subsequence(vec!["ap-southeast", "eu-west", "us-east"], 0..=3);
    prop_oneof![
        (0..4u64, 0..3u64).prop_map(|(count, window)| {
            apply(&document(&format!("a: {{ key: global, rate: {count}/{}s }}", window + 1)))
        }),
        (0..8u64).prop_map(rollback),
        (names.clone(), serving).prop_map(|(name, serving)| drain(name, &serving)),
        names.clone().prop_map(restore),
        (names.clone(), 1..3u64, 0..3u64).prop_map(|(name, node, member)| join(
            &format!("{name}-{node}"),
            name,
            member
        )),
        (0..4u64, 1..5u32).prop_map(|(count, weight)| {
            let shares = format!("{{ ap-southeast: {weight}, eu-west: 2, us-east: 1 }}");
            let plans = "{ claim: plan, quotas: { free: 1, pro: 2 } }";
            let limit = format!("key: user, rate: {}/s, shares: {shares}, plans: {plans}", count + 1);
            apply(&document(&format!("a: {{ {limit}, overrides: {{ bob: {weight} }} }}")))
        }),
        (names.clone(), 1..3u64, 0..4u64).prop_map(|(name, node, change)| Change::Acknowledge {
            node: NodeName::new(&format!("{name}-{node}")).expect("a node"),
            change
        }
        .at(AT)),
        names.clone().prop_map(|name| Change::FenceLimits {
            region: region(name),
            reason: "flooded".to_owned(),
            author: "ann".to_owned()
        }
        .at(AT)),
        names.clone().prop_map(|name| Change::UnfenceLimits { region: region(name), author: "ann".to_owned() }.at(AT)),
        (names, 0..4u64, 1..3u64).prop_map(|(name, epoch, node)| list(name, epoch, &[&format!("{name}-{node}")])),
    ]
}

proptest! {
    #[test]
    fn a_saved_intent_goes_on_like_the_one_it_was_saved_from(
        commands in prop::collection::vec(command(), 0..30), cut in 0..30usize,
    ) {
        let regions = Arc::new(regions());
        let mut whole = Intent::new(Arc::clone(&regions));
        let mut resumed = Intent::new(Arc::clone(&regions));
        for (index, command) in commands.iter().enumerate() {
            if index == cut {
                let bytes = resumed.to_bytes().expect("encodes");
                resumed = Intent::from_bytes(&bytes, Arc::clone(&regions)).expect("decodes");
            }
            prop_assert_eq!(whole.apply(command), resumed.apply(command));
            prop_assert!(whole.drains.len() < regions.ids().len(), "every region is drained");
        }
        prop_assert_eq!(whole.to_bytes().expect("encodes"), resumed.to_bytes().expect("encodes"));
        prop_assert_eq!(&whole.snapshot, &resumed.snapshot);
    }
}
