//! Rotten files: named, set aside, and made up for.

use portolan_config::Applied;
use portolan_raft::{DiskFile, Role};

use crate::world::{World, document, pass, secs, simulate};

async fn apply(world: &World, first: u64, count: u64) {
    let leader = world.leader().await;
    for number in first..first + count {
        let outcome = world.raft(&leader).propose(document(number, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
    }
}

#[test]
fn a_node_with_a_damaged_log_comes_back_as_another_member() {
    for seed in 1..=4 {
        simulate(seed, || async move {
            let mut world = World::founded(seed, 2).await;
            apply(&world, 1, 10).await;
            let leader = world.leader().await;
            let broken = world.followers(&leader)[seed as usize % 2].clone();
            let old = world.raft(&broken).member();
            world.crash(&broken).await;
            // Every page that is in use changes a bit.
            world.disk(&broken).damage(DiskFile::Log, |bytes| {
                for at in (0..bytes.len()).step_by(512).skip(seed as usize) {
                    bytes[at] ^= 0x10;
                }
            });
            apply(&world, 100, 5).await;
            world.start(&broken).await;
            assert_eq!(world.disk(&broken).damaged_files(), ["raft.redb.damaged-1"]);
            let damage = world.raft(&broken).store().damage().to_vec();
            assert_eq!((damage.len(), damage[0].file), (1, DiskFile::Log));
            assert_ne!(world.raft(&broken).member(), old);
            let rejoined = |world: &World| *world.raft(&broken).joined().borrow() == Some(2);
            world.until(secs(20), "the node has joined again", rejoined).await;
            assert_eq!(world.revision(&broken), 15);
            // It counts: with it and one other node there is a majority.
            let gone = world.followers(&world.leader().await).into_iter().find(|name| *name != broken);
            world.crash(&gone.expect("two followers")).await;
            apply(&world, 200, 3).await;
        });
    }
}

#[test]
fn a_node_that_comes_back_after_the_log_was_purged_gets_a_snapshot() {
    simulate(7, || async {
        let mut world = World::founded(7, 2).await;
        let leader = world.leader().await;
        let broken = world.followers(&leader)[0].clone();
        world.crash(&broken).await;
        apply(&world, 1, 1300).await;
        world.disk(&broken).damage(DiskFile::Log, |bytes| bytes[5000..9000].fill(0xff));
        world.start(&broken).await;
        let caught_up =
            |world: &World| world.raft(&broken).joined().borrow().is_some() && world.revision(&broken) == 1300;
        world.until(secs(30), "the node has caught up", caught_up).await;
        apply(&world, 2000, 3).await;
        world.until(secs(3), "it follows", |world| world.converged(1303)).await;
    });
}

#[test]
fn a_damaged_snapshot_is_fetched_anew_and_the_member_stays() {
    simulate(8, || async {
        let mut world = World::founded(8, 2).await;
        apply(&world, 1, 1100).await;
        let leader = world.leader().await;
        let broken = world.followers(&leader)[0].clone();
        let old = world.raft(&broken).member();
        world.crash(&broken).await;
        assert!(world.disk(&broken).damage(DiskFile::Snapshot, |bytes| bytes[100] ^= 1));
        world.start(&broken).await;
        assert_eq!(world.disk(&broken).damaged_files(), ["raft.snapshot.damaged-1"]);
        assert_eq!(world.raft(&broken).member(), old);
        assert_eq!(world.raft(&broken).status().role, Role::Starting);
        apply(&world, 2000, 3).await;
        world.until(secs(10), "the node has caught up", |world| world.converged(1103)).await;
        pass(secs(3)).await;
        assert_eq!(world.live_leader(), Some(leader));
    });
}

#[test]
fn a_node_whose_snapshot_is_too_old_serves_it_until_it_has_fetched_another() {
    simulate(9, || async {
        let mut world = World::founded(9, 0).await;
        let leader = world.leader().await;
        let broken = world.followers(&leader)[0].clone();
        apply(&world, 1, 600).await;
        let mut older = Vec::new();
        assert!(world.disk(&broken).damage(DiskFile::Snapshot, |bytes| older.clone_from(bytes)));
        apply(&world, 1000, 1100).await;
        world.until(secs(3), "all agree", |world| world.converged(1700)).await;
        world.crash(&broken).await;
        assert!(world.disk(&broken).damage(DiskFile::Snapshot, |bytes| *bytes = older));
        world.network.cut_off(&broken);
        world.start(&broken).await;
        assert_eq!(world.raft(&broken).status().role, Role::Starting);
        let revision = world.revision(&broken);
        assert!((400..=600).contains(&revision), "{revision}");
        world.network.heal();
        world.until(secs(10), "the node has caught up", |world| world.converged(1700)).await;
    });
}
