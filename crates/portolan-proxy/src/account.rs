//! Follows one request from its head to the last byte of its response and then accounts for it: metrics, access log, span.
//!
//! Never decides anything. Accounts also for requests whose client goes away, because it does so when it is dropped.

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode};
use opentelemetry::{KeyValue, global::BoxedSpan};
use portolan_limits::{Charge, Denial, Mode, Policy};
use portolan_model::{Name, Timestamp};

use crate::{
    access_log::{LimitsLine, Line},
    body::Upload,
    decision::{Decision, mode_word},
    guard::Exchange,
    metrics::{Event, Protocol, RouteCell},
    response::Step,
    spent::Spent,
    trace::{Ids, end_span},
    worker::{Prepared, Worker},
};

/// The status accounted for when the client left before there was one (nginx's custom).
const CLIENT_LEFT: u16 = 499;

/// The account of one request.
pub struct Account {
    worker: Rc<Worker>,
    exchange: Rc<Exchange>,
    protocol: Protocol,
    started: Timestamp,
    status: Option<StatusCode>,
    step: Option<Step>,
    route: Option<Arc<RouteCell>>,
    upload: Option<Rc<Upload>>,
    /// Ends with the response, or with the client.
    held: Option<Box<Spent>>,
    sent: u64,
    complete: bool,
    /// Tells the requests of a connection apart.
    number: u64,
    /// Kept only when a log line or a span is wanted.
    story: Option<Box<Story>>,
}

/// What a log line and a span tell beside the numbers.
#[derive(Default)]
struct Story {
    client: Option<IpAddr>,
    method: Method,
    host: String,
    path: String,
    request_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    route: Option<Name>,
    user: Option<Arc<str>>,
    upstream: Option<String>,
    attempts: u32,
    limits: Option<LimitStory>,
    span: Option<BoxedSpan>,
}

/// What limits made of a request.
#[derive(Default)]
struct LimitStory {
    /// The worst state of any of them.
    mode: Option<Mode>,
    refused: Option<Name>,
    /// Limits in shadow that would have refused.
    shadow: Vec<Name>,
    waited: Duration,
}

impl Account {
    /// Opens the account of a request.
    pub(crate) fn open(worker: &Rc<Worker>, exchange: &Rc<Exchange>, protocol: Protocol, started: Timestamp) -> Self {
        exchange.active.set(exchange.active.get() + 1);
        let wanted = worker.shared.access_log.is_on() || worker.shared.tracer.is_some();
        Self {
            worker: Rc::clone(worker),
            exchange: Rc::clone(exchange),
            protocol,
            started,
            status: None,
            step: None,
            route: None,
            upload: None,
            held: None,
            sent: 0,
            complete: false,
            number: exchange.served.get(),
            story: wanted.then(Box::default),
        }
    }

    pub(crate) fn identify(&mut self, client: IpAddr, method: &Method, ids: &mut Ids) {
        if let Some(story) = &mut self.story {
            story.client = Some(client);
            story.method = method.clone();
            story.request_id = Some(ids.request_id.clone());
            story.traceparent = Some(ids.traceparent.clone());
            story.span = ids.span.take();
        }
    }

    pub(crate) fn target(&mut self, host: &str, path: &str) {
        if let Some(story) = &mut self.story {
            host.clone_into(&mut story.host);
            path.clone_into(&mut story.path);
        }
    }

    pub(crate) fn route(&mut self, name: &Name, cell: Arc<RouteCell>) {
        self.route = Some(cell);
        if let Some(story) = &mut self.story {
            story.route = Some(name.clone());
        }
    }

    pub(crate) fn user(&mut self, user: &Arc<str>) {
        if let Some(story) = &mut self.story {
            story.user = Some(Arc::clone(user));
        }
    }

    /// Counts what the limits decided.
    pub(crate) fn limits(&mut self, prepared: &Prepared, verdict: Result<&[Charge], &Denial>, waited: Duration) {
        let limiter = &prepared.view.limiter;
        let mode = |limit| limiter.mode(limit).unwrap_or(Mode::Degraded);
        let count = |name: &Name, decision, mode| prepared.limit_cell(name, &self.worker.shard).count(decision, mode);
        let mut story = LimitStory { waited, ..LimitStory::default() };
        match verdict {
            Ok(charges) => {
                for charge in charges {
                    let Some(Policy { name, .. }) = limiter.policy(charge) else { continue };
                    let mode = mode(charge.limit);
                    let decision = if charge.shadow_refused { Decision::Shadow } else { Decision::Admitted };
                    count(name, decision, mode);
                    story.mode = story.mode.max(Some(mode));
                    story.shadow.extend(charge.shadow_refused.then(|| name.clone()));
                }
            }
            Err(denial) => {
                let mode = mode(denial.limit);
                count(&denial.name, Decision::of_refusal(denial.reason), mode);
                (story.mode, story.refused) = (Some(mode), Some(denial.name.clone()));
            }
        }
        if let Some(told) = &mut self.story {
            told.limits = Some(story);
        }
    }

    /// Takes over what a concurrency limit counts until the response has ended or the client has gone.
    pub(crate) fn hold(&mut self, held: Option<Box<Spent>>) {
        self.held = held;
    }

    pub(crate) fn upload(&mut self, upload: &Rc<Upload>) {
        self.upload = Some(Rc::clone(upload));
    }

    pub(crate) fn attempt(&mut self, endpoint: &impl ToString) {
        if let Some(story) = &mut self.story {
            story.attempts += 1;
            story.upstream = Some(endpoint.to_string());
        }
    }

    pub(crate) fn answered(&mut self, status: StatusCode, step: Option<Step>) {
        self.status = Some(status);
        self.step = step;
        if let Some(step) = step {
            self.worker.shard.count_refused(step);
        }
    }

    /// A part of the response was given to the connection, which has room for more once it asks again.
    pub fn gave(&self) {
        self.exchange.gave(self.number, self.worker.tick());
    }

    /// The connection waits for the response, not the other way round.
    pub fn took(&self) {
        self.exchange.took(self.number);
    }

    /// Counts bytes of the response body.
    pub fn count_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The response reached its end.
    pub fn complete(&mut self) {
        self.complete = true;
        self.held = None;
    }

    fn tell(&mut self, status: StatusCode, duration: Duration, received: u64) {
        let Some(mut story) = self.story.take() else { return };
        let text = |value: &Option<HeaderValue>| value.as_ref().and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let (route, user) = (story.route.as_ref().map(Name::as_str), story.user.as_deref());
        let limits = story.limits.take();
        if self.worker.shared.access_log.is_on() {
            let written = self.worker.shared.access_log.write(&Line {
                time: self.worker.now().wall,
                node: &self.worker.shared.node,
                request_id: &text(&story.request_id),
                trace_id: story.traceparent.as_ref().map(Ids::trace_id).unwrap_or_default(),
                client: story.client.unwrap_or(IpAddr::from([0; 4])),
                protocol: self.protocol.as_str(),
                method: story.method.as_str(),
                host: &story.host,
                path: &story.path,
                route,
                user,
                status: status.as_u16(),
                step: self.step.map(Step::as_str),
                limits: limits.as_ref().map(LimitStory::line),
                upstream: story.upstream.as_deref(),
                attempts: story.attempts,
                duration_us: duration.as_micros() as u64,
                received,
                sent: self.sent,
                complete: self.complete,
            });
            if !written {
                self.worker.shard.count(Event::LogDropped);
            }
        }
        if let Some(span) = story.span.take() {
            let mut attributes = vec![
                KeyValue::new("http.request.method", story.method.to_string()),
                KeyValue::new("url.path", std::mem::take(&mut story.path)),
                KeyValue::new("server.address", std::mem::take(&mut story.host)),
                KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
                KeyValue::new("portolan.attempts", i64::from(story.attempts)),
                KeyValue::new("portolan.request_id", text(&story.request_id)),
            ];
            attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
            let mode = limits.and_then(|limits| limits.mode);
            attributes.extend(mode.map(|mode| KeyValue::new("ratelimit.mode", mode_word(mode))));
            attributes.extend(self.step.map(|step| KeyValue::new("portolan.step", step.as_str())));
            end_span(span, attributes, status.is_server_error());
        }
    }
}

impl LimitStory {
    fn line(&self) -> LimitsLine<'_> {
        LimitsLine {
            mode: self.mode.map_or("healthy", mode_word),
            refused: self.refused.as_ref().map(Name::as_str),
            shadow: self.shadow.iter().map(Name::as_str).collect(),
            waited_us: u64::try_from(self.waited.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.took();
        self.exchange.active.set(self.exchange.active.get() - 1);
        let status = self.status.unwrap_or_else(|| StatusCode::from_u16(CLIENT_LEFT).expect("499 is a status code"));
        let duration = self.worker.now().mono.since(self.started);
        let received = self.upload.as_ref().map_or(0, |upload| upload.received());
        let shard = &self.worker.shard;
        shard.count_request(self.protocol, status, duration);
        shard.count_bytes(received, self.sent);
        if let Some(route) = &self.route {
            route.count(status);
        }
        self.tell(status, duration, received);
    }
}
