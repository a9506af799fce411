//! One node's gossip: membership and facts behind one set of inputs and outputs.
//!
//! Decides whom to tell what and when: a change is pushed to peers at once, digests repair what was lost. Never decides
//! what a fact means.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use portolan_model::{NodeName, Now, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use crate::{
    Digest, FactKey, FactUpdate, Facts, MAX_KEYS_PER_NODE, MAX_NODES, MAX_VALUE_LEN, Message,
    facts::Merged,
    identity::{Identity, MAX_GENERATION},
    membership::{MemberChange, Membership},
    message::MAX_PACKET,
};

/// What gossip knows before it hears anyone.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// This node.
    pub name: NodeName,
    /// The nodes it may call by itself.
    pub peers: BTreeSet<NodeName>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node joined or came back.
    MemberUp(NodeName),
    /// The members agreed that a node is gone.
    MemberDown(NodeName),
    /// A newer fact arrived.
    FactChanged {
        /// Whom it is about.
        node: NodeName,
        /// Which fact.
        key: FactKey,
    },
}

/// Why a peer's message was not taken. The state is as before, but for facts of the message that came before the fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The message does not read.
    #[error("the message is malformed")]
    Malformed,
    /// The message passes a bound.
    #[error("the message has {len} bytes or entries, more than are taken")]
    TooLong {
        /// Bytes of a packet, entries of a list.
        len: usize,
    },
    /// The packet names another sender than the one the mesh authenticated.
    #[error("the message claims to come from `{claimed}`")]
    Impostor {
        /// The sender in the packet.
        claimed: NodeName,
    },
    /// More nodes than [`MAX_NODES`] would have to be remembered.
    #[error("more than {MAX_NODES} nodes")]
    TooManyNodes,
    /// A fact passes a bound.
    #[error("a fact about `{node}` is too large or one too many")]
    FactRefused {
        /// Whom the fact is about.
        node: NodeName,
    },
}

/// Why an own fact was not published. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The value is too long.
    #[error("the value has {len} bytes, at most {MAX_VALUE_LEN} are taken")]
    ValueTooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The key would be one too many.
    #[error("a node publishes at most {MAX_KEYS_PER_NODE} facts")]
    TooManyKeys,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Facts taken because they were newer.
    pub facts_taken: u64,
    /// Facts that were known already.
    pub facts_known: u64,
    /// Messages refused.
    pub refused: u64,
    /// Messages and events dropped because the driver did not take them in time.
    pub dropped: u64,
    /// Times this node had to take a further life.
    pub renewed: u64,
}

/// The gossip of one node.
pub struct Gossip {
    name: NodeName,
    /// Sorted.
    peers: Vec<NodeName>,
    membership: Membership,
    facts: Facts,
    incarnation: u64,
    version: u64,
    rng: ChaCha8Rng,
    next_digest: Timestamp,
    /// Peers that have had no digest since the order was drawn.
    turns: Vec<NodeName>,
    outbox: VecDeque<(NodeName, Message)>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Gossip {
    /// Starts alone. `seed` fixes every random choice; the first life is named by the wall clock.
    pub fn new(config: GossipConfig, now: Now, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let peers: Vec<NodeName> = config.peers.into_iter().filter(|peer| *peer != config.name).collect();
        let incarnation = now.wall.as_unix_millis().min(MAX_GENERATION);
        let identity = Identity { node: config.name.clone(), generation: incarnation };
        let swim_rng = ChaCha8Rng::seed_from_u64(rng.random());
        Self {
            name: config.name,
            membership: Membership::new(identity, peers.clone(), swim_rng, now.mono),
            peers,
            facts: Facts::default(),
            incarnation,
            version: 0,
            next_digest: now.mono + jittered(DIGEST_PERIOD, &mut rng),
            turns: Vec::new(),
            rng,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Takes a message that `from`, as the mesh authenticated it, sent.
    pub fn handle_message(&mut self, from: &NodeName, message: Message, now: Now) -> Result<(), Refused> {
        let handled = match message {
            Message::Membership(packet) => self.handle_packet(from, &packet, now.mono),
            Message::Delta(updates) => self.handle_delta(updates, now.mono),
            Message::Digest(digest) => self.handle_digest(from, &digest),
            Message::Request(nodes) => self.handle_request(from, &nodes),
        };
        if handled.is_err() {
            self.stats.refused += 1;
        }
        handled
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.membership.handle_timeout(now.mono);
        self.take_changes();
        if now.mono >= self.next_digest {
            self.next_digest = now.mono + self.until_digest();
            let digest = self.facts.digest();
            if let Some(peer) = self.next_in_turn() {
                self.send(peer, Message::Digest(digest));
            }
        }
    }

    /// The next message to send, and to whom.
    pub fn poll_transmit(&mut self) -> Option<(NodeName, Message)> {
        while let Some((to, packet)) = self.membership.poll_packet() {
            // foca remembers the earlier lives of this node as dead members, and calls them now and then.
            if to != self.name {
                return Some((to, Message::Membership(packet)));
            }
        }
        self.outbox.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Gossip::handle_timeout`] again.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        Some(self.membership.next_timeout().min(self.next_digest))
    }

    /// Says something about this node, to be spread to all. Saying it again refreshes it.
    pub fn publish(&mut self, key: FactKey, value: Vec<u8>, now: Now) -> Result<(), PublishError> {
        if value.len() > MAX_VALUE_LEN {
            return Err(PublishError::ValueTooLong { len: value.len() });
        }
        self.version += 1;
        let (node, incarnation, version) = (self.name.clone(), self.incarnation, self.version);
        let update = FactUpdate { node, key, incarnation, version, value };
        if self.facts.merge(update.clone(), now.mono) == Merged::Refused {
            return Err(PublishError::TooManyKeys);
        }
        for peer in self.choose_peers(PUSH_FANOUT) {
            self.send(peer, Message::Delta(vec![update.clone()]));
        }
        Ok(())
    }

    /// All facts held.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The nodes held to be alive, without this one, ordered by name.
    pub fn members(&self) -> BTreeSet<&NodeName> {
        self.membership.alive().filter(|node| **node != self.name).collect()
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn handle_packet(&mut self, from: &NodeName, packet: &[u8], now: Timestamp) -> Result<(), Refused> {
        let before = self.membership.generation();
        let handled = self.membership.handle_packet(from, packet, now);
        self.stats.renewed += u64::from(self.membership.generation() != before);
        self.take_changes();
        handled
    }

    fn handle_delta(&mut self, updates: Vec<FactUpdate>, now: Timestamp) -> Result<(), Refused> {
        if updates.len() > MAX_DELTA {
            return Err(Refused::TooLong { len: updates.len() });
        }
        for update in updates {
            if update.incarnation > MAX_GENERATION || update.version > MAX_GENERATION {
                return Err(Refused::FactRefused { node: update.node });
            }
            if update.node == self.name {
                self.outlive(update.incarnation, now);
                continue;
            }
            let (node, key) = (update.node.clone(), update.key.clone());
            if !self.has_place_for(&node) {
                return Err(Refused::TooManyNodes);
            }
            match self.facts.merge(update, now) {
                Merged::Newer => {
                    self.stats.facts_taken += 1;
                    self.emit(Event::FactChanged { node, key });
                }
                Merged::Known => self.stats.facts_known += 1,
                Merged::Refused => return Err(Refused::FactRefused { node }),
            }
        }
        Ok(())
    }

    fn handle_digest(&mut self, from: &NodeName, digest: &Digest) -> Result<(), Refused> {
        if digest.0.len() > MAX_NODES {
            return Err(Refused::TooLong { len: digest.0.len() });
        }
        let mut difference = self.facts.compare(digest);
        difference.to_request.truncate(MAX_REQUEST);
        if !difference.to_request.is_empty() {
            self.send(from.clone(), Message::Request(difference.to_request));
        }
        difference.to_send.truncate(MAX_REQUEST);
        self.send_facts(from, &difference.to_send);
        Ok(())
    }

    fn handle_request(&mut self, from: &NodeName, nodes: &[NodeName]) -> Result<(), Refused> {
        if nodes.len() > MAX_REQUEST {
            return Err(Refused::TooLong { len: nodes.len() });
        }
        self.send_facts(from, nodes);
        Ok(())
    }

    /// Whether facts about `node` may be held: strangers cannot take the places of configured nodes.
    fn has_place_for(&self, node: &NodeName) -> bool {
        let configured = self.peers.binary_search(node).is_ok();
        configured || self.facts.knows(node) || self.facts.node_count() + self.peers.len() < MAX_NODES
    }

    /// An earlier process of this name got further than this one (its clock was ahead): live after it.
    fn outlive(&mut self, incarnation: u64, now: Timestamp) {
        if incarnation <= self.incarnation {
            return;
        }
        self.stats.renewed += 1;
        self.incarnation = incarnation.saturating_add(1).min(MAX_GENERATION);
        self.membership.live_after(incarnation, now);
        let own = self.facts.updates_of(&self.name);
        for mut update in own {
            update.incarnation = self.incarnation;
            self.facts.merge(update, now);
        }
    }

    fn send_facts(&mut self, to: &NodeName, nodes: &[NodeName]) {
        let mut delta = Vec::new();
        let mut len = 0;
        for update in nodes.iter().flat_map(|node| self.facts.updates_of(node)).collect::<Vec<_>>() {
            let update_len = update.encoded_len_bound();
            if !delta.is_empty() && (len + update_len > MAX_PACKET || delta.len() >= MAX_DELTA) {
                self.send(to.clone(), Message::Delta(std::mem::take(&mut delta)));
                len = 0;
            }
            len += update_len;
            delta.push(update);
        }
        if !delta.is_empty() {
            self.send(to.clone(), Message::Delta(delta));
        }
    }

    fn take_changes(&mut self) {
        while let Some(change) = self.membership.poll_change() {
            match change {
                MemberChange::Up(node) if node != self.name => self.emit(Event::MemberUp(node)),
                MemberChange::Down(node) if node != self.name => self.emit(Event::MemberDown(node)),
                _ => {}
            }
        }
    }

    /// From one digest to the next: whoever is answered by several at once is told everything by each of them.
    fn until_digest(&mut self) -> Duration {
        let turns = DIGEST_FANOUT.min(self.peers.len()).max(1) as u32;
        jittered(DIGEST_PERIOD / turns, &mut self.rng)
    }

    /// The peer that the next digest is for: all of them in an order that is drawn anew each time.
    fn next_in_turn(&mut self) -> Option<NodeName> {
        if self.turns.is_empty() {
            self.turns = self.choose_peers(self.peers.len());
        }
        self.turns.pop()
    }

    fn choose_peers(&mut self, most: usize) -> Vec<NodeName> {
        let mut peers = self.peers.clone();
        for chosen in 0..most.min(peers.len()) {
            let other = self.rng.random_range(chosen..peers.len());
            peers.swap(chosen, other);
        }
        peers.truncate(most);
        peers
    }

    fn send(&mut self, to: NodeName, message: Message) {
        if self.outbox.len() < MAX_QUEUE {
            self.outbox.push_back((to, message));
        } else {
            self.stats.dropped += 1;
        }
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() < MAX_QUEUE {
            self.events.push_back(event);
        } else {
            self.stats.dropped += 1;
        }
    }
}

/// `period` more or less a tenth, so that nodes do not speak in step.
fn jittered(period: Duration, rng: &mut ChaCha8Rng) -> Duration {
    period.mul_f64(rng.random_range(0.9..1.1))
}

/// In such a time so many digests are sent, one after the other to different peers: with up to four nodes to everyone, in
/// larger fleets every node hears three.
const DIGEST_PERIOD: Duration = Duration::from_secs(1);
const DIGEST_FANOUT: usize = 3;

/// Peers that a change is pushed to: everyone up to 20 regions; above, digests carry it on.
const PUSH_FANOUT: usize = 20;

/// Most facts in one delta.
const MAX_DELTA: usize = 64;

/// Most nodes asked for, or answered, at a time; the next digest asks for the rest.
const MAX_REQUEST: usize = 64;

/// Most messages or events that wait for the driver; further ones are dropped and counted, digests repair them.
const MAX_QUEUE: usize = 4096;

#[cfg(test)]
mod tests {
    use portolan_model::WallTime;

    use super::*;

    #[test]
    fn digests_go_to_one_peer_after_the_other_until_all_had_one() {
        let name = |text: &str| NodeName::new(text).expect("a name");
        let peers: BTreeSet<NodeName> = ["b", "c", "d", "e", "f", "g"].into_iter().map(name).collect();
        let at = |ms: u64| Now { mono: Timestamp::from_nanos(ms * 1_000_000), wall: WallTime::from_unix_millis(ms) };
        let mut gossip = Gossip::new(GossipConfig { name: name("a"), peers: peers.clone() }, at(0), 7);
        let mut told = Vec::new();
        for ms in (0..=3_500).step_by(10) {
            gossip.handle_timeout(at(ms));
            let sent = std::iter::from_fn(|| gossip.poll_transmit());
            let digests: Vec<_> = sent.filter(|(_, message)| matches!(message, Message::Digest(_))).collect();
            assert!(digests.len() <= 1, "at {ms} ms");
            told.extend(digests.into_iter().map(|(to, _)| to));
        }
        assert_eq!(told.into_iter().take(peers.len()).collect::<BTreeSet<_>>(), peers);
    }
}
