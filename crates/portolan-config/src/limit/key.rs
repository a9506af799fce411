//! What a limit counts apart. Decides nothing about a request: whoever holds one reads the parts from it.

use std::{fmt, net::IpAddr};

/// What a limit counts apart: a tuple of one to four different parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKey(Vec<KeyPart>);

impl LimitKey {
    /// One counter for all requests.
    pub fn global() -> Self {
        Self(vec![KeyPart::Global])
    }

    /// A key of these parts; `None` unless they are one to four, all different, and `Global` stands alone.
    pub fn new(parts: Vec<KeyPart>) -> Option<Self> {
        let different = parts.iter().enumerate().all(|(at, part)| !parts[..at].contains(part));
        let alone = parts.len() == 1 || !parts.contains(&KeyPart::Global);
        ((1..=MAX_KEY_PARTS).contains(&parts.len()) && different && alone).then_some(Self(parts))
    }

    /// The parts in the order written; never empty.
    pub fn parts(&self) -> &[KeyPart] {
        &self.0
    }

    /// The part that tells consumers apart: what plans and overrides go by. `None` when there is none, or more than one.
    pub fn consumer(&self) -> Option<&KeyPart> {
        let mut consumers = self.0.iter().filter(|part| part.is_consumer());
        consumers.next().filter(|_| consumers.next().is_none())
    }

    /// Whether it is read from a token, so that it stands only on routes with `auth`.
    pub fn needs_token(&self) -> bool {
        self.0.iter().any(|part| matches!(part, KeyPart::User | KeyPart::Claim(_)))
    }
}

/// As a document has it: `user`, or `[tenant, route]`.
impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [only] => only.fmt(f),
            parts => {
                let words: Vec<String> = parts.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", words.join(", "))
            }
        }
    }
}

/// One thing that a request is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    /// Nothing: one counter for all requests.
    Global,
    /// The service it goes to.
    Service,
    /// The route it takes.
    Route,
    /// Who asks, by the token.
    User,
    /// Where it comes from: an IPv4 address, or an IPv6 network.
    ClientAddress {
        /// Length of the network's prefix: 48, 56, 64 or 128. Default 64, the least that a customer holds (RFC 6177).
        v6_prefix: u8,
    },
    /// A header of the request, by its name in lower case.
    Header(String),
    /// A claim of the token.
    Claim(String),
}

impl KeyPart {
    /// The client's address with the default prefix.
    pub const CLIENT: Self = Self::ClientAddress { v6_prefix: DEFAULT_V6_PREFIX };

    /// Whether it tells apart who asks, and not what is asked for.
    pub const fn is_consumer(&self) -> bool {
        !matches!(self, Self::Global | Self::Service | Self::Route)
    }

    /// The form in which an override names a client: `192.0.2.7`, or `2001:db8::/64`.
    pub fn client_text(address: IpAddr, v6_prefix: u8) -> String {
        match address.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(v6_prefix.min(128))).unwrap_or(0);
                format!("{}/{v6_prefix}", std::net::Ipv6Addr::from(u128::from(address) & mask))
            }
        }
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Service => f.write_str("service"),
            Self::Route => f.write_str("route"),
            Self::User => f.write_str("user"),
            Self::ClientAddress { v6_prefix: DEFAULT_V6_PREFIX } => f.write_str("client"),
            Self::ClientAddress { v6_prefix } => write!(f, "{{client: {v6_prefix}}}"),
            Self::Header(name) if name == API_KEY_HEADER => f.write_str("api_key"),
            Self::Header(name) => write!(f, "{{header: {name}}}"),
            Self::Claim(name) if name == TENANT_CLAIM => f.write_str("tenant"),
            Self::Claim(name) => write!(f, "{{claim: {name}}}"),
        }
    }
}

/// Parts of one key.
pub(crate) const MAX_KEY_PARTS: usize = 4;

/// What `client` alone stands for.
const DEFAULT_V6_PREFIX: u8 = 64;

/// What `api_key` stands for.
pub(crate) const API_KEY_HEADER: &str = "x-api-key";

/// What `tenant` stands for.
pub(crate) const TENANT_CLAIM: &str = "tenant";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_by_its_address_or_network() {
        let check = |address: &str, prefix, expected: &str| {
            assert_eq!(KeyPart::client_text(address.parse().expect("an address"), prefix), expected);
        };
        check("192.0.2.7", 64, "192.0.2.7");
        check("::ffff:192.0.2.7", 64, "192.0.2.7");
        check("2001:db8:1:2:3::4", 64, "2001:db8:1:2::/64");
        check("2001:db8:1:2:3::4", 48, "2001:db8:1::/48");
        check("2001:db8::1", 128, "2001:db8::1/128");
    }

    #[test]
    fn a_tuple_has_few_different_parts_and_no_global_one() {
        let check = |parts: &[KeyPart], expected| assert_eq!(LimitKey::new(parts.to_vec()).is_some(), expected);
        check(&[], false);
        check(&[KeyPart::Global], true);
        check(&[KeyPart::Global, KeyPart::User], false);
        check(&[KeyPart::User, KeyPart::Route], true);
        check(&[KeyPart::User, KeyPart::User], false);
    }
}
