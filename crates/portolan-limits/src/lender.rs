//! What to ask of a lender outside the regions, which holds four fifths of some limits: chunks of a slot's quota, in the
//! background. Never decides an admission, and none waits for it: a loan that comes late is waste, never excess, since
//! what was lent is told and counted as a total per slot. Follows the guided self-scheduling of Polychronopoulos and
//! Kuck, IEEE ToC 1987: the less is left, the smaller the chunk.

use std::collections::{BTreeMap, VecDeque};

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::key::Key;

/// A part of one slot of one key, wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanRequest {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// Grows with each request for this slot.
    pub sequence: u64,
    /// What was lent to this region in the slot so far.
    pub held: u64,
    /// How much more is wanted.
    pub units: u64,
    /// What the lender may lend to all regions together.
    pub quota: u64,
    /// First instant after the slot.
    pub slot_ends: WallTime,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanReply {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// The request's.
    pub sequence: u64,
    /// What this region was lent in the slot in all; `None` when no answer came in time.
    pub granted: Option<u64>,
}

/// Whether the lender of a limit can be counted on; unreachable is to its limits what a region that is not heard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LenderState {
    /// The limit.
    pub limit: LimitId,
    /// At first it is.
    pub reachable: bool,
}

/// What a key stands at, for the decision to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Units still to spend.
    pub left: u64,
    /// Units a second that it is asked for.
    pub rate: f64,
    /// The lender's quota, and the regions that share it.
    pub quota: u64,
    pub regions: u64,
    pub slot_ends: WallTime,
}

/// Loans asked for and held.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    slots: BTreeMap<(LimitId, Key, u64), Loan>,
    waiting: VecDeque<LoanRequest>,
}

#[derive(Clone, Copy, Debug)]
struct Loan {
    held: u64,
    sequence: u64,
    /// Units asked for and not answered.
    asked: u64,
    /// The lender gave less than was asked for: it has no more.
    exhausted: bool,
    ends: WallTime,
}

impl Loans {
    /// Asks for a chunk if what is left will not last until one can come.
    pub fn consider(&mut self, limit: LimitId, key: Key, slot: u64, standing: Standing) {
        let ahead = standing.rate * CHUNK_SECONDS;
        if self.waiting.len() >= MAX_WAITING || self.slots.len() >= MAX_SLOTS || standing.left as f64 > ahead / 2.0 {
            return;
        }
        let fresh = Loan { held: 0, sequence: 0, asked: 0, exhausted: false, ends: standing.slot_ends };
        let loan = self.slots.entry((limit, key, slot)).or_insert(fresh);
        if loan.asked > 0 || loan.exhausted {
            return;
        }
        let most = standing.quota.saturating_sub(loan.held).div_ceil(2 * standing.regions).max(1);
        let units = (ahead.ceil() as u64).clamp(1, most);
        loan.sequence += 1;
        loan.asked = units;
        let (sequence, held, quota, slot_ends) = (loan.sequence, loan.held, standing.quota, standing.slot_ends);
        self.waiting.push_back(LoanRequest { limit, key, slot, sequence, held, units, quota, slot_ends });
    }

    /// The next request to send.
    pub fn poll(&mut self) -> Option<LoanRequest> {
        self.waiting.pop_front()
    }

    /// Takes in an answer; returns what the region holds now, if it grew.
    pub fn handle(&mut self, reply: LoanReply) -> Option<u64> {
        let loan = self.slots.get_mut(&(reply.limit, reply.key, reply.slot))?;
        if reply.sequence != loan.sequence {
            // A total is a total: an old answer is as true as a new one, only smaller.
            return loan.take(reply.granted?);
        }
        let asked = std::mem::take(&mut loan.asked);
        let granted = reply.granted?;
        loan.exhausted = granted < loan.held + asked;
        loan.take(granted)
    }

    /// What the region holds of a slot.
    pub fn held(&self, limit: LimitId, key: Key, slot: u64) -> u64 {
        self.slots.get(&(limit, key, slot)).map_or(0, |loan| loan.held)
    }

    /// Forgets slots that are over.
    pub fn forget(&mut self, wall: WallTime) {
        self.slots.retain(|_, loan| loan.ends > wall);
        self.waiting.retain(|request| request.slot_ends > wall);
    }
}

impl Loan {
    fn take(&mut self, granted: u64) -> Option<u64> {
        let grew = granted > self.held;
        self.held = self.held.max(granted);
        grew.then_some(self.held)
    }
}

/// A chunk lasts so long at the rate that it was asked for at; half of it is the lead of the next request.
const CHUNK_SECONDS: f64 = 0.5;

/// Requests that wait to be sent, and slots that are remembered; beyond it a key is served from its share alone.
const MAX_WAITING: usize = 1024;
const MAX_SLOTS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::from_bits(7);

    fn consider(loans: &mut Loans, left: u64, rate: f64) -> Option<LoanRequest> {
        let standing = Standing { left, rate, quota: 800, regions: 3, slot_ends: WallTime::from_unix_millis(2000) };
        loans.consider(LimitId(1), KEY, 1, standing);
        loans.poll()
    }

    fn reply(sequence: u64, granted: Option<u64>) -> LoanReply {
        LoanReply { limit: LimitId(1), key: KEY, slot: 1, sequence, granted }
    }

    #[test]
    fn a_chunk_is_asked_for_before_the_share_is_spent_and_one_at_a_time() {
        let mut loans = Loans::default();
        assert_eq!(consider(&mut loans, 60, 200.0), None);
        let request = consider(&mut loans, 40, 200.0).expect("it is time");
        assert_eq!((request.units, request.held, request.sequence), (100, 0, 1));
        assert_eq!(consider(&mut loans, 10, 200.0), None, "one is on its way");
        assert_eq!(loans.handle(reply(1, Some(100))), Some(100));
        let request = consider(&mut loans, 40, 200.0).expect("the next");
        assert_eq!((request.held, request.sequence), (100, 2));
    }

    #[test]
    fn a_late_or_repeated_answer_adds_nothing_and_a_lost_one_is_asked_again() {
        let mut loans = Loans::default();
        consider(&mut loans, 0, 200.0).expect("asked");
        assert_eq!(loans.handle(reply(1, None)), None);
        let again = consider(&mut loans, 0, 200.0).expect("asked again");
        assert_eq!((again.sequence, again.held), (2, 0));
        assert_eq!(loans.handle(reply(2, Some(200))), Some(200), "the lost one had been granted too");
        assert_eq!(loans.handle(reply(1, Some(100))), None);
        assert_eq!(loans.held(LimitId(1), KEY, 1), 200);
    }

    #[test]
    fn a_lender_that_has_no_more_is_left_alone_until_the_next_slot() {
        let mut loans = Loans::default();
        consider(&mut loans, 0, 200.0).expect("asked");
        loans.handle(reply(1, Some(30)));
        assert_eq!(consider(&mut loans, 0, 200.0), None);
        loans.forget(WallTime::from_unix_millis(2000));
        assert_eq!(loans.held(LimitId(1), KEY, 1), 0);
    }
}
