//! Every error of the admin API, as an RFC 9457 problem document. The only place that chooses a status for one.

use axum::{
    body::{Body, Bytes},
    extract::rejection::BytesRejection,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use portolan_config::{Faults, Refusal};
use portolan_model::{NodeName, RegionId};
use portolan_raft::ProposeError;
use serde::{Serialize, de::DeserializeOwned};

use crate::api::Problem;

/// What went wrong, for the client.
#[derive(Debug)]
pub(crate) struct Failure(Problem);

impl Failure {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            faults: Vec::new(),
        })
    }

    /// A kind of problem of our own, named relative to the API.
    fn kind(mut self, kind: &str, title: &str) -> Self {
        self.0.kind = format!("/problems/{kind}");
        self.0.title = title.to_owned();
        self
    }

    pub(crate) fn no_operator() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "present a client certificate that names an operator of this cluster")
            .kind("no-operator", "An operator certificate is needed")
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "the admin API has no such path")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
    }

    pub(crate) fn unavailable(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A document with faults: nothing was proposed.
    pub(crate) fn faults(faults: Faults) -> Self {
        let count = faults.0.len();
        let detail = format!("the document has {count} fault{}:\n{faults}", if count == 1 { "" } else { "s" });
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            .kind("invalid-document", "The document has faults; nothing was changed");
        failure.0.faults = faults.0;
        failure
    }

    /// A change that the replicated state refused: nothing was changed.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let (status, kind) = match refusal {
            Refusal::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-document"),
            Refusal::StaleRevision { .. } => (StatusCode::CONFLICT, "stale-revision"),
            Refusal::UnknownRevision { .. } => (StatusCode::NOT_FOUND, "unknown-revision"),
            Refusal::UnknownRegion { .. } => (StatusCode::NOT_FOUND, "unknown-region"),
            Refusal::LastServingRegion { .. } => (StatusCode::CONFLICT, "last-serving-region"),
            Refusal::NotDrained { .. } => (StatusCode::CONFLICT, "not-drained"),
            Refusal::AlreadyDrained { .. } => (StatusCode::CONFLICT, "already-drained"),
            Refusal::OtherRegion { .. } => (StatusCode::CONFLICT, "other-region"),
            Refusal::StaleRoster { .. } | Refusal::NotOfRegion { .. } | Refusal::EmptyRoster { .. } => {
                (StatusCode::CONFLICT, "stale-roster")
            }
            Refusal::UnknownNode { .. } => (StatusCode::NOT_FOUND, "unknown-node"),
            Refusal::ClockAhead { .. } => (StatusCode::CONFLICT, "clock-ahead"),
            Refusal::NotByDemand { .. } => (StatusCode::CONFLICT, "not-by-demand"),
            Refusal::AlreadyFenced { .. } => (StatusCode::CONFLICT, "already-fenced"),
            Refusal::NotFenced { .. } => (StatusCode::CONFLICT, "not-fenced"),
            Refusal::LastHolder { .. } => (StatusCode::CONFLICT, "last-holder"),
            Refusal::TooMuch { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-much"),
        };
        Self::new(status, refusal.to_string()).kind(kind, "The change was refused; nothing was changed")
    }

    /// A region that was to be fenced as gone, and is not.
    pub(crate) fn alive(region: &RegionId, heard: &[NodeName]) -> Self {
        let others = match heard.len() {
            1 => String::new(),
            nodes => format!(" and {} more of its nodes", nodes - 1),
        };
        let detail = format!(
            "`{region}` is alive: {}{others} answered within the last seconds. A fence is for a region that is gone; this \
             one would refuse its clients until it is unfenced, and for up to some windows of each limit after. Drain it \
             to move its clients; to fence it all the same, say that it is alive (`--alive`)",
            heard[0]
        );
        Self::new(StatusCode::CONFLICT, detail).kind("region-alive", "The change was refused; nothing was changed")
    }

    /// A change without an outcome.
    pub(crate) fn undecided(error: &ProposeError) -> Self {
        let (status, kind) = match error {
            ProposeError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no-leader"),
            ProposeError::Unreachable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "leader-unreachable"),
            ProposeError::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk-full"),
            ProposeError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-much"),
            ProposeError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "uncertain"),
        };
        Self::new(status, error.to_string()).kind(kind, "The change has no outcome")
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        respond(status, "application/problem+json", &self.0)
    }
}

/// Reads a JSON body; the fault names line and column.
pub(crate) fn read_json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Failure> {
    serde_json::from_slice(&body?)
        .map_err(|error| Failure::bad_request(format!("the body is not as expected: {error}")))
}

/// A JSON answer.
pub(crate) fn json<T: Serialize>(value: &T) -> Response {
    respond(StatusCode::OK, "application/json", value)
}

fn respond<T: Serialize>(status: StatusCode, content_type: &'static str, value: &T) -> Response {
    let mut bytes = serde_json::to_vec(value).expect("answers have string keys and no failing serializer");
    bytes.push(b'\n');
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
