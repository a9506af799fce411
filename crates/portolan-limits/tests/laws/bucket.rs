//! Limits that are not plain windows, split over regions that lend to each other over a bad network: a token bucket admits
//! in no interval more than one bucket would, and a sliding window's estimate never exceeds the limit.

use std::time::Duration;

use portolan_limits::{Admission, Algorithm, Definition, LimitId, Window};
use portolan_model::{Name, Rate};
use proptest::prelude::*;

#[path = "../fleet/mod.rs"]
mod fleet;

use fleet::{Fleet, Network};

const REGIONS: u64 = 3;

/// An admission: when in milliseconds of civil time, and in which slot.
type Admitted = (u64, u64);

/// Requests at random places and times, with cuts and crashes between them.
fn admitted(algorithm: Algorithm, seed: u64, steps: u64) -> Vec<Admitted> {
    let definition = Definition::new(LimitId(1), Name::new("shared").expect("a name"), algorithm);
    let mut fleet = Fleet::new(REGIONS as usize, vec![definition], seed);
    fleet.network = Network { loss_percent: 15, repeat_percent: 15, jitter_ms: 60, ..Network::default() };
    fleet.settle();
    let mut admitted = Vec::new();
    let mut hot = 0;
    for _ in 0..steps {
        let at = |fleet: &mut Fleet| fleet.seed.below(REGIONS) as usize;
        match fleet.seed.below(60) {
            0 => hot = at(&mut fleet),
            1 => {
                let (from, to) = (at(&mut fleet), at(&mut fleet));
                fleet.network.cut = vec![(from, to), (to, from)];
            }
            2 => fleet.network.cut.clear(),
            3 => {
                let region = at(&mut fleet);
                if fleet.regions[region].limits.is_some() {
                    fleet.crash(region);
                } else {
                    fleet.restart(region);
                }
            }
            _ => {}
        }
        for _ in 0..fleet.seed.below(4) {
            let region = if fleet.seed.percent(70) { hot } else { at(&mut fleet) };
            if let Some(Admission::Allow(charges)) = fleet.request(region, &[(1, 7)]) {
                admitted.push((fleet.now(region).wall.as_unix_millis(), charges[0].slot));
            }
        }
        let pause = fleet.seed.below(40);
        fleet.run(pause);
    }
    admitted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fleets(), ..ProptestConfig::default() })]

    #[test]
    fn buckets_in_regions_admit_in_any_interval_no_more_than_one_bucket(
        seed: u64,
        per_second in 1..60u64,
        burst in 1..40u64,
    ) {
        let rate = Rate { count: per_second, per: Duration::from_secs(1) };
        let admitted = admitted(Algorithm::TokenBucket { rate, burst }, seed, 300);
        prop_assert!(burst < REGIONS || !admitted.is_empty(), "nothing was admitted");
        // In an interval from one admission to a later one: as many as `burst`, and what has dripped in meanwhile.
        let mut lowest = i64::MAX;
        for (count, &(at, _)) in admitted.iter().enumerate() {
            let dripped = (at * per_second) as i64;
            lowest = lowest.min(count as i64 * 1000 - dripped);
            let over = (count as i64 + 1) * 1000 - dripped - lowest - burst as i64 * 1000;
            prop_assert!(over <= 0, "{over} thousandths of a token too many by {at} ms: {admitted:?}");
        }
    }

    #[test]
    fn the_estimate_of_a_sliding_window_stays_within_the_limit(seed: u64, quota in 1..90u64) {
        let window = Duration::from_secs(1);
        let admitted = admitted(Algorithm::SlidingWindow { quota, window }, seed, 300);
        prop_assert!(quota < REGIONS || !admitted.is_empty(), "nothing was admitted");
        for (count, &(at, slot)) in admitted.iter().enumerate() {
            let in_slot = |slot: u64| admitted[..=count].iter().filter(|&&(_, of)| of == slot).count() as u64;
            // A region whose clock was raised by another's is in the slot a moment early.
            let into = at.saturating_sub(slot * 1000).min(1000);
            let estimate = in_slot(slot - 1) * (1000 - into) + in_slot(slot) * 1000;
            prop_assert!(estimate <= quota * 1000, "{estimate} thousandths in slot {slot} by {at} ms");
        }
    }
}

#[test]
fn a_bucket_of_one_token_gives_it_at_any_rate() {
    for count in 1..50 {
        let rate = Rate { count, per: Duration::from_secs(1) };
        let bucket = Algorithm::TokenBucket { rate, burst: 1 };
        let definition = Definition::new(LimitId(1), Name::new("alone").expect("a name"), bucket);
        let mut fleet = Fleet::new(1, vec![definition], 1);
        fleet.settle();
        assert!(matches!(fleet.request(0, &[(1, 7)]), Some(Admission::Allow(_))), "{count} a second");
    }
}

#[test]
fn a_unit_given_back_after_its_slot_frees_nothing_in_any_later_one() {
    let window = Window::Length(Duration::from_secs(1));
    let fixed = Algorithm::FixedWindow { quota: 5, window };
    let definition = Definition::new(LimitId(1), Name::new("alone").expect("a name"), fixed);
    let mut fleet = Fleet::new(1, vec![definition], 1);
    fleet.settle();
    let Some(Admission::Allow(charges)) = fleet.request(0, &[(1, 7)]) else { panic!("the first request passes") };
    for later in 1..6 {
        fleet.run(1000);
        let admits = |fleet: &mut Fleet| matches!(fleet.request(0, &[(1, 7)]), Some(Admission::Allow(_)));
        let mut admitted = (0..3).filter(|_| admits(&mut fleet)).count();
        fleet.regions[0].limiter.refund(&charges[0], 1, fleet.now(0));
        admitted += (0..9).filter(|_| admits(&mut fleet)).count();
        assert_eq!(admitted, 5, "{later} slots later");
    }
}

/// A fleet's history takes longer than a row's.
fn fleets() -> u32 {
    ProptestConfig::default().cases.div_ceil(16)
}
