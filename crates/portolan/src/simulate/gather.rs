//! Reads what a rehearsal runs with: scenarios, the gateway document, regions. Decides which document and which regions a
//! scenario gets; what they mean is `portolan-config`'s.

use std::{
    collections::btree_map::Entry,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use portolan_config::{Bundle, RegionMap, RegionSource, Scenario, Snapshot, SourceFile, attachments};
use portolan_sim::{BUILT_IN, SourceError, Sources};

use super::arguments::Setting;
use crate::{files, issuer};

/// A scenario with all it runs with.
pub struct Prepared {
    /// As it was named.
    pub file: String,
    /// What happens.
    pub scenario: Scenario,
    /// What it happens to.
    pub sources: Sources,
}

/// Reads every scenario named, or draws up the built-in ones. All that are bad are named, not the first alone.
pub fn scenarios(named: &[PathBuf], setting: &Setting) -> (Vec<Prepared>, Vec<anyhow::Error>) {
    let stage = match Stage::of(setting) {
        Ok(stage) => stage,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let (mut prepared, mut errors) = (Vec::new(), Vec::new());
    let mut take = |one: Result<Prepared>| match one {
        Ok(one) => prepared.push(one),
        Err(error) => errors.push(error),
    };
    if named.is_empty() {
        match stage.built_in() {
            Ok(files) => files.into_iter().for_each(|file| take(stage.prepare(&file, Path::new("")))),
            Err(error) => take(Err(error)),
        }
    }
    named.iter().for_each(|path| take(stage.read(path)));
    (prepared, errors)
}

/// Reads one scenario.
pub fn scenario(named: &Path, setting: &Setting) -> Result<Prepared> {
    Stage::of(setting)?.read(named)
}

/// The same scenario under another document.
pub fn again(one: &Prepared, setting: &Setting) -> Result<Prepared> {
    let folder = Path::new(&one.file).parent().filter(|_| !one.file.starts_with(BUILT_IN)).unwrap_or(Path::new(""));
    Stage::of(setting)?.prepare(one.scenario.file(), folder)
}

/// The built-in scenarios for what the caller named.
pub fn built_in(setting: &Setting) -> Result<Vec<SourceFile>> {
    Stage::of(setting)?.built_in()
}

/// What all scenarios of a call share.
struct Stage<'a> {
    setting: &'a Setting,
    gateway: Option<Bundle>,
}

impl<'a> Stage<'a> {
    fn of(setting: &'a Setting) -> Result<Self> {
        let gateway = setting.config.as_deref().map(gateway).transpose()?;
        Ok(Self { setting, gateway })
    }

    fn regions(&self) -> Result<Arc<RegionMap>> {
        let map = files::regions(&self.setting.regions)?;
        if map.ids().is_empty() {
            bail!(
                "{} holds no region; add a file for each, or name another folder with --regions",
                self.setting.regions.display()
            );
        }
        Ok(map)
    }

    fn built_in(&self) -> Result<Vec<SourceFile>> {
        let Some(gateway) = &self.gateway else {
            bail!(
                "nothing to rehearse: name scenario files, or a gateway document with --config to run the built-in ones"
            );
        };
        let regions = self.regions()?;
        let snapshot = Snapshot::parse(gateway, &regions).map_err(files::shown)?;
        Ok(portolan_sim::built_in(&snapshot, &regions))
    }

    fn read(&self, path: &Path) -> Result<Prepared> {
        let name = path.display().to_string();
        if name.starts_with(BUILT_IN) && !path.exists() {
            let files = self.built_in()?;
            let known: Vec<String> = portolan_sim::built_in_names().collect();
            let file = files.iter().find(|file| file.path == name);
            let file =
                file.with_context(|| format!("`{name}` is no built-in scenario here; there are {}", known.join(", ")))?;
            return self.prepare(file, Path::new(""));
        }
        self.prepare(&files::source(path)?, path.parent().unwrap_or(Path::new("")))
    }

    /// Files that the scenario names are relative to `folder`.
    fn prepare(&self, file: &SourceFile, folder: &Path) -> Result<Prepared> {
        let scenario = Scenario::parse(file).map_err(files::shown)?;
        let regions = match &scenario.regions {
            RegionSource::Inline(map) => Arc::clone(map),
            RegionSource::Directory(own) => files::regions(&folder.join(own))?,
            RegionSource::Unstated => self.regions()?,
        };
        let mut read = |name: &str| {
            let file = files::source(&folder.join(name)).map_err(|error| format!("{:#}", error.root_cause()))?;
            Ok(file.text)
        };
        let sources = match &self.gateway {
            Some(gateway) => Sources::with_gateway(&scenario, regions, gateway.clone(), &mut read),
            None => Sources::gather(&scenario, regions, &mut read),
        };
        let sources = sources.map_err(|error| match error {
            SourceError::Faults(faults) => files::shown(faults),
            other => anyhow::Error::new(other),
        });
        let sources = sources.with_context(|| format!("{} cannot be run", file.path))?;
        Ok(Prepared { file: file.path.clone(), scenario, sources })
    }
}

/// Reads a gateway document. No token is checked in a rehearsal, so a key set that is not there is stood in for: it is
/// often on the servers alone.
fn gateway(path: &Path) -> Result<Bundle> {
    let mut bundle = files::bundle(path)?;
    for name in attachments(&bundle.document) {
        if let Entry::Vacant(missing) = bundle.attachments.entry(name) {
            eprintln!("note: {} is not there; no token is checked in a rehearsal, so it runs without", missing.key());
            missing.insert(issuer::stand_in()?);
        }
    }
    Ok(bundle)
}
