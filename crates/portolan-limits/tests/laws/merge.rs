//! Rows join: in any order, any number of times, in whatever pieces, the same messages leave the same state. The oracle
//! is the `crdts` crate's grow-only counter.

use std::collections::BTreeMap;

use crdts::{CmRDT, CvRDT, Dot, GCounter, VClock};
use portolan_limits::{Message, Rows};
use proptest::prelude::*;

use crate::observer::{
    Field, KEYS, LIMIT, REGIONS, START, State, Write, observer, scope, slot, state, tell, told, writes,
};

fn after(messages: impl IntoIterator<Item = (usize, Message)>) -> State {
    let mut limits = observer(START);
    for (from, message) in messages {
        assert_eq!(tell(&mut limits, from, message, START), Ok(()));
    }
    state(&limits, START)
}

/// Several one-row messages of one region as one.
fn joined(from: usize, messages: &[(usize, Message)]) -> (usize, Message) {
    let rows = messages.iter().filter_map(|(of, message)| match message {
        Message::Rows(rows) if *of == from => Some(rows.rows.clone()),
        _ => None,
    });
    (
        from,
        Message::Rows(Rows {
            scope: scope(),
            limit: LIMIT,
            slot: slot(START),
            number: None,
            rows: rows.flatten().collect(),
        }),
    )
}

/// What the oracle reads: per key and region what was consumed less what was given back, what was lent and borrowed.
/// One grow-only counter per kind and key, whose actors are the regions, and for loans the pairs of them.
fn oracle(writes: &[Write], order: &[usize]) -> Vec<Vec<(u64, u64, u64)>> {
    let dots = dots(writes);
    let mut cells = VClock::<(u64, usize, Field)>::new();
    let mut consumed = vec![GCounter::<usize>::new(); KEYS as usize];
    for &at in order {
        let (write, amount) = dots[at];
        let mut delta = VClock::new();
        delta.apply(Dot::new((write.key, write.region, write.field), amount));
        cells.merge(delta);
        if write.field == Field::Consumed {
            consumed[write.key as usize].apply(Dot::new(write.region, amount));
        }
    }
    let of = |key: u64, region: usize| {
        let read = |region, field| cells.get(&(key, region, field));
        let lent = (0..REGIONS).map(|to| read(region, Field::Lent(to))).sum();
        let borrowed = (0..REGIONS).map(|from| read(from, Field::Lent(region))).sum();
        (read(region, Field::Consumed) - read(region, Field::Refunded), lent, borrowed)
    };
    for key in 0..KEYS {
        let all: u64 = (0..REGIONS).map(|region| cells.get(&(key, region, Field::Consumed))).sum();
        assert_eq!(consumed[key as usize].read(), all.into(), "the two counters of the oracle agree");
    }
    (0..KEYS).map(|key| (0..REGIONS - 1).map(|region| of(key, region)).collect()).collect()
}

/// Each write with what its cell then holds.
fn dots(writes: &[Write]) -> Vec<(Write, u64)> {
    let mut cells = BTreeMap::<(usize, u64, Field), u64>::new();
    let dots = writes.iter().map(|write| {
        let consumed = cells.get(&(write.region, write.key, Field::Consumed)).copied().unwrap_or(0);
        let amount = cells.entry((write.region, write.key, write.field)).or_default();
        *amount += write.by;
        if write.field == Field::Refunded {
            *amount = (*amount).min(consumed);
        }
        (*write, *amount)
    });
    dots.collect()
}

proptest! {
    #[test]
    fn rows_in_any_order_any_number_of_times_leave_what_the_oracle_reads(
        (writes, order) in writes().prop_flat_map(|writes| {
            let order: Vec<usize> = (0..writes.len()).chain(0..writes.len() / 2).collect();
            (Just(writes), Just(order).prop_shuffle())
        }),
    ) {
        let messages = told(&writes, slot(START));
        let in_order = after(messages.clone());
        let shuffled = after(order.iter().map(|&at| messages[at].clone()));
        prop_assert_eq!(&shuffled, &in_order);
        prop_assert_eq!(&shuffled.keys, &oracle(&writes, &order));
    }

    #[test]
    fn deltas_leave_what_the_whole_state_leaves(writes in writes(), cut in 0..80usize) {
        let messages = told(&writes, slot(START));
        let cut = cut.min(messages.len());
        let whole = after((0..REGIONS - 1).map(|from| joined(from, &messages)));
        let pieces = [&messages[..cut], &messages[cut..]];
        let in_pieces = after(pieces.iter().flat_map(|piece| (0..REGIONS - 1).map(|from| joined(from, piece))));
        prop_assert_eq!(&whole, &in_pieces);
        prop_assert_eq!(&whole, &after(messages));
    }

    #[test]
    fn equal_digests_mean_equal_rows(writes in writes(), other in writes()) {
        let (one, two) = (after(told(&writes, slot(START))), after(told(&other, slot(START))));
        prop_assert_eq!(one.digests == two.digests, one.keys == two.keys);
    }
}
