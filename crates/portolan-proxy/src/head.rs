//! Decides which header fields cross the gateway: hop-by-hop fields and what clients say about identity and forwarding
//! are taken off, what this gateway knows is put on.
//!
//! Never lets a client name itself: everything an upstream may trust is removed first and written here afterwards.
//! Sources: RFC 9110 §7.6.1 (Connection), RFC 7239 (forwarding), W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

/// Set to the authenticated user.
pub const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
/// Set to the id of this request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context, of whoever is upstream of the client.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The window that a request was charged to.
pub const PORTOLAN_SLOT: HeaderName = HeaderName::from_static("portolan-slot");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that concern one connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Beginnings of field names by which proxies state identity or origin. Whatever is neither letter nor digit counts as
/// `-`, since many servers make the same variable of all of them.
const SPOOFABLE_PREFIXES: [&str; 3] = ["x-user-", "x-forwarded-", "x-original-"];

/// Whole names of that kind.
const SPOOFABLE: [&str; 17] = [
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "true-client-ip",
    "x-client-ip",
    "x-rewrite-url",
    "x-forwarded",
    "remote-user",
    "x-remote-user",
    "x-authenticated-user",
    "client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    // CGI makes HTTP_PROXY of it, which libraries take for the setting.
    "proxy",
    // They would choose a method that no route was chosen for.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Names of which a server must see nothing but the plain spelling.
const DISGUISED: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "host",
    "authorization",
    "connection",
    "traceparent",
    "content-type",
    "upgrade",
];

/// Longest `X-Request-Id` taken over from a client.
const MAX_REQUEST_ID: usize = 64;

type Names = SmallVec<[HeaderName; 8]>;

/// What this gateway tells an upstream about a request.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Client address.
    pub client: &'a HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Version of the client's protocol and this gateway.
    pub via: &'static str,
    /// Host as the client sent it.
    pub host: Option<&'a HeaderValue>,
    /// Authenticated user.
    pub user: Option<&'a str>,
    /// Id of the request.
    pub request_id: &'a HeaderValue,
    /// Trace context, and whether it continues the client's.
    pub traceparent: &'a HeaderValue,
    /// Whether the client's `tracestate` belongs to it.
    pub continues_trace: bool,
}

/// Turns a client's header fields into those an upstream gets.
pub fn to_upstream(headers: &mut HeaderMap, forwarded: &Forwarded<'_>, trailers_reach_client: bool) {
    let wants_trailers = trailers_reach_client || lists(headers, &header::TE, "trailers");
    let mut names = nominated(headers);
    for name in headers.keys() {
        let dropped = HOP_BY_HOP.contains(name)
            || matches!(*name, header::AUTHORIZATION | header::EXPECT | header::TE)
            || *name == TRACEPARENT
            || (*name == TRACESTATE && !forwarded.continues_trace)
            || is_spoofable(name.as_str());
        if dropped {
            names.push(name.clone());
        }
    }
    for name in &names {
        headers.remove(name);
    }
    join_cookies(headers);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // RFC 9110 §7.6.3 asks a gateway to say that it was on the way.
    headers.append(header::VIA, HeaderValue::from_static(forwarded.via));
    headers.insert(X_FORWARDED_FOR, forwarded.client.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme));
    if let Some(host) = forwarded.host {
        headers.insert(X_FORWARDED_HOST, host.clone());
        // HTTP/2 and HTTP/3 carry it outside the fields.
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, host.clone());
        }
    }
    if let Some(user) = forwarded.user.and_then(|user| HeaderValue::from_str(user).ok()) {
        headers.insert(X_USER_ID, user);
    }
    headers.insert(X_REQUEST_ID, forwarded.request_id.clone());
    headers.insert(TRACEPARENT, forwarded.traceparent.clone());
}

/// HTTP/2 and HTTP/3 may split the cookies of a request; HTTP/1.1 has them in one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookies) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookies);
    }
}

/// Takes off what concerns only the connection to the upstream, and what this gateway alone may say.
pub fn to_client(headers: &mut HeaderMap) {
    let mut names = nominated(headers);
    // An upstream knows no alternative for the origin that clients see, and no slot that a request was charged to.
    let stays = |name: &&HeaderName| HOP_BY_HOP.contains(name) || [header::ALT_SVC, PORTOLAN_SLOT].contains(name);
    names.extend(headers.keys().filter(stays).cloned());
    for name in &names {
        headers.remove(name);
    }
}

/// Takes off trailers what could not stand in a head either: some servers merge the two.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let framing = [header::CONTENT_LENGTH, header::HOST, header::AUTHORIZATION, header::TE, header::EXPECT];
    let dropped = |name: &&HeaderName| {
        HOP_BY_HOP.contains(name) || framing.contains(name) || is_spoofable(name.as_str()) || **name == TRACEPARENT
    };
    let names: Names = trailers.keys().filter(dropped).cloned().collect();
    for name in &names {
        trailers.remove(name);
    }
}

/// As [`to_client`], for the trailers of a response.
pub fn clean_reply_trailers(trailers: &mut HeaderMap) {
    to_client(trailers);
    trailers.remove(header::CONTENT_LENGTH);
}

/// Whether the length of an upstream's response is stated once and so that this gateway decodes it: what stands with
/// `chunked`, or in its place, is read differently by different readers (RFC 9112 §6.3).
pub fn is_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match codings.next() {
        None => true,
        Some(coding) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && codings.next().is_none()
                && !headers.contains_key(header::CONTENT_LENGTH)
        }
    }
}

/// The `X-Request-Id` of a client, when it is short and plain enough to be written into logs.
pub fn client_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(X_REQUEST_ID)?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let text = value.as_bytes();
    (!text.is_empty() && text.len() <= MAX_REQUEST_ID && text.iter().all(plain)).then(|| value.clone())
}

/// Whether a list field holds `token`.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The names that `Connection` nominates. Fields that frame or address the message stay: taking one off would change
/// what the message is.
fn nominated(headers: &HeaderMap) -> Names {
    let mut names = Names::new();
    for value in headers.get_all(header::CONNECTION) {
        for item in value.as_bytes().split(|&b| b == b',') {
            let item = item.trim_ascii();
            // The usual options; a field called `keep-alive` is taken off anyway.
            if item.eq_ignore_ascii_case(b"keep-alive") || item.eq_ignore_ascii_case(b"close") {
                continue;
            }
            let Ok(name) = HeaderName::from_bytes(item) else { continue };
            if !matches!(name, header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE | header::CACHE_CONTROL) {
                names.push(name);
            }
        }
    }
    names
}

fn is_spoofable(name: &str) -> bool {
    let disguise = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    if name.contains(disguise) {
        let plain = name.replace(disguise, "-");
        // Nor may a disguise stand for what frames, addresses or authorises the message.
        return is_spoofable_spelling(&plain) || DISGUISED.contains(&plain.as_str());
    }
    // Cheap way out: all of them start with one of these letters.
    matches!(name.as_bytes().first(), Some(b'x' | b'f' | b't' | b'r' | b'c' | b'p')) && is_spoofable_spelling(name)
}

fn is_spoofable_spelling(name: &str) -> bool {
    SPOOFABLE.contains(&name) || SPOOFABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let parse = |&(name, value): &(&str, &str)| (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
        fields.iter().map(parse).map(|(name, value)| (name.expect("a name"), value.expect("a value"))).collect()
    }

    fn check(sent: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut headers = headers(sent);
        let value = HeaderValue::from_static;
        let forwarded = Forwarded {
            client: &value("192.0.2.1"),
            scheme: "https",
            via: "2 portolan",
            host: Some(&value("a.test")),
            user: Some("ann"),
            request_id: &value("id"),
            traceparent: &value("00-trace"),
            continues_trace: false,
        };
        to_upstream(&mut headers, &forwarded, false);
        for always in
            [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_USER_ID, X_REQUEST_ID, TRACEPARENT, header::VIA]
        {
            let mut values = headers.get_all(&always).iter();
            assert!(values.next().is_some() && values.next().is_none(), "{always} stands once");
            headers.remove(&always);
        }
        headers.remove(header::HOST);
        let mut rest: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("is text"))).collect();
        rest.sort_unstable();
        assert_eq!(rest, expected, "{sent:?}");
    }

    #[test]
    fn what_a_client_says_about_itself_is_taken_off() {
        check(&[("X-User-Id", "root"), ("x-user-groups", "admin"), ("X_User_Id", "root")], &[]);
        check(&[("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "for=10.0.0.1"), ("X-Real-IP", "10.0.0.1")], &[]);
        check(&[("Remote-User", "root"), ("x_remote_user", "root"), ("X-Authenticated-User", "root")], &[]);
        check(
            &[("x.user.id", "root"), ("Proxy", "http://a"), ("content_length", "5"), ("transfer_encoding", "x")],
            &[],
        );
        check(&[("cf-connecting-ip", "1"), ("x-http-method-override", "DELETE"), ("client.ip", "1")], &[]);
        check(&[("x_custom", "b"), ("range", "c")], &[("range", "c"), ("x_custom", "b")]);
        check(&[("x-original-url", "/admin"), ("traceparent", "00-x"), ("tracestate", "a=b")], &[]);
        check(
            &[("authorization", "Bearer x"), ("accept", "a"), ("x-custom", "b")],
            &[("accept", "a"), ("x-custom", "b")],
        );
    }

    #[test]
    fn hop_by_hop_fields_stay_behind() {
        check(&[("connection", "close, x-hop"), ("x-hop", "1"), ("keep-alive", "5"), ("upgrade", "h2c")], &[]);
        check(&[("cookie", "a=1"), ("cookie", "b=2")], &[("cookie", "a=1; b=2")]);
        check(&[("te", "trailers, deflate")], &[("te", "trailers")]);
        check(&[("te", "deflate"), ("expect", "100-continue"), ("transfer-encoding", "chunked")], &[]);
        check(&[("connection", "content-length"), ("content-length", "3")], &[("content-length", "3")]);
    }

    #[test]
    fn only_a_plain_request_id_is_taken_over() {
        let check = |value: &str, expected: bool| {
            assert_eq!(client_request_id(&headers(&[("x-request-id", value)])).is_some(), expected, "{value}");
        };
        check("0af7651916cd43dd-1", true);
        check("", false);
        check("a b", false);
        check("{\"a\"}", false);
        check(&"a".repeat(65), false);
    }
}
