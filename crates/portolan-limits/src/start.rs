//! What a process of a node begins with: what earlier ones of that node may have spent, and a number above all of theirs.
//! Decided from what is left of them. Never guesses in favour of spending, and never takes a clock's word alone where there
//! is another one.
//!
//! Other nodes of the region listen to the process with the highest number of each node, and take all others for dead: with
//! a number below that of an earlier one a process is not heard. So each of these is enough to be above all of them:
//!
//! * The number of the last one, which is noted beside Raft's data, at every start before anybody hears of it.
//! * The node's incarnation. A node that comes without Raft's data, and so without that note, joins as a new member and is
//!   given the next one; the highest bits are made of it. It is known by then: such a node waits for it.
//! * Civil time, which is not behind what durable marks have closed: for a node whose disk was full when it started last, or
//!   that noted nothing yet. A clock may be behind, so this is the last resort.

use std::time::Duration;

use portolan_model::WallTime;

use crate::marks::{Found, Recovery};

/// What limits start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What earlier processes may have spent.
    pub recovery: Recovery,
    /// This process's number: see [`LimitsConfig::life`](crate::LimitsConfig::life).
    pub life: u64,
}

impl Start {
    /// From what was found of marks, the incarnation that the cluster gave the node (0: not known), the `noted` number of the
    /// process before (`None`: there was none under this member id), and civil time.
    pub fn new(found: Found, incarnation: u64, noted: Option<u64>, wall: WallTime) -> Self {
        let recovery = match found {
            Found::Marks(marks) => Recovery::Marks(marks),
            // Without marks a region has its share at once only if it never existed.
            Found::Nothing if incarnation == 1 && noted.is_none() => Recovery::FirstStart,
            Found::Nothing | Found::Damaged { .. } => Recovery::Lost,
        };
        let closed = match &recovery {
            Recovery::Marks(marks) => marks.floor,
            Recovery::FirstStart | Recovery::Lost => WallTime::default(),
        };
        let noted = noted.unwrap_or_default();
        let incarnation = incarnation.max(incarnation_of(noted));
        let life = life_at(incarnation, wall.max(closed + Duration::from_millis(1))).max(noted.saturating_add(1));
        Self { recovery, life }
    }
}

/// The number of a process that starts at an instant, where nothing is noted: the incarnation, then milliseconds.
fn life_at(incarnation: u64, started: WallTime) -> u64 {
    let millis = started.as_unix_millis().min((1 << MILLIS_BITS) - 1);
    (incarnation.min(MAX_INCARNATION) << (MILLIS_BITS + SPARE_BITS)) | (millis << SPARE_BITS)
}

/// The incarnation in a number: of versions before there was one, 0.
const fn incarnation_of(life: u64) -> u64 {
    life >> (MILLIS_BITS + SPARE_BITS)
}

/// Milliseconds since 1970, until the year 2109.
const MILLIS_BITS: u32 = 42;

/// For processes that start within a millisecond, and while a clock is behind.
const SPARE_BITS: u32 = 16;

/// Later incarnations are told apart by their clocks alone.
const MAX_INCARNATION: u64 = (1 << (u64::BITS - MILLIS_BITS - SPARE_BITS)) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::RecoveredMarks;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 1_800_000_000_000;

    fn wall(millis: u64) -> WallTime {
        WallTime::from_unix_millis(millis)
    }

    fn marks(floor: u64) -> Found {
        Found::Marks(RecoveredMarks { floor: wall(floor), ..RecoveredMarks::default() })
    }

    /// A start after one at noon, with what is left of that.
    fn check(found: Found, incarnation: u64, keeps_note: bool, at: u64) {
        let before = Start::new(Found::Nothing, 1, None, wall(NOON));
        assert_eq!(before.recovery, Recovery::FirstStart);
        let start = Start::new(found.clone(), incarnation, keeps_note.then_some(before.life), wall(at));
        assert_ne!(start.recovery, Recovery::FirstStart);
        assert!(start.life > before.life, "{found:?}, incarnation {incarnation}: {start:?} after {before:?}");
    }

    #[test]
    fn a_process_has_a_number_above_that_of_every_earlier_one_however_far_the_clock_is_behind() {
        let damaged = || Found::Damaged { segment: 0, page: 1 };
        for at in [0, NOON - HOUR, NOON, NOON + HOUR] {
            for incarnation in [0, 1, 2] {
                check(marks(0), incarnation, true, at);
                check(Found::Nothing, incarnation, true, at);
                check(damaged(), incarnation, true, at);
            }
            // Without its disk, or Raft's part of it.
            check(Found::Nothing, 2, false, at);
            check(marks(0), 2, false, at);
        }
    }

    #[test]
    fn a_start_that_a_full_disk_did_not_note_is_followed_by_one_with_a_higher_number() {
        let noted = Start::new(Found::Nothing, 3, Some(0), wall(NOON)).life;
        let unnoted = Start::new(marks(NOON), 3, Some(noted), wall(NOON + HOUR)).life;
        let next = Start::new(marks(NOON + HOUR), 0, Some(noted), wall(NOON)).life;
        assert!(noted < unnoted && unnoted < next, "{noted} {unnoted} {next}");
    }

    #[test]
    fn only_a_region_that_never_existed_starts_with_its_full_share_and_no_marks() {
        let recovery = |found, incarnation, noted| Start::new(found, incarnation, noted, wall(NOON)).recovery;
        assert_eq!(recovery(Found::Nothing, 1, None), Recovery::FirstStart);
        for (incarnation, noted) in [(0, None), (2, None), (1, Some(0)), (1, Some(7))] {
            assert_eq!(recovery(Found::Nothing, incarnation, noted), Recovery::Lost);
        }
        assert_eq!(recovery(Found::Damaged { segment: 0, page: 1 }, 1, None), Recovery::Lost);
        assert!(matches!(recovery(marks(9), 1, None), Recovery::Marks(found) if found.floor == wall(9)));
    }

    #[test]
    fn numbers_grow_with_every_incarnation_and_are_above_those_of_versions_that_had_time_alone() {
        let lives: Vec<u64> = (0..=MAX_INCARNATION).map(|incarnation| life_at(incarnation, wall(NOON))).collect();
        assert!(lives.is_sorted_by(|a, b| a < b));
        assert!(life_at(1, wall(0)) > ((NOON + 1000 * HOUR) << 16) + 0xffff);
        assert!(life_at(u64::MAX, wall(0)) > life_at(MAX_INCARNATION - 1, wall(u64::MAX)));
    }
}
