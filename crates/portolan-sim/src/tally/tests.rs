//! What the tally says of verdicts that no gateway gave.

use portolan_config::{Bundle, GatewaySource, RegionSource, Snapshot, SourceFile};
use portolan_limits::{DenyReason, Windows};
use portolan_model::HashKey;

use super::*;
use crate::{civil::Clocks, quotas::Quota, trouble::State};

/// Three regions of three nodes that share one limit.
struct Fleet {
    tally: Tally,
    limit: Arc<Limit>,
    counter: u32,
    /// The slot in which the scenario began.
    first: u64,
    clocks: Clocks,
}

/// A limit of a scenario with three nodes in each of three regions.
pub fn parsed(limit: &str) -> (Arc<Limit>, Arc<RegionMap>, Scenario) {
    let text = format!(
        "version: 1\ntitle: t\nlength: 60s\nregions: {{ a: {{}}, b: {{}}, c: {{}} }}\nrtt: 80ms\nnodes: 3\n\
         gateway: |\n  version: 1\n  lenders: {{ main: {{ redis: 'redis://127.0.0.1:6379' }} }}\n  services: {{ s: {{ endpoints: {{ a: ['http://127.0.0.1:1'] }} }} }}\n  \
         limits: {{ it: {{ key: global, {limit} }} }}\n  \
         routes: {{ r: {{ match: {{ path: /** }}, limits: [it], service: s }} }}\n\
         clients: [{{ region: a, rate: 1/s, host: h.test, path: /, lasting: 250ms }}]\n"
    );
    let file = SourceFile { path: "s.yaml".to_owned(), text };
    let scenario = Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()));
    let RegionSource::Inline(map) = &scenario.regions else { panic!("the regions stand in the scenario") };
    let map = Arc::clone(map);
    let Some(GatewaySource::Inline(document)) = &scenario.config else { panic!("so does the gateway") };
    let bundle = Bundle { document: document.clone(), attachments: BTreeMap::new() };
    let snapshot = Snapshot::parse(&bundle, &map).unwrap_or_else(|faults| panic!("{}", faults.render()));
    let limit = Arc::clone(snapshot.limits.values().next().expect("one limit"));
    (limit, map, scenario)
}

impl Fleet {
    fn of(limit: &str) -> Self {
        let (limit, map, scenario) = parsed(limit);
        let mut tally = Tally::new(&map, &scenario);
        let id = LimitId(1);
        let key = Key::new(&HashKey::new([7; 16]), id, &[]);
        let counter = tally.counter(&limit, (id, key), "everyone".to_owned());
        let first = Windows::of(&limit.algorithm).slot(crate::clock::BEGIN);
        tally.truth.quotas.take(0, BTreeMap::from([(id, Quota::of(&limit.algorithm))]), 0);
        Self { tally, limit, counter, first, clocks: Clocks::default() }
    }

    /// Sets the clock of a node, all others are true.
    fn set_clock(&mut self, host: usize, ahead_ms: i64, at_ms: u64) {
        let clocks = (0..9).map(|other| (other / 3, if other == host { ahead_ms } else { 0 }));
        self.clocks.read(clocks, Timestamp::from_nanos(at_ms * 1_000_000));
    }

    fn seen(&self, host: usize, at_ms: u64) -> Seen {
        let (place, at) = (host / 3, Timestamp::from_nanos(at_ms * 1_000_000));
        Seen { host, place, at, moment: self.clocks.moment_of(place) }
    }

    /// Admits so much of a slot at a node of a region; returns what is wrong with it.
    fn admit(&mut self, host: usize, at_ms: u64, slot: u64, cost: u64) -> Option<String> {
        let charged = Charged { slot: self.first + slot, cost, quota: self.limit.quota() };
        self.tally.admit(self.counter, charged, self.seen(host, at_ms))
    }

    /// A node gives back at `now_ms` what it admitted at `at_ms`.
    fn refund(&mut self, host: usize, (at_ms, now_ms): (u64, u64), slot: u64, cost: u64) {
        let charged = Charged { slot: self.first + slot, cost, quota: self.limit.quota() };
        self.tally.refund(self.counter, charged, self.seen(host, at_ms), self.seen(host, now_ms));
    }

    /// Asks for so much at a node of a region, in equal distances over a second that begins at a time; of every so many
    /// requests one is refused. Returns what is wrong with that.
    fn ask(&mut self, host: usize, from_ms: u64, count: u64, one_in: u64) -> Vec<String> {
        let mut found = Vec::new();
        for request in 0..count {
            let at_ms = from_ms + request * 1000 / count;
            let slot = Windows::of(&self.limit.algorithm).slot(crate::clock::BEGIN + Duration::from_millis(at_ms));
            found.extend(match request % one_in {
                0 => self.refuse(host, at_ms, 20),
                _ => self.admit(host, at_ms, slot - self.first, 1),
            });
        }
        found
    }

    /// Refuses a request at a node of a region that would have lasted so long.
    fn refuse(&mut self, host: usize, at_ms: u64, lasting_ms: u64) -> Option<String> {
        let (place, at) = (host / 3, Timestamp::from_nanos(at_ms * 1_000_000));
        let seen = Seen { host, place, at, moment: self.clocks.moment_of(place) };
        let denial = Denial {
            limit: LimitId(1),
            name: self.limit.name.clone(),
            reason: DenyReason::Exhausted,
            slot: 0,
            quota: self.limit.quota(),
            window: Duration::ZERO,
            remaining: 0,
            retry_after: Duration::ZERO,
            expose_slot: false,
        };
        let refused = Refused { why: Refusal::Limited, cost: 1, lasting: Duration::from_millis(lasting_ms) };
        self.tally.refuse(self.counter, &denial, refused, seen)
    }
}

#[test]
fn what_is_asked_of_a_limit_of_concurrency_is_what_would_be_under_way_at_one_time() {
    let false_rejects = |play: &dyn Fn(&mut Fleet)| {
        let mut fleet = Fleet::of("concurrency: 40");
        play(&mut fleet);
        fleet.tally.close();
        fleet.tally.figures(&[])["it"].false_rejects_ppm
    };
    let one_after_the_other = |fleet: &mut Fleet| {
        for request in 0..9 {
            assert_eq!(fleet.admit(0, 20_000 + 100 * request, 0, 1), None);
            fleet.tally.release(fleet.counter, 0, 1);
        }
    };
    assert_eq!(false_rejects(&one_after_the_other), 0, "nothing was refused");
    let mut fleet = Fleet::of("concurrency: 40");
    one_after_the_other(&mut fleet);
    let (_, mut slots) = fleet.tally.slots_of(fleet.counter);
    let slot = slots.next().expect("they are of one second");
    assert_eq!((slot.demand, slot.admitted, &slot.by_region[..]), (1, 1, &[1, 0, 0][..]));
    drop(slots);
    let refused = |lasting_ms: u64| {
        false_rejects(&|fleet| {
            assert_eq!(fleet.admit(0, 20_000, 0, 10), None);
            (0..9).for_each(|request| _ = fleet.refuse(4, 20_100 + 100 * request, lasting_ms));
        })
    };
    // One of forty that would have been there alone each time, four at one time, all of them.
    assert_eq!([refused(50), refused(400), refused(2000)], [25_000, 100_000, 225_000]);
}

#[test]
fn a_node_that_has_not_heard_of_a_larger_bucket_may_spend_what_one_grants_that_has() {
    let check = |cost: u64, holds: bool| {
        let mut fleet = Fleet::of("rate: 120/s, algorithm: token_bucket, burst: 30");
        let larger = Quota { count: 300, burst: 200 };
        fleet.tally.truth.quotas.take(4, BTreeMap::from([(LimitId(1), larger)]), 20_000);
        let found = [fleet.admit(0, 20_100, 20, cost / 2), fleet.admit(0, 20_100, 20, cost / 2)];
        assert_eq!(found.iter().flatten().count(), usize::from(!holds), "{cost}: {found:?}");
        // It is as it was before when the last node has been so for a second.
        fleet.tally.truth.quotas.take(4, BTreeMap::new(), 21_000);
        let found = [fleet.admit(0, 30_000, 30, 30), fleet.admit(0, 30_000, 30, 2)];
        assert!(found[0].is_none() && found[1].is_some(), "{found:?}");
    };
    check(200, true);
    check(202, false);
}

#[test]
fn a_calm_fleet_is_held_to_what_plan_states_of_one_that_is_well() {
    let open = "rate: 90/s, on_partition: open";
    let parallel = "concurrency: 60";
    let check = |limit: &str, trouble: Option<(State, i64)>, cost: u64, holds: bool| {
        let mut fleet = Fleet::of(limit);
        trouble.into_iter().for_each(|(state, at_ms)| fleet.tally.truth.trouble.note(state, at_ms));
        let found = [fleet.admit(0, 20_100, 20, cost - 1), fleet.admit(4, 20_200, 20, 1)];
        assert_eq!(found.iter().flatten().count(), usize::from(!holds), "{limit} {trouble:?} {cost}: {found:?}");
    };
    check(open, None, 90, true);
    check(open, None, 91, false);
    check(parallel, None, 60, true);
    check(parallel, None, 61, false);
    // What was mended long ago is not felt any more: 500 ms until a region is stale, five seconds, what lasts.
    check(open, Some((State::Troubled, 14_400)), 91, false);
    check(open, Some((State::Troubled, 14_500)), 91, true);
    check(open, Some((State::Troubled, 20_150)), 270, true);
    check(open, Some((State::Troubled, 20_150)), 271, false);
    check(parallel, Some((State::Split, 14_200)), 61, false);
    check(parallel, Some((State::Split, 14_250)), 120, true);
    check(parallel, Some((State::Split, 14_250)), 121, false);
    // Regions that do not hear each other give nobody a unit more of what is in flight.
    check(parallel, Some((State::Troubled, 20_150)), 61, false);
}

#[test]
fn a_sliding_window_is_held_to_its_estimate_again_some_time_after_a_clock_was_off() {
    let check = |step_ms: i64, at_ms: u64, expected: [bool; 2]| {
        let mut fleet = Fleet::of("rate: 300/s, algorithm: sliding");
        fleet.set_clock(0, step_ms, 5_000);
        fleet.set_clock(0, 0, 6_000);
        fleet.set_clock(0, 0, at_ms);
        let found = [fleet.admit(4, at_ms - 1_000, at_ms / 1000 - 1, 300), fleet.admit(4, at_ms, at_ms / 1000, 200)];
        let holds = found.each_ref().map(Option::is_none);
        assert_eq!(holds, expected, "{step_ms} {at_ms}: {found:?}");
    };
    // 40 of the 300 before are left at 900 ms of the next second, 270 at 100 ms.
    check(0, 40_900, [true, true]);
    check(0, 40_100, [true, false]);
    // Another region's clock was 2 s ahead for a second, 20 s and more before.
    check(2_000, 40_100, [true, false]);
    // Eight seconds after it a node may yet be ahead by what it adopted, half a second.
    check(0, 14_200, [true, false]);
    check(2_000, 14_200, [true, true]);
}

#[test]
fn no_slot_is_charged_before_a_clock_of_the_fleet_reads_it() {
    let check = |host: usize, ahead_ms: i64, at_ms: u64, holds: bool| {
        let mut fleet = Fleet::of("rate: 90/s");
        fleet.set_clock(0, ahead_ms, 0);
        assert_eq!(fleet.admit(host, at_ms, 10, 1).is_none(), holds, "{host} {ahead_ms} {at_ms}");
    };
    check(3, 0, 9_600, false);
    check(3, 20, 9_970, true);
    check(3, 20, 9_960, false);
    // A node may adopt half a second of another's time, and no more.
    check(3, 8_000, 9_500, true);
    check(3, 8_000, 9_400, false);
    check(1, 8_000, 2_000, true);
}

#[test]
fn a_span_admits_what_two_slots_may_whatever_slots_are_charged() {
    let check = |ahead_ms: i64, at: [u64; 3], holds: bool| {
        let mut fleet = Fleet::of("rate: 90/s");
        fleet.set_clock(3, ahead_ms, 0);
        fleet.set_clock(3, ahead_ms, at[2]);
        let [first, second, third] =
            [(at[0], 10), (at[1], 11), (at[2], 12)].map(|(at_ms, slot)| fleet.admit(0, at_ms, slot, 90));
        assert_eq!((first, second), (None, None));
        assert_eq!(third.is_none(), holds, "{ahead_ms} {at:?}: {third:?}");
    };
    // Another region's clock is 20 ms ahead, as an ordinary one may be. Each of these charges may be by itself.
    check(20, [10_995, 11_500, 11_975], true);
    check(20, [11_005, 11_500, 11_975], false);
    check(21, [11_005, 11_500, 11_975], true);
    check(8_000, [11_005, 11_500, 11_500], true);
}

#[test]
fn a_slot_that_is_over_takes_nothing_back() {
    let check = |limit: &str, back_at_ms: u64, holds: bool| {
        let mut fleet = Fleet::of(limit);
        fleet.clocks.read((0..9).map(|host| (host / 3, 0)), Timestamp::ZERO);
        assert_eq!(fleet.admit(0, 20_100, 20, 90), None);
        fleet.refund(0, (20_100, back_at_ms), 20, 90);
        // Where a bucket is meant, as much has dripped in as it holds by then. A clock may yet read the slot.
        let again = fleet.admit(0, 21_005, 20, if limit.contains("burst") { 100 } else { 90 });
        assert_eq!(again.is_none(), holds, "{limit} {back_at_ms}: {again:?}");
    };
    for limit in ["rate: 90/s", "rate: 90/s, algorithm: sliding", "rate: 10/s, algorithm: token_bucket, burst: 100"] {
        check(limit, 20_500, true);
        check(limit, 21_010, true);
        check(limit, 21_011, false);
    }
}

#[test]
fn a_lender_that_forgets_twice_in_a_window_lends_the_same_twice_more() {
    let check = |failovers: &[i64], cost: u64, holds: bool| {
        let mut fleet = Fleet::of("rate: 100/s, lender: main");
        failovers.iter().for_each(|at_ms| fleet.tally.note_lost_loans(*at_ms, fleet.clocks.widest()));
        let found = [fleet.admit(0, 20_100, 20, cost / 2), fleet.admit(4, 20_200, 20, cost - cost / 2)];
        assert_eq!(found.iter().flatten().count(), usize::from(!holds), "{failovers:?} {cost}: {found:?}");
    };
    check(&[], 100, true);
    check(&[], 101, false);
    check(&[20_050], 180, true);
    check(&[20_050], 181, false);
    check(&[20_050, 20_080], 260, true);
    check(&[20_050, 20_080], 261, false);
    // No region goes beyond the limit by itself; what was forgotten before does not count.
    check(&[20_050, 20_080, 20_090], 300, true);
    check(&[20_050, 20_080, 20_090], 301, false);
    check(&[2_050, 20_080], 181, false);
}

#[test]
fn what_is_counted_otherwise_under_one_name_is_held_to_what_its_number_says() {
    let check = |before: &str, after: &str, admitted: [(u64, u64); 2], holds: bool| {
        let mut fleet = Fleet::of(before);
        let (other, ..) = parsed(after);
        let key = Key::new(&HashKey::new([7; 16]), LimitId(2), &[]);
        fleet.tally.counter(&other, (LimitId(2), key), "everyone".to_owned());
        // A region that has not heard of the change goes on.
        let found = admitted.map(|(slot, cost)| fleet.admit(8, 20_100, slot, cost));
        assert_eq!(found.iter().flatten().count(), usize::from(!holds), "{before}, {after}: {found:?}");
        fleet.tally.close();
        assert_eq!(fleet.tally.figures(&[]).len(), 1);
    };
    let (minute, second) = ("rate: 90/min", "rate: 90/s");
    let (slides, drips) = ("rate: 90/s, algorithm: sliding", "rate: 90/s, algorithm: token_bucket, burst: 90");
    check(minute, second, [(0, 45), (0, 45)], true);
    check(minute, second, [(0, 45), (0, 46)], false);
    check(second, minute, [(20, 45), (20, 45)], true);
    check(second, minute, [(20, 45), (20, 46)], false);
    check(second, slides, [(20, 45), (20, 46)], false);
    check(second, "rate: 90/s, algorithm: token_bucket, burst: 900", [(20, 45), (20, 46)], false);
    check(second, "concurrency: 900", [(20, 45), (20, 46)], false);
    check(slides, second, [(20, 45), (20, 46)], false);
    check(drips, minute, [(20, 45), (20, 45)], true);
    check(drips, minute, [(20, 45), (20, 60)], false);
}

#[test]
fn a_bucket_gains_by_the_clock_of_a_region_what_that_has_of_it() {
    let check = |limit: &str, step_ms: i64, most: u64| {
        let mut fleet = Fleet::of(limit);
        fleet.set_clock(8, 0, 0);
        assert_eq!(fleet.admit(0, 20_000, 20, 300), None);
        fleet.set_clock(0, step_ms, 20_000);
        let taken = (0..500).take_while(|_| fleet.admit(0, 20_000, 20, 1).is_none()).count();
        assert_eq!(taken as u64, most + 1, "{limit} {step_ms}");
    };
    // A third of 90/s and of the 300: what 510 ms let drip in, and what it holds of it.
    let bucket = "rate: 90/s, algorithm: token_bucket, burst: 300";
    check(bucket, 0, 0);
    check(bucket, 500, 15);
    check(bucket, 60_000, 100);
    check(&format!("{bucket}, shares: demand"), 60_000, 300);
    check(&format!("{bucket}, shares: {{ a: 1, b: 5, c: 0 }}"), 500, 7);
    // Rate may be on loan, tokens of the burst are not then.
    check("rate: 300/s, algorithm: token_bucket, burst: 300", 500, 100);
}

/// Whether it is told that one of so many requests is refused in the first region, which asks for `count` in each second from
/// one to another of the scenario, while the second asks for `others`.
fn tells(
    limit: &str,
    (count, others): (u64, u64),
    one_in: u64,
    seconds: std::ops::Range<u64>,
    play: &dyn Fn(&mut Fleet),
) -> bool {
    let mut fleet = Fleet::of(limit);
    fleet.clocks.read((0..9).map(|host| (host / 3, 0)), Timestamp::ZERO);
    play(&mut fleet);
    let found: Vec<String> = seconds
        .flat_map(|second| {
            let others = fleet.ask(4, second * 1000, others, u64::MAX);
            assert_eq!(others, Vec::<String>::new());
            fleet.ask(0, second * 1000, count, one_in)
        })
        .collect();
    assert!(found.len() <= 1, "once is enough: {found:?}");
    found.len() == 1
}

#[test]
fn what_every_region_has_room_for_by_its_own_share_is_refused_to_a_small_part() {
    let calm = |limit: &str, asked: (u64, u64), one_in| tells(limit, asked, one_in, 20..30, &|_| {});
    // Of 90 each has 100.
    assert!(calm("rate: 300/s", (50, 0), 10));
    assert!(!calm("rate: 300/s", (50, 0), 500), "a few are what a turn of slots may cost");
    assert!(!calm("rate: 300/s", (80, 0), 10), "some of its share may be lent");
    assert!(calm("rate: 300/s", (40, 50), 10));
    assert!(!calm("rate: 300/s", (40, 80), 10), "the other borrows");
    assert!(calm("rate: 300/s", (40, 80), 2) && !calm("rate: 300/s", (40, 160), 2), "there is enough for both");
    assert!(calm("rate: 300/s, algorithm: sliding", (50, 0), 10));
    assert!(calm("rate: 300/s, algorithm: token_bucket, burst: 300", (50, 0), 10));
    assert!(
        !calm("rate: 300/s, algorithm: token_bucket, burst: 100", (50, 0), 10),
        "as much as a third of the burst at once"
    );
    assert!(calm("rate: 3000/min", (20, 0), 10));
    assert!(calm("rate: 300/s, shares: { a: 2, b: 1, c: 0 }", (90, 50), 10));
    assert!(!calm("rate: 300/s, shares: { a: 0, b: 1, c: 1 }", (50, 0), 10), "it has no share");
    assert!(calm("rate: 300/s, shares: { a: 0, b: 1, c: 1 }", (50, 0), 2), "but is lent what it asks for steadily");
    assert!(!calm("rate: 3000/10s, algorithm: sliding, shares: { a: 0, b: 1, c: 1 }", (50, 0), 2), "that is not lent");
    assert!(!calm("rate: 300/s, shares: demand", (50, 0), 10), "nobody states it");
    assert!(calm("rate: 90/s", (10, 0), 2));
    assert!(!calm("rate: 87/s", (10, 0), 2), "three nodes have 29 in pieces");
    assert!(calm("concurrency: 300", (4, 0), 2), "none of them ends");
}

#[test]
fn nothing_is_said_of_refusals_before_a_fleet_has_got_over_the_last_trouble() {
    let after = |limit: &str, last_ms: i64, seconds| {
        tells(limit, (50, 0), 10, seconds, &|fleet| fleet.tally.truth.trouble.note_unrest(last_ms))
    };
    assert!(!after("rate: 300/s", 20_000, 20..30));
    assert!(after("rate: 300/s", 20_000, 30..40));
    assert!(!after("rate: 300/s", 20_001, 22..31), "its slot began before");
    assert!(!after("rate: 1500/5s", 20_001, 25..35), "so did that");
    assert!(after("rate: 1500/5s", 20_001, 35..40));
    assert!(!after("rate: 300/s, algorithm: sliding", 20_000, 30..31), "what was spent before counts");
    assert!(after("rate: 300/s, algorithm: sliding", 20_000, 31..40));
}

#[test]
fn of_a_window_in_which_there_was_trouble_a_tenth_of_the_share_is_left_whatever_was_marked() {
    let lost = |fleet: &mut Fleet| fleet.tally.truth.note_lost_disk(20_000);
    let after = |limit: &str, play: &dyn Fn(&mut Fleet)| {
        let play = |fleet: &mut Fleet| {
            fleet.tally.truth.trouble.note_unrest(20_000);
            play(fleet);
        };
        tells(limit, (50, 0), 10, 30..40, &play)
    };
    assert!(after("quota: 30000/day", &|_| {}));
    assert!(!after("quota: 2000/day", &|_| {}), "beyond a tenth before it is one too many");
    assert!(!after("quota: 30000/day", &lost), "nobody may know what was spent of it");
    assert!(after("rate: 300/s", &lost), "but of what began later");
}
