//! Quantities with their units, as people write them: `250ms`, `600/min`, `1MiB`, `10%`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// The text does not start with digits.
    #[error("a number is missing")]
    MissingNumber,
    /// The number does not fit.
    #[error("the number is too large")]
    TooLarge,
    /// No unit follows the number.
    #[error("a unit is missing; write one of {allowed}")]
    MissingUnit {
        /// The units that may follow.
        allowed: &'static str,
    },
    /// The unit is not one of this quantity.
    #[error("`{unit}` is not a unit here; write one of {allowed}")]
    UnknownUnit {
        /// What stands in place of the unit.
        unit: String,
        /// The units that may follow.
        allowed: &'static str,
    },
}

/// Events per period, for example `600/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Events in one period.
    pub count: u64,
    /// Length of the period: one second, minute, hour or day, or a multiple of one.
    pub per: Duration,
}

const RATE_UNITS: &str = "/s, /min, /h, /d, or a period such as /10s";

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (count, rest) = split_number(text)?;
        let period =
            rest.trim_start().strip_prefix('/').map(str::trim).ok_or(UnitError::MissingUnit { allowed: RATE_UNITS })?;
        let unknown = || UnitError::UnknownUnit { unit: format!("/{period}"), allowed: RATE_UNITS };
        let per = match period {
            "s" | "sec" | "second" => Duration::from_secs(1),
            "min" | "minute" => Duration::from_secs(60),
            "h" | "hour" => Duration::from_secs(3600),
            "d" | "day" => Duration::from_secs(86_400),
            other => parse_duration(other).map_err(|_| unknown())?,
        };
        if per.is_zero() {
            return Err(unknown());
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 if self.per.subsec_nanos() == 0 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            3600 => write!(f, "{}/h", self.count),
            86_400 => write!(f, "{}/d", self.count),
            _ => write!(f, "{}/{}", self.count, render_duration(self.per)),
        }
    }
}

/// A number of bytes, for example `1MiB` or `64KiB`; decimal units (`kB`, `MB`) are taken too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: &str = "B, KiB, MiB, GiB, kB, MB, GB";

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, rest) = split_number(text)?;
        let factor: u64 = match rest.trim() {
            "" => return Err(UnitError::MissingUnit { allowed: SIZE_UNITS }),
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            unit => return Err(UnitError::UnknownUnit { unit: unit.to_owned(), allowed: SIZE_UNITS }),
        };
        number.checked_mul(factor).map(Self).ok_or(UnitError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A share of a whole in parts per 10 000. An integer, so that every machine decides alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ratio(u32);

impl Ratio {
    /// The whole.
    pub const ONE: Self = Self(10_000);

    /// Builds a ratio from parts per 10 000; larger than the whole is allowed.
    pub const fn from_parts(parts: u32) -> Self {
        Self(parts)
    }

    /// Parts per 10 000.
    pub const fn parts(self) -> u32 {
        self.0
    }

    /// This share of `amount`, rounded down.
    pub const fn of(self, amount: u64) -> u64 {
        ((amount as u128 * self.0 as u128) / 10_000) as u64
    }
}

impl FromStr for Ratio {
    type Err = UnitError;

    /// Takes a percentage with at most two decimals: `99.95%`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        const UNITS: &str = "%";
        let number = text.trim().strip_suffix('%').ok_or(UnitError::MissingUnit { allowed: UNITS })?.trim();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let (whole, rest) = split_number(whole)?;
        if !rest.is_empty() || decimals.len() > 2 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
            return Err(UnitError::UnknownUnit { unit: text.to_owned(), allowed: UNITS });
        }
        let hundredths: u64 = format!("{decimals:0<2}").parse().map_err(|_| UnitError::MissingNumber)?;
        let parts = whole.checked_mul(100).and_then(|w| w.checked_add(hundredths)).ok_or(UnitError::TooLarge)?;
        u32::try_from(parts).map(Self).map_err(|_| UnitError::TooLarge)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{}%", self.0 / 100),
            hundredths => write!(f, "{}.{hundredths:02}%", self.0 / 100),
        }
    }
}

const DURATION_UNITS: &str = "us, ms, s, min, h, d";

/// Reads a duration with its unit, for example `250ms`, `30s` or `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, rest) = split_number(text)?;
    let micros: u64 = match rest.trim() {
        "" => return Err(UnitError::MissingUnit { allowed: DURATION_UNITS }),
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        unit => return Err(UnitError::UnknownUnit { unit: unit.to_owned(), allowed: DURATION_UNITS }),
    };
    number.checked_mul(micros).map(Duration::from_micros).ok_or(UnitError::TooLarge)
}

/// Writes a duration in the largest unit that loses nothing above a microsecond.
pub fn render_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units: [(u128, &str); 5] =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1000, "ms")];
    for (factor, unit) in units {
        if micros >= factor && micros.is_multiple_of(factor) {
            return format!("{}{unit}", micros / factor);
        }
    }
    format!("{micros}us")
}

fn split_number(text: &str) -> Result<(u64, &str), UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(UnitError::MissingNumber);
    }
    let (number, rest) = text.split_at(digits);
    number.parse().map(|n| (n, rest)).map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_back_as_written() {
        for text in ["600/min", "5000/s", "10/10s", "3/d"] {
            assert_eq!(text.parse::<Rate>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for text in ["1MiB", "64KiB", "17B"] {
            assert_eq!(text.parse::<ByteSize>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        for text in ["250ms", "30s", "2h", "7us"] {
            assert_eq!(parse_duration(text).map(render_duration), Ok(text.to_owned()));
        }
        for text in ["100%", "99.95%", "0.10%"] {
            assert_eq!(text.parse::<Ratio>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_wrong_quantity_says_what_to_write() {
        assert_eq!(parse_duration("30"), Err(UnitError::MissingUnit { allowed: DURATION_UNITS }));
        assert_eq!("600".parse::<Rate>(), Err(UnitError::MissingUnit { allowed: RATE_UNITS }));
        assert_eq!("9xB".parse::<ByteSize>(), Err(UnitError::UnknownUnit { unit: "xB".into(), allowed: SIZE_UNITS }));
        assert!("0/0s".parse::<Rate>().is_err());
    }
}
