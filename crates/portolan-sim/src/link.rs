//! A node's side of one lender, as the server's task has it: connects, asks, gives up, tries again. When the lender
//! counts as unreachable is the limits' decision, as in the server. Never knows how long anything takes: the world tells
//! it what it hears.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use portolan_config::Lender;
use portolan_limits::{Granted, LenderHealth, LoanReply, LoanRequest};
use portolan_model::Timestamp;
use tokio::time::Duration;

/// Chunks asked for at one time, and those that wait for their turn.
const MAX_IN_FLIGHT: usize = 64;
const MAX_WAITING: usize = 1024;

/// Pauses between attempts to connect: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The link of one process to one lender.
pub struct Link {
    /// Counts the links of a run, so that what one is told is not heard by the next.
    pub number: u64,
    config: Arc<Lender>,
    health: LenderHealth,
    phase: Phase,
    wait: Duration,
    waiting: VecDeque<LoanRequest>,
    running: BTreeMap<u64, (LoanRequest, Timestamp)>,
    asked: u64,
    pinged: Timestamp,
    acts: VecDeque<Act>,
}

/// What a link is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Connected,
    /// Of no more use; what is under way ends.
    Broken,
    Resting,
}

/// What a link wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Connect.
    Connect,
    /// Wait before the next attempt, at random up to this.
    Rest(Duration),
    /// Ask for a chunk under this number.
    Ask(u64, LoanRequest),
    /// Ask for a sign of life.
    Ping,
    /// Ask for one later.
    PingLater,
    /// Tell the limits how a request ended.
    Reply(LoanReply),
    /// Whether the lender can be counted on has changed.
    Judged,
}

/// What a link hears.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    /// It is connected.
    Connected,
    /// It cannot connect.
    NotConnected,
    /// The pause is over.
    Rested,
    /// The request of this number was answered.
    Answered(u64, Granted),
    /// The time of the request of this number is up.
    Late(u64),
    /// It is time to ask for a sign of life.
    PingDue,
    /// There is one.
    Pong,
    /// There is none.
    NoPong,
}

impl Link {
    /// Begins to connect.
    pub fn new(number: u64, config: Arc<Lender>) -> Self {
        Self {
            number,
            config,
            health: LenderHealth::default(),
            phase: Phase::Connecting,
            wait: FIRST_WAIT,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            asked: 0,
            pinged: Timestamp::ZERO,
            acts: VecDeque::from([Act::Connect]),
        }
    }

    /// The lender as the document has it.
    pub fn config(&self) -> &Arc<Lender> {
        &self.config
    }

    /// Whether the lender can be counted on.
    pub fn is_reachable(&self) -> bool {
        self.health.is_reachable()
    }

    /// Asks for a chunk; `false` when too many wait already.
    pub fn ask(&mut self, request: LoanRequest, now: Timestamp) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push_back(request);
        self.serve(now);
        true
    }

    /// Takes in what it hears.
    pub fn hear(&mut self, heard: Heard, now: Timestamp) {
        match heard {
            Heard::Connected => {
                self.phase = Phase::Connected;
                self.ping(now);
            }
            Heard::NotConnected => {
                self.judge(|health| health.failed(now));
                self.rest();
            }
            Heard::Rested => {
                self.phase = Phase::Connecting;
                self.acts.push_back(Act::Connect);
            }
            Heard::Answered(number, granted) => {
                let Some((request, began)) = self.running.remove(&number) else { return };
                self.judge(|health| health.answered(now.since(began), now));
                self.acts.push_back(Act::Reply(request.ended(Some(granted))));
            }
            Heard::Late(number) => {
                let Some((request, _)) = self.running.remove(&number) else { return };
                self.judge(|health| health.failed(now));
                self.acts.push_back(Act::Reply(request.ended(None)));
                if !self.is_reachable() && self.phase == Phase::Connected {
                    self.phase = Phase::Broken;
                }
            }
            Heard::PingDue => self.ping(now),
            Heard::Pong if self.phase == Phase::Connected => {
                let took = now.since(self.pinged);
                self.judge(|health| health.answered(took, now));
                self.acts.push_back(Act::PingLater);
            }
            Heard::NoPong if self.phase == Phase::Connected => {
                self.judge(|health| health.failed(now));
                self.phase = Phase::Broken;
            }
            Heard::Pong | Heard::NoPong => {}
        }
        if self.phase == Phase::Broken && self.running.is_empty() {
            self.rest();
        }
        self.serve(now);
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Sends what waits as far as it may be sent, and refuses it where that is not to be waited for.
    fn serve(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Connected if self.is_reachable() => {
                while self.running.len() < MAX_IN_FLIGHT
                    && let Some(request) = self.waiting.pop_front()
                {
                    self.asked += 1;
                    self.running.insert(self.asked, (request.clone(), now));
                    self.acts.push_back(Act::Ask(self.asked, request));
                }
            }
            Phase::Broken => {}
            Phase::Connected | Phase::Connecting | Phase::Resting => {
                let refused = self.waiting.drain(..).map(|request| Act::Reply(request.ended(None)));
                self.acts.extend(refused);
            }
        }
    }

    fn ping(&mut self, now: Timestamp) {
        if self.phase == Phase::Connected && !self.is_reachable() {
            self.pinged = now;
            self.acts.push_back(Act::Ping);
        }
    }

    fn rest(&mut self) {
        self.phase = Phase::Resting;
        self.acts.push_back(Act::Rest(self.wait));
        self.wait = (self.wait * 2).min(LAST_WAIT);
    }

    fn judge(&mut self, outcome: impl FnOnce(&mut LenderHealth)) {
        let before = self.is_reachable();
        outcome(&mut self.health);
        if self.is_reachable() != before {
            self.acts.push_back(Act::Judged);
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_limits::{Key, LimitId};
    use portolan_model::{HashKey, Name, WallTime};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn link() -> Link {
        let name = Name::new("main").expect("a name");
        Link::new(1, Arc::new(Lender { name, redis: "redis://127.0.0.1".to_owned() }))
    }

    fn request(sequence: u64) -> LoanRequest {
        LoanRequest {
            limit: LimitId(1),
            key: Key::new(&HashKey::new([7; 16]), LimitId(1), &[]),
            slot: 1,
            sequence,
            held: 0,
            units: 1,
            quota: 100,
            slot_begins: WallTime::default(),
            slot_ends: WallTime::from_unix_millis(u64::MAX / 2),
        }
    }

    /// What it wants done, in words.
    fn acts(link: &mut Link) -> Vec<String> {
        let word = |act| match act {
            Act::Ask(number, request) => format!("ask {number} for {}", request.sequence),
            Act::Reply(reply) => format!("reply {} {:?}", reply.sequence, reply.granted.map(|granted| granted.held)),
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| link.poll()).map(word).collect()
    }

    #[test]
    fn a_lender_that_answers_is_asked_and_refuses_nothing_but_before_it_is_connected() {
        let mut link = link();
        assert!(link.ask(request(1), at(0)));
        assert_eq!(acts(&mut link), ["Connect", "reply 1 None"]);
        link.hear(Heard::Connected, at(2));
        assert!(link.ask(request(2), at(3)));
        link.hear(Heard::Answered(1, Granted { held: 7, total: 7, before: 0 }), at(5));
        link.hear(Heard::Late(1), at(53));
        assert_eq!(acts(&mut link), ["ask 1 for 2", "reply 2 Some(7)"], "an answered request is not late");
    }

    #[test]
    fn a_lender_that_is_silent_is_given_up_and_counted_on_again_after_signs_of_life() {
        let mut link = link();
        link.hear(Heard::Connected, at(0));
        (1..=3).for_each(|sequence| assert!(link.ask(request(sequence), at(sequence))));
        acts(&mut link);
        link.hear(Heard::Late(1), at(51));
        link.hear(Heard::Late(2), at(52));
        assert!(link.ask(request(4), at(52)));
        assert_eq!(acts(&mut link), ["reply 1 None", "Judged", "reply 2 None"], "one is under way, and one waits");
        link.hear(Heard::Late(3), at(53));
        assert_eq!(acts(&mut link), ["reply 3 None", "Rest(50ms)", "reply 4 None"]);
        link.hear(Heard::Rested, at(60));
        link.hear(Heard::NotConnected, at(560));
        assert_eq!(acts(&mut link), ["Connect", "Rest(100ms)"]);
        link.hear(Heard::Rested, at(600));
        link.hear(Heard::Connected, at(602));
        assert_eq!(acts(&mut link), ["Connect", "Ping"]);
        for turn in 0..6 {
            assert!(!link.is_reachable());
            link.hear(Heard::Pong, at(604 + turn * 402));
            link.hear(Heard::PingDue, at(1004 + turn * 402));
        }
        assert!(link.is_reachable());
        assert_eq!(acts(&mut link).iter().filter(|act| *act == "Judged").count(), 1);
    }
}
