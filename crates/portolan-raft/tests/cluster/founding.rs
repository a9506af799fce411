//! How a cluster begins, restarts, and refuses to begin twice.

use portolan_config::Applied;
use portolan_raft::{MemoryDisk, Role};

use crate::world::{World, document, pass, secs, simulate};

#[test]
fn a_cluster_is_founded_within_seconds_and_every_region_starts_as_its_first_incarnation() {
    // A lost packet costs its sender a whole deadline here; the real mesh sends it again.
    for (seed, loss_percent, most) in [(1, 0, 2), (2, 0, 2), (3, 2, 10), (4, 2, 10), (5, 2, 10)] {
        simulate(seed, || async move {
            let mut world = World::new(seed, loss_percent);
            world.start_all().await;
            let joined =
                |world: &World| world.names().iter().all(|name| *world.raft(name).joined().borrow() == Some(1));
            world.until(secs(most), "all have joined", joined).await;
            let status = world.raft(&world.leader().await).status();
            assert_eq!(status.voters, world.names());
        });
    }
}

#[test]
fn nobody_founds_a_cluster_while_a_bootstrap_node_is_silent() {
    simulate(1, || async {
        let mut world = World::new(1, 0);
        let names = world.names();
        world.start(&names[0]).await;
        world.start(&names[1]).await;
        pass(secs(30)).await;
        assert_eq!(world.raft(&names[0]).status().role, Role::Learner);
        world.start(&names[2]).await;
        world.leader().await;
    });
}

#[test]
fn a_restarted_fleet_elects_again_and_keeps_its_revisions() {
    simulate(2, || async {
        let mut world = World::founded(2, 2).await;
        let leader = world.leader().await;
        for number in 1..=5 {
            let outcome = world.raft(&leader).propose(document(number, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
        }
        for name in world.names() {
            world.crash(&name).await;
        }
        // Alone, a node boots to its last good revision.
        let names = world.names();
        world.start(&leader).await;
        assert_eq!(world.revision(&leader), 5);
        assert!(!world.raft(&leader).status().leader_is_live);
        for name in names.iter().filter(|name| **name != leader) {
            world.start(name).await;
        }
        let leader = world.leader().await;
        let outcome = world.raft(&leader).propose(document(6, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { revision }) if revision.0 == 6), "{outcome:?}");
    });
}

#[test]
fn a_wiped_founder_joins_its_old_cluster_in_place_of_its_old_member() {
    simulate(3, || async {
        let mut world = World::founded(3, 0).await;
        let founder = world.names()[0].clone();
        let old = world.raft(&founder).member();
        world.crash(&founder).await;
        world.replace_disk(&founder, MemoryDisk::new());
        world.start(&founder).await;
        let rejoined = |world: &World| *world.raft(&founder).joined().borrow() == Some(2);
        world.until(secs(20), "the founder has joined again", rejoined).await;
        assert_ne!(world.raft(&founder).member(), old);
        let status = world.raft(&world.leader().await).status();
        assert_eq!(status.voters, world.names());
    });
}
