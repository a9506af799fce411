//! What a run leaves behind: a hash over every packet, verdict and fault, equal for equal runs, and a short list of
//! events for people.

use std::fmt;
use std::hash::Hasher;

use portolan_model::Timestamp;
use serde::Serialize;
use siphasher::sip128::{Hasher128, SipHasher13};

/// Events kept for people; the hash goes on beyond.
const MAX_EVENTS: usize = 2000;

/// The record of one run.
#[derive(Default)]
pub struct Trace {
    hasher: SipHasher13,
    events: Vec<TimedEvent>,
    dropped: usize,
    /// Packets by fate.
    pub packets: PacketCounts,
}

/// Something worth reading in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimedEvent {
    /// Milliseconds from the start.
    pub at_ms: u64,
    /// What happened.
    pub what: String,
}

/// How many packets met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PacketCounts {
    /// Arrived at a running node.
    pub delivered: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Swallowed by a cut, or sent to a node that was down.
    pub cut: u64,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived at a running node.
    Delivered,
    /// It was lost on the way.
    Lost,
    /// A cut swallowed it.
    Cut,
    /// Its target was down.
    NoNode,
}

impl Fate {
    /// In one word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "packet",
            Self::Lost => "lost",
            Self::Cut => "cut",
            Self::NoNode => "no-node",
        }
    }
}

impl Trace {
    /// Takes a packet down at the moment its fate is known: who sends what kind to whom.
    pub fn packet(&mut self, at: Timestamp, from: usize, to: usize, kind: u8, fate: Fate) {
        match fate {
            Fate::Delivered => self.packets.delivered += 1,
            Fate::Lost => self.packets.lost += 1,
            Fate::Cut | Fate::NoNode => self.packets.cut += 1,
        }
        self.hasher.write_u64(at.as_nanos());
        self.hasher.write_u64((from as u64) << 40 | (to as u64) << 16 | u64::from(kind) << 8 | fate as u64);
    }

    /// Takes numbers down that stand for something a run decided.
    pub fn numbers(&mut self, numbers: [u64; 2]) {
        numbers.iter().for_each(|number| self.hasher.write_u64(*number));
    }

    /// Takes an event down.
    pub fn event(&mut self, at: Timestamp, what: impl fmt::Display) {
        let what = what.to_string();
        self.hasher.write_u64(at.as_nanos());
        self.hasher.write(what.as_bytes());
        if self.events.len() < MAX_EVENTS {
            self.events.push(TimedEvent { at_ms: at.as_nanos() / 1_000_000, what });
        } else {
            self.dropped += 1;
        }
    }

    /// The hash so far, in hexadecimal.
    pub fn hash(&self) -> String {
        format!("{:032x}", self.hasher.finish128().as_u128())
    }

    /// The events, with a last line when some were left out.
    pub fn into_events(self) -> Vec<TimedEvent> {
        let mut events = self.events;
        if let Some(last) = events.last().filter(|_| self.dropped > 0) {
            let what = format!("{} more events are not listed", self.dropped);
            events.push(TimedEvent { at_ms: last.at_ms, what });
        }
        events
    }
}
