//! What the state machine knows of one limit beside the definition that the request path reads: every region's base
//! share per slot, and what was counted. Pure: slots are given.

use std::collections::BTreeMap;

use portolan_config::SharePlan;
use portolan_model::{Ratio, WallTime};

use crate::{
    definition::{Definition, KEPT_OF_LENT, Terms, can_be_lent},
    replica::report::Tally,
    shares::{has_share, shares_of_slot},
};

/// One limit.
#[derive(Debug)]
pub(crate) struct Book {
    pub overdraft: Ratio,
    /// Whether a lender outside the regions holds most of the quota. Then the regions keep their shares to themselves.
    pub lent: bool,
    /// Whether the lender can be counted on.
    pub lender_reachable: bool,
    /// Whether regions lend each other units of it.
    pub lends: bool,
    pub tally: Tally,
    plan: SharePlan,
    /// What the regions split between them.
    split: u64,
    /// Base shares in the order of the scope, of the current slot and those around it.
    bases: BTreeMap<u64, Vec<u64>>,
    current: u64,
}

impl Book {
    pub fn new(definition: &Definition, terms: &Terms) -> Self {
        Self {
            overdraft: definition.overdraft,
            lent: definition.lent,
            lender_reachable: true,
            lends: lends(definition),
            tally: Tally::default(),
            plan: definition.shares.clone(),
            split: if definition.lent { KEPT_OF_LENT.of(terms.quota) } else { terms.quota },
            bases: BTreeMap::new(),
            current: 0,
        }
    }

    /// Cuts the slots around `current`. Costs nothing while that is the same.
    pub fn turn_to(&mut self, current: u64, terms: &Terms, regions: usize) {
        if self.current == current && !self.bases.is_empty() {
            return;
        }
        self.current = current;
        let kept = current.saturating_sub(1)..=current + 2;
        self.bases.retain(|slot, _| kept.contains(slot));
        for slot in kept {
            let cut = || shares_of_slot(self.split, &self.plan, terms.begin(slot), regions);
            self.bases.entry(slot).or_insert_with(cut);
        }
    }

    /// Whether another split is to follow the one in force.
    pub const fn changes(&self) -> bool {
        self.plan.change.is_some()
    }

    /// Every region's base share of a slot; nothing for slots that are neither current nor next to it.
    pub fn bases(&self, slot: u64) -> &[u64] {
        self.bases.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Whether a region has a part in a slot that begins at `begin`.
    pub fn has_share(&self, begin: WallTime, region: usize, regions: usize) -> bool {
        has_share(&self.plan, begin, region, regions)
    }

    /// What the regions split between them; a lender outside holds the rest of the quota.
    pub const fn split(&self) -> u64 {
        self.split
    }

    /// Goes on from the generation before.
    pub fn carry_over(&mut self, before: &Self) {
        (self.tally, self.lender_reachable) = (before.tally, before.lender_reachable);
    }

    /// Counts a slot of a key that is dropped: no more of it will be heard.
    pub fn close_slot(&mut self, overshoot: u64) {
        if overshoot > 0 {
            self.tally.overshoot += overshoot;
            self.tally.last_overshoot = overshoot;
        }
    }

    /// What a region may be overdrawn by in a slot.
    pub fn most_overdraft(&self, base: u64) -> u64 {
        if self.overdraft.parts() == 0 { 0 } else { self.overdraft.of(base).max(1) }
    }
}

fn lends(definition: &Definition) -> bool {
    can_be_lent(&definition.algorithm) && !definition.lent && !definition.shadow
}
