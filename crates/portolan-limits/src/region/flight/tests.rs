//! Owner and nodes together, over a network that loses, repeats and reorders, with processes that start anew.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{NodeName, Timestamp};
use proptest::prelude::*;

use super::{
    given::{Change, Given},
    held::{Held, Lowering},
    *,
};
use crate::{key::Key, region::sublease::grants::chunk};

const NODES: [&str; 3] = ["b", "c", "d"];

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn spot() -> Spot {
    Spot { limit: LimitId(1), key: Key::from_bits(9) }
}

/// One owner with one key, nodes with entries, messages under way.
struct Region {
    quota: u64,
    /// What counts as used at the owner.
    used: u64,
    given: Given,
    owner_life: u64,
    nodes: Vec<Holder>,
    holds: Vec<(usize, u64, Hold)>,
    answers: Vec<(usize, u64, u64, Allotment)>,
    now: Timestamp,
}

struct Holder {
    life: u64,
    held: Held,
    rights: u64,
    used: u64,
    /// The latest process of the owner that it has heard.
    owner: u64,
}

impl Holder {
    fn new(life: u64) -> Self {
        Self { life, held: Held::new(16), rights: 0, used: 0, owner: 0 }
    }
}

impl Region {
    fn new(quota: u64) -> Self {
        Self {
            quota,
            used: 0,
            given: Given::default(),
            owner_life: 1,
            nodes: NODES.iter().map(|_| Holder::new(1)).collect(),
            holds: Vec::new(),
            answers: Vec::new(),
            now: Timestamp::ZERO,
        }
    }

    fn request(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let passes = node.used < node.rights;
        node.used += u64::from(passes);
        node.held.handle_use(spot(), node.used, u64::from(!passes), self.now);
    }

    fn end(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.used = node.used.saturating_sub(1);
        node.held.handle_use(spot(), node.used, 0, self.now);
    }

    /// All that is not in flight goes back, as with a new roster.
    fn hand_back(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for spot in node.held.spots() {
            node.rights = node.used;
            node.held.handle_lowered(spot, node.rights);
        }
    }

    fn send(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            for Lowering { spot, units, recalled } in node.held.idle(self.now) {
                let held = node.rights.min(units).max(node.used);
                match recalled {
                    true => node.held.handle_recalled(spot, held),
                    false => node.held.handle_lowered(spot, held),
                }
                node.rights = if recalled { held.min(units) } else { held };
            }
            node.held.handle_timeout(self.now);
            while let Some((_, hold)) = node.held.poll(self.now, |_| Some(super::tests::node("a"))) {
                self.holds.push((at, node.life, hold));
            }
        }
    }

    fn book(&mut self, at: usize, life: u64, hold: &Hold) -> bool {
        let name = node(NODES[at]);
        let Some(ended) = self.given.meet(&name, life) else { return false };
        self.used -= ended.into_iter().map(|(_, units)| units).sum::<u64>();
        match self.given.change(&name, hold) {
            Change::None => {}
            Change::More(units) => self.used += units,
            Change::Less(units) => self.used -= units,
        }
        self.given.book(&name, hold);
        true
    }

    fn take_hold(&mut self, at: usize, keep: bool) {
        let (from, life, hold) = if keep { self.holds[at] } else { self.holds.swap_remove(at) };
        if !self.book(from, life, &hold) {
            return;
        }
        let gives = hold.need > 0 && self.given.knows(&node(NODES[from]), &hold);
        let left = self.quota.saturating_sub(self.used);
        let taken = if gives { chunk(left, 3, hold.waiting, hold.need, 1) } else { 0 };
        self.used += taken;
        let beyond = if self.used < self.quota { Beyond::More } else { Beyond::Nothing };
        let answer = match self.used > self.quota {
            true => self.given.recall(&node(NODES[from]), &hold, self.used, self.quota),
            false => self.given.allot(&node(NODES[from]), &hold, taken, beyond),
        };
        self.answers.push((from, life, self.owner_life, answer));
    }

    fn take_answer(&mut self, at: usize, keep: bool) {
        let (to, life, by, answer) = if keep { self.answers[at] } else { self.answers.swap_remove(at) };
        let node = &mut self.nodes[to];
        if node.life != life || by < node.owner {
            return;
        }
        node.owner = by;
        if let Some(allowed) = node.held.handle_allotment(answer, self.now) {
            node.rights = allowed.units;
        }
    }

    /// Tells all what they hold, and may keep.
    fn remind(&mut self) {
        for (to, answer) in self.given.reminders(spot(), self.used, self.quota) {
            let at = NODES.iter().position(|name| node(name) == to).expect("a node");
            let life = self.given.life(&to).expect("it was heard");
            self.answers.push((at, life, self.owner_life, answer));
        }
    }

    /// The owner starts again, and asks all nodes what they hold before it gives anything.
    fn restart_owner(&mut self) {
        self.owner_life += 1;
        (self.given, self.used) = (Given::default(), 0);
        for at in 0..self.nodes.len() {
            self.nodes[at].owner = self.owner_life;
            let (holds, all) = self.nodes[at].held.page(&ShardSet::ALL, None, 16);
            assert!(all);
            let life = self.nodes[at].life;
            assert!(holds.iter().all(|hold| self.book(at, life, hold)));
        }
    }

    fn exchange(&mut self) {
        self.send();
        while !self.holds.is_empty() {
            self.take_hold(0, false);
        }
        while !self.answers.is_empty() {
            self.take_answer(0, false);
        }
        self.now = self.now + Duration::from_millis(5);
    }

    fn in_flight(&self) -> u64 {
        self.nodes.iter().map(|node| node.used).sum()
    }
}

#[derive(Clone, Debug)]
enum Turn {
    Request(usize),
    End(usize),
    HandBack(usize),
    Send,
    Hold { at: prop::sample::Index, keep: bool },
    Answer { at: prop::sample::Index, keep: bool },
    LoseHold(prop::sample::Index),
    LoseAnswer(prop::sample::Index),
    Restart(usize),
    RestartOwner,
    Quota(u64),
    Remind,
    Pass(u64),
}

/// Turns in which the quota stays as it is.
fn turn() -> impl Strategy<Value = Turn> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0..3usize).prop_map(Turn::Request),
        4 => (0..3usize).prop_map(Turn::End),
        2 => (0..3usize).prop_map(Turn::HandBack),
        6 => Just(Turn::Send),
        6 => (index(), any::<bool>()).prop_map(|(at, keep)| Turn::Hold { at, keep }),
        6 => (index(), any::<bool>()).prop_map(|(at, keep)| Turn::Answer { at, keep }),
        1 => index().prop_map(Turn::LoseHold),
        1 => index().prop_map(Turn::LoseAnswer),
        1 => (0..3usize).prop_map(Turn::Restart),
        1 => Just(Turn::RestartOwner),
        1 => Just(Turn::Remind),
        3 => (1..700u64).prop_map(Turn::Pass),
    ]
}

/// Turns in which it changes.
fn turn_of_quota() -> impl Strategy<Value = Turn> {
    prop_oneof![1 => (0..20u64).prop_map(Turn::Quota), 30 => turn()]
}

fn play(region: &mut Region, turn: Turn) {
    match turn {
        Turn::Request(at) => region.request(at),
        Turn::End(at) => region.end(at),
        Turn::HandBack(at) => region.hand_back(at),
        Turn::Send => region.send(),
        Turn::Hold { at, keep } if !region.holds.is_empty() => region.take_hold(at.index(region.holds.len()), keep),
        Turn::Answer { at, keep } if !region.answers.is_empty() => {
            region.take_answer(at.index(region.answers.len()), keep);
        }
        Turn::LoseHold(at) if !region.holds.is_empty() => {
            region.holds.swap_remove(at.index(region.holds.len()));
        }
        Turn::LoseAnswer(at) if !region.answers.is_empty() => {
            region.answers.swap_remove(at.index(region.answers.len()));
        }
        Turn::Restart(at) => region.nodes[at] = Holder::new(region.nodes[at].life + 1),
        Turn::RestartOwner => region.restart_owner(),
        Turn::Quota(quota) => region.quota = quota,
        Turn::Remind => region.remind(),
        Turn::Pass(millis) => region.now = region.now + Duration::from_millis(millis),
        Turn::Hold { .. } | Turn::Answer { .. } | Turn::LoseHold(_) | Turn::LoseAnswer(_) => {}
    }
}

#[test]
fn answers_to_what_was_never_asked_do_not_make_the_cells_of_a_node_grow() {
    let mut held = Held::new(3);
    for key in 1..100 {
        let spot = Spot { limit: LimitId(1), key: Key::from_bits(key) };
        let answer = Allotment { spot, number: u64::MAX, units: 1, beyond: Beyond::Nothing };
        assert_eq!(held.handle_allotment(answer, Timestamp::ZERO), None);
    }
    assert_eq!((held.spots().len(), held.refused), (3, 96));
}

#[test]
fn what_no_node_can_hold_is_told_apart() {
    let hold = |units| Hold { spot: spot(), number: 1, units, waiting: 0, need: 0 };
    assert!(hold(1 << 30).is_possible() && !hold(u64::MAX).is_possible());
    let allotment = |units| Allotment { spot: spot(), number: 1, units, beyond: Beyond::Nothing };
    assert!(allotment(1 << 30).is_possible() && !allotment(1 << 40).is_possible());
}

#[test]
fn an_answer_that_was_lost_to_a_question_that_came_late_keeps_no_unit() {
    let mut region = Region::new(4);
    region.request(1);
    region.send();
    region.take_hold(0, true);
    region.take_answer(0, false);
    // What was not used goes back, and then the question comes once more.
    region.now = region.now + Duration::from_secs(1);
    let late = region.holds.remove(0);
    region.exchange();
    assert!(region.nodes[1].held.is_empty() && region.given.len() == 0);
    region.holds.push(late);
    region.take_hold(0, false);
    region.answers.clear();
    for _ in 0..2 {
        region.remind();
        region.exchange();
    }
    assert_eq!((region.used, region.given.len()), (0, 0));
}

#[test]
fn units_whose_answer_was_lost_come_back_from_a_busy_node_when_the_quota_is_lowered() {
    let mut region = Region::new(30);
    region.request(0);
    region.exchange();
    while region.nodes[0].used < region.nodes[0].rights {
        region.request(0);
    }
    // It asks for more, and does not hear that it has it.
    region.request(0);
    region.send();
    region.take_hold(0, false);
    region.answers.clear();
    let in_flight = region.in_flight();
    assert!(0 < in_flight && in_flight < region.used);
    // Less than is counted as held, and no less than is in flight.
    region.quota = in_flight;
    region.remind();
    region.exchange();
    region.exchange();
    assert_eq!((region.used, region.in_flight()), (in_flight, in_flight));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn no_loss_repetition_reordering_or_restart_lets_more_be_in_flight_or_keeps_any(
        quota in 0..20u64, turns in prop::collection::vec(turn(), 0..150),
    ) {
        let mut region = Region::new(quota);
        for turn in turns {
            play(&mut region, turn);
            prop_assert!(region.in_flight() <= quota);
            prop_assert_eq!(region.used, region.given.out(spot()));
        }
        // In the end nobody holds anything, and nothing is known of the key.
        for (at, name) in NODES.into_iter().enumerate() {
            while region.nodes[at].used > 0 {
                region.end(at);
            }
            // A process that has started again says so when it is told until when it may begin anything.
            let life = region.nodes[at].life;
            let ended = region.given.meet(&node(name), life).expect("it is the latest");
            region.used -= ended.into_iter().map(|(_, units)| units).sum::<u64>();
        }
        for _ in 0..600 {
            region.remind();
            region.exchange();
        }
        prop_assert_eq!((region.used, region.given.len()), (0, 0));
        prop_assert!(region.nodes.iter().all(|node| node.held.is_empty()));
    }

    #[test]
    fn under_load_no_more_is_held_a_second_after_a_quota_was_lowered_whatever_was_lost_before(
        quotas in (0..20u64, 0..20u64), turns in prop::collection::vec(turn_of_quota(), 0..150),
    ) {
        let mut region = Region::new(quotas.0);
        let mut largest = quotas.0;
        for turn in turns {
            play(&mut region, turn);
            largest = largest.max(region.quota);
            prop_assert!(region.in_flight() <= largest);
            prop_assert_eq!(region.used, region.given.out(spot()));
        }
        region.quota = quotas.1;
        for (at, name) in NODES.into_iter().enumerate() {
            // Told until when it may begin anything, a new process says that it is one.
            let ended = region.given.meet(&node(name), region.nodes[at].life).expect("it is the latest");
            region.used -= ended.into_iter().map(|(_, units)| units).sum::<u64>();
        }
        // A second and a half of requests of 60 ms at all nodes.
        for round in 0..300 {
            for at in 0..NODES.len() {
                for _ in 0..region.nodes[at].used.div_ceil(12) {
                    region.end(at);
                }
                region.request(at);
            }
            if round % 20 == 0 {
                region.remind();
            }
            region.exchange();
        }
        prop_assert!(region.used <= region.quota, "{} of {}", region.used, region.quota);
        prop_assert!(region.in_flight() <= region.used);
    }
}
