//! Durable marks: what a process writes before it spends, and what the next one reads back.

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::key::Key;

/// Number of a write; the driver reports the highest that is on disk together with all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkSequence(pub u64);

/// The highest spend a key may reach in a slot before a higher mark is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// The spend.
    pub spent: u64,
    /// First instant after the slot; the mark means nothing once [`MarkWrite::floor`] has reached it.
    pub ends: WallTime,
}

/// One write that must be on disk before its content is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkWrite {
    /// Its number.
    pub sequence: MarkSequence,
    /// Slots that begin before this may be spent.
    pub horizon: WallTime,
    /// Slots that end by this are over for this process and all later ones.
    pub floor: WallTime,
    /// Marks raised.
    pub marks: Vec<Mark>,
}

/// What was found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredMarks {
    /// Highest durable horizon.
    pub horizon: WallTime,
    /// Highest durable floor.
    pub floor: WallTime,
    /// Highest mark per limit, key and slot.
    pub marks: Vec<Mark>,
}

/// What is known of the process before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The region never existed: its full share is there at once.
    FirstStart,
    /// Its marks were found whole.
    Marks(RecoveredMarks),
    /// Its marks were lost or damaged: no rights in any slot it may have spent.
    Lost,
}
