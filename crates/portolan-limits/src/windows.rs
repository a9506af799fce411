//! Where the windows of an algorithm lie in civil time, for whoever holds verdicts against it. The same arithmetic as the
//! request path's, built apart. Never reads a clock.

use portolan_config::Algorithm;
use portolan_model::WallTime;

use crate::{calendar::Calendars, definition::Slots};

/// The windows of one algorithm, numbered as charges number them. Those of a calendar cost some milliseconds to build.
#[derive(Clone, Debug)]
pub struct Windows(Slots);

impl Windows {
    /// Those that `algorithm` counts in. A token bucket counts in seconds, and a concurrency limit in one endless window.
    pub fn of(algorithm: &Algorithm) -> Self {
        Self(Slots::new(algorithm, &mut Calendars::default()))
    }

    /// The window that an instant falls into.
    pub fn slot(&self, wall: WallTime) -> u64 {
        self.0.slot(wall)
    }

    /// First instant of a window; it ends where the next begins.
    pub fn begin(&self, slot: u64) -> WallTime {
        self.0.begin(slot)
    }
}
