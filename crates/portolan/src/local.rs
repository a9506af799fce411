//! Commands that need no fleet: `check` and `schema`. Decides what kind of file it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Result, bail};
use portolan_config::{Bundle, Faults, NodeFile, RegionMap, Scenario, Snapshot, SourceFile, attachments, region_names};
use portolan_model::RegionId;
use serde_json::json;

use crate::{cli, files, issuer, plan, up};

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
    let regions = find_regions(global, arguments.regions.as_deref())?;
    let mut checker = Checker { regions, notes: BTreeSet::new(), limits: Vec::new() };
    let (mut faults, mut good) = (Faults::default(), Vec::new());
    for path in &arguments.files {
        match checker.check(path)? {
            Ok(kind) => good.push((path, kind, std::mem::take(&mut checker.limits))),
            Err(found) => faults.0.extend(found.0),
        }
    }
    let notes = checker.notes;
    let limits: BTreeMap<_, _> = good.iter().map(|(path, _, limits)| (path.display().to_string(), limits)).collect();
    let answer = json!({ "faults": faults.0, "files": arguments.files, "notes": notes, "limits": limits });
    global.output.print(&answer, || {
        let lines = good.iter().map(|(path, kind, limits)| {
            let limits = plan::summary(limits);
            format!("{}: good {kind}\n{limits}", path.display())
        });
        let notes = notes.iter().map(|note| format!("note: {note}\n"));
        let rendered = if faults.0.is_empty() { String::new() } else { faults.render().trim_end().to_owned() + "\n" };
        lines.chain(notes).collect::<String>() + &rendered
    });
    Ok(ExitCode::from(u8::from(!faults.0.is_empty())))
}

/// The regions to check against: those asked for, else those of the folder one stands in, else those of the fleet.
pub fn find_regions(global: &cli::Global, asked: Option<&Path>) -> Result<Option<Arc<RegionMap>>> {
    if let Some(asked) = asked {
        return files::regions(asked).map(Some);
    }
    let usual = [PathBuf::from("regions"), global.dir.join("regions")];
    usual.iter().find(|folder| folder.is_dir()).map(|folder| files::regions(folder)).transpose()
}

/// Checks files one by one and collects what a reader should know of how.
struct Checker {
    regions: Option<Arc<RegionMap>>,
    notes: BTreeSet<String>,
    /// The worst case of each limit of the document that was checked last.
    limits: Vec<plan::Forecast>,
}

impl Checker {
    /// The outer error is a file that cannot be read.
    fn check(&mut self, path: &Path) -> Result<Result<&'static str, Faults>> {
        if path.is_dir() {
            let sources = files::region_sources(path)?;
            if sources.is_empty() {
                bail!("{} holds no file of the form NAME.yaml", path.display());
            }
            return Ok(RegionMap::parse(&sources).map(|_| "region files"));
        }
        let file = files::source(path)?;
        let kind = Kind::of(&file);
        let checked = match kind {
            Kind::Gateway => self.check_gateway(path)?,
            Kind::Scenario => Scenario::parse(&file).and_then(|scenario| match &self.regions {
                Some(regions) => scenario.check(regions),
                None => {
                    self.note_unknown_regions(path);
                    Ok(())
                }
            }),
            Kind::Node => NodeFile::parse(&file).map(drop),
        };
        Ok(checked.map(|()| kind.name()))
    }

    fn check_gateway(&mut self, path: &Path) -> Result<Result<(), Faults>> {
        let bundle = bundle(path, &mut self.notes)?;
        let regions = match &self.regions {
            Some(regions) => regions.clone(),
            None => {
                self.note_unknown_regions(path);
                assumed_regions(&bundle.document)?
            }
        };
        Ok(Snapshot::parse(&bundle, &regions).map(|snapshot| self.limits = plan::forecasts(&snapshot, &regions)))
    }

    fn note_unknown_regions(&mut self, path: &Path) {
        let path = path.display();
        self.notes.insert(format!(
            "no region files found, so the regions that {path} names were taken as given; name their folder with --regions"
        ));
    }
}

/// A document and the files that it names. What cannot be read is a fault of the parser's; only what `up` will write is
/// stood in for.
pub fn bundle(path: &Path, notes: &mut BTreeSet<String>) -> Result<Bundle> {
    let mut bundle = files::bundle(path)?;
    let later = up::shipped_jwks();
    if attachments(&bundle.document).contains(&later) && !bundle.attachments.contains_key(&later) {
        bundle.attachments.insert(later.clone(), issuer::stand_in()?);
        notes.insert(format!("{later} is not there yet and was not checked; `portolan up` writes it"));
    }
    Ok(bundle)
}

/// Stand-ins for the regions that `document` names, so that all else in it can be checked.
pub fn assumed_regions(document: &SourceFile) -> Result<Arc<RegionMap>> {
    let mut names = region_names(document);
    names.retain(|name| RegionId::new(name).is_ok());
    if names.is_empty() {
        names.insert("anywhere".to_owned());
    }
    let names: Vec<String> = names.into_iter().collect();
    let (mut sources, mut trips) = (Vec::new(), String::new());
    for (index, name) in names.iter().enumerate() {
        let text = format!(
            "{{ version: 1, region: \"{name}\", title: assumed, coordinates: {{ latitude: 0, longitude: 0 }}, \
             addresses: [\"2001:db8::{index:x}\"] }}"
        );
        sources.push(SourceFile { path: format!("{name}.yaml"), text });
        for other in &names[index + 1..] {
            let _ = writeln!(trips, "  - {{ between: [\"{name}\", \"{other}\"], rtt: 100ms }}");
        }
    }
    if !trips.is_empty() {
        sources.push(SourceFile { path: "rtt.yaml".to_owned(), text: format!("version: 1\nrtt:\n{trips}") });
    }
    RegionMap::parse(&sources).map(Arc::new).map_err(files::shown)
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

    #[test]
    fn a_document_can_be_checked_where_no_regions_are_known() {
        let check = |text: &str, good: bool| {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("gateway.yaml");
            std::fs::write(&path, text).expect("written");
            let mut checker = Checker { regions: None, notes: BTreeSet::new(), limits: Vec::new() };
            let found = checker.check(&path).unwrap_or_else(|error| panic!("{error:#}"));
            assert_eq!(found.is_ok(), good, "{text}: {found:?}");
            checker.notes.len()
        };
        // The shipped document names a key set that only `up` writes, and regions of which nothing is known here.
        assert_eq!(check(include_str!("../../../gateway.yaml"), true), 2);
        assert_eq!(check("version: 1\nservices: { a: { endpoints: { north: [http://127.0.0.1:1] } } }\n", true), 1);
        assert_eq!(check("version: 1\nservices: { a: { endpoints: { north: [nowhere] } } }\n", false), 1);
        assert_eq!(check("version: 1\n", true), 1);
    }
}
