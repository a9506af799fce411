//! Civil days and months of a time zone as numbered slots. Never asks the machine for its zone or its copy of the time
//! zone database: the program carries one, so that all nodes of a release cut time alike.

use std::fmt;

use jiff::{
    civil::{Date, DateTime, Time},
    tz::{TimeZone, TimeZoneDatabase},
};
use portolan_model::WallTime;

use super::Period;
use crate::suggest;

/// Civil days or months of one time zone. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
}

/// A numbered stretch of civil time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Grows with time by one: days since 1970-01-01, or months since January 1970.
    pub number: u64,
    /// Its first instant.
    pub begin: WallTime,
    /// The first instant after it.
    pub end: WallTime,
}

impl Calendar {
    /// The calendar of a zone of the IANA database, for example `Europe/Berlin`; `None` when there is no such zone.
    pub fn new(period: Period, zone: &str) -> Option<Self> {
        TimeZoneDatabase::bundled().get(zone).ok().map(|zone| Self { period, zone })
    }

    /// The slot that `wall` falls into. Costs about a microsecond: keep the slot until it ends.
    ///
    /// A slot begins at the first midnight of its date, or where clocks skip it; if clocks go back over midnight, the
    /// earlier day does not begin again. So numbers never fall while time grows.
    pub fn slot(&self, wall: WallTime) -> Slot {
        let number = self.number_of(self.date_at(wall));
        let number = if self.begin(number + 1) <= wall { number + 1 } else { number };
        Slot { number, begin: self.begin(number), end: self.end(number) }
    }

    /// First instant of a slot.
    pub fn begin(&self, number: u64) -> WallTime {
        let midnight = DateTime::from_parts(self.first_date(number), Time::midnight());
        let instant = self.zone.to_ambiguous_timestamp(midnight).compatible();
        let millis = instant.map_or(i64::MAX, |instant| instant.as_millisecond());
        WallTime::from_unix_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// First instant after a slot.
    pub fn end(&self, number: u64) -> WallTime {
        self.begin(number.saturating_add(1))
    }

    fn date_at(&self, wall: WallTime) -> Date {
        let millis = i64::try_from(wall.as_unix_millis()).unwrap_or(i64::MAX);
        let instant = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        self.zone.to_datetime(instant).date()
    }

    fn number_of(&self, date: Date) -> u64 {
        let number = match self.period {
            Period::Day => date.since(EPOCH).map_or(0, |span| i64::from(span.get_days())),
            Period::Month => (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1,
        };
        u64::try_from(number).unwrap_or(0)
    }

    /// The last date there is stands for all later ones.
    fn first_date(&self, number: u64) -> Date {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        match self.period {
            Period::Day => {
                EPOCH.checked_add(jiff::SignedDuration::from_hours(24 * i64::from(number))).unwrap_or(Date::MAX)
            }
            Period::Month => {
                let (year, month) = (1970 + number / 12, 1 + number % 12);
                let year = i16::try_from(year).unwrap_or(i16::MAX);
                Date::new(year, i8::try_from(month).unwrap_or(1), 1).unwrap_or(Date::MAX)
            }
        }
    }
}

/// The zone's name.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.zone.iana_name().unwrap_or("UTC"))
    }
}

/// What to write in place of a zone that does not exist.
pub(crate) fn zone_remedy(word: &str) -> String {
    let known: Vec<String> = TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let city = |name: &&&str| name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(word.trim()));
    let best = known.iter().find(city).copied().or_else(|| suggest::closest(word, &known));
    let example = "write a name of the IANA time zone database, for example Europe/Berlin or UTC";
    best.map_or_else(|| example.to_owned(), |best| format!("did you mean `{best}`?"))
}

const EPOCH: Date = jiff::civil::date(1970, 1, 1);

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> WallTime {
        let instant: jiff::Timestamp = text.parse().expect("an instant");
        WallTime::from_unix_millis(u64::try_from(instant.as_millisecond()).expect("after 1970"))
    }

    fn calendar(period: Period, zone: &str) -> Calendar {
        Calendar::new(period, zone).expect("a zone")
    }

    #[test]
    fn slots_are_civil_days_and_months_of_the_zone() {
        let check = |period, zone, at: &str, begin: &str, end: &str| {
            let slot = calendar(period, zone).slot(wall(at));
            let shown = (slot.begin.to_string(), slot.end.to_string());
            assert_eq!(shown, (begin.to_owned(), end.to_owned()), "{zone} {at}");
        };
        let (day, month) = (Period::Day, Period::Month);
        check(day, "UTC", "2026-11-22T04:00:00Z", "2026-11-22T00:00:00.000Z", "2026-11-23T00:00:00.000Z");
        check(month, "UTC", "2026-12-31T23:59:59.999Z", "2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z");
        check(day, "Europe/Berlin", "2026-11-21T23:30:00Z", "2026-11-21T23:00:00.000Z", "2026-11-22T23:00:00.000Z");
        // 25 and 23 hours, where clocks change.
        check(day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00.000Z", "2026-10-25T23:00:00.000Z");
        check(day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z");
        check(month, "Asia/Kolkata", "2026-02-28T18:30:00Z", "2026-02-28T18:30:00.000Z", "2026-03-31T18:30:00.000Z");
        // Clocks skip midnight.
        check(day, "Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-23T22:00:00.000Z", "2026-04-24T21:00:00.000Z");
    }

    #[test]
    fn slot_numbers_never_fall_and_slots_follow_each_other() {
        // Newfoundland set clocks back at one minute past midnight; Samoa left a day out; Azores change at midnight.
        for (zone, from) in [
            ("America/St_Johns", "2010-11-06T00:00:00Z"),
            ("Pacific/Apia", "2011-12-28T00:00:00Z"),
            ("Atlantic/Azores", "2026-10-23T00:00:00Z"),
            ("Africa/Cairo", "2026-10-28T00:00:00Z"),
        ] {
            for period in [Period::Day, Period::Month] {
                let calendar = calendar(period, zone);
                let mut last = calendar.slot(wall(from));
                for quarter in 0..4 * 24 * 4 {
                    let at = wall(from) + std::time::Duration::from_secs(900 * quarter);
                    let slot = calendar.slot(at);
                    assert!(slot.begin <= at && at < slot.end, "{zone} {at}: {slot:?}");
                    assert!(slot.number >= last.number, "{zone} {at}");
                    if slot.number != last.number {
                        assert_eq!(slot.begin, last.end, "{zone} {at}");
                    }
                    last = slot;
                }
            }
        }
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let calendar = calendar(Period::Month, "Asia/Tokyo");
        let last = calendar.slot(WallTime::from_unix_millis(u64::MAX));
        assert!(calendar.end(u64::MAX) >= last.begin);
        assert_eq!(calendar.slot(WallTime::from_unix_millis(0)).number, 0);
    }

    #[test]
    fn a_wrong_zone_is_answered_with_the_nearest() {
        let check = |word, expected: &str| assert_eq!(zone_remedy(word), expected);
        check("Europe/Berln", "did you mean `Europe/Berlin`?");
        check("berlin", "did you mean `Europe/Berlin`?");
        check("utc+1", "write a name of the IANA time zone database, for example Europe/Berlin or UTC");
    }
}
