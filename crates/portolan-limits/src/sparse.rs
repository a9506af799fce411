//! How the digests of a slot stand in a message: a bit for each bucket that has one, then 8 bytes for each of these. Nodes
//! of large regions share few shards, and so most of their buckets are empty.

use serde::{Deserializer, Serializer, de};

use crate::message::DIGEST_BUCKETS;

/// Writes digests as bytes.
pub(crate) fn serialize<S: Serializer>(buckets: &[u64; DIGEST_BUCKETS], serializer: S) -> Result<S::Ok, S::Error> {
    let used = || buckets.iter().enumerate().filter(|&(_, &digest)| digest != 0);
    let bits = used().fold(0u16, |bits, (bucket, _)| bits | 1 << bucket);
    let mut bytes = bits.to_le_bytes().to_vec();
    used().for_each(|(_, digest)| bytes.extend_from_slice(&digest.to_le_bytes()));
    serializer.serialize_bytes(&bytes)
}

/// Reads digests from bytes.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u64; DIGEST_BUCKETS], D::Error> {
    deserializer.deserialize_byte_buf(DigestsVisitor)
}

struct DigestsVisitor;

impl de::Visitor<'_> for DigestsVisitor {
    type Value = [u64; DIGEST_BUCKETS];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("digests of a slot")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        read(bytes).ok_or_else(|| E::custom("the digests do not read"))
    }
}

fn read(mut bytes: &[u8]) -> Option<[u64; DIGEST_BUCKETS]> {
    let bits = u16::from_le_bytes(*bytes.split_off(..2)?.first_chunk()?);
    let mut buckets = [0; DIGEST_BUCKETS];
    for (_, bucket) in buckets.iter_mut().enumerate().filter(|(at, _)| bits >> at & 1 == 1) {
        *bucket = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
    }
    bytes.is_empty().then_some(buckets)
}

#[cfg(test)]
mod tests {
    use portolan_config::LimitId;
    use portolan_model::codec;
    use proptest::prelude::*;

    use super::*;
    use crate::message::SlotSummary;

    proptest! {
        #[test]
        fn digests_read_back(buckets: [u64; DIGEST_BUCKETS], kept: u16) {
            let of = |at: usize| if kept >> at & 1 == 1 { buckets[at] } else { 0 };
            let summary =
                SlotSummary { limit: LimitId(7), slot: 1_767_225_644, buckets: std::array::from_fn(of), restarted: true };
            let bytes = codec::encode(&summary).expect("it encodes");
            prop_assert!(bytes.len() <= 154);
            prop_assert_eq!(codec::decode::<SlotSummary>(&bytes).expect("it decodes"), summary);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            let _ = read(&bytes);
        }
    }
}
