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
