//! Chooses endpoints and makes attempts until one answers, the policy gives up or the route's timeout has passed.
//!
//! Never repeats a request that may have been acted on unless that is provably safe: `portolan-routing` decides.

use std::{rc::Rc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, response::Parts, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;
use portolan_config::{EndpointAddress, Route};
use portolan_model::Now;
use portolan_routing::{AttemptFacts, EndpointId, Retry, RetryPolicy, Sent};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    account::Account,
    body::{AttemptBody, BodyError, Upload},
    metrics::AttemptEnd,
    response::Refusal,
    upstream::{Attempt, AttemptFailure, Lease, attempt},
    worker::{Prepared, Worker},
};

/// Attempts over pooled connections that turned out closed, before they count like others. Each of them empties the
/// pool of its endpoint, so this is reached only when endpoints keep closing fresh connections.
const MAX_STALE: u32 = 3;

/// A request as it leaves the gateway.
pub(crate) struct Outgoing {
    pub method: Method,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub upload: Option<Rc<Upload>>,
}

/// An upstream's answer, with the connection its body arrives on.
pub(crate) struct Reply {
    pub head: Parts,
    pub body: Incoming,
    pub lease: Lease,
}

/// What was tried so far.
#[derive(Default)]
struct Tries {
    endpoints: SmallVec<[EndpointId; 4]>,
    sent: u32,
    connects: u32,
    stale: u32,
}

/// Sends a request to an endpoint of the route's service, to another one if that fails and may be repeated.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    prepared: &Rc<Prepared>,
    route: &Route,
    outgoing: Outgoing,
    account: &mut Account,
    started: Now,
) -> Result<Reply, Refusal> {
    let view = &prepared.view;
    let connect_timeout = view.intent.snapshot.services.get(&route.service).map(|service| service.connect_timeout);
    let connect_timeout = connect_timeout.unwrap_or(Duration::from_secs(1));
    let mut tries = Tries::default();
    let mut last = None;
    let mut now = worker.now().mono;
    // One for the whole request, whatever it is spent on.
    let deadline = Instant::now() + route.timeout.saturating_sub(now.since(started.mono));
    loop {
        let Some(pick) = view.pick(&route.service, &tries.endpoints, now, worker.random()) else {
            return Err(last.unwrap_or(Refusal::NoEndpoint));
        };
        account.attempt(pick.address);
        let target = Attempt { endpoint: pick.endpoint, address: pick.address, connect_timeout, deadline };
        let failure = match attempt(worker, prepared, &target, outgoing.request(pick.address)).await {
            Ok((response, lease)) => {
                let (head, body) = response.into_parts();
                return Ok(Reply { head, body, lease });
            }
            Err(failure) => failure,
        };
        now = worker.now().mono;
        let left = deadline.saturating_duration_since(Instant::now());
        match tries.decide(&outgoing, pick.endpoint, &failure, left) {
            Retry::Retry => last = Some(refusal(&outgoing, &failure)),
            Retry::GiveUp(_) => return Err(refusal(&outgoing, &failure)),
        }
    }
}

impl Outgoing {
    /// The request of one attempt. Fields are copied: an attempt consumes them, and another may follow.
    fn request(&self, endpoint: &EndpointAddress) -> Request<AttemptBody> {
        let mut request = Request::new(AttemptBody(self.upload.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.headers_mut() = self.headers.clone();
        // Only HTTP/1.0 may name no host; what an endpoint reads is HTTP/1.1.
        if !self.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&format!("{}:{}", endpoint.host, endpoint.port))
        {
            request.headers_mut().insert(header::HOST, host);
        }
        // Of these the HTTP library would leave out a body of unknown length.
        let seldom_has_body = matches!(self.method, Method::GET | Method::HEAD);
        if seldom_has_body && self.upload.is_some() && request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        request
    }
}

impl Tries {
    fn decide(&mut self, outgoing: &Outgoing, endpoint: EndpointId, failure: &AttemptFailure, left: Duration) -> Retry {
        if failure.stale && self.stale < MAX_STALE {
            self.stale += 1;
            if failure.sent == Sent::NotSent && outgoing.is_replayable() {
                return Retry::Retry;
            }
        } else {
            self.endpoints.push(endpoint);
        }
        match failure.sent {
            Sent::NotSent => self.connects += 1,
            Sent::Sent => self.sent += 1,
        }
        RetryPolicy::default().decide(&AttemptFacts {
            method_idempotent: outgoing.method.is_idempotent(),
            sent: failure.sent,
            body_replayable: outgoing.is_replayable(),
            attempts_so_far: self.sent,
            connect_failures: self.connects,
            deadline_left: left,
        })
    }
}

impl Outgoing {
    fn is_replayable(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_untouched())
    }
}

/// The client's own body explains a failure better than what the attempt saw of it.
fn refusal(outgoing: &Outgoing, failure: &AttemptFailure) -> Refusal {
    let upload = outgoing.upload.as_ref();
    match upload.and_then(|upload| upload.failure()) {
        Some(BodyError::TooLarge) => return Refusal::BodyTooLarge,
        Some(_) => return Refusal::BodyBroken,
        None => {}
    }
    match failure.end {
        AttemptEnd::Client => Refusal::BodyTimeout,
        AttemptEnd::Timeout => Refusal::UpstreamTimeout,
        AttemptEnd::ConnectFailed => Refusal::ConnectFailed,
        _ => Refusal::UpstreamBroken,
    }
}
