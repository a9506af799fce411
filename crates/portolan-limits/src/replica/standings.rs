//! Takes in what is said of regions and lenders: leases, and whether a lender can be counted on. Decides when the shares
//! of a region that is gone are split over the others.

use std::collections::BTreeMap;

use portolan_model::{Now, RegionId};

use super::{Event, Limits, watch::Look};
use crate::{
    key::Key,
    lender::{LenderState, LoanReply, Standing as KeyStanding},
    reclaim::Lease,
    rights::Rights,
};

impl Limits {
    /// The leases under which regions use strict rights of limits that reclaim; a region not named has none to lose.
    pub fn handle_leases(&mut self, leases: &BTreeMap<RegionId, Lease>, now: Now) {
        self.observe_clock(now);
        for (at, region) in self.regions.iter().enumerate() {
            self.standings[at].lease = leases.get(region).copied();
        }
        self.standings_changed();
    }

    /// An answer of a limit's lender, early or late.
    pub fn handle_loan(&mut self, reply: LoanReply, now: Now) {
        self.observe_clock(now);
        let limiter = self.limiter();
        let Some(rights) = limiter.rights(reply.limit) else { return };
        if self.loans.handle(reply).is_some() {
            self.publish(rights, reply.key, reply.slot);
        }
    }

    /// Whether a limit's lender can be counted on.
    pub fn handle_lender(&mut self, state: LenderState, now: Now) {
        self.observe_clock(now);
        let Some(book) = self.books.get_mut(&state.limit) else { return };
        if book.lender_reachable == state.reachable {
            return;
        }
        book.lender_reachable = state.reachable;
        self.events.push(Event::Lender { limit: state.limit, reachable: state.reachable });
        let limiter = self.limiter();
        if let Some(rights) = limiter.rights(state.limit) {
            self.enter_mode(rights);
        }
    }

    /// Whether this region must not spend or lend of a slot: its lease has lapsed.
    pub(super) fn stopped(&self, rights: &Rights, slot: u64) -> bool {
        let (from, until) = self.standings[self.me].spending(self.reclaims(rights));
        self.wall() >= until || rights.terms.begin(slot) < from
    }

    pub(super) fn reclaims(&self, rights: &Rights) -> bool {
        self.books.get(&rights.id).is_some_and(|book| book.reclaims)
    }

    /// Cuts the shares of the slots around the present one.
    pub(super) fn turn_books(&mut self) {
        self.cut_books(false);
    }

    /// Asks the limit's lender for a chunk, if it has one and the key will need it.
    pub(super) fn ask_lender(&mut self, rights: &Rights, key: Key, look: Look) {
        let Some(book) = self.books.get(&rights.id).filter(|book| book.lent) else { return };
        let Some(watch) = self.watched.get(&(rights.id, key)) else { return };
        let slot = rights.terms.slot(self.wall());
        if !book.lender_reachable || key == Key::OVERFLOW || self.stopped(rights, slot) {
            return;
        }
        let standing = KeyStanding {
            left: self.entitled(rights, key, slot).saturating_sub(look.used),
            rate: watch.flow.rate(),
            quota: rights.terms.quota.saturating_sub(book.split()),
            regions: self.regions.len() as u64,
            slot_ends: rights.terms.end(slot),
        };
        self.loans.consider(rights.id, key, slot, standing);
    }

    fn standings_changed(&mut self) {
        let begin = self.wall();
        let gone = |at: &usize| self.standings[*at].absent(begin + crate::horizon::CLOCK_TOLERANCE, true);
        let regions: Vec<RegionId> = (0..self.regions.len()).filter(gone).map(|at| self.regions[at].clone()).collect();
        if !regions.is_empty() {
            self.events.push(Event::Reclaim { regions });
        }
        self.cut_books(true);
        let limiter = self.limiter();
        for rights in limiter.all_rights() {
            let (from, until) = self.standings[self.me].spending(self.reclaims(rights));
            rights.live.set_spending(from, until);
        }
        let places: Vec<_> = self.watched.keys().copied().collect();
        for (limit, key) in places {
            if let Some(rights) = limiter.rights(limit) {
                self.publish(rights, key, rights.terms.slot(begin) + 1);
            }
        }
    }

    fn cut_books(&mut self, anew: bool) {
        let limiter = self.limiter();
        let wall = self.wall();
        for rights in limiter.all_rights() {
            if let Some(book) = self.books.get_mut(&rights.id) {
                book.turn_to(rights.terms.slot(wall), &rights.terms, &self.standings, anew);
            }
        }
    }
}
