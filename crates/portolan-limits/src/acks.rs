//! Which messages with loans a peer has, so that those it has not are told again. Loans are absolute numbers: telling
//! one twice does nothing. Selective acknowledgements as in RFC 2018. Reads no clock.

use std::{collections::VecDeque, time::Duration};

use portolan_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Which numbered messages of a peer have come, as told in heartbeats to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The highest number; 0 for none.
    newest: u64,
    /// Bit `n`: the message `n + 1` before the newest has come.
    before: [u64; WORDS],
}

/// What was sent to one peer and is not known to have come.
#[derive(Debug)]
pub(crate) struct Unacknowledged<T> {
    last: u64,
    sent: VecDeque<Sent<T>>,
}

#[derive(Debug)]
struct Sent<T> {
    number: u64,
    at: Timestamp,
    what: Vec<T>,
}

impl Seen {
    /// Takes in a number. Numbers further back than [`WINDOW`] are forgotten: their content comes again.
    pub fn insert(&mut self, number: u64) {
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
    pub fn contains(&self, number: u64) -> bool {
        match self.newest.checked_sub(number) {
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
    /// Numbers go on from `last`. Higher than any that the process before has used: else the peer would take the numbers
    /// of this one for messages it has.
    pub const fn new(last: u64) -> Self {
        Self { last, sent: VecDeque::new() }
    }

    /// Numbers a message that carries `what`.
    pub fn send(&mut self, what: Vec<T>, now: Timestamp) -> u64 {
        self.last += 1;
        if self.sent.len() == MAX_UNACKNOWLEDGED {
            // Digests find what the oldest carried.
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { number: self.last, at: now, what });
        self.last
    }

    /// Drops what has come and returns what has not after `patience`, to be told again.
    pub fn acknowledge(&mut self, seen: &Seen, patience: Duration, now: Timestamp) -> Vec<T> {
        self.sent.retain(|sent| !seen.contains(sent.number));
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

    #[test]
    fn what_has_come_is_told_in_any_order() {
        let mut seen = Seen::default();
        assert!(!seen.contains(0) && !seen.contains(1));
        [3, 1, 300, 299, 60].into_iter().for_each(|number| seen.insert(number));
        let known: Vec<u64> = (0..400).filter(|&number| seen.contains(number)).collect();
        assert_eq!(known, [60, 299, 300], "what is too far back is told again");
    }

    #[test]
    fn a_lost_loan_is_told_again_and_one_that_came_is_not() {
        let mut sent = Unacknowledged::new(0);
        let numbers = ["one", "two", "three"].map(|what| sent.send(vec![what], at(0)));
        let mut seen = Seen::default();
        seen.insert(numbers[0]);
        seen.insert(numbers[2]);
        let patience = Duration::from_millis(300);
        assert_eq!(sent.acknowledge(&seen, patience, at(300)), Vec::<&str>::new());
        assert_eq!(sent.acknowledge(&seen, patience, at(301)), ["two"]);
        assert_eq!(sent.len(), 0);
    }
}
