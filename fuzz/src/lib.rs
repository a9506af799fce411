//! What must hold for any bytes that peers or people send. One function per target; `fuzz_targets/` feeds them from
//! libFuzzer, and `tests/fuzz` runs the corpora through them with the ordinary toolchain.
//!
//! `cargo +nightly fuzz run TARGET` in the repository's root; `corpus/TARGET` holds the documents to start from. What
//! correct peers say to each other is made anew by each run of `tests/fuzz`: stored, it would be of another version soon.

mod documents;
mod gossip;
mod limits;

pub use documents::{gateway, scenario};
pub use gossip::{gossip_conversation, gossip_messages};
pub use limits::{limits_conversation, limits_messages};

/// Cuts an input into records: one byte for whoever reads it, two for the length, and as many bytes as there are.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[tag, low, high], rest) = bytes.split_first_chunk()?;
        let (record, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([low, high]).into()));
        bytes = rest;
        Some((tag, record))
    })
}

/// Appends a record that holds a message.
fn record<T: serde::Serialize>(input: &mut Vec<u8>, tag: u8, message: &T) {
    let encoded = portolan_model::codec::encode(message).expect("own messages encode");
    let len = u16::try_from(encoded.len()).expect("a message fits a datagram");
    input.push(tag);
    input.extend_from_slice(&len.to_le_bytes());
    input.extend_from_slice(&encoded);
}
