//! Every fault bites, ends, and leaves a fleet that agrees.

use portolan_config::SourceFile;
use portolan_sim::{Figures, SpanKind, Verdict};

use crate::loaded::Loaded;

/// A scenario with load in every region and these steps.
fn scenario(steps: &[&str]) -> Loaded {
    let steps: Vec<String> = steps.iter().map(|step| format!("{{ {step} }}")).collect();
    let steps = steps.join(", ");
    let text = format!(
        "version: 1
title: A test
config: gateways/fleet.yml
length: 12s
jitter: 5ms
clients:
  - {{ region: us-east, rate: 40/s, host: api.example.test, path: /strict/1 }}
  - {{ region: eu-west, rate: 40/s, host: api.example.test, path: /strict/1 }}
  - {{ region: ap-southeast, rate: 40/s, host: api.example.test, path: /strict/1 }}
steps: [{steps}]
expect: {{ converged_within: 30s }}
"
    );
    Loaded::of(SourceFile { path: "simulations/test.yaml".to_owned(), text })
}

fn figures(steps: &[&str]) -> Figures {
    scenario(steps).check([1]).outcomes[0].figures.clone()
}

#[test]
fn a_process_that_is_stopped_answers_nobody_and_goes_on() {
    let figures = figures(&["at: 3s, fault: pause, region: us-east, for: 2s"]);
    assert!((60..=110).contains(&figures.requests.unanswered), "{:?}", figures.requests);
}

#[test]
fn a_surge_is_more_of_the_same_and_ends() {
    let sent = |load: &str| figures(&[&format!("at: 2s, fault: surge, load: {load}, for: 5s")]).requests.sent;
    let undisturbed = figures(&[]).requests.sent;
    assert_eq!((sent("x3"), sent("0%")), (undisturbed + 1200, undisturbed - 600));
}

#[test]
fn most_voters_die_and_the_rest_keep_serving() {
    let outcome = scenario(&["at: 3s, fault: quorum-loss, for: 3s"]).run(1);
    assert_eq!(outcome.verdict, Verdict::Pass);
    assert!(outcome.figures.leaderless_ms >= 2000, "{}", outcome.figures.leaderless_ms);
}

#[test]
fn a_document_with_a_fault_is_refused_everywhere() {
    let figures = figures(&["at: 3s, fault: bad-config"]);
    assert_eq!((figures.acknowledged_revisions, figures.unacknowledged_orders), (1, 0));
}

#[test]
fn an_order_that_is_refused_fails_the_run_unless_it_may() {
    let failed = |last: &str| {
        let drains = ["at: 3s, do: drain us-east --reason a", "at: 4s, do: drain eu-west --reason b", last];
        let outcome = scenario(&drains).run(1);
        outcome.failed_expectations.into_iter().map(|failed| failed.expected).collect::<Vec<_>>()
    };
    let last = "at: 5s, do: drain ap-southeast --reason c";
    assert_eq!(failed(last), ["an order is carried out: drain ap-southeast"]);
    assert_eq!(failed(&format!("{last}, may_fail: true")), [""; 0]);
}

#[test]
fn a_request_that_finds_no_answer_is_answered_badly_and_gives_its_cost_back() {
    let outcome = Loaded::shipped("limits/refunds").run(1);
    let (requests, limits) = (outcome.figures.requests, &outcome.figures.limits);
    let failed = requests.failed as f64 / requests.forwarded as f64;
    assert!((0.29..0.31).contains(&failed), "{failed}");
    // Each window counts what was answered and admits three in seven more.
    assert!(limits["fixed"].admitted > 65 * 300 * 5 / 4, "{:?}", limits["fixed"]);
}

#[test]
fn worse_links_lose_and_double_packets() {
    let undisturbed = figures(&[]).packets;
    let lossy = figures(&["at: 2s, fault: loss, share: 30%, for: 5s"]).packets;
    assert!(undisturbed.lost == 0 && lossy.lost > 100, "{lossy:?}");
    let doubled = figures(&["at: 2s, fault: duplicate, share: 50%, for: 5s"]).packets;
    assert!(doubled.delivered > undisturbed.delivered + 100, "{doubled:?} {undisturbed:?}");
}

#[test]
fn disks_clocks_and_slow_nodes_recover() {
    for step in [
        "at: 3s, fault: disk-full, region: us-east, for: 2s",
        "at: 3s, fault: disk-slow, region: us-east, by: 300ms, for: 2s",
        "at: 3s, fault: clock-step, region: us-east, by: +3s, for: 2s",
        "at: 3s, fault: clock-drift, region: us-east, drift: -5%, for: 3s",
        "at: 3s, fault: slow, target: leader, by: 100ms, for: 2s",
        "at: 3s, fault: crash, target: fleet, disk: torn, for: 100ms",
        "at: 3s, fault: latency, by: 300ms, for: 2s",
        "at: 3s, fault: bandwidth, bandwidth: 8KiB, for: 2s",
        "at: 3s, fault: reorder, share: 50%, for: 2s",
        "at: 3s, fault: partition, pairs: [[us-east, eu-west]], for: 3s",
    ] {
        scenario(&[step]).check([1]);
    }
}

#[test]
fn a_step_waits_for_its_condition_and_one_that_never_comes_fails() {
    let waits = scenario(&["when: limited in us-east >= 20, fault: crash, region: us-east, for: 1s"]).run(1);
    assert_eq!(waits.verdict, Verdict::Pass);
    let span = &waits.series.spans[0];
    assert_eq!((span.kind, span.regions.as_slice()), (SpanKind::Fault, &["us-east".to_owned()][..]));
    assert!(span.from_ms > 0 && span.until_ms == Some(span.from_ms + 1000), "{span:?}");
    let never = scenario(&["when: revision >= 9, fault: quorum-loss, for: 1s"]).run(1);
    assert_eq!(never.verdict, Verdict::ExpectationFailed);
    assert_eq!(never.failed_expectations[0].actual, "its condition never held");
}

#[test]
fn a_series_adds_up_to_the_figures() {
    let outcome = scenario(&["at: 3s, fault: partition, regions: [us-east], for: 4s"]).run(1);
    let series = &outcome.series;
    let sum = |columns: Vec<&Vec<u64>>| columns.into_iter().flatten().sum::<u64>();
    assert_eq!(sum(series.regions.iter().map(|region| &region.sent).collect()), outcome.figures.requests.sent);
    let limit = series.limits.iter().find(|limit| limit.limit == "strict-second").expect("it was asked");
    let admitted = outcome.figures.limits["strict-second"].admitted;
    assert_eq!(sum(limit.regions.iter().map(|region| &region.admitted).collect()), admitted);
    assert_eq!(limit.slots.iter().flat_map(|slot| &slot.admitted).sum::<u64>(), admitted);
    assert!(series.regions.iter().all(|region| region.mode.len() == series.points), "a point lacks its mode");
}

#[test]
fn a_fenced_region_that_lives_spends_beyond_the_limit_until_it_hears_of_it() {
    let fence = "at: 1s, do: limits fence us-east --reason test";
    let fullest = |steps: &[&str]| scenario(steps).check([1]).outcomes[0].figures.limits["strict-second"].most_admitted;
    assert_eq!(fullest(&[fence, "at: 8s, do: limits unfence us-east"]), 60);
    let cut = fullest(&["at: 500ms, fault: partition, regions: [us-east], for: 10s", fence]);
    assert_eq!(cut, 60 + 20, "the others have its share, and it has not heard of it");
}
