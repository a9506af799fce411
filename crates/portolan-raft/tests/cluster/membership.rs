//! Changes of membership that stop half way.

use std::time::Duration;

use portolan_config::Applied;
use portolan_raft::MemoryDisk;

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
