//! What to ask of a lender outside the regions, which holds four fifths of some limits: chunks of a slot's quota, in the
//! background. Never decides an admission, and none waits for it: a loan that comes late is waste, never excess, since
//! what was lent is told and counted as a total per slot. Follows the guided self-scheduling of Polychronopoulos and
//! Kuck, IEEE ToC 1987: the less is left, the smaller the chunk.

mod health;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use portolan_config::LimitId;
use portolan_model::WallTime;

pub use self::health::{ANSWER_TIMEOUT, LenderHealth};
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
    /// Grows with each request for this slot, also over a restart: civil milliseconds, or one more than the last.
    pub sequence: u64,
    /// What was lent to this region in the slot so far.
    pub held: u64,
    /// How much more is wanted.
    pub units: u64,
    /// What the lender may lend to all regions together.
    pub quota: u64,
    /// First instant of the slot.
    pub slot_begins: WallTime,
    /// First instant after the slot.
    pub slot_ends: WallTime,
}

impl LoanRequest {
    /// How long the lender keeps the slot, asked at `now`: to its end, and some time for askers whose clock is behind. One
    /// that was set back goes through its slots more slowly, but does not stay in one until it has caught up.
    pub fn kept_for(&self, now: WallTime) -> Duration {
        let lasts = self.slot_ends.since(self.slot_begins).saturating_mul(SLOWEST);
        self.slot_ends.since(now).min(lasts) + SLOT_GRACE
    }

    /// From when on the lender lends of the slot, by its own clock: a window and some time before it begins. A clock that is
    /// further ahead would leave slots there until they come.
    pub fn lent_from(&self) -> WallTime {
        self.slot_begins - (self.slot_ends.since(self.slot_begins) + SLOT_GRACE)
    }

    /// The end of the request; `None` when it was not answered in time, or not sent.
    pub fn ended(&self, granted: Option<Granted>) -> LoanReply {
        let Self { limit, key, slot, sequence, .. } = *self;
        LoanReply { limit, key, slot, sequence, granted }
    }
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
    /// The answer; `None` when none came in time.
    pub granted: Option<Granted>,
}

/// What a lender answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// What this region was lent in the slot in all.
    pub held: u64,
    /// What all regions were lent together.
    pub total: u64,
    /// The highest sequence that this region had asked with before; 0 for none.
    pub before: u64,
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
    /// What one request costs at most, and what one cost that was just refused, if one was.
    pub most_cost: u64,
    pub refused: u64,
    /// The lender's quota, and the regions that share it.
    pub quota: u64,
    pub regions: u64,
    pub now: WallTime,
    pub slot_begins: WallTime,
    pub slot_ends: WallTime,
}

/// Loans asked for and held.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    slots: BTreeMap<(LimitId, Key, u64), Loan>,
    waiting: VecDeque<LoanRequest>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Loan {
    held: u64,
    /// Of the last request.
    sequence: u64,
    /// The highest that this region is known to have asked with, by the last request and after it.
    before: u64,
    latest: u64,
    /// Units asked for since the last answer.
    asked: u64,
    /// A request is on its way.
    waits: bool,
    /// The lender's quota as last asked with, and what of it is known to be lent to all regions.
    quota: u64,
    total: u64,
    ends: WallTime,
}

impl Loans {
    /// Asks for a chunk if what is left will not last until one can come.
    pub fn consider(&mut self, limit: LimitId, key: Key, slot: u64, standing: Standing) {
        let Standing { left, most_cost, refused, .. } = standing;
        let ahead = standing.rate * CHUNK_SECONDS;
        let held = self.held(limit, key, slot);
        let guided = standing.quota.saturating_sub(held).div_ceil(2 * standing.regions).max(1);
        // Whatever the pace, what is left has to pay for a request; for one that was refused even where little is left to lend.
        let one = most_cost.min(guided).max(refused);
        let lasts = left as f64 > ahead / 2.0 && left >= one;
        if self.waiting.len() >= MAX_WAITING || self.slots.len() >= MAX_SLOTS || lasts {
            return;
        }
        let loan = self.slots.entry((limit, key, slot)).or_default();
        loan.ends = standing.slot_ends;
        if loan.waits || loan.total >= standing.quota {
            return;
        }
        let units = (ahead.ceil() as u64).clamp(1, guided).max(one.saturating_sub(left));
        let (sequence, held) = loan.ask(units, standing);
        let Standing { quota, slot_begins, slot_ends, .. } = standing;
        self.waiting.push_back(LoanRequest { limit, key, slot, sequence, held, units, quota, slot_begins, slot_ends });
    }

    /// The next request to send.
    pub fn poll(&mut self) -> Option<LoanRequest> {
        self.waiting.pop_front()
    }

    /// Takes in an answer; returns what the region holds now, if it grew.
    pub fn handle(&mut self, reply: LoanReply) -> Option<u64> {
        let loan = self.slots.get_mut(&(reply.limit, reply.key, reply.slot))?;
        let answers = reply.sequence == loan.sequence;
        loan.waits &= !answers;
        let granted = reply.granted?;
        // Nobody but another owner of the key in this region, before this process or since, was lent more than this one
        // asked for.
        let others = answers && granted.before > loan.before;
        let most = if others { loan.quota } else { loan.held + loan.asked };
        if answers {
            loan.asked = 0;
            loan.latest = loan.latest.max(granted.before);
        }
        loan.total = loan.total.max(granted.total);
        // A total is a total: an old answer is as true as a new one, only smaller.
        loan.take(granted.held.min(most))
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
    /// The sequence to ask with, and what is held.
    fn ask(&mut self, units: u64, standing: Standing) -> (u64, u64) {
        self.before = self.latest;
        self.sequence = standing.now.as_unix_millis().max(self.latest + 1);
        self.latest = self.sequence;
        self.asked = self.asked.saturating_add(units);
        (self.waits, self.quota) = (true, standing.quota);
        (self.sequence, self.held)
    }

    fn take(&mut self, granted: u64) -> Option<u64> {
        let grew = granted > self.held;
        self.held = self.held.max(granted);
        grew.then_some(self.held)
    }
}

/// A chunk lasts so long at the rate that it was asked for at; half of it is the lead of the next request.
const CHUNK_SECONDS: f64 = 0.5;

/// How long a lender keeps a slot after its end, and how far its clock may be behind.
const SLOT_GRACE: Duration = Duration::from_secs(10);

/// By how much a slot lasts longer than its window at most, where a clock is waited for that was set back.
const SLOWEST: u32 = 10;

/// Requests that wait to be sent, and slots that are remembered; beyond it a key is served from its share alone.
const MAX_WAITING: usize = 1024;
const MAX_SLOTS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::from_bits(7);

    fn consider(loans: &mut Loans, left: u64, rate: f64) -> Option<LoanRequest> {
        let [now, slot_ends] = [1000, 2000].map(WallTime::from_unix_millis);
        let (most_cost, refused) = (1, 0);
        let standing =
            Standing { left, rate, most_cost, refused, quota: 800, regions: 3, now, slot_begins: now, slot_ends };
        loans.consider(LimitId(1), KEY, 1, standing);
        loans.poll()
    }

    fn reply(sequence: u64, granted: Option<(u64, u64, u64)>) -> LoanReply {
        let granted = granted.map(|(held, total, before)| Granted { held, total, before });
        LoanReply { limit: LimitId(1), key: KEY, slot: 1, sequence, granted }
    }

    #[test]
    fn a_chunk_is_asked_for_before_the_share_is_spent_and_one_at_a_time() {
        let mut loans = Loans::default();
        assert_eq!(consider(&mut loans, 60, 200.0), None);
        let request = consider(&mut loans, 40, 200.0).expect("it is time");
        assert_eq!((request.units, request.held, request.sequence), (100, 0, 1000));
        assert_eq!(consider(&mut loans, 10, 200.0), None, "one is on its way");
        assert_eq!(loans.handle(reply(1000, Some((100, 100, 0)))), Some(100));
        let request = consider(&mut loans, 40, 200.0).expect("the next");
        assert_eq!((request.held, request.sequence), (100, 1001));
    }

    #[test]
    fn what_is_left_pays_for_a_request_however_rarely_one_comes() {
        let asked = |left, most_cost, refused| {
            let [now, slot_ends] = [1000, 2000].map(WallTime::from_unix_millis);
            let standing = Standing {
                left,
                rate: 3.0,
                most_cost,
                refused,
                quota: 60,
                regions: 3,
                now,
                slot_begins: now,
                slot_ends,
            };
            let mut loans = Loans::default();
            loans.consider(LimitId(1), KEY, 1, standing);
            loans.poll().map(|request| request.units)
        };
        assert_eq!([asked(2, 3, 0), asked(3, 3, 0), asked(0, 3, 0)], [Some(2), None, Some(3)]);
        // Where costs differ no region asks for the dearest beforehand, beyond its part of what is left to lend.
        assert_eq!([asked(10, 50, 0), asked(9, 50, 0), asked(10, 50, 40)], [None, Some(2), Some(30)]);
    }

    #[test]
    fn a_late_or_repeated_answer_adds_nothing_and_a_lost_one_is_asked_again() {
        let mut loans = Loans::default();
        consider(&mut loans, 0, 200.0).expect("asked");
        assert_eq!(loans.handle(reply(1000, None)), None);
        let again = consider(&mut loans, 0, 200.0).expect("asked again");
        assert_eq!((again.sequence, again.held), (1001, 0));
        assert_eq!(loans.handle(reply(1001, Some((200, 200, 1000)))), Some(200), "the lost one had been granted too");
        assert_eq!(loans.handle(reply(1000, Some((100, 100, 0)))), None);
        assert_eq!(loans.held(LimitId(1), KEY, 1), 200);
    }

    #[test]
    fn a_lender_that_has_lent_its_quota_is_left_alone_until_the_next_slot() {
        let mut loans = Loans::default();
        consider(&mut loans, 0, 200.0).expect("asked");
        loans.handle(reply(1000, Some((30, 800, 0))));
        assert_eq!(consider(&mut loans, 0, 200.0), None);
        loans.forget(WallTime::from_unix_millis(2000));
        assert_eq!(loans.held(LimitId(1), KEY, 1), 0);
    }

    #[test]
    fn an_owner_after_a_restart_holds_what_the_one_before_it_was_lent_and_is_lent_more() {
        let mut loans = Loans::default();
        let request = consider(&mut loans, 0, 200.0).expect("asked");
        // Its clock is behind that of the owner before it, whose sequence is higher: nothing is lent for this request.
        assert_eq!(loans.handle(reply(request.sequence, Some((400, 400, 5000)))), Some(400));
        let request = consider(&mut loans, 0, 200.0).expect("the lender has more");
        assert_eq!((request.held, request.sequence), (400, 5001));
        assert_eq!(loans.handle(reply(5001, Some((467, 467, 5000)))), Some(467));
    }

    #[test]
    fn an_answer_of_more_than_was_asked_for_counts_for_what_was_asked() {
        let mut loans = Loans::default();
        let units = consider(&mut loans, 0, 200.0).expect("asked").units;
        assert_eq!(loans.handle(reply(1000, Some((700, 700, 0)))), Some(units));
        let more = consider(&mut loans, 0, 200.0).expect("asked").units;
        assert_eq!(loans.handle(reply(1001, Some((800, 800, 1000)))), Some(units + more));
    }

    #[test]
    fn a_quota_that_is_raised_is_drawn_on_though_the_one_before_it_was_lent_out() {
        let mut loans = Loans::default();
        consider(&mut loans, 0, 200.0).expect("asked");
        loans.handle(reply(1000, Some((30, 800, 0))));
        let [slot_begins, now, slot_ends] = [1000, 1500, 2000].map(WallTime::from_unix_millis);
        let raised = Standing {
            left: 0,
            rate: 200.0,
            most_cost: 1,
            refused: 0,
            quota: 4000,
            regions: 3,
            now,
            slot_begins,
            slot_ends,
        };
        loans.consider(LimitId(1), KEY, 1, raised);
        assert_eq!(loans.poll().map(|request| (request.held, request.quota)), Some((30, 4000)));
    }

    #[test]
    fn a_lender_keeps_a_slot_for_some_windows_at_most_whatever_the_clock_of_the_asker() {
        let request = consider(&mut Loans::default(), 0, 200.0).expect("asked");
        assert_eq!(request.lent_from(), WallTime::default(), "a window and ten seconds before it is 1970");
        let kept = [3000, 1000, 500, 0].map(|now| request.kept_for(WallTime::from_unix_millis(now)).as_millis());
        assert_eq!(kept, [10_000, 11_000, 11_500, 12_000]);
        let later =
            |by| LoanRequest { slot_begins: request.slot_begins + by, slot_ends: request.slot_ends + by, ..request };
        let year = later(Duration::from_secs(365 * 86_400));
        assert_eq!(year.kept_for(WallTime::from_unix_millis(1000)), Duration::from_secs(20));
        assert_eq!(year.slot_begins.since(year.lent_from()), Duration::from_secs(11));
    }
}
