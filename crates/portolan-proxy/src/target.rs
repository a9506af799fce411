//! Decides what a request asks for: one host and one normalised path, or a fault when two readers could differ.
//!
//! The path that is matched is the path that is forwarded, so no upstream sees what no route was chosen for. Never
//! touches the query. Sources: RFC 9112 §3.2, RFC 9110 §7.2, RFC 3986 §6.2.2.

use std::borrow::Cow;

use http::{HeaderMap, Uri, Version, header};

/// Longest host, in bytes (RFC 1035 §2.3.4).
const MAX_HOST: usize = 255;

/// Why a request's target is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFault {
    /// There is no host where one is required.
    MissingHost,
    /// There are several, or the target and the field name different ones.
    SeveralHosts,
    /// The host is not a name or address with an optional port.
    MalformedHost,
    /// The target is not a path.
    NotAPath,
    /// `%` is not followed by two hexadecimal digits.
    MalformedEscape,
    /// An escaped slash, backslash or control character, a bare backslash, or a dot segment with parameters: readers differ on them.
    AmbiguousPath,
}

impl TargetFault {
    /// One sentence for the client.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::MissingHost => "The request names no host.",
            Self::SeveralHosts => "The request names several hosts.",
            Self::MalformedHost => "The host is malformed.",
            Self::NotAPath => "The request target is not a path.",
            Self::MalformedEscape => "The path holds a malformed percent escape.",
            Self::AmbiguousPath => "The path holds an escaped separator, a backslash or a disguised dot segment.",
        }
    }
}

/// The host of a request in lower case, without port and trailing dot. Empty for HTTP/1.0 without a host.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap, version: Version) -> Result<Cow<'a, str>, TargetFault> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next().map(|field| field.to_str().map_err(|_| TargetFault::MalformedHost)).transpose()?;
    if fields.next().is_some() {
        return Err(TargetFault::SeveralHosts);
    }
    let authority = match (uri.authority().map(|authority| authority.as_str()), field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => {
            return Err(TargetFault::SeveralHosts);
        }
        // RFC 9112 §3.2: a request of HTTP/1.1 has the field whatever its target is.
        (Some(_), None) if version == Version::HTTP_11 => return Err(TargetFault::MissingHost),
        (Some(authority), _) => authority,
        (None, Some(field)) => field,
        (None, None) if version == Version::HTTP_10 => return Ok(Cow::Borrowed("")),
        (None, None) => return Err(TargetFault::MissingHost),
    };
    let host = without_port(authority)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(host.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(host))
}

fn without_port(authority: &str) -> Result<&str, TargetFault> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']').ok_or(TargetFault::MalformedHost)?;
            (&authority[..end + 2], &rest[end + 1..])
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let address_byte = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let host_fits = match host.strip_prefix('[') {
        Some(address) => address.bytes().rev().skip(1).all(address_byte),
        None => !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(name_byte),
    };
    if port_fits && host_fits { Ok(host) } else { Err(TargetFault::MalformedHost) }
}

/// Normalises a path: escapes of unreserved characters decoded, others in upper case, empty and dot segments removed.
/// A path that is normal already is borrowed, after one scan.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, TargetFault> {
    if !path.starts_with('/') {
        return Err(TargetFault::NotAPath);
    }
    let bytes = path.as_bytes();
    let suspicious = bytes.iter().any(|&b| b == b'%' || b == b'\\')
        || bytes.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'));
    if !suspicious {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let mut kept: Vec<&str> = Vec::new();
    let segments = decoded[1..].split('/');
    let mut ends_open = false;
    for segment in segments {
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            _ if is_disguised(segment) => return Err(TargetFault::AmbiguousPath),
            _ => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_open || kept.is_empty() {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

/// Whether some readers take a segment for a dot segment with parameters.
fn is_disguised(segment: &str) -> bool {
    let rest = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    rest.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B"))
}

fn decode_unreserved(path: &str) -> Result<String, TargetFault> {
    let mut decoded = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => return Err(TargetFault::AmbiguousPath),
            '%' => {
                let mut digit = || chars.next().and_then(|d| d.to_digit(16)).ok_or(TargetFault::MalformedEscape);
                let byte = (digit()? * 16 + digit()?) as u8;
                match byte {
                    b'/' | b'\\' | 0..=0x1f | 0x7f => return Err(TargetFault::AmbiguousPath),
                    b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
                    _ if byte.is_ascii_alphanumeric() => decoded.push(char::from(byte)),
                    _ => decoded.push_str(&format!("%{byte:02X}")),
                }
            }
            _ => decoded.push(c),
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_forwarded_in_its_normal_form() {
        let check = |path: &str, expected: &str| {
            assert_eq!(normalise(path).as_deref(), Ok(expected), "{path}");
        };
        for same in ["/", "/orders", "/orders/", "/a.b/c~d", "/a;b=c", "/...", "/a/.hidden"] {
            check(same, same);
        }
        check("//a///b", "/a/b");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/../../b", "/b");
        check("/a/..", "/");
        check("/a/b/..", "/a/");
        check("/a/.", "/a/");
        check("/%61%2e%2E/b", "/a../b");
        check("/a/%2e%2e/admin", "/admin");
        check("/caf%c3%a9", "/caf%C3%A9");
        check("/%252F", "/%252F");
    }

    #[test]
    fn an_ambiguous_path_is_refused() {
        let check = |path: &str, expected| assert_eq!(normalise(path), Err(expected), "{path}");
        for path in [
            "/a%2Fb",
            "/a%2fb",
            "/a%5cb",
            "/a%00",
            "/a\\b",
            "/a/..;/admin",
            "/a/.;x/b",
            "/a/..%3b/admin",
            "/a%0D%0Ab",
            "/%01",
            "/%7f",
        ] {
            check(path, TargetFault::AmbiguousPath);
        }
        for path in ["/%", "/%4", "/%zz", "/%+1"] {
            check(path, TargetFault::MalformedEscape);
        }
        check("*", TargetFault::NotAPath);
        check("", TargetFault::NotAPath);
    }

    #[test]
    fn a_request_names_one_host() {
        let check = |uri: &str, fields: &[&str], expected: Result<&str, TargetFault>| {
            let uri: Uri = uri.parse().expect("a target");
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::HOST, field.parse().expect("a value"));
            }
            assert_eq!(host(&uri, &headers, Version::HTTP_11).as_deref().map_err(|e| *e), expected, "{uri} {fields:?}");
        };
        check("/", &["API.Example.test:8443"], Ok("api.example.test"));
        check("/", &["api.example.test."], Ok("api.example.test"));
        check("/", &["[2001:db8::1]:443"], Ok("[2001:db8::1]"));
        check("https://api.example.test/a", &[], Err(TargetFault::MissingHost));
        let uri: Uri = "https://api.example.test/a".parse().expect("a target");
        assert_eq!(host(&uri, &HeaderMap::new(), Version::HTTP_2).as_deref(), Ok("api.example.test"));
        check("https://api.example.test/a", &["api.example.test"], Ok("api.example.test"));
        check("https://api.example.test/a", &["other.test"], Err(TargetFault::SeveralHosts));
        check("/", &["a.test", "a.test"], Err(TargetFault::SeveralHosts));
        check("/", &[], Err(TargetFault::MissingHost));
        for bad in ["", "a b", "a/b", "a:b", "a@b", "a:123456", "[::1", "a,b"] {
            check("/", &[bad], Err(TargetFault::MalformedHost));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_normal_path_is_normal_for_every_reader(path in "/[a./%2eEfF5cC;\\\\~]{0,24}") {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal).expect("a normal path is sound");
                proptest::prop_assert_eq!(&again, &normal);
                let segments = || normal[1..].split('/');
                proptest::prop_assert!(segments().all(|s| !matches!(s, "." | "..")), "{}", normal);
                proptest::prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{}", normal);
                let lower = normal.to_ascii_lowercase();
                proptest::prop_assert!(["%2f", "%5c", "%00", "\\"].iter().all(|bad| !lower.contains(bad)), "{}", normal);
            }
        }
    }
}
