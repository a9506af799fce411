//! Counts the writes that wait for space, and says so once for each. Decides nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts a waiting write while it lives, also when the waiting task is dropped.
pub struct Waiting<'a> {
    waiting: &'a AtomicUsize,
    counted: bool,
}

impl<'a> Waiting<'a> {
    pub fn none(waiting: &'a AtomicUsize) -> Self {
        Self { waiting, counted: false }
    }

    pub fn begin(&mut self, what: &str) {
        if !self.counted {
            self.counted = true;
            self.waiting.fetch_add(1, Ordering::Relaxed);
            tracing::error!(what, "the disk is full; Raft waits for space");
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
