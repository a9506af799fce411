//! Slots that are over are dropped in silence: whenever each region does it, what is read of live slots does not change,
//! and what comes too late does not return.

use std::time::Duration;

use portolan_limits::Rejected;
use proptest::{collection::vec, prelude::*};

use crate::observer::{START, WINDOW, drain, later, observer, slot, state, tell, told, writes};

proptest! {
    #[test]
    fn dropping_dead_slots_at_any_time_changes_no_live_slot(
        writes in writes(),
        pauses in vec(0..240u64, 80),
        sweeps in vec(any::<bool>(), 80),
    ) {
        let (mut busy, mut lazy, mut now) = (observer(START), observer(START), START);
        for ((at, pause), sweep) in (0..writes.len()).zip(pauses).zip(sweeps) {
            now = later(now, Duration::from_secs(pause));
            if sweep {
                busy.handle_timeout(now);
                drain(&mut busy, now);
            }
            let (from, message) = told(&writes[..=at], slot(now)).pop().expect("one per write");
            prop_assert_eq!(tell(&mut busy, from, message.clone(), now), Ok(()));
            prop_assert_eq!(tell(&mut lazy, from, message, now), Ok(()));
            prop_assert_eq!(state(&busy, now).keys, state(&lazy, now).keys);
        }
        lazy.handle_timeout(now);
        busy.handle_timeout(now);
        prop_assert_eq!(state(&busy, now), state(&lazy, now));
    }

    #[test]
    fn a_row_of_a_dead_slot_is_refused_and_brings_nothing_back(writes in writes(), slots in 2..50u32) {
        let mut limits = observer(START);
        let old = told(&writes, slot(START));
        for (from, message) in old.clone() {
            prop_assert_eq!(tell(&mut limits, from, message, START), Ok(()));
        }
        let now = later(START, WINDOW * slots);
        limits.handle_timeout(now);
        let empty = state(&observer(now), now);
        for (from, message) in old {
            prop_assert_eq!(tell(&mut limits, from, message, now), Err(Rejected::DeadSlot));
        }
        prop_assert_eq!(state(&limits, now), empty);
    }
}
