//! What proposers and drains see of the leadership.

use portolan_config::{Applied, Change};
use portolan_model::{Revision, WallTime};
use portolan_raft::{ProposeError, StepAsideError};
use tokio::time::Instant;

use crate::world::{Oracle, World, document, pass, secs, simulate};

#[test]
fn a_leader_that_steps_aside_is_followed_by_another_and_loses_nothing() {
    for seed in 1..=3 {
        simulate(seed, || async move {
            let world = World::founded(seed, 2).await;
            let leader = world.leader().await;
            let follower = world.followers(&leader)[0].clone();
            let oracle = Oracle::default();
            oracle.watch_terms(&world);
            let client = oracle.propose_from(&world, &follower, 1);
            pass(secs(3)).await;
            assert_eq!(world.raft(&follower).step_aside().await, Err(StepAsideError::NotLeader));
            assert_eq!(world.raft(&leader).step_aside().await, Ok(()));
            assert_ne!(world.leader().await, leader);
            let before = oracle.acknowledged();
            pass(secs(5)).await;
            assert!(oracle.acknowledged() > before + 40);
            client.abort();
            pass(secs(6)).await;
            oracle.check_history(&world);
            assert!(world.converged(oracle.last_acknowledged()));
        });
    }
}

#[test]
fn a_proposal_without_a_majority_says_that_nothing_was_changed() {
    simulate(4, || async {
        let world = World::founded(4, 0).await;
        let leader = world.leader().await;
        for follower in world.followers(&leader) {
            world.network.cut_off(&follower);
        }
        pass(secs(3)).await;
        let asked = Instant::now();
        assert_eq!(world.raft(&leader).propose(document(1, 0)).await, Err(ProposeError::NoLeader));
        assert!(asked.elapsed() <= secs(6));
        world.network.heal();
        world.leader().await;
        pass(secs(5)).await;
        assert!(world.converged(0) && world.revision(&leader) == 0, "{}", world.describe());
    });
}

#[test]
fn a_proposal_caught_by_a_partition_admits_that_it_may_take_effect() {
    simulate(5, || async {
        let world = World::founded(5, 0).await;
        let leader = world.leader().await;
        let via = world.followers(&leader)[0].clone();
        let proposal = tokio::spawn({
            let raft = world.raft(&via).clone();
            async move { raft.propose(document(1, 0)).await }
        });
        // The proposal is on its way when the leader is cut off.
        pass(std::time::Duration::from_millis(70)).await;
        world.network.cut_off(&leader);
        let outcome = proposal.await.expect("no panic");
        assert_eq!(outcome, Err(ProposeError::Timeout { may_have_been_applied: true }));
    });
}

#[test]
fn the_same_document_twice_is_one_revision_and_the_state_machine_refuses_what_it_must() {
    simulate(6, || async {
        let world = World::founded(6, 0).await;
        let leader = world.leader().await;
        let raft = world.raft(&leader);
        assert_eq!(raft.propose(document(1, 0)).await, Ok(Applied::Accepted { revision: Revision(1) }));
        assert_eq!(raft.propose(document(1, 0)).await, Ok(Applied::Unchanged { revision: Revision(1) }));
        let rollback = Change::Rollback { to: Revision(9), author: "a".to_owned() }.at(WallTime::default());
        assert!(matches!(raft.propose(rollback).await, Ok(Applied::Refused(_))));
        let outcome = raft.propose(document(2, 3 << 20)).await;
        assert!(matches!(outcome, Err(ProposeError::TooLong { .. })), "{outcome:?}");
    });
}

#[test]
fn large_documents_do_not_make_the_log_long() {
    simulate(7, || async {
        let world = World::founded(7, 0).await;
        let leader = world.leader().await;
        for number in 1..=40 {
            let outcome = world.raft(&leader).propose(document(number, 500_000)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
            pass(secs(1)).await;
        }
        pass(secs(15)).await;
        assert!(world.converged(40));
        for name in world.names() {
            let bytes = world.raft(&name).store().log_bytes();
            assert!(bytes <= 8 << 20, "{name} keeps {bytes} bytes");
        }
    });
}
