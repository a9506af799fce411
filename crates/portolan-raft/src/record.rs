//! Records with a checksum, so that a flipped bit on disk is found and never believed. The checksum covers the place of a
//! record too: one that turns up under another key is damaged.

use portolan_model::{
    HashKey,
    codec::{self, CodecError},
};
use serde::{Serialize, de::DeserializeOwned};

/// Not a secret: the checksum finds accidents, not attackers.
const CHECKSUM: HashKey = HashKey::new(*b"portolan records");
const CHECKSUM_LEN: usize = 16;

/// Encodes `value` for the place `key`.
pub fn seal<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(seal_bytes(key, codec::encode(value)?))
}

/// Decodes the record found at the place `key`; `None` when it is damaged.
pub fn open<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Option<T> {
    codec::decode(open_bytes(key, record)?).ok()
}

/// Adds the checksum to bytes of any length.
pub fn seal_bytes(key: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = CHECKSUM.hash(&[key, &bytes]);
    bytes.extend_from_slice(&checksum.0.to_le_bytes());
    bytes
}

/// Takes the checksum off; `None` when it does not match.
pub fn open_bytes<'a>(key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (bytes, checksum) = record.split_last_chunk::<CHECKSUM_LEN>()?;
    (CHECKSUM.hash(&[key, bytes]).0.to_le_bytes() == *checksum).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found_and_so_is_a_record_in_another_place() {
        let record = seal(b"vote", &(7u64, "us-east")).expect("encodes");
        assert_eq!(open::<(u64, String)>(b"vote", &record), Some((7, "us-east".to_owned())));
        assert_eq!(open::<(u64, String)>(b"committed", &record), None);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open::<(u64, String)>(b"vote", &damaged), None, "bit {bit}");
        }
    }
}
