//! Counts that the state machine keeps, for metrics.

use serde::{Deserialize, Serialize};

/// Counts since the start, and some readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Messages taken in.
    pub messages: u64,
    /// Messages refused.
    pub rejected: u64,
    /// Rows of other regions that raised a cell.
    pub rows_raised: u64,
    /// Rows that found no room.
    pub rows_full: u64,
    /// Rows and messages of slots that were over.
    pub dropped_late: u64,
    /// Digests that differed from ours.
    pub digest_mismatches: u64,
    /// Messages dropped because too many were waiting.
    pub messages_dropped: u64,
    /// Rows sent, to all regions together, and their bytes.
    pub rows_sent: u64,
    /// Bytes of the rows sent.
    pub row_bytes: u64,
    /// Rounds in which rows waited because a region's byte budget was spent.
    pub rows_deferred: u64,
    /// Rows with loans that were told again for lack of an acknowledgement.
    pub loans_repeated: u64,
    /// Most rows that ever waited to be told.
    pub unsent_most: u64,
    /// Charges to a counter shared by keys for lack of room.
    pub overflowed: u64,
    /// Keys under pressure that were not watched for lack of room.
    pub watches_full: u64,
    /// Marks there was no room for: more limits of long windows were spent at one time than there are marks.
    pub marks_full: u64,
    /// Times a region's clock was found too far ahead.
    pub clocks_ahead: u64,
    /// Times our own clock was found far ahead of most others of the fleet.
    pub clock_leaps: u64,
    /// Times an owner was asked for units, and units granted to other nodes of the region.
    pub asks: u64,
    /// See [`Stats::asks`].
    pub granted: u64,
    /// Durable writes asked for.
    pub mark_writes: u64,
    /// Units lent to other regions, over all limits.
    pub lent: u64,
    /// Units borrowed from other regions, over all limits.
    pub borrowed: u64,
    /// Units that rights were raised by beyond base and loans, over all limits.
    pub overdraft: u64,
    /// Units found consumed above a quota by all regions together, over all limits.
    pub overshoot: u64,
    /// Units refused while the merged view was below the quota: an estimate of false rejects, over all limits.
    pub refused_below: u64,
    /// Keys under pressure at present.
    pub watched: u64,
    /// Keys that some region has told of at present.
    pub accounts: u64,
}
