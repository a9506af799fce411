//! Everything the data path and the DNS server decide from, at one moment: swapped whole, never changed in place.
//!
//! Decides what a limit counts by. Health and counters inside are shared
//! atomics, so a view stays right while they move. Never blocks; a request costs one view load.

use std::{net::IpAddr, sync::Arc};

use portolan_config::{Intent, KeyPart, Route};
use portolan_geodns::{RegionStates, Table};
use portolan_limits::{Admission, Claim, Limiter, Peek, Wait};
use portolan_model::{Name, Now, RegionId, Revision, Timestamp};
use portolan_routing::{EndpointId, Found, HealthBoard, Pick, RequestHead, RouteTable};
use smallvec::SmallVec;

use crate::{
    Subject,
    compiled::{Binding, Bindings, UNBOUND},
};

/// One consistent set of decisions.
#[derive(Clone, Debug)]
pub struct View {
    /// Differs between any two views of a node, and grows.
    pub version: u64,
    /// The revision in force.
    pub revision: Revision,
    /// What operators want.
    pub intent: Arc<Intent>,
    /// This node's region.
    pub region: RegionId,
    /// Where to look for an endpoint: the own region, then those that serve, nearest first, then the others.
    pub region_order: Vec<RegionId>,
    /// Matches requests.
    pub routes: Arc<RouteTable>,
    /// Admits requests.
    pub limiter: Arc<Limiter>,
    /// Health of endpoints.
    pub board: Arc<HealthBoard>,
    /// Answers DNS queries.
    pub dns: Arc<Table>,
    /// Regions as DNS must see them.
    pub states: RegionStates,
    /// Whether this region is being drained: tell clients to go, keep serving those who stay.
    pub draining: bool,
    /// Whether this node can serve: a document is in force and the limits are active.
    pub ready: bool,
    pub(crate) bindings: Arc<Bindings>,
}

impl View {
    /// Finds the route of a request.
    pub fn route(&self, head: &RequestHead<'_>) -> Found {
        self.routes.find(head)
    }

    /// Charges all limits of `route`, or none. `route` is one that [`View::route`] of this view gave; another view's is
    /// answered `Wait` unless it reads the same here, so that none passes without its limits. Allocates nothing up to
    /// four limits.
    pub fn admit(&self, route: &Route, subject: &Subject<'_>, now: Now) -> Admission {
        match self.claims(route, subject) {
            Some(claims) => self.limiter.admit(&claims, now),
            None => Admission::Wait(Wait::unknown(UNBOUND, route.name.clone())),
        }
    }

    /// The values [`View::admit`] would decide with; charges nothing.
    pub fn peek(&self, route: &Route, subject: &Subject<'_>, now: Now) -> Vec<Peek> {
        self.claims(route, subject).map_or_else(Vec::new, |claims| self.limiter.peek(&claims, now))
    }

    /// Chooses an endpoint that is not in `tried`. `choice` is a random number of the caller.
    pub fn pick(&self, service: &Name, tried: &[EndpointId], now: Timestamp, choice: u64) -> Option<Pick<'_>> {
        self.board.pick(service, &self.region_order, tried, now, choice)
    }

    /// What a request asks of the limits of `route`, in the order written; `None` for a route of another view that reads
    /// otherwise here. Equal for equal subjects until the document changes.
    pub fn claims(&self, route: &Route, subject: &Subject<'_>) -> Option<SmallVec<[Claim; 4]>> {
        let bindings = self.bindings.of_route(route)?;
        Some(bindings.iter().map(|binding| claim(binding, &self.limiter, route, subject)).collect())
    }
}

/// The claim that `binding` makes on a request.
fn claim(binding: &Binding, limiter: &Limiter, route: &Route, subject: &Subject<'_>) -> Claim {
    let limit = binding.limit;
    let address = match subject.client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut parts = SmallVec::<[&[u8]; 4]>::new();
    for part in binding.key.parts() {
        parts.push(match part {
            KeyPart::Global => continue,
            KeyPart::Service => route.service.as_str().as_bytes(),
            KeyPart::Route => route.name.as_str().as_bytes(),
            // Such a limit stands only on routes with auth; requests without a user would share one counter.
            KeyPart::User => subject.user.unwrap_or_default().as_bytes(),
            KeyPart::ClientAddress { .. } if subject.client.to_canonical().is_ipv4() => &address[12..],
            // A customer holds at least a /64 (RFC 6177), so anything finer would let one client be many.
            KeyPart::ClientAddress { v6_prefix } => &address[..usize::from(v6_prefix / 8)],
            KeyPart::Header(_) | KeyPart::Claim(_) => &[],
        });
    }
    let key = limiter.key(limit, &parts);
    Claim { limit, key, cost: 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_config::{Bundle, Command, RegionMap, SourceFile};
    use portolan_limits::{Limits, LimitsConfig, Recovery};
    use portolan_model::{HashKey, WallTime};

    use super::*;
    use crate::compiled::Compiled;

    const GATEWAY: &str = "
version: 1
services:
  one: { endpoints: { here: ['http://127.0.0.1:1'] } }
  two: { endpoints: { here: ['http://127.0.0.1:2'] } }
auth:
  users: { jwt: { issuer: i, jwks_file: keys.json, audience: [a] } }
limits:
  global: { key: global, rate: 1/s }
  service: { key: service, rate: 1/s }
  route: { key: route, rate: 1/s }
  user: { key: user, rate: 1/s }
  client: { key: client, rate: 1/s }
routes:
  a: { match: { path: /a }, auth: users, limits: [global, service, route, user, client], service: one }
  b: { match: { path: /b }, auth: users, limits: [global, service, route, user, client], service: one }
  c: { match: { path: /c }, auth: users, limits: [global, service, route, user, client], service: two }
";

    const REGION: &str = "version: 1\nregion: here\ntitle: Here\ncoordinates: { latitude: 1, longitude: 1 }\n\
                          addresses: [127.10.1.1]\n";

    fn view(gateway: &str) -> View {
        let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
        let regions = Arc::new(RegionMap::parse(&[file("here.yaml", REGION)]).expect("no faults"));
        let mut intent = Intent::new(Arc::clone(&regions));
        let attachments = BTreeMap::from([("keys.json".into(), JWKS.into())]);
        let bundle = Bundle { document: file("gateway.yaml", gateway), attachments };
        intent.apply(&Command::Apply { bundle, author: "t".into(), at: WallTime::default(), expected: None });
        assert_eq!(intent.revision, Revision(1), "the document has no faults");
        let region = RegionId::new("here").expect("a name");
        let config = LimitsConfig {
            region: region.clone(),
            regions: vec![region.clone()],
            hash_key: HashKey::new([1; 16]),
            capacity: 16,
            worst_rtt: std::time::Duration::ZERO,
        };
        let limiter = Limits::new(config, Recovery::FirstStart, Now::default()).limiter();
        let compiled = Compiled::new(&intent, &regions, None);
        compiled.view(&Arc::new(intent), &region, limiter, &RegionStates::default(), 1)
    }

    /// An empty key set is refused, so one public key of the right form.
    const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","alg":"EdDSA",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn route(view: &View, path: &str) -> Arc<Route> {
        match view.route(&RequestHead { host: "h", path, method: "GET" }) {
            Found::Route(route) => route,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_route_of_another_view_never_passes_without_its_limits() {
        let before = view(GATEWAY);
        let client = IpAddr::from([192, 0, 2, 1]);
        let check = |from: &str, to: &str, claims: Option<usize>| {
            let after = view(&GATEWAY.replacen(from, to, 1));
            let (route, subject) = (route(&before, "/a"), Subject { user: Some("ann"), client, attributes: &() });
            assert_eq!(after.claims(&route, &subject).map(|claims| claims.len()), claims, "{from} to {to}");
            let admission = after.admit(&route, &subject, Now::default());
            assert!(matches!(admission, Admission::Wait(_)), "{from} to {to}");
        };
        check("  b: { match", "  renamed: { match", Some(5));
        check("  a: { match", "  renamed: { match", None);
        check("[global, service, route, user, client]", "[]", None);
        check("auth: users, limits: [global, service, route, user, client]", "limits: [global]", None);
        check("user: { key: user", "user: { key: client", Some(5));
    }

    #[test]
    fn a_limit_counts_apart_what_its_key_tells_apart() {
        let view = view(GATEWAY);
        let claims = |path: &str, user, client: &str| {
            let subject = Subject { user: Some(user), client: client.parse().expect("an address"), attributes: &() };
            view.claims(&route(&view, path), &subject).expect("the route is the view's")
        };
        let base = claims("/a", "ann", "192.0.2.1");
        // Whether each of global, service, route, user, client is the same counter as in the base request.
        let check = |other: SmallVec<[Claim; 4]>, expected: [bool; 5]| {
            let same: Vec<bool> = base.iter().zip(&other).map(|(a, b)| a.key == b.key).collect();
            assert_eq!(same, expected);
        };
        check(claims("/a", "ann", "192.0.2.1"), [true, true, true, true, true]);
        check(claims("/b", "ann", "192.0.2.1"), [true, true, false, true, true]);
        check(claims("/c", "ann", "192.0.2.1"), [true, false, false, true, true]);
        check(claims("/a", "bob", "192.0.2.1"), [true, true, true, false, true]);
        check(claims("/a", "ann", "192.0.2.2"), [true, true, true, true, false]);
        check(claims("/a", "ann", "::ffff:192.0.2.1"), [true, true, true, true, true]);
        let network = |client| claims("/a", "ann", client)[4].key;
        assert_eq!(network("2001:db8::1"), network("2001:db8::2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    }
}
