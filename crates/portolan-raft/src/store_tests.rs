//! What a store promises over crashes and full disks, beyond what openraft's suite asks.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use tokio::time::timeout;

use crate::{
    memory_disk::MemoryDisk,
    saved_snapshot::SavedSnapshot,
    store::Store,
    types::{Entry, SnapshotMeta},
};

/// Runs `test` under a paused clock.
fn simulate(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(test);
}

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn snapshot(last: LogId<u64>) -> SavedSnapshot {
    let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
    SavedSnapshot { meta, state: Arc::from([]) }
}

fn open(disk: &MemoryDisk) -> Store {
    Store::open(disk.clone(), &Arc::default()).expect("opens")
}

async fn append(store: &mut Store, term: u64, indexes: impl Iterator<Item = u64>) {
    let entries = indexes.map(|index| Entry { log_id: id(term, index), payload: EntryPayload::Blank });
    store.blocking_append(entries.collect::<Vec<_>>()).await.expect("appends");
}

/// Starts again after a crash: where the log was purged, its indexes, and what the snapshot covers.
async fn check(disk: &MemoryDisk, purged: Option<u64>, log: impl Iterator<Item = u64>, covered: Option<u64>) -> Store {
    disk.crash();
    let mut store = open(disk);
    assert_eq!(store.damage(), []);
    assert!(!store.lacks_snapshot());
    let state = store.get_log_state().await.expect("reads");
    assert_eq!(state.last_purged_log_id.map(|id| id.index), purged);
    let entries = store.try_get_log_entries(..).await.expect("reads");
    assert_eq!(entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), log.collect::<Vec<_>>());
    let last = store.snapshot().and_then(|snapshot| snapshot.meta.last_log_id);
    assert_eq!(last.map(|id| id.index), covered);
    store
}

#[test]
fn a_snapshot_that_took_long_to_build_does_not_replace_a_later_one() {
    simulate(async {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        disk.fill();
        let late = tokio::spawn({
            let store = store.clone();
            async move { store.save_snapshot(snapshot(id(1, 10))).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        disk.free();
        store.save_snapshot(snapshot(id(1, 20))).await.expect("saves");
        late.await.expect("ends").expect("is dropped without an error");
        assert_eq!(store.snapshot().and_then(|snapshot| snapshot.meta.last_log_id), Some(id(1, 20)));
        check(&disk, None, 0..0, Some(20)).await;
    });
}

#[test]
fn a_crash_between_purge_and_snapshot_leaves_the_earlier_state_and_its_log() {
    simulate(async {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        append(&mut store, 1, 0..=10).await;
        store.save_snapshot(snapshot(id(1, 5))).await.expect("saves");
        store.purge(id(1, 5)).await.expect("purges");
        // A leader's snapshot is being installed.
        store.purge(id(2, 20)).await.expect("purges");
        let state = store.get_log_state().await.expect("reads");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(2, 20)), Some(id(2, 20))));
        let mut store = check(&disk, Some(5), 6..=10, Some(5)).await;

        // The same with the disk full when the snapshot comes: it waits, and entries wait for it.
        disk.fill();
        store.purge(id(2, 20)).await.expect("does not wait");
        let saving = tokio::spawn({
            let store = store.clone();
            async move { store.save_snapshot(snapshot(id(2, 20))).await }
        });
        let mut appending = tokio::spawn({
            let mut store = store.clone();
            async move { append(&mut store, 2, 21..=22).await }
        });
        assert!(timeout(Duration::from_secs(5), &mut appending).await.is_err());
        disk.free();
        saving.await.expect("ends").expect("saves");
        appending.await.expect("appends");
        check(&disk, Some(20), 21..=22, Some(20)).await;
    });
}

#[test]
fn a_commit_index_that_found_no_space_is_not_taken_for_kept() {
    simulate(async {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        append(&mut store, 1, 0..=10).await;
        store.save_committed(Some(id(1, 7))).await.expect("saves");
        assert!(store.keeps(Some(id(1, 7))) && !store.keeps(Some(id(1, 8))));
        disk.fill();
        store.save_committed(Some(id(1, 9))).await.expect("does without");
        assert!(!store.keeps(Some(id(1, 9))));
        disk.free();
        store.save_committed(Some(id(1, 10))).await.expect("saves");
        assert!(store.keeps(Some(id(1, 10))));
        let mut store = check(&disk, None, 0..=10, None).await;
        assert_eq!(store.read_committed().await.expect("reads"), Some(id(1, 10)));
        // A snapshot keeps what it covers.
        store.save_snapshot(snapshot(id(2, 20))).await.expect("saves");
        assert!(store.keeps(Some(id(2, 20))) && !store.keeps(Some(id(2, 21))));
    });
}

#[test]
fn a_purge_up_to_a_snapshot_within_the_log_keeps_what_follows() {
    simulate(async {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        append(&mut store, 1, 0..=10).await;
        store.purge(id(1, 5)).await.expect("purges");
        append(&mut store, 1, 11..=12).await;
        let mut store = check(&disk, None, 0..=12, None).await;
        store.purge(id(1, 5)).await.expect("purges");
        append(&mut store, 1, 13..=14).await;
        store.save_snapshot(snapshot(id(1, 5))).await.expect("saves");
        check(&disk, Some(5), 6..=14, Some(5)).await;
    });
}

#[test]
fn a_fetched_state_of_a_later_leader_takes_the_whole_log_of_an_earlier_one_with_it() {
    simulate(async {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        append(&mut store, 4, 0..=150).await;
        store.save_snapshot(snapshot(id(5, 120))).await.expect("saves");
        store.purge(id(5, 120)).await.expect("purges");
        assert_eq!(store.get_log_state().await.expect("reads").last_log_id, Some(id(5, 120)));
        let mut store = check(&disk, Some(120), 0..0, Some(120)).await;
        append(&mut store, 5, 121..=123).await;
        check(&disk, Some(120), 121..=123, Some(120)).await;
    });
}

#[test]
fn the_last_start_of_the_limits_is_noted_durably() {
    simulate(async {
        let disk = MemoryDisk::new();
        assert_eq!(open(&disk).limits_life(), None);
        for life in [7, 9] {
            open(&disk).note_limits_start(life).await.expect("notes");
            disk.crash();
            assert_eq!(open(&disk).limits_life(), Some(life));
        }
        open(&disk).note_limits_start_if_possible(12).expect("notes");
        disk.crash();
        assert_eq!(open(&disk).limits_life(), Some(12));
    });
}
