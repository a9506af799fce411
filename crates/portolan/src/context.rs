//! Where the fleet is and who the operator is: the file `context.json` that `up` writes into the folder of the fleet.
//!
//! Decides which files and addresses a command uses. Paths in the file are relative to the folder it lies in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use portolan_model::{NodeName, RegionId};
use serde::{Deserialize, Serialize};

use crate::dev::{self, Pair};

/// A node's admin address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminAddress {
    /// The node, as its certificate names it.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// Where its admin API listens.
    pub admin: SocketAddr,
}

/// The fleet and the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// PEM certificate of the cluster's authority.
    pub ca: PathBuf,
    /// PEM certificate of the operator.
    pub certificate: PathBuf,
    /// PEM key of the operator.
    pub key: PathBuf,
    /// The nodes; commands try them in this order.
    pub nodes: Vec<AdminAddress>,
}

/// What the command line says in place of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Only this address.
    pub admin: Option<SocketAddr>,
    /// Another authority.
    pub ca: Option<PathBuf>,
    /// Another operator.
    pub operator: Option<Pair>,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("context.json")
}

impl Context {
    /// Reads the context in `dir`, with paths made usable from here.
    pub fn load(dir: &Path, overrides: &Overrides) -> Result<Self> {
        let mut context = match (overrides, file(dir)) {
            // Everything was said on the command line: no fleet of `up` is needed.
            (Overrides { admin: Some(_), ca: Some(ca), operator: Some(operator) }, file) if !file.exists() => Self {
                ca: ca.clone(),
                certificate: operator.certificate.clone(),
                key: operator.key.clone(),
                nodes: Vec::new(),
            },
            (_, file) => Self::read(&file, dir)?,
        };
        if let Some(ca) = &overrides.ca {
            context.ca.clone_from(ca);
        }
        if let Some(operator) = &overrides.operator {
            context.certificate.clone_from(&operator.certificate);
            context.key.clone_from(&operator.key);
        }
        if let Some(admin) = overrides.admin {
            context.nodes.retain(|node| node.admin == admin);
            if context.nodes.is_empty() {
                let unnamed = AdminAddress { node: name("node")?, region: region("unknown")?, admin };
                context.nodes.push(unnamed);
            }
        }
        Ok(context)
    }

    /// Writes the context into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("a context is JSON")?;
        dev::write(&file(dir), &format!("{text}\n"))
    }

    fn read(file: &Path, dir: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!(
                "cannot read {}; start a fleet with `portolan up`, name its folder with --dir, \
                 or give --admin, --ca, --certificate and --key",
                file.display()
            )
        })?;
        let mut context: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is not a context", file.display()))?;
        for path in [&mut context.ca, &mut context.certificate, &mut context.key] {
            *path = dir.join(&*path);
        }
        Ok(context)
    }
}

fn name(text: &str) -> Result<NodeName> {
    NodeName::new(text).context("a node name")
}

fn region(text: &str) -> Result<RegionId> {
    RegionId::new(text).context("a region name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_paths_start_at_its_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let address: SocketAddr = "127.10.1.1:8900".parse().expect("an address");
        let nodes = vec![AdminAddress {
            node: name("eu-west-1").expect("a name"),
            region: region("eu-west").expect("a name"),
            admin: address,
        }];
        let saved = Context { ca: "ca.pem".into(), certificate: "op.pem".into(), key: "op.key".into(), nodes };
        saved.save(dir.path()).expect("written");
        let plain = Context::load(dir.path(), &Overrides::default()).expect("a context");
        assert_eq!((plain.ca, &plain.nodes), (dir.path().join("ca.pem"), &saved.nodes));
        let other: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let overrides = Overrides { admin: Some(other), ca: Some("x.pem".into()), operator: None };
        let changed = Context::load(dir.path(), &overrides).expect("a context");
        assert_eq!((changed.ca, changed.nodes[0].admin), (PathBuf::from("x.pem"), other));
        assert!(Context::load(Path::new("/nonexistent"), &Overrides::default()).is_err());
    }
}
