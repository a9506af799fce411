//! `plan`: the worst case of every limit of a document, before it is applied. Decides which figures an operator is told
//! and in which words; what they are, `portolan_limits::Bounds` does.

mod advice;
mod forecast;
mod text;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Result, bail};
use portolan_config::{RegionMap, Snapshot};
use portolan_limits::Fleet;
use serde_json::json;

pub use self::forecast::Forecast;
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
    let fleet = Fleet::of(&regions, arguments.nodes_per_region.into());
    let mut limits = forecast::of(&snapshot, &regions, &fleet);
    if !arguments.limit.is_empty() {
        if let Some(unknown) = arguments.limit.iter().find(|name| !snapshot.limits.contains_key(*name)) {
            let known: Vec<&str> = snapshot.limits.keys().map(portolan_model::Name::as_str).collect();
            bail!("{} has no limit `{unknown}`; it has {}", arguments.file.display(), known.join(", "));
        }
        limits.retain(|limit| arguments.limit.contains(&limit.name));
    }
    let answer = json!({
        "version": 1,
        "file": arguments.file,
        "notes": notes,
        "fleet": forecast::fleet_answer(&regions, &fleet),
        "limits": limits,
    });
    global.output.print(&answer, || text::plan(&regions, &fleet, &limits, &notes));
    Ok(())
}

/// The worst case of each limit of a good document, for `check`.
pub fn forecasts(snapshot: &Snapshot, regions: &RegionMap) -> Vec<Forecast> {
    forecast::of(snapshot, regions, &Fleet::of(regions, 1))
}

/// One line per limit, for `check`.
pub fn summary(forecasts: &[Forecast]) -> String {
    text::summary(forecasts)
}

fn read(path: &Path, regions: &Arc<RegionMap>, notes: &mut BTreeSet<String>) -> Result<Snapshot> {
    let bundle = local::bundle(path, notes)?;
    Snapshot::parse(&bundle, regions).map_err(files::shown)
}
