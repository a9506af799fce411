//! Full disks: proposals are refused at once and with the reason, Raft goes on, and space heals.

use std::time::Duration;

use portolan_config::Applied;
use portolan_raft::ProposeError;
use tokio::time::Instant;

use crate::world::{World, document, pass, secs, simulate};

#[test]
fn a_full_disk_of_the_leader_refuses_proposals_at_once_and_keeps_its_leadership() {
    simulate(1, || async {
        let world = World::founded(1, 0).await;
        let leader = world.leader().await;
        let follower = world.followers(&leader)[0].clone();
        world.disk(&leader).fill();
        for via in [&leader, &follower] {
            let asked = Instant::now();
            let outcome = world.raft(via).propose(document(1, 0)).await;
            let refused = matches!(&outcome, Err(ProposeError::DiskFull { node, reason })
                if *node == leader && reason.contains("left in the data directory"));
            assert!(refused, "{outcome:?}");
            assert!(asked.elapsed() < Duration::from_millis(300), "{:?}", asked.elapsed());
        }
        assert!(world.raft(&follower).status().disk_full.is_none());
        pass(secs(20)).await;
        assert_eq!(world.live_leader(), Some(leader.clone()));
        world.disk(&leader).free();
        let outcome = world.raft(&follower).propose(document(2, 0)).await;
        assert_eq!(outcome, Ok(Applied::Accepted { revision: portolan_model::Revision(1) }));
    });
}

#[test]
fn a_follower_with_a_full_disk_hears_its_leader_and_catches_up_when_there_is_space() {
    simulate(2, || async {
        let world = World::founded(2, 0).await;
        let leader = world.leader().await;
        let followers = world.followers(&leader);
        world.disk(&followers[0]).fill();
        let outcome = world.raft(&followers[0]).propose(document(1, 0)).await;
        assert!(matches!(outcome, Err(ProposeError::DiskFull { .. })), "{outcome:?}");
        for number in 1..=20 {
            let outcome = world.raft(&followers[1]).propose(document(number, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
        }
        pass(secs(10)).await;
        assert_eq!(world.revision(&followers[0]), 0);
        assert!(world.raft(&followers[0]).status().leader_is_live);
        assert!(world.raft(&followers[0]).store().disk_full());
        world.disk(&followers[0]).free();
        world.until(secs(3), "the follower has caught up", |world| world.converged(20)).await;
        assert_eq!(world.live_leader(), Some(leader));
    });
}

#[test]
fn a_write_that_meets_a_full_disk_half_way_waits_and_kills_nothing() {
    simulate(3, || async {
        let mut world = World::founded(3, 0).await;
        let leader = world.leader().await;
        // Fills between the check and the write: a fresh leader must save a vote and an entry.
        for name in world.followers(&leader) {
            world.disk(&name).fill();
        }
        world.crash(&leader).await;
        pass(secs(20)).await;
        assert_eq!(world.live_leader(), None);
        for name in world.followers(&leader) {
            world.disk(&name).free();
        }
        world.leader().await;
        world.start(&leader).await;
        let outcome = world.raft(&leader).propose(document(1, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}\n{}", world.describe());
        world.until(secs(3), "all agree", |world| world.converged(1)).await;
    });
}
