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

/// Until the slot ends.
const LEFT: Duration = Duration::from_secs(60);

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
    // A late ask of it does not make the later one start anew.
    assert_eq!(grants.handle_ask(&from, 1, &ask(5, 5, 1)), None);
    assert_eq!(grants.settle(&from, &ask(0, 0, 1), 1, true, false).granted, 1);
    assert_eq!(grants.handle_ask(&from, 2, &ask(1, 0, 1)), step(0, true));
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
fn an_owner_that_has_a_key_back_goes_on_and_a_process_that_has_ended_is_not_heeded() {
    let (owner, heir) = (node("a"), node("e"));
    let mut requests = Requests::new(4);
    let mut now = Timestamp::ZERO;
    let mut ask = |used, by: &NodeName, life, granted| {
        now = now + Duration::from_millis(200);
        requests.handle_use(cell(), used, 1, now);
        let sent = requests.poll_ask(now, |_| Some(by)).map(|(_, ask)| ask.granted);
        let grant = Grant { cell: cell(), granted, returned: 0, more: true, plenty: false };
        let answered = requests.handle_grant((by, life), grant, LEFT, now).map(|published| published.rights);
        (sent, answered)
    };
    assert_eq!(ask(0, &owner, 1, 10), (Some(0), Some(10)));
    assert_eq!(ask(10, &heir, 1, 5), (Some(0), Some(15)));
    assert_eq!(ask(15, &owner, 1, 12), (Some(10), Some(17)), "it had granted ten before");
    assert_eq!(ask(17, &owner, 2, 4), (Some(12), Some(21)), "a later process of it begins anew");
    assert_eq!(ask(21, &owner, 1, 90), (Some(4), None), "an earlier one has ended");
}

#[test]
fn nothing_is_asked_ahead_of_a_slot_that_nobody_grants_before_it_begins() {
    let owner = node("a");
    for (left, slots) in [(Some(LEFT), vec![cell().slot + 1]), (None, vec![])] {
        let mut requests = Requests::new(4);
        requests.handle_use(cell(), 0, 8, Timestamp::ZERO);
        assert!(requests.poll_ask(Timestamp::ZERO, |_| Some(&owner)).is_some());
        let ended = requests.idle_cell(&cell()).expect("it is held");
        requests.turn(&ended, super::requests::Turn { used: 8, window: Duration::from_secs(1), left }, Timestamp::ZERO);
        let asks = std::iter::from_fn(|| requests.poll_ask(Timestamp::ZERO, |_| Some(&owner)));
        assert_eq!(asks.map(|(_, ask)| ask.cell.slot).collect::<Vec<_>>(), slots);
    }
}

#[test]
fn what_waits_on_after_a_part_of_it_came_is_asked_for_at_once() {
    let owner = node("a");
    let mut requests = Requests::new(4);
    let now = Timestamp::ZERO;
    requests.handle_use(cell(), 0, 3, now);
    let mut waits = |granted, more| {
        let sent = requests.poll_ask(now, |_| Some(&owner)).map(|(_, ask)| (ask.waiting, ask.need));
        let grant = Grant { cell: cell(), granted, returned: 0, more, plenty: false };
        requests.handle_grant((&owner, 1), grant, LEFT, now);
        sent
    };
    assert_eq!(waits(2, true), Some((3, 3)));
    assert_eq!(waits(2, false), Some((1, 1)), "two of three have theirs");
    assert_eq!(waits(2, true), None, "there is no more");
}

#[test]
fn what_comes_while_the_rest_goes_back_is_asked_for_when_that_is_answered() {
    let owner = node("a");
    let mut requests = Requests::new(4);
    let now = Timestamp::ZERO;
    requests.handle_use(cell(), 0, 1, now);
    let asked =
        |requests: &mut Requests| requests.poll_ask(now, |_| Some(&owner)).map(|(_, ask)| (ask.waiting, ask.returned));
    assert_eq!(asked(&mut requests), Some((1, 0)));
    let answer = |requests: &mut Requests, returned| {
        let grant = Grant { cell: cell(), granted: 1, returned, more: true, plenty: false };
        requests.handle_grant((&node("a"), 1), grant, LEFT, now);
    };
    answer(&mut requests, 0);
    let idle = requests.idle_cell(&cell()).expect("it is held");
    requests.handle_withdrawn(&idle, 1, now);
    assert_eq!(asked(&mut requests), Some((0, 1)));
    // A request comes, and finds nothing.
    requests.handle_use(cell(), 1, 1, now);
    assert_eq!(asked(&mut requests), None);
    answer(&mut requests, 1);
    assert_eq!(asked(&mut requests), Some((1, 1)));
}

#[test]
fn of_a_key_that_a_node_owned_for_a_while_it_may_use_what_is_granted_after_that() {
    let owner = node("a");
    for (life, granted) in [(1, 47), (2, 7)] {
        let mut requests = Requests::new(4);
        let mut now = Timestamp::ZERO;
        let mut ask = |requests: &mut Requests, used, life, granted| {
            requests.handle_use(cell(), used, 1, now);
            let sent = requests.poll_ask(now, |_| Some(&owner)).map(|(_, ask)| (ask.waiting, ask.need));
            now = now + Duration::from_millis(200);
            let grant = Grant { cell: cell(), granted, returned: 0, more: true, plenty: false };
            (sent, requests.handle_grant((&owner, life), grant, LEFT, now).map(|published| published.rights))
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
    /// Owners by turns, who spend from the same pool: a later one begins with what is left.
    owners: [Owner; 2],
    owner: usize,
    nodes: Vec<Asker>,
    asks: Vec<(usize, u64, usize, Ask)>,
    answers: Vec<(usize, u64, (usize, u64), Grant)>,
    spent: u64,
    now: Timestamp,
}

struct Owner {
    name: NodeName,
    life: u64,
    grants: Grants,
}

struct Asker {
    name: NodeName,
    life: u64,
    requests: Requests,
    rights: u64,
    used: u64,
    refused: u64,
}

impl Owner {
    fn new(at: usize, life: u64) -> Self {
        Self { name: node(["a", "e"][at]), life, grants: Grants::new(life) }
    }
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
            owners: [Owner::new(0, 100), Owner::new(1, 7)],
            owner: 0,
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
        let owner = self.owners[self.owner].name.clone();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.requests.handle_timeout(self.now);
            while let Some((_, ask)) = node.requests.poll_ask(self.now, |_| Some(&owner)) {
                self.asks.push((at, node.life, self.owner, ask));
            }
        }
    }

    fn take_ask(&mut self, at: usize, keep: bool) {
        let (from, life, to, ask) = if keep { self.asks[at] } else { self.asks.swap_remove(at) };
        let (name, owner) = (&self.nodes[from].name, &mut self.owners[to]);
        // Whoever does not own the key answers nothing.
        if to != self.owner {
            return;
        }
        let Some(step) = owner.grants.handle_ask(name, life, &ask) else { return };
        self.pool += step.refund;
        let plenty = !self.scarce && self.pool * 2 > self.quota;
        let taken = if step.grants { Grants::chunk(self.pool, 3, &ask, plenty, 1) } else { 0 };
        self.pool -= taken;
        let grant = owner.grants.settle(name, &ask, taken, self.pool > 0, plenty);
        self.answers.push((from, life, (to, owner.life), grant));
    }

    fn take_answer(&mut self, at: usize, keep: bool) {
        let (to, life, by, grant) = if keep { self.answers[at] } else { self.answers.swap_remove(at) };
        let node = &mut self.nodes[to];
        if node.life != life {
            return;
        }
        let by = (&self.owners[by.0].name, by.1);
        if let Some(published) = node.requests.handle_grant(by, grant, LEFT, self.now) {
            node.rights = node.rights.max(published.rights);
        }
    }

    fn change_owner(&mut self) {
        self.owner = 1 - self.owner;
        self.nodes.iter_mut().for_each(|node| node.requests.handle_owner_change());
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
    for (quota, turns) in [1, 2, 7, 100, 1000].into_iter().flat_map(|quota| [(quota, 2000), (quota, 90)]) {
        let mut region = Region::new(quota);
        for round in 0..2000usize {
            if round % turns == turns - 1 {
                region.change_owner();
            }
            for at in 0..3 {
                if round % (at + 1) == 0 {
                    region.request(at);
                }
            }
            region.exchange();
        }
        assert_eq!(region.spent, quota, "the owner changes every {turns} rounds");
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
    ChangeOwner,
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
        1 => Just(Turn::ChangeOwner),
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
                    let (at, life) = (region.owner, region.owners[region.owner].life);
                    region.owners[at] = Owner::new(at, life + 1);
                }
                Turn::ChangeOwner => region.change_owner(),
                Turn::Pass(millis) => region.pass(millis),
                Turn::Ask { .. } | Turn::Answer { .. } | Turn::LoseAsk(_) | Turn::LoseAnswer(_) => {}
            }
            prop_assert!(region.spent <= region.quota);
        }
    }
}
