//! Decides how many connections the node holds, and how many of them one client address may hold: one that opens more
//! than its part must not lock the others out.
//!
//! Never touched by a request, only when a connection begins or ends, so a lock serves. Holds no more entries than there
//! are connections.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The connections of one node, by client.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    max_per_client: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_client: BTreeMap<IpAddr, u32>,
}

/// Why a connection gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The node has as many as it takes.
    Node,
    /// This client has as many as one may have.
    Client,
}

impl Places {
    pub fn new(max: usize, max_per_client: u32) -> Self {
        Self { max, max_per_client, held: Mutex::default() }
    }

    /// Takes a place for a connection from `client`, to be given back with [`Places::leave`].
    pub fn enter(&self, client: IpAddr) -> Result<(), Full> {
        let mut held = self.held();
        if held.total >= self.max {
            return Err(Full::Node);
        }
        let count = held.by_client.entry(site(client)).or_default();
        if *count >= self.max_per_client {
            return Err(Full::Client);
        }
        *count += 1;
        held.total += 1;
        Ok(())
    }

    pub fn leave(&self, client: IpAddr) {
        let mut held = self.held();
        if let Entry::Occupied(mut entry) = held.by_client.entry(site(client)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
            held.total -= 1;
        }
    }

    /// Connections held now.
    pub fn total(&self) -> usize {
        self.held().total
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// IPv6 clients are counted by /64, the smallest network a site is given (RFC 6177).
fn site(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_places_for_others() {
        let places = Places::new(5, 2);
        let enter = |client: &str| places.enter(client.parse().expect("an address"));
        assert_eq!([enter("192.0.2.1"), enter("::ffff:192.0.2.1")], [Ok(()), Ok(())]);
        assert_eq!(enter("192.0.2.1"), Err(Full::Client));
        assert_eq!([enter("2001:db8::1"), enter("2001:db8::2")], [Ok(()), Ok(())]);
        assert_eq!(enter("2001:db8::3"), Err(Full::Client), "a /64 is one client");
        assert_eq!(enter("2001:db8:0:1::1"), Ok(()));
        assert_eq!(enter("192.0.2.2"), Err(Full::Node));
    }

    #[test]
    fn a_place_that_is_left_is_free_again_and_forgotten() {
        let places = Places::new(5, 1);
        let client = "192.0.2.1".parse().expect("an address");
        for _ in 0..3 {
            assert_eq!(places.enter(client), Ok(()));
            assert_eq!(places.total(), 1);
            places.leave(client);
        }
        assert!(places.held().by_client.is_empty());
    }
}
