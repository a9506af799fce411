//! The request path of known keys allocates nothing: counted by the allocator.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Claim, Definition, LimitId, Window};
use portolan_model::Name;

#[test]
fn a_decision_about_known_keys_allocates_nothing() {
    let quota = 100;
    let second = Duration::from_secs(1);
    let algorithms = [
        Algorithm::FixedWindow { quota, window: Window::Length(second) },
        Algorithm::SlidingWindow { quota, window: second },
        Algorithm::TokenBucket { rate: "100/s".parse().expect("a rate"), burst: quota },
        Algorithm::Concurrency { limit: quota },
    ];
    let ids: Vec<LimitId> = (1..=4).map(LimitId).collect();
    let name = Name::new("limit").expect("a name");
    let definition = |(&id, algorithm)| Definition::new(id, name.clone(), algorithm);
    let mut fleet = Fleet::new(1, ids.iter().zip(algorithms).map(definition).collect(), 5);
    fleet.settle();
    let limiter = fleet.regions[0].limiter.clone();
    let claims = ids.iter().map(|&limit| Claim { limit, key: limiter.key(limit, &[b"known"]), cost: 1 });
    let claims: [Claim; 4] = claims.collect::<Vec<_>>().try_into().expect("four");
    assert!(matches!(limiter.admit(&claims, fleet.now(0)), Admission::Allow(_)));
    // Through both slots of every word, through refusals, and with what is given back.
    let mut seen = (0, 0);
    for _ in 0..8 {
        fleet.run(400);
        let now = fleet.now(0);
        let counted = allocation_counter::measure(|| {
            for _ in 0..120 {
                let key = limiter.key(ids[0], &[b"known"]);
                assert_eq!(key, claims[0].key);
                limiter.prefetch(key);
                match limiter.admit(&claims, now) {
                    Admission::Allow(charges) => {
                        seen.0 += 1;
                        limiter.refund(&charges[0], 1, now);
                        limiter.release(&charges[3]);
                    }
                    Admission::Deny(_) | Admission::Wait(_) => seen.1 += 1,
                }
                limiter.take_attention();
            }
        });
        assert_eq!(counted.count_total, 0, "{counted:?}");
    }
    assert!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
}
