//! Changes of membership that stop half way.

use std::time::Duration;

use portolan_config::Applied;
use portolan_model::{MemberId, NodeName};
use portolan_raft::{Member, MemoryDisk, Request, Response};

use crate::world::{World, document, pass, regions, secs, simulate};

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
fn a_second_node_of_a_region_gets_no_vote() {
    simulate(1, || async move {
        let world = World::founded(1, 0).await;
        let leader = world.leader().await;
        let voters = world.raft(&leader).status().voters;
        let region = regions().ids().first().expect("there are regions").clone();
        let member = Member { name: NodeName::new("another").expect("a name"), region };
        let request = Request::Join { id: MemberId(7), member: member.clone(), regions: regions().ids().to_vec() };
        let answer = world.raft(&leader).handle(&member.name, request).await;
        assert!(matches!(&answer, Response::Unavailable { reason } if reason.contains("place of")), "{answer:?}");
        pass(secs(5)).await;
        assert_eq!(world.raft(&leader).status().voters, voters);
    });
}
