//! A split belongs to a slot (rules 9.2 and 9.6): while shares change, fences come and go, leases lapse, limits begin and
//! cease to reclaim and nodes lag behind each other, no slot is ever cut in a way that adds up to more than the quota.
//!
//! Each region spends and lends the most that it may by the state it has applied, which can be any older one. What it took
//! for granted about a slot is kept outside the register, and the sum over all regions is what is held to the quota.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_config::{Applied, Bundle, Command, Intent, LimitId, RegionMap, SharePlan, SourceFile};
use portolan_limits::base_shares;
use portolan_model::{MemberId, NodeName, RegionId, WallTime};
use proptest::prelude::*;

const REGIONS: [&str; 3] = ["a", "b", "c"];
const WINDOW: Duration = Duration::from_secs(2);
const QUOTA: u64 = 10;

fn region_map() -> Arc<RegionMap> {
    let region = |index: usize| SourceFile {
        path: format!("{}.yaml", REGIONS[index]),
        text: format!(
            "{{ version: 1, region: {}, title: t, coordinates: {{ latitude: 0, longitude: {index} }}, addresses: [\"::{index}\"] }}",
            REGIONS[index]
        ),
    };
    let trips = "version: 1\nrtt: [{ between: [a, b], rtt: 9ms }, { between: [a, c], rtt: 9ms }, { between: [b, c], rtt: 9ms }]";
    let mut files: Vec<SourceFile> = (0..REGIONS.len()).map(region).collect();
    files.push(SourceFile { path: "rtt.yaml".to_owned(), text: trips.to_owned() });
    Arc::new(RegionMap::parse(&files).unwrap_or_else(|faults| panic!("{faults}")))
}

/// A fleet with one node per region, a log, and what every region took for granted.
struct Fleet {
    log: Vec<Intent>,
    /// Index into the log of the state that each region has applied.
    applied: [usize; 3],
    dead: Option<usize>,
    now: WallTime,
    /// Clocks of the regions, in milliseconds from the true time.
    clocks: [u64; 3],
    taken: BTreeMap<(LimitId, u64), [u64; 3]>,
}

impl Fleet {
    fn new(clocks: [u64; 3]) -> Self {
        let mut intent = Intent::new(region_map());
        let now = WallTime::from_unix_millis(1_000_000);
        for (member, region) in REGIONS.iter().enumerate() {
            let (node, region) = (node(member), RegionId::new(region).expect("a region"));
            intent.apply(&Command::Join { node, region, member: MemberId(member as u64), at: now });
        }
        let mut fleet = Self { log: vec![intent], applied: [0; 3], dead: None, now, clocks, taken: BTreeMap::new() };
        fleet.order_shares([1, 1, 1], Reclaim::Never, 0);
        fleet.applied = [1; 3];
        fleet
    }

    fn at(&self, region: usize) -> WallTime {
        self.now + Duration::from_millis(self.clocks[region])
    }

    fn order(&mut self, command: &Command) {
        let mut intent = self.log.last().expect("a first state").clone();
        if !matches!(intent.apply(command), Applied::Refused(_)) {
            self.log.push(intent);
        }
    }

    fn order_shares(&mut self, weights: [u32; 3], reclaim: Reclaim, proposer: usize) {
        let [a, b, c] = weights;
        let reclaim = match reclaim {
            Reclaim::Never => String::new(),
            Reclaim::After(seconds) => format!(", reclaim: {seconds}s"),
        };
        let shares = format!("shares: {{ a: {a}, b: {b}, c: {c} }}");
        let text = format!("version: 1\nlimits: {{ l: {{ key: global, rate: {QUOTA}/2s, {shares}{reclaim} }} }}\n");
        let bundle = Bundle { document: SourceFile { path: "g.yaml".to_owned(), text }, attachments: BTreeMap::new() };
        self.order(&Command::Apply { bundle, author: "ann".to_owned(), at: self.at(proposer), expected: None });
    }

    /// A region applies the log as far as `share` of what it lacks.
    fn catch_up(&mut self, region: usize, share: usize) {
        let lacking = self.log.len() - 1 - self.applied[region];
        self.applied[region] += (lacking * share).div_ceil(4);
    }

    fn acknowledge(&mut self, region: usize) {
        let intent = &self.log[self.applied[region]];
        if let Some(command) = intent.acknowledgement(&node(region), self.at(region)) {
            self.order(&command);
        }
    }

    /// A leader that hears these regions renews what is due.
    fn renew(&mut self, present: [bool; 3], proposer: usize) {
        let heard = REGIONS.iter().zip(present).filter(|(_, heard)| *heard);
        let regions = heard.map(|(region, _)| RegionId::new(region).expect("a region")).collect();
        if let Some(command) = self.log.last().expect("a first state").renewal(&regions, self.at(proposer)) {
            self.order(&command);
        }
    }

    /// A region spends and lends all that it may of the slot under way and of the next.
    fn take(&mut self, region: usize) {
        let at = self.at(region);
        let intent = &self.log[self.applied[region]];
        for budget in intent.limits.budgets(&intent.snapshot) {
            let slot = at.as_unix_millis() / WINDOW.as_millis() as u64;
            let name = RegionId::new(REGIONS[region]).expect("a region");
            let until = intent.leases.until(&budget.limit.name, &name);
            let leased = |slot: &u64| until.is_none_or(|until| begin(*slot) < until);
            for slot in [slot, slot + 1].into_iter().filter(leased) {
                let share = share(budget.shares, region, slot);
                let taken = &mut self.taken.entry((budget.binding.id, slot)).or_default()[region];
                *taken = share.max(*taken);
            }
        }
    }

    fn kill(&mut self, region: usize) {
        if self.dead.is_none() {
            self.dead = Some(region);
            let region = RegionId::new(REGIONS[region]).expect("a region");
            self.order(&Command::FenceLimits {
                region,
                reason: "gone".to_owned(),
                author: "ann".to_owned(),
                at: self.now,
            });
        }
    }

    /// The region comes back with the log as it is, as a restart under a newer roster does.
    fn revive(&mut self) {
        if let Some(dead) = self.dead.take() {
            let region = RegionId::new(REGIONS[dead]).expect("a region");
            self.order(&Command::UnfenceLimits { region, author: "ann".to_owned(), at: self.now });
            self.applied[dead] = self.log.len() - 1;
        }
    }
}

/// The share of a region in a slot: a pure function of the plan that it knows.
fn share(plan: &SharePlan, region: usize, slot: u64) -> u64 {
    let begin = begin(slot);
    let of = |weights: &[u32]| base_shares(QUOTA, weights, REGIONS.len())[region];
    let old = of(&plan.weights);
    match &plan.change {
        None => old,
        Some(change) => match change.from {
            Some(from) if begin >= from => of(&change.weights),
            None if begin >= change.earliest => old.min(of(&change.weights)),
            _ => old,
        },
    }
}

fn begin(slot: u64) -> WallTime {
    WallTime::from_unix_millis(slot * WINDOW.as_millis() as u64)
}

fn node(region: usize) -> NodeName {
    NodeName::new(&format!("{}-1", REGIONS[region])).expect("a node")
}

#[derive(Clone, Copy, Debug)]
enum Reclaim {
    Never,
    After(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Shares([u32; 3], Reclaim, usize),
    Renew([bool; 3], usize),
    CatchUp(usize, usize),
    Acknowledge(usize),
    Take(usize),
    Settle(usize),
    Kill(usize),
    Revive,
}

fn step() -> impl Strategy<Value = Step> {
    let weights = prop::array::uniform3(0..7u32).prop_filter("some weight", |weights| weights.iter().any(|w| *w > 0));
    let reclaim = prop_oneof![1 => Just(Reclaim::Never), 3 => (10..20u64).prop_map(Reclaim::After)];
    prop_oneof![
        4 => prop_oneof![1..900u64, 1000..9000u64].prop_map(Step::Wait),
        2 => (weights, reclaim, 0..3usize)
            .prop_map(|(weights, reclaim, proposer)| Step::Shares(weights, reclaim, proposer)),
        4 => (prop::array::uniform3(any::<bool>()), 0..3usize)
            .prop_map(|(present, proposer)| Step::Renew(present, proposer)),
        6 => (0..3usize, 1..=4usize).prop_map(|(region, share)| Step::CatchUp(region, share)),
        6 => (0..3usize).prop_map(Step::Acknowledge),
        6 => (0..3usize).prop_map(Step::Take),
        2 => (0..3usize).prop_map(Step::Settle),
        1 => (0..3usize).prop_map(Step::Kill),
        1 => Just(Step::Revive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_slot_is_ever_cut_beyond_the_quota(
        clocks in prop::array::uniform3(0..400u64),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut fleet = Fleet::new(clocks);
        for step in steps {
            match step {
                Step::Wait(millis) => fleet.now = fleet.now + Duration::from_millis(millis),
                Step::Shares(weights, reclaim, proposer) => fleet.order_shares(weights, reclaim, proposer),
                Step::Renew(present, proposer) => fleet.renew(present, proposer),
                Step::Settle(region) => fleet.order(&Command::Settle { at: fleet.at(region) }),
                Step::Kill(region) => fleet.kill(region),
                Step::Revive => fleet.revive(),
                Step::CatchUp(region, _) | Step::Acknowledge(region) | Step::Take(region)
                    if fleet.dead == Some(region) => {}
                Step::CatchUp(region, share) => fleet.catch_up(region, share),
                Step::Acknowledge(region) => fleet.acknowledge(region),
                Step::Take(region) => fleet.take(region),
            }
        }
        for ((limit, slot), taken) in &fleet.taken {
            prop_assert!(taken.iter().sum::<u64>() <= QUOTA, "limit {} slot {slot}: {taken:?}", limit.0);
        }
    }
}

#[test]
fn a_change_that_all_acknowledge_comes_into_force() {
    let mut fleet = Fleet::new([0, 100, 300]);
    fleet.order_shares([8, 1, 1], Reclaim::Never, 0);
    for region in 0..3 {
        fleet.catch_up(region, 4);
        fleet.acknowledge(region);
    }
    fleet.now = fleet.now + Duration::from_secs(20);
    for region in 0..3 {
        fleet.catch_up(region, 4);
        fleet.take(region);
    }
    let newest = fleet.taken.values().last().expect("something was taken");
    assert_eq!(newest, &[8, 1, 1]);
}

/// All live regions know everything, a leader hears them, and time passes.
fn pass(fleet: &mut Fleet, seconds: u64, present: [bool; 3]) {
    for _ in 0..seconds {
        fleet.now = fleet.now + Duration::from_secs(1);
        fleet.renew(present, 0);
        for region in (0..3).filter(|&region| present[region]) {
            fleet.catch_up(region, 4);
            fleet.acknowledge(region);
        }
        fleet.order(&Command::Settle { at: fleet.now });
    }
}

#[test]
fn rule_6_the_share_of_a_region_that_falls_silent_goes_to_the_others_and_comes_back_to_it() {
    let mut fleet = Fleet::new([0, 100, 300]);
    fleet.order_shares([6, 3, 1], Reclaim::After(10), 0);
    let newest = |fleet: &Fleet| fleet.taken.values().last().copied().expect("something was taken");
    let take = |fleet: &mut Fleet, regions: &[usize]| {
        fleet.taken.clear();
        regions.iter().for_each(|&region| fleet.take(region));
        newest(fleet)
    };
    pass(&mut fleet, 10, [true; 3]);
    assert_eq!(take(&mut fleet, &[0, 1, 2]), [6, 3, 1]);
    // The second is cut off, and goes on by what it knows until its lease ends.
    pass(&mut fleet, 5, [true, false, true]);
    assert_eq!(take(&mut fleet, &[0, 1, 2]), [6, 3, 1]);
    pass(&mut fleet, 15, [true, false, true]);
    assert_eq!(take(&mut fleet, &[0, 1, 2]), [9, 0, 1], "by the method of D'Hondt");
    pass(&mut fleet, 40, [true; 3]);
    assert_eq!(take(&mut fleet, &[0, 1, 2]), [6, 3, 1]);
}

#[test]
fn rule_6_a_region_that_does_not_know_that_a_limit_reclaims_keeps_its_share() {
    let mut fleet = Fleet::new([0; 3]);
    pass(&mut fleet, 5, [true; 3]);
    fleet.order_shares([1, 1, 1], Reclaim::After(10), 0);
    pass(&mut fleet, 60, [true, false, true]);
    assert_eq!(fleet.log.last().expect("a state").leases.lapsed().count(), 0);
    pass(&mut fleet, 5, [true; 3]);
    pass(&mut fleet, 20, [true, false, true]);
    assert_eq!(fleet.log.last().expect("a state").leases.lapsed().count(), 1);
}
