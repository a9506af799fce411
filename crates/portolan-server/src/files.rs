//! Turns the paths of a node file into what they name: regions, certificates, the data directory.
//! Decides only whether the files fit together: whose certificate it is, and whether every region is known.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use portolan_config::{NodeFile, RegionMap, SourceFile};
use portolan_model::HashKey;
use portolan_proxy::{CertificateSource, CertificateStore};
use rustls::{RootCertStore, crypto::aws_lc_rs};

use crate::{
    certificates::{ReloadingPair, read_roots},
    error::Error,
    identity::{Identity, NodeIdentity},
};

/// How often certificate files are looked at: a renewed certificate is in use within this time.
const CERTIFICATES_POLL: Duration = Duration::from_secs(1);

/// Most files of regions read from one directory.
const MAX_REGION_FILES: usize = 1000;

/// Largest region file, in bytes; a long list of networks fits.
const MAX_REGION_FILE: u64 = 64 << 20;

/// Shortest secret, in bytes: too long to guess even when it is text.
const MIN_SECRET: usize = 32;

/// What a node reads before it starts.
pub(crate) struct NodeFiles {
    pub(crate) me: NodeIdentity,
    pub(crate) data: PathBuf,
    pub(crate) regions: Arc<RegionMap>,
    pub(crate) pair: Arc<ReloadingPair>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) hash_key: HashKey,
    pub(crate) server: ServerCertificates,
}

impl NodeFiles {
    /// Reads everything, and makes the data directory when there is none.
    pub(crate) fn read(node: &NodeFile, base: &Path) -> Result<Self, Error> {
        let me = NodeIdentity { region: node.region.clone(), name: node.node.clone() };
        let data = base.join(&node.data);
        fs::create_dir_all(&data).map_err(|source| Error::File { path: data.clone(), source })?;
        let regions = read_regions(&base.join(&node.regions))?;
        let named = node.peers.values().map(|peer| &peer.region).chain([&node.region]);
        if let Some(unknown) = named.into_iter().find(|region| regions.get(region).is_none()) {
            return Err(Error::UnknownRegion { region: unknown.to_string() });
        }
        let certificate = base.join(&node.identity.certificate);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = ReloadingPair::load(certificate.clone(), base.join(&node.identity.key), provider)?;
        check_identity(&pair, &certificate, node, &me)?;
        let ca = base.join(&node.identity.ca);
        let roots = read_roots(&ca)?;
        let hash_key = hash_key(&ca, node.limits_key.as_ref().map(|path| base.join(path)).as_deref())?;
        let server = ServerCertificates::load(node, base)?;
        Ok(Self { me, data, regions, pair, roots, hash_key, server })
    }
}

/// The certificates that clients see, and their files.
pub(crate) struct ServerCertificates {
    files: Vec<(PathBuf, PathBuf)>,
    texts: Vec<CertificateSource>,
    pub(crate) store: Arc<ArcSwap<CertificateStore>>,
    complained: bool,
}

impl ServerCertificates {
    fn load(node: &NodeFile, base: &Path) -> Result<Self, Error> {
        let files: Vec<_> =
            node.server_certificates.iter().map(|pair| (base.join(&pair.certificate), base.join(&pair.key))).collect();
        let texts = read_sources(&files)?;
        let store = Arc::new(ArcSwap::from_pointee(CertificateStore::new(&texts)?));
        Ok(Self { files, texts, store, complained: false })
    }

    /// Exchanges the certificates when their files have other contents; a bad set is reported once and the old one
    /// stays. Both files of a pair are rarely written in one instant, so a mismatch may heal at the next look.
    pub(crate) fn follow(&mut self) {
        let texts = match read_sources(&self.files) {
            Ok(texts) if same(&texts, &self.texts) => return,
            Ok(texts) => texts,
            Err(error) => return self.complain(&error),
        };
        match CertificateStore::new(&texts) {
            Ok(store) => {
                self.store.store(Arc::new(store));
                self.texts = texts;
                self.complained = false;
                tracing::info!("server certificates exchanged");
            }
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&mut self, error: &dyn std::error::Error) {
        if !self.complained {
            tracing::error!(error = %crate::certificates::chain(error), "server certificates are not usable, the old ones stay");
        }
        self.complained = true;
    }
}

/// Follows the certificate files of a node until dropped.
pub(crate) async fn follow_files(pair: Arc<ReloadingPair>, mut server: ServerCertificates) {
    loop {
        tokio::time::sleep(CERTIFICATES_POLL).await;
        let pair = Arc::clone(&pair);
        // A network file system may hang: that must not hold up the control plane.
        let looked = tokio::task::spawn_blocking(move || {
            pair.follow();
            server.follow();
            server
        });
        server = match looked.await {
            Ok(server) => server,
            Err(_) => return,
        };
    }
}

fn same(a: &[CertificateSource], b: &[CertificateSource]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.chain_pem == b.chain_pem && a.key_pem == b.key_pem)
}

fn read_sources(files: &[(PathBuf, PathBuf)]) -> Result<Vec<CertificateSource>, Error> {
    let read = |path: &Path| fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source });
    let source = |(certificate, key): &(PathBuf, PathBuf)| {
        let origin = certificate.display().to_string();
        Ok(CertificateSource { origin, chain_pem: read(certificate)?, key_pem: read(key)? })
    };
    files.iter().map(source).collect()
}

fn read_regions(directory: &Path) -> Result<Arc<RegionMap>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))?.take(MAX_REGION_FILES) {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let len = fs::metadata(&path).map_err(failed(&path))?.len();
        if len > MAX_REGION_FILE {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("{len} bytes"));
            return Err(Error::File { path, source });
        }
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        sources.push(SourceFile { path: path.display().to_string(), text });
    }
    RegionMap::parse(&sources).map(Arc::new).map_err(Error::Regions)
}

fn check_identity(pair: &ReloadingPair, path: &Path, node: &NodeFile, me: &NodeIdentity) -> Result<(), Error> {
    let found = match pair.current().cert.first() {
        Some(certificate) => match Identity::of_certificate(certificate, &node.cluster) {
            Ok(Identity::Node(found)) if found == *me => return Ok(()),
            Ok(Identity::Node(found)) => format!("node {found}"),
            Ok(Identity::Operator(name)) => format!("operator {name}"),
            Err(error) => format!("somebody else ({error})"),
        },
        None => "nobody".to_owned(),
    };
    Err(Error::WrongIdentity {
        path: path.to_owned(),
        found,
        wanted: me.to_string(),
        cluster: node.cluster.to_string(),
    })
}

/// The key under which limits hash what they count by. All nodes must agree on it, and clients should not know it: they
/// could choose names and addresses that collide. Without a secret it is derived from the CA alone, which clients may
/// have.
fn hash_key(ca: &Path, secret: Option<&Path>) -> Result<HashKey, Error> {
    let read = |path: &Path| fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source });
    let secret = match secret {
        Some(path) => {
            let secret = read(path)?;
            if secret.len() < MIN_SECRET {
                let reason = format!("a secret of at least {MIN_SECRET} bytes is wanted, it has {}", secret.len());
                let source = io::Error::new(io::ErrorKind::InvalidData, reason);
                return Err(Error::File { path: path.to_owned(), source });
            }
            secret
        }
        None => {
            tracing::warn!("no `limits_key` is set: clients who know the CA could choose keys of limits that collide");
            Vec::new()
        }
    };
    let hash = HashKey::new([0; 16]).hash(&[b"limit keys", &read(ca)?, &secret]);
    Ok(HashKey::new(hash.0.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_limits_depends_on_the_secret_and_the_authority() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let (ca, other_ca) = (file("ca", "one"), file("other-ca", "another"));
        let (secret, other) = (file("secret", &"a".repeat(MIN_SECRET)), file("other", &"b".repeat(MIN_SECRET)));
        let key = |ca: &Path, secret: Option<&Path>| {
            let key = hash_key(ca, secret).expect("a key");
            key.hash(&[b"x"])
        };
        let keys = [key(&ca, None), key(&ca, Some(&secret)), key(&ca, Some(&other)), key(&other_ca, Some(&secret))];
        assert!((1..keys.len()).all(|index| !keys[..index].contains(&keys[index])));
        assert_eq!(key(&ca, Some(&secret)), keys[1]);
        assert!(hash_key(&ca, Some(&file("short", "a"))).is_err());
    }
}
