//! Owner and nodes together, over a network that loses, repeats and reorders, with processes that start anew.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{NodeName, Timestamp};
use proptest::prelude::*;

use super::{
    grants::{Grants, Step},
    requests::Requests,
    *,
};

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn cell() -> Cell {
    Cell { limit: LimitId(1), key: Key::from_bits(9), slot: 4 }
}

fn ask(granted: u64, returned: u64, need: u64) -> Ask {
    Ask { cell: cell(), granted_by: 7, granted, returned, spent: 0, waiting: need.min(1), need, wish: 0, silent: false }
}

#[test]
fn chunks_shrink_with_what_is_left_and_the_last_units_go_one_at_a_time() {
    let chunk = |available, need| Grants::chunk(available, 3, &ask(0, 0, need), false, 1);
    assert_eq!([1000, 100, 12, 6, 1, 0].map(|available| chunk(available, 10_000)), [167, 17, 2, 1, 1, 0]);
    assert_eq!(chunk(1000, 5), 5);
    let dear = Ask { waiting: 5, ..ask(0, 0, 5) };
    assert_eq!([12, 10, 5].map(|available| Grants::chunk(available, 3, &dear, false, 1)), [5, 5, 2], "five requests");
    assert_eq!(
        [12, 10, 5].map(|available| Grants::chunk(available, 3, &dear, false, 5)),
        [5, 5, 5],
        "one that costs as much"
    );
}

#[test]
fn an_ask_that_is_repeated_or_late_is_granted_once() {
    let mut grants = Grants::new(7);
    let from = node("b");
    let step = |refund, grants| Some(Step { refund, borrowed: 0, grants });
    assert_eq!(grants.handle_ask(&from, 1, &ask(0, 0, 5)), step(0, true));
    assert_eq!(grants.settle(&from, &ask(0, 0, 5), 5, true, false).granted, 5);
    assert_eq!(grants.handle_ask(&from, 1, &ask(0, 0, 5)), step(0, false));
    assert_eq!(grants.handle_ask(&from, 1, &ask(5, 3, 4)), step(3, true));
    assert_eq!(grants.handle_ask(&from, 1, &ask(5, 3, 0)), step(0, false));
    // More than it was granted never comes back.
    assert_eq!(grants.handle_ask(&from, 1, &ask(5, 90, 0)), step(2, false));
    // Of another process of the owner nothing does.
    let foreign = Ask { granted_by: 6, ..ask(5, 5, 1) };
    assert_eq!(grants.handle_ask(&from, 1, &foreign), step(0, false));
    // What a process took with it is not given a second time, and not taken back either.
    assert_eq!(grants.handle_ask(&from, 2, &ask(0, 5, 1)), step(0, true));
}

#[test]
fn tokens_that_were_borrowed_and_passed_on_are_not_missing_from_the_owner_s_bucket() {
    let mut grants = Grants::new(7);
    let from = node("b");
    let mut check = |life, ask: Ask, expected, out| {
        assert_eq!(grants.handle_ask(&from, life, &ask), Some(expected));
        if ask.granted == 0 && life == 1 {
            grants.pass_on(&from, &ask, 6);
            grants.settle(&from, &ask, 10, true, false);
        }
        assert_eq!(grants.out(&cell()), out);
    };
    let step = |refund, borrowed, grants| Step { refund, borrowed, grants };
    check(1, ask(0, 0, 10), step(0, 0, true), 4);
    check(1, Ask { spent: 3, ..ask(10, 2, 0) }, step(0, 2, false), 4);
    check(1, Ask { spent: 5, ..ask(10, 4, 0) }, step(1, 1, false), 1);
    // What a process took with it is missing as before.
    check(2, ask(0, 0, 0), step(0, 0, false), 1);
}

#[test]
fn a_late_answer_of_an_owner_s_earlier_process_is_not_counted_again() {
    let (owner, heir) = (node("a"), node("e"));
    let mut requests = Requests::new(4);
    let mut now = Timestamp::ZERO;
    let mut ask = |requests: &mut Requests, used, by: &NodeName, life, granted| {
        requests.handle_use(cell(), used, 1, now);
        let sent = requests.poll_ask(now, |_| Some(by.clone())).map(|(_, ask)| ask.granted);
        now = now + Duration::from_millis(200);
        let grant = Grant { cell: cell(), granted, returned: 0, more: true, plenty: false };
        (sent, requests.handle_grant(by, life, grant, now).map(|published| published.rights))
    };
    assert_eq!(ask(&mut requests, 0, &owner, 1, 10), (Some(0), Some(10)));
    assert_eq!(ask(&mut requests, 10, &heir, 1, 5), (Some(0), Some(15)));
    assert_eq!(ask(&mut requests, 15, &owner, 1, 12), (Some(0), None));
}

#[test]
fn of_a_key_that_a_node_owned_for_a_while_it_may_use_what_is_granted_after_that() {
    let owner = node("a");
    for (life, granted) in [(1, 47), (2, 7)] {
        let mut requests = Requests::new(4);
        let mut now = Timestamp::ZERO;
        let mut ask = |requests: &mut Requests, used, life, granted| {
            requests.handle_use(cell(), used, 1, now);
            let sent = requests.poll_ask(now, |_| Some(owner.clone())).map(|(_, ask)| (ask.waiting, ask.need));
            now = now + Duration::from_millis(200);
            let grant = Grant { cell: cell(), granted, returned: 0, more: true, plenty: false };
            (sent, requests.handle_grant(&owner, life, grant, now).map(|published| published.rights))
        };
        // Five were used before the first grant.
        requests.handle_use(cell(), 5, 0, Timestamp::ZERO);
        assert_eq!(ask(&mut requests, 5, 1, 40), (Some((1, 1)), Some(45)));
        // Of what it was granted four are left when it takes over, and 600 are used when it ceases to own the key.
        requests.handle_use(cell(), 41, 0, Timestamp::ZERO);
        requests.handle_lost(|_| true, |_| 600);
        assert_eq!(ask(&mut requests, 600, life, granted), (Some((1, 1)), Some(607)), "process {life}");
        // It never came to own the key: what is left may still be used.
        requests.handle_lost(|_| true, |_| 603);
        assert_eq!(ask(&mut requests, 608, life, granted + 5).1, Some(612));
    }
}

/// One owner with a pool, three nodes with counters, messages under way.
struct Region {
    quota: u64,
    pool: u64,
    /// There is never plenty.
    scarce: bool,
    grants: Grants,
    owner_life: u64,
    nodes: Vec<Asker>,
    asks: Vec<(usize, u64, Ask)>,
    answers: Vec<(usize, u64, u64, Grant)>,
    spent: u64,
    now: Timestamp,
}

struct Asker {
    name: NodeName,
    life: u64,
    requests: Requests,
    rights: u64,
    used: u64,
    refused: u64,
}

impl Asker {
    fn new(at: usize, life: u64) -> Self {
        let name = node(["b", "c", "d"][at]);
        Self { name, life, requests: Requests::new(16), rights: 0, used: 0, refused: 0 }
    }
}

impl Region {
    fn new(quota: u64) -> Self {
        Self {
            quota,
            pool: quota,
            scarce: false,
            grants: Grants::new(100),
            owner_life: 100,
            nodes: (0..3).map(|at| Asker::new(at, 1)).collect(),
            asks: Vec::new(),
            answers: Vec::new(),
            spent: 0,
            now: Timestamp::ZERO,
        }
    }

    fn request(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.used < node.rights {
            node.used += 1;
            self.spent += 1;
        } else {
            node.refused += 1;
        }
        node.requests.handle_use(cell(), node.used, std::mem::take(&mut node.refused), self.now);
    }

    fn hand_back(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let taken = node.rights - node.used;
        node.used += taken;
        if let Some(idle) = node.requests.idle_cell(&cell()) {
            node.requests.handle_withdrawn(&idle, taken, self.now);
        }
    }

    fn send(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.requests.handle_timeout(self.now);
            let owner = |_: &Cell| Some(super::tests::node("a"));
            while let Some((_, ask)) = node.requests.poll_ask(self.now, owner) {
                self.asks.push((at, node.life, ask));
            }
        }
    }

    fn take_ask(&mut self, at: usize, keep: bool) {
        let (from, life, ask) = if keep { self.asks[at] } else { self.asks.swap_remove(at) };
        let name = self.nodes[from].name.clone();
        let Some(step) = self.grants.handle_ask(&name, life, &ask) else { return };
        self.pool += step.refund;
        let plenty = !self.scarce && self.pool * 2 > self.quota;
        let taken = if step.grants { Grants::chunk(self.pool, 3, &ask, plenty, 1) } else { 0 };
        self.pool -= taken;
        let grant = self.grants.settle(&name, &ask, taken, self.pool > 0, plenty);
        self.answers.push((from, life, self.owner_life, grant));
    }

    fn take_answer(&mut self, at: usize, keep: bool) {
        let (to, life, owner_life, grant) = if keep { self.answers[at] } else { self.answers.swap_remove(at) };
        let node = &mut self.nodes[to];
        if node.life != life {
            return;
        }
        if let Some(published) = node.requests.handle_grant(&super::tests::node("a"), owner_life, grant, self.now) {
            node.rights = node.rights.max(published.rights);
        }
    }

    /// Everything that is under way arrives, within a millisecond.
    fn exchange(&mut self) {
        self.send();
        while !self.asks.is_empty() {
            self.take_ask(0, false);
        }
        while !self.answers.is_empty() {
            self.take_answer(0, false);
        }
        self.pass(1);
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }
}

#[test]
fn under_overload_every_unit_is_spent_and_not_one_more() {
    for quota in [1, 2, 7, 100, 1000] {
        let mut region = Region::new(quota);
        for round in 0..2000usize {
            for at in 0..3 {
                if round % (at + 1) == 0 {
                    region.request(at);
                }
            }
            region.exchange();
        }
        assert_eq!(region.spent, quota);
    }
}

#[test]
fn what_an_idle_node_holds_goes_back_and_is_spent_elsewhere() {
    for (scarce, kept) in [(true, 1000), (false, 10_000)] {
        let mut region = Region { scarce, ..Region::new(100) };
        let idle = |region: &mut Region| {
            let used = region.nodes[0].used;
            region.nodes[0].requests.idle(region.now, |_| None, |_| used).len()
        };
        for _ in 0..6 {
            region.request(0);
            region.exchange();
        }
        assert!(region.nodes[0].rights > region.nodes[0].used);
        region.pass(kept + 20);
        assert_eq!(idle(&mut region), 0, "it was used since the last look");
        region.pass(kept + 20);
        assert_eq!(idle(&mut region), 1, "after {kept} ms");
        region.hand_back(0);
        region.exchange();
        region.pass(kept + 20);
        assert_eq!(idle(&mut region), 0, "nothing is left");
        for _ in 0..500 {
            region.request(1);
            region.exchange();
        }
        assert_eq!(region.spent, 100);
    }
}

#[derive(Clone, Debug)]
enum Turn {
    Request(usize),
    HandBack(usize),
    Send,
    Ask { at: prop::sample::Index, keep: bool },
    Answer { at: prop::sample::Index, keep: bool },
    LoseAsk(prop::sample::Index),
    LoseAnswer(prop::sample::Index),
    Restart(usize),
    RestartOwner,
    Pass(u64),
}

fn turn() -> impl Strategy<Value = Turn> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0..3usize).prop_map(Turn::Request),
        1 => (0..3usize).prop_map(Turn::HandBack),
        6 => Just(Turn::Send),
        6 => (index(), any::<bool>()).prop_map(|(at, keep)| Turn::Ask { at, keep }),
        6 => (index(), any::<bool>()).prop_map(|(at, keep)| Turn::Answer { at, keep }),
        1 => index().prop_map(Turn::LoseAsk),
        1 => index().prop_map(Turn::LoseAnswer),
        1 => (0..3usize).prop_map(Turn::Restart),
        1 => Just(Turn::RestartOwner),
        3 => (1..120u64).prop_map(Turn::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_loss_repetition_reordering_or_restart_lets_more_be_spent_than_there_is(
        quota in 0..60u64, turns in prop::collection::vec(turn(), 0..120),
    ) {
        let mut region = Region::new(quota);
        for turn in turns {
            match turn {
                Turn::Request(at) => region.request(at),
                Turn::HandBack(at) => region.hand_back(at),
                Turn::Send => region.send(),
                Turn::Ask { at, keep } if !region.asks.is_empty() => region.take_ask(at.index(region.asks.len()), keep),
                Turn::Answer { at, keep } if !region.answers.is_empty() => {
                    region.take_answer(at.index(region.answers.len()), keep);
                }
                Turn::LoseAsk(at) if !region.asks.is_empty() => drop(region.asks.swap_remove(at.index(region.asks.len()))),
                Turn::LoseAnswer(at) if !region.answers.is_empty() => {
                    region.answers.swap_remove(at.index(region.answers.len()));
                }
                Turn::Restart(at) => region.nodes[at] = Asker::new(at, region.nodes[at].life + 1),
                // Its pool is what its marks left: nothing that it had granted comes back.
                Turn::RestartOwner => {
                    region.owner_life += 1;
                    region.grants = Grants::new(region.owner_life);
                }
                Turn::Pass(millis) => region.pass(millis),
                Turn::Ask { .. } | Turn::Answer { .. } | Turn::LoseAsk(_) | Turn::LoseAnswer(_) => {}
            }
            prop_assert!(region.spent <= region.quota);
        }
    }
}
