//! Who may say what in a proposal, and at which time.

use std::{collections::BTreeSet, time::Duration};

use portolan_config::{Applied, Change, Refusal};
use portolan_model::WallTime;
use portolan_raft::{Request, Response};

use crate::world::{World, document, simulate};

#[test]
fn a_node_speaks_for_itself_alone() {
    simulate(1, || async {
        let world = World::founded(1, 0).await;
        let leader = world.leader().await;
        let [this, other] = <[_; 2]>::try_from(world.followers(&leader)).expect("two followers");
        let say = |node| Change::Acknowledge { node, change: 0 }.at(WallTime::default());
        let answer = world.raft(&leader).handle(&this, Request::Propose(say(other.clone()))).await;
        let reason = format!("`{this}` may not speak for `{other}`");
        assert!(matches!(&answer, Response::Unavailable { reason: said } if *said == reason), "{answer:?}");
        assert_eq!(world.raft(&this).propose(say(this.clone())).await, Ok(Applied::Acknowledged));
    });
}

#[test]
fn the_times_of_commands_are_held_to_the_clock_of_the_leader() {
    simulate(2, || async {
        let world = World::founded(2, 0).await;
        let leader = world.leader().await;
        let far = WallTime::default() + Duration::from_secs(3600);
        for via in [leader.clone(), world.followers(&leader)[0].clone()] {
            let revision = world.revision(&leader) + 1;
            let outcome = world.raft(&via).propose(document(revision, 0).change.at(far)).await;
            assert!(matches!(outcome, Ok(Applied::Accepted { .. })), "{outcome:?}");
            // Whoever spent by a clock that was ahead vouches for that, so its word is not moved back.
            let word = Change::Acknowledge { node: via.clone(), change: 0 }.at(far);
            let outcome = world.raft(&via).propose(word).await;
            let ahead = Refusal::ClockAhead { node: via, ahead: Duration::from_secs(3600) };
            assert_eq!(outcome, Ok(Applied::Refused(ahead)));
        }
        let times: BTreeSet<u64> = {
            let intent = world.raft(&leader).intent().borrow().clone();
            intent.history().iter().map(|entry| entry.at.as_unix_millis()).collect()
        };
        assert_eq!(times, [500].into());
    });
}
