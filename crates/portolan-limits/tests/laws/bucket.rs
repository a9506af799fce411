//! Limits that are not plain windows, split over regions that lend to each other over a bad network: a token bucket admits
//! in no interval more than one bucket would, and a sliding window's estimate never exceeds the limit.

use std::time::Duration;

use portolan_limits::{Admission, Algorithm, Definition, LimitId, ShareChange, SharePlan, Window};
use portolan_model::{Name, Rate};
use proptest::prelude::*;

#[path = "../fleet/mod.rs"]
mod fleet;

use fleet::{Fleet, Network};

const REGIONS: u64 = 3;

/// An admission: when in milliseconds of the true civil time, and in which slot.
type Admitted = (u64, u64);

/// What happens to regions beside cuts and crashes.
#[derive(Default)]
struct Course {
    /// Milliseconds that their clocks are ahead.
    clocks: [i64; 3],
    /// What they hear of the limit, and when each does, in milliseconds of the run.
    told: Vec<(Definition, [u64; 3])>,
    /// When one ends for good.
    gone: Option<(usize, u64)>,
}

impl Course {
    /// What is due.
    fn step(&self, fleet: &mut Fleet, heard: &mut [usize; 3]) {
        for (at, heard) in heard.iter_mut().enumerate() {
            while let Some((definition, _)) = self.told.get(*heard).filter(|(_, when)| when[at] <= fleet.now_ms) {
                fleet.define_at(at, vec![definition.clone()]);
                *heard += 1;
            }
            if self.is_gone(at, fleet) && fleet.regions[at].limits.is_some() {
                fleet.crash(at);
            }
        }
    }

    fn is_gone(&self, at: usize, fleet: &Fleet) -> bool {
        self.gone.is_some_and(|(gone, from)| gone == at && fleet.now_ms >= from)
    }
}

/// Requests at random places and times, with cuts and crashes between them.
fn admitted(definition: Definition, seed: u64, steps: u64) -> Vec<Admitted> {
    admitted_on(&Course::default(), definition, seed, steps)
}

/// The same on a given course.
fn admitted_on(course: &Course, definition: Definition, seed: u64, steps: u64) -> Vec<Admitted> {
    let mut fleet = Fleet::new(REGIONS as usize, vec![definition], seed);
    for (at, ahead) in course.clocks.into_iter().enumerate() {
        fleet.regions[at].clock_ms = ahead;
    }
    let mut heard = [0; 3];
    fleet.network = Network { loss_percent: 15, repeat_percent: 15, jitter_ms: 60, ..Network::default() };
    fleet.settle();
    let mut admitted = Vec::new();
    let mut hot = 0;
    for _ in 0..steps {
        course.step(&mut fleet, &mut heard);
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
                } else if !course.is_gone(region, &fleet) {
                    fleet.restart(region);
                }
            }
            _ => {}
        }
        for _ in 0..fleet.seed.below(4) {
            let region = if fleet.seed.percent(70) { hot } else { at(&mut fleet) };
            if let Some(Admission::Allow(charges)) = fleet.request(region, &[(1, 7)]) {
                let wall = fleet.now(region).wall.as_unix_millis();
                admitted.push((wall.saturating_add_signed(-course.clocks[region]), charges[0].slot));
            }
        }
        let pause = fleet.seed.below(40);
        fleet.run(pause);
    }
    admitted
}

fn shared(algorithm: Algorithm) -> Definition {
    Definition::new(LimitId(1), Name::new("shared").expect("a name"), algorithm)
}

/// What is too much in an interval from one admission to a later one: above `burst`, and what has dripped in meanwhile.
fn over(admitted: &[Admitted], per_second: u64, burst: u64) -> Option<String> {
    let mut lowest = i64::MAX;
    admitted.iter().enumerate().find_map(|(count, &(at, _))| {
        let dripped = (at * per_second) as i64;
        lowest = lowest.min(count as i64 * 1000 - dripped);
        let over = (count as i64 + 1) * 1000 - dripped - lowest - burst as i64 * 1000;
        (over > 0).then(|| format!("{over} thousandths of a token too many by {at} ms: {admitted:?}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fleets(), ..ProptestConfig::default() })]

    #[test]
    fn rule_8_buckets_in_regions_admit_in_any_interval_no_more_than_one_bucket(
        seed: u64,
        per_second in 1..60u64,
        burst in 1..40u64,
    ) {
        let rate = Rate { count: per_second, per: Duration::from_secs(1) };
        let admitted = admitted(shared(Algorithm::TokenBucket { rate, burst }), seed, 300);
        prop_assert!(burst < REGIONS || !admitted.is_empty(), "nothing was admitted");
        prop_assert_eq!(over(&admitted, per_second, burst), None);
    }

    #[test]
    fn rule_8_buckets_that_lend_rate_gain_nothing_by_clocks_that_differ_but_the_time_that_these_jump(
        seed: u64,
        per_second in 12..60u64,
        burst in 3..12u64,
        clocks in prop::array::uniform3(0..400i64),
    ) {
        let rate = Rate { count: per_second, per: Duration::from_secs(1) };
        let course = Course { clocks, ..Course::default() };
        let admitted = admitted_on(&course, shared(Algorithm::TokenBucket { rate, burst }), seed, 300);
        // A region takes over a clock that is ahead: all shares of the rate together are there for that time once more.
        let jump = clocks.iter().max().zip(clocks.iter().min()).map_or(0, |(most, least)| most.abs_diff(*least));
        prop_assert_eq!(over(&admitted, per_second, burst + (per_second * jump).div_ceil(1000)), None);
    }

    #[test]
    fn rule_8_what_is_on_loan_of_a_bucket_is_there_once_whenever_regions_hear_of_other_shares(
        seed: u64,
        per_second in 30..120u64,
        burst in 3..14u64,
        weights in prop::array::uniform2(prop::array::uniform3(0..9u32)),
        fenced in any::<bool>(),
        heard in prop::array::uniform3(prop::array::uniform3(0..1500u64)),
        turn_ms in 0..1000u64,
    ) {
        let [before, after] = weights;
        prop_assume!(before.iter().zip(&after).all(|(before, after)| !fenced || *before > 0 || *after == 0));
        prop_assume!(before.iter().any(|weight| *weight > 0) && after.iter().any(|weight| *weight > 0));
        let rate = Rate { count: per_second, per: Duration::from_secs(1) };
        let with = |shares| Definition { shares, ..shared(Algorithm::TokenBucket { rate, burst }) };
        let turning = |after: [u32; 3], from: Option<u64>, earliest: u64| {
            let [from, earliest] = [from, Some(earliest)].map(|ms| ms.map(|ms| fleet::START + Duration::from_millis(ms)));
            let change = ShareChange { weights: after.to_vec(), from, earliest: earliest.unwrap_or(fleet::START) };
            with(SharePlan { weights: before.to_vec(), change: Some(change) })
        };
        let at = |begin: u64, part: usize| heard[part].map(|later| begin + later);
        let (told, gone, after) = if fenced {
            // The share of a region that ends goes to the others, whenever they hear of it.
            let gone = (0..3).max_by_key(|&at| (before[at], at)).unwrap_or(0);
            let left = [0, 1, 2].map(|at| if at == gone { 0 } else { before[at] });
            prop_assume!(left.iter().any(|weight| *weight > 0));
            let from = 3000 + turn_ms;
            (vec![(turning(left, Some(from), from), at(2500, 0))], Some((gone, from)), left)
        } else {
            // All have acknowledged a change before it is set, and know of it in time.
            let earliest = 6000 + turn_ms;
            let waiting = (turning(after, None, earliest), at(2500, 0));
            let set = (turning(after, Some(7500 + turn_ms), earliest), at(4500, 1));
            (vec![waiting, set], None, after)
        };
        let settled = with(SharePlan { weights: after.to_vec(), change: None });
        let told = told.into_iter().chain([(settled, at(19_000, 2))]).collect();
        let course = Course { told, gone, ..Course::default() };
        let admitted = admitted_on(&course, with(SharePlan { weights: before.to_vec(), change: None }), seed, 1100);
        prop_assert_eq!(over(&admitted, per_second, burst), None);
    }

    #[test]
    fn rule_2_buckets_whose_shares_change_admit_in_any_interval_no_more_than_one_bucket(
        seed: u64,
        per_second in 10..60u64,
        burst in 10..40u64,
        weights in prop::array::uniform3(0..7u32),
        turn_ms in 1000..4000u64,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let rate = Rate { count: per_second, per: Duration::from_secs(1) };
        let from = Some(fleet::START + Duration::from_millis(turn_ms));
        let change = ShareChange { weights: weights.to_vec(), from, earliest: fleet::START };
        let shares = SharePlan { weights: vec![1, 2, 4], change: Some(change) };
        let algorithm = Algorithm::TokenBucket { rate, burst };
        let admitted = admitted(Definition { shares, ..shared(algorithm) }, seed, 300);
        prop_assert_eq!(over(&admitted, per_second, burst), None);
    }

    #[test]
    fn rule_7_the_estimate_of_a_sliding_window_stays_within_the_limit(seed: u64, quota in 1..90u64) {
        let window = Duration::from_secs(1);
        let admitted = admitted(shared(Algorithm::SlidingWindow { quota, window }), seed, 300);
        prop_assert!(quota < REGIONS || !admitted.is_empty(), "nothing was admitted");
        for (count, &(at, slot)) in admitted.iter().enumerate() {
            let in_slot = |slot: u64| admitted[..=count].iter().filter(|&&(_, of)| of == slot).count() as u64;
            // A region whose clock was raised by another's is in the slot a moment early.
            let into = at.saturating_sub(slot * 1000).min(1000);
            let estimate = in_slot(slot - 1) * (1000 - into) + in_slot(slot) * 1000;
            prop_assert!(estimate <= quota * 1000, "{estimate} thousandths in slot {slot} by {at} ms");
            let trailing = admitted[..=count].iter().filter(|&&(of, _)| of + 1000 > at).count() as u64;
            prop_assert!(trailing <= 2 * quota, "{trailing} of {quota} in the second to {at} ms");
        }
    }
}

#[test]
fn rule_8_rate_that_was_lent_is_missing_until_the_slot_is_over_by_the_slowest_clock() {
    let rate = Rate { count: 400, per: Duration::from_secs(1) };
    let mut fleet = Fleet::new(2, vec![shared(Algorithm::TokenBucket { rate, burst: 8 })], 1);
    // The borrower hears of the clock of the lender, which is ahead, too late to take it over.
    fleet.network = Network { delay_ms: 160, jitter_ms: 0, ..Network::default() };
    fleet.regions[1].clock_ms = 150;
    fleet.settle();
    let mut admitted = Vec::new();
    let mut by_borrower = 0;
    for ms in 0..12_000 {
        // For three seconds only the borrower is asked, then both, who do not hear each other: the lender wants back what it
        // has lent, and gets nothing back.
        let both = ms / 1000 % 5 >= 3;
        fleet.network.cut = if both { vec![(0, 1), (1, 0)] } else { Vec::new() };
        let asked = if both { 0..2 } else { 0..1 };
        for region in asked {
            if let Some(Admission::Allow(charges)) = fleet.request(region, &[(1, 7)]) {
                admitted.push((ms, charges[0].slot));
                by_borrower += u64::from(region == 0);
            }
        }
        fleet.run(1);
    }
    assert!(by_borrower > 2600, "nothing was lent: {by_borrower}");
    assert_eq!(over(&admitted, 400, 8), None);
}

#[test]
fn rule_2_what_a_bucket_gains_by_a_change_of_shares_is_not_there_twice() {
    let rate = Rate { count: 10, per: Duration::from_secs(1) };
    let turn_ms = fleet::START.as_unix_millis().next_multiple_of(1000) + 3000 - fleet::START.as_unix_millis();
    let from = fleet::START + Duration::from_millis(turn_ms);
    let change = ShareChange { weights: vec![4, 6], from: Some(from), earliest: from };
    let shares = SharePlan { weights: vec![6, 4], change: Some(change) };
    let definition = Definition { shares, ..shared(Algorithm::TokenBucket { rate, burst: 10 }) };
    let mut fleet = Fleet::new(2, vec![definition], 1);
    let take = |fleet: &mut Fleet, region| {
        (0..20).filter(|_| matches!(fleet.request(region, &[(1, 7)]), Some(Admission::Allow(_)))).count()
    };
    // Nothing is lent.
    fleet.network.cut = vec![(0, 1), (1, 0)];
    fleet.run(turn_ms - 5 - fleet.now_ms);
    assert_eq!(take(&mut fleet, 0), 6);
    fleet.run(10);
    assert_eq!(take(&mut fleet, 1), 0, "the first has spent a moment ago what the second has gained");
    // From half a second after the turn on, when it has come by every clock, by the new rate.
    fleet.run(1000);
    assert_eq!((take(&mut fleet, 0), take(&mut fleet, 1)), (4, 3));
    fleet.run(5000);
    assert_eq!((take(&mut fleet, 0), take(&mut fleet, 1)), (4, 6));
}

#[test]
fn rule_2_what_a_bucket_gains_of_the_rate_alone_drips_in_when_all_clocks_have_turned() {
    let rate = Rate { count: 50, per: Duration::from_secs(1) };
    let turn_ms = fleet::START.as_unix_millis().next_multiple_of(1000) + 3000 - fleet::START.as_unix_millis();
    let from = fleet::START + Duration::from_millis(turn_ms);
    let change = ShareChange { weights: vec![2, 3], from: Some(from), earliest: from };
    let shares = SharePlan { weights: vec![3, 2], change: Some(change) };
    // Each has one token of the burst, before and after.
    let definition = Definition { shares, ..shared(Algorithm::TokenBucket { rate, burst: 2 }) };
    let mut fleet = Fleet::new(2, vec![definition], 1);
    fleet.regions[1].clock_ms = 400;
    fleet.network.cut = vec![(0, 1), (1, 0)];
    fleet.settle();
    let mut admitted = Vec::new();
    for _ in 0..6000 {
        for region in 0..2 {
            if let Some(Admission::Allow(charges)) = fleet.request(region, &[(1, 7)]) {
                admitted.push((fleet.now_ms, charges[0].slot));
            }
        }
        fleet.run(1);
    }
    assert!(admitted.len() > 250, "{}", admitted.len());
    assert_eq!(over(&admitted, 50, 2), None);
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

#[test]
fn what_was_charged_to_a_bucket_before_its_rate_was_raised_is_not_given_back_in_the_time_of_the_new_one() {
    let bucket = |generation, count| {
        let rate = Rate { count, per: Duration::from_secs(1) };
        let name = Name::new("alone").expect("a name");
        let algorithm = Algorithm::TokenBucket { rate, burst: 60 };
        Definition { generation, ..Definition::new(LimitId(1), name, algorithm) }
    };
    let charge = |fleet: &mut Fleet, key| match fleet.request(0, &[(1, key)]) {
        Some(Admission::Allow(charges)) => Some(charges[0]),
        _ => None,
    };
    // Of one key that has a counter, and of more than the table has room for, which share one.
    for keys in [1, 1000] {
        let mut fleet = Fleet::new(1, vec![bucket(1, 30)], 1);
        fleet.settle();
        fleet.run(1000 - fleet.now(0).wall.as_unix_millis() % 1000);
        let asked = (0..1000).map(|at| at % keys);
        let charges: Vec<_> = asked.filter_map(|key| charge(&mut fleet, key)).collect();
        assert!(charges.len() >= 60, "{}", charges.len());
        fleet.define(vec![bucket(2, 300)]);
        let late = if keys == 1 { 0 } else { 5000 };
        // As the first charge under the new rate is not one under the old.
        fleet.run(4);
        let mut at_once = usize::from(charge(&mut fleet, late).is_some());
        for charge in &charges[charges.len() - 20..] {
            fleet.regions[0].limiter.refund(charge, 1, fleet.now(0));
        }
        at_once += (0..100).filter_map(|_| charge(&mut fleet, late)).count();
        assert!(at_once <= 21, "{keys} keys: {at_once}");
    }
}

/// A fleet's history takes longer than a row's.
fn fleets() -> u32 {
    ProptestConfig::default().cases.div_ceil(16)
}
