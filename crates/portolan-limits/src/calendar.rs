//! Where civil days and months begin in a time zone. Boundaries are computed when a limit is defined, from the time zone
//! database that is compiled in; the request path only looks them up. Never reads a file or the machine's zone.
//!
//! A slot's number is that of the civil period: days or months since January 1970. A day begins at its first instant: where
//! midnight is skipped at the one after, where it comes twice at the first, so slots follow each other without gaps.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{
    Timestamp,
    civil::{Date, date},
    tz::{Offset, TimeZone, TimeZoneDatabase},
};
use portolan_config::Period;

/// The calendars in use, so that limits of one zone share theirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calendars(BTreeMap<(Period, String), Arc<Calendar>>);

/// The beginnings of one kind of period in one zone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Calendar {
    /// Unix seconds at which the periods begin, from January 1970 on; never falls.
    begins: Box<[u32]>,
    /// A period's usual length in milliseconds: a first guess, and the length of those after the last that is known.
    usual_ms: u64,
}

impl Calendars {
    /// The periods of a zone; of UTC for a zone that is not known, which no configuration that was accepted names.
    pub fn of(&mut self, period: Period, zone: &str) -> Arc<Calendar> {
        let key = (period, zone.to_owned());
        Arc::clone(self.0.entry(key).or_insert_with(|| Arc::new(Calendar::new(period, zone))))
    }

    /// Forgets calendars that nothing uses.
    pub fn retain_used(&mut self) {
        self.0.retain(|_, calendar| Arc::strong_count(calendar) > 1);
    }
}

impl Calendar {
    fn new(period: Period, zone: &str) -> Self {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap_or(TimeZone::UTC);
        let (begins, usual_ms) = match period {
            Period::Day => (days(&zone), DAY_MS),
            Period::Month => (months(&zone), MONTH_MS),
        };
        Self { begins, usual_ms }
    }

    /// The period that an instant falls into.
    pub fn slot(&self, unix_ms: u64) -> u64 {
        let last = self.begins.len() - 1;
        let guess = usize::try_from(unix_ms.saturating_sub(self.begin(0)) / self.usual_ms).unwrap_or(last);
        if guess > last + 1 {
            return last as u64 + (unix_ms - self.begin(last as u64)) / self.usual_ms;
        }
        // The guess is a period or two off at most: offsets sum to hours, and months to days.
        let mut slot = guess.min(last) as u64;
        while slot > 0 && self.begin(slot) > unix_ms {
            slot -= 1;
        }
        while self.begin(slot + 1) <= unix_ms {
            slot += 1;
        }
        slot
    }

    /// First millisecond of a period.
    pub fn begin(&self, slot: u64) -> u64 {
        let last = self.begins.len() as u64 - 1;
        let known = u64::from(self.begins[slot.min(last) as usize]) * 1000;
        known.saturating_add(slot.saturating_sub(last).saturating_mul(self.usual_ms))
    }
}

fn months(zone: &TimeZone) -> Box<[u32]> {
    let months = (1970..LAST_YEAR).flat_map(|year| (1..=12).map(move |month| date(year, month, 1)));
    rising(months.map(|first| begin(first, zone)))
}

/// Days are reckoned by the offset from UTC; only near a change of it the zone is asked for each.
fn days(zone: &TimeZone) -> Box<[u32]> {
    let mut day = date(1970, 1, 1);
    let mut offset = Offset::UTC;
    let mut asked_until = i64::MIN;
    let mut begins = Vec::new();
    while day.year() < LAST_YEAR {
        let number = begins.len() as i64;
        let reckoned = number * DAY_SECONDS - i64::from(offset.seconds());
        if reckoned < asked_until {
            begins.push(reckoned);
        } else {
            let begin = begin(day, zone);
            let at = Timestamp::from_second(begin).unwrap_or(Timestamp::UNIX_EPOCH);
            offset = zone.to_offset(at);
            let next = zone.following(at).next().map_or(i64::MAX, |change| change.timestamp().as_second());
            asked_until = next.saturating_sub(DAY_SECONDS);
            begins.push(begin);
        }
        day = day.tomorrow().unwrap_or(Date::MAX);
    }
    rising(begins.into_iter())
}

/// The first second of a day. A midnight that is skipped is taken as the instant after the gap, one that comes twice as the
/// first.
fn begin(day: Date, zone: &TimeZone) -> i64 {
    day.to_zoned(zone.clone()).map_or(0, |midnight| midnight.timestamp().as_second())
}

fn rising(seconds: impl Iterator<Item = i64>) -> Box<[u32]> {
    let clamped = seconds.map(|second| u32::try_from(second.max(0)).unwrap_or(u32::MAX));
    // A zone that crosses the date line skips a civil day, whose slot is then empty.
    clamped.scan(0, |least, second| Some(*least.max(&mut { second }))).collect()
}

/// Boundaries are known up to here; periods after it have their usual length.
const LAST_YEAR: i16 = 2100;

const DAY_SECONDS: i64 = 86_400;
const DAY_MS: u64 = 86_400_000;
/// A twelfth of 365.2425 days.
const MONTH_MS: u64 = 2_629_746_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond() as u64
    }

    #[test]
    fn a_civil_period_is_as_long_as_its_zone_says() {
        let check = |period, zone: &str, within: &str, begin: &str, end: &str| {
            let calendar = Calendar::new(period, zone);
            let slot = calendar.slot(ms(within));
            assert_eq!((calendar.begin(slot), calendar.begin(slot + 1)), (ms(begin), ms(end)), "{zone} {within}");
            assert_eq!(
                (calendar.slot(ms(begin)), calendar.slot(ms(end) - 1), calendar.slot(ms(end))),
                (slot, slot, slot + 1)
            );
        };
        use Period::{Day, Month};
        check(Day, "UTC", "2026-11-22T04:00:00Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z");
        // 23 and 25 hours.
        check(Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        check(Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        // Half an hour.
        check(Day, "Australia/Lord_Howe", "2026-04-05T00:00:00Z", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z");
        // Midnight is skipped in Beirut, and comes twice in Havana.
        check(Day, "Asia/Beirut", "2026-03-29T12:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z");
        check(Day, "America/Havana", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z");
        check(Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
        check(Month, "America/New_York", "2026-11-22T00:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z");
        check(Day, "no/such", "2026-11-22T04:00:00Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z");
        check(Day, "UTC", "2150-11-22T04:00:00Z", "2150-11-22T00:00:00Z", "2150-11-23T00:00:00Z");
    }

    #[test]
    fn the_number_of_a_period_is_that_of_the_civil_calendar() {
        let number = |period, zone| Calendar::new(period, zone).slot(ms("2026-11-22T23:30:00Z"));
        assert_eq!((number(Period::Month, "UTC"), number(Period::Day, "UTC")), (56 * 12 + 10, 20_779));
        assert_eq!(number(Period::Day, "Asia/Tokyo"), 20_780);
    }

    #[test]
    fn reckoned_days_are_those_that_the_zone_gives() {
        for name in
            ["Europe/Berlin", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Beirut", "Pacific/Apia", "Asia/Tehran"]
        {
            let zone = TimeZoneDatabase::bundled().get(name).expect("a zone");
            let asked = rising((0..30_000).map(|day| begin(date(1970, 1, 1) + jiff::Span::new().days(day), &zone)));
            assert_eq!(days(&zone)[..30_000], asked[..], "{name}");
        }
    }
}
