//! Which members vote. A vote costs a round trip's wait and buys the loss of one more place, so few vote, in as many
//! regions as there are; every other node is a learner, which gets the same entries and decides nothing.
//!
//! Rejected: a vote for each node. With three nodes per region the loss of one region would take a third of the votes,
//! as it does with one, while every commit would wait for more answers.

use std::collections::{BTreeMap, BTreeSet};

use portolan_config::{MemberRecord, Roster};
use portolan_model::{NodeName, RegionId};

use crate::types::Member;

/// The seats of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seats {
    of_region: usize,
    of_cluster: usize,
}

impl Seats {
    /// For a cluster of so many regions. With fewer than three regions some region has several votes: then at least the
    /// loss of a node is survived.
    pub fn of(regions: usize) -> Self {
        match regions {
            0 | 1 => Self { of_region: 3, of_cluster: 3 },
            2 => Self { of_region: 2, of_cluster: 3 },
            _ => Self { of_region: 1, of_cluster: 5 },
        }
    }

    /// Whether one more node of `region` may vote beside `voters`.
    pub fn is_free<'a>(self, region: &RegionId, voters: impl Iterator<Item = &'a Member>) -> bool {
        let (mut all, mut of_region) = (0, 0);
        for voter in voters {
            all += 1;
            of_region += usize::from(voter.region == *region);
        }
        all < self.of_cluster && of_region < self.of_region
    }

    /// The first of `members` that can vote together.
    pub fn fill(self, members: impl IntoIterator<Item = (u64, Member)>) -> BTreeMap<u64, Member> {
        let mut voters = BTreeMap::new();
        for (id, member) in members {
            if self.is_free(&member.region, voters.values()) {
                voters.insert(id, member);
            }
        }
        voters
    }

    /// The voters to have in place of `voters`, if one should go or come. A seat is held by an id, not by a name: an id
    /// that its node has lost gives its vote to the id that `present` names, or to a neighbour. So does a node that its
    /// region no longer lists. A free seat is taken. One change at a time; a region of which no other node is left keeps
    /// its vote.
    pub fn next(
        self,
        voters: &BTreeMap<u64, Member>,
        learners: &BTreeMap<u64, Member>,
        present: &BTreeMap<NodeName, MemberRecord>,
        rosters: &BTreeMap<RegionId, Roster>,
    ) -> Option<BTreeSet<u64>> {
        let lost = |id: u64, member: &Member| present.get(&member.name).is_some_and(|record| record.member.0 != id);
        let listed = |member: &Member| rosters.get(&member.region).is_some_and(|roster| roster.contains(&member.name));
        let candidates = || learners.iter().filter(|(id, member)| listed(member) && !lost(**id, member));
        let with = |gone: Option<u64>, id: u64| {
            voters.keys().copied().filter(|voter| Some(*voter) != gone).chain([id]).collect::<BTreeSet<_>>()
        };
        if let Some((id, _)) = candidates().find(|(_, member)| self.is_free(&member.region, voters.values())) {
            return Some(with(None, *id));
        }
        voters.iter().filter(|(id, voter)| lost(**id, voter) || !listed(voter)).find_map(|(gone, voter)| {
            let neighbour = || candidates().find(|(_, member)| member.region == voter.region);
            let heir = candidates().find(|(_, member)| member.name == voter.name).or_else(neighbour)?;
            Some(with(Some(*gone), *heir.0))
        })
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::MemberId;

    use super::*;

    fn members(names: &[&str]) -> BTreeMap<u64, Member> {
        let member = |name: &str| {
            let (region, _) = name.rsplit_once('-').expect("region and number");
            Member { name: NodeName::new(name).expect("a name"), region: RegionId::new(region).expect("a name") }
        };
        names.iter().enumerate().map(|(id, name)| (id as u64 + 100, member(name))).collect()
    }

    fn names(members: &BTreeMap<u64, Member>, ids: impl IntoIterator<Item = u64>) -> Vec<&str> {
        ids.into_iter().map(|id| members[&id].name.as_str()).collect()
    }

    #[test]
    fn voters_stand_in_distinct_regions_as_far_as_there_are_enough() {
        let check = |regions: usize, all: &[&str], expected: &[&str]| {
            let all = members(all);
            let voters = Seats::of(regions).fill(all.clone());
            assert_eq!(names(&all, voters.into_keys()), expected);
        };
        check(1, &["a-1", "a-2", "a-3", "a-4"], &["a-1", "a-2", "a-3"]);
        check(2, &["a-1", "a-2", "a-3", "b-1", "b-2"], &["a-1", "a-2", "b-1"]);
        check(3, &["a-1", "a-2", "b-1", "b-2", "c-1"], &["a-1", "b-1", "c-1"]);
        check(7, &["a-1", "b-1", "c-1", "d-1", "e-1", "f-1"], &["a-1", "b-1", "c-1", "d-1", "e-1"]);
    }

    #[test]
    fn a_node_that_is_gone_gives_its_vote_to_its_neighbour_and_nobody_else_moves() {
        let all = members(&["a-1", "b-1", "c-1", "a-2", "b-2"]);
        let check = |present: &[&str], expected: Option<&[&str]>| {
            let listed = |region: &str| {
                let nodes = present.iter().filter(|name| name.starts_with(region));
                let nodes = nodes.map(|name| NodeName::new(name).expect("a name")).collect();
                (RegionId::new(region).expect("a name"), Roster { epoch: 1, nodes })
            };
            let rosters = ["a", "b", "c"].map(listed).into();
            let (voters, learners) = all.clone().into_iter().partition(|(id, _)| *id < 103);
            let next = Seats::of(3).next(&voters, &learners, &BTreeMap::new(), &rosters);
            assert_eq!(next.map(|ids| names(&all, ids)), expected.map(<[&str]>::to_vec), "{present:?}");
        };
        check(&["a-1", "b-1", "c-1", "a-2", "b-2"], None);
        check(&["b-1", "c-1", "a-2", "b-2"], Some(&["b-1", "c-1", "a-2"]));
        check(&["b-1", "c-1", "b-2"], None);
        check(&["a-1", "b-1", "a-2", "b-2"], None);
    }

    #[test]
    fn an_id_that_its_node_has_lost_gives_its_vote_to_the_nodes_present_id() {
        // 100 is what a-1 was before its disk was wiped, 103 and 104 are what it became, one after the other.
        let all = members(&["a-1", "b-1", "c-1", "a-1", "a-1", "a-2"]);
        let check = |present: u64, listed: &[&str], expected: Option<[u64; 3]>| {
            let name = NodeName::new("a-1").expect("a name");
            let region = RegionId::new("a").expect("a name");
            let record = MemberRecord { member: MemberId(present), region: region.clone(), incarnation: 2 };
            let nodes = listed.iter().map(|name| NodeName::new(name).expect("a name")).collect();
            let rosters = [(region, Roster { epoch: 1, nodes })].into();
            let (voters, learners) = all.clone().into_iter().partition(|(id, _)| *id < 103);
            let next = Seats::of(3).next(&voters, &learners, &[(name, record)].into(), &rosters);
            assert_eq!(next, expected.map(BTreeSet::from), "{present} {listed:?}");
        };
        check(104, &["a-1", "a-2"], Some([101, 102, 104]));
        check(104, &["a-2"], Some([101, 102, 105]));
        check(104, &[], None);
        check(100, &["a-1", "a-2"], None);
    }
}
