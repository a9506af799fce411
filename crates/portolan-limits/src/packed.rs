//! How rows stand in a message: 8 bytes of key, then numbers of 7 bits a byte (LEB128), loans and demand only where there
//! are any; of a loan the byte that names the region also says what is lent. A row of a key under pressure takes about
//! 15 bytes. Bounds what it reads before it allocates.

use serde::{Deserializer, Serializer, de};

use crate::{
    account::{Loan, MAX_AMOUNT, MAX_REGIONS, Row},
    forecast::{Demand, Level},
    key::Key,
    message::MAX_ROWS,
};

/// Bytes of the rows of one message: with its head and the envelope it stays below 1150 bytes.
pub(crate) const MAX_BYTES: usize = 1090;

impl Row {
    /// Bytes that the row takes in a message.
    pub(crate) fn encoded_len(&self) -> usize {
        let digits = |number: u64| (64 - (number | 1).leading_zeros()).div_ceil(7) as usize;
        let refunded = if self.refunded > 0 { digits(self.refunded) } else { 0 };
        let demand = if self.demand == Demand::default() { 0 } else { 4 };
        let lent: usize = self.lent.iter().take(MOST_LENT).map(|&(.., amount)| 1 + digits(amount)).sum();
        8 + 1 + digits(self.consumed) + refunded + demand + lent
    }
}

/// Appends one row.
pub(crate) fn write(bytes: &mut Vec<u8>, key: Key, row: &Row) {
    bytes.extend_from_slice(&key.bits().to_le_bytes());
    let demand = row.demand != Demand::default();
    let lent = row.lent.len().min(MOST_LENT);
    bytes.push((lent as u8) << 2 | u8::from(demand) << 1 | u8::from(row.refunded > 0));
    write_number(bytes, row.consumed);
    if row.refunded > 0 {
        write_number(bytes, row.refunded);
    }
    if demand {
        bytes.extend_from_slice(&row.demand.rate.0.to_le_bytes());
        bytes.extend_from_slice(&row.demand.next.0.to_le_bytes());
    }
    for &(loan, to, amount) in row.lent.iter().take(lent) {
        bytes.push(if loan == Loan::Rate { to | OF_RATE } else { to });
        write_number(bytes, amount);
    }
}

/// Reads as many rows as there are; nothing if the bytes are not rows.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<(Key, Row)>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        if rows.len() == MAX_ROWS {
            return None;
        }
        rows.push(read_row(&mut bytes)?);
    }
    Some(rows)
}

/// Writes rows as bytes.
pub(crate) fn serialize<S: Serializer>(rows: &[(Key, Row)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    rows.iter().for_each(|(key, row)| write(&mut bytes, *key, row));
    serializer.serialize_bytes(&bytes)
}

/// Reads rows from bytes.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Key, Row)>, D::Error> {
    deserializer.deserialize_byte_buf(RowsVisitor)
}

struct RowsVisitor;

impl de::Visitor<'_> for RowsVisitor {
    type Value = Vec<(Key, Row)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("rows of a ledger")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        read(bytes).ok_or_else(|| E::custom("the rows do not read"))
    }
}

fn read_row(bytes: &mut &[u8]) -> Option<(Key, Row)> {
    let key = Key::from_bits(u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?));
    let &head = bytes.split_off_first()?;
    let mut row = Row { consumed: read_number(bytes)?, ..Row::default() };
    if head & 1 == 1 {
        row.refunded = read_number(bytes)?;
    }
    if head & 2 == 2 {
        let mut level = || Some(Level(u16::from_le_bytes(*bytes.split_off(..2)?.first_chunk()?)));
        row.demand = Demand { rate: level()?, next: level()? };
    }
    for _ in 0..head >> 2 {
        let &byte = bytes.split_off_first()?;
        let (loan, to) = (if byte & OF_RATE == 0 { Loan::Units } else { Loan::Rate }, byte & !OF_RATE);
        if usize::from(to) >= MAX_REGIONS {
            return None;
        }
        row.lent.push((loan, to, read_number(bytes)?));
    }
    Some((key, row))
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..).step_by(7).take(MOST_DIGITS) {
        let &byte = bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return (number <= MAX_AMOUNT).then_some(number);
        }
    }
    None
}

/// Marks a loan of rate, beside the region that it is to.
const OF_RATE: u8 = 0x80;

/// Loans that one row can tell of: to as many regions. Further ones go in rows of their own.
pub(crate) const MOST_LENT: usize = 63;

/// Digits of [`MAX_AMOUNT`] to base 128.
const MOST_DIGITS: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn row() -> impl Strategy<Value = Row> {
        let loan = prop_oneof![Just(Loan::Units), Just(Loan::Rate)];
        let lent = vec((loan, 0..MAX_REGIONS as u8, 0..=MAX_AMOUNT), 0..5);
        (0..=MAX_AMOUNT, 0..=MAX_AMOUNT, lent, any::<(u16, u16)>()).prop_map(|(consumed, refunded, lent, demand)| {
            let demand = Demand { rate: Level(demand.0), next: Level(demand.1) };
            Row { consumed, refunded, lent: lent.into(), demand }
        })
    }

    proptest! {
        #[test]
        fn rows_read_back(rows in vec((any::<u64>(), row()), 0..20)) {
            let rows: Vec<(Key, Row)> = rows.into_iter().map(|(key, row)| (Key::from_bits(key), row)).collect();
            let mut bytes = Vec::new();
            rows.iter().for_each(|(key, row)| write(&mut bytes, *key, row));
            prop_assert_eq!(bytes.len(), rows.iter().map(|(_, row)| row.encoded_len()).sum::<usize>());
            prop_assert_eq!(read(&bytes), Some(rows));
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_row_under_pressure_takes_fifteen_bytes_and_each_loan_three() {
        let bytes = |row: &Row| {
            let mut bytes = Vec::new();
            write(&mut bytes, Key::from_bits(u64::MAX - 1), row);
            bytes.len()
        };
        let mut row = Row { consumed: 700, demand: Demand::new(700.0, 1000.0), ..Row::default() };
        assert_eq!(bytes(&row), 15);
        row.lent.push((Loan::Units, 7, 300));
        assert_eq!(bytes(&row), 18);
    }
}
