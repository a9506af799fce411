//! What gossip says to a peer, and how foca's packets are laid out in bytes.
//!
//! Decides framing only. Inside a packet every foca value is a two-byte length followed by that many bytes of the
//! workspace's one codec, so that values can follow each other and damage is found at the value it hits.

use bytes::{Buf, BufMut};
use foca::{Header, Member};
use portolan_model::{
    NodeName,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    Digest, FactUpdate,
    identity::{Identity, MAX_GENERATION},
};

/// Largest membership packet in bytes: with the envelope and QUIC's own bytes it fits the smallest datagram that
/// every path must carry (1200 bytes, RFC 9000 §14).
pub const MAX_PACKET: usize = 1000;

/// One message between two nodes' gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A packet of the membership protocol.
    Membership(Vec<u8>),
    /// Facts that the sender holds and the receiver may lack.
    Delta(Vec<FactUpdate>),
    /// What the sender holds, one line per node.
    Digest(Digest),
    /// Asks for all facts about these nodes.
    Request(Vec<NodeName>),
}

impl Message {
    /// Upper bound of the encoded length in bytes, so that a driver can choose datagram or stream without encoding.
    pub fn encoded_len_bound(&self) -> usize {
        const HEAD: usize = 16;
        HEAD + match self {
            Self::Membership(packet) => packet.len(),
            Self::Delta(updates) => updates.iter().map(FactUpdate::encoded_len_bound).sum(),
            Self::Digest(digest) => digest.encoded_len_bound(),
            Self::Request(nodes) => nodes.iter().map(|node| node.as_str().len() + 1).sum(),
        }
    }
}

/// foca's codec over the workspace's one codec.
#[derive(Clone, Copy, Debug)]
pub struct FocaCodec;

/// Why a value inside a packet is not read or written. Leaves nothing behind.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The packet ends before the value does.
    #[error("the packet ends inside a value")]
    Truncated,
    /// No room is left in the packet.
    #[error("the packet is full")]
    Full,
    /// The bytes are not the value.
    #[error("the value does not decode")]
    Codec(#[from] CodecError),
}

impl foca::Codec<Identity> for FocaCodec {
    type Error = FrameError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), FrameError> {
        put(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, FrameError> {
        take(buf)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), FrameError> {
        put(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, FrameError> {
        take(buf)
    }
}

/// The identities that a packet names, read before foca sees it.
pub struct Mentioned {
    /// Who says to have sent it.
    pub sender: Identity,
    /// Everyone else in it, the receiver included.
    pub others: Vec<Identity>,
}

/// Reads whom `packet` names. Refuses what foca could not read to the end and generations out of range.
pub fn mentioned(packet: &[u8]) -> Result<Mentioned, FrameError> {
    let mut rest = packet;
    let header: Header<Identity> = take(&mut rest)?;
    let mut others = vec![header.dst];
    match header.message {
        foca::Message::PingReq { target, .. } | foca::Message::IndirectAck { target, .. } => others.push(target),
        foca::Message::IndirectPing { origin, .. } | foca::Message::ForwardedAck { origin, .. } => others.push(origin),
        _ => {}
    }
    if rest.len() >= 2 {
        for _ in 0..rest.get_u16() {
            let member: Member<Identity> = take(&mut rest)?;
            others.push(member.id().clone());
        }
    }
    let in_range = |identity: &Identity| identity.generation <= MAX_GENERATION;
    if rest.is_empty() && in_range(&header.src) && others.iter().all(in_range) {
        Ok(Mentioned { sender: header.src, others })
    } else {
        Err(FrameError::Codec(CodecError::Malformed))
    }
}

/// Whether a packet tells its receiver that the sender holds it for dead.
pub fn is_obituary(mut packet: &[u8]) -> bool {
    take::<Header<Identity>>(&mut packet).is_ok_and(|header| header.message == foca::Message::TurnUndead)
}

fn put<T: Serialize>(value: &T, mut buf: impl BufMut) -> Result<(), FrameError> {
    let bytes = codec::encode(value)?;
    let len = u16::try_from(bytes.len()).map_err(|_| FrameError::Full)?;
    if buf.remaining_mut() < bytes.len() + 2 {
        return Err(FrameError::Full);
    }
    buf.put_u16(len);
    buf.put_slice(&bytes);
    Ok(())
}

fn take<T: DeserializeOwned>(mut buf: impl Buf) -> Result<T, FrameError> {
    if buf.remaining() < 2 {
        return Err(FrameError::Truncated);
    }
    let len = usize::from(buf.get_u16());
    if buf.remaining() < len {
        return Err(FrameError::Truncated);
    }
    let bytes = buf.copy_to_bytes(len);
    Ok(codec::decode(&bytes)?)
}
