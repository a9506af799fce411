//! Time zones by name. Never asks the machine for its zone or its copy of the time zone database: the program carries one,
//! so that all nodes of a release accept the same documents and cut time alike.

use jiff::tz::TimeZoneDatabase;

use crate::suggest;

/// A zone's name as the IANA database has it, for example `Europe/Berlin`; `None` when there is no such zone.
pub(crate) fn zone_name(word: &str) -> Option<String> {
    let zone = TimeZoneDatabase::bundled().get(word).ok()?;
    Some(zone.iana_name().unwrap_or("UTC").to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_one_name_whatever_its_case() {
        let check = |word, expected: Option<&str>| assert_eq!(zone_name(word).as_deref(), expected);
        check("Europe/Berlin", Some("Europe/Berlin"));
        check("europe/berlin", Some("Europe/Berlin"));
        check("UTC", Some("UTC"));
        check("Berlin", None);
        check("../etc/passwd", None);
    }

    #[test]
    fn a_wrong_zone_is_answered_with_the_nearest() {
        let check = |word, expected: &str| assert_eq!(zone_remedy(word), expected);
        check("Europe/Berln", "did you mean `Europe/Berlin`?");
        check("berlin", "did you mean `Europe/Berlin`?");
        check("utc+1", "write a name of the IANA time zone database, for example Europe/Berlin or UTC");
    }
}
