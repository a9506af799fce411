//! `key` of a limit: one part, or a list of parts that are counted as a tuple.

use crate::{
    KeyPart, LimitKey,
    decode::{Fields, Shape, string, text, whole},
    fault::Report,
    limit::{API_KEY_HEADER, MAX_KEY_PARTS, TENANT_CLAIM},
    tree::{Node, Value},
};

/// The words for parts that need nothing more.
pub(crate) const KEY_WORDS: [&str; 7] = ["global", "service", "route", "user", "client", "tenant", "api_key"];

/// The keys of a part that needs more than a word.
pub(crate) const KEY_PART: Shape = Shape { what: "a part of a key", keys: &["header", "claim", "client"] };

/// Lengths of IPv6 prefixes that tell clients apart.
const V6_PREFIXES: [u8; 4] = [48, 56, 64, 128];

pub(super) fn key(node: &Node, report: &mut Report<'_>) -> Option<LimitKey> {
    let Value::Sequence(items) = &node.value else {
        return LimitKey::new(vec![part(node, report)?]);
    };
    if items.is_empty() || items.len() > MAX_KEY_PARTS {
        let message = format!("`key` has {} parts", items.len());
        report.fault(node.at, message, format!("write 1 to {MAX_KEY_PARTS}, or `key: global`"));
        return None;
    }
    let mut parts = Vec::new();
    let mut sound = true;
    for item in items {
        let part = part(item, report);
        match &part {
            Some(KeyPart::Global) if items.len() > 1 => {
                let remedy =
                    "remove `global`: it counts everything together, and the other parts count apart".to_owned();
                report.fault(item.at, "`global` stands alone or not at all", remedy);
            }
            Some(part) if parts.contains(part) => {
                let message = format!("`{part}` stands twice in `key`");
                report.fault(item.at, message, "keep one of them".to_owned());
            }
            _ => {}
        }
        sound &= part.is_some();
        parts.extend(part);
    }
    if sound { LimitKey::new(parts) } else { None }
}

fn part(node: &Node, report: &mut Report<'_>) -> Option<KeyPart> {
    if !matches!(node.value, Value::Mapping(_)) {
        return word(node, report);
    }
    let fields = Fields::open(node, &KEY_PART, report)?;
    let given = KEY_PART.keys.iter().filter_map(|key| fields.get(key).map(|value| (*key, value)));
    match given.collect::<Vec<_>>()[..] {
        [("header", value)] => header_name(value, report).map(KeyPart::Header),
        [("claim", value)] => claim_name(value, report).map(KeyPart::Claim),
        [(_, value)] => client(value, report),
        // A misspelt key has been told.
        [] if !is_empty(node) => None,
        [] => {
            let remedy = "write for example { header: x-device }, { claim: org } or { client: 56 }".to_owned();
            report.fault(node.at, "a part of a key says nothing to count by", remedy);
            None
        }
        _ => {
            let remedy = "write them as parts of a list: [{ header: x-device }, { claim: org }]".to_owned();
            report.fault(node.at, "a part of a key counts by one thing", remedy);
            None
        }
    }
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Mapping(entries) if entries.is_empty())
}

fn word(node: &Node, report: &mut Report<'_>) -> Option<KeyPart> {
    let word = text(node, report)?;
    Some(match &**word {
        "global" => KeyPart::Global,
        "service" => KeyPart::Service,
        "route" => KeyPart::Route,
        "user" => KeyPart::User,
        "client" => KeyPart::CLIENT,
        "tenant" => KeyPart::Claim(TENANT_CLAIM.to_owned()),
        "api_key" => KeyPart::Header(API_KEY_HEADER.to_owned()),
        other => {
            super::unknown_word(node, other, "something to count by", &KEY_WORDS, report);
            return None;
        }
    })
}

fn client(node: &Node, report: &mut Report<'_>) -> Option<KeyPart> {
    let prefix = whole(node, 0..=128, report)?;
    let found = V6_PREFIXES.into_iter().find(|known| u64::from(*known) == prefix);
    if found.is_none() {
        let remedy = "write 48, 56, 64 or 128; IPv4 addresses count one by one".to_owned();
        report.fault(node.at, format!("{} is no length of an IPv6 prefix to count by", node.quoted()), remedy);
    }
    found.map(|v6_prefix| KeyPart::ClientAddress { v6_prefix })
}

/// A field name (RFC 9110 §5.1: a token), in lower case.
pub(super) fn header_name(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let name = string(node, report)?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.len() > MAX_WORD || !name.chars().all(token) {
        let bad = name.chars().find(|c| !token(*c));
        let why =
            bad.map_or_else(|| format!("it has more than {MAX_WORD} characters"), |c| format!("`{c}` stands in it"));
        let message = format!("{} is not the name of a header: {why}", node.quoted());
        report.fault(node.at, message, "write a name such as x-device (RFC 9110 section 5.1)".to_owned());
        return None;
    }
    Some(name.to_ascii_lowercase())
}

/// The name of a top-level claim.
pub(super) fn claim_name(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let name = string(node, report)?;
    if name.len() > MAX_WORD || name.chars().any(char::is_control) {
        let message = format!("{} is not the name of a claim", node.quoted());
        report.fault(node.at, message, format!("write at most {MAX_WORD} characters without control characters"));
        return None;
    }
    Some(name)
}

/// Characters in the name of a header, a claim, a plan or a consumer.
pub(super) const MAX_WORD: usize = 128;
