//! Shapes of a lane in units of the axis: x is a step, y runs from 0 at the top to [`HEIGHT`]. Numbers are whole, so that
//! equal runs give equal pictures; steps that change nothing cost no bytes.

use std::fmt::Write;

/// Height of every lane's coordinate system.
pub const HEIGHT: u64 = 1000;

/// Where a value lies, from the top.
pub fn y(value: u64, top: u64) -> u64 {
    let scaled = u128::from(value.min(top)) * u128::from(HEIGHT) / u128::from(top.max(1));
    HEIGHT - u64::try_from(scaled).unwrap_or(HEIGHT)
}

/// A line of steps; gaps where there is no value.
pub fn line(values: &[Option<u64>], top: u64) -> String {
    let mut path = String::new();
    let mut pen: Option<u64> = None;
    let mut run = 0;
    for (step, value) in values.iter().enumerate() {
        let at = value.map(|value| y(value, top));
        if at == pen {
            run += 1;
            continue;
        }
        flush(&mut path, pen, &mut run);
        let _ = match (pen, at) {
            (_, None) => Ok(()),
            (None, Some(at)) => write!(path, "M{step} {at}"),
            (Some(_), Some(at)) => write!(path, "V{at}"),
        };
        (pen, run) = (at, 1);
    }
    flush(&mut path, pen, &mut run);
    path
}

fn flush(path: &mut String, pen: Option<u64>, run: &mut usize) {
    if pen.is_some() && *run > 0 {
        let _ = write!(path, "h{run}");
    }
    *run = 0;
}

/// The area between `upper` and the bottom; what is missing is empty.
pub fn area(values: &[Option<u64>], top: u64) -> String {
    let filled: Vec<_> = values.iter().map(|value| Some(value.unwrap_or_default())).collect();
    if filled.iter().all(|value| *value == Some(0)) {
        return String::new();
    }
    let line = line(&filled, top);
    format!("{line}V{HEIGHT}H0Z")
}

/// Running sums, so that areas painted from the last to the first look stacked.
pub fn stacked<'a>(curves: impl Iterator<Item = &'a [Option<u64>]>) -> Vec<Vec<Option<u64>>> {
    let mut sums: Vec<Vec<Option<u64>>> = Vec::new();
    for values in curves {
        let below = sums.last();
        let add = |(step, value): (usize, &Option<u64>)| {
            let below = below.and_then(|below| below.get(step).copied().flatten()).unwrap_or_default();
            Some(below + value.unwrap_or_default())
        };
        let next = values.iter().enumerate().map(add).collect();
        sums.push(next);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_steps_and_gaps() {
        let check = |values: &[Option<u64>], expected: &str| assert_eq!(line(values, 10), expected, "{values:?}");
        check(&[], "");
        check(&[Some(5), Some(5), Some(10)], "M0 500h2V0h1");
        check(&[None, Some(0), None, Some(0)], "M1 1000h1M3 1000h1");
        check(&[Some(20)], "M0 0h1");
    }

    #[test]
    fn an_area_reaches_the_bottom_and_nothing_is_drawn_for_nothing() {
        assert_eq!(area(&[Some(5), None], 10), "M0 500h1V1000h1V1000H0Z");
        assert_eq!(area(&[Some(0), None], 10), "");
    }

    #[test]
    fn stacked_areas_are_running_sums() {
        let (a, b) = ([Some(1), None], [Some(2), Some(3)]);
        assert_eq!(stacked([&a[..], &b[..]].into_iter()), [vec![Some(1), Some(0)], vec![Some(3), Some(3)]]);
    }
}
