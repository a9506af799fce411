//! Changes of membership that stop half way.

use std::time::Duration;

use portolan_config::{Applied, Change};
use portolan_model::{NodeName, RegionId, WallTime};
use portolan_raft::{MemoryDisk, Role};

use crate::world::{World, document, pass, secs, simulate};

#[test]
fn a_change_of_membership_that_a_crash_interrupts_is_finished_and_the_lost_member_loses_its_vote() {
    for seed in 1..=3 {
        simulate(seed, || async move {
            let mut world = World::founded(seed, 0).await;
            let leader = world.leader().await;
            let [lost, other] = world.followers(&leader).try_into().expect("two followers");
            world.crash(&lost).await;
            world.replace_disk(&lost, MemoryDisk::new());
            world.start(&lost).await;
            // The first step reaches the follower; the leader falls before it takes the second.
            while !world.raft(&other).status().changing {
                pass(Duration::from_millis(1)).await;
            }
            world.crash(&leader).await;
            pass(secs(3)).await;
            world.start(&leader).await;
            world.leader().await;
            let finished = |world: &World| {
                *world.raft(&lost).joined().borrow() == Some(2)
                    && world.names().iter().all(|name| !world.raft(name).status().changing)
            };
            world.until(secs(20), "the change is finished", finished).await;
            // With the lost member's vote there would be no majority now.
            world.crash(&other).await;
            let via = world.leader().await;
            let outcome = world.raft(&via).propose(document(1, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}\n{}", world.describe());
        });
    }
}

#[test]
fn a_wiped_voter_that_falls_while_it_is_admitted_votes_under_its_new_id_and_the_lost_id_does_not() {
    for seed in 1..=3 {
        simulate(seed, || async move {
            let mut world = World::founded(seed, 0).await;
            let leader = world.leader().await;
            let [lost, other] = world.followers(&leader).try_into().expect("two followers");
            world.crash(&lost).await;
            world.replace_disk(&lost, MemoryDisk::new());
            let before = world.raft(&leader).status().last_log;
            world.start(&lost).await;
            // The leader has begun to make it a learner, and waits in vain for it to catch up.
            while world.raft(&leader).status().last_log == before {
                pass(Duration::from_millis(1)).await;
            }
            world.crash(&lost).await;
            pass(secs(10)).await;
            world.start(&lost).await;
            let votes = |world: &World| {
                let raft = world.raft(&lost);
                *raft.joined().borrow() == Some(2) && raft.status().role == Role::Follower
            };
            world.until(secs(20), "the new id votes", votes).await;
            // With the lost id's vote there would be no majority.
            world.crash(&other).await;
            let via = world.leader().await;
            let outcome = world.raft(&via).propose(document(1, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}\n{}", world.describe());
        });
    }
}

/// Names of the voters, as the leader has them.
async fn voters(world: &World) -> Vec<String> {
    let leader = world.leader().await;
    world.raft(&leader).status().voters.iter().map(ToString::to_string).collect()
}

#[test]
fn one_node_of_each_region_votes_and_the_others_follow() {
    simulate(1, || async move {
        let world = World::with_nodes(1, 0, 3).found().await;
        let leader = world.leader().await;
        world.until(secs(5), "three regions vote", |world| world.raft(&leader).status().voters.len() == 3).await;
        let voters = voters(&world).await;
        let regions: Vec<&str> =
            voters.iter().filter_map(|name| name.rsplit_once('-')).map(|(region, _)| region).collect();
        assert_eq!(regions, ["ap-southeast", "eu-west", "us-east"], "{voters:?}");
        let learner = world.names().into_iter().find(|name| !voters.contains(&name.to_string())).expect("a learner");
        assert_eq!(world.raft(&learner).status().role, Role::Learner);
        let outcome = world.raft(&learner).propose(document(1, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
        world.until(secs(5), "learners have it too", |world| world.converged(1)).await;
        let intent = world.raft(&learner).intent().borrow().clone();
        assert!(
            intent.rosters.values().all(|roster| roster.nodes.len() == 3 && roster.epoch == 3),
            "{:?}",
            intent.rosters
        );
    });
}

#[test]
fn the_vote_of_a_node_that_its_region_no_longer_lists_goes_to_a_neighbour() {
    simulate(2, || async move {
        let mut world = World::with_nodes(2, 0, 2).found().await;
        let leader = world.leader().await;
        world.until(secs(5), "three regions vote", |world| world.raft(&leader).status().voters.len() == 3).await;
        let gone = world.raft(&leader).status().voters.into_iter().find(|name| *name != leader).expect("a follower");
        world.crash(&gone).await;
        let (region, number) = gone.as_str().rsplit_once('-').expect("region and number");
        let heir = NodeName::new(&format!("{region}-{}", if number == "1" { 2 } else { 1 })).expect("a name");
        let command = Change::Roster {
            region: RegionId::new(region).expect("a region"),
            expected: 2,
            present: vec![heir.clone()],
        }
        .at(WallTime::default());
        assert_eq!(world.raft(&leader).propose(command).await, Ok(Applied::Listed { epoch: 3 }));
        let moved = |world: &World| {
            let voters = world.raft(&leader).status().voters;
            voters.len() == 3 && voters.contains(&heir) && !voters.contains(&gone)
        };
        world.until(secs(10), "the neighbour votes", moved).await;
        world.start(&gone).await;
        let back = |world: &World| world.raft(&gone).status().role == Role::Learner && world.converged(0);
        world.until(secs(10), "it follows as a learner", back).await;
        assert_eq!(*world.raft(&gone).joined().borrow(), Some(1));
    });
}

#[test]
fn who_gave_its_vote_up_follows_when_it_returns_though_the_change_found_no_majority_for_long() {
    simulate(3, || async move {
        let mut world = World::with_nodes(3, 0, 2).found().await;
        let leader = world.leader().await;
        world.until(secs(5), "three regions vote", |world| world.raft(&leader).status().voters.len() == 3).await;
        let others = world.raft(&leader).status().voters.into_iter().filter(|name| *name != leader);
        let [gone, other] = others.collect::<Vec<_>>().try_into().expect("two followers");
        world.crash(&gone).await;
        let (region, number) = gone.as_str().rsplit_once('-').expect("region and number");
        let heir = NodeName::new(&format!("{region}-{}", if number == "1" { 2 } else { 1 })).expect("a name");
        let region = RegionId::new(region).expect("a region");
        let command = Change::Roster { region, expected: 2, present: vec![heir] }.at(WallTime::default());
        assert_eq!(world.raft(&leader).propose(command).await, Ok(Applied::Listed { epoch: 3 }));
        while !world.raft(&leader).status().changing {
            pass(Duration::from_millis(1)).await;
        }
        world.crash(&other).await;
        pass(secs(12)).await;
        world.start(&gone).await;
        pass(secs(5)).await;
        world.start(&other).await;
        let outcome = world.raft(&leader).propose(document(1, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}\n{}", world.describe());
        let back = |world: &World| world.raft(&gone).status().role == Role::Learner && world.converged(1);
        world.until(secs(10), "it follows as a learner", back).await;
    });
}
