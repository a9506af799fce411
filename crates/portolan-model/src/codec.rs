//! The one encoding of messages between nodes and of records on disk: bincode through serde, in a versioned envelope
//! with a size limit. Nothing else may name bincode, so that it can be exchanged here alone.
//!
//! Envelope: one byte of version, then the value. A reader refuses versions it does not know.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Version of the envelope and of every type inside; raised when any of them changes.
pub const VERSION: u8 = 1;

/// Largest encoded value in bytes: a whole configuration bundle with room to spare.
pub const MAX_LEN: usize = 4 << 20;

/// Why bytes are not a value, or a value not bytes.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Nothing to read.
    #[error("the message is empty")]
    Empty,
    /// The writer speaks another version.
    #[error("the message has version {version}, this node reads version {VERSION}")]
    UnknownVersion {
        /// Version in the envelope.
        version: u8,
    },
    /// More than [`MAX_LEN`] bytes.
    #[error("the message has {len} bytes, at most {MAX_LEN} are taken")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The bytes do not decode, or bytes are left over.
    #[error("the message does not decode")]
    Malformed,
    /// The value cannot be written.
    #[error("the value does not encode")]
    Unencodable(#[source] bincode::error::EncodeError),
}

/// Encodes `value` in an envelope.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).map_err(CodecError::Unencodable)?;
    if bytes.len() > MAX_LEN {
        return Err(CodecError::TooLong { len: bytes.len() });
    }
    Ok(bytes)
}

/// Decodes a value from an envelope; allocates no more than [`MAX_LEN`] bytes whatever the lengths inside claim.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_LEN {
        return Err(CodecError::TooLong { len: bytes.len() });
    }
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::UnknownVersion { version });
    }
    let (value, read) = bincode::serde::decode_from_slice(body, config()).map_err(|_| CodecError::Malformed)?;
    if read == body.len() { Ok(value) } else { Err(CodecError::Malformed) }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_LEN>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_damage_is_refused() {
        let bytes = encode(&("us-east", 7u64)).expect("encodes");
        assert_eq!(decode::<(String, u64)>(&bytes).expect("decodes"), ("us-east".to_owned(), 7));
        assert!(matches!(decode::<(String, u64)>(&[]), Err(CodecError::Empty)));
        assert!(matches!(decode::<(String, u64)>(&[9, 1]), Err(CodecError::UnknownVersion { version: 9 })));
        assert!(matches!(decode::<(String, u64)>(&bytes[..4]), Err(CodecError::Malformed)));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode::<(String, u64)>(&longer), Err(CodecError::Malformed)));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&[253, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Malformed)));
    }
}
