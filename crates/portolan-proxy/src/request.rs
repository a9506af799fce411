//! The life of a request, in the order in which its steps decide. Each step returns a verdict; the first refusal ends it.
//!
//! Never lets a costly step run before a cheaper one that could refuse: the client-address limit comes before tokens,
//! tokens before limits, limits before the body and the upstream.

use std::{borrow::Cow, net::IpAddr, rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, request::Parts, uri::PathAndQuery,
};
use http_body::Body as _;
use portolan_config::Route;
use portolan_model::Now;
use portolan_node::Subject;
use portolan_routing::{Found, RequestHead};

use crate::{
    account::Account,
    admission::{Admitted, admit},
    auth::{Denied, Identity},
    body::{ClientBody, ReplyBody, Upload},
    carried::Carried,
    client_limit::Verdict,
    forward::{self, Outgoing},
    framing::{Fault, MAX_REQUEST_LINE},
    guard::Exchange,
    head::{self, Forwarded, X_REQUEST_ID},
    metrics::Protocol,
    quota::{self, Unit},
    response::{Refusal, Step},
    spent::{self, Outcome, Spent},
    target,
    trace::Ids,
    worker::{Prepared, Worker},
};

/// Clients that are refused at one moment are asked to come back spread over this part of their wait.
const RETRY_JITTER: f64 = 0.1;

/// The connection a request came on.
#[derive(Debug)]
pub(crate) struct Peer {
    pub client: IpAddr,
    pub forwarded_for: HeaderValue,
    pub scheme: &'static str,
    pub protocol: Protocol,
    pub exchange: Rc<Exchange>,
}

impl Peer {
    pub fn new(client: IpAddr, scheme: &'static str, protocol: Protocol, exchange: Rc<Exchange>) -> Self {
        let client = client.to_canonical();
        let forwarded_for = HeaderValue::from_str(&client.to_string()).expect("an address is a field value");
        Self { client, forwarded_for, scheme, protocol, exchange }
    }
}

/// Serves one request from its head to its response.
pub(crate) async fn serve(worker: &Rc<Worker>, peer: &Peer, request: Request<ClientBody>) -> Response<ReplyBody> {
    let now = worker.now();
    let refused = peer.exchange.begin_request();
    let prepared = worker.prepared();
    let mut account = Account::open(worker, &peer.exchange, peer.protocol, now.mono);
    let mut ids = Ids::new(request.headers(), worker.shared.tracer.as_ref(), || worker.random());
    account.identify(peer.client, request.method(), &mut ids);
    let head_only = request.method() == Method::HEAD;
    let spent = Spent::default();
    let mut turn = Turn { worker, prepared: &prepared, peer, ids: &ids, now, head_only, spent, account };
    let outcome = turn.steps(refused, request).await;
    turn.respond(outcome)
}

/// One request on its way through the steps.
struct Turn<'a> {
    worker: &'a Rc<Worker>,
    prepared: &'a Rc<Prepared>,
    peer: &'a Peer,
    ids: &'a Ids,
    now: Now,
    /// The answer has the fields of a GET and no body.
    head_only: bool,
    spent: Spent,
    account: Account,
}

impl Turn<'_> {
    /// The steps, in order.
    async fn steps(&mut self, refused: Option<Fault>, request: Request<ClientBody>) -> Result<forward::Reply, Refusal> {
        let (parts, body) = request.into_parts();
        refused.map_or(Ok(()), |fault| Err(Refusal::Framing(fault)))?;
        self.limit_client()?;
        let target = self.check_head(&parts)?;
        let route = self.match_route(&target, &parts.method)?;
        let path = target.forwarded(&parts.uri)?;
        let identity = self.authenticate(&route, &parts.headers)?;
        self.admit(&route, &parts.headers, identity.as_ref()).await?;
        let upload = self.check_body(&route, body)?;
        let outgoing = self.outgoing(parts, path, identity.as_ref(), upload);
        forward::forward(self.worker, self.prepared, &route, outgoing, &mut self.account, self.now).await
    }

    fn check_head<'p>(&mut self, parts: &'p Parts) -> Result<Target<'p>, Refusal> {
        if parts.headers.len() > self.prepared.listener().max_headers {
            return Err(Refusal::HeadersTooLarge);
        }
        if parts.uri.path().len() + parts.uri.query().map_or(0, str::len) > MAX_REQUEST_LINE {
            return Err(Refusal::Framing(Fault::RequestLineTooLong));
        }
        let http1_only = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
        if self.peer.protocol != Protocol::Http1 && http1_only.iter().any(|name| parts.headers.contains_key(name)) {
            return Err(Refusal::Framing(Fault::ConnectionField));
        }
        if parts.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(Refusal::Framing(Fault::ContentLength));
        }
        if parts.method == Method::CONNECT || asks_for_another_protocol(&parts.headers) {
            return Err(Refusal::NotSupported);
        }
        let host = target::host(&parts.uri, &parts.headers, parts.version).map_err(Refusal::Target)?;
        let path = target::normalise(parts.uri.path()).map_err(Refusal::Target)?;
        self.account.target(&host, &path);
        Ok(Target { host, path })
    }

    fn limit_client(&self) -> Result<(), Refusal> {
        let rate = self.prepared.listener().client_limit;
        match self.worker.shared.client_limit.admit(self.peer.client, rate, self.now.mono) {
            Verdict::Allow => Ok(()),
            Verdict::Deny { retry_after } => Err(Refusal::ClientLimit { retry_after }),
        }
    }

    fn match_route(&mut self, target: &Target<'_>, method: &Method) -> Result<Arc<Route>, Refusal> {
        let head = RequestHead { host: &target.host, path: &target.path, method: method.as_str() };
        match self.prepared.view.route(&head) {
            Found::Route(route) => {
                self.account.route(&route.name, self.prepared.route_cell(&route.name, &self.worker.shard));
                Ok(route)
            }
            Found::NotFound => Err(Refusal::NoRoute),
            Found::MethodNotAllowed { allow } => Err(Refusal::MethodNotAllowed { allow }),
        }
    }

    fn authenticate(&mut self, route: &Route, headers: &HeaderMap) -> Result<Option<Identity>, Refusal> {
        let Some(name) = &route.auth else { return Ok(None) };
        let verdict = match self.prepared.verifier(name) {
            Some(verifier) => verifier.verify(headers, route, self.now.wall),
            // A snapshot resolves every name, so this refuses what cannot happen, closed.
            None => Err(Denied::InvalidToken),
        };
        let identity = verdict.map_err(|denied| Refusal::Denied { denied, scopes: route.scopes.clone() })?;
        self.account.user(&identity.user);
        Ok(Some(identity))
    }

    async fn admit(
        &mut self,
        route: &Arc<Route>,
        headers: &HeaderMap,
        identity: Option<&Identity>,
    ) -> Result<(), Refusal> {
        if route.limits.is_empty() {
            return Ok(());
        }
        if !self.prepared.view.limiter.active() {
            return Err(Refusal::LimitsInactive);
        }
        let carried = Carried { headers, identity };
        let user = identity.map(|identity| &*identity.user);
        let subject = Subject { user, client: self.peer.client, attributes: &carried };
        let Admitted { verdict, waited } = admit(self.worker, self.prepared, route, &subject).await;
        self.account.limits(self.prepared, verdict.as_deref().map_err(|denial| &**denial), waited);
        match verdict {
            Ok(charges) => {
                self.spent = Spent::new(self.prepared, route, charges);
                Ok(())
            }
            Err(denial) => {
                // Drawn from 32 bits: an f64 holds them exactly.
                let share = (self.worker.random() >> 32) as f64 / f64::from(u32::MAX);
                let retry_after = denial.retry_after.mul_f64(1.0 + RETRY_JITTER * share);
                let limit = self.prepared.view.intent.snapshot.limits.get(&denial.name);
                let unit = limit.map_or(Unit::Requests, |limit| spent::unit(&limit.algorithm));
                Err(Refusal::Limited { denial, unit, retry_after })
            }
        }
    }

    fn check_body(&mut self, route: &Route, body: ClientBody) -> Result<Option<Rc<Upload>>, Refusal> {
        let max = route.max_body.unwrap_or(self.prepared.listener().max_body).0;
        if body.size_hint().lower() > max {
            return Err(Refusal::BodyTooLarge);
        }
        let upload = Upload::new(body, max);
        if let Some(upload) = &upload {
            self.account.upload(upload);
        }
        Ok(upload)
    }

    fn outgoing(
        &self,
        parts: Parts,
        path: PathAndQuery,
        identity: Option<&Identity>,
        upload: Option<Rc<Upload>>,
    ) -> Outgoing {
        let mut headers = parts.headers;
        let authority = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = authority.or_else(|| headers.get(header::HOST).cloned());
        let forwarded = Forwarded {
            client: &self.peer.forwarded_for,
            scheme: self.peer.scheme,
            via: self.peer.protocol.via(),
            host: host.as_ref(),
            user: identity.map(|identity| &*identity.user),
            request_id: &self.ids.request_id,
            traceparent: &self.ids.traceparent,
            continues_trace: self.ids.continues_trace,
        };
        head::to_upstream(&mut headers, &forwarded, self.peer.protocol != Protocol::Http1);
        Outgoing { method: parts.method, path, headers, upload }
    }

    fn respond(self, outcome: Result<forward::Reply, Refusal>) -> Response<ReplyBody> {
        let Self { worker, prepared, peer, ids, head_only, spent, mut account, .. } = self;
        let mut close = worker.is_leaving() || prepared.view.draining;
        let mut told = HeaderMap::new();
        quota::write(&mut told, spent.quotas());
        let outcome_of_limits = match &outcome {
            Ok(reply) => Outcome { status: reply.head.status, upstream_failed: false },
            Err(refusal) => Outcome { status: refusal.status(), upstream_failed: refusal.step() == Step::Upstream },
        };
        spent.refund(outcome_of_limits, worker.now());
        account.hold(spent.held());
        let mut response = match outcome {
            Ok(forward::Reply { mut head, body, lease }) => {
                head::to_client(&mut head.headers);
                account.answered(head.status, None);
                Response::from_parts(head, ReplyBody::upstream(body, lease, account))
            }
            Err(refusal) => {
                close |= refusal.ends_connection();
                account.answered(refusal.status(), Some(refusal.step()));
                let (mut parts, mut body) = refusal.response(&ids.request_id).into_parts();
                if head_only {
                    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
                    body.clear();
                }
                Response::from_parts(parts, ReplyBody::own(body, account))
            }
        };
        let headers = response.headers_mut();
        headers.extend(told);
        headers.insert(X_REQUEST_ID, ids.request_id.clone());
        if peer.protocol != Protocol::Http3
            && peer.scheme == "https"
            && let Some(alt_svc) = &prepared.alt_svc
        {
            headers.insert(header::ALT_SVC, alt_svc.clone());
        }
        if peer.protocol == Protocol::Http1 && close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        *response.version_mut() = Version::HTTP_11;
        response
    }
}

/// Host and path as they are matched.
struct Target<'a> {
    host: Cow<'a, str>,
    path: Cow<'a, str>,
}

impl Target<'_> {
    fn forwarded(&self, uri: &Uri) -> Result<PathAndQuery, Refusal> {
        if matches!(self.path, Cow::Borrowed(_))
            && let Some(path) = uri.path_and_query()
        {
            return Ok(path.clone());
        }
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        PathAndQuery::try_from(format!("{}{query}", self.path))
            .map_err(|_| Refusal::Target(target::TargetFault::NotAPath))
    }
}

/// WebSocket and the like. An offer of HTTP/2 over cleartext is ignored, as RFC 9110 §7.8 allows.
fn asks_for_another_protocol(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers.get_all(header::UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}
