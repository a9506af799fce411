//! The regions of a cluster are part of its data.

use std::sync::Arc;

use portolan_config::{Applied, RegionMap};
use portolan_raft::{DiskFile, MemoryDisk, Raft, Role, StartError, Store, StoreError};

use crate::world::{World, document, pass, regions, secs, simulate};

/// Opens with other regions, which is refused and changes nothing.
fn check_refused(disk: &MemoryDisk) {
    let refused = Store::open(disk.clone(), &Arc::<RegionMap>::default());
    let Err(error @ StoreError::OtherRegions { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("ap-southeast, eu-west, us-east"), "{error}");
    assert_eq!(disk.damaged_files(), [""; 0]);
}

#[test]
fn data_of_a_cluster_with_other_regions_is_refused_and_left_as_it_is() {
    simulate(1, || async {
        let mut world = World::founded(1, 0).await;
        let leader = world.leader().await;
        for number in 1..=600 {
            let outcome = world.raft(&leader).propose(document(number, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
        }
        let name = world.followers(&leader)[0].clone();
        world.until(secs(3), "all agree", |world| world.converged(600)).await;
        world.crash(&name).await;
        let disk = world.disk(&name).clone();
        check_refused(&disk);
        assert!(disk.damage(DiskFile::Snapshot, |bytes| bytes[100] ^= 1));
        check_refused(&disk);
        assert!(disk.damage(DiskFile::Snapshot, |bytes| bytes[100] ^= 1));
        world.start(&name).await;
        assert!(world.revision(&name) >= 600);
        // Without a log the snapshot tells.
        world.crash(&name).await;
        assert!(disk.damage(DiskFile::Log, Vec::clear));
        check_refused(&disk);
        let store = Store::open(disk, &regions()).expect("with its own regions it opens");
        assert_eq!(store.damage(), []);
    });
}

#[test]
fn nobody_founds_or_joins_a_cluster_with_other_regions() {
    simulate(2, || async {
        let mut world = World::new(2, 0);
        let names = world.names();
        world.start(&names[0]).await;
        world.start(&names[1]).await;
        world.start_with(&names[2], Arc::default()).await;
        pass(secs(20)).await;
        assert!(names.iter().all(|name| world.raft(name).status().role == Role::Learner), "{}", world.describe());
        world.crash(&names[2]).await;
        world.replace_disk(&names[2], MemoryDisk::new());
        world.start(&names[2]).await;
        world.leader().await;

        world.crash(&names[2]).await;
        world.replace_disk(&names[2], MemoryDisk::new());
        world.start_with(&names[2], Arc::default()).await;
        pass(secs(20)).await;
        assert_eq!(world.raft(&names[2]).status().role, Role::Learner);
        assert_eq!(*world.raft(&names[2]).joined().borrow(), None);
    });
}

#[test]
fn a_snapshot_that_decodes_and_is_not_accepted_stops_the_start_and_stays() {
    simulate(3, || async {
        let mut world = World::founded(3, 0).await;
        let leader = world.leader().await;
        for number in 1..=600 {
            let outcome = world.raft(&leader).propose(document(number, 0)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
        }
        let mut snapshot = Vec::new();
        assert!(world.disk(&leader).damage(DiskFile::Snapshot, |bytes| snapshot.clone_from(bytes)));
        world.crash(&leader).await;
        // A log without entries, of other regions, beside it.
        let other = MemoryDisk::new();
        let store = Store::open(other.clone(), &Arc::default()).expect("an empty disk opens");
        drop(store);
        assert!(world.disk(&leader).damage(DiskFile::Log, |bytes| {
            assert!(other.damage(DiskFile::Log, |others| bytes.clone_from(others)));
        }));
        let store = Store::open(world.disk(&leader).clone(), &Arc::default()).expect("the log knows these regions");
        let transport = world.network.transport(&leader);
        let refused = Raft::start(world.config(&leader, Arc::default()), store, transport).await;
        assert!(matches!(refused, Err(StartError::Refused(_))), "{refused:?}");
        assert_eq!(world.disk(&leader).damaged_files(), [""; 0]);
        assert!(world.disk(&leader).damage(DiskFile::Snapshot, |bytes| assert_eq!(*bytes, snapshot)));
    });
}
