//! What the limits of this node wait for and no clock ends, for operators: nodes that may know what was spent, and requests
//! that have to end. Changes nothing.

use std::collections::BTreeMap;

use portolan_config::LimitId;
use portolan_model::NodeName;
use serde::{Deserialize, Serialize};

use super::Limits;
use crate::{definition::Kind, region::Shard, rights::Rights};

/// What the limits of a node wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Parts of the key space, of 256, that are this node's and of which it may not spend before it knows what others did.
    pub shards: usize,
    /// Nodes of the region that have not said what they know of them. One that is gone for good is waited for until another
    /// one can vouch that nobody spends any more.
    pub nodes: Vec<NodeName>,
    /// Limits of which more is in flight here than the split leaves that waits for this node.
    pub over: Vec<OverShare>,
}

/// A limit of concurrency whose requests have to end before its split can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverShare {
    /// The limit.
    pub limit: LimitId,
    /// Keys with more in flight than this region's smaller share.
    pub keys: u64,
    /// The most that is in flight of one of them.
    pub in_flight: u64,
    /// The smaller share.
    pub share: u64,
}

impl Limits {
    /// What these limits wait for.
    pub fn waits(&self) -> Waits {
        let ownership = &self.siblings.ownership;
        Waits { shards: ownership.sought().len(), nodes: ownership.silent(), over: self.over_shares() }
    }

    /// Whether of every limit whose split waits for this node's word no more is in flight here than that leaves. A node
    /// that says so before would let another region have what is in use.
    pub fn fits_shares(&self) -> bool {
        if self.waiting_splits().is_empty() || self.fenced {
            return true;
        }
        let owned = self.siblings.ownership.ranking().owned(self.siblings.me());
        owned.without(&self.siblings.flight.flows()).is_empty() && self.over_shares().is_empty()
    }

    fn over_shares(&self) -> Vec<OverShare> {
        let waiting = self.waiting_splits();
        if waiting.is_empty() || self.fenced {
            return Vec::new();
        }
        let limiter = self.limiter();
        let owned = self.siblings.ownership.ranking().owned(self.siblings.me());
        let mut over = BTreeMap::<LimitId, OverShare>::new();
        self.shared.table.for_each(|key, counter| {
            let limit = counter.limit();
            let of_split = waiting.contains(&limit) && owned.contains(Shard::of(key));
            let Some(rights) = limiter.rights(limit).filter(|_| of_split) else { return };
            let (share, in_flight) = (rights.terms.base(0), counter.used(0));
            if in_flight > share {
                let of_limit = over.entry(limit).or_insert(OverShare { limit, keys: 0, in_flight: 0, share });
                of_limit.keys += 1;
                of_limit.in_flight = of_limit.in_flight.max(in_flight);
            }
        });
        over.into_values().collect()
    }

    /// Limits of concurrency whose split waits for this node's word, in order.
    fn waiting_splits(&self) -> Vec<LimitId> {
        let waits = |rights: &&Rights| {
            let changes = self.books.get(&rights.id).is_some_and(super::book::Book::changes);
            rights.terms.kind == Kind::Concurrency && changes
        };
        self.limiter.all_rights().iter().filter(waits).map(|rights| rights.id).collect()
    }
}
