//! Loads the shipped scenarios.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use portolan_config::{RegionMap, RegionSource, Scenario, SourceFile};
use portolan_sim::{Options, Outcome, Report, Runs, Sources, Swarm, Verdict, replay, run, run_with};

/// A scenario with everything it needs.
pub struct Loaded {
    file: String,
    scenario: Scenario,
    sources: Sources,
}

impl Loaded {
    /// Reads `simulations/NAME.yaml` with the shipped regions.
    pub fn shipped(name: &str) -> Self {
        let file = format!("simulations/{name}.yaml");
        Self::of(SourceFile { text: read(&file), path: file })
    }

    /// Reads a scenario from a text; files that it names are relative to its path.
    pub fn of(file: SourceFile) -> Self {
        let folder = root().join(&file.path).parent().map_or_else(root, Path::to_owned);
        let scenario = Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()));
        let mut read = |path: &str| fs::read_to_string(folder.join(path)).map_err(|error| error.to_string());
        let map = match &scenario.regions {
            RegionSource::Inline(map) => Arc::clone(map),
            RegionSource::Directory(_) | RegionSource::Unstated => Arc::new(regions()),
        };
        let sources = Sources::gather(&scenario, map, &mut read);
        let sources = sources.unwrap_or_else(|error| panic!("{error}"));
        Self { file: file.path, scenario, sources }
    }

    /// Runs it once.
    pub fn run(&self, seed: u64) -> Outcome {
        run(&self.scenario, &self.sources, seed)
    }

    /// Runs it once through the encoding of real nodes.
    pub fn run_encoded(&self, seed: u64) -> Outcome {
        run_with(&self.scenario, &self.sources, seed, Options { check_codec: true, ..Options::default() })
    }

    /// Runs it once and collects the lines of its trace.
    pub fn replay(&self, seed: u64) -> Vec<String> {
        let mut lines = Vec::new();
        replay(&self.scenario, &self.sources, seed, &mut |line| lines.push(line.to_owned()));
        lines
    }

    /// The scenario that a seed draws around this one.
    pub fn drawn(&self, seed: u64) -> Self {
        let scenario = Swarm::draw(seed, &self.scenario, &self.sources);
        Self { file: self.file.clone(), scenario, sources: self.sources.clone() }
    }

    /// The scenario as a file.
    pub fn rendered(&self) -> String {
        self.scenario.render()
    }

    /// Runs it with these seeds and demands that everything holds.
    pub fn check(&self, seeds: impl IntoIterator<Item = u64>) -> Report {
        let mut runs = Runs::default();
        seeds.into_iter().for_each(|seed| runs.add(self.run(seed)));
        let report = Report::new(&self.file, &self.scenario.title, "", runs);
        assert_eq!(report.verdict, Verdict::Pass, "{}", report.to_text());
        report
    }
}

/// The rows of `simulations/limits/`.
pub fn rows() -> Vec<SourceFile> {
    yaml_files("simulations/limits")
}

/// The scenarios of `simulations/regressions/`, each with the seed that its first line names: `# seed 7: …`.
pub fn regressions() -> Vec<(SourceFile, u64)> {
    let seed = |file: SourceFile| {
        let first = file.text.lines().next().and_then(|line| line.strip_prefix("# seed "));
        let number = first.and_then(|line| line.split(':').next()).and_then(|number| number.parse().ok());
        let number = number.unwrap_or_else(|| panic!("{}: the first line names no seed", file.path));
        (file, number)
    };
    yaml_files("simulations/regressions").into_iter().map(seed).collect()
}

fn yaml_files(folder: &str) -> Vec<SourceFile> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.flatten().map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy()));
    let mut paths: Vec<String> = names.filter(|name| name.ends_with(".yaml")).collect();
    paths.sort();
    paths.into_iter().map(|path| SourceFile { text: read(&path), path }).collect()
}

fn regions() -> RegionMap {
    let files = yaml_files("regions");
    RegionMap::parse(&files).unwrap_or_else(|faults| panic!("{}", faults.render()))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
