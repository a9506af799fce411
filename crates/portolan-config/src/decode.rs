//! The kit that decoders are made of: takes nodes of the tree, gives values, and notes what is wrong instead of stopping.
//!
//! A decoder reads *everything* it can before it gives up, so that all faults are told at once: it asks for each value
//! into an `Option`, and only then uses `?`. An optional value with a fault becomes its default, since the fault alone
//! makes the whole document be refused.

use std::{ops::RangeInclusive, rc::Rc, str::FromStr, time::Duration};

use portolan_model::{ByteSize, Name, NodeName, Rate, Ratio, RegionId, UnitError, parse_duration, render_duration};

use crate::{
    fault::{Report, Span},
    suggest,
    tree::{Entry, Label, Node, Value, shorten},
};

/// The keys of one kind of mapping. The JSON Schema is held against these.
pub(crate) struct Shape {
    /// With its article: `a route`.
    pub what: &'static str,
    pub keys: &'static [&'static str],
}

/// A mapping whose keys are those of a shape.
pub(crate) struct Fields<'n> {
    node: &'n Node,
    shape: &'static Shape,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    /// Takes a mapping and notes each key that the shape does not have.
    pub fn open(node: &'n Node, shape: &'static Shape, report: &mut Report<'_>) -> Option<Self> {
        let entries = mapping(node, shape, report)?;
        for entry in entries {
            if !shape.keys.contains(&&*entry.key) && &*entry.key != "<<" {
                let message = format!("`{}` is not a key of {}", shorten(&entry.key), shape.what);
                report.fault(entry.key_at, message, suggest::remedy(&entry.key, shape.keys.iter().copied()));
            }
        }
        Some(Self { node, shape, entries })
    }

    /// The value under a key, if the key stands there.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        debug_assert!(self.shape.keys.contains(&key), "`{key}` is missing in the shape of {}", self.shape.what);
        self.entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.node)
    }

    /// The value under a key; its absence is a fault, unless a misspelt key was noted in its place.
    pub fn require(&self, key: &str, example: &str, report: &mut Report<'_>) -> Option<&'n Node> {
        let found = self.get(key);
        let misspelt = |entry: &Entry| {
            !self.shape.keys.contains(&&*entry.key) && suggest::closest(&entry.key, self.shape.keys) == Some(key)
        };
        if found.is_none() && !self.entries.iter().any(misspelt) {
            let owner = match self.node.label {
                Label::Root => self.shape.what.to_owned(),
                _ => self.node.quoted(),
            };
            let message = format!("{owner} lacks `{key}`");
            report.fault(self.node.named_at, message, format!("add for example `{key}: {example}`"));
        }
        found
    }

    /// A value decoded by `read`, or `default` when the key is absent.
    pub fn optional<T>(
        &self,
        key: &str,
        default: T,
        report: &mut Report<'_>,
        read: impl FnOnce(&'n Node, &mut Report<'_>) -> Option<T>,
    ) -> T {
        self.get(key).and_then(|node| read(node, report)).unwrap_or(default)
    }

    /// Notes a version other than 1.
    pub fn check_version(&self, report: &mut Report<'_>) {
        let Some(node) = self.require("version", "1", report) else { return };
        if text(node, report).is_some_and(|version| &**version != "1") {
            let message = format!("{} is not a version this program reads", node.quoted());
            report.fault(node.at, message, "write `version: 1`".to_owned());
        }
    }
}

fn mapping<'n>(node: &'n Node, shape: &Shape, report: &mut Report<'_>) -> Option<&'n [Entry]> {
    if let Value::Mapping(entries) = &node.value {
        return Some(entries);
    }
    let what = match node.label {
        Label::Root => format!("{} must be a mapping, not {}", shape.what, node.kind()),
        _ => format!("{} must be {}, not {}", node.quoted(), shape.what, node.kind()),
    };
    report.fault(node.at, what, format!("write a mapping with keys of {}", shape.keys.join(", ")));
    None
}

/// The entries of a mapping from names that the author chooses; at most `max`.
pub(crate) fn named<'n>(node: &'n Node, what: &str, max: usize, report: &mut Report<'_>) -> &'n [Entry] {
    match &node.value {
        Value::Mapping(entries) => {
            if entries.len() > max {
                let message = format!("{} has {} entries, at most {max} are taken", node.quoted(), entries.len());
                report.fault(node.named_at, message, None);
            }
            entries
        }
        Value::Null => &[],
        Value::Scalar(_) | Value::Sequence(_) => {
            let message = format!("{} must be a mapping, not {}", node.quoted(), node.kind());
            report.fault(node.at, message, format!("write `{what}`"));
            &[]
        }
    }
}

/// The name under which an entry stands.
pub(crate) fn entry_name(entry: &Entry, report: &mut Report<'_>) -> Option<Name> {
    checked_name(&entry.key, entry.key_at, format!("`{}`", shorten(&entry.key)), report)
}

fn checked_name(word: &str, at: Span, quoted: String, report: &mut Report<'_>) -> Option<Name> {
    match Name::new(word) {
        Ok(name) => Some(name),
        Err(error) => {
            let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            let mended: String = word.trim().chars().take(63).map(allowed).collect();
            let remedy = Name::new(mended.trim_matches('-')).ok().map(|name| format!("write for example `{name}`"));
            report.fault(at, format!("{quoted} is not a name: {error}"), remedy);
            None
        }
    }
}

/// The items of a list; at most `max`.
pub(crate) fn items<'n>(node: &'n Node, max: usize, report: &mut Report<'_>) -> Option<&'n [Node]> {
    if let Value::Sequence(items) = &node.value {
        if items.len() > max {
            let message = format!("{} has {} items, at most {max} are taken", node.quoted(), items.len());
            report.fault(node.at, message, None);
        }
        return Some(items);
    }
    let remedy = match (&node.label, &node.value) {
        (Label::Key(key), Value::Scalar(text)) => format!("write `{key}: [{}]`", shorten(text)),
        (Label::Key(key), _) => format!("write `{key}: […]`"),
        _ => "write `[…]`".to_owned(),
    };
    report.fault(node.at, format!("{} must be a list", node.quoted()), remedy);
    None
}

/// A list decoded item by item; items with faults are left out.
pub(crate) fn list<T>(
    node: &Node,
    max: usize,
    report: &mut Report<'_>,
    mut read: impl FnMut(&Node, &mut Report<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = items(node, max, report)?;
    Some(items.iter().filter_map(|item| read(item, report)).collect())
}

/// Whether a value is a list without items, which some keys refuse.
pub(crate) fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::Sequence(items) if items.is_empty())
}

/// A single value as text.
pub(crate) fn text<'n>(node: &'n Node, report: &mut Report<'_>) -> Option<&'n Rc<str>> {
    match &node.value {
        Value::Scalar(text) => Some(text),
        Value::Null => {
            report.fault(node.at, format!("{} is empty", node.quoted()), "write a value or remove it".to_owned());
            None
        }
        Value::Sequence(_) | Value::Mapping(_) => {
            let message = format!("{} must be a single value, not {}", node.quoted(), node.kind());
            report.fault(node.at, message, None);
            None
        }
    }
}

/// Text of a bounded length, kept as it is.
pub(crate) fn string(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let text = text(node, report)?;
    if text.is_empty() || text.len() > MAX_STRING {
        let message = format!("{} has {} bytes", node.quoted(), text.len());
        report.fault(node.at, message, format!("write between 1 and {MAX_STRING}"));
        return None;
    }
    Some(text.to_string())
}

/// A value that its own type reads; `what` with article, `remedy` complete.
pub(crate) fn parsed<T: FromStr>(node: &Node, what: &str, remedy: &str, report: &mut Report<'_>) -> Option<T> {
    let value = text(node, report)?.parse().ok();
    if value.is_none() {
        report.fault(node.at, format!("{} is not {what}", node.quoted()), remedy.to_owned());
    }
    value
}

pub(crate) fn name(node: &Node, report: &mut Report<'_>) -> Option<Name> {
    let word = text(node, report)?;
    checked_name(word, node.at, node.quoted(), report)
}

pub(crate) fn region_id(node: &Node, report: &mut Report<'_>) -> Option<RegionId> {
    name(node, report).and_then(|name| RegionId::new(name.as_str()).ok())
}

pub(crate) fn node_name(node: &Node, report: &mut Report<'_>) -> Option<NodeName> {
    name(node, report).and_then(|name| NodeName::new(name.as_str()).ok())
}

pub(crate) fn rate(node: &Node, report: &mut Report<'_>) -> Option<Rate> {
    let text = text(node, report)?;
    let read = text.parse::<Rate>();
    let per = if text.contains("min") || text.contains("rpm") { "/min" } else { "/s" };
    read.map_err(|error| wrong_unit(node, "a rate", &error, &with_unit(text, "600/min", per), report)).ok()
}

pub(crate) fn duration(node: &Node, bounds: RangeInclusive<Duration>, report: &mut Report<'_>) -> Option<Duration> {
    let text = text(node, report)?;
    let fits = |unit: &&str| parse_duration(&with_unit(text, "", unit)).is_ok_and(|value| bounds.contains(&value));
    let units: &[&str] = if text.ends_with('m') { &["min", "ms"] } else { &["s", "ms", "us"] };
    let example = with_unit(text, "30s", units.iter().find(|unit| fits(unit)).unwrap_or(&units[0]));
    let read = parse_duration(text);
    let value = read.map_err(|error| wrong_unit(node, "a duration", &error, &example, report)).ok()?;
    let show = |bound: &Duration| if bound.is_zero() { "0s".to_owned() } else { render_duration(*bound) };
    within(node, value, bounds, show, report)
}

pub(crate) fn size(node: &Node, bounds: RangeInclusive<ByteSize>, report: &mut Report<'_>) -> Option<ByteSize> {
    let text = text(node, report)?;
    let unit = if text.to_lowercase().contains('k') { "KiB" } else { "MiB" };
    let example = with_unit(text.trim_end_matches(|c: char| !c.is_ascii_digit()), "1MiB", unit);
    let value = text.parse().map_err(|error| wrong_unit(node, "a size", &error, &example, report)).ok()?;
    within(node, value, bounds, ToString::to_string, report)
}

pub(crate) fn ratio(node: &Node, report: &mut Report<'_>) -> Option<Ratio> {
    ratio_up_to(node, Ratio::ONE, report)
}

/// A share that may be more than the whole.
pub(crate) fn ratio_up_to(node: &Node, most: Ratio, report: &mut Report<'_>) -> Option<Ratio> {
    let text = text(node, report)?;
    let read = text.parse::<Ratio>();
    let value = read.map_err(|error| wrong_unit(node, "a share", &error, "1%", report)).ok()?;
    within(node, value, Ratio::default()..=most, ToString::to_string, report)
}

/// A whole number in bounds.
pub(crate) fn whole(node: &Node, bounds: RangeInclusive<u64>, report: &mut Report<'_>) -> Option<u64> {
    let text = text(node, report)?;
    match text.parse() {
        Ok(value) => within(node, value, bounds, ToString::to_string, report),
        Err(_) => {
            let remedy = format!("write a number from {} to {}", bounds.start(), bounds.end());
            report.fault(node.at, format!("{} is not a whole number", node.quoted()), remedy);
            None
        }
    }
}

/// `true` or `false`.
pub(crate) fn flag(node: &Node, report: &mut Report<'_>) -> Option<bool> {
    choice(node, &[("true", true), ("false", false)], report)
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(node: &Node, choices: &[(&str, T)], report: &mut Report<'_>) -> Option<T> {
    let word = text(node, report)?;
    let found = choices.iter().find(|(name, _)| *name == &**word);
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = match &words[..] {
            [only] => format!("{} can only be `{only}`", node.quoted()),
            words => format!("{} is none of {}", node.quoted(), words.join(", ")),
        };
        report.fault(node.at, message, suggest::closest(word, &words).map(|best| format!("did you mean `{best}`?")));
    }
    found.map(|(_, value)| *value)
}

/// A value between two bounds, both included.
pub(crate) fn within<T: PartialOrd>(
    node: &Node,
    value: T,
    bounds: RangeInclusive<T>,
    show: impl Fn(&T) -> String,
    report: &mut Report<'_>,
) -> Option<T> {
    if bounds.contains(&value) {
        return Some(value);
    }
    let remedy = format!("write at least {} and at most {}", show(bounds.start()), show(bounds.end()));
    report.fault(node.at, format!("{} is out of bounds", node.quoted()), remedy);
    None
}

/// Notes that a name refers to nothing, with the closest that exists.
pub(crate) fn dangling<'k>(node: &Node, what: &str, known: impl IntoIterator<Item = &'k str>, report: &mut Report<'_>) {
    let Value::Scalar(word) = &node.value else { return };
    let message = format!("{} names no {what}", node.quoted());
    // Comparing with thousands of names pays for a fault that will be shown.
    let remedy = if report.is_full() { None } else { suggest::remedy(word, known) };
    let remedy = remedy.or_else(|| Some(format!("no {what} is defined")));
    report.fault(node.at, message, remedy);
}

fn wrong_unit(node: &Node, what: &str, error: &UnitError, example: &str, report: &mut Report<'_>) {
    let (why, units) = match error {
        UnitError::MissingNumber | UnitError::TooLarge => (error.to_string(), None),
        UnitError::MissingUnit { allowed } => ("a unit is missing".to_owned(), Some(allowed)),
        UnitError::UnknownUnit { unit, allowed } => (format!("`{}` is not a unit of it", shorten(unit)), Some(allowed)),
    };
    let remedy = match units.filter(|units| units.len() > 1) {
        Some(units) => format!("write for example {example} (units: {units})"),
        None => format!("write for example {example}"),
    };
    report.fault(node.at, format!("{} is not {what}: {why}", node.quoted()), remedy);
}

/// The author's own number with a unit, or `fallback` when there is no number.
fn with_unit(text: &str, fallback: &str, unit: &str) -> String {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let factor = match text.as_bytes().get(digits) {
        Some(b'k') if unit.starts_with('/') => 1000,
        Some(b'M') if unit.starts_with('/') => 1_000_000,
        _ => 1,
    };
    match text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(number) => format!("{number}{unit}"),
        None => fallback.to_owned(),
    }
}

/// Longest text that is kept: a URL or a path.
const MAX_STRING: usize = 2048;
