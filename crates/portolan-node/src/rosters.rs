//! Which nodes of a region its neighbours hear: the leader proposes a roster without those that fell silent and with
//! those that came back. Decides from what the region's own nodes say of each other; a leader that hears nothing from a
//! region changes nothing there.
//!
//! Facts advise only: what makes a change safe is the epoch that Raft gives it, and the rules of `portolan_limits::region`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_config::Intent;
use portolan_model::{NodeName, RegionId, Timestamp};

/// Silence towards a node of the own region after which that node says so: four heartbeats, and a fifth of a second less
/// than what takes a peer for stale, so that a roster changes within about 1.2 s.
pub const ROSTER_SILENCE: Duration = Duration::from_millis(800);

/// How old a node's word of its neighbours may be: two publications.
pub const SPEAKS: Duration = Duration::from_secs(2);

/// How long a node must be heard again by all before it is listed: a listed node takes shards over, which costs more than
/// a moment without it.
const RETURN_HOLD: Duration = Duration::from_secs(2);

/// How long a proposal is given before it is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

/// What a node that speaks says: the nodes of its region that are silent.
pub type Words<'a> = BTreeMap<&'a NodeName, &'a [NodeName]>;

/// A roster to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The region.
    pub region: RegionId,
    /// The epoch it follows.
    pub expected: u64,
    /// The nodes to list.
    pub present: Vec<NodeName>,
}

/// Watches the rosters of all regions, on the leader.
#[derive(Debug, Default)]
pub struct RosterWatch {
    /// Nodes that are not listed and are heard by all, with the time since when.
    well_since: BTreeMap<NodeName, Timestamp>,
    /// By region: the epoch last proposed a change of, and when.
    proposed: BTreeMap<RegionId, (u64, Timestamp)>,
}

impl RosterWatch {
    /// What to propose at `now`, given what nodes say.
    pub fn propose(&mut self, intent: &Intent, words: &Words<'_>, now: Timestamp) -> Vec<Proposed> {
        let mut all = Vec::new();
        for (region, roster) in &intent.rosters {
            let of_region = intent.members.iter().filter(|(_, member)| member.region == *region);
            let members: BTreeSet<&NodeName> = of_region.map(|(name, _)| name).collect();
            let listed: BTreeSet<&NodeName> = roster.nodes.iter().collect();
            let mut present = without_silent(listed.clone(), words);
            for node in members.difference(&listed) {
                if !is_well(node, &present, words) {
                    self.well_since.remove(*node);
                } else if now.since(*self.well_since.entry((*node).clone()).or_insert(now)) >= RETURN_HOLD {
                    present.insert(node);
                }
            }
            let waits = self
                .proposed
                .get(region)
                .is_some_and(|(epoch, at)| *epoch == roster.epoch && now.since(*at) < PROPOSE_AGAIN);
            if present != listed && !waits {
                self.proposed.insert(region.clone(), (roster.epoch, now));
                let present = present.into_iter().cloned().collect();
                all.push(Proposed { region: region.clone(), expected: roster.epoch, present });
            }
        }
        all
    }
}

/// Takes away, one after the other, nodes that every other node that speaks finds silent, the last by name first: of two
/// that do not hear each other one stays.
fn without_silent<'a>(mut present: BTreeSet<&'a NodeName>, words: &Words<'_>) -> BTreeSet<&'a NodeName> {
    loop {
        let silent = |node: &&&NodeName| {
            let mut others = present.iter().filter(|other| *other != *node).filter_map(|other| words.get(*other));
            others.clone().next().is_some() && others.all(|silent| silent.contains(node))
        };
        let Some(gone) = present.iter().rev().find(silent).copied() else { return present };
        present.remove(gone);
    }
}

/// Whether a node speaks, hears all that are present, and is heard by all of them that speak.
fn is_well(node: &NodeName, present: &BTreeSet<&NodeName>, words: &Words<'_>) -> bool {
    let Some(silent) = words.get(node) else { return false };
    let heard_by_all = present.iter().filter_map(|other| words.get(*other)).all(|silent| !silent.contains(node));
    heard_by_all && !silent.iter().any(|other| present.contains(other))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_config::{Change, RegionMap, SourceFile};
    use portolan_model::{MemberId, WallTime};

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn intent(listed: &[&str]) -> Intent {
        let text =
            "version: 1\nregion: eu\ntitle: EU\ncoordinates: { latitude: 1, longitude: 1 }\naddresses: [127.10.1.1]\n";
        let file = SourceFile { path: "eu.yaml".into(), text: text.into() };
        let mut intent = Intent::new(Arc::new(RegionMap::parse(&[file]).expect("no faults")));
        let (region, at) = (RegionId::new("eu").expect("a name"), WallTime::default());
        for (member, name) in (1..).zip(["a", "b", "c"]) {
            let (node, region) = (node(name), region.clone());
            intent.apply(&Change::Join { node, region, member: MemberId(member) }.at(at));
        }
        let present = listed.iter().map(|name| node(name)).collect();
        intent.apply(&Change::Roster { region, expected: 3, present }.at(at));
        intent
    }

    /// `words` are nodes that speak, each with those it finds silent: `a` or `a:bc`.
    fn check(watch: &mut RosterWatch, listed: &[&str], words: &[&str], millis: u64, expected: Option<&[&str]>) {
        let parsed: Vec<(NodeName, Vec<NodeName>)> = words
            .iter()
            .map(|word| {
                let (name, silent) = word.split_once(':').unwrap_or((word, ""));
                (node(name), silent.chars().map(|name| node(&name.to_string())).collect())
            })
            .collect();
        let words = parsed.iter().map(|(name, silent)| (name, silent.as_slice())).collect();
        let proposed = watch.propose(&intent(listed), &words, Timestamp::ZERO + Duration::from_millis(millis));
        let present: Vec<Vec<&str>> =
            proposed.iter().map(|proposed| proposed.present.iter().map(NodeName::as_str).collect()).collect();
        assert_eq!(present, expected.map(<[&str]>::to_vec).into_iter().collect::<Vec<_>>(), "{listed:?} {parsed:?}");
    }

    #[test]
    fn a_node_that_all_its_neighbours_find_silent_goes() {
        let check = |words: &[&str], expected| check(&mut RosterWatch::default(), &["a", "b", "c"], words, 0, expected);
        check(&["a", "b", "c"], None);
        check(&["a:b", "c:b"], Some(&["a", "c"]));
        check(&["a:b", "b", "c:b"], Some(&["a", "c"]));
        check(&["a:b", "c"], None);
        check(&["a:bc"], Some(&["a"]));
        check(&[], None);
    }

    #[test]
    fn of_nodes_that_do_not_hear_each_other_one_stays() {
        let check = |listed: &[&str], words: &[&str], expected| {
            check(&mut RosterWatch::default(), listed, words, 0, expected);
        };
        check(&["a", "b"], &["a:b", "b:a"], Some(&["a"]));
        check(&["a", "b", "c"], &["a:bc", "b:ac", "c:ab"], Some(&["a"]));
    }

    #[test]
    fn a_node_that_came_back_is_listed_when_all_have_heard_it_for_two_seconds() {
        let mut watch = RosterWatch::default();
        let mut check = |words: &[&str], millis, expected| check(&mut watch, &["a", "c"], words, millis, expected);
        check(&["a", "b", "c"], 0, None);
        check(&["a", "b", "c:b"], 1000, None);
        check(&["a", "b:c", "c"], 1500, None);
        check(&["a", "b", "c"], 2000, None);
        check(&["a", "b", "c"], 3999, None);
        check(&["a", "b", "c"], 4000, Some(&["a", "b", "c"]));
        check(&["a", "b", "c"], 4999, None);
        check(&["a", "b", "c"], 5000, Some(&["a", "b", "c"]));
    }
}
