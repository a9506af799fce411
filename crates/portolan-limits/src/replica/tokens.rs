//! Token buckets in the state machine: what was drawn from one, what of it is out, and what is lent and granted of it. A
//! bucket lends tokens that it holds and never its burst: tokens out are missing from the bucket until they are spent,
//! returned, or too old to be spent (rights ledger, rule 9.8). Decides nothing about requests.
//!
//! What another region lent for a second is published as rights of that second's slot, apart from the bucket.

use std::collections::BTreeMap;

use portolan_config::LimitId;
use portolan_model::{NodeName, WallTime};
use smallvec::SmallVec;

use super::{Limits, watch::Look};
use crate::{
    Cell,
    account::Balance,
    bucket::{Bucket, Level, to_fractions},
    counter::{Allowance, Counter},
    definition::{Buckets, Kind},
    forecast::with_margin,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    leaf::{Leaf, Out},
    lending::Party,
    limiter::Limiter,
    pace::bucket_time,
    peers::GOSSIP_INTERVAL,
    region::{
        Ask, Grant,
        sublease::grants::{Grants, Step},
    },
    rights::Rights,
};

/// A bucket when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drawn {
    /// What was gone of the burst, in the bucket's time; nothing before the first look.
    debt: Option<u64>,
    /// What of that time did not pay, for it was out.
    missing: u64,
    at: WallTime,
    /// Of this slot: used of what was borrowed for it.
    slot: u64,
    borrowed: u64,
}

impl Limits {
    /// Keeps the tokens that are missing from buckets whose definition changed: their levels are times, and a token of
    /// another rate takes another time. What was charged before is therefore not given back any more. Walks over the
    /// whole table, if there are such limits.
    pub(super) fn rescale_buckets(&self, before: &Limiter, changed: &[LimitId]) {
        let wall = self.wall();
        let both = |limit: LimitId| {
            let (old, new) = (before.rights(limit)?, self.limiter.rights(limit)?);
            let (Kind::Bucket(from), Kind::Bucket(to)) = (&old.terms.kind, &new.terms.kind) else { return None };
            let slot = new.terms.slot(wall);
            let (from, to) = (old.terms.bucket(from, slot, false), new.terms.bucket(to, slot, false));
            (from != to).then_some((new, from, to))
        };
        let rescaled: BTreeMap<LimitId, _> = changed.iter().filter_map(|&limit| Some((limit, both(limit)?))).collect();
        if rescaled.is_empty() {
            return;
        }
        let rescale = |rights: &Rights, counter: &Counter, from: &Bucket, to: &Bucket| {
            let at = bucket_time(&rights.terms, counter, wall);
            counter.change_level(|level| {
                let debt = to.debt_from(from, level.debt(at));
                level.was_asked().then(|| Level::new(level.reuse(), at, debt).settled())
            });
        };
        for (rights, from, to) in rescaled.values() {
            rescale(rights, &rights.live.overflow, from, to);
        }
        self.shared.table.for_each(|_, counter| {
            if let Some((rights, from, to)) = rescaled.get(&counter.limit()) {
                rescale(rights, counter, from, to);
            }
        });
    }

    /// Units drawn from a bucket and from what was borrowed since `drawn`, and the bucket as it stands. Too few of a bucket
    /// that was full in between: it is then not under pressure.
    pub(super) fn drawn(&self, rights: &Rights, key: Key, drawn: Drawn, look: Look) -> (u64, Drawn) {
        let Kind::Bucket(buckets) = &rights.terms.kind else { return (0, drawn) };
        let slot = rights.terms.slot(self.wall());
        let now = self.standing(rights, buckets, key, Drawn { slot, borrowed: look.used, ..drawn });
        let borrowed_before = if drawn.slot == slot { drawn.borrowed } else { 0 };
        let borrowed = look.used.saturating_sub(borrowed_before);
        let bucket = rights.terms.bucket(buckets, slot, false);
        let own = match (drawn.debt, now.debt) {
            (Some(before), Some(after)) => {
                let paid = to_fractions(now.at.since(drawn.at));
                // A bucket that is as full as it may be while tokens are out draws nothing by standing still.
                let undrawn = before.saturating_sub(paid).max(drawn.missing.min(now.missing));
                bucket.tokens(after.saturating_sub(undrawn))
            }
            _ => 0,
        };
        (own.saturating_add(borrowed), now)
    }

    /// Whether a bucket is half empty.
    pub(super) fn runs_low(&self, rights: &Rights, buckets: &Buckets, key: Key, counter: &Counter) -> bool {
        let purse = Leaf::new(&self.shared, rights, key, counter).purse(buckets);
        purse.debt.saturating_mul(2) >= purse.burst
    }

    /// Lets the path use what was borrowed for a slot.
    pub(super) fn publish_borrowed(&mut self, rights: &Rights, key: Key, slot: u64) {
        let gate = self.shared.gates.of(key);
        if gate.is_foreign() || !gate.barrier().opens(&rights.terms, slot, rights.terms.begin(slot)) {
            return;
        }
        let Some(account) = self.ledger.account(rights.id, key) else { return };
        let amount = self.borrowed(rights, account, slot);
        let pending = rights.borrowing(rights.live.mode());
        let published = self.shared.table.with(key, |counter| {
            // A pace that is over stands in the way.
            rights.lapse(counter, self.on_loan.contains_key(&(rights.id, key)), self.wall());
            counter.publish_borrowed(slot, Allowance { amount, pending })
        });
        self.siblings.relief |= published == Some(true);
    }

    /// Takes tokens out of the own bucket, to be lent for `slot`. What will be asked for here until the next round stays.
    pub(super) fn withdraw_tokens(&mut self, rights: &Rights, key: Key, slot: u64, amount: u64) -> u64 {
        let Kind::Bucket(buckets) = &rights.terms.kind else { return 0 };
        let out = self.out(rights, key, slot);
        let rate = self.watched.get(&(rights.id, key)).map_or(0.0, |watch| self.rate_of(rights, watch));
        let kept = with_margin(rate * GOSSIP_INTERVAL.as_secs_f64()).ceil() as u64;
        let taken = self.with_entry(rights, key, |counter| {
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            leaf.publish_out(buckets, out, 0);
            let spare = leaf.purse(buckets).tokens().saturating_sub(kept);
            leaf.take_tokens(buckets, amount.min(spare), out)
        });
        // What is lent is not asked for here.
        if let Some(watch) = self.watched.get(&(rights.id, key)).map(|watch| watch.drawn) {
            let drawn = self.standing(rights, buckets, key, watch);
            self.watched.entry((rights.id, key)).and_modify(|watch| watch.drawn = drawn);
        }
        taken.unwrap_or(0)
    }

    /// The regions as the lending rule sees them, for what is left of a slot or for one to come: a region has what its rate
    /// gives in that time, what it borrowed, and, as far as is known, what is in its bucket.
    pub(super) fn token_parties(
        &self,
        rights: &Rights,
        buckets: &Buckets,
        key: Key,
        slot: u64,
    ) -> SmallVec<[Party; 8]> {
        let current = rights.terms.slot(self.wall());
        let regions = self.regions.len();
        let account = self.ledger.account(rights.id, key);
        let balances = |slot| account.map(|account| account.balances(slot, regions)).unwrap_or_default();
        let (of_slot, now) = (balances(slot), balances(current));
        let left = self.left(rights, current);
        let (span, elapsed) = if slot == current { (left, (1.0 - left).max(0.0)) } else { (1.0, 0.0) };
        let per_unit = rights.terms.per_slot() / rights.terms.quota.max(1) as f64;
        let party = |at: usize| {
            let balance: Balance = of_slot.get(at).copied().unwrap_or_default();
            let told = now.get(at).is_some_and(|balance| balance.told);
            let rate = self.base(rights, slot, at) as f64 * per_unit;
            let base = rate.ceil() as u64;
            if at == self.me {
                let unspent = self.shared.table.with(key, |counter| {
                    let leaf = Leaf::new(&self.shared, rights, key, counter);
                    leaf.purse(buckets).tokens() + leaf.borrowed_left(slot)
                });
                let flow = self.watched.get(&(rights.id, key)).map_or(0.0, |watch| self.rate_of(rights, watch));
                let have = unspent.unwrap_or(0) as f64 + rate * span;
                return Party { need: with_margin(flow * span), later: 0.0, risen: true, have, base, reachable: true };
            }
            let reachable = self.reaches_owner(at, key);
            if !told {
                // A silent region has most of its bucket, and is asked for less than its rate.
                return Party { need: rate * span / 4.0, later: 0.0, risen: true, have: rate * span, base, reachable };
            }
            let demand = now.get(at).map(|balance| balance.demand.rate.units()).unwrap_or_default();
            let seen = (elapsed - self.view_age()).max(0.0);
            let unspent = (balance.borrowed as f64 - (balance.consumed as f64 - rate * seen).max(0.0)).max(0.0);
            let unseen = (demand - rate).max(0.0) * (elapsed - seen);
            Party {
                need: with_margin(demand * span),
                later: 0.0,
                risen: true,
                have: rate * span + (unspent - unseen).max(0.0),
                base,
                reachable,
            }
        };
        (0..regions).map(party).collect()
    }

    /// Answers an ask of another node from a bucket that is this node's, and from what was borrowed.
    pub(super) fn grant_tokens(
        &mut self,
        rights: &Rights,
        (from, life): (&NodeName, u64),
        ask: &Ask,
        step: Step,
    ) -> Option<Grant> {
        let Kind::Bucket(buckets) = &rights.terms.kind else { return None };
        let Cell { key, slot, .. } = ask.cell;
        let out = self.out(rights, key, slot);
        let current = rights.terms.slot(self.wall());
        let nodes = self.siblings.ownership.ranking().nodes().len();
        let asks = step.grants;
        let gives = asks && self.may_give(rights, key, slot, rights.terms.begin(slot)) && !self.stopped(rights, slot);
        let take = |counter: &Counter| {
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            leaf.publish_out(buckets, out, step.refund);
            if rights.lends_rate(current) {
                counter.count(current, 0, step.refund);
            }
            counter.restore(slot, step.borrowed);
            if !gives {
                return (0, 0, 0);
            }
            let (own, borrowed) = (leaf.purse(buckets).tokens(), leaf.borrowed_left(slot));
            let chunk = Grants::chunk(own.saturating_add(borrowed), nodes, ask, false, rights.terms.most_cost);
            let of_bucket = leaf.take_tokens(buckets, chunk, out);
            if rights.lends_rate(current) {
                counter.count(current, of_bucket, 0);
            }
            let passed_on = leaf.withdraw(slot, chunk - of_bucket, counter.borrowed(slot));
            let taken = of_bucket + passed_on;
            if taken < ask.waiting {
                // Demand of the region, be it asked of another node of it.
                counter.refuse(u32::try_from(ask.waiting - taken).unwrap_or(u32::MAX));
            }
            (taken, passed_on, own.saturating_add(borrowed).saturating_sub(taken))
        };
        let (taken, passed_on, left) = self.with_entry(rights, key, take)?;
        self.stats.granted += taken;
        if asks && (taken < ask.waiting || !self.watched.contains_key(&(rights.id, key))) {
            self.press(rights, key);
        }
        self.siblings.grants.pass_on(from, ask, passed_on);
        Some(self.siblings.grants.settle(from, ask, taken, left > 0 || !gives && life > 0, false))
    }

    /// What of a bucket is out: lent, or granted from it and not known to be spent, in slots that some clock may still be in.
    /// It can be spent by the end of the last of these, or of `slot`.
    fn out(&self, rights: &Rights, key: Key, slot: u64) -> Out {
        let current = rights.terms.slot(self.wall());
        let lasts = |slot: &u64| rights.terms.end(*slot) + CLOCK_TOLERANCE > self.wall();
        let mut out = Out { slot: slot.max(current), amount: 0 };
        for slot in (current.saturating_sub(1)..=current + 1).filter(lasts) {
            let lent = self.ledger.lent_out(rights.id, key, slot, self.me);
            let granted = self.siblings.grants.out(&Cell { limit: rights.id, key, slot });
            let amount = lent.saturating_add(granted);
            if amount > 0 {
                out = Out { slot: out.slot.max(slot), amount: out.amount.saturating_add(amount) };
            }
        }
        out
    }

    /// A bucket as it stands.
    fn standing(&self, rights: &Rights, buckets: &Buckets, key: Key, drawn: Drawn) -> Drawn {
        let purse = |counter: &Counter| Leaf::new(&self.shared, rights, key, counter).purse(buckets);
        let (debt, missing) = self.shared.table.with(key, purse).map(|purse| (purse.debt, purse.missing)).unzip();
        Drawn { debt, missing: missing.unwrap_or(0), at: self.wall(), ..drawn }
    }

    /// Says what is still out of a bucket that is attended to.
    pub(super) fn publish_out(&self, rights: &Rights, key: Key) {
        let Kind::Bucket(buckets) = &rights.terms.kind else { return };
        let out = self.out(rights, key, 0);
        self.shared.table.with(key, |counter| {
            if counter.out(out.slot).is_some() {
                Leaf::new(&self.shared, rights, key, counter).publish_out(buckets, out, 0);
            }
        });
    }
}
