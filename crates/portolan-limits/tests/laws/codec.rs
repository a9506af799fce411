//! Messages read back as they were written, and nothing a peer can send writes a row that is not its own.

use portolan_limits::{
    Demand, Heartbeat, Key, Level, LimitId, Loan, Message, Number, Rejected, Row, Rows, Scope, Seen, SlotSummary,
};
use portolan_model::{HashKey, RegionId, WallTime, codec};
use proptest::{collection::vec, prelude::*};

use crate::observer::{REGIONS, START, key, node, observer, region, slot, state, tell, told, writes};

fn rows() -> impl Strategy<Value = Rows> {
    let number = prop_oneof![0..300u64, 0..1u64 << 40];
    let loan = prop_oneof![Just(Loan::Units), Just(Loan::Rate)];
    let lent = vec((loan, 0..127u8, number.clone()), 0..4);
    let row = (number.clone(), number.clone(), lent, any::<u16>(), any::<u16>());
    let row = row.prop_map(|(consumed, refunded, lent, rate, next)| {
        let level = |bits: u16| Level::new(f64::from(bits));
        let demand = Demand { rate: level(rate), next: level(next) };
        Row { consumed, refunded, lent: lent.into_iter().collect(), demand }
    });
    let rows = vec((any::<u64>().prop_map(some_key), row), 0..30);
    (any::<u32>(), any::<u64>(), any::<u64>(), rows).prop_map(|(limit, slot, number, rows)| Rows {
        scope: scope_of(slot),
        limit: LimitId(limit),
        slot,
        number: (number % 3 > 0).then_some(Number { life: number, count: number / 3 }),
        rows,
    })
}

fn scope_of(seed: u64) -> Scope {
    Scope::of(&HashKey::new([7; 16]), &[RegionId::new(&format!("region-{seed}")).expect("a name")])
}

fn some_key(of: u64) -> Key {
    key(of)
}

fn message() -> impl Strategy<Value = Message> {
    let heartbeat = (any::<u64>(), any::<u64>(), vec(any::<u32>(), 0..20), vec(any::<u64>(), 0..40));
    let heartbeat = heartbeat.prop_map(|(scope, sent, heard, numbers)| {
        let mut seen = Seen::default();
        numbers.into_iter().for_each(|count| seen.insert(Number { life: scope, count }));
        Message::Heartbeat(Heartbeat { scope: scope_of(scope), sent: WallTime::from_unix_millis(sent), heard, seen })
    });
    let summary = (any::<u32>(), any::<u64>(), any::<[u64; 16]>(), any::<bool>())
        .prop_map(|(limit, slot, buckets, restarted)| SlotSummary { limit: LimitId(limit), slot, buckets, restarted });
    prop_oneof![
        heartbeat,
        rows().prop_map(Message::Rows),
        rows().prop_map(Message::Echo),
        vec(summary, 0..9).prop_map(Message::Digests),
        (any::<u32>(), any::<u64>(), any::<u16>()).prop_map(|(limit, slot, buckets)| Message::Ask {
            limit: LimitId(limit),
            slot,
            buckets
        }),
    ]
}

proptest! {
    #[test]
    fn a_message_reads_back_as_it_was_written(message in message()) {
        let bytes = codec::encode(&message).expect("it encodes");
        prop_assert_eq!(codec::decode::<Message>(&bytes).expect("it decodes"), message);
    }

    #[test]
    fn damaged_messages_are_refused_or_read_as_something_else_but_never_panic(
        message in message(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = codec::encode(&message).expect("it encodes");
        for (at, with) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        bytes.truncate(keep.index(bytes.len()) + 1);
        if let Ok(message) = codec::decode::<Message>(&bytes) {
            let mut limits = observer(START);
            let _ = tell(&mut limits, 0, message, START);
        }
    }

    #[test]
    fn whatever_a_region_sends_only_its_own_row_can_change(
        writes in writes(),
        mut rows in rows(),
        from in 0..REGIONS - 1,
        live in any::<bool>(),
    ) {
        let mut limits = observer(START);
        for (from, message) in told(&writes, slot(START)) {
            prop_assert_eq!(tell(&mut limits, from, message, START), Ok(()));
        }
        if live {
            (rows.limit, rows.slot) = (LimitId(1), slot(START));
        }
        let before = state(&limits, START);
        let taken = tell(&mut limits, from, Message::Rows(rows), START);
        let after = state(&limits, START);
        for (one, two) in before.keys.iter().zip(&after.keys) {
            for other in (0..REGIONS - 1).filter(|&other| other != from) {
                prop_assert_eq!((one[other].0, one[other].1), (two[other].0, two[other].1));
            }
        }
        if taken.is_err() {
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn a_region_cannot_pose_as_the_receiver(writes in writes()) {
        let mut limits = observer(START);
        let before = state(&limits, START);
        for (_, message) in told(&writes, slot(START)) {
            let posing = limits.handle_message(&region(REGIONS - 1), &node(REGIONS - 1), message.clone(), START);
            prop_assert_eq!(posing, Err(Rejected::UnknownSender));
            let Message::Rows(rows) = message else { continue };
            // Nothing of this slot was lost: the receiver started for the first time.
            prop_assert_eq!(tell(&mut limits, 0, Message::Echo(rows), START), Err(Rejected::ForeignRow));
        }
        prop_assert_eq!(state(&limits, START), before);
    }
}
