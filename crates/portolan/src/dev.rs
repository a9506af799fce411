//! Certificates for development: an authority kept between starts, and leaves issued anew at every start.
//!
//! Decides names, uses and validity. Never meant for production: the authority's key lies beside the fleet's data.
//! Identities follow SPIFFE: `spiffe://CLUSTER/region/REGION/node/NODE` and `spiffe://CLUSTER/operator/NAME`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use portolan_model::{Name, NodeName, RegionId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd, string::Ia5String,
};

/// Names a development server certificate is good for, beside the addresses of the regions.
const SERVER_NAMES: [&str; 3] = ["example.test", "*.example.test", "localhost"];

/// Leaves are issued at every start, so a year is never reached in practice.
const LEAF_VALIDITY: Duration = Duration::from_secs(366 * 86_400);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A clock that runs a little behind must still accept what was just issued.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// PEM certificate.
    pub certificate: PathBuf,
    /// PEM key, PKCS #8, readable by its owner alone.
    pub key: PathBuf,
}

impl Pair {
    /// The pair `STEM.pem` and `STEM.key` in `dir`.
    pub fn in_dir(dir: &Path, stem: &str) -> Self {
        Self { certificate: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")) }
    }
}

/// The development authority of one fleet.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cluster: Name,
}

impl Authority {
    /// Loads the authority at `files`, or makes one there.
    pub fn open_or_create(files: &Pair, cluster: &Name) -> Result<Self> {
        if !files.certificate.exists() || !files.key.exists() {
            create_authority(files, cluster)?;
        }
        let key = KeyPair::from_pem(&read(&files.key)?)
            .with_context(|| format!("{} is not a key; start with --clean", files.key.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&read(&files.certificate)?, key)
            .with_context(|| format!("{} is not a certificate; start with --clean", files.certificate.display()))?;
        Ok(Self { issuer, cluster: cluster.clone() })
    }

    /// Issues the identity a node shows on the mesh and on its admin address.
    pub fn issue_node(&self, files: &Pair, region: &RegionId, node: &NodeName, address: IpAddr) -> Result<()> {
        let mut params = leaf(node.as_str())?;
        params.subject_alt_names = vec![
            SanType::URI(ia5(&format!("spiffe://{}/region/{region}/node/{node}", self.cluster))?),
            SanType::DnsName(ia5(node.as_str())?),
            SanType::IpAddress(address),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(files, params)
    }

    /// Issues the certificate clients of the gateway see: `*.example.test`, `localhost` and `addresses`.
    pub fn issue_server(&self, files: &Pair, addresses: &[IpAddr]) -> Result<()> {
        let mut params = leaf(SERVER_NAMES[0])?;
        for name in SERVER_NAMES {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|&address| SanType::IpAddress(address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(files, params)
    }

    /// Issues an operator certificate; `name` is the author in the history.
    pub fn issue_operator(&self, files: &Pair, name: &Name) -> Result<()> {
        let mut params = leaf(name.as_str())?;
        params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{}/operator/{name}", self.cluster))?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(files, params)
    }

    fn issue(&self, files: &Pair, params: CertificateParams) -> Result<()> {
        let key = KeyPair::generate().context("cannot generate a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        write_secret(&files.key, &key.serialize_pem())?;
        write(&files.certificate, &certificate.pem())
    }
}

fn create_authority(files: &Pair, cluster: &Name) -> Result<()> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, AUTHORITY_VALIDITY);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Portolan development authority of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("cannot generate a key")?;
    let certificate = params.self_signed(&key).context("cannot sign the authority")?;
    write_secret(&files.key, &key.serialize_pem())?;
    write(&files.certificate, &certificate.pem())
}

fn leaf(common_name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, LEAF_VALIDITY);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + validity;
}

fn ia5(text: &str) -> Result<Ia5String> {
    Ia5String::try_from(text).with_context(|| format!("`{text}` cannot stand in a certificate"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes `text` to `path`, making the folder first.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// As [`write`], and only the owner may read the file, from its first moment.
///
/// Written beside the old one, then put in its place: whoever still has the old one open does not read the new secret.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let fresh = path.with_extension("new");
    let replace = || {
        // What a start that broke off left behind.
        if fresh.symlink_metadata().is_ok() {
            fs::remove_file(&fresh)?;
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&fresh, path)
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    fn check(pair: &Pair, ca: &Pair, name: &str, accepted: bool) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&ca.certificate).expect("the authority is PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("roots");
        let leaf = CertificateDer::from_pem_file(&pair.certificate).expect("the leaf is PEM");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        assert_eq!(verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).is_ok(), accepted, "{name:?}");
    }

    #[test]
    fn certificates_are_good_for_their_names_alone_and_the_authority_outlives_a_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let (ca, server, node) =
            (Pair::in_dir(dir.path(), "ca"), Pair::in_dir(dir.path(), "server"), Pair::in_dir(dir.path(), "node"));
        let cluster = Name::new("dev").expect("a name");
        let address: IpAddr = "127.10.1.1".parse().expect("an address");
        let first = Authority::open_or_create(&ca, &cluster).expect("an authority");
        first.issue_server(&server, &[address]).expect("a server certificate");
        let second = Authority::open_or_create(&ca, &cluster).expect("the same authority");
        let (region, name) = (RegionId::new("eu-west").expect("a region"), NodeName::new("eu-west-1").expect("a node"));
        second.issue_node(&node, &region, &name, address).expect("a node certificate");
        check(&server, &ca, "api.example.test", true);
        check(&server, &ca, "127.10.1.1", true);
        check(&server, &ca, "example.org", false);
        check(&node, &ca, "eu-west-1", true);
        check(&node, &ca, "api.example.test", false);
    }

    #[test]
    fn a_secret_replaces_the_file_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let (path, other) = (dir.path().join("a.key"), dir.path().join("other"));
        std::os::unix::fs::symlink(&other, &path).expect("a link");
        write_secret(&path, "secret").expect("written");
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600);
        assert!(!other.exists(), "the link was followed");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
