//! Text on its way into a page. Every byte that comes from a file of the user, or from a run, goes through [`text`]; what
//! is written without it is a literal of this crate. Never lets markup through (WHATWG HTML 13.2, XML 1.0 2.2).

use std::fmt::{Display, Write};

/// Escapes for element content and for attribute values in double quotes. Characters that no XML text may hold are
/// shown as U+FFFD.
pub fn text(value: impl Display) -> String {
    let value = value.to_string();
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(character),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Escapes, and sets what stands between backticks as code.
pub fn prose(value: &str) -> String {
    let mut html = String::new();
    for (index, part) in value.split('`').enumerate() {
        let _ =
            if index % 2 == 0 { write!(html, "{}", text(part)) } else { write!(html, "<code>{}</code>", text(part)) };
    }
    html
}

/// A share of the axis in percent, to two places.
pub fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    if rest == 0 { format!("{whole}%") } else { format!("{whole}.{rest:02}%") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_markup_of_a_user_gets_through() {
        let check = |given: &str, expected: &str| assert_eq!(text(given), expected);
        check("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
        check("\" onload=\"x", "&quot; onload=&quot;x");
        check("a\u{0}b\u{1b}", "a\u{fffd}b\u{fffd}");
        assert_eq!(prose("limit `<b>` & more"), "limit <code>&lt;b&gt;</code> &amp; more");
    }

    #[test]
    fn shares_of_the_axis_are_short() {
        let check = |part, whole, expected: &str| assert_eq!(percent(part, whole), expected);
        check(1, 4, "25%");
        check(1, 3, "33.33%");
        check(1, 0, "100%");
    }
}
