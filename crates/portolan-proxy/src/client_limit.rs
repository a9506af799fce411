//! Decides whether a client address may cost this node anything at all: a token bucket per address, checked when a
//! connection arrives and before each request, ahead of TLS, authentication and every other costly step.
//!
//! Never allocates after start and takes no lock: a fixed table of atomics shared by all workers. Per node, not per fleet.
//! Algorithm: GCRA (ITU-T I.371), whose whole state is the theoretical arrival time of the next conforming request.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use portolan_model::{HashKey, Rate, Timestamp};

/// Buckets in the table, a power of two: 1 MiB of memory, for 65 536 clients that are over their idle rate at once.
const BUCKETS: usize = 1 << 16;

/// Buckets an address may use.
const WAYS: usize = 4;

/// The bucket table of one node.
#[derive(Debug)]
pub struct ClientLimit {
    key: HashKey,
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Which address uses it; 0 for none.
    tag: AtomicU64,
    /// Theoretical arrival time in nanoseconds. In the past: the bucket is full, so nothing is lost by giving it away.
    arrival: AtomicU64,
}

/// The verdict on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Under the limit, and counted.
    Allow,
    /// Over it, and not counted.
    Deny {
        /// When the next request would be allowed.
        retry_after: Duration,
    },
}

impl ClientLimit {
    /// An empty table. `key` keeps clients from choosing whom they collide with.
    pub fn new(key: HashKey) -> Self {
        Self { key, buckets: (0..BUCKETS).map(|_| Bucket::default()).collect() }
    }

    /// Counts one request of `client` under `rate`. A client may use a whole period's requests at once.
    ///
    /// When all four buckets of an address are in use by others it shares one of them: a collision refuses early, it
    /// never lets a flood through.
    pub fn admit(&self, client: IpAddr, rate: Rate, now: Timestamp) -> Verdict {
        if rate.count == 0 {
            return Verdict::Deny { retry_after: rate.per };
        }
        let period = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        let cost = (period / rate.count).max(1);
        let bucket = self.bucket(client, now.as_nanos());
        let mut arrival = bucket.arrival.load(Relaxed);
        loop {
            let next = arrival.max(now.as_nanos()).saturating_add(cost);
            let ahead = next - now.as_nanos();
            if ahead > period {
                return Verdict::Deny { retry_after: Duration::from_nanos(ahead - period) };
            }
            match bucket.arrival.compare_exchange_weak(arrival, next, Relaxed, Relaxed) {
                Ok(_) => return Verdict::Allow,
                Err(seen) => arrival = seen,
            }
        }
    }

    fn bucket(&self, client: IpAddr, now: u64) -> &Bucket {
        let hash = self.hash(client);
        let tag = (hash >> 64) as u64 | 1;
        let start = hash as usize & (BUCKETS - 1) & !(WAYS - 1);
        let ways = &self.buckets[start..start + WAYS];
        if let Some(own) = ways.iter().find(|bucket| bucket.tag.load(Relaxed) == tag) {
            return own;
        }
        for bucket in ways.iter().filter(|bucket| bucket.arrival.load(Relaxed) <= now) {
            let seen = bucket.tag.load(Relaxed);
            if bucket.tag.compare_exchange(seen, tag, Relaxed, Relaxed).is_ok() {
                return bucket;
            }
        }
        &ways[tag as usize >> 1 & (WAYS - 1)]
    }

    /// IPv6 clients are counted by /64, the smallest network a site is given (RFC 6177): one host has 2^64 addresses.
    fn hash(&self, client: IpAddr) -> u128 {
        match client.to_canonical() {
            IpAddr::V4(address) => self.key.hash(&[&address.octets()]).0,
            IpAddr::V6(address) => self.key.hash(&[&address.octets()[..8]]).0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 10, per: Duration::from_secs(1) };

    fn admitted(limit: &ClientLimit, client: &str, tries: u32, at: Duration) -> u32 {
        let (client, now) = (client.parse().expect("an address"), Timestamp::ZERO + Duration::from_secs(9) + at);
        (0..tries).filter(|_| limit.admit(client, RATE, now) == Verdict::Allow).count() as u32
    }

    #[test]
    fn a_client_gets_its_rate_and_no_more() {
        let limit = ClientLimit::new(HashKey::new([7; 16]));
        assert_eq!(admitted(&limit, "192.0.2.1", 30, Duration::ZERO), 10);
        assert_eq!(admitted(&limit, "192.0.2.1", 30, Duration::from_millis(500)), 5);
        assert_eq!(admitted(&limit, "192.0.2.1", 30, Duration::from_secs(60)), 10);
        assert_eq!(admitted(&limit, "192.0.2.2", 30, Duration::ZERO), 10);
    }

    #[test]
    fn addresses_of_one_ipv6_site_share_a_bucket() {
        let limit = ClientLimit::new(HashKey::new([7; 16]));
        assert_eq!(admitted(&limit, "2001:db8::1", 8, Duration::ZERO), 8);
        assert_eq!(admitted(&limit, "2001:db8::2", 8, Duration::ZERO), 2);
        assert_eq!(admitted(&limit, "2001:db8:0:1::1", 8, Duration::ZERO), 8);
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        let limit = ClientLimit::new(HashKey::new([7; 16]));
        assert_eq!(admitted(&limit, "192.0.2.1", 8, Duration::ZERO), 8);
        assert_eq!(admitted(&limit, "::ffff:192.0.2.1", 8, Duration::ZERO), 2);
    }

    #[test]
    fn a_flood_of_addresses_frees_no_bucket_that_is_in_use() {
        let limit = ClientLimit::new(HashKey::new([7; 16]));
        assert_eq!(admitted(&limit, "192.0.2.1", 10, Duration::ZERO), 10);
        for high in 0..=255 {
            for low in 0..=255 {
                admitted(&limit, &format!("10.1.{high}.{low}"), 1, Duration::ZERO);
            }
        }
        assert_eq!(admitted(&limit, "192.0.2.1", 10, Duration::ZERO), 0);
    }
}
