//! Isolation and heal: no acknowledged revision is lost, a healthy leader is not deposed, and a seed repeats exactly.

use std::time::Duration;

use crate::world::{Oracle, World, pass, secs, simulate};

/// Who is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Leader,
    Follower,
}

/// 60 s of virtual time: cut off at 10 s, healed at 30 s. Returns the trace.
fn run(seed: u64, cut: Cut) -> (u128, u64) {
    simulate(seed, || async move {
        let world = World::founded(seed, 2).await;
        let oracle = Oracle::default();
        oracle.watch_terms(&world);
        let leader = world.leader().await;
        let term = world.raft(&leader).status().term;
        let followers = world.followers(&leader);
        let client = oracle.propose_from(&world, &followers[0], 1_000_000);
        pass(secs(10)).await;
        let before = oracle.acknowledged();
        assert!(before > 100, "seed {seed}: only {before} acknowledged in 10 s");

        let lonely = if cut == Cut::Leader { leader.clone() } else { followers[1].clone() };
        world.network.cut_off(&lonely);
        pass(secs(20)).await;
        let during = oracle.acknowledged() - before;
        assert!(during > 150, "seed {seed}: only {during} acknowledged during the partition");
        let status = world.raft(&lonely).status();
        assert!(!status.leader_is_live, "seed {seed}: {status:?}");

        world.network.heal();

        client.abort();
        let target = oracle.last_acknowledged();
        world.until(secs(2), "all nodes agree after the heal", |world| world.converged(target)).await;
        pass(secs(10)).await;
        oracle.check_history(&world);
        let after = world.live_leader();
        if cut == Cut::Follower {
            assert_eq!(after, Some(leader.clone()), "seed {seed}: the leader was deposed");
            assert_eq!(world.raft(&leader).status().term, term, "seed {seed}: somebody stood for election");
        } else {
            assert_ne!(after, Some(leader), "seed {seed}");
            assert!(world.converged(oracle.last_acknowledged()));
        }
        pass(Duration::from_secs(1)).await;
        world.network.trace()
    })
}

#[test]
fn a_follower_that_comes_back_does_not_depose_the_leader() {
    for seed in 1..=5 {
        run(seed, Cut::Follower);
    }
}

#[test]
fn a_lost_leader_is_replaced_and_no_acknowledged_revision_is_lost() {
    for seed in 1..=5 {
        run(seed, Cut::Leader);
    }
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    for seed in [3, 17] {
        for cut in [Cut::Follower, Cut::Leader] {
            let (first, second) = (run(seed, cut), run(seed, cut));
            assert!(first.1 > 1000);
            assert_eq!(first, second, "seed {seed}, {cut:?}");
        }
    }
}
