//! How figures read: counts, shares, times. Decides nothing about what they mean.

/// `1 run`, `12,000 requests`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// Digits in groups of three from 10,000 up.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    if number < 10_000 {
        return digits;
    }
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in (first..digits.len()).step_by(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&digits[group..group + 3]);
    }
    text
}

/// A share in percent to two places, cut and never rounded up: 99.99 % is not 100 %.
pub fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// Parts per million as percent, two places, rounded up so that something is never called nothing.
pub fn ppm(parts: u64) -> String {
    let hundredths = parts.div_ceil(100);
    if hundredths == 0 { "0 %".to_owned() } else { format!("{}.{:02} %", hundredths / 100, hundredths % 100) }
}

/// A moment or a short time in seconds, to a tenth where there is one.
pub fn seconds(millis: u64) -> String {
    let tenths = (millis + 50) / 100;
    if tenths.is_multiple_of(10) { format!("{} s", tenths / 10) } else { format!("{}.{} s", tenths / 10, tenths % 10) }
}

/// A time from a moment to another: `15 s to 36 s`.
pub fn stretch((from, to): (u64, u64)) -> String {
    format!("{} to {}", seconds(from), seconds(to))
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(count(1, "run"), "1 run");
        assert_eq!(count(1_234_567, "request"), "1,234,567 requests");
        assert_eq!(grouped(9999), "9999");
        assert_eq!(grouped(100_000), "100,000");
        assert_eq!(percent(9999, 10_001), "99.98 %");
        assert_eq!(percent(0, 0), "0.00 %");
        assert_eq!(ppm(1), "0.01 %");
        assert_eq!(ppm(0), "0 %");
        assert_eq!(ppm(29_600), "2.96 %");
        assert_eq!(stretch((15_000, 36_450)), "15 s to 36.5 s");
        assert_eq!(list(&["a".to_owned(), "b".to_owned(), "c".to_owned()]), "a, b and c");
    }
}
