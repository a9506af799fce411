//! What would become of a request, by the same functions that decide real ones. Sends nothing and charges nothing, and
//! leaves out the limit per client address, which is about rates of requests rather than about one.

use std::{collections::BTreeMap, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};
use portolan_config::{LimitKey, Route};
use portolan_geodns::RegionState;
use portolan_limits::{DenyReason, Key, KeyUsage, LimitId, Peek, WaitReason};
use portolan_model::{Name, Now, RegionId};
use portolan_node::{Subject, View};
use portolan_proxy::{
    Carried, Denied, Identity, Step, Verifier,
    target::{self, TargetFault},
};
use portolan_routing::{Found, Health, PickReason, RequestHead};

use super::status::{millis, mode_word};
use crate::{
    api::{
        AuthAnswer, CandidateAnswer, ChosenAnswer, ExplainAnswer, ExplainRequest, LimitVerdictAnswer,
        RegionChoiceAnswer, UpstreamAnswer, VerdictAnswer,
    },
    identity::NodeIdentity,
};

/// A request explained.
pub(super) struct Explained {
    pub answer: ExplainAnswer,
    /// The counters of its limits, in their order: what of them was lent, only the node's state machine knows.
    pub counters: Vec<(LimitId, Key)>,
}

impl Explained {
    /// The answer, with what is known of each counter.
    pub fn with_loans(mut self, me: &NodeIdentity, usage: &[Option<KeyUsage>]) -> ExplainAnswer {
        for (limit, usage) in self.answer.limits.iter_mut().zip(usage) {
            let own = usage.iter().filter(|usage| usage.slot == limit.slot).flat_map(|usage| &usage.regions);
            if let Some(part) = own.into_iter().find(|part| part.region == me.region) {
                (limit.lent, limit.borrowed) = (part.lent, part.borrowed);
                limit.used = limit.used.saturating_sub(part.lent);
            }
        }
        self.answer
    }
}

/// Explains one request.
pub(super) fn explain(me: &NodeIdentity, view: &View, request: &ExplainRequest, client: IpAddr, now: Now) -> Explained {
    let mut counters = Vec::new();
    let mut answer = ExplainAnswer {
        node: me.name.clone(),
        region: me.region.clone(),
        revision: view.revision,
        verdict: refuse(Step::Route, 404, "no route takes this host and path"),
        route: None,
        candidates: Vec::new(),
        auth: None,
        limits: Vec::new(),
        upstream: None,
    };
    let (host, path) = match target_of(request) {
        Ok(target) => target,
        Err(fault) => {
            answer.verdict = refuse(Step::Framing, 400, fault.detail());
            return Explained { answer, counters };
        }
    };
    let head = RequestHead { host: &host, path: &path, method: &request.method };
    let candidates = view.routes.explain(&head).into_iter().map(|candidate| CandidateAnswer {
        route: candidate.route,
        lost_because: candidate.lost_because.map(|reason| reason.to_string()),
    });
    answer.candidates = candidates.collect();
    match view.route(&head) {
        Found::Route(route) => counters = explain_route(&mut answer, view, &route, request, client, now),
        Found::NotFound => {}
        Found::MethodNotAllowed { allow } => {
            let why = format!("the path takes {} only", allow.join(", "));
            answer.verdict = refuse(Step::Route, 405, &why);
        }
    }
    Explained { answer, counters }
}

/// The header fields of the request; what is no field is left out.
fn headers_of(request: &ExplainRequest) -> HeaderMap {
    let field = |(name, value): (&String, &String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    request.headers.iter().filter_map(field).collect()
}

/// Host and path as the data path reads and normalises them.
fn target_of(request: &ExplainRequest) -> Result<(String, String), TargetFault> {
    let uri = Uri::try_from(&request.path).map_err(|_| TargetFault::NotAPath)?;
    let host = HeaderValue::try_from(&request.host).map_err(|_| TargetFault::MalformedHost)?;
    let headers = HeaderMap::from_iter([(header::HOST, host)]);
    let host = target::host(&uri, &headers, Version::HTTP_11)?.into_owned();
    Ok((host, target::normalise(uri.path())?.into_owned()))
}

/// Returns the counters of the limits that were asked.
fn explain_route(
    answer: &mut ExplainAnswer,
    view: &View,
    route: &Route,
    request: &ExplainRequest,
    client: IpAddr,
    now: Now,
) -> Vec<(LimitId, Key)> {
    answer.route = Some(route.name.clone());
    let upstream = upstream(view, &route.service, now);
    let found = upstream.endpoint.is_some();
    let why = upstream.endpoint.as_ref().map_or_else(String::new, |endpoint| endpoint.why.clone());
    answer.upstream = Some(upstream);
    let (auth, identity, denied) = authenticate(view, route, request, now);
    answer.auth = Some(auth);
    if let Some(denied) = denied {
        let (step, status) = match denied {
            Denied::InsufficientScope => (Step::Authorise, 403),
            Denied::Malformed => (Step::Authenticate, 400),
            _ => (Step::Authenticate, 401),
        };
        answer.verdict = refuse(step, status, &denied.to_string());
        return Vec::new();
    }
    let headers = headers_of(request);
    let attributes = Carried { headers: &headers, identity: identity.as_ref() };
    let user = identity.as_ref().map(|identity| &*identity.user);
    let peeks = view.peek(route, &Subject { user, client, attributes: &attributes }, now);
    answer.limits = peeks.iter().map(|peek| limit_verdict(view, peek)).collect();
    answer.verdict = match limits_decide(&peeks) {
        Some(verdict) => verdict,
        None if !view.limiter.active() => {
            refuse(Step::Limits, 503, "this node has just started, its limits do not admit yet")
        }
        None if found => {
            VerdictAnswer { outcome: "forward".into(), step: Step::Upstream.as_str().into(), status: None, why }
        }
        None => refuse(Step::Upstream, 503, "the service has no endpoint"),
    };
    peeks.iter().map(|peek| (peek.limit, peek.key)).collect()
}

/// What the limits make of the request, unless they let it pass: those in shadow do.
fn limits_decide(peeks: &[Peek]) -> Option<VerdictAnswer> {
    let in_force = || peeks.iter().filter(|peek| !peek.shadow);
    let refused = in_force().find_map(|peek| peek.refusal.map(|reason| (&peek.name, reason)));
    if let Some((limit, reason)) = refused {
        let status = if reason == DenyReason::Exhausted { 429 } else { 503 };
        return Some(refuse(Step::Limits, status, &format!("limit `{limit}` is {}", deny_word(reason))));
    }
    let (limit, wait) = in_force().find_map(|peek| peek.wait.map(|wait| (&peek.name, wait)))?;
    let what = match wait {
        WaitReason::Mark => "a durable mark of this region",
        WaitReason::Owner => "the node of this region that owns the key",
        WaitReason::Borrow => "what another region lends",
    };
    let why = format!("limit `{limit}` waits for {what}, and what comes of that decides");
    Some(VerdictAnswer { outcome: "wait".into(), step: Step::Limits.as_str().into(), status: None, why })
}

fn authenticate(
    view: &View,
    route: &Route,
    request: &ExplainRequest,
    now: Now,
) -> (AuthAnswer, Option<Identity>, Option<Denied>) {
    let mut answer =
        AuthAnswer { required: route.auth.clone(), scopes: route.scopes.clone(), user: None, refused: None };
    let Some(auth) = route.auth.as_ref().and_then(|name| view.intent.snapshot.auth.get(name)) else {
        return (answer, None, None);
    };
    let mut headers = HeaderMap::new();
    let bearer = request.token.as_ref().map(|token| HeaderValue::try_from(format!("Bearer {token}")));
    let verified = match bearer {
        Some(Err(_)) => Err(Denied::Malformed),
        bearer => {
            headers.extend(bearer.and_then(Result::ok).map(|value| (header::AUTHORIZATION, value)));
            Verifier::new(auth.clone()).verify(&headers, route, now.wall)
        }
    };
    answer.user = verified.as_ref().ok().map(|identity| identity.user.to_string());
    answer.refused = verified.as_ref().err().map(|denied| denied.to_string());
    (answer, verified.as_ref().ok().cloned(), verified.err())
}

fn limit_verdict(view: &View, peek: &Peek) -> LimitVerdictAnswer {
    let limit = view.intent.snapshot.limits.get(&peek.name);
    LimitVerdictAnswer {
        limit: peek.name.clone(),
        key: limit.map_or_else(LimitKey::global, |limit| limit.key.clone()).to_string(),
        on_partition: limit.map_or_else(Default::default, |limit| limit.on_partition).to_string(),
        slot: peek.slot,
        quota: peek.quota,
        share: peek.share,
        used: peek.spent,
        lent: 0,
        borrowed: 0,
        used_elsewhere: peek.others,
        remaining: peek.remaining,
        mode: mode_word(peek.mode).to_owned(),
        resets_in_ms: millis(peek.resets_in),
        verdict: match (peek.refusal, peek.wait) {
            (Some(reason), _) => deny_word(reason),
            (None, Some(_)) => "wait",
            (None, None) => "allow",
        }
        .to_owned(),
        shadow: peek.shadow,
    }
}

fn upstream(view: &View, service: &Name, now: Now) -> UpstreamAnswer {
    let mut endpoints: BTreeMap<&RegionId, (usize, usize)> = BTreeMap::new();
    for endpoint in view.board.endpoints(now.mono).filter(|endpoint| endpoint.service.name == *service) {
        let (all, usable) = endpoints.entry(endpoint.region).or_default();
        *all += 1;
        *usable += usize::from(matches!(endpoint.health, Health::Unknown | Health::Healthy));
    }
    let order = view.region_order.iter().map(|region| {
        let (all, usable) = endpoints.get(region).copied().unwrap_or_default();
        let state = state_word(view.states.get(region)).to_owned();
        RegionChoiceAnswer { region: region.clone(), state, endpoints: all, usable }
    });
    let pick = view.pick(service, &[], now.mono, 0);
    let endpoint = pick.map(|pick| ChosenAnswer {
        region: pick.region.clone(),
        address: pick.address.to_string(),
        why: match pick.why {
            PickReason::OwnRegion => "it is in this node's own region",
            PickReason::NearestUsable => "it is in the nearest region with a usable endpoint",
            PickReason::Panic => "no endpoint anywhere is usable; this one failed longest ago",
        }
        .to_owned(),
    });
    UpstreamAnswer { service: service.clone(), order: order.collect(), endpoint }
}

fn refuse(step: Step, status: u16, why: &str) -> VerdictAnswer {
    VerdictAnswer { outcome: "refuse".into(), step: step.as_str().into(), status: Some(status), why: why.to_owned() }
}

fn deny_word(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::Exhausted => "exhausted",
        DenyReason::Degraded => "degraded",
        DenyReason::Closed => "closed",
    }
}

fn state_word(state: RegionState) -> &'static str {
    match state {
        RegionState::Serving => "serving",
        RegionState::Draining => "draining",
        RegionState::Down => "down",
        RegionState::DrainingDown => "draining_down",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_config::LimitId;
    use portolan_limits::Mode;
    use portolan_model::HashKey;

    use super::*;

    #[test]
    fn limits_in_shadow_let_requests_pass_and_one_that_waits_is_told_apart_from_one_that_allows() {
        let peek = |refusal, wait, shadow| Peek {
            limit: LimitId(1),
            key: Key::new(&HashKey::new([7; 16]), LimitId(1), &[]),
            name: Name::new("api").expect("a name"),
            slot: 1,
            quota: 10,
            share: 5,
            spent: 5,
            others: 0,
            remaining: 0,
            mode: Mode::Healthy,
            resets_in: Duration::ZERO,
            refusal,
            wait,
            shadow,
        };
        let check = |peeks: &[Peek], expected: Option<(&str, Option<u16>)>| {
            let verdict = limits_decide(peeks);
            assert_eq!(verdict.as_ref().map(|verdict| (&*verdict.outcome, verdict.status)), expected);
        };
        let (exhausted, waits) = (Some(DenyReason::Exhausted), Some(WaitReason::Owner));
        check(&[peek(None, None, false)], None);
        check(&[peek(exhausted, None, true), peek(None, waits, true)], None);
        check(&[peek(None, waits, false), peek(exhausted, None, false)], Some(("refuse", Some(429))));
        check(&[peek(exhausted, None, true), peek(None, waits, false)], Some(("wait", None)));
    }
}
