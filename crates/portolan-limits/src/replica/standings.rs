//! Takes in what is said of this region and of lenders: where its leases end, and whether a lender can be counted on.
//! Decides what may not be spent or lent for want of a lease; whose share that becomes, the split of the slot says.

use std::collections::BTreeMap;

use portolan_config::LimitId;
use portolan_model::{Now, WallTime};

use super::{Event, Limits, watch::Look};
use crate::{
    key::Key,
    lender::{LenderState, LoanReply, Standing},
    rights::Rights,
};

impl Limits {
    /// Where this region's leases of limits end: nothing is spent, lent or granted of a slot that begins at that instant
    /// or after (rights ledger, rule 9.6). A limit that is not named needs none. Counts for the definitions in force, so
    /// it is to be said again after each [`handle_definitions`](Self::handle_definitions), before the next request.
    pub fn handle_leases(&mut self, ends: &BTreeMap<LimitId, WallTime>, now: Now) {
        self.observe_clock(now);
        for rights in self.limiter.all_rights() {
            rights.live.set_lease(ends.get(&rights.id).copied());
        }
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

    /// Whether this region has no lease of a slot.
    pub(super) fn stopped(&self, rights: &Rights, slot: u64) -> bool {
        !rights.live.may_spend(rights.terms.begin(slot))
    }

    /// Cuts the shares of the slots around the present one.
    pub(super) fn turn_books(&mut self) {
        let limiter = self.limiter();
        let (wall, regions) = (self.wall(), self.regions.len());
        for rights in limiter.all_rights() {
            let slot = rights.terms.slot(wall);
            rights.live.rate_slots.turn(slot, rights.terms.prefers_rate());
            if let Some(book) = self.books.get_mut(&rights.id) {
                book.turn_to(slot, &rights.terms, regions);
            }
        }
    }

    /// Asks the limit's lender for a chunk, if it has one and the key will need it.
    pub(super) fn ask_lender(&mut self, rights: &Rights, key: Key, look: Look) {
        let Some(book) = self.books.get(&rights.id).filter(|book| book.lent) else { return };
        let Some(watch) = self.watched.get(&(rights.id, key)) else { return };
        let slot = rights.terms.slot(self.wall());
        if !book.lender_reachable || self.stopped(rights, slot) {
            return;
        }
        let standing = Standing {
            left: self.entitled(rights, key, slot).saturating_sub(look.used),
            rate: self.rate_of(rights, watch),
            most_cost: rights.terms.most_cost,
            refused: look.refused.min(rights.terms.most_cost),
            quota: rights.terms.quota.saturating_sub(book.split()),
            regions: self.regions.len() as u64,
            now: self.wall(),
            slot_begins: rights.terms.begin(slot),
            slot_ends: rights.terms.end(slot),
        };
        self.loans.consider(rights.id, key, slot, standing);
    }
}
