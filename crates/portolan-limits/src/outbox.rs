//! What waits to be sent or told. Bounded: messages are all repaired by digests, so at the bound the newest is dropped
//! and counted; of events the oldest.

use std::collections::VecDeque;

use portolan_config::LimitId;
use portolan_model::NodeName;
use smallvec::SmallVec;

use crate::{
    account::Row,
    key::Key,
    message::{MAX_ROWS, Message, Rows, Scope},
    packed,
};

/// Who a message is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destination {
    /// By position in the scope.
    pub region: usize,
    /// `None`: whichever node of the region is heard.
    pub node: Option<NodeName>,
}

/// Messages to nodes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    messages: VecDeque<(Destination, Message)>,
    /// Messages there was no room for.
    pub dropped: u64,
}

impl Outbox {
    pub fn push(&mut self, to: Destination, message: Message) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push_back((to, message));
        } else {
            self.dropped += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn pop(&mut self) -> Option<(Destination, Message)> {
        self.messages.pop_front()
    }
}

/// Cuts rows of one slot into messages.
pub(crate) fn in_messages(
    scope: Scope,
    limit: LimitId,
    slot: u64,
    rows: impl IntoIterator<Item = (Key, Row)>,
) -> impl Iterator<Item = Rows> {
    let mut rows = rows.into_iter().flat_map(|(key, row)| in_rows(row).map(move |row| (key, row))).peekable();
    std::iter::from_fn(move || {
        let (mut message, mut bytes) = (Vec::new(), 0);
        while let Some((_, row)) = rows.peek() {
            bytes += row.encoded_len();
            if !message.is_empty() && (bytes > packed::MAX_BYTES || message.len() == MAX_ROWS) {
                break;
            }
            message.extend(rows.next());
        }
        (!message.is_empty()).then_some(Rows { scope, limit, slot, number: None, rows: message })
    })
}

/// A row that lends to more regions than one can tell of as several, each with a part of its loans: numbers are joined by
/// maximum, so that nothing counts twice.
fn in_rows(row: Row) -> impl Iterator<Item = Row> {
    let mut rows = SmallVec::<[Row; 1]>::new();
    if row.lent.len() <= packed::MOST_LENT {
        rows.push(row);
    } else {
        let parts = row.lent.chunks(packed::MOST_LENT);
        rows.extend(parts.map(|part| Row { lent: SmallVec::from_slice(part), ..row.clone() }));
    }
    rows.into_iter()
}

/// Events for the shell.
#[derive(Debug)]
pub(crate) struct Events<E>(VecDeque<E>);

impl<E> Events<E> {
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub fn push(&mut self, event: E) {
        if self.0.len() == MAX_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub fn pop(&mut self) -> Option<E> {
        self.0.pop_front()
    }
}

/// About 9 MB at the largest message.
const MAX_MESSAGES: usize = 8192;

const MAX_EVENTS: usize = 256;

#[cfg(test)]
mod tests {
    use portolan_model::HashKey;

    use super::*;
    use crate::account::{Loan, MAX_REGIONS};

    #[test]
    fn loans_to_every_region_are_told_in_several_rows_of_the_key() {
        let lent: Vec<_> = (0..MAX_REGIONS as u8).map(|to| (Loan::Units, to, 10 + u64::from(to))).collect();
        let row = Row { consumed: 5, lent: lent.iter().copied().collect(), ..Row::default() };
        let scope = Scope::of(&HashKey::new([7; 16]), &[]);
        let messages: Vec<Rows> = in_messages(scope, LimitId(1), 3, [(Key::from_bits(7), row)]).collect();
        let mut bytes = Vec::new();
        let mut told = Vec::new();
        for (key, row) in messages.iter().flat_map(|message| &message.rows) {
            packed::write(&mut bytes, *key, row);
            assert_eq!(row.consumed, 5);
        }
        for (_, row) in packed::read(&bytes).expect("rows") {
            told.extend(row.lent);
        }
        assert_eq!(told, lent);
    }
}
