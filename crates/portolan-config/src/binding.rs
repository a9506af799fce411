//! Gives limits their numbers. A number names one set of counters for ever: it is kept while counts stay comparable, and
//! never given out twice (rights ledger, rule 3: a limit carries a generation and an id that is never reused).

use std::collections::BTreeMap;

use portolan_model::Name;
use serde::{Deserialize, Serialize};

use crate::Snapshot;

/// The number of a limit; never given to another limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitId(pub u32);

/// Which counters a limit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitBinding {
    /// Changes with the window or the key: spend is not comparable then.
    pub id: LimitId,
    /// Grows with every change of the count: spend carries over.
    pub generation: u32,
}

/// Numbers the limits of `new`: unchanged, same number and generation; another count, next generation, since spend
/// carries over; another window or key, or a new limit, a fresh number.
pub(crate) fn rebind(
    bound: &BTreeMap<Name, LimitBinding>,
    old: &Snapshot,
    new: &Snapshot,
    next: &mut LimitId,
) -> BTreeMap<Name, LimitBinding> {
    let mut bindings = BTreeMap::new();
    for (name, limit) in &new.limits {
        let before = old.limits.get(name).zip(bound.get(name));
        let binding = match before {
            Some((was, binding)) if was.key == limit.key && was.algorithm.comparable(&limit.algorithm) => {
                let generation = binding.generation + u32::from(was.algorithm != limit.algorithm);
                LimitBinding { id: binding.id, generation }
            }
            _ => {
                *next = LimitId(next.0 + 1);
                LimitBinding { id: *next, generation: 1 }
            }
        };
        bindings.insert(name.clone(), binding);
    }
    bindings
}
