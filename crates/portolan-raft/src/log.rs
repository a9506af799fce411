//! openraft's view of the log. Every append, vote and truncation is durable before it is reported; reads come from
//! memory. Decides nothing about Raft.

use std::{fmt::Debug, ops::RangeBounds, time::Duration};

use openraft::{
    AnyError, AsyncRuntime, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};

use crate::{
    database::{self, Batch, COMMITTED, LAST, VOTE},
    runtime::Runtime,
    store::Store,
    types::{Entry, LogId, StorageError, TypeConfig, Vote},
};

/// Entries in one append to a follower, in bytes; a longer one goes alone. Little enough to pass a narrow path between
/// two heartbeats.
const APPEND_BYTES: usize = 128 << 10;

/// Pause between two looks for the snapshot that a log waits for.
const SNAPSHOT_PACE: Duration = Duration::from_millis(10);

impl Store {
    /// Waits until entries may follow on disk. Short: while a snapshot waits for space, `Raft::handle` refuses entries.
    async fn close_gap(&self) -> Result<(), StorageError> {
        loop {
            self.flush_purge()?;
            if !self.log().has_gap() {
                return Ok(());
            }
            Runtime::sleep(SNAPSHOT_PACE).await;
        }
    }

    fn entries(&self, range: impl RangeBounds<u64>, most_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let mut taken = 0;
        let log = self.log();
        let within = log.entries.range(range).take_while(|(_, sealed)| {
            let first = taken == 0;
            taken += sealed.len();
            first || taken <= most_bytes
        });
        within
            .map(|(&index, sealed)| {
                database::open_entry(index, sealed).ok_or_else(|| {
                    StorageIOError::read_log_at_index(index, AnyError::error("the entry is damaged in memory")).into()
                })
            })
            .collect()
    }
}

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(start..end, APPEND_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.log();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.commit(Batch::default().with(VOTE, &vote), move |log| log.vote = Some(vote)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.log().vote)
    }

    /// Lets a node boot to its last good revision with no peer in reach. Raft itself can do without.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let batch = Batch::default().with(COMMITTED, &committed);
        self.commit_if_possible(&batch, |log| log.committed = committed)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let log = self.log();
        // A commit index beyond the log would make openraft look for entries that a new leader truncated.
        Ok(log.committed.min(log.last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::default();
        let mut last = None;
        for entry in entries {
            let sealed = database::seal_entry(&entry).map_err(|error| StorageIOError::write_logs(&error))?;
            batch.put.push((entry.log_id.index, sealed));
            last = Some(entry.log_id);
        }
        if let Some(last) = last {
            self.close_gap().await?;
            batch.set(LAST, &Some(last));
            let put = batch.put.clone();
            self.commit(batch, move |log| {
                log.entries.extend(put);
                log.last = Some(last);
            })
            .await?;
        }
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (before, end) = {
            let log = self.log();
            let before = log.entries.range(..log_id.index).next_back();
            let before = before.and_then(|(&index, sealed)| database::open_entry(index, sealed));
            (before.map(|entry| entry.log_id).or(log.purged), log.entries.keys().next_back().copied())
        };
        let Some(end) = end.filter(|&end| end >= log_id.index) else { return Ok(()) };
        let batch = Batch { remove: Some((log_id.index, end)), ..Batch::default() }.with(LAST, &before);
        self.commit(batch, move |log| {
            log.entries.split_off(&log_id.index);
            log.last = before;
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.log().hold_purge(log_id);
        self.flush_purge()
    }
}
