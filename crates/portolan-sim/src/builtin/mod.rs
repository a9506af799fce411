//! Scenarios for a configuration that has none: every limit asked for half as much again as it allows, and then the faults
//! that a fleet meets. They are texts in the language of scenarios, so that what they do can be read, kept and changed.
//!
//! Decides what a rehearsal looks like before anybody wrote one. Never looks at anything but the document and the regions.

mod load;

use std::fmt::Write;

use portolan_config::{RegionMap, Snapshot, SourceFile};
use portolan_model::RegionId;

/// Folder that stands before the name of a built-in scenario.
pub const FOLDER: &str = "built-in/";

/// Length of every scenario, in seconds: a fault of a third, and a third on each side of it.
const LENGTH_S: u64 = 60;

/// What happens in one scenario.
struct Kind {
    name: &'static str,
    title: fn(&RegionId) -> String,
    /// Steps in the language of scenarios; `None` where there is only one region and it takes two.
    steps: fn(&RegionId, regions: usize) -> Option<String>,
}

/// Every built-in scenario, in the order they run.
const KINDS: [Kind; 6] = [
    Kind {
        name: "steady",
        title: |_| "Every limit is asked for 1.5 times what it allows".to_owned(),
        steps: |_, _| Some(String::new()),
    },
    Kind {
        name: "cut-off",
        title: |region| format!("{region} is cut off for 20 s"),
        steps: |region, regions| {
            (regions > 1).then(|| format!("  - {{ at: 20s, fault: partition, regions: [{region}], for: 20s }}\n"))
        },
    },
    Kind {
        name: "one-way",
        title: |region| format!("{region} hears the others and is not heard for 20 s"),
        steps: |region, regions| {
            let step = "fault: partition, direction: out";
            (regions > 1).then(|| format!("  - {{ at: 20s, {step}, regions: [{region}], for: 20s }}\n"))
        },
    },
    Kind {
        name: "killed",
        title: |region| format!("All nodes of {region} are killed and come back after 20 s"),
        steps: |region, _| Some(format!("  - {{ at: 20s, fault: crash, region: {region}, for: 20s }}\n")),
    },
    Kind {
        name: "restart",
        title: |_| "The whole fleet is killed and started again".to_owned(),
        steps: |_, _| Some("  - { at: 20s, fault: crash, target: fleet, for: 5s }\n".to_owned()),
    },
    Kind {
        name: "clock-step",
        title: |region| format!("The clocks of {region} are 5 s ahead for 20 s"),
        steps: |region, _| Some(format!("  - {{ at: 20s, fault: clock-step, region: {region}, by: +5s, for: 20s }}\n")),
    },
];

/// The built-in scenarios for a document and its regions, each a file named `built-in/NAME`.
pub fn scenarios(snapshot: &Snapshot, regions: &RegionMap) -> Vec<SourceFile> {
    let Some(region) = busiest(regions) else { return Vec::new() };
    let load = load::write(snapshot, regions, LENGTH_S);
    let file = |kind: &Kind| {
        let steps = (kind.steps)(&region, regions.ids().len())?;
        let title = (kind.title)(&region);
        let mut text = format!(
            "# Drawn up by `portolan simulate` from the document and the regions it was given.\nversion: 1\ntitle: {title}\n"
        );
        let _ = writeln!(text, "length: {LENGTH_S}s\nloss: 0.1%\njitter: 5ms\n\n{load}");
        if !steps.is_empty() {
            let _ = write!(text, "\nsteps:\n{steps}");
        }
        Some(SourceFile { path: format!("{FOLDER}{}", kind.name), text })
    };
    KINDS.iter().filter_map(file).collect()
}

/// The names that built-in scenarios go by.
pub fn names() -> impl Iterator<Item = String> {
    KINDS.iter().map(|kind| format!("{FOLDER}{}", kind.name))
}

/// The region with the largest capacity, the first by name of several: to lose it hurts most.
fn busiest(regions: &RegionMap) -> Option<RegionId> {
    let most = regions.iter().map(load::weight).max()?;
    regions.iter().find(|region| load::weight(region) == most).map(|region| region.id.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_config::{Bundle, Scenario};
    use portolan_routing::{Found, RequestHead, RouteTable};

    use super::*;

    const GATEWAY: &str = "version: 1
services:
  a: { endpoints: { east: [http://127.0.0.1:1] } }
auth:
  people: { jwt: { issuer: https://issuer.test, jwks_file: keys.json, audience: [api] } }
limits:
  total: { key: global, rate: 100/s }
  client: { key: client, rate: 10/s }
  keys: { key: [api_key, route], rate: 20/min, algorithm: sliding }
  tenants: { key: tenant, quota: 1000/month, time_zone: Europe/Berlin }
  flight: { key: user, concurrency: 5 }
  huge: { key: service, rate: 1000000/s }
routes:
  all: { match: { path: /** }, service: a }
  exact: { match: { host: \"*.b.test\", path: /b, methods: [PUT] }, service: a, limits: [total, client, keys] }
  people: { match: { host: c.test, path: /c/** }, auth: people, service: a, limits: [total, tenants, flight, huge] }
dns: { c.test: { \"@\": { regions: all } } }
";

    fn regions(names: &[&str]) -> RegionMap {
        let region = |name: &&str| SourceFile {
            path: format!("{name}.yaml"),
            text: format!(
                "version: 1\nregion: {name}\ntitle: {name}\ncoordinates: {{ latitude: 1.0, longitude: 2.0 }}\naddresses: [192.0.2.{}]\n",
                name.len() * 10 + usize::from(name.as_bytes()[0] % 10)
            ),
        };
        let mut files: Vec<SourceFile> = names.iter().map(region).collect();
        if let [a, b] = names {
            let text = format!("version: 1\nrtt:\n  - {{ between: [{a}, {b}], rtt: 50ms }}\n");
            files.push(SourceFile { path: "rtt.yaml".to_owned(), text });
        }
        RegionMap::parse(&files).unwrap_or_else(|faults| panic!("{}", faults.render()))
    }

    fn snapshot(regions: &RegionMap) -> Snapshot {
        let document = SourceFile { path: "gateway.yaml".to_owned(), text: GATEWAY.to_owned() };
        let keys = r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"a","alg":"HS256"}]}"#;
        let attachments = BTreeMap::from([("keys.json".to_owned(), keys.to_owned())]);
        Snapshot::parse(&Bundle { document, attachments }, regions)
            .unwrap_or_else(|faults| panic!("{}", faults.render()))
    }

    fn parsed(names: &[&str]) -> Vec<Scenario> {
        let regions = regions(names);
        let parse = |file: &SourceFile| {
            let scenario = Scenario::parse(file).unwrap_or_else(|faults| panic!("{}\n{}", faults.render(), file.text));
            scenario.check(&regions).unwrap_or_else(|faults| panic!("{}", faults.render()));
            scenario
        };
        scenarios(&snapshot(&regions), &regions).iter().map(parse).collect()
    }

    #[test]
    fn every_built_in_scenario_reads_as_one() {
        assert_eq!(parsed(&["east", "west"]).len(), KINDS.len());
        assert_eq!(parsed(&["east"]).len(), KINDS.len() - 2, "one region cannot be cut off from another");
    }

    #[test]
    fn every_route_is_loaded_with_requests_that_it_takes() {
        let regions = regions(&["east", "west"]);
        let snapshot = snapshot(&regions);
        let table = RouteTable::compile(&snapshot);
        let mut reached = std::collections::BTreeSet::new();
        for load in &parsed(&["east", "west"])[0].clients {
            let head = RequestHead { host: &load.host, path: &load.path, method: &load.method };
            let Found::Route(route) = table.find(&head) else { panic!("{head:?} finds no route") };
            reached.insert(route.name.to_string());
        }
        assert_eq!(reached.into_iter().collect::<Vec<_>>(), ["all", "exact", "people"]);
    }

    #[test]
    fn limits_are_asked_for_half_as_much_again_by_requests_that_carry_their_keys() {
        let steady = parsed(&["east", "west"]).remove(0);
        let of_path = |path: &str| steady.clients.iter().filter(|load| load.path == path).collect::<Vec<_>>();
        let exact = of_path("/b");
        // 1.5 × 100/s from two equal regions.
        assert!(exact.iter().any(|load| load.rate.count == 75 && load.rate.per.as_secs() == 1), "{exact:#?}");
        assert!(exact.iter().all(|load| load.headers.contains_key("x-api-key") && load.method == "PUT"));
        let people = of_path("/c/rehearsal");
        assert!(people.iter().all(|load| load.claims.contains_key("tenant") && load.user.is_some()), "{people:#?}");
        assert!(people.iter().any(|load| load.lasting.as_secs() == 1), "nothing stays in flight");
        let rate = |load: &&&portolan_config::ClientLoad| load.rate.count * 60 / load.rate.per.as_secs().max(1);
        assert!(people.iter().map(|load| rate(&load)).max() <= Some(MOST_PER_REGION), "a rehearsal has a size");
    }

    /// Half of the most that one limit is asked for, per minute.
    const MOST_PER_REGION: u64 = 5000 * 60;
}
