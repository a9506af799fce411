//! Tells the limits what the process before this one may have spent, as soon as that is known, and notes that they start.
//! What follows from what is found decides [`Start`]; a start that cannot be noted counts as one after a loss.

use portolan_limits::{Found, Recovery, Start};
use portolan_model::WallTime;
use portolan_raft::Store;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

/// Sends what the limits start with. A node that has noted no start waits for `joined`, the incarnation that the cluster
/// gives.
pub(crate) async fn recover(
    marks: Found,
    mut joined: watch::Receiver<Option<u64>>,
    store: Store,
    wall: impl Fn() -> WallTime,
    started: oneshot::Sender<Start>,
) {
    let noted = store.limits_life();
    if noted.is_none() {
        // Fails when Raft has ended.
        let _ = joined.wait_for(Option::is_some).await;
    }
    let incarnation = joined.borrow().unwrap_or_default();
    let mut start = Start::new(marks, incarnation, noted, wall());
    let noted = match start.recovery {
        // It says itself what was spent, and a full disk is no reason to refuse.
        Recovery::Marks(_) => store.note_limits_start_if_possible(start.life),
        Recovery::FirstStart | Recovery::Lost => store.note_limits_start(start.life).await,
    };
    if let Err(error) = noted {
        error!(%error, "the start of the limits cannot be noted");
        if start.recovery == Recovery::FirstStart {
            start.recovery = Recovery::Lost;
        }
    }
    if start.recovery == Recovery::Lost {
        warn!("the limits' marks are lost: limits refuse in slots that may have been spent");
    }
    // Fails when the node's loop has ended.
    let _ = started.send(start);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_limits::RecoveredMarks;
    use portolan_raft::MemoryDisk;

    use super::*;

    /// Starts on `disk` as a process does.
    async fn start(disk: &MemoryDisk, marks: Found, incarnation: Option<u64>, millis: u64) -> Start {
        let (_joined, receiver) = watch::channel(incarnation);
        let (started, start) = oneshot::channel();
        let store = Store::open(disk.clone(), &Arc::default()).expect("the store opens");
        recover(marks, receiver, store, || WallTime::from_unix_millis(millis), started).await;
        disk.crash();
        start.await.expect("it starts")
    }

    #[tokio::test]
    async fn a_start_that_ended_before_its_limits_began_may_be_repeated_and_no_other() {
        let disk = MemoryDisk::new();
        // Ends before the cluster has answered, with Raft's files made.
        drop(Store::open(disk.clone(), &Arc::default()).expect("the store opens"));
        disk.crash();
        assert_eq!(start(&disk, Found::Nothing, Some(1), 1).await.recovery, Recovery::FirstStart);
        assert_eq!(start(&disk, Found::Nothing, Some(1), 1).await.recovery, Recovery::Lost);
    }

    #[tokio::test]
    async fn each_start_is_noted_and_above_the_one_before_although_the_clock_is_behind_it() {
        let disk = MemoryDisk::new();
        let mut last = start(&disk, Found::Nothing, Some(1), 9_000_000).await.life;
        let marks = || Found::Marks(RecoveredMarks::default());
        for found in [marks(), Found::Damaged { segment: 0, page: 1 }, marks(), Found::Nothing] {
            // It waits for nobody: the cluster may be out of reach.
            let life = start(&disk, found, None, 5_000_000).await.life;
            assert!(life > last, "{life} after {last}");
            last = life;
        }
    }

    #[tokio::test]
    async fn marks_without_the_data_of_raft_wait_for_the_incarnation() {
        let life = start(&MemoryDisk::new(), Found::Nothing, Some(1), 9_000_000).await.life;
        let (joined, receiver) = watch::channel(None);
        let (started, mut started_with) = oneshot::channel();
        let store = Store::open(MemoryDisk::new(), &Arc::default()).expect("the store opens");
        let wall = || WallTime::from_unix_millis(5_000_000);
        let recovering = tokio::spawn(recover(Found::Marks(RecoveredMarks::default()), receiver, store, wall, started));
        tokio::task::yield_now().await;
        assert!(started_with.try_recv().is_err());
        joined.send_replace(Some(2));
        recovering.await.expect("it ends");
        assert!(started_with.await.expect("it starts").life > life);
    }
}
