//! Tells the limits what the process before this one may have spent. Never guesses in favour of spending: without marks
//! a region has its full share at once only if the cluster says that the region never existed.

use portolan_limits::{Found, Recovery};
use tokio::sync::{oneshot, watch};
use tracing::warn;

/// What an earlier process left in the data directory.
pub(crate) struct Past {
    /// The marks.
    pub(crate) marks: Found,
    /// Whether there are Raft's files: no process has marks without them.
    pub(crate) raft: bool,
}

/// Sends the recovery as soon as it is known; a new region waits for `joined`, the incarnation that the cluster gives.
pub(crate) async fn recover(past: Past, mut joined: watch::Receiver<Option<u64>>, recovery: oneshot::Sender<Recovery>) {
    let recovered = match past.marks {
        Found::Marks(marks) => Recovery::Marks(marks),
        Found::Damaged { .. } => Recovery::Lost,
        // The incarnation a node reads from its own log is that of its first life.
        Found::Nothing if past.raft => Recovery::Lost,
        Found::Nothing => match joined.wait_for(Option::is_some).await.map(|incarnation| *incarnation) {
            Ok(Some(1)) => Recovery::FirstStart,
            _ => Recovery::Lost,
        },
    };
    if recovered == Recovery::Lost {
        warn!("the limits' marks are lost: limits refuse in slots that may have been spent");
    }
    // Fails when the node's loop has ended.
    let _ = recovery.send(recovered);
}

#[cfg(test)]
mod tests {
    use portolan_limits::RecoveredMarks;

    use super::*;

    async fn check(marks: Found, raft: bool, incarnation: u64, expected: Recovery) {
        let (_joined, receiver) = watch::channel(Some(incarnation));
        let (recovery, recovered) = oneshot::channel();
        recover(Past { marks, raft }, receiver, recovery).await;
        assert_eq!(recovered.await, Ok(expected));
    }

    #[tokio::test]
    async fn only_a_region_that_never_existed_starts_with_its_full_share_and_no_marks() {
        check(Found::Nothing, false, 1, Recovery::FirstStart).await;
        check(Found::Nothing, false, 2, Recovery::Lost).await;
        check(Found::Nothing, true, 1, Recovery::Lost).await;
        check(Found::Damaged { segment: 0, page: 1 }, true, 1, Recovery::Lost).await;
        let marks = RecoveredMarks::default();
        check(Found::Marks(marks.clone()), true, 1, Recovery::Marks(marks)).await;
    }
}
