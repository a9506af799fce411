//! `plan`: the worst case of every limit of a document, before it is applied. Decides which figures an operator is told
//! and in which words; what they are, `portolan_limits::Bounds` does.

mod advice;
mod forecast;
mod nodes;
mod text;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Result, bail};
use portolan_config::{Algorithm, Limit, RegionMap, Snapshot};
use portolan_limits::Fleet;
use serde_json::json;

pub use self::forecast::Forecast;
use self::nodes::{Nodes, ToldBy};
use crate::{cli, files, local};

/// `plan FILE`
pub fn run(global: &cli::Global, arguments: &cli::Plan) -> Result<()> {
    let mut notes = BTreeSet::new();
    let regions = match local::find_regions(global, arguments.regions.as_deref())? {
        Some(regions) => regions,
        None => {
            let assumed = local::assumed_regions(&files::source(&arguments.file)?)?;
            notes.insert(format!(
                "no region files found: {} regions 100ms apart were assumed; name the folder of yours with --regions",
                assumed.ids().len()
            ));
            assumed
        }
    };
    let snapshot = read(&arguments.file, &regions, &mut notes)?;
    let nodes = Nodes::of(&regions, arguments.nodes_per_region);
    let counts = |limit: &Arc<Limit>| matches!(limit.algorithm, Algorithm::Concurrency { .. });
    if nodes.told_by == ToldBy::Nobody && snapshot.limits.values().any(counts) {
        notes.insert(
            "one node in each region was assumed, since each has one address; say how many the largest has with \
             --nodes-per-region"
                .to_owned(),
        );
    }
    let fleet = Fleet::of(&regions, nodes.most);
    let mut limits = forecast::of(&snapshot, &regions, nodes);
    if !arguments.limit.is_empty() {
        if let Some(unknown) = arguments.limit.iter().find(|name| !snapshot.limits.contains_key(*name)) {
            let known: Vec<&str> = snapshot.limits.keys().map(portolan_model::Name::as_str).collect();
            bail!("{} has no limit `{unknown}`; it has {}", arguments.file.display(), known.join(", "));
        }
        limits.retain(|limit| arguments.limit.contains(&limit.name));
    }
    let answer = json!({
        "schema": "portolan-plan",
        "version": 1,
        "file": arguments.file,
        "notes": notes,
        "fleet": forecast::fleet_answer(&regions, &fleet, nodes),
        "limits": limits,
    });
    global.output.print(&answer, || text::plan(&regions, &fleet, &limits, &notes));
    Ok(())
}

/// The worst case of each limit of a good document, for `check`.
pub fn forecasts(snapshot: &Snapshot, regions: &RegionMap) -> Vec<Forecast> {
    forecast::of(snapshot, regions, Nodes::of(regions, None))
}

/// One line per limit, for `check`.
pub fn summary(forecasts: &[Forecast]) -> String {
    text::summary(forecasts)
}

fn read(path: &Path, regions: &Arc<RegionMap>, notes: &mut BTreeSet<String>) -> Result<Snapshot> {
    let bundle = local::bundle(path, notes)?;
    Snapshot::parse(&bundle, regions).map_err(files::shown)
}

#[cfg(test)]
mod tests {
    use portolan_config::{Bundle, SourceFile};

    use super::*;

    const LIMITS: &str = "
version: 1
limits:
  audit: { key: global, rate: 90/s, on_partition: closed }
  burst: { key: api_key, rate: 600/min, algorithm: token_bucket, burst: 50 }
  exports: { key: user, concurrency: 30, borrow_wait: 1s }
  flood: { key: client, rate: 100/10s, on_partition: open(1.5), overdraft: 10% }
  plans: { key: tenant, quota: 900/day, plans: { claim: plan, quotas: { pro: 9000 } } }
  tokens:
    key: tenant
    quota: 900/day
    cost: { header: x-tokens, most: 400 }
    plans: { claim: plan, quotas: { free: 600, pro: 9000 } }
  total: { key: global, rate: 1000/s, algorithm: sliding, shares: { ap-southeast: 1, eu-west: 3, us-east: 6 } }
  trial: { key: global, rate: 9/s, shadow: true }
";

    fn regions() -> Arc<RegionMap> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../regions");
        files::regions(&folder).expect("the shipped regions are good")
    }

    fn limits(regions: &RegionMap) -> Vec<Forecast> {
        let document = SourceFile { path: "gateway.yaml".to_owned(), text: LIMITS.to_owned() };
        let bundle = Bundle { document, attachments: Default::default() };
        forecasts(&Snapshot::parse(&bundle, regions).expect("a good document"), regions)
    }

    #[test]
    fn check_says_the_worst_case_of_every_limit_in_a_line() {
        let shown = summary(&limits(&regions()));
        let line = |name: &str| -> Vec<String> {
            let line = shown.lines().find(|line| line.trim_start().starts_with(name)).expect("a line per limit");
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(line("audit"), ["audit", "90/s", "90", "180", "90", "90"]);
        assert_eq!(line("burst"), ["burst", "600/min, token bucket of 50", "650", "650", "650", "434"]);
        assert_eq!(line("exports"), ["exports", "30 at one time", "30, node cut off 60", "-", "20", "20"]);
        assert_eq!(line("flood"), ["flood", "100/10s", "109, cut off 300", "218, cut off 600", "100", "51"]);
        assert_eq!(line("plans"), ["plans", "900/day in UTC", "900", "1800", "900", "600"]);
        assert_eq!(line("total"), ["total", "1000/s, sliding", "1000", "2000", "1000", "900"]);
        assert_eq!(line("trial"), ["trial", "9/s", "all", "all", "only counted"]);
    }

    #[test]
    fn plan_gives_a_verdict_the_figures_the_reasons_and_what_to_change() {
        let regions = regions();
        let fleet = Fleet::of(&regions, 1);
        let limits: Vec<Forecast> = limits(&regions).into_iter().filter(|it| it.name.as_str() == "flood").collect();
        let shown = text::plan(&regions, &fleet, &limits, &BTreeSet::new());
        let expected = include_str!("expected.txt");
        if std::env::var_os("PORTOLAN_BLESS").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/expected.txt");
            std::fs::write(path, &shown).expect("written");
        }
        assert!(shown == expected, "{shown}");
    }

    #[test]
    fn a_concurrency_limit_is_told_of_nodes_that_are_cut_off_and_of_no_loans() {
        let regions = regions();
        let document = SourceFile { path: "gateway.yaml".to_owned(), text: LIMITS.to_owned() };
        let bundle = Bundle { document, attachments: Default::default() };
        let snapshot = Snapshot::parse(&bundle, &regions).expect("a good document");
        let [unknown, one, three] = [None, Some(1), Some(3)].map(|nodes| {
            let all = forecast::of(&snapshot, &regions, Nodes::of(&regions, nodes));
            all.into_iter().find(|it| it.name.as_str() == "exports").expect("the limit")
        });
        assert_eq!(
            unknown.verdict,
            "Never more than 30 at one time, whatever is cut off. That is with one node in each region: where one has \
             several, each that is cut from it may add up to 30 until its work is done."
        );
        assert_eq!(unknown.also["node_cut_off"].units, Some(60));
        assert_eq!(one.verdict, "Never more than 30 at one time, whatever is cut off.");
        assert!(!one.also.contains_key("node_cut_off"));
        assert_eq!(
            three.verdict,
            "At most 30 at one time while all is well; up to 60 while a node is cut from its region."
        );
        let advice = unknown.advice.join(" ");
        assert!(!advice.is_empty() && !advice.contains("for a loan"), "{advice}");
    }

    #[test]
    fn plans_and_overrides_are_budgets_with_figures_of_their_own() {
        let limits = limits(&regions());
        let plans = limits.iter().find(|it| it.name.as_str() == "plans").expect("the limit");
        let answer = serde_json::to_value(plans).expect("serializes");
        assert_eq!(answer["plans"]["pro"]["admitted"], 9000);
        assert_eq!(answer["plans"]["pro"]["refused_wrongly_in_a_partition"], 9000);
        assert_eq!(answer["plans"]["pro"]["refused_wrongly_alone"], 6000);
        assert_eq!(answer["healthy"]["admitted"]["units"], 900);
        assert_eq!(answer["window"], "civil day (UTC)");
    }

    #[test]
    fn a_limit_in_shadow_states_no_bound() {
        let limits = limits(&regions());
        let trial = limits.iter().find(|it| it.name.as_str() == "trial").expect("the limit");
        let answer = serde_json::to_value(trial).expect("serializes");
        assert_eq!(answer["healthy"]["admitted"]["units"], serde_json::Value::Null);
        assert_eq!(answer["partition"]["admitted_in_any_span"]["units"], serde_json::Value::Null);
        assert_eq!(answer["healthy"]["refused_wrongly"]["units"], 0);
        assert_eq!(answer["also"], json!({}));
    }

    #[test]
    fn a_request_that_costs_more_than_a_region_owns_is_told_of_by_check_and_plan() {
        let (regions, dear) = (regions(), "  of free a request may cost more than the smallest region owns\n");
        let limits = limits(&regions);
        assert_eq!(
            summary(&limits).matches("tokens: what costs more than a region owns, 300 in the smallest").count(),
            1
        );
        let shown = text::plan(&regions, &Fleet::of(&regions, 1), &limits, &BTreeSet::new());
        assert_eq!(shown.matches("  dear requests   what costs more than a region owns, 300 in").count(), 1, "{shown}");
        assert_eq!(shown.matches(dear).count(), 1);
    }

    #[test]
    fn advice_is_given_where_the_worst_case_surprises() {
        let limits = limits(&regions());
        let advice = |name: &str| {
            let limit = limits.iter().find(|it| it.name.as_str() == name).expect("the limit");
            limit.advice.iter().map(|advice| advice.split(' ').next().unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(advice("audit"), ["`closed`", "If"]);
        assert_eq!(advice("exports"), ["The"]);
        assert_eq!(advice("trial"), [""; 0]);
        assert_eq!(advice("total"), [""; 0]);
    }
}
