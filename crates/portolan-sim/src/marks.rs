//! The files of durable marks on a simulated disk: what was synced, what is being written, and what a crash makes of it.
//! Never reads what is in them.

use std::collections::VecDeque;

use portolan_limits::{MarkSequence, PageWrite, SEGMENT_LEN};
use portolan_model::Timestamp;
use tokio::time::Duration;

/// The two files.
#[derive(Default)]
pub struct MarkFiles {
    segments: [Vec<u8>; 2],
    /// Writes that are not on disk, in order.
    unwritten: VecDeque<(MarkSequence, Vec<PageWrite>)>,
    /// When the last of them will be.
    busy_until: Timestamp,
    /// Whether the disk takes no write.
    full: bool,
    /// What every write takes longer.
    slow_by: Duration,
}

impl MarkFiles {
    /// What a process finds that starts.
    pub fn segments(&self) -> [&[u8]; 2] {
        self.segments.each_ref().map(Vec::as_slice)
    }

    /// Takes a write that takes `cost`, and says when it is done: one after the other, as a file has them.
    pub fn begin(
        &mut self,
        sequence: MarkSequence,
        pages: Vec<PageWrite>,
        cost: Duration,
        now: Timestamp,
    ) -> Timestamp {
        self.busy_until = self.busy_until.max(now) + cost + self.slow_by;
        self.unwritten.push_back((sequence, pages));
        self.busy_until
    }

    /// A write should be done: `false` while the disk is full.
    pub fn finish(&mut self, sequence: MarkSequence) -> bool {
        if self.full {
            return false;
        }
        while self.unwritten.front().is_some_and(|(unwritten, _)| *unwritten <= sequence) {
            let (_, pages) = self.unwritten.pop_front().expect("one was there");
            pages.into_iter().for_each(|page| self.write(page, 1.0));
        }
        true
    }

    /// From here on every write waits for space, or no longer does.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether writes are done, and in the time that they take.
    pub fn is_well(&self) -> bool {
        !self.full && self.slow_by.is_zero()
    }

    /// From here on every write takes this much longer.
    pub fn set_slow(&mut self, by: Duration) {
        self.slow_by = by;
    }

    /// A crash: what was not synced is gone.
    pub fn drop_unwritten(&mut self) {
        self.unwritten.clear();
        self.busy_until = Timestamp::ZERO;
    }

    /// A crash: of what was being written a part is on disk, in order.
    pub fn tear_unwritten(&mut self, share: f64) {
        let pages: Vec<PageWrite> = self.unwritten.drain(..).flat_map(|(_, pages)| pages).collect();
        let kept = pages.len() as f64 * share;
        for (at, page) in pages.into_iter().enumerate() {
            self.write(page, (kept - at as f64).clamp(0.0, 1.0));
        }
        self.busy_until = Timestamp::ZERO;
    }

    fn write(&mut self, page: PageWrite, share: f64) {
        let segment = &mut self.segments[page.segment];
        segment.resize(SEGMENT_LEN, 0);
        let start = usize::try_from(page.offset).expect("a segment is far smaller than memory");
        let kept = (page.bytes.len() as f64 * share) as usize;
        segment[start..start + kept].copy_from_slice(&page.bytes[..kept]);
    }
}
