//! A snapshot as it lies in memory and in its file. Decides the layout: length of the description, the description, the
//! state, a checksum over all.

use std::sync::Arc;

use portolan_model::codec;

use crate::{record, types::SnapshotMeta};

/// Place of a snapshot for its checksum.
const PLACE: &[u8] = b"snapshot";

/// The state after some log entry, and which entry that was.
#[derive(Clone, Debug)]
pub struct SavedSnapshot {
    pub meta: SnapshotMeta,
    /// `Intent::to_bytes`.
    pub state: Arc<[u8]>,
}

impl SavedSnapshot {
    /// Writes the file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let meta = codec::encode(&self.meta).expect("a membership is far below the codec's limit");
        let len = u32::try_from(meta.len()).expect("below the codec's limit");
        let mut bytes = Vec::with_capacity(meta.len() + self.state.len() + 32);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&meta);
        bytes.extend_from_slice(&self.state);
        record::seal_bytes(PLACE, bytes)
    }

    /// Reads a file's content; `None` when it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = record::open_bytes(PLACE, bytes)?.split_first_chunk::<4>()?;
        let (meta, state) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        Some(Self { meta: codec::decode(meta).ok()?, state: state.into() })
    }
}
