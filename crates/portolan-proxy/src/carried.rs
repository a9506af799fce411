//! What a request carries that limits may count by: its header fields and the claims of its verified token.
//!
//! Decides how several fields of one name and claims of other types than text read. Copies only what does not stand in
//! the request as it is asked for.

use std::borrow::Cow;

use http::HeaderMap;
use portolan_node::Attributes;
use serde_json::Value;

use crate::auth::Identity;

/// A request's fields and claims.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Who asks, when the route wants to know.
    pub identity: Option<&'a Identity>,
}

impl Attributes for Carried<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let mut joined = Cow::Borrowed(first);
        for value in values {
            let joined = joined.to_mut();
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value.as_bytes());
        }
        Some(joined)
    }

    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.identity?.claims.get(name)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(Cow::Owned(number.to_string())),
            Value::Bool(true) => Some(Cow::Borrowed("true")),
            Value::Bool(false) => Some(Cow::Borrowed("false")),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn fields_of_one_name_are_one_value() {
        let mut headers = HeaderMap::new();
        let read = |headers: &HeaderMap| {
            Carried { headers, identity: None }.header("x-api-key").map(|value| value.into_owned())
        };
        assert_eq!(read(&headers), None);
        headers.append("X-Api-Key", HeaderValue::from_static("a"));
        assert_eq!(read(&headers).as_deref(), Some(&b"a"[..]));
        headers.append("x-api-key", HeaderValue::from_static("b"));
        assert_eq!(read(&headers).as_deref(), Some(&b"a, b"[..]));
    }

    #[test]
    fn a_claim_counts_by_its_text() {
        let claims = json!({ "tenant": "acme", "tier": 3, "trial": true, "groups": ["a"], "none": null });
        let claims: Map<String, Value> = claims.as_object().cloned().unwrap_or_default();
        let (headers, identity) = (HeaderMap::new(), Identity { user: "ann".into(), claims });
        let check = |name: &str, expected: Option<&str>| {
            let carried = Carried { headers: &headers, identity: Some(&identity) };
            assert_eq!(carried.claim(name).as_deref(), expected, "{name}");
        };
        check("tenant", Some("acme"));
        check("tier", Some("3"));
        check("trial", Some("true"));
        check("groups", None);
        check("none", None);
        check("missing", None);
    }
}
