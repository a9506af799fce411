//! Durable marks on disk: what a process writes before it spends, and what the next one reads back.
//!
//! Two segments of fixed size, written in place page by page, so that a full disk does not stop them. A write is one
//! page; when a segment is full the marks still alive are copied to the other one under a higher generation. Marks are
//! maxima, so reading both segments and taking the highest of everything is always safe: a half-finished copy or a page
//! written twice changes nothing. A damaged page that valid ones follow is damage; a damaged last page is a write that
//! was never reported durable. Reads and writes no file: the driver moves the bytes.

use std::{cmp::Ordering, collections::BTreeMap};

use portolan_config::LimitId;
use portolan_model::{HashKey, WallTime};
use serde::{Deserialize, Serialize};

use crate::{
    key::Key,
    region::{Shard, ShardSet},
};

/// Number of a write; the driver reports the highest that is on disk together with all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkSequence(pub u64);

/// The highest spend a key may reach in a slot before a higher mark is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The limit.
    pub limit: LimitId,
    /// The counter.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// The spend.
    pub spent: u64,
    /// The mark means nothing once [`MarkWrite::floor`] has reached this: the end of the slot, or of the next one if that
    /// carries it over.
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
    /// Slots that begin before this give no rights: what was spent of them was lost with an older process's marks.
    pub closed: WallTime,
    /// The epoch of the region's roster under which it was written.
    pub epoch: u64,
    /// The shards of the region's keys that this process spends from under that epoch, once the write is durable.
    pub held: ShardSet,
    /// The shards that this node owns or stands by for under that epoch, and of which every earlier epoch is over: of each
    /// somebody without whom nobody can spend under it is bound by a later one.
    pub seated: ShardSet,
    /// Marks raised, at most [`MARKS_PER_PAGE`].
    pub marks: Vec<Mark>,
}

/// What was found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredMarks {
    /// Highest durable horizon.
    pub horizon: WallTime,
    /// Highest durable floor.
    pub floor: WallTime,
    /// Highest instant before which slots are closed.
    pub closed: WallTime,
    /// The roster's epoch of the last write, and the shards that were spent from under it.
    pub epoch: u64,
    /// See [`MarkWrite::held`].
    pub held: ShardSet,
    /// See [`MarkWrite::seated`].
    pub seated: ShardSet,
    /// Highest mark per limit, key and slot that is not over.
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

/// What the two segments hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was ever written.
    Nothing,
    /// Marks, whole.
    Marks(RecoveredMarks),
    /// Marks that were reported durable are gone.
    Damaged {
        /// The segment.
        segment: usize,
        /// The page in it.
        page: usize,
    },
}

/// Bytes to write in place: write all of a [`MarkLog::append`] and make the file durable before the next append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// 0 or 1.
    pub segment: usize,
    /// From the start of the segment.
    pub offset: u64,
    /// [`PAGE_LEN`] bytes.
    pub bytes: Vec<u8>,
}

/// Lays marks out in the two segments.
#[derive(Debug)]
pub struct MarkLog {
    segment: usize,
    generation: u64,
    next_page: usize,
    copy_pages: usize,
    found: RecoveredMarks,
    marks: BTreeMap<(LimitId, Key, u64), Mark>,
}

/// Bytes of a page, the unit of damage.
pub const PAGE_LEN: usize = 4096;

/// Pages of a segment: 256 KiB, so that both fit a small disk beside the log.
pub const SEGMENT_PAGES: usize = 64;

/// Bytes of a segment; the driver allocates both files to it before the first write.
pub const SEGMENT_LEN: usize = SEGMENT_PAGES * PAGE_LEN;

/// Marks in one page.
pub const MARKS_PER_PAGE: usize = (PAGE_LEN - HEAD_LEN - CHECKSUM_LEN) / MARK_LEN;

/// Marks that may be alive at one time; three quarters of a segment, so that a copy leaves room to write on. Beyond it
/// the state machine marks all keys of a limit together.
pub const MAX_MARKS: usize = SEGMENT_PAGES * 3 / 4 * MARKS_PER_PAGE;

impl MarkLog {
    /// Reads both segments; a missing file is an empty slice. The log writes on from there: its first write is a copy
    /// of what was found into the other segment, so that damage does not stay.
    pub fn recover(segments: [&[u8]; 2]) -> (Self, Found) {
        let read = segments.map(Segment::read);
        let newest = usize::from(read[1].generation > read[0].generation);
        let mut log = Self {
            segment: newest,
            generation: read[newest].generation,
            next_page: SEGMENT_PAGES,
            copy_pages: 0,
            found: RecoveredMarks::default(),
            marks: BTreeMap::new(),
        };
        // A whole copy supersedes the older segment, whatever state that is in. Before the copy is whole nothing in it
        // was reported durable, and the older segment holds everything.
        let needed: &[usize] = if read[newest].copy_is_whole() { &[newest] } else { &[newest, 1 - newest] };
        for &segment in needed {
            if let Some(page) = read[segment].damaged() {
                return (log, Found::Damaged { segment, page });
            }
            for page in &read[segment].pages {
                log.take(&page.write);
            }
        }
        if needed.len() > 1 && read[newest].written > 0 {
            // Nothing was durable in the unfinished copy, so the next one goes over it and not over the whole segment.
            log.segment = 1 - newest;
        }
        let nothing = needed.iter().all(|&segment| read[segment].pages.is_empty());
        log.found.marks = log.marks.values().copied().collect();
        let found = log.found.clone();
        (log, if nothing { Found::Nothing } else { Found::Marks(found) })
    }

    /// The pages of one write. May be written again as they are if writing fails.
    pub fn append(&mut self, write: &MarkWrite) -> Vec<PageWrite> {
        self.take(write);
        if self.next_page < SEGMENT_PAGES && write.marks.len() <= MARKS_PER_PAGE {
            return vec![self.page(&write.marks)];
        }
        self.segment = 1 - self.segment;
        self.generation += 1;
        self.next_page = 0;
        self.found.closed = self.found.closed.max(fold(&mut self.marks));
        let all: Vec<Mark> = self.marks.values().copied().collect();
        self.copy_pages = all.len().div_ceil(MARKS_PER_PAGE).clamp(1, SEGMENT_PAGES);
        let marks = |page: usize| all.chunks(MARKS_PER_PAGE).nth(page).unwrap_or(&[]);
        (0..self.copy_pages).map(|page| self.page(marks(page))).collect()
    }

    fn take(&mut self, write: &MarkWrite) {
        let MarkWrite { horizon, floor, closed, epoch, held, seated, marks, .. } = write;
        let (horizon, floor, closed) = (*horizon, *floor, *closed);
        self.found.horizon = self.found.horizon.max(horizon);
        self.found.closed = self.found.closed.max(closed);
        // Within an epoch shards are only taken over.
        match (*epoch).cmp(&self.found.epoch) {
            Ordering::Greater => {
                (self.found.epoch, self.found.held, self.found.seated) = (*epoch, *held, *seated);
            }
            Ordering::Equal => {
                self.found.held = self.found.held.or(held);
                self.found.seated = self.found.seated.or(seated);
            }
            Ordering::Less => {}
        }
        if floor > self.found.floor {
            self.found.floor = floor;
            self.marks.retain(|_, mark| mark.ends > floor);
        }
        for mark in marks.iter().filter(|mark| mark.ends > self.found.floor) {
            let held = self.marks.entry((mark.limit, mark.key, mark.slot)).or_insert(*mark);
            held.spent = held.spent.max(mark.spent);
        }
    }

    fn page(&mut self, marks: &[Mark]) -> PageWrite {
        let mut bytes = Vec::with_capacity(PAGE_LEN);
        bytes.extend_from_slice(MAGIC);
        let found = [self.found.horizon, self.found.floor, self.found.closed].map(WallTime::as_unix_millis);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        for count in [self.next_page, self.copy_pages, marks.len(), 0] {
            bytes.extend_from_slice(&(count as u16).to_le_bytes());
        }
        let seats = [self.found.held, self.found.seated].map(|shards| shards.words());
        for field in found.into_iter().chain([self.found.epoch]).chain(seats.into_iter().flatten()) {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        for mark in marks {
            bytes.extend_from_slice(&mark.limit.0.to_le_bytes());
            for field in [mark.key.bits(), mark.slot, mark.spent, mark.ends.as_unix_millis()] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
        bytes.resize(PAGE_LEN - CHECKSUM_LEN, 0);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let offset = (self.next_page * PAGE_LEN) as u64;
        self.next_page += 1;
        PageWrite { segment: self.segment, offset, bytes }
    }
}

/// While there are more marks than a copy may hold, puts one mark for every key in place of those of the limit and slot
/// that has most: keys then count as having spent more than they did, never less. When each limit and slot has but one,
/// leaves out those that end first; slots that begin before the returned instant must give no rights then.
fn fold(marks: &mut BTreeMap<(LimitId, Key, u64), Mark>) -> WallTime {
    while marks.len() > MAX_MARKS {
        let mut sizes = BTreeMap::<(LimitId, u64), usize>::new();
        marks.values().for_each(|mark| *sizes.entry((mark.limit, mark.slot)).or_default() += 1);
        let most = sizes.into_iter().max_by_key(|&(_, size)| size);
        let Some(((limit, slot), 2..)) = most else { return leave_out(marks) };
        let of_most = |_: &(LimitId, Key, u64), mark: &mut Mark| (mark.limit, mark.slot) == (limit, slot);
        let folded: Vec<Mark> = marks.extract_if(.., of_most).map(|(_, mark)| mark).collect();
        if let Some(highest) = folded.into_iter().max_by_key(|mark| mark.spent) {
            marks.insert((limit, Key::EVERY, slot), Mark { key: Key::EVERY, ..highest });
        }
    }
    WallTime::default()
}

/// Keeps as many marks as a copy may hold, those that end last, and returns when the last of the others ends.
fn leave_out(marks: &mut BTreeMap<(LimitId, Key, u64), Mark>) -> WallTime {
    let mut ends: Vec<WallTime> = marks.values().map(|mark| mark.ends).collect();
    ends.sort_unstable();
    let last = ends[marks.len() - MAX_MARKS - 1];
    marks.retain(|_, mark| mark.ends > last);
    last
}

/// The same marks in one message, which holds as many as a copy on disk: those that are too many are taken together. With
/// them the instant before which slots give no rights, at least `closed`.
pub(crate) fn folded(marks: impl Iterator<Item = Mark>, closed: WallTime) -> (Vec<Mark>, WallTime) {
    let mut all = BTreeMap::<(LimitId, Key, u64), Mark>::new();
    for mark in marks {
        let known = all.entry((mark.limit, mark.key, mark.slot)).or_insert(mark);
        known.spent = known.spent.max(mark.spent);
    }
    let closed = closed.max(fold(&mut all));
    (all.into_values().collect(), closed)
}

struct Page {
    generation: u64,
    copy_pages: usize,
    write: MarkWrite,
}

/// The pages of one segment's newest generation.
struct Segment {
    generation: u64,
    /// The valid ones.
    pages: Vec<Page>,
    /// Pages of the copy that begins the segment.
    copy_pages: usize,
    /// Number of the last valid page and 1.
    written: usize,
    /// The first page before that which is not valid.
    missing: Option<usize>,
}

impl Segment {
    fn read(bytes: &[u8]) -> Self {
        let chunks = bytes.chunks(PAGE_LEN).take(SEGMENT_PAGES).enumerate();
        let mut pages: Vec<Option<Page>> = chunks.map(|(at, bytes)| Page::read(at, bytes)).collect();
        let generation = pages.iter().flatten().map(|page| page.generation).max().unwrap_or(0);
        for page in &mut pages {
            page.take_if(|page| page.generation != generation);
        }
        let written = pages.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let missing = pages[..written].iter().position(Option::is_none);
        let copy_pages = pages.iter().flatten().map(|page| page.copy_pages).max().unwrap_or(0);
        Self { generation, pages: pages.into_iter().flatten().collect(), copy_pages, written, missing }
    }

    fn copy_is_whole(&self) -> bool {
        self.missing.is_none_or(|page| page >= self.copy_pages) && self.written >= self.copy_pages && self.written > 0
    }

    /// A page that was reported durable and is not valid: one that later writes follow. Pages of a copy may reach the
    /// disk in any order, so a gap in a copy that nothing follows is an unfinished copy.
    fn damaged(&self) -> Option<usize> {
        self.missing.filter(|_| self.written > self.copy_pages)
    }
}

impl Page {
    fn read(at: usize, bytes: &[u8]) -> Option<Self> {
        let (body, found) = bytes.split_at_checked(PAGE_LEN - CHECKSUM_LEN)?;
        if !body.starts_with(MAGIC) || checksum(body) != found {
            return None;
        }
        let field = |at: usize| Some(u64::from_le_bytes(body.get(8 + at * 8..16 + at * 8)?.try_into().ok()?));
        let small =
            |at: usize| Some(usize::from(u16::from_le_bytes(body.get(16 + at * 2..18 + at * 2)?.try_into().ok()?)));
        let count = small(2).filter(|&count| count <= MARKS_PER_PAGE)?;
        let marks = body.get(HEAD_LEN..)?.chunks(MARK_LEN).take(count).map(Mark::read).collect::<Option<Vec<_>>>()?;
        let instant = |at| field(at).map(WallTime::from_unix_millis);
        let shards = |at| Some(ShardSet::from_words([field(at)?, field(at + 1)?, field(at + 2)?, field(at + 3)?]));
        let write = MarkWrite {
            sequence: MarkSequence::default(),
            horizon: instant(2)?,
            floor: instant(3)?,
            closed: instant(4)?,
            epoch: field(5)?,
            held: shards(6)?,
            seated: shards(10)?,
            marks,
        };
        let page = Self { generation: field(0)?, copy_pages: small(1)?, write };
        (small(0)? == at).then_some(page)
    }
}

impl Mark {
    /// Whether it is of one of these shards, or of every key.
    pub(crate) fn is_of(&self, shards: &ShardSet) -> bool {
        self.key == Key::EVERY || shards.contains(Shard::of(self.key))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            limit: LimitId(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?)),
            key: Key::from_bits(field(4)?),
            slot: field(12)?,
            spent: field(20)?,
            ends: WallTime::from_unix_millis(field(28)?),
        })
    }
}

/// Guards against damage, not against people: the key is no secret.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    HashKey::new(*b"portolan marks 1").hash(&[bytes]).0.to_le_bytes()
}

const MAGIC: &[u8; 8] = b"PTLMARK3";
const HEAD_LEN: usize = 120;
const MARK_LEN: usize = 36;
const CHECKSUM_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(millis: u64) -> WallTime {
        WallTime::from_unix_millis(millis)
    }

    fn mark(key: u64, spent: u64, ends: u64) -> Mark {
        Mark { limit: LimitId(3), key: Key::from_bits(key), slot: 9, spent, ends: wall(ends) }
    }

    fn write(at: u64, marks: Vec<Mark>) -> MarkWrite {
        let held = [Shard(at as u8)].into_iter().collect();
        let (horizon, floor, closed) = (wall(at + 2000), wall(at), wall(3));
        let seated = [Shard(!at as u8)].into_iter().collect();
        MarkWrite { sequence: MarkSequence(at), horizon, floor, closed, epoch: at / 100, held, seated, marks }
    }

    #[derive(Default)]
    struct Disk([Vec<u8>; 2]);

    impl Disk {
        fn put(&mut self, writes: Vec<PageWrite>) {
            for write in writes {
                let segment = &mut self.0[write.segment];
                segment.resize(SEGMENT_LEN, 0);
                segment[write.offset as usize..][..PAGE_LEN].copy_from_slice(&write.bytes);
            }
        }

        fn recover(&self) -> (MarkLog, Found) {
            MarkLog::recover([&self.0[0], &self.0[1]])
        }
    }

    #[test]
    fn nothing_written_is_told_from_damage() {
        assert_eq!(Disk::default().recover().1, Found::Nothing);
        assert_eq!(MarkLog::recover([&[0; SEGMENT_LEN], &[]]).1, Found::Nothing);
    }

    #[test]
    fn the_highest_of_everything_is_read_back_over_many_copies_and_restarts() {
        let mut disk = Disk::default();
        let (mut log, _) = disk.recover();
        for at in 0..500u64 {
            if at % 77 == 0 {
                log = disk.recover().0;
            }
            let ends = if at < 400 { 450 } else { 100_000 };
            disk.put(log.append(&write(at, vec![mark(at % 7, at, ends)])));
        }
        let Found::Marks(found) = disk.recover().1 else { panic!("marks are there") };
        assert_eq!((found.horizon, found.floor, found.closed), (wall(2499), wall(499), wall(3)));
        // Those of the last epoch alone.
        assert_eq!((found.epoch, found.held), (4, (400..500u64).map(|at| Shard(at as u8)).collect()));
        assert_eq!(found.seated, (400..500u64).map(|at| Shard(!at as u8)).collect());
        let spent: Vec<u64> = found.marks.iter().map(|mark| mark.spent).collect();
        assert_eq!(spent, [497, 498, 499, 493, 494, 495, 496]);
    }

    #[test]
    fn as_many_marks_as_may_live_fit_a_copy() {
        let mut disk = Disk::default();
        let (mut log, _) = disk.recover();
        let all: Vec<Mark> = (0..MAX_MARKS as u64).map(|key| mark(key, 1, 1000)).collect();
        for marks in all.chunks(MARKS_PER_PAGE) {
            disk.put(log.append(&write(1, marks.to_vec())));
        }
        for _ in 0..SEGMENT_PAGES {
            disk.put(log.append(&write(2, vec![])));
        }
        assert!(matches!(disk.recover().1, Found::Marks(found) if found.marks.len() == MAX_MARKS));
    }

    #[test]
    fn marks_beyond_what_a_copy_holds_are_taken_together_and_never_dropped() {
        let mut disk = Disk::default();
        let (mut log, _) = disk.recover();
        let many = 2 * MAX_MARKS as u64;
        let all: Vec<Mark> =
            (0..many).map(|key| Mark { limit: LimitId(1 + (key % 3) as u32), ..mark(key, key, 1000) }).collect();
        for marks in all.chunks(MARKS_PER_PAGE) {
            disk.put(log.append(&write(1, marks.to_vec())));
        }
        let Found::Marks(found) = disk.recover().1 else { panic!("marks are there") };
        let durable = |mark: &Mark| {
            let covers = |held: &&Mark| held.limit == mark.limit && [mark.key, Key::EVERY].contains(&held.key);
            found.marks.iter().filter(covers).map(|held| held.spent).max()
        };
        // The newest are whole, which a cut at the end would have lost first.
        assert!(all.iter().rev().step_by(97).all(|mark| durable(mark) >= Some(mark.spent)));
    }

    #[test]
    fn a_torn_last_page_is_dropped_and_a_torn_page_before_it_is_damage() {
        let check = |torn: usize, expected: Result<u64, usize>| {
            let mut disk = Disk::default();
            let (mut log, _) = disk.recover();
            let mut segment = 0;
            for at in 1..=5 {
                let writes = log.append(&write(at, vec![]));
                segment = writes[0].segment;
                disk.put(writes);
            }
            disk.0[segment][torn * PAGE_LEN + 100] ^= 1;
            match (disk.recover().1, expected) {
                (Found::Marks(found), Ok(floor)) => assert_eq!(found.floor, wall(floor)),
                (Found::Damaged { page, .. }, Err(damaged)) => assert_eq!(page, damaged),
                (found, expected) => panic!("{found:?} in place of {expected:?}"),
            }
        };
        check(4, Ok(4));
        check(3, Err(3));
        check(0, Err(0));
    }

    #[test]
    fn damage_does_not_outlive_the_next_write() {
        let mut disk = Disk::default();
        let (mut log, _) = disk.recover();
        for at in 1..=5 {
            disk.put(log.append(&write(at, vec![])));
        }
        disk.0[1][0] ^= 1;
        let (mut log, found) = disk.recover();
        assert_eq!(found, Found::Damaged { segment: 1, page: 0 });
        disk.put(log.append(&write(6, vec![])));
        assert!(matches!(disk.recover().1, Found::Marks(found) if found.floor == wall(6)));
    }

    #[test]
    fn a_half_finished_copy_changes_nothing() {
        let mut disk = Disk::default();
        let (mut log, _) = disk.recover();
        for key in 0..SEGMENT_PAGES as u64 {
            let marks = (0..10).map(|n| mark(key * 10 + n, 5, 1000)).collect();
            disk.put(log.append(&write(1, marks)));
        }
        let before = disk.recover().1;
        // However often: the process that finds an unfinished copy begins with another one.
        for _ in 0..4 {
            let mut copy = log.append(&write(1, vec![]));
            assert!(copy.len() > 2);
            copy.truncate(2);
            disk.put(copy);
            let (again, found) = disk.recover();
            assert_eq!(found, before);
            log = again;
        }
    }

    #[test]
    fn marks_that_cannot_be_taken_together_and_do_not_fit_close_their_slots() {
        let (mut disk, (mut log, _)) = (Disk::default(), MarkLog::recover([&[], &[]]));
        let of_limit = |limit: u32| Mark { limit: LimitId(limit), ..mark(7, 5, 10_000 + u64::from(limit)) };
        let all = 2 * MAX_MARKS as u32;
        let pages: Vec<Vec<Mark>> =
            (0..all).map(of_limit).collect::<Vec<_>>().chunks(MARKS_PER_PAGE).map(<[Mark]>::to_vec).collect();
        for (at, marks) in (1..).zip(pages) {
            disk.put(log.append(&write(at, marks)));
        }
        let (_, Found::Marks(found)) = disk.recover() else { panic!("marks") };
        let kept: Vec<LimitId> = found.marks.iter().map(|mark| mark.limit).collect();
        for mark in (0..all).map(of_limit) {
            assert!(kept.contains(&mark.limit) || found.closed >= mark.ends, "{mark:?} is neither kept nor closed");
        }
    }
}
