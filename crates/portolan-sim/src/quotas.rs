//! Which quota of each limit was in force on some node, and until when. While a limit changes, the larger of both quotas
//! holds; and since regions lend of the next slot, it holds for one slot after the last node has learned of the change. The
//! same of what a token bucket holds.

use std::collections::BTreeMap;

use portolan_config::{Algorithm, LimitId};

/// What a limit counts, and how much there can be of it at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Units per period.
    pub count: u64,
    /// Units that a token bucket holds; of others, the same as the count.
    pub burst: u64,
}

impl Quota {
    /// Of a limit with this algorithm.
    pub fn of(algorithm: &Algorithm) -> Self {
        let count = algorithm.quota();
        Self { count, burst: if let Algorithm::TokenBucket { burst, .. } = algorithm { *burst } else { count } }
    }
}

/// Quotas by node, now and before.
#[derive(Debug, Default)]
pub struct Quotas {
    now: BTreeMap<usize, BTreeMap<LimitId, Quota>>,
    /// Those that no longer hold on a node, with the end of their time there, newest last.
    before: BTreeMap<LimitId, Vec<(Quota, i64)>>,
}

impl Quotas {
    /// Notes what is in force on a node from `at_ms` of the scenario on; nothing when its process ends.
    pub fn take(&mut self, host: usize, quotas: BTreeMap<LimitId, Quota>, at_ms: i64) {
        let over = self.now.insert(host, quotas).unwrap_or_default();
        for (limit, quota) in over {
            if self.now[&host].get(&limit) != Some(&quota) {
                let before = self.before.entry(limit).or_default();
                before.retain(|(other, _)| *other != quota);
                before.push((quota, at_ms));
            }
        }
    }

    /// The largest count and the largest burst of a limit that were in force somewhere at `since_ms` of the scenario or later.
    pub fn largest(&self, limit: LimitId, since_ms: i64) -> Quota {
        let now = self.now.values().filter_map(|quotas| quotas.get(&limit)).copied();
        let before = self.before.get(&limit).into_iter().flatten();
        let late = before.filter(|(_, until)| *until >= since_ms).map(|(quota, _)| *quota);
        let larger = |a: Quota, b: Quota| Quota { count: a.count.max(b.count), burst: a.burst.max(b.burst) };
        now.chain(late).reduce(larger).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lowered_quota_holds_once_every_node_has_learned_of_it() {
        let limit = LimitId(1);
        let mut quotas = Quotas::default();
        let mut take = |host, quota: Option<u64>, at_ms| {
            let quota = quota.map(|count| (limit, Quota { count, burst: 1000 - count }));
            quotas.take(host, quota.into_iter().collect(), at_ms);
            [0, 100, 200].map(|since| quotas.largest(limit, since).count)
        };
        assert_eq!(take(0, Some(90), 0), [90, 90, 90]);
        assert_eq!(take(1, Some(90), 0), [90, 90, 90]);
        assert_eq!(take(0, Some(60), 50), [90, 90, 90]);
        assert_eq!(take(1, Some(60), 150), [90, 90, 60]);
        assert_eq!(take(1, None, 160), [90, 90, 60]);
        // Each by itself: the smaller count had the larger burst.
        assert_eq!([100, 200].map(|since| quotas.largest(limit, since).burst), [940, 940]);
    }
}
