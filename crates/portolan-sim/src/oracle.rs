//! Watches a run from outside: notes what was acknowledged and who leads, and says when something happened that must not.
//! Never asks the code under test for the very figure it checks. Limits are counted in `tally`.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{Hash128, MemberId, NodeName, Revision, Timestamp};
use tokio::time::Duration;

use crate::outcome::{Invariant, Violation};

/// Violations kept; a broken run repeats itself.
const MAX_VIOLATIONS: usize = 50;

/// How long a leader may be in office before the oracle has seen it.
const SEEN_WITHIN: Duration = Duration::from_millis(500);

/// Everything seen so far.
#[derive(Default)]
pub struct Oracle {
    /// By term, with the moment each was seen first.
    leaders: BTreeMap<u64, Vec<(MemberId, Timestamp)>>,
    documents: BTreeMap<Revision, Hash128>,
    revisions: BTreeMap<NodeName, Revision>,
    acknowledged: BTreeSet<Revision>,
    violations: Vec<Violation>,
}

impl Oracle {
    /// Notes that something must not have happened.
    pub fn violate(&mut self, at: Timestamp, invariant: Invariant, detail: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { at_ms: at.as_nanos() / 1_000_000, invariant, detail });
        }
    }

    /// Notes who leads a term. Returns whether this leader was not seen before in this term.
    pub fn lead(&mut self, term: u64, leader: MemberId, at: Timestamp) -> bool {
        let leaders = self.leaders.entry(term).or_default();
        if leaders.iter().any(|(known, _)| *known == leader) {
            return false;
        }
        // Both are read ten times in this span, so a smaller id that shows up later was elected after a greater one.
        let superseding = leaders.iter().find(|(known, since)| *known > leader && at.since(*since) > SEEN_WITHIN);
        let superseding = superseding.map(|(known, _)| *known);
        leaders.push((leader, at));
        if let Some(other) = superseding {
            let detail = format!("term {term} had the leader {other} when {leader} was elected");
            self.violate(at, Invariant::OneLeaderPerTerm, detail);
        }
        true
    }

    /// Changes of the leader after the first election.
    pub fn leader_changes(&self) -> u64 {
        let mut leaders: Vec<_> = self.leaders.values().flatten().map(|(leader, _)| leader).collect();
        leaders.dedup();
        leaders.len().saturating_sub(1) as u64
    }

    /// Notes that an operator was told that a revision is accepted.
    pub fn acknowledge(&mut self, revision: Revision) {
        self.acknowledged.insert(revision);
    }

    /// Notes the revision in force on a node.
    pub fn run_revision(&mut self, node: &NodeName, revision: Revision, at: Timestamp) {
        let before = self.revisions.insert(node.clone(), revision).unwrap_or_default();
        if revision < before {
            let detail = format!("`{node}` fell from revision {before} to {revision}");
            self.violate(at, Invariant::RevisionNeverFalls, detail);
        }
    }

    /// Notes the document of a revision as one node has it.
    pub fn hold_document(&mut self, node: &NodeName, revision: Revision, digest: Hash128, at: Timestamp) {
        let first = *self.documents.entry(revision).or_insert(digest);
        if first != digest {
            let detail = format!("revision {revision} of `{node}` is another document than elsewhere");
            self.violate(at, Invariant::OneDocumentPerRevision, detail);
        }
    }

    /// A node lost its disk and may begin anew.
    pub fn forget_revision(&mut self, node: &NodeName) {
        self.revisions.remove(node);
    }

    /// Holds a node's history against what was acknowledged up to the revision `known`. Older entries than the first kept
    /// one are forgotten by design.
    pub fn check_history(&mut self, node: &NodeName, history: &BTreeSet<Revision>, known: Revision, at: Timestamp) {
        let first = history.first().copied().unwrap_or(Revision(0));
        let mut due = self.acknowledged.range(first..).take_while(|revision| **revision <= known);
        if let Some(revision) = due.find(|revision| !history.contains(revision)).copied() {
            let detail = format!("revision {revision} was acknowledged, `{node}` does not know it");
            self.violate(at, Invariant::AcknowledgedRevisionKept, detail);
        }
    }

    /// All that went wrong, in order of time.
    pub fn into_violations(self) -> Vec<Violation> {
        self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_nanos(5_000_000);

    fn broken(watch: impl FnOnce(&mut Oracle)) -> Vec<Invariant> {
        let mut oracle = Oracle::default();
        watch(&mut oracle);
        oracle.into_violations().into_iter().map(|violation| violation.invariant).collect()
    }

    #[test]
    fn a_second_leader_a_fallen_and_a_forgotten_revision_are_found() {
        let node = NodeName::new("a-1").expect("a name");
        let check = |elections: &[(u64, u64, u64)], expected: &[Invariant]| {
            let elect = |oracle: &mut Oracle, (term, leader, seconds)| {
                oracle.lead(term, MemberId(leader), AT + Duration::from_secs(seconds));
            };
            let found = broken(|oracle| elections.iter().for_each(|election| elect(oracle, *election)));
            assert_eq!(found, expected, "{elections:?}");
        };
        check(&[(1, 5, 0), (2, 6, 1), (1, 5, 2), (2, 6, 3)], &[]);
        check(&[(1, 5, 0), (1, 6, 5), (1, 5, 5)], &[]);
        check(&[(1, 6, 0), (1, 5, 0)], &[]);
        check(&[(1, 6, 0), (1, 5, 5)], &[Invariant::OneLeaderPerTerm]);
        let documents = |oracle: &mut Oracle| {
            [1, 1, 2].into_iter().for_each(|digest| oracle.hold_document(&node, Revision(1), Hash128(digest), AT));
        };
        assert_eq!(broken(documents), [Invariant::OneDocumentPerRevision]);
        let fall =
            |oracle: &mut Oracle| [2, 3, 2].into_iter().for_each(|r| oracle.run_revision(&node, Revision(r), AT));
        assert_eq!(broken(fall), [Invariant::RevisionNeverFalls]);
        let check = |history: &[u64], known: u64, expected: &[Invariant]| {
            let history = history.iter().copied().map(Revision).collect();
            let found = broken(|oracle| {
                [1, 2, 4].into_iter().for_each(|revision| oracle.acknowledge(Revision(revision)));
                oracle.check_history(&node, &history, Revision(known), AT);
            });
            assert_eq!(found, expected, "{history:?}");
        };
        check(&[1, 2, 3, 4], 9, &[]);
        check(&[2, 3, 4, 5], 9, &[]);
        check(&[1, 3, 4], 9, &[Invariant::AcknowledgedRevisionKept]);
        check(&[1, 2], 9, &[Invariant::AcknowledgedRevisionKept]);
        check(&[], 9, &[Invariant::AcknowledgedRevisionKept]);
        // One that is cut off has come as far as it has, and lost nothing on its way.
        check(&[1, 2, 3], 3, &[]);
        check(&[1, 3], 3, &[Invariant::AcknowledgedRevisionKept]);
    }
}
