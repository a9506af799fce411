//! The promise: whatever is lost, cut off, killed or misdated, verdicts counted outside the ledger stay within the limit
//! of their slot.

mod fleet;

use fleet::{Fleet, Network, definition};
use portolan_limits::{Definition, LimitId, OnPartition};
use proptest::prelude::*;

const REGIONS: u64 = 3;

fn definitions() -> Vec<Definition> {
    vec![
        definition(1, "20/s", OnPartition::Static),
        definition(2, "100/12s", OnPartition::Static),
        definition(3, "20/s", OnPartition::OPEN),
        definition(4, "20/s", OnPartition::Closed),
        definition(5, "7/30s", OnPartition::OPEN),
    ]
}

fn quota(limit: LimitId) -> u64 {
    let definition = definitions().into_iter().find(|definition| definition.id == limit);
    definition.expect("the limit is defined").algorithm.quota()
}

/// What may go wrong in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Faults {
    /// Crashes keep the disk; clocks step either way.
    MarksKept,
    /// Crashes lose the disk; clocks run true (a lost horizon can only be guessed from the clock).
    MarksLost,
}

fn fault(fleet: &mut Fleet, faults: Faults) {
    let at = fleet.seed.below(REGIONS) as usize;
    match fleet.seed.below(10) {
        0..3 => {
            let cut = (fleet.seed.below(REGIONS) as usize, fleet.seed.below(REGIONS) as usize);
            fleet.network.cut.push(cut);
            fleet.network.cut.push((cut.1, cut.0));
        }
        3..5 => fleet.network.cut.clear(),
        5 => fleet.network.loss_percent = fleet.seed.below(60),
        6 if faults == Faults::MarksKept => {
            let step = fleet.seed.below(16_000) as i64 - 8000;
            fleet.regions[at].clock_ms = step;
        }
        7..9 if fleet.regions[at].limits.is_some() => {
            fleet.crash(at);
            if faults == Faults::MarksLost && fleet.seed.percent(50) {
                fleet.lose_disk(at);
            }
        }
        _ if fleet.regions[at].limits.is_none() => fleet.restart(at),
        _ => fleet.regions[at].disk_ms = 1 + fleet.seed.below(30),
    }
}

/// Runs one random history and returns what was allowed at most, per limit, against its bound.
fn run(seed: u64, faults: Faults) -> Fleet {
    let mut fleet = Fleet::new(REGIONS as usize, definitions(), seed);
    fleet.network = Network { loss_percent: 10, repeat_percent: 10, jitter_ms: 80, ..Network::default() };
    fleet.settle();
    for _ in 0..800 {
        if fleet.seed.percent(6) {
            fault(&mut fleet, faults);
        }
        for _ in 0..fleet.seed.below(12) {
            let at = fleet.seed.below(REGIONS) as usize;
            let key = fleet.seed.below(2);
            match fleet.seed.below(3) {
                0 => fleet.request(at, &[(1, key), (2, key)]),
                1 => fleet.request(at, &[(3, key), (5, key)]),
                _ => fleet.request(at, &[(4, key), (3, key), (1, 1 - key)]),
            };
        }
        let pause = 1 + fleet.seed.below(60);
        fleet.run(pause);
    }
    fleet
}

fn check(fleet: &Fleet) -> Result<(), TestCaseError> {
    prop_assert!(fleet.allowed.len() > 20, "something was allowed");
    for ((limit, key, slot), counts) in &fleet.allowed {
        let total: u64 = counts.iter().sum();
        let open = matches!(limit.0, 3 | 5);
        let bound = if open { REGIONS * quota(*limit) } else { quota(*limit) };
        prop_assert!(total <= bound, "limit {limit:?} {key:?} slot {slot}: {counts:?}");
        prop_assert!(counts.iter().all(|&count| count <= quota(*limit)), "one region: {counts:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_slot_exceeds_its_limit_while_crashes_keep_the_disk_and_clocks_step(seed: u64) {
        check(&run(seed, Faults::MarksKept))?;
    }

    #[test]
    fn no_slot_exceeds_its_limit_while_crashes_lose_the_disk(seed: u64) {
        check(&run(seed, Faults::MarksLost))?;
    }
}
