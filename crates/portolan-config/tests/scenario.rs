//! Scenario files without faults.

mod common;

use std::time::Duration;

use common::{bundle, regions};
use portolan_config::{
    Action, Arrivals, Comparison, Condition, Cut, Direction, Disk, Distribution, GatewaySource, OperatorVerb, Order,
    RegionSource, Scenario, ScenarioFault, Snapshot, SourceFile, Start, Target, Within,
};
use portolan_model::{NodeName, Ratio, RegionId};

const CUT: &str = r#"
version: 1
title: One region is cut off for 20 seconds
gateway: |

  version: 1
  limits:
    orders-total: { key: global, rate: 5000/s }
  # the end
regions: ../regions
length: 60s
loss: 1%
jitter: 5ms
clients:
  - { region: us-east, rate: 200/s, host: api.example.test, path: /orders/1, user: alice, users: 100 }
steps:
  - { at: 40s, fault: crash, region: us-east, for: 5s, disk: lost }
  - { at: 10s, fault: partition, regions: [eu-west], for: 20s, direction: out }
  - { when: leader in us-east, fault: crash, target: leader, for: 5s }
  - { at: 20s, do: drain eu-west --reason "planned work" }
expect:
  availability: ">= 99.9%"
  leader_changes: "<= 2"
  limits: [{ limit: orders-total, per_slot: "<= 5000" }]
  converged_within: 3s
"#;

/// Everything that a scenario can hold.
const EVERYTHING: &str = r#"
version: 1
title: 'Everything: at once'
config: gateway.yaml
regions: { a: {}, b: { nodes: 3 }, c: }
rtt: 150ms
nodes: 2
length: 10min
seed: 7
seeds: 20
loss: 0.5%
jitter: 10ms
within: { loss: 5%, reorder: 10%, duplicate: 2.5% }
limit_keys: 40
redis_rtt: { a: 1ms, c: 60ms }
clients:
  - { region: a, rate: 900/min, host: h, path: /a, user: u, users: 10, distribution: zipf 1.1, arrivals: poisson }
  - { region: b, rate: 9/s, host: h, path: /b, method: POST, from: 5s, until: 60s, every: 1s, for: 100ms, lasting: 2s, failing: 2.5%, sticky: true }
  - { region: c, rate: 9/s, host: h, path: /c, users: 5, headers: { X-Api-Key: 'key-{n}' }, claims: { tenant: t }, distribution: uniform }
steps:
  - { at: 1s, fault: partition, regions: [a, b] }
  - { at: 2s, fault: partition, pairs: [[a, b], [b, c]], direction: in, for: 5s }
  - { at: 2s, fault: partition, nodes: [b-1, b-2], for: 5s }
  - { at: 2s, fault: partition, nodes: [b-3], regions: [b], direction: out, for: 5s }
  - { at: 3s, fault: latency, by: 50ms, for: 5s }
  - { at: 4s, fault: loss, regions: [a], direction: out, share: 20%, for: 5s }
  - { at: 5s, fault: duplicate, share: 5%, for: 5s }
  - { at: 6s, fault: reorder, pairs: [[a, c]], share: 5%, for: 5s }
  - { at: 7s, fault: bandwidth, bandwidth: 64KiB, for: 5s }
  - { at: 8s, fault: crash, node: b-2, disk: torn, for: 5s }
  - { at: 9s, fault: crash, target: fleet, for: 5s }
  - { at: 10s, fault: pause, region: c, for: 5s }
  - { at: 11s, fault: slow, target: leader, by: 50ms, for: 5s }
  - { at: 12s, fault: clock-step, region: a, by: -5s }
  - { at: 13s, fault: clock-drift, node: a-1, drift: -1%, for: 5s }
  - { at: 14s, fault: disk-full, region: a, for: 5s }
  - { at: 15s, fault: disk-slow, region: a, by: 200ms, for: 5s }
  - { at: 16s, fault: quorum-loss, for: 5s }
  - { at: 17s, fault: surge, load: x3, regions: [a], for: 5s }
  - { at: 18s, fault: bad-config }
  - { at: 19s, fault: redis, state: slow, by: 2s, for: 5s }
  - { at: 20s, fault: redis, state: down, regions: [b], for: 5s }
  - { at: 20s, fault: redis, state: lost, for: 5s }
  - { at: 21s, do: apply other.yaml, may_fail: true }
  - { at: 22s, do: limits fence b --reason "it is dead" }
  - { at: 23s, do: limits unfence b }
  - { when: leader in a, fault: crash, target: leader, for: 5s }
  - { at: 30s, when: admitted of orders in a >= 100, do: rollback 1 }
expect:
  availability: ">= 99%"
  unavailable: "<= 0"
  leader_changes: "<= 2"
  config_lag_p99: 1s
  limits:
    - { limit: orders, per_slot: "<= 60", over: "<= 0%", over_mean: "<= 0%", false_rejects: "<= 0.8%", from: 10s, until: 40s }
    - { limit: orders, unavailable: "<= 0", waited: "<= 2%" }
  served: { a: ">= 100" }
  converged_within: 10s
"#;

fn parse(text: &str) -> Scenario {
    let file = SourceFile { path: "scenario.yaml".to_owned(), text: text.to_owned() };
    Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()))
}

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a region")
}

#[test]
fn a_scenario_is_read_in_the_order_of_time() {
    let scenario = parse(CUT);
    scenario.check(&regions()).expect("the regions are known");
    let starts: Vec<u64> = scenario.steps.iter().map(|step| step.earliest().as_secs()).collect();
    assert_eq!(starts, [10, 20, 40, 0]);
    let cut = Cut::Side { regions: vec![region("eu-west")], direction: Direction::Out };
    assert_eq!(scenario.steps[0].action, Action::Fault(ScenarioFault::Partition(cut)));
    let drain = OperatorVerb::Drain { region: region("eu-west"), reason: "planned work".to_owned() };
    assert_eq!(scenario.steps[1].action, Action::Order(Order { verb: drain, may_fail: false }));
    let crash = ScenarioFault::Crash { target: Target::Leader, disk: Disk::Kept };
    assert_eq!(scenario.steps[3].action, Action::Fault(crash));
    let condition = Condition::LeaderIn(region("us-east"));
    assert_eq!(scenario.steps[3].start, Start::When { condition, not_before: Duration::ZERO });
    let load = &scenario.clients[0];
    assert_eq!((load.method.as_str(), load.users, load.distribution), ("GET", 100, Distribution::InTurn));
    assert_eq!(load.arrivals, Arrivals::Even);
    let per_slot = scenario.expect.limits[0].per_slot.expect("a bound");
    assert_eq!((per_slot.comparison, per_slot.value), (Comparison::AtMost, 5000));
    assert!(per_slot.holds(&5000) && !per_slot.holds(&5001));
}

#[test]
fn a_step_that_repeats_becomes_one_step_each_time() {
    let check = |step: &str, expected: &[u64]| {
        let text = format!("version: 1\ntitle: t\nlength: 10s\nsteps: [{{ {step} }}]\n");
        let starts: Vec<u64> = parse(&text).steps.iter().map(|step| step.earliest().as_secs()).collect();
        assert_eq!(starts, expected, "{step}");
    };
    check("at: 2s, fault: partition, regions: [a], for: 1s, every: 3s", &[2, 5, 8]);
    check("at: 2s, fault: partition, regions: [a], for: 1s, every: 3s, times: 2", &[2, 5]);
    check("at: 0s, do: rollback 1, every: 4s", &[0, 4, 8]);
}

#[test]
fn loads_and_surges_together_are_what_a_machine_can_rehearse() {
    let check = |steps: &str, expected: &[&str]| {
        let clients =
            "[{ region: a, rate: 400000/s, host: h, path: / }, { region: b, rate: 200000/s, host: h, path: / }]";
        let text = format!("version: 1\ntitle: t\nlength: 60s\nclients: {clients}\nsteps: [{steps}]\n");
        let file = SourceFile { path: "scenario.yaml".to_owned(), text };
        let faults = Scenario::parse(&file).err().map(|faults| faults.0).unwrap_or_default();
        let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(messages, expected, "{steps}");
    };
    let too_much = |rate: u32| format!("with this surge the loads together send {rate}/s, more than 1000000/s");
    let surge = |rest: &str| format!("{{ fault: surge, {rest} }}");
    check(&surge("at: 1s, load: 150%"), &[]);
    check(&surge("at: 1s, load: x2"), &[&too_much(1_200_000)]);
    check(&surge("at: 1s, load: x2, regions: [a]"), &[]);
    let twice = |second: &str| format!("{}, {}", surge("at: 1s, load: 150%, for: 5s"), surge(second));
    check(&twice("at: 6s, load: 150%"), &[]);
    check(&twice("at: 5s, load: 150%"), &[&too_much(1_350_000)]);
    check(&twice("at: 5s, load: 150%, regions: [b]"), &[&too_much(1_050_000)]);
    // One that waits may come while another lasts, and be told of at either.
    check(&twice("when: sent >= 1, load: 150%"), &[&too_much(1_350_000), &too_much(1_350_000)]);
}

#[test]
fn regions_of_a_scenario_need_no_files() {
    let scenario = parse(EVERYTHING);
    let RegionSource::Inline(map) = &scenario.regions else { panic!("the regions stand in the scenario") };
    scenario.check(map).expect("the regions are known");
    assert_eq!(map.rtt(&region("a"), &region("c")), Duration::from_millis(150));
    assert_eq!(["a", "b", "c"].map(|id| scenario.nodes_in(&region(id))), [2, 3, 2]);
    assert_eq!(["a", "b", "c"].map(|id| scenario.redis_rtt_from(&region(id)).as_millis()), [1, 2, 60]);
    let Within { loss, reorder, duplicate } = scenario.within;
    assert_eq!([loss, reorder, duplicate].map(Ratio::parts), [500, 1000, 250]);
    assert_eq!(scenario.limit_keys, Some(40));
}

#[test]
fn a_cut_between_nodes_concerns_them_and_the_others_that_it_names() {
    let scenario = parse(EVERYTHING);
    let cuts = |step: usize| match &scenario.steps[step].action {
        Action::Fault(ScenarioFault::Partition(cut)) => cut.clone(),
        other => panic!("{other:?}"),
    };
    let node = |name: &str| (NodeName::new(name).expect("a node"), region(&name[..1]));
    let concerns = |cut: &Cut, from: &str, to: &str| {
        let (from, to) = (node(from), node(to));
        cut.concerns_nodes((&from.0, &from.1), (&to.0, &to.1))
    };
    let check = |step, pairs: [(&str, &str); 5]| pairs.map(|(from, to)| concerns(&cuts(step), from, to));
    let pairs = [("b-1", "b-2"), ("b-1", "b-3"), ("b-3", "b-1"), ("a-1", "b-1"), ("b-3", "a-1")];
    assert_eq!(check(2, pairs), [false, true, true, true, false]);
    assert_eq!(check(3, pairs), [false, false, true, false, false]);
    assert_eq!(check(0, pairs), [false, false, false, false, false], "regions a and b are one side");
}

#[test]
fn a_scenario_is_written_as_it_was_read() {
    for text in [CUT, EVERYTHING] {
        let scenario = parse(text);
        let again = parse(&scenario.render());
        assert_eq!(again.render(), scenario.render());
        assert_eq!((again.clients, again.steps, again.expect), (scenario.clients, scenario.steps, scenario.expect));
        assert_eq!((again.redis_rtt, again.redis_rtt_of), (scenario.redis_rtt, scenario.redis_rtt_of));
        assert_eq!((again.within, again.limit_keys), (scenario.within, scenario.limit_keys));
        assert_eq!((again.regions, again.nodes, again.nodes_of), (scenario.regions, scenario.nodes, scenario.nodes_of));
    }
}

#[test]
fn faults_of_an_inline_gateway_name_the_lines_of_the_scenario() {
    let document = |text: &str| {
        let Some(GatewaySource::Inline(document)) = parse(text).config else { panic!("the gateway is inline") };
        let mut whole = bundle(&document.text);
        whole.document.path = document.path;
        Snapshot::parse(&whole, &regions())
    };
    assert_eq!(document(CUT).expect("no faults").limits.len(), 1);
    let faults = document(&CUT.replace("5000/s", "5k")).expect_err("a fault").to_string();
    assert!(faults.starts_with("scenario.yaml:8:40: `rate: 5k` is not a rate"), "{faults}");
}

#[test]
fn a_scenario_may_name_a_gateway_file_or_leave_it_to_the_caller() {
    let check = |config: &str, expected: Option<GatewaySource>| {
        assert_eq!(parse(&format!("version: 1\ntitle: t\n{config}length: 1s\n")).config, expected);
    };
    check("config: ../gateway.yaml\n", Some(GatewaySource::File("../gateway.yaml".to_owned())));
    check("", None);
}

#[test]
fn what_would_begin_after_the_end_is_a_fault() {
    let faults = |rest: &str| {
        let text = format!("version: 1\ntitle: t\nlength: 60s\n{rest}\n");
        let file = SourceFile { path: "scenario.yaml".to_owned(), text };
        Scenario::parse(&file).err().map(|faults| faults.to_string())
    };
    let expectation = |from| faults(&format!("expect: {{ limits: [{{ limit: a, over: \"<= 0%\", from: {from} }}] }}"));
    let step = |at| faults(&format!("steps: [{{ at: {at}, fault: quorum-loss }}]"));
    assert_eq!((expectation("59s"), step("59s")), (None, None));
    let told = expectation("60s").expect("a fault");
    assert!(told.contains("`from: 60s` is after the end of the scenario"), "{told}");
    let told = step("61s").expect("a fault");
    assert!(told.contains("`at: 61s` is after the end of the scenario"), "{told}");
}
