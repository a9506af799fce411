//! The documents a scenario refers to, gathered before it runs: a run itself opens nothing.

use std::{collections::BTreeMap, hash::Hasher, sync::Arc};

use portolan_config::{
    Action, Bundle, Faults, GatewaySource, OperatorVerb, Order, RegionMap, Scenario, Snapshot, SourceFile, attachments,
};
use siphasher::sip::SipHasher24;
use thiserror::Error;

/// Everything that a scenario runs with.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The regions of the fleet.
    pub regions: Arc<RegionMap>,
    /// The document in force from the start.
    pub gateway: Bundle,
    /// Documents that steps apply, by the name written there.
    pub documents: BTreeMap<String, Bundle>,
}

/// Why a scenario cannot run.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file that the scenario refers to cannot be read.
    #[error("`{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file, relative to the scenario.
        path: String,
        /// What the reader said.
        reason: String,
    },
    /// Neither the scenario nor the caller says what runs.
    #[error("the scenario names no gateway document; add for example `config: ../gateway.yaml`, or give one")]
    NoGateway,
    /// The scenario or its gateway document has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl Sources {
    /// Reads what `scenario` refers to through `read`, which takes paths relative to the scenario. The document in
    /// force from the start must be sound; those that steps apply may be faulty on purpose.
    pub fn gather(
        scenario: &Scenario,
        regions: Arc<RegionMap>,
        read: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, SourceError> {
        let gateway = match &scenario.config {
            Some(GatewaySource::File(path)) => bundle(read_file(path, read)?, path, read)?,
            Some(GatewaySource::Inline(document)) => bundle(document.clone(), "", read)?,
            None => return Err(SourceError::NoGateway),
        };
        Self::with_gateway(scenario, regions, gateway, read)
    }

    /// The same with a document that stands in for the scenario's own: a caller's, on trial.
    pub fn with_gateway(
        scenario: &Scenario,
        regions: Arc<RegionMap>,
        gateway: Bundle,
        read: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, SourceError> {
        scenario.check(&regions)?;
        Snapshot::parse(&gateway, &regions)?;
        let mut documents = BTreeMap::new();
        for step in &scenario.steps {
            if let Action::Order(Order { verb: OperatorVerb::Apply { file }, .. }) = &step.action
                && !documents.contains_key(file)
            {
                documents.insert(file.clone(), bundle(read_file(file, read)?, file, read)?);
            }
        }
        Ok(Self { regions, gateway, documents })
    }

    /// Keys of limits that clients of `scenario` can ask for: each of their users by every limit of a route, and as many
    /// again for what a document before the last one left.
    pub fn most_keys(&self, scenario: &Scenario) -> usize {
        let users = scenario.clients.iter().map(|client| client.users.max(1) as usize).sum::<usize>();
        let documents = std::iter::once(&self.gateway).chain(self.documents.values());
        let sound = documents.filter_map(|bundle| Snapshot::parse(bundle, &self.regions).ok());
        let limits = |snapshot: Snapshot| snapshot.routes.values().map(|route| route.limits.len()).max();
        2 * users * sound.filter_map(limits).max().unwrap_or_default()
    }

    /// Hash over `scenario` and everything it runs with, in hexadecimal.
    pub fn hash(&self, scenario: &Scenario) -> String {
        let mut hasher = SipHasher24::new();
        let mut add = |text: &str| {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        };
        add(&scenario.render());
        for bundle in std::iter::once(&self.gateway).chain(self.documents.values()) {
            add(&bundle.document.text);
            bundle.attachments.values().for_each(|text| add(text));
        }
        add(&format!("{:?}", self.regions));
        format!("{:016x}", hasher.finish())
    }
}

type Read<'a> = dyn FnMut(&str) -> Result<String, String> + 'a;

fn read_file(path: &str, read: &mut Read<'_>) -> Result<SourceFile, SourceError> {
    let text = read(path).map_err(|reason| SourceError::Unreadable { path: path.to_owned(), reason })?;
    Ok(SourceFile { path: path.to_owned(), text })
}

/// Adds the files that a document names; they lie beside it.
fn bundle(document: SourceFile, path: &str, read: &mut Read<'_>) -> Result<Bundle, SourceError> {
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let mut attached = BTreeMap::new();
    for name in attachments(&document) {
        let text = read_file(&format!("{folder}{name}"), read)?.text;
        attached.insert(name, text);
    }
    Ok(Bundle { document, attachments: attached })
}
