//! Narrow paths between regions.

use portolan_config::Applied;
use portolan_raft::Role;
use tokio::time::Instant;

use crate::world::{World, document, secs, simulate};

#[test]
fn a_large_document_passes_a_narrow_path_once_and_the_leader_stays() {
    simulate(1, || async {
        let world = World::founded(1, 0).await;
        let leader = world.leader().await;
        let term = world.raft(&leader).status().term;
        // 6 Mbit/s: the document takes 1.3 s to each follower, many times an append's deadline.
        world.network.narrow(750_000);
        let asked = Instant::now();
        let outcome = world.raft(&leader).propose(document(1, 1_000_000)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?} after {:?}", asked.elapsed());
        world.until(secs(2), "every node has it", |world| world.converged(1)).await;
        let status = world.raft(&leader).status();
        assert_eq!((status.role, status.term), (Role::Leader, term));
        let outcome = world.raft(&leader).propose(document(2, 0)).await;
        assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
    });
}
