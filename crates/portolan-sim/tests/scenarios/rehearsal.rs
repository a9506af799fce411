//! What the simulator itself promises: equal runs from equal seeds, faults that bite, and a report one can act on.

use portolan_config::SourceFile;
use portolan_sim::{Invariant, Report, Runs, Verdict};

use crate::loaded::Loaded;

/// A scenario around the shipped gateway with a little load in one region.
fn scenario(rest: &str) -> Loaded {
    let text = format!(
        "version: 1\ntitle: A test\nconfig: gateways/fleet.yml\nlength: 20s\nloss: 2%\njitter: 5ms\nclients:\n  - \
         {{ region: us-east, rate: 20/s, host: api.example.test, path: /free/1 }}\n{rest}\n"
    );
    Loaded::of(SourceFile { path: "simulations/test.yaml".to_owned(), text })
}

#[test]
fn a_seed_fixes_every_packet() {
    let loaded = scenario("steps:\n  - { at: 3s, fault: crash, target: leader, for: 4s }");
    let (first, again, other) = (loaded.run(7), loaded.run(7), loaded.run(8));
    assert_eq!(first.trace_hash, again.trace_hash);
    assert_eq!(first.figures, again.figures);
    assert_ne!(first.trace_hash, other.trace_hash);
}

#[test]
fn a_node_that_lost_its_disk_learns_everything_again() {
    let steps = "steps:\n  - { at: 2s, do: apply gateways/raised.yml }\n  - { at: 4s, fault: crash, region: eu-west, disk: lost, for: 3s }\n  - { at: 9s, do: rollback 1 }";
    let report = scenario(steps).check([1, 2]);
    assert!(report.outcomes.iter().all(|outcome| outcome.figures.acknowledged_revisions == 3));
}

#[test]
fn clients_of_a_dead_region_find_another_when_their_answer_expires() {
    let report = scenario("steps:\n  - { at: 2s, fault: crash, region: us-east }").check([1]);
    let figures = &report.outcomes[0].figures;
    assert!(figures.requests.unanswered > 0, "nobody noticed the crash");
    let elsewhere = figures.forwarded_by_region.get("eu-west").copied().unwrap_or_default();
    assert!(elsewhere > 50, "{elsewhere} requests went to the next region");
    assert_eq!(figures.agreed_after_ms, None, "a fault that lasts leaves nothing to agree on");
}

#[test]
fn a_missed_expectation_names_figure_and_replay_line() {
    let loaded =
        scenario("steps:\n  - { at: 2s, fault: crash, region: us-east }\nexpect: { availability: \">= 99%\" }");
    let outcome = loaded.run(1);
    assert_eq!(outcome.verdict, Verdict::ExpectationFailed);
    let mut runs = Runs::default();
    runs.add(outcome);
    let text = Report::new("test.yaml", "A test", "", runs).to_text();
    assert!(text.starts_with("EXPECTATION FAILED  A test\n"), "{text}");
    assert!(text.contains("expected availability >= 99%, was "), "{text}");
    assert!(text.contains("replay: portolan simulate test.yaml --seed 1\n"), "{text}");
}

#[test]
fn agreement_that_comes_too_late_is_a_broken_invariant() {
    let loaded = scenario(
        "steps:\n  - { at: 19900ms, fault: crash, region: us-east, for: 50ms }\nexpect: { converged_within: 1ms }",
    );
    let outcome = loaded.run(1);
    assert_eq!(outcome.verdict, Verdict::InvariantBroken);
    assert!(outcome.violations.iter().all(|violation| violation.invariant == Invariant::Converges));
}
