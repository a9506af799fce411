//! Guesses which known word a mistyped one was meant to be. Optimal string alignment distance, case ignored.

/// A remedy for `word`: the closest of `known` when one is close, otherwise the list of them.
pub(crate) fn remedy<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(best) = closest(word, &known) {
        return Some(format!("did you mean `{best}`?"));
    }
    match known.len() {
        0 => None,
        1 => Some(format!("the only choice is `{}`", known[0])),
        count if count <= MAX_LISTED => Some(format!("choose from {}", known.join(", "))),
        count => Some(format!("choose from {}, … ({count} in all)", known[..MAX_LISTED].join(", "))),
    }
}

/// The known word at the smallest distance, when that is at most a third of the letters.
pub(crate) fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_COMPARED {
        return None;
    }
    let word = word.to_lowercase();
    let distances = known.iter().map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), *candidate));
    let (distance, best) = distances.min()?;
    let letters = word.chars().count().max(best.chars().count());
    (distance <= (letters / 3).max(1) && distance < letters).then_some(best)
}

/// Known words that a remedy lists.
const MAX_LISTED: usize = 12;

/// Longer words are not compared: the distance costs the product of the lengths.
const MAX_COMPARED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_suggested_and_a_far_one_is_not() {
        let check = |word, expected| assert_eq!(closest(word, &["orders", "per-user", "path"]), expected, "{word}");
        check("ordesr", Some("orders"));
        check("Orders", Some("orders"));
        check("per_user", Some("per-user"));
        check("pth", Some("path"));
        check("x", None);
        check("timeout", None);
    }
}
