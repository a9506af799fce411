//! Runs foca without a runtime: its effects go to queues, its timers to a map that the driver's clock walks.
//!
//! Decides the pace of probing for 3 to 20 regions, and that a node which nobody has answered under its current life
//! goes on announcing itself (foca announces once, with one packet). Never sends, never waits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Config, Foca, NoCustomBroadcast, Notification, OwnedNotification, PeriodicParams, Runtime, Timer};
use portolan_model::{NodeName, Timestamp};
use rand_chacha::ChaCha8Rng;

use crate::{
    MAX_NODES,
    gossip::Refused,
    identity::Identity,
    message::{FocaCodec, MAX_PACKET, is_obituary, mentioned},
};

/// The SWIM member list of one node.
pub struct Membership {
    foca: Foca<Identity, FocaCodec, ChaCha8Rng, NoCustomBroadcast>,
    effects: Effects,
    timers: BTreeMap<(Timestamp, u64), Timer<Identity>>,
    next_timer: u64,
    /// Names ever named to foca: bounds its member list, which foca itself does not.
    named: BTreeSet<NodeName>,
    next_announce: Timestamp,
    contacts: Vec<NodeName>,
}

/// A change of the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The node is alive.
    Up(NodeName),
    /// The cluster declared the node down.
    Down(NodeName),
}

#[derive(Default)]
struct Effects {
    packets: VecDeque<(Identity, Vec<u8>)>,
    /// Whether a member has answered this life of the node. Without one foca neither probes nor gossips.
    connected: bool,
    submitted: Vec<(Duration, Timer<Identity>)>,
    notifications: VecDeque<OwnedNotification<Identity>>,
}

impl Membership {
    /// Starts alone; `contacts` are announced to until one of them is a member.
    pub fn new(identity: Identity, contacts: Vec<NodeName>, rng: ChaCha8Rng, now: Timestamp) -> Self {
        Self {
            foca: Foca::new(identity, config(), rng, FocaCodec),
            effects: Effects::default(),
            timers: BTreeMap::new(),
            next_timer: 0,
            // From the start, so that strangers cannot take the places of configured nodes.
            named: contacts.iter().cloned().collect(),
            next_announce: now,
            contacts,
        }
    }

    /// Takes a packet that `from`, as the mesh authenticated it, sent.
    pub fn handle_packet(&mut self, from: &NodeName, packet: &[u8], now: Timestamp) -> Result<(), Refused> {
        if packet.len() > MAX_PACKET {
            return Err(Refused::TooLong { len: packet.len() });
        }
        let mentioned = mentioned(packet).map_err(|_| Refused::Malformed)?;
        if mentioned.sender.node != *from {
            return Err(Refused::Impostor { claimed: mentioned.sender.node });
        }
        let me = self.foca.identity().clone();
        let all = mentioned.others.iter().chain([&mentioned.sender]);
        let mut unknown = BTreeSet::new();
        let mut own_generation = me.generation;
        for identity in all {
            if identity.node == me.node {
                own_generation = own_generation.max(identity.generation);
            } else if !self.named.contains(&identity.node) {
                unknown.insert(identity.node.clone());
            }
        }
        if self.named.len() + unknown.len() > MAX_NODES {
            return Err(Refused::TooManyNodes);
        }
        self.named.append(&mut unknown);
        self.live_after(own_generation, now);
        let handled = self.foca.handle_data(packet, &mut self.effects);
        self.schedule(now);
        handled.map_err(|_| Refused::Malformed)
    }

    /// Takes a generation above `seen`: peers remember a life of ours that our clock says is still to come.
    pub fn live_after(&mut self, seen: u64, now: Timestamp) {
        let me = self.foca.identity();
        if seen > me.generation {
            let next = Identity { node: me.node.clone(), generation: seen.saturating_add(1) };
            // Fails only for the identity already held, which is smaller.
            let _ = self.foca.change_identity(next, &mut self.effects);
            self.effects.connected = false;
            self.schedule(now);
        }
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if now >= self.next_announce {
            self.next_announce = now + ANNOUNCE_RETRY;
            if !self.effects.connected {
                for node in self.contacts.clone() {
                    // An announcement is taken by whichever life the name has.
                    let _ = self.foca.announce(Identity { node, generation: 0 }, &mut self.effects);
                }
            }
        }
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            // foca recovers by itself from what it reports here (a probe cycle cut short by a late timer).
            let _ = self.foca.handle_timer(entry.remove(), &mut self.effects);
            self.schedule(now);
        }
    }

    /// When to call [`Membership::handle_timeout`] again.
    pub fn next_timeout(&self) -> Timestamp {
        let timer = self.timers.first_key_value().map(|(&(at, _), _)| at);
        timer.map_or(self.next_announce, |at| at.min(self.next_announce))
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<(NodeName, Vec<u8>)> {
        while let Some((to, packet)) = self.effects.packets.pop_front() {
            if !self.is_false_obituary(&to, &packet) {
                return Some((to.node, packet));
            }
        }
        None
    }

    /// The next change of the member list.
    pub fn poll_change(&mut self) -> Option<MemberChange> {
        loop {
            match self.effects.notifications.pop_front()? {
                OwnedNotification::MemberUp(member) => return Some(MemberChange::Up(member.node)),
                OwnedNotification::MemberDown(member) => return Some(MemberChange::Down(member.node)),
                _ => {}
            }
        }
    }

    /// The nodes held to be alive, in foca's order: sort before showing.
    pub fn alive(&self) -> impl Iterator<Item = &NodeName> {
        self.foca.iter_members().map(|member| &member.id().node)
    }

    /// Which life of this node runs.
    pub fn generation(&self) -> u64 {
        self.foca.identity().generation
    }

    /// foca 2.0 tells a member that it is down whenever the time to refute a suspicion is over, refuted or not. A member
    /// that believed it would start a further life, and be without probes until somebody answers that one.
    fn is_false_obituary(&self, to: &Identity, packet: &[u8]) -> bool {
        is_obituary(packet) && self.foca.iter_members().any(|member| member.id() == to)
    }

    fn schedule(&mut self, now: Timestamp) {
        for (after, timer) in self.effects.submitted.drain(..) {
            // At the bound a timer is lost: at worst a dead node is remembered for longer.
            if self.timers.len() < MAX_TIMERS {
                self.timers.insert((now + after, self.next_timer), timer);
                self.next_timer += 1;
            }
        }
    }
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::Active => self.connected = true,
            Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => self.connected = false,
            _ => {}
        }
        if self.notifications.len() < MAX_QUEUE {
            self.notifications.push_back(notification.to_owned());
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        if self.packets.len() < MAX_QUEUE {
            self.packets.push_back((to, data.to_vec()));
        }
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.submitted.push((after, event));
    }
}

/// Death is known after a probe period, the rest of the probe's and the suspicion: 4 to 7 s with three regions.
/// The round trip between the farthest regions (about 250 ms) fits the direct probe twice.
fn config() -> Config {
    const THREE: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");
    Config {
        probe_period: Duration::from_millis(1200),
        probe_rtt: Duration::from_millis(500),
        num_indirect_probes: THREE,
        max_transmissions: NonZeroU8::new(6).expect("six is not zero"),
        suspect_to_down_after: Duration::from_secs(3),
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: NonZeroUsize::new(MAX_PACKET).expect("a packet is not empty"),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(10), num_members: NonZeroUsize::MIN }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(2),
            num_members: THREE,
        }),
        periodic_gossip: Some(PeriodicParams { frequency: Duration::from_millis(300), num_members: THREE }),
    }
}

/// How often a node that nobody answers announces itself.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);

/// Most packets or notifications that wait for the driver; further ones are dropped, as a lossy network would.
const MAX_QUEUE: usize = 4096;

/// Most timers: a few per node.
const MAX_TIMERS: usize = 4 * MAX_NODES;
