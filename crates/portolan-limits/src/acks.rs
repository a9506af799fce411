//! Which messages with loans a peer has, so that those it has not are told again. Loans are absolute numbers: telling
//! one twice does nothing. Every process of a node numbers its messages from 1 and says which process it is, so that no
//! number of one is taken for another's. Selective acknowledgements as in RFC 2018. Reads no clock.

use std::{collections::VecDeque, time::Duration};

use portolan_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Names one message with loans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// Tells the sender's processes apart.
    pub life: u64,
    /// From 1 on.
    pub count: u64,
}

/// Which numbered messages of a peer have come, as told in heartbeats to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The process that numbered them.
    life: u64,
    /// The highest number; 0 for none.
    newest: u64,
    /// Bit `n`: the message `n + 1` before the newest has come.
    before: [u64; WORDS],
}

/// What was sent to one peer and is not known to have come.
#[derive(Debug)]
pub(crate) struct Unacknowledged<T> {
    last: Number,
    last_at: Timestamp,
    sent: VecDeque<Sent<T>>,
    /// Since when nothing of what was sent has come.
    waits_since: Option<Timestamp>,
}

#[derive(Debug)]
struct Sent<T> {
    number: Number,
    at: Timestamp,
    what: Vec<T>,
}

impl Seen {
    /// Takes in a number. Numbers further back than [`WINDOW`], and those of another process than the last one heard, are
    /// forgotten: their content comes again.
    pub fn insert(&mut self, Number { life, count: number }: Number) {
        if life != self.life {
            *self = Self { life, ..Self::default() };
        }
        if number > self.newest {
            let by = number - self.newest;
            self.shift(by);
            if self.newest > 0 && by <= WINDOW {
                self.set(by - 1);
            }
            self.newest = number;
        } else if number < self.newest && self.newest - number <= WINDOW {
            self.set(self.newest - number - 1);
        }
    }

    /// Whether a number has come.
    pub fn contains(&self, Number { life, count: number }: Number) -> bool {
        match self.newest.checked_sub(number) {
            _ if life != self.life => false,
            Some(0) => number > 0,
            Some(back @ 1..=WINDOW) => self.before[(back - 1) as usize / 64] >> ((back - 1) % 64) & 1 == 1,
            _ => false,
        }
    }

    fn set(&mut self, bit: u64) {
        self.before[bit as usize / 64] |= 1 << (bit % 64);
    }

    fn shift(&mut self, by: u64) {
        let bits: Vec<u64> = (0..WINDOW.saturating_sub(by))
            .filter(|&bit| self.before[bit as usize / 64] >> (bit % 64) & 1 == 1)
            .collect();
        self.before = [0; WORDS];
        bits.into_iter().for_each(|bit| self.set(bit + by));
    }
}

impl<T> Unacknowledged<T> {
    /// Of the process `life`.
    pub const fn new(life: u64) -> Self {
        let last = Number { life, count: 0 };
        Self { last, last_at: Timestamp::ZERO, sent: VecDeque::new(), waits_since: None }
    }

    /// Numbers a message that carries `what`.
    pub fn send(&mut self, what: Vec<T>, now: Timestamp) -> Number {
        self.last.count += 1;
        self.last_at = now;
        self.waits_since.get_or_insert(now);
        if self.sent.len() == MAX_UNACKNOWLEDGED {
            // Digests find what the oldest carried.
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { number: self.last, at: now, what });
        self.last
    }

    /// Drops what has come.
    pub fn acknowledge(&mut self, seen: &Seen, now: Timestamp) {
        let before = self.sent.len();
        self.sent.retain(|sent| !seen.contains(sent.number));
        if self.sent.len() < before {
            self.waits_since = (!self.sent.is_empty()).then_some(now);
        }
    }

    /// Whether nothing of what is sent comes, for longer than `patience`. Of a peer to which nothing was sent for twice as long
    /// it is not known.
    pub fn is_unheard(&self, patience: Duration, now: Timestamp) -> bool {
        let waits = self.waits_since.is_some_and(|since| now.since(since) > patience);
        waits && now.since(self.last_at) <= patience * 2
    }

    /// Takes what has not been acknowledged within `patience`, to be told again.
    pub fn take_overdue(&mut self, patience: Duration, now: Timestamp) -> Vec<T> {
        let mut again = Vec::new();
        while let Some(mut lost) = self.sent.pop_front_if(|sent| now.since(sent.at) > patience) {
            again.append(&mut lost.what);
        }
        again
    }

    /// Messages not known to have come.
    pub fn len(&self) -> usize {
        self.sent.len()
    }
}

/// Messages that a heartbeat can acknowledge: several times what fits into the interval between two of them.
const WINDOW: u64 = 256;
const WORDS: usize = (WINDOW / 64) as usize;

/// Messages with loans on their way to one peer.
const MAX_UNACKNOWLEDGED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn number(life: u64) -> impl Fn(u64) -> Number {
        move |count| Number { life, count }
    }

    #[test]
    fn what_has_come_is_told_in_any_order() {
        let (mut seen, number) = (Seen::default(), number(0));
        assert!(!seen.contains(number(0)) && !seen.contains(number(1)));
        [3, 1, 300, 299, 60].into_iter().for_each(|count| seen.insert(number(count)));
        let known: Vec<u64> = (0..400).filter(|&count| seen.contains(number(count))).collect();
        assert_eq!(known, [60, 299, 300], "what is too far back is told again");
    }

    #[test]
    fn numbers_of_one_process_say_nothing_of_anothers() {
        let mut seen = Seen::default();
        (1..=9).for_each(|count| seen.insert(number(7)(count)));
        assert!(seen.contains(number(7)(3)) && !seen.contains(number(8)(3)));
        seen.insert(number(8)(2));
        let known: Vec<u64> = (0..20).filter(|&count| seen.contains(number(8)(count))).collect();
        assert_eq!((known, seen.contains(number(7)(9))), (vec![2], false));
    }

    #[test]
    fn a_lost_loan_is_told_again_and_one_that_came_is_not() {
        let mut sent = Unacknowledged::new(0);
        let numbers = ["one", "two", "three"].map(|what| sent.send(vec![what], at(0)));
        let mut seen = Seen::default();
        seen.insert(numbers[0]);
        seen.insert(numbers[2]);
        let patience = Duration::from_millis(300);
        sent.acknowledge(&seen, at(1));
        assert_eq!(sent.take_overdue(patience, at(300)), Vec::<&str>::new());
        assert_eq!(sent.take_overdue(patience, at(301)), ["two"]);
        assert_eq!(sent.len(), 0);
    }

    #[test]
    fn a_peer_to_which_nothing_comes_is_unheard_until_something_does_or_nothing_more_is_sent() {
        let mut sent = Unacknowledged::new(0);
        let patience = Duration::from_millis(300);
        let mut seen = Seen::default();
        assert!(!sent.is_unheard(patience, at(1000)));
        for millis in [0, 200, 400] {
            seen.insert(sent.send(vec!["loan"], at(millis)));
        }
        assert_eq!([300, 301].map(|millis| sent.is_unheard(patience, at(millis))), [false, true]);
        // What is told again is not heard of for that alone.
        sent.take_overdue(patience, at(800));
        let number = sent.send(vec!["loan"], at(800));
        assert_eq!([800, 1400, 1401].map(|millis| sent.is_unheard(patience, at(millis))), [true, true, false]);
        seen.insert(number);
        sent.acknowledge(&seen, at(900));
        assert!(!sent.is_unheard(patience, at(900)));
    }
}
