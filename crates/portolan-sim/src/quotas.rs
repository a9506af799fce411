//! Which quota of each limit was in force on some node, and until when. While a limit changes, the larger of both quotas
//! holds; and since regions lend of the next slot, it holds for one slot after the last node has learned of the change.

use std::collections::BTreeMap;

use portolan_config::LimitId;

/// Quotas by node, now and before.
#[derive(Debug, Default)]
pub struct Quotas {
    now: BTreeMap<usize, BTreeMap<LimitId, u64>>,
    /// Those that no longer hold on a node, with the end of their time there, newest last.
    before: BTreeMap<LimitId, Vec<(u64, i64)>>,
}

impl Quotas {
    /// Notes what is in force on a node from `at_ms` of the scenario on; nothing when its process ends.
    pub fn take(&mut self, host: usize, quotas: BTreeMap<LimitId, u64>, at_ms: i64) {
        let over = self.now.insert(host, quotas).unwrap_or_default();
        for (limit, quota) in over {
            if self.now[&host].get(&limit) != Some(&quota) {
                let before = self.before.entry(limit).or_default();
                before.retain(|(other, _)| *other != quota);
                before.push((quota, at_ms));
            }
        }
    }

    /// The largest quota of a limit that was in force somewhere at `since_ms` of the scenario or later.
    pub fn largest(&self, limit: LimitId, since_ms: i64) -> u64 {
        let now = self.now.values().filter_map(|quotas| quotas.get(&limit)).copied();
        let before = self.before.get(&limit).into_iter().flatten();
        let late = before.filter(|(_, until)| *until >= since_ms).map(|(quota, _)| *quota);
        now.chain(late).max().unwrap_or_default()
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
            quotas.take(host, quota.map(|quota| (limit, quota)).into_iter().collect(), at_ms);
            [0, 100, 200].map(|since| quotas.largest(limit, since))
        };
        assert_eq!(take(0, Some(90), 0), [90, 90, 90]);
        assert_eq!(take(1, Some(90), 0), [90, 90, 90]);
        assert_eq!(take(0, Some(60), 50), [90, 90, 90]);
        assert_eq!(take(1, Some(60), 150), [90, 90, 60]);
        assert_eq!(take(1, None, 160), [90, 90, 60]);
    }
}
