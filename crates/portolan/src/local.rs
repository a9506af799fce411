//! Commands that need no fleet: `check` and `schema`. Decides what kind of file it is given.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Result;
use portolan_config::{Faults, NodeFile, RegionMap, Scenario, Snapshot, SourceFile};
use serde_json::json;

use crate::{cli, files};

/// What a file is for, told by its top-level keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gateway,
    Node,
    Scenario,
}

impl Kind {
    /// Reads no more than the first column: a file too broken to be parsed still gets the right parser's faults.
    fn of(file: &SourceFile) -> Self {
        let has_key = |key: &str| {
            file.text.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')))
        };
        if has_key("node") && has_key("listen") {
            Self::Node
        } else if has_key("steps") || has_key("clients") || has_key("expect") {
            Self::Scenario
        } else {
            Self::Gateway
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway document",
            Self::Node => "node file",
            Self::Scenario => "scenario",
        }
    }
}

/// `check FILE…`; faults make the exit code 1.
pub fn run_check(global: &cli::Global, arguments: &cli::Check) -> Result<ExitCode> {
    let (mut faults, mut good) = (Faults::default(), Vec::new());
    let mut regions = None;
    for path in &arguments.files {
        let checked = if path.is_dir() {
            RegionMap::parse(&files::region_sources(path)?).map(|_| "region files")
        } else {
            let file = files::source(path)?;
            let kind = Kind::of(&file);
            if kind != Kind::Node && regions.is_none() {
                regions = Some(files::regions(&arguments.regions)?);
            }
            check_one(path, &file, kind, regions.as_ref()).map(|()| kind.name())
        };
        match checked {
            Ok(kind) => good.push((path, kind)),
            Err(found) => faults.0.extend(found.0),
        }
    }
    let answer = json!({ "faults": faults.0, "files": arguments.files });
    global.output.print(&answer, || {
        let lines = good.iter().map(|(path, kind)| format!("{}: good {kind}\n", path.display()));
        let rendered = if faults.0.is_empty() { String::new() } else { faults.render().trim_end().to_owned() + "\n" };
        lines.collect::<String>() + &rendered
    });
    Ok(ExitCode::from(u8::from(!faults.0.is_empty())))
}

fn check_one(path: &Path, file: &SourceFile, kind: Kind, regions: Option<&Arc<RegionMap>>) -> Result<(), Faults> {
    match (kind, regions) {
        (Kind::Gateway, Some(regions)) => {
            // Read once more with its attachments; what cannot be read is named by the parser.
            let bundle = files::bundle(path).unwrap_or(portolan_config::Bundle {
                document: file.clone(),
                attachments: std::collections::BTreeMap::new(),
            });
            Snapshot::parse(&bundle, regions).map(drop)
        }
        (Kind::Scenario, Some(regions)) => Scenario::parse(file)?.check(regions),
        (Kind::Node, _) => NodeFile::parse(file).map(drop),
        (_, None) => Ok(()),
    }
}

/// `schema`
pub fn run_schema() {
    println!("{:#}", portolan_config::json_schema());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_kind_by_its_keys() {
        let check = |text: &str, expected| {
            assert_eq!(Kind::of(&SourceFile { path: "x.yaml".into(), text: text.into() }), expected, "{text}");
        };
        check("version: 1\nroutes: {}\n", Kind::Gateway);
        check("node: a\nlisten: {}\n", Kind::Node);
        check("title: x\nsteps: []\n", Kind::Scenario);
        check("services:\n  node: {}\n", Kind::Gateway);
    }
}
