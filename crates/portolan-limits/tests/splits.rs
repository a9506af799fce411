//! A split belongs to a slot (rules 9.2 and 9.6): while shares change, fences come and go, leases lapse, limits begin and
//! cease to reclaim, rosters drop nodes that live on and nodes lag behind each other, no slot is ever cut in a way that
//! adds up to more than the quota.
//!
//! Each node spends and lends the most that it may by the state it has applied, which can be any older one. What was
//! taken for granted about a slot is kept outside the register, and the sum over all regions is what is held to the quota.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_config::{Applied, Bundle, Change, Command, Intent, LimitId, RegionMap, SharePlan, SourceFile};
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

/// The first region has two nodes: these, and one each of the others.
const NODES: [&str; 4] = ["a-1", "b-1", "c-1", "a-2"];

/// How long a node whose standby is another's may go on.
const HORIZON: Duration = Duration::from_secs(2);

/// A fleet with a log, and what every region took for granted.
struct Fleet {
    log: Vec<Intent>,
    /// Index into the log of the state that each node has applied.
    applied: [usize; 4],
    /// Of nodes that were taken over: the epoch of the roster, and where their slots end.
    taken_over: [Option<(u64, WallTime)>; 4],
    dead: Option<usize>,
    now: WallTime,
    /// Clocks of the nodes, in milliseconds from the true time.
    clocks: [u64; 4],
    taken: BTreeMap<(LimitId, u64), [u64; 3]>,
}

impl Fleet {
    fn new(clocks: [u64; 4]) -> Self {
        let mut intent = Intent::new(region_map());
        let now = WallTime::from_unix_millis(1_000_000);
        for member in 0..NODES.len() {
            let (node, region) = (node(member), region_of(member));
            intent.apply(&Change::Join { node, region, member: MemberId(member as u64) }.at(now));
        }
        let (log, taken) = (vec![intent], BTreeMap::new());
        let mut fleet = Self { log, applied: [0; 4], taken_over: [None; 4], dead: None, now, clocks, taken };
        fleet.order_shares([1, 1, 1], Reclaim::Never, 0);
        fleet.applied = [1; 4];
        fleet
    }

    fn at(&self, node: usize) -> WallTime {
        self.now + Duration::from_millis(self.clocks[node])
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
        self.order(&Change::Apply { bundle, author: "ann".to_owned(), expected: None }.at(self.at(proposer)));
    }

    /// A node applies the log as far as `share` of what it lacks.
    fn catch_up(&mut self, node: usize, share: usize) {
        let lacking = self.log.len() - 1 - self.applied[node];
        self.applied[node] += (lacking * share).div_ceil(4);
        let epoch = self.epoch_of(node);
        self.taken_over[node] = self.taken_over[node].filter(|(at, _)| epoch.is_none_or(|epoch| epoch <= *at));
    }

    /// The epoch of the roster that a node knows and is on.
    fn epoch_of(&self, at: usize) -> Option<u64> {
        let roster = &self.log[self.applied[at]].rosters[&region_of(at)];
        roster.contains(&node(at)).then_some(roster.epoch)
    }

    fn acknowledge(&mut self, at: usize) {
        let intent = &self.log[self.applied[at]];
        if let Some(command) = intent.acknowledgement(&node(at), self.at(at)) {
            self.order(&command);
        }
    }

    /// The leader lists these nodes of the first region.
    fn list(&mut self, listed: [bool; 2], proposer: usize) {
        let present = [0, 3].into_iter().zip(listed).filter(|(_, listed)| *listed).map(|(at, _)| node(at)).collect();
        let region = region_of(0);
        let expected = self.log.last().expect("a first state").rosters[&region].epoch;
        self.order(&Change::Roster { region, expected, present }.at(self.at(proposer)));
    }

    /// A node of the first region takes over what the roster that it knows gives it, if the other one is bound by that
    /// roster or off it: then its standby, this node, has told it no more.
    fn take_over(&mut self, at: usize) {
        let (Some(epoch), other) = (self.epoch_of(at), 3 - at) else { return };
        let intent = &self.log[self.applied[at]];
        if !intent.rosters[&region_of(0)].contains(&node(other)) {
            let horizon = self.at(other) + HORIZON;
            self.taken_over[other] = self.taken_over[other].or(Some((epoch, horizon)));
        } else if self.epoch_of(other).is_none_or(|known| known < epoch) {
            return;
        }
        if let Some(command) = intent.takeover(&node(at), epoch, self.at(at)) {
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

    /// A node spends and lends all that its region may of the slot under way and of the next.
    fn take(&mut self, node: usize) {
        let (at, region) = (self.at(node), node % 3);
        if self.epoch_of(node).is_none() {
            return;
        }
        let horizon = self.taken_over[node].map(|(_, horizon)| horizon);
        let intent = &self.log[self.applied[node]];
        for budget in intent.limits.budgets(&intent.snapshot) {
            let slot = at.as_unix_millis() / WINDOW.as_millis() as u64;
            let name = RegionId::new(REGIONS[region]).expect("a region");
            let until = intent.leases.until(&budget.limit.name, &name);
            let leased = |slot: &u64| [until, horizon].iter().flatten().all(|until| begin(*slot) < *until);
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
            self.order(
                &Change::FenceLimits { region, reason: "gone".to_owned(), author: "ann".to_owned() }.at(self.now),
            );
        }
    }

    /// The region comes back with the log as it is, as a restart under a newer roster does.
    fn revive(&mut self) {
        if let Some(dead) = self.dead.take() {
            let region = region_of(dead);
            self.order(&Change::UnfenceLimits { region, author: "ann".to_owned() }.at(self.now));
            (0..NODES.len()).filter(|node| node % 3 == dead).for_each(|node| self.catch_up(node, 4));
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

fn node(at: usize) -> NodeName {
    NodeName::new(NODES[at]).expect("a node")
}

fn region_of(node: usize) -> RegionId {
    RegionId::new(REGIONS[node % 3]).expect("a region")
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
    List([bool; 2], usize),
    TakeOver(bool),
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
        8 => (0..4usize, 1..=4usize).prop_map(|(node, share)| Step::CatchUp(node, share)),
        8 => (0..4usize).prop_map(Step::Acknowledge),
        8 => (0..4usize).prop_map(Step::Take),
        2 => (0..3usize).prop_map(Step::Settle),
        1 => (0..3usize).prop_map(Step::Kill),
        1 => Just(Step::Revive),
        2 => (prop::array::uniform2(any::<bool>()), 0..3usize)
            .prop_map(|(listed, proposer)| Step::List(listed, proposer)),
        2 => any::<bool>().prop_map(Step::TakeOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_slot_is_ever_cut_beyond_the_quota(
        clocks in prop::array::uniform4(0..400u64),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut fleet = Fleet::new(clocks);
        for step in steps {
            match step {
                Step::Wait(millis) => fleet.now = fleet.now + Duration::from_millis(millis),
                Step::Shares(weights, reclaim, proposer) => fleet.order_shares(weights, reclaim, proposer),
                Step::Renew(present, proposer) => fleet.renew(present, proposer),
                Step::Settle(region) => fleet.order(&Change::Settle.at(fleet.at(region))),
                Step::Kill(region) => fleet.kill(region),
                Step::Revive => fleet.revive(),
                Step::List(listed, proposer) => fleet.list(listed, proposer),
                Step::TakeOver(_) if fleet.dead == Some(0) => {}
                Step::TakeOver(second) => fleet.take_over(if second { 3 } else { 0 }),
                Step::CatchUp(node, _) | Step::Acknowledge(node) | Step::Take(node)
                    if fleet.dead == Some(node % 3) => {}
                Step::CatchUp(node, share) => fleet.catch_up(node, share),
                Step::Acknowledge(node) => fleet.acknowledge(node),
                Step::Take(node) => fleet.take(node),
            }
        }
        for ((limit, slot), taken) in &fleet.taken {
            prop_assert!(taken.iter().sum::<u64>() <= QUOTA, "limit {} slot {slot}: {taken:?}", limit.0);
        }
    }
}

#[test]
fn a_change_that_all_acknowledge_comes_into_force() {
    let mut fleet = Fleet::new([0, 100, 300, 200]);
    fleet.order_shares([8, 1, 1], Reclaim::Never, 0);
    for node in 0..4 {
        fleet.catch_up(node, 4);
        fleet.acknowledge(node);
    }
    fleet.now = fleet.now + Duration::from_secs(20);
    for node in 0..4 {
        fleet.catch_up(node, 4);
        fleet.take(node);
    }
    let newest = fleet.taken.values().last().expect("something was taken");
    assert_eq!(newest, &[8, 1, 1]);
}

/// All live regions know everything, a leader hears them, and time passes.
fn pass(fleet: &mut Fleet, seconds: u64, present: [bool; 3]) {
    for _ in 0..seconds {
        fleet.now = fleet.now + Duration::from_secs(1);
        fleet.renew(present, 0);
        for node in (0..4).filter(|node| present[node % 3]) {
            fleet.catch_up(node, 4);
            fleet.acknowledge(node);
        }
        fleet.order(&Change::Settle.at(fleet.now));
    }
}

#[test]
fn rule_6_the_share_of_a_region_that_falls_silent_goes_to_the_others_and_comes_back_to_it() {
    let mut fleet = Fleet::new([0, 100, 300, 0]);
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
    let mut fleet = Fleet::new([0; 4]);
    pass(&mut fleet, 5, [true; 3]);
    fleet.order_shares([1, 1, 1], Reclaim::After(10), 0);
    pass(&mut fleet, 60, [true, false, true]);
    assert_eq!(fleet.log.last().expect("a state").leases.lapsed().count(), 0);
    pass(&mut fleet, 5, [true; 3]);
    pass(&mut fleet, 20, [true, false, true]);
    assert_eq!(fleet.log.last().expect("a state").leases.lapsed().count(), 1);
}

#[test]
fn rule_2_a_node_that_its_roster_dropped_is_waited_for_until_it_can_spend_no_more() {
    let mut fleet = Fleet::new([0; 4]);
    pass(&mut fleet, 1, [true; 3]);
    // The second node of the first region is cut off from all but its standby, and spends on by what it knows.
    fleet.list([true, false], 0);
    fleet.order_shares([1, 1, 4], Reclaim::Never, 0);
    let speak = |fleet: &mut Fleet| {
        for node in 0..3 {
            fleet.catch_up(node, 4);
            fleet.acknowledge(node);
        }
    };
    let take_all = |fleet: &mut Fleet| {
        fleet.now = fleet.now + Duration::from_secs(20);
        (0..4).for_each(|node| fleet.take(node));
        fleet.taken.values().last().copied().expect("something was taken")
    };
    speak(&mut fleet);
    speak(&mut fleet);
    assert_eq!(take_all(&mut fleet), [4, 1, 3], "the old share of the first, the smaller ones of the others");
    fleet.take_over(0);
    speak(&mut fleet);
    assert_eq!(take_all(&mut fleet), [2, 1, 7]);
}

#[test]
fn rule_6_what_a_region_spent_before_it_knew_of_its_lease_goes_to_nobody_else() {
    let mut fleet = Fleet::new([0; 4]);
    fleet.order_shares([1, 1, 0], Reclaim::After(10), 0);
    // The lease ended before the second region heard that there is one.
    fleet.now = fleet.now + Duration::from_secs(11);
    for node in [0, 1] {
        fleet.take(node);
    }
    fleet.catch_up(1, 4);
    fleet.acknowledge(1);
    fleet.renew([false, false, true], 0);
    fleet.catch_up(2, 4);
    fleet.take(2);
    assert!(fleet.taken.values().all(|taken| taken.iter().sum::<u64>() <= QUOTA), "{:?}", fleet.taken);
}
