//! Everything the data path and the DNS server decide from, at one moment: swapped whole, never changed in place.
//!
//! Decides what a limit counts by. Health and counters inside are shared
//! atomics, so a view stays right while they move. Never blocks; a request costs one view load.

use std::sync::Arc;

use portolan_config::{Intent, LimitId, Route};
use portolan_geodns::{RegionStates, Table};
use portolan_limits::{Admission, Claim, Limiter, Peek, Wait};
use portolan_model::{Name, Now, RegionId, Revision, Timestamp};
use portolan_routing::{EndpointId, Found, HealthBoard, Pick, RequestHead, RouteTable};
use smallvec::SmallVec;

use crate::{Binding, Meant, Subject, Tier, binding::UNBOUND, compiled::Bindings};

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

    /// The limits of a route, in the order in which [`View::admit`] charges them; empty for a route of another view that
    /// reads otherwise here.
    pub fn limits_of(&self, route: &Route) -> &[Arc<Binding>] {
        self.bindings.of_route(route).unwrap_or_default()
    }

    /// The limit whose budget has a number, and which of its budgets that is.
    pub fn budget(&self, limit: LimitId) -> Option<(&Arc<Binding>, Tier)> {
        self.bindings.limits().find_map(|binding| Some((binding, binding.tier(limit)?)))
    }

    /// The counters that a person can mean by `written`, of one limit or of all: `alice`, `192.0.2.7`, `global`, the parts
    /// of a tuple separated by commas, a missing value as an empty part. Ends after `most`.
    pub fn meant(&self, written: &str, limit: Option<&Name>, most: usize) -> Vec<(&Arc<Binding>, Meant)> {
        let mut all = Vec::new();
        let of = self.bindings.limits().filter(|binding| limit.is_none_or(|limit| *limit == binding.limit.name));
        for binding in of {
            let meant = binding.meant(&self.limiter, written, &self.intent.snapshot, most - all.len());
            all.extend(meant.into_iter().map(|meant| (binding, meant)));
        }
        all
    }

    /// What a request owes the limits of `route`, in their order; `None` for a route of another view that reads otherwise
    /// here. Equal for equal subjects until the document changes. For a caller that asks the limiter several times; others
    /// use [`View::admit`].
    pub fn claims(&self, route: &Route, subject: &Subject<'_>) -> Option<SmallVec<[Claim; 4]>> {
        let bindings = self.bindings.of_route(route)?;
        let claims = bindings.iter().map(|binding| binding.claim(&self.limiter, route, subject));
        // On its way while the next key is worked out and the clock is read.
        Some(claims.inspect(|claim| self.limiter.prefetch(claim.key)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_config::{Bundle, Change, RegionMap, SourceFile};
    use portolan_limits::{Limits, LimitsConfig, Recovery};
    use portolan_model::{HashKey, WallTime};

    use super::*;
    use crate::compiled::Compiled;
    use std::net::IpAddr;

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
        intent.apply(&Change::Apply { bundle, author: "t".into(), expected: None }.at(WallTime::default()));
        assert_eq!(intent.revision, Revision(1), "the document has no faults");
        let region = RegionId::new("here").expect("a name");
        let config = LimitsConfig {
            node: portolan_model::NodeName::new("here-1").expect("a name"),
            region: region.clone(),
            neighbours: Vec::new(),
            rosters: BTreeMap::new(),
            life: 1,
            regions: vec![region.clone()],
            hash_key: HashKey::new([1; 16]),
            capacity: 16,
            worst_rtt: std::time::Duration::ZERO,
            budget: portolan_model::ByteSize(1 << 20),
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

    /// A request with a token and a header.
    #[derive(Debug)]
    struct Carried {
        tenant: Option<&'static str>,
        plan: Option<&'static str>,
        points: Option<&'static str>,
    }

    const PLAIN: Carried = Carried { tenant: Some("acme"), plan: None, points: None };

    impl crate::Attributes for Carried {
        fn header(&self, name: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
            assert_eq!(name, "x-points");
            self.points.map(|points| points.as_bytes().into())
        }

        fn claim(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
            let claim = if name == "plan" { self.plan } else { self.tenant };
            claim.map(Into::into)
        }
    }

    const TIERS: &str = "
version: 1
services:
  one: { endpoints: { here: ['http://127.0.0.1:1'] } }
auth:
  users: { jwt: { issuer: i, jwks_file: keys.json, audience: [a] } }
limits:
  tenants:
    key: [tenant, route]
    rate: 10/s
    plans: { claim: plan, quotas: { gold: 100 } }
    overrides: { vip: 1000 }
    cost: { header: x-points, default: 2, most: 9 }
  apart: { key: user, rate: 1/s, per: route }
routes:
  a: { match: { path: /a }, auth: users, limits: [tenants, apart], service: one }
  b: { match: { path: /b }, auth: users, limits: [tenants, apart], service: one }
";

    fn claims(view: &View, path: &str, carried: &Carried) -> SmallVec<[Claim; 4]> {
        let client = IpAddr::from([192, 0, 2, 1]);
        let subject = Subject { user: Some("ann"), client, attributes: carried };
        view.claims(&route(view, path), &subject).expect("the route is the view's")
    }

    #[test]
    fn an_override_comes_before_a_plan_and_a_plan_before_the_limit() {
        let view = view(TIERS);
        let check = |tenant, plan, expected: Tier, quota: u64| {
            let claim = claims(&view, "/a", &Carried { tenant, plan, ..PLAIN })[0];
            let (binding, tier) = view.budget(claim.limit).expect("a number of this document");
            assert_eq!((&tier, binding.algorithm_of(&tier).quota()), (&expected, quota), "{tenant:?} {plan:?}");
        };
        check(Some("acme"), None, Tier::Own, 10);
        check(Some("acme"), Some("gold"), Tier::Plan("gold".into()), 100);
        check(Some("acme"), Some("unknown"), Tier::Own, 10);
        check(Some("vip"), Some("gold"), Tier::Override("vip".into()), 1000);
        check(None, Some("gold"), Tier::Plan("gold".into()), 100);
    }

    #[test]
    fn a_budget_per_route_is_a_counter_per_route() {
        let view = view(TIERS);
        let (a, b) = (claims(&view, "/a", &PLAIN), claims(&view, "/b", &PLAIN));
        assert_eq!(a[1].limit, b[1].limit);
        assert_ne!(a[1].key, b[1].key);
    }

    #[test]
    fn a_cost_in_a_header_is_bounded_both_ways() {
        let view = view(TIERS);
        let check = |points, cost| {
            assert_eq!(claims(&view, "/a", &Carried { points, ..PLAIN })[0].cost, cost, "{points:?}");
        };
        check(None, 2);
        check(Some("5"), 5);
        check(Some("0"), 1);
        check(Some("-1"), 2);
        check(Some("10"), 9);
        check(Some("99999999999999999999"), 9);
    }

    #[test]
    fn a_person_means_the_counters_that_requests_are_charged_to() {
        let view = view(TIERS);
        let meant = |limit: &str, written| -> Vec<(Claim, Option<String>)> {
            let claim = |(_, meant): (&Arc<Binding>, Meant)| {
                (Claim { limit: meant.limit, key: meant.key, cost: 2 }, meant.route.map(|route| route.to_string()))
            };
            let limit = Name::new(limit).expect("a name");
            view.meant(written, Some(&limit), 1000).into_iter().map(claim).collect()
        };
        let (a, b) = (claims(&view, "/a", &PLAIN), claims(&view, "/b", &PLAIN));
        let gold = claims(&view, "/a", &Carried { plan: Some("gold"), ..PLAIN });
        let tuple = meant("tenants", "acme,a");
        assert!(tuple.contains(&(a[0], None)) && tuple.contains(&(gold[0], None)) && tuple.len() == 2, "{tuple:?}");
        let vip = claims(&view, "/a", &Carried { tenant: Some("vip"), ..PLAIN });
        assert_eq!(meant("tenants", "vip,a"), [(vip[0], None)]);
        let nobody = claims(&view, "/b", &Carried { tenant: None, ..PLAIN });
        assert!(meant("tenants", ",b").contains(&(nobody[0], None)));
        let per_route: Vec<_> = [(a[1], "a"), (b[1], "b")].map(|(claim, route)| (claim, Some(route.to_owned()))).into();
        let ann: Vec<_> =
            meant("apart", "ann").into_iter().map(|(claim, route)| (Claim { cost: 1, ..claim }, route)).collect();
        assert_eq!(ann, per_route);
        assert_eq!(meant("tenants", "acme,nowhere"), []);
    }
}
