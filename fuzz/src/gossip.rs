//! Messages to a node's gossip, from a peer that may send anything. The node never panics, holds no more than its
//! bounds, and sends nothing that it would not read itself.

use std::{collections::BTreeSet, time::Duration};

use portolan_gossip::{FactKey, Gossip, GossipConfig, MAX_NODES, Message};
use portolan_model::{NodeName, Now, Timestamp, WallTime, codec};

/// Records of an input are messages; the tag says who sends one, and how much time passes before. Returns how many were
/// taken in.
pub fn gossip_messages(bytes: &[u8]) -> usize {
    let names = names();
    let mut now = start();
    let mut gossip = boot(0, now);
    let mut taken = 0;
    for (tag, record) in super::records(bytes) {
        let passed = Duration::from_millis(u64::from(tag) * 8);
        now = Now { mono: now.mono + passed, wall: now.wall + passed };
        if gossip.poll_timeout().is_some_and(|timeout| timeout <= now.mono) {
            gossip.handle_timeout(now);
        }
        if let Ok(message) = codec::decode::<Message>(record) {
            taken += usize::from(gossip.handle_message(&names[1 + usize::from(tag) % 2], message, now).is_ok());
        }
        while let Some((_, message)) = gossip.poll_transmit() {
            let encoded = codec::encode(&message).expect("own messages encode");
            assert!(encoded.len() <= message.encoded_len_bound(), "{message:?} is longer than its bound");
            assert_eq!(codec::decode::<Message>(&encoded).expect("own messages decode"), message);
        }
        while gossip.poll_event().is_some() {}
        assert!(gossip.members().len() <= MAX_NODES);
    }
    taken
}

/// An input as three nodes make it: what the other two say to the first within four seconds.
pub fn gossip_conversation() -> Vec<u8> {
    let mut now = start();
    let names = names();
    let mut fleet: Vec<Gossip> = (0..3).map(|at| boot(at, now)).collect();
    let mut input = Vec::new();
    for round in 0..200u8 {
        let passed = Duration::from_millis(16);
        now = Now { mono: now.mono + passed, wall: now.wall + passed };
        let mut mail = Vec::new();
        for (at, gossip) in fleet.iter_mut().enumerate() {
            if round % 50 == 0 {
                let key = FactKey::new("health").expect("a key");
                gossip.publish(key, vec![round], now).expect("there is room");
            }
            gossip.handle_timeout(now);
            mail.extend(std::iter::from_fn(|| gossip.poll_transmit()).map(|(to, message)| (at, to, message)));
            while gossip.poll_event().is_some() {}
        }
        for (from, to, message) in mail {
            let to = names.iter().position(|name| *name == to).expect("a node of the fleet");
            if to == 0 {
                super::record(&mut input, 2 + (from - 1) as u8, &message);
            }
            // Digests of a node that is not known yet are refused.
            let _ = fleet[to].handle_message(&names[from], message, now);
        }
    }
    input
}

fn names() -> [NodeName; 3] {
    ["eu-west-1", "us-east-1", "ap-southeast-1"].map(|name| NodeName::new(name).expect("a name"))
}

fn start() -> Now {
    Now { mono: Timestamp::ZERO + Duration::from_secs(1), wall: WallTime::from_unix_millis(1_795_000_000_000) }
}

fn boot(at: usize, now: Now) -> Gossip {
    let names = names();
    Gossip::new(GossipConfig { name: names[at].clone(), peers: BTreeSet::from(names) }, now, at as u64)
}
