//! The one place where the gateway speaks for itself: every refusal and failure becomes an RFC 9457 problem here, and
//! every response gets its limit, protocol and identity fields here.
//!
//! Never forwards what an upstream or a library said about its own failure. A limit answers 429 when it is in force, and
//! 503 only when our own degradation refused: a client must not be told that it asked too often when it did not. Sources:
//! RFC 9457, RFC 6585 §4, RFC 6750 §3, draft-ietf-httpapi-ratelimit-headers-11 §5.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use portolan_limits::{Denial, DenyReason};
use serde::Serialize;

use crate::{
    auth::Denied,
    framing::Fault,
    quota::{self, Quota, Unit},
    target::TargetFault,
};

/// Where the documents about problem types live.
const TYPE_BASE: &str = "https://portolan.dev/problems/";

/// Where the problem types of limits are registered, for clients that know them from elsewhere.
const REGISTERED_BASE: &str = "https://iana.org/assignments/http-problem-types#";

/// The step of a request that decided its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reading the message and its head.
    Framing,
    /// The limit per client address.
    ClientLimit,
    /// Choosing a route.
    Route,
    /// Knowing who asks.
    Authenticate,
    /// Whether they may.
    Authorise,
    /// The route's limits.
    Limits,
    /// The request body.
    Body,
    /// Choosing an endpoint and asking it.
    Upstream,
}

impl Step {
    /// All steps, in order of the request's life.
    pub const ALL: [Self; 8] = [
        Self::Framing,
        Self::ClientLimit,
        Self::Route,
        Self::Authenticate,
        Self::Authorise,
        Self::Limits,
        Self::Body,
        Self::Upstream,
    ];

    /// Its name in problems, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Framing => "framing",
            Self::ClientLimit => "client-limit",
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Authorise => "authorise",
            Self::Limits => "limits",
            Self::Body => "body",
            Self::Upstream => "upstream",
        }
    }
}

/// Why the gateway answers a request itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The message is malformed.
    Framing(Fault),
    /// The target is malformed or ambiguous.
    Target(TargetFault),
    /// `CONNECT`, or an upgrade to another protocol.
    NotSupported,
    /// The header section has too many fields or bytes.
    HeadersTooLarge,
    /// The client address asks too often.
    ClientLimit {
        /// When to ask again.
        retry_after: Duration,
    },
    /// No route takes this host and path.
    NoRoute,
    /// No route takes this method.
    MethodNotAllowed {
        /// Methods that are taken.
        allow: Vec<String>,
    },
    /// Authentication or authorisation failed.
    Denied {
        /// Why.
        denied: Denied,
        /// Scopes the route needs.
        scopes: Vec<String>,
    },
    /// A limit refused.
    Limited {
        /// Which, and why.
        denial: Box<Denial>,
        /// What it is counted in.
        unit: Unit,
        /// When to ask again: not before the limit says, and a little later, so that not all come back at once.
        retry_after: Duration,
    },
    /// The limits of this node are not in force yet.
    LimitsInactive,
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// The body was cut off or malformed.
    BodyBroken,
    /// The body did not arrive within the route's timeout.
    BodyTimeout,
    /// The service has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// An endpoint broke the connection or answered with something that is not HTTP.
    UpstreamBroken,
    /// No answer within the route's timeout.
    UpstreamTimeout,
}

/// What stands in a problem document beside its members from RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    step: Step,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    violated_policies: Option<[&'a str; 1]>,
}

impl Refusal {
    /// The step that decided.
    pub const fn step(&self) -> Step {
        match self {
            Self::Framing(_) | Self::Target(_) | Self::NotSupported | Self::HeadersTooLarge => Step::Framing,
            Self::ClientLimit { .. } => Step::ClientLimit,
            Self::NoRoute | Self::MethodNotAllowed { .. } => Step::Route,
            Self::Denied { denied: Denied::InsufficientScope, .. } => Step::Authorise,
            Self::Denied { .. } => Step::Authenticate,
            Self::Limited { .. } | Self::LimitsInactive => Step::Limits,
            Self::BodyTooLarge | Self::BodyBroken | Self::BodyTimeout => Step::Body,
            Self::NoEndpoint | Self::ConnectFailed | Self::UpstreamBroken | Self::UpstreamTimeout => Step::Upstream,
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Framing(fault) => fault.status(),
            Self::Target(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientLimit { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied { denied: Denied::InsufficientScope, .. } => StatusCode::FORBIDDEN,
            Self::Denied { denied: Denied::Malformed, .. } => StatusCode::BAD_REQUEST,
            Self::Denied { .. } => StatusCode::UNAUTHORIZED,
            Self::Limited { denial, .. } if denial.reason == DenyReason::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Limited { .. } | Self::LimitsInactive | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectFailed | Self::UpstreamBroken => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the connection cannot carry another request after this one.
    pub const fn ends_connection(&self) -> bool {
        matches!(self, Self::Framing(_) | Self::BodyTooLarge | Self::BodyBroken | Self::BodyTimeout)
    }

    /// The problem's type.
    fn type_uri(&self) -> String {
        let base = if matches!(self, Self::Limited { .. }) { REGISTERED_BASE } else { TYPE_BASE };
        format!("{base}{}", self.kind())
    }

    /// The last part of the problem's type.
    fn kind(&self) -> &'static str {
        match self {
            Self::Framing(Fault::RequestLineTooLong) => "uri-too-long",
            Self::Framing(Fault::HeadTooLarge | Fault::TooManyFields) | Self::HeadersTooLarge => "headers-too-large",
            Self::Framing(Fault::HeadTimeout) | Self::BodyTimeout => "request-timeout",
            Self::Framing(_) | Self::Target(_) => "malformed-request",
            Self::NotSupported => "not-supported",
            Self::ClientLimit { .. } => "client-limit",
            Self::NoRoute => "no-route",
            Self::MethodNotAllowed { .. } => "method-not-allowed",
            Self::Denied { denied: Denied::InsufficientScope, .. } => "insufficient-scope",
            Self::Denied { .. } => "unauthenticated",
            Self::Limited { denial, .. } => match denial.reason {
                DenyReason::Exhausted => "quota-exceeded",
                DenyReason::Degraded | DenyReason::Closed => "temporary-reduced-capacity",
            },
            Self::LimitsInactive => "limits-unavailable",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyBroken => "body-broken",
            Self::NoEndpoint => "no-endpoint",
            Self::ConnectFailed => "connect-failed",
            Self::UpstreamBroken => "upstream-broken",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    fn detail(&self) -> String {
        let text = match self {
            Self::Framing(fault) => fault.detail(),
            Self::Target(fault) => fault.detail(),
            Self::NotSupported => "CONNECT and protocol upgrades are not supported.",
            Self::HeadersTooLarge => Fault::TooManyFields.detail(),
            Self::ClientLimit { .. } => "This client address sends too many requests.",
            Self::NoRoute => "No route takes this host and path.",
            Self::MethodNotAllowed { .. } => "No route takes this method here.",
            Self::Denied { denied, .. } => return denied.to_string(),
            Self::Limited { denial, unit, .. } => match (denial.reason, unit) {
                (DenyReason::Exhausted, Unit::Requests) => "The quota of this window is used up.",
                (DenyReason::Exhausted, Unit::ConcurrentRequests) => "As many requests as may be are under way.",
                (DenyReason::Degraded, _) => "The limit may not be reached, but what this region may admit is.",
                (DenyReason::Closed, _) => "A region is not heard, and the limit is closed until it is.",
            },
            Self::LimitsInactive => "This node is starting and its limits are not in force yet.",
            Self::BodyTooLarge => "The request body is larger than this route takes.",
            Self::BodyBroken => "The request body was malformed or cut off.",
            Self::BodyTimeout => "The request body took too long to arrive.",
            Self::NoEndpoint => "The service has no endpoint.",
            Self::ConnectFailed => "No endpoint of the service could be reached.",
            Self::UpstreamBroken => "The service broke off its answer.",
            Self::UpstreamTimeout => "The service did not answer in time.",
        };
        text.to_owned()
    }

    /// The problem document with the fields that belong to this refusal.
    pub fn response(&self, request_id: &HeaderValue) -> Response<Bytes> {
        let status = self.status();
        let limit = if let Self::Limited { denial, .. } = self { Some(denial.name.as_str()) } else { None };
        let problem = Problem {
            r#type: self.type_uri(),
            title: status.canonical_reason().unwrap_or("Refused"),
            status: status.as_u16(),
            detail: &self.detail(),
            step: self.step(),
            request_id: request_id.to_str().unwrap_or_default(),
            limit,
            violated_policies: limit.map(|limit| [limit]),
        };
        let body = serde_json::to_vec(&problem).expect("a problem has only text and numbers");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.write_fields(headers);
        response
    }

    fn write_fields(&self, headers: &mut HeaderMap) {
        match self {
            Self::ClientLimit { retry_after } => insert_seconds(headers, *retry_after),
            Self::MethodNotAllowed { allow } => insert(headers, header::ALLOW, &allow.join(", ")),
            Self::Denied { denied, scopes } => {
                if let Some(challenge) = challenge(*denied, scopes) {
                    insert(headers, header::WWW_AUTHENTICATE, &challenge);
                }
            }
            Self::Limited { denial, unit, retry_after } => {
                insert_seconds(headers, *retry_after);
                quota::write(headers, [Quota::of_denial(denial, *unit)]);
            }
            Self::LimitsInactive | Self::NoEndpoint => insert_seconds(headers, Duration::from_secs(1)),
            _ => {}
        }
    }
}

/// RFC 6750 §3.1: no error code when the client sent no token, and one code for all ways a token can be wrong.
fn challenge(denied: Denied, scopes: &[String]) -> Option<String> {
    let (error, detail) = match denied {
        Denied::MissingToken => return Some("Bearer realm=\"portolan\"".to_owned()),
        Denied::Malformed => ("invalid_request", denied.to_string()),
        Denied::InvalidToken | Denied::Expired => ("invalid_token", denied.to_string()),
        Denied::InsufficientScope => ("insufficient_scope", denied.to_string()),
    };
    let mut text = format!("Bearer realm=\"portolan\", error=\"{error}\", error_description=\"{detail}\"");
    if denied == Denied::InsufficientScope {
        let _ = write!(text, ", scope=\"{}\"", scopes.join(" "));
    }
    Some(text)
}

fn insert_seconds(headers: &mut HeaderMap, after: Duration) {
    headers.insert(header::RETRY_AFTER, HeaderValue::from(quota::seconds_up(after)));
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::LimitId;
    use portolan_model::Name;

    use super::*;

    fn check(refusal: &Refusal, expected: &str) {
        let response = refusal.response(&HeaderValue::from_static("id-1"));
        let mut seen = format!("{}\n", response.status().as_u16());
        for (name, value) in response.headers() {
            if *name != header::CONTENT_TYPE && *name != header::CACHE_CONTROL {
                let _ = writeln!(seen, "{name}: {}", value.to_str().expect("is text"));
            }
        }
        seen.push_str(&String::from_utf8_lossy(response.body()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_refusal_is_a_problem_that_names_the_step() {
        check(
            &Refusal::NoRoute,
            "404\n{\"type\":\"https://portolan.dev/problems/no-route\",\"title\":\"Not Found\",\"status\":404,\
             \"detail\":\"No route takes this host and path.\",\"step\":\"route\",\"request_id\":\"id-1\"}",
        );
    }

    #[test]
    fn an_exhausted_limit_says_when_to_come_back() {
        let denial = Denial {
            limit: LimitId(3),
            name: Name::new("per-user").expect("a name"),
            reason: DenyReason::Exhausted,
            slot: 77,
            quota: 600,
            window: Duration::from_secs(60),
            remaining: 0,
            retry_after: Duration::from_millis(1500),
            expose_slot: true,
        };
        check(
            &Refusal::Limited {
                denial: Box::new(denial),
                unit: Unit::Requests,
                retry_after: Duration::from_millis(2100),
            },
            "429\nretry-after: 3\nratelimit-policy: \"per-user\";q=600;w=60\nratelimit: \"per-user\";r=0;t=2\n\
             portolan-slot: per-user;id=3;slot=77\n\
             {\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\"title\":\"Too Many Requests\",\"status\":429,\
             \"detail\":\"The quota of this window is used up.\",\"step\":\"limits\",\"request_id\":\"id-1\",\
             \"limit\":\"per-user\",\"violated-policies\":[\"per-user\"]}",
        );
    }

    fn denial(reason: DenyReason) -> Refusal {
        let denial = Denial {
            limit: LimitId(1),
            name: Name::new("a").expect("a name"),
            reason,
            slot: 0,
            quota: 1,
            window: Duration::from_secs(1),
            remaining: 0,
            retry_after: Duration::from_secs(1),
            expose_slot: false,
        };
        Refusal::Limited { denial: Box::new(denial), unit: Unit::Requests, retry_after: Duration::from_secs(1) }
    }

    fn one_of_each() -> Vec<Refusal> {
        let denied = |denied| Refusal::Denied { denied, scopes: Vec::new() };
        vec![
            Refusal::Framing(Fault::LengthAndCoding),
            Refusal::Framing(Fault::RequestLineTooLong),
            Refusal::Framing(Fault::HeadTooLarge),
            Refusal::Framing(Fault::HeadTimeout),
            Refusal::NotSupported,
            Refusal::ClientLimit { retry_after: Duration::ZERO },
            Refusal::NoRoute,
            Refusal::MethodNotAllowed { allow: Vec::new() },
            denied(Denied::InvalidToken),
            denied(Denied::InsufficientScope),
            denial(DenyReason::Exhausted),
            denial(DenyReason::Degraded),
            denial(DenyReason::Closed),
            Refusal::LimitsInactive,
            Refusal::BodyTooLarge,
            Refusal::BodyBroken,
            Refusal::BodyTimeout,
            Refusal::NoEndpoint,
            Refusal::ConnectFailed,
            Refusal::UpstreamBroken,
            Refusal::UpstreamTimeout,
        ]
    }

    #[test]
    fn the_reference_lists_every_problem() {
        let mut text = format!(
            "# Problems\n\nAnswers that the gateway makes itself are `application/problem+json` (RFC 9457). `step` names the\n\
             step of the request that decided; `request_id` is the `X-Request-Id` of the request; `limit` and\n\
             `violated-policies` name the limit that refused. `type` is `{TYPE_BASE}` and one of the names\n\
             below, or what stands there in full.\n\n\
             | type | step | status | detail, for example |\n|---|---|---|---|\n"
        );
        for refusal in one_of_each() {
            let uri = refusal.type_uri();
            let kind = uri.strip_prefix(TYPE_BASE).unwrap_or(&uri);
            let (step, status) = (refusal.step().as_str(), refusal.status().as_u16());
            let _ = writeln!(text, "| `{kind}` | `{step}` | {status} | {} |", refusal.detail());
        }
        crate::reference::check("problems.md", &text);
    }

    #[test]
    fn a_challenge_tells_no_more_than_rfc_6750_asks() {
        let check = |denied, expected: &str| {
            assert_eq!(challenge(denied, &["orders:write".to_owned()]).as_deref(), Some(expected));
        };
        check(Denied::MissingToken, "Bearer realm=\"portolan\"");
        check(
            Denied::InvalidToken,
            "Bearer realm=\"portolan\", error=\"invalid_token\", error_description=\"The token is not valid here.\"",
        );
        check(
            Denied::InsufficientScope,
            "Bearer realm=\"portolan\", error=\"insufficient_scope\", \
             error_description=\"The token lacks a scope that this route needs.\", scope=\"orders:write\"",
        );
    }
}
