//! A limit of which Redis holds four fifths, whatever becomes of Redis.

use portolan_config::SourceFile;
use portolan_sim::{LimitFigures, Verdict};

use crate::loaded::Loaded;

/// Three regions that ask for one and a half times what a limit with a lender has, for a minute and with these steps.
fn scenario(rate: &str, steps: &str) -> Loaded {
    let client = |region: &str| format!("{{ region: {region}, rate: 150/s, host: api.example.test, path: / }}");
    let clients = ["r1", "r2", "r3"].map(client).join(", ");
    let text = format!(
        "version: 1
title: A test
regions: {{ r1: {{}}, r2: {{}}, r3: {{}} }}
rtt: 80ms
length: 60s
gateway: |
  version: 1
  services:
    origin: {{ endpoints: {{ r1: [http://127.0.0.1:9101] }} }}
  lenders:
    main: {{ redis: \"redis://127.0.0.1:6379\" }}
  limits:
    lent: {{ key: global, rate: {rate}, lender: main }}
  routes:
    all: {{ match: {{ path: /** }}, limits: [lent], service: origin }}
clients: [{clients}]
steps: [{steps}]
"
    );
    Loaded::of(SourceFile { path: "simulations/test.yaml".to_owned(), text })
}

fn figures(rate: &str, steps: &str) -> LimitFigures {
    let outcome = scenario(rate, steps).run(1);
    assert_eq!(outcome.verdict, Verdict::Pass, "{:?}", outcome.violations);
    outcome.figures.limits["lent"].clone()
}

#[test]
fn the_regions_borrow_four_fifths_and_keep_a_fifth_where_they_cannot() {
    let admitted = |steps: &str| figures("300/s", steps).admitted / 60;
    let (well, late) = (admitted(""), admitted("{ at: 0s, fault: redis, state: slow, by: 30ms }"));
    // The scenario touches one slot more than it has seconds.
    assert!((285..=305).contains(&well) && (270..=305).contains(&late), "{well} {late}");
    let gone = ["state: down", "state: slow, by: 60ms", "state: lost"]
        .map(|state| admitted(&format!("{{ at: 0s, fault: redis, {state} }}")));
    // The first loans were made before the scenario began.
    assert!(gone.iter().all(|admitted| (58..=64).contains(admitted)), "{gone:?}");
    // One region borrows as much as it asks for; the others have their parts of the fifth.
    let near = admitted("{ at: 0s, fault: redis, state: down, regions: [r2, r3] }");
    assert!((180..=200).contains(&near), "{near}");
}

#[test]
fn what_redis_forgets_is_lent_again_and_no_more_than_the_plan_says() {
    let forgets = "{ at: 20s, fault: redis, state: lost, for: 20ms }";
    let kept = figures("9000/min", "{ at: 20s, fault: redis, state: down, for: 20ms }");
    assert_eq!((kept.bound, kept.most_admitted), (9000, 9000));
    // A region that needs no more does not tell what it holds: that is lent again, to another one. Which it is at that
    // instant is chance.
    let times = (190..=210).map(|tenth| format!("{{ at: {}ms, fault: redis, state: lost, for: 20ms }}", tenth * 100));
    let forgotten = times.map(|forgets| figures("9000/min", &forgets)).find(|figures| figures.bound > 9000);
    let forgotten = forgotten.expect("of twenty times one at which a region needs no more");
    assert_eq!(forgotten.bound, 16_200);
    assert!((9001..=16_200).contains(&forgotten.most_admitted), "{forgotten:?}");
    let (first, again) = (scenario("9000/min", forgets).run(3), scenario("9000/min", forgets).run(3));
    assert_eq!(first.trace_hash, again.trace_hash);
}
