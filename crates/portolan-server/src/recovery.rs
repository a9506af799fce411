//! Tells the limits what the process before this one may have spent. Never guesses in favour of spending: without marks
//! a region has its full share at once only if the cluster says that the region never existed, and Raft's log that no
//! limit was ever in force here. A first start that was interrupted before that is a first start again.

use portolan_limits::{Found, Recovery};
use portolan_raft::Store;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

/// Sends the recovery as soon as it is known; a new region waits for `joined`, the incarnation that the cluster gives.
pub(crate) async fn recover(
    marks: Found,
    joined: watch::Receiver<Option<u64>>,
    store: Store,
    recovery: oneshot::Sender<Recovery>,
) {
    let recovered = match marks {
        Found::Marks(marks) => Recovery::Marks(marks),
        Found::Nothing if first_start(joined, &store).await => Recovery::FirstStart,
        Found::Nothing | Found::Damaged { .. } => Recovery::Lost,
    };
    if recovered == Recovery::Lost {
        warn!("the limits' marks are lost: limits refuse in slots that may have been spent");
    }
    // Fails when the node's loop has ended.
    let _ = recovery.send(recovered);
}

/// Whether nothing can have been spent; if so, that is noted to be over, before anything is.
async fn first_start(mut joined: watch::Receiver<Option<u64>>, store: &Store) -> bool {
    if store.limits_started() {
        return false;
    }
    let Ok(Some(incarnation)) = joined.wait_for(Option::is_some).await.map(|incarnation| *incarnation) else {
        return false;
    };
    if !store.is_first_start(incarnation) {
        return false;
    }
    let noted = store.mark_limits_started().await;
    if let Err(error) = &noted {
        error!(%error, "the start of the limits cannot be noted");
    }
    noted.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_limits::RecoveredMarks;
    use portolan_raft::MemoryDisk;

    use super::*;

    /// Starts on `disk` as a process does.
    async fn check(disk: &MemoryDisk, marks: Found, incarnation: u64, expected: Recovery) {
        let (_joined, receiver) = watch::channel(Some(incarnation));
        let (recovery, recovered) = oneshot::channel();
        let store = Store::open(disk.clone(), &Arc::default()).expect("the store opens");
        recover(marks, receiver, store, recovery).await;
        assert_eq!(recovered.await, Ok(expected));
        disk.crash();
    }

    #[tokio::test]
    async fn only_a_region_that_never_existed_starts_with_its_full_share_and_no_marks() {
        let damaged = Found::Damaged { segment: 0, page: 1 };
        check(&MemoryDisk::new(), Found::Nothing, 1, Recovery::FirstStart).await;
        check(&MemoryDisk::new(), Found::Nothing, 2, Recovery::Lost).await;
        check(&MemoryDisk::new(), damaged, 1, Recovery::Lost).await;
        let marks = RecoveredMarks::default();
        check(&MemoryDisk::new(), Found::Marks(marks.clone()), 1, Recovery::Marks(marks)).await;
    }

    #[tokio::test]
    async fn a_start_that_ended_before_its_limits_began_may_be_repeated_and_no_other() {
        let disk = MemoryDisk::new();
        // Ends before the cluster has answered, with Raft's files made.
        drop(Store::open(disk.clone(), &Arc::default()).expect("the store opens"));
        disk.crash();
        check(&disk, Found::Nothing, 1, Recovery::FirstStart).await;
        check(&disk, Found::Nothing, 1, Recovery::Lost).await;
    }
}
