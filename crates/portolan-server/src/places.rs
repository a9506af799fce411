//! Bounds connections: those of all clients together, and those of one client, so that no single one can hold them all.
//! A network of IPv6 addresses that one client is commonly given counts as one client.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Bits of an IPv6 address that name a client: what networks hand to one subscriber at least (RFC 6177).
const CLIENT_PREFIX: u32 = 64;

/// A number of places; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    open: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    all: usize,
    per_client: usize,
}

/// The right to hold one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    client: IpAddr,
}

impl Places {
    /// As many places in all, and as many of one client at most.
    pub(crate) fn new(all: usize, per_client: usize) -> Self {
        Self { open: Arc::default(), all, per_client }
    }

    /// A place for `address`; `None` when it or all clients have too many.
    pub(crate) fn take(&self, address: IpAddr) -> Option<Place> {
        let client = client(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&client).copied().unwrap_or(0);
        if own >= self.per_client || open.values().sum::<usize>() >= self.all {
            return None;
        }
        open.insert(client, own + 1);
        Some(Place { places: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.remove(&self.client)),
        }
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << CLIENT_PREFIX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_its_share_of_places_and_gives_them_back() {
        let places = Places::new(3, 2);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (one, other) = (address("2001:db8::1"), address("2001:db8::2"));
        let held = [places.take(one), places.take(other)];
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(one).is_none(), "both are of one client");
        let last = places.take(address("192.0.2.1"));
        assert!(last.is_some());
        assert!(places.take(address("192.0.2.2")).is_none(), "all places are taken");
        assert!(places.take(address("::ffff:192.0.2.1")).is_none());
        drop(held);
        assert!(places.take(address("::ffff:192.0.2.1")).is_some(), "its second");
        drop(last);
    }
}
