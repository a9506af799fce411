//! Decides which first packets start a handshake, which costs a signature and a place for seconds. Source addresses of
//! first packets can be forged, so beyond a few places an address has to be shown first (Retry, RFC 9000 §8.1.2).
//!
//! Never lets strangers use the places of peers: those are kept for the addresses that the node file names.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes from peers' addresses that have not been shown yet: a fleet that starts dials at once, without a further
/// round trip. Forged ones fill these and no others.
const UNSHOWN: usize = 16;

/// Handshakes from peers' addresses that have been shown.
const PEERS: usize = 64;

/// Handshakes from other addresses, shown: peers behind an address translation, and strangers.
const STRANGERS: usize = 16;

/// The places for handshakes.
pub(super) struct Gate {
    addresses: BTreeSet<IpAddr>,
    unshown: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// What becomes of a first packet.
#[derive(Debug)]
pub(super) enum Entry {
    /// It starts a handshake, which holds the place until it ends.
    Handshake(OwnedSemaphorePermit),
    /// Its sender must show that it receives at this address, which costs this node nothing.
    ShowAddress,
    /// It is refused.
    Full,
}

impl Gate {
    /// A gate that knows the peers' addresses.
    pub(super) fn new(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            addresses: addresses.collect(),
            unshown: places(UNSHOWN),
            peers: places(PEERS),
            strangers: places(STRANGERS),
        }
    }

    /// What becomes of a first packet from `address`; `shown` when it came with a token sent there.
    pub(super) fn enter(&self, address: IpAddr, shown: bool) -> Entry {
        let places = match (self.addresses.contains(&address), shown) {
            (true, true) => &self.peers,
            (true, false) => &self.unshown,
            (false, true) => &self.strangers,
            (false, false) => return Entry::ShowAddress,
        };
        match Arc::clone(places).try_acquire_owned() {
            Ok(permit) => Entry::Handshake(permit),
            Err(_) if shown => Entry::Full,
            Err(_) => Entry::ShowAddress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    /// Enters until no more handshakes start, and tells how many did and what then came.
    fn fill(gate: &Gate, address: IpAddr, shown: bool, held: &mut Vec<OwnedSemaphorePermit>) -> (usize, Entry) {
        let before = held.len();
        loop {
            match gate.enter(address, shown) {
                Entry::Handshake(permit) => held.push(permit),
                entry => return (held.len() - before, entry),
            }
        }
    }

    #[test]
    fn neither_forged_addresses_nor_strangers_take_the_places_of_peers() {
        let gate = Gate::new([PEER].into_iter());
        let mut held = Vec::new();
        assert!(matches!(fill(&gate, STRANGER, false, &mut held), (0, Entry::ShowAddress)));
        assert!(matches!(fill(&gate, STRANGER, true, &mut held), (STRANGERS, Entry::Full)));
        assert!(matches!(fill(&gate, PEER, false, &mut held), (UNSHOWN, Entry::ShowAddress)));
        assert!(matches!(fill(&gate, PEER, true, &mut held), (PEERS, Entry::Full)));
        held.clear();
        assert!(matches!(gate.enter(PEER, false), Entry::Handshake(_)));
    }
}
