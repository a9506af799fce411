//! Requests that cost more than a unit: what a key has left serves them, whatever is durable and wherever it lies.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Definition, LimitId, Window};
use portolan_model::Name;

/// Milliseconds after which a refused request comes again.
const RETRY: u64 = 100;

fn fleet(regions: usize, window: u64) -> Fleet {
    let algorithm = Algorithm::FixedWindow { quota: 1000, window: Window::Length(Duration::from_secs(window)) };
    let name = Name::new("costly").expect("a name");
    let definition = Definition { most_cost: 600, ..Definition::new(LimitId(1), name, algorithm) };
    let mut fleet = Fleet::new(regions, vec![definition], 7);
    fleet.settle();
    let window = window * 1000;
    fleet.run(window - fleet.now(0).wall.as_unix_millis() % window);
    fleet
}

/// Units that requests of one cost are admitted within the window, at one region after the other, each tried again twice.
fn admitted(fleet: &mut Fleet, cost: u32, regions: &[usize], requests: usize) -> u64 {
    for at in regions.iter().cycle().take(requests) {
        for _ in 0..3 {
            if let Some(Admission::Allow(_)) = fleet.request_costing(*at, &[(1, 1)], cost) {
                break;
            }
            fleet.run(RETRY);
        }
    }
    fleet.busiest(1)
}

#[test]
fn a_request_beyond_what_is_durable_is_admitted_as_soon_as_it_is() {
    let mut fleet = fleet(1, 60);
    let first = fleet.request_costing(0, &[(1, 1)], 600);
    assert!(matches!(first, Some(Admission::Wait(_))), "{first:?}");
    fleet.run(5);
    let again = fleet.request_costing(0, &[(1, 1)], 600);
    assert!(matches!(again, Some(Admission::Allow(_))), "{again:?}");
}

#[test]
fn requests_of_a_tenth_of_the_limit_use_it_up_from_one_region() {
    for window in [10, 60, 600] {
        let mut fleet = fleet(3, window);
        assert_eq!(admitted(&mut fleet, 100, &[1], 15), 1000, "in {window} s");
    }
}

#[test]
fn requests_of_a_tenth_of_the_limit_use_most_of_it_up_from_all_regions_in_turn() {
    for window in [10, 60, 600] {
        let mut fleet = fleet(3, window);
        let units = admitted(&mut fleet, 100, &[0, 1, 2], 15);
        assert!((700..=1000).contains(&units), "{units} in {window} s");
    }
}
