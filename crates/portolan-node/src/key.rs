//! What a limit counts apart, as bytes: read from a request on the data path, or from a person who writes a key down.
//! Both ways must give the same bytes for the same consumer. Decides what a missing value means; counts nothing.
//!
//! A header or claim that a request does not carry is a value of its own: such requests share one counter. They are not
//! let pass, which would make leaving the header out a way around the limit. A person writes it as an empty part.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use portolan_config::{KeyPart, LimitKey, Route, Snapshot};
use smallvec::SmallVec;

use crate::Subject;

/// Stands for a value that a request does not carry. No header field can have it (RFC 9110 §5.5), and a claim of this
/// one byte shares its counter.
const MISSING: &[u8] = b"\0";

/// The word for the one key of a limit that tells nothing apart.
const GLOBAL: &str = "global";

/// Characters of a header field that may be told: enough to know one's own key by.
const SHOWN_OF_HEADER: usize = 4;

/// Longest part that is told, in characters.
const MAX_SHOWN: usize = 128;

/// What stands between the parts of a tuple.
const SEPARATOR: char = ',';

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Bytes(Cow<'a, [u8]>),
    /// The first so many bytes of an address.
    Network([u8; 16], u8),
}

/// The parts of one key, in the order of the limit; none for a global one.
pub(crate) type Parts<'a> = SmallVec<[Part<'a>; 4]>;

impl Part<'_> {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Network(octets, length) => &octets[..usize::from(*length)],
        }
    }

    fn missing() -> Self {
        Self::Bytes(Cow::Borrowed(MISSING))
    }
}

/// The key of a request. Copies only what does not stand in the request as it is counted.
pub(crate) fn of_request<'a>(key: &LimitKey, route: &'a Route, subject: &Subject<'a>) -> Parts<'a> {
    let parts = key.parts().iter().filter(|part| **part != KeyPart::Global);
    parts.map(|part| of_part(part, route, subject)).collect()
}

fn of_part<'a>(part: &KeyPart, route: &'a Route, subject: &Subject<'a>) -> Part<'a> {
    let text = |text: &'a str| Part::Bytes(Cow::Borrowed(text.as_bytes()));
    match part {
        KeyPart::Global => text(""),
        KeyPart::Service => text(route.service.as_str()),
        KeyPart::Route => text(route.name.as_str()),
        KeyPart::User => subject.user.map_or_else(Part::missing, text),
        KeyPart::ClientAddress { v6_prefix } => network(subject.client, *v6_prefix),
        KeyPart::Header(name) => subject.attributes.header(name).map_or_else(Part::missing, Part::Bytes),
        KeyPart::Claim(name) => subject.attributes.claim(name).map_or_else(Part::missing, |claim| {
            Part::Bytes(match claim {
                Cow::Borrowed(claim) => Cow::Borrowed(claim.as_bytes()),
                Cow::Owned(claim) => Cow::Owned(claim.into_bytes()),
            })
        }),
    }
}

/// The key that a person means by `written`: the parts in the order of the limit, separated by commas, `global` for the
/// only key of a global limit. `None` when it cannot be a key of this limit.
pub(crate) fn of_text<'a>(key: &LimitKey, written: &'a str, snapshot: &Snapshot) -> Option<Parts<'a>> {
    if key.parts() == [KeyPart::Global] {
        return (written == GLOBAL).then(Parts::new);
    }
    // The last part may hold commas: in a key of one part there is nothing to separate.
    let texts: SmallVec<[&str; 4]> = written.splitn(key.parts().len(), SEPARATOR).map(str::trim).collect();
    if texts.len() != key.parts().len() {
        return None;
    }
    key.parts().iter().zip(texts).map(|(part, text)| part_of_text(part, text, snapshot)).collect()
}

fn part_of_text<'a>(part: &KeyPart, text: &'a str, snapshot: &Snapshot) -> Option<Part<'a>> {
    let known = match part {
        KeyPart::Global => false,
        KeyPart::Service => snapshot.services.keys().any(|name| name.as_str() == text),
        KeyPart::Route => snapshot.routes.keys().any(|name| name.as_str() == text),
        KeyPart::ClientAddress { .. } => return of_consumer(part, text),
        KeyPart::User | KeyPart::Header(_) | KeyPart::Claim(_) => true,
    };
    if known { of_consumer(part, text) } else { None }
}

/// A key as a person writes it, but for header fields: those may be secrets, so only their beginning is told.
pub(crate) fn to_text(key: &LimitKey, parts: &Parts<'_>) -> String {
    if parts.is_empty() {
        return GLOBAL.to_owned();
    }
    let kinds = key.parts().iter().filter(|part| **part != KeyPart::Global);
    let texts: Vec<String> = kinds.zip(parts).map(|(kind, part)| part_to_text(kind, part)).collect();
    texts.join(&SEPARATOR.to_string())
}

/// The same of the consumer that the text of an override names.
pub(crate) fn consumer_to_text(key: &LimitKey, text: &str) -> String {
    let part = key.consumer().and_then(|kind| Some(part_to_text(kind, &of_consumer(kind, text)?)));
    part.unwrap_or_default()
}

fn part_to_text(kind: &KeyPart, part: &Part<'_>) -> String {
    match (kind, part) {
        (_, Part::Network(octets, 4)) => Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]]).to_string(),
        (_, Part::Network(octets, length)) => format!("{}/{}", Ipv6Addr::from(*octets), u16::from(*length) * 8),
        (_, Part::Bytes(bytes)) if **bytes == *MISSING => String::new(),
        (KeyPart::Header(_), Part::Bytes(bytes)) => {
            let shown: String = String::from_utf8_lossy(bytes).chars().take(SHOWN_OF_HEADER).collect();
            format!("{shown}…")
        }
        (_, Part::Bytes(bytes)) => {
            let text = String::from_utf8_lossy(bytes);
            text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
        }
    }
}

/// What tells a consumer apart, by the text that names it in overrides: an address or network, or the value itself.
pub(crate) fn of_consumer<'a>(part: &KeyPart, text: &'a str) -> Option<Part<'a>> {
    match part {
        KeyPart::ClientAddress { v6_prefix } => {
            let address = text.split_once('/').map_or(text, |(address, _)| address);
            address.parse().ok().map(|address| network(address, *v6_prefix))
        }
        _ if text.is_empty() => Some(Part::missing()),
        _ => Some(Part::Bytes(Cow::Borrowed(text.as_bytes()))),
    }
}

/// The network that an address is counted with: itself, or the customer's for IPv6, where a customer holds at least a
/// /64 (RFC 6177) and anything finer would let one client be many.
fn network(client: IpAddr, v6_prefix: u8) -> Part<'static> {
    match client.to_canonical() {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            Part::Network(octets, 4)
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6_prefix.min(128))).unwrap_or(0);
            let octets = Ipv6Addr::from_bits(address.to_bits() & mask).octets();
            Part::Network(octets, v6_prefix.min(128).div_ceil(8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[KeyPart]) -> LimitKey {
        LimitKey::new(parts.to_vec()).expect("a key")
    }

    fn written(parts: &[KeyPart], text: &str) -> Option<Vec<Vec<u8>>> {
        let parts = of_text(&key(parts), text, &Snapshot::default())?;
        Some(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    #[test]
    fn a_written_key_has_the_parts_of_its_limit() {
        let check = |parts: &[KeyPart], text: &str, expected: Option<&[&[u8]]>| {
            let expected = expected.map(|parts| parts.iter().map(|part| part.to_vec()).collect());
            assert_eq!(written(parts, text), expected, "{text}");
        };
        let tenant = || KeyPart::Claim("tenant".into());
        check(&[KeyPart::Global], "global", Some(&[]));
        check(&[KeyPart::Global], "alice", None);
        check(&[KeyPart::User], "alice", Some(&[b"alice"]));
        check(&[KeyPart::User], "a,b", Some(&[b"a,b"]));
        check(&[tenant()], "", Some(&[MISSING]));
        check(&[tenant(), KeyPart::User], "acme, alice", Some(&[b"acme", b"alice"]));
        check(&[tenant(), KeyPart::User], "acme", None);
        check(&[tenant(), KeyPart::User], ",alice", Some(&[MISSING, b"alice"]));
        check(&[KeyPart::Route], "unknown", None);
        check(&[KeyPart::CLIENT], "192.0.2.7", Some(&[&[192, 0, 2, 7]]));
        check(&[KeyPart::CLIENT], "::ffff:192.0.2.7", Some(&[&[192, 0, 2, 7]]));
        check(&[KeyPart::CLIENT], "2001:db8::1", Some(&[&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]]));
        check(&[KeyPart::CLIENT], "2001:db8::/64", Some(&[&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]]));
        check(&[KeyPart::CLIENT], "alice", None);
    }

    #[test]
    fn a_key_is_told_as_it_is_written_but_for_secrets() {
        let check = |parts: &[KeyPart], text: &str, told: &str| {
            let key = key(parts);
            let parts = of_text(&key, text, &Snapshot::default()).expect("a key of this limit");
            assert_eq!(to_text(&key, &parts), told);
        };
        check(&[KeyPart::Global], "global", "global");
        check(&[KeyPart::Claim("tenant".into()), KeyPart::User], "acme,alice", "acme,alice");
        check(&[KeyPart::Claim("tenant".into()), KeyPart::User], ",alice", ",alice");
        check(&[KeyPart::CLIENT], "192.0.2.7", "192.0.2.7");
        check(&[KeyPart::CLIENT], "2001:db8::1", "2001:db8::/64");
        check(&[KeyPart::Header("x-api-key".into())], "0123456789", "0123…");
    }

    #[test]
    fn networks_of_one_customer_are_one_key() {
        let of = |address: &str, prefix| network(address.parse().expect("an address"), prefix);
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::2:1", 64));
        assert_ne!(of("2001:db8:0:1::1", 64), of("2001:db8::1", 64));
        assert_eq!(of("2001:db8:0:1::1", 48), of("2001:db8::1", 48));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
    }
}
