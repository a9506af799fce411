//! The store against openraft's own suite, and against a model over random writes and restarts.

use std::sync::Arc;

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::{StoreBuilder, Suite},
};
use portolan_config::{Intent, RegionMap};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::{
    machine::{Machine, Publish, State},
    memory_disk::MemoryDisk,
    saved_snapshot::SavedSnapshot,
    store::Store,
    types::{Entry, SnapshotMeta, StorageError, TypeConfig, Vote},
};

struct Fresh;

impl StoreBuilder<TypeConfig, Store, Machine> for Fresh {
    async fn build(&self) -> Result<((), Store, Machine), StorageError> {
        let store = Store::open(MemoryDisk::new(), &Arc::default()).expect("an empty disk opens");
        let regions = Arc::new(RegionMap::default());
        let publish = Publish {
            state: watch::Sender::new(State::empty(Arc::clone(&regions))),
            intent: watch::Sender::new(Arc::new(Intent::new(Arc::clone(&regions)))),
        };
        let machine = Machine::new(store.clone(), regions, publish).expect("no snapshot to read");
        Ok(((), store, machine))
    }
}

#[test]
fn the_store_keeps_the_contract_of_openraft() {
    Suite::test_all(Fresh).expect("every case of the suite holds");
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    /// Drops the last entries.
    Truncate(u64),
    /// Purges the first entries.
    Purge(u64),
    Vote(u64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..8u64).prop_map(Step::Append),
        (1..5u64).prop_map(Step::Truncate),
        (1..5u64).prop_map(Step::Purge),
        (1..100u64).prop_map(Step::Vote),
        Just(Step::Crash),
    ]
}

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn snapshot(last: LogId<u64>) -> SavedSnapshot {
    let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
    SavedSnapshot { meta, state: Arc::from([]) }
}

/// What must be on disk.
#[derive(Debug, Default, PartialEq)]
struct Model {
    purged: Option<LogId<u64>>,
    entries: Vec<LogId<u64>>,
    vote: Option<Vote>,
    term: u64,
}

impl Model {
    fn next(&self) -> u64 {
        self.entries.last().or(self.purged.as_ref()).map_or(0, |last| last.index + 1)
    }
}

async fn take(step: &Step, model: &mut Model, store: &mut Store, disk: &MemoryDisk) {
    match step {
        Step::Append(count) => {
            model.term += 1;
            let ids: Vec<_> = (model.next()..model.next() + count).map(|index| id(model.term, index)).collect();
            let entries = ids.iter().map(|&log_id| Entry { log_id, payload: EntryPayload::Blank });
            store.blocking_append(entries.collect::<Vec<_>>()).await.expect("appends");
            model.entries.extend(ids);
        }
        Step::Truncate(count) => {
            let at = model.entries.len().saturating_sub(*count as usize);
            let removed = model.entries.split_off(at);
            if let Some(first) = removed.first() {
                store.truncate(*first).await.expect("truncates");
            }
        }
        Step::Purge(count) => {
            let removed: Vec<_> = model.entries.drain(..(*count as usize).min(model.entries.len())).collect();
            if let Some(last) = removed.last() {
                store.save_snapshot(snapshot(*last)).await.expect("saves");
                store.purge(*last).await.expect("purges");
                model.purged = Some(*last);
            }
        }
        Step::Vote(term) => {
            model.vote = Some(Vote::new(*term, 1));
            store.save_vote(&Vote::new(*term, 1)).await.expect("saves");
        }
        Step::Crash => {
            let member = store.member();
            disk.crash();
            *store = Store::open(disk.clone(), &Arc::default()).expect("opens");
            assert_eq!((store.damage(), store.member()), (&[][..], member));
        }
    }
}

async fn check(model: &Model, store: &mut Store) {
    let entries = store.try_get_log_entries(..).await.expect("reads");
    assert_eq!(entries.iter().map(|entry| entry.log_id).collect::<Vec<_>>(), model.entries);
    let state = store.get_log_state().await.expect("reads");
    assert_eq!(state.last_purged_log_id, model.purged);
    assert_eq!(state.last_log_id, model.entries.last().copied().or(model.purged));
    assert_eq!(store.read_vote().await.expect("reads"), model.vote);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_store_reads_back_what_was_written_whenever_it_is_restarted(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let disk = MemoryDisk::new();
            let mut store = Store::open(disk.clone(), &Arc::default()).expect("opens");
            let mut model = Model::default();
            for step in &steps {
                take(step, &mut model, &mut store, &disk).await;
                check(&model, &mut store).await;
            }
        });
    }
}
