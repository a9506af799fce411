//! Lays down what a local fleet needs before any process starts: files, certificates, free ports.
//!
//! Decides what is kept from an earlier start: data, the authority, the issuer's key, the secret of the limits and the
//! gateway document. Certificates are issued anew, region and node files rewritten. Nothing is changed before regions,
//! document and ports were checked.

use std::{fs, io, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use portolan_config::{Bundle, RegionMap, Snapshot, SourceFile};

use super::{
    lock::{LOCK, Lock},
    operator,
    plan::{Network, Plan, SHIPPED_DIR, SHIPPED_NETWORK},
};
use crate::{cli, dev, files, issuer};

/// The key set of the demo issuer, in the folder of a fleet.
const JWKS: &str = "jwks.json";

/// The key set of the demo issuer, as the shipped gateway document names it.
pub fn shipped_jwks() -> String {
    format!("{SHIPPED_DIR}/{JWKS}")
}

/// A fleet whose files are in place.
pub struct Prepared {
    /// Where everything is.
    pub plan: Plan,
    /// The regions, at their addresses in the fleet's network.
    pub regions: Arc<RegionMap>,
    /// Keeps others from the folder while the fleet lives.
    _lock: Lock,
}

/// Checks, then writes.
pub fn prepare(arguments: &cli::Up, global: &cli::Global) -> Result<Prepared> {
    // First of all, so that whoever starts a fleet twice reads that and not of a port. A new folder is made last.
    let lock = if is_fleet(&global.dir) { Some(Lock::take(&global.dir)?) } else { None };
    let mut sources = moved_regions(&arguments.regions, arguments.network)?;
    let ids = RegionMap::parse(&sources).map_err(files::shown)?.ids().to_vec();
    let mut plan = Plan::new(&global.dir, &ids, arguments.nodes_per_region, arguments.network, arguments.wan)?;
    sources.iter_mut().for_each(|source| source.text = plan.with_all_addresses(&source.text));
    let regions = RegionMap::parse(&sources).map(Arc::new).map_err(files::shown)?;
    for listener in plan.listeners() {
        listener.check_free()?;
    }
    let is_first = arguments.clean || !is_fleet(&global.dir);
    let in_place = arguments.network == SHIPPED_NETWORK && global.dir == Path::new(SHIPPED_DIR);
    let document = if is_first { Some(checked_document(arguments, &regions, in_place)?) } else { None };
    if arguments.clean {
        check_cleanable(&global.dir)?;
    }
    let lock = lock.map_or_else(|| Lock::take(&global.dir), Ok)?;
    if arguments.clean {
        clean(&global.dir)?;
    }
    forget_processes(&plan)?;
    write_regions(&plan, &sources)?;
    if in_place {
        plan.document.clone_from(&arguments.config);
    } else if let Some(bundle) = document {
        write_document(&plan, &bundle)?;
    }
    issuer::prepare(&plan.dir, &plan.jwks())?;
    issue_certificates(&plan)?;
    write_limits_key(&plan)?;
    for (index, node) in plan.nodes.iter().enumerate() {
        dev::write(&node.file(), &plan.node_file(index))?;
    }
    Ok(Prepared { plan, regions, _lock: lock })
}

fn moved_regions(folder: &Path, network: Network) -> Result<Vec<SourceFile>> {
    let sources = files::region_sources(folder);
    let mut sources = sources.context("a fleet needs region files (--regions) and a gateway document (--config)")?;
    for source in &mut sources {
        source.text = network.moved(&source.text);
    }
    Ok(sources)
}

/// Reads the gateway document and refuses one with faults before anything is written.
///
/// A fleet at the usual place runs the document as it is. Any other gets a copy, moved to its network and its folder.
fn checked_document(arguments: &cli::Up, regions: &RegionMap, in_place: bool) -> Result<Bundle> {
    let mut bundle = files::bundle(&arguments.config)
        .context("no gateway document; run this from the root of the repository, or name one with --config")?;
    let shipped = shipped_jwks();
    let (name, text) = if in_place { (shipped.as_str(), None) } else { (JWKS, Some(&mut bundle.document.text)) };
    if let Some(text) = text {
        *text = arguments.network.moved(text).replace(&shipped, JWKS);
        bundle.attachments.remove(&shipped);
    }
    // The issuer's own key set is written later: nothing is touched while the document may have faults.
    bundle.attachments.insert(name.to_owned(), issuer::stand_in()?);
    Snapshot::parse(&bundle, regions).map_err(files::shown)?;
    Ok(bundle)
}

/// Whether `dir` is the folder of a fleet.
fn is_fleet(dir: &Path) -> bool {
    dir.join("context.json").exists()
}

/// Refuses to clean a folder that holds something other than a fleet.
fn check_cleanable(dir: &Path) -> Result<()> {
    let is_empty = || fs::read_dir(dir).is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == LOCK));
    if dir.exists() && !is_fleet(dir) && !is_empty() {
        bail!("{} is not the folder of a fleet, it will not be removed; name another with --dir", dir.display());
    }
    Ok(())
}

/// Empties the folder of a fleet. The folder itself may be a mount point and stays, and so does the lock, which is held.
fn clean(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.ends_with(LOCK) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Removes the list of processes of a fleet that has ended.
pub fn forget_processes(plan: &Plan) -> Result<()> {
    match fs::remove_file(plan.processes()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", plan.processes().display()))
        }
        _ => Ok(()),
    }
}

fn write_regions(plan: &Plan, sources: &[SourceFile]) -> Result<()> {
    if plan.regions().exists() {
        fs::remove_dir_all(plan.regions()).context("cannot replace the region files")?;
    }
    for source in sources {
        let name = Path::new(&source.path).file_name().context("a region file has a name")?;
        dev::write(&plan.regions().join(name), &source.text)?;
    }
    Ok(())
}

/// The fleet's own copy of the document with the files it names; the key set comes from the demo issuer.
fn write_document(plan: &Plan, bundle: &Bundle) -> Result<()> {
    for (name, text) in bundle.attachments.iter().filter(|(name, _)| *name != JWKS) {
        let path = Path::new(name);
        if path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            bail!("the gateway document names `{name}`; for `up`, name files in its own folder");
        }
        dev::write(&plan.dir.join(path), text)?;
    }
    dev::write(&plan.document, &bundle.document.text)
}

/// Kept when there is one: counts of one key would else fall apart in two.
fn write_limits_key(plan: &Plan) -> Result<()> {
    let file = plan.limits_key();
    if file.exists() {
        return Ok(());
    }
    let [high, low] = rand::random::<[u128; 2]>();
    dev::write_secret(&file, &format!("{high:032x}{low:032x}\n"))
}

fn issue_certificates(plan: &Plan) -> Result<()> {
    let authority = dev::Authority::open_or_create(&plan.authority(), &plan.cluster)?;
    let addresses: Vec<_> = plan.nodes.iter().map(|node| node.address.into()).collect();
    authority.issue_server(&plan.server(), &addresses)?;
    authority.issue_operator(&plan.operator(), &operator()?)?;
    for node in &plan.nodes {
        authority.issue_node(&node.identity(), &node.region, &node.node, node.address.into())?;
    }
    Ok(())
}
