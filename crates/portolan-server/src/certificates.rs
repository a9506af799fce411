//! Holds a certificate and its key, read from PEM files and exchanged when the files change.
//! Never gives up a pair that works for one that does not: a bad new pair is reported once and the old one stays.
//! Handshakes that began before an exchange keep the pair they took.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use tracing::{error, info};

/// Largest PEM file taken, in bytes: a long chain with room to spare.
const MAX_PEM_LEN: u64 = 1 << 20;

/// Why a certificate, key or CA file cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is longer than any certificate chain.
    #[error("`{path}` has {len} bytes, at most {MAX_PEM_LEN} are taken")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The file holds no usable PEM section of the wanted kind.
    #[error("`{path}` holds no PEM {wanted}")]
    NoPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
    },
    /// The key is of an unknown kind, or is not the certificate's.
    #[error("`{certificate}` and `{key}` are not a pair")]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate chain and key that follow their files.
#[derive(Debug)]
pub struct ReloadingPair {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Contents>,
}

/// Both files as last looked at; `None` when one cannot be read.
type Contents = Option<(Vec<u8>, Vec<u8>)>;

impl ReloadingPair {
    /// Reads both files.
    pub fn load(
        certificate: PathBuf,
        key: PathBuf,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Self>, CertificateError> {
        let seen = Mutex::new(contents(&certificate, &key));
        let current = ArcSwap::from_pointee(read_pair(&certificate, &key, &provider)?);
        Ok(Arc::new(Self { certificate, key, provider, current, seen }))
    }

    /// The pair in force.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.current.load_full()
    }

    /// Takes the files' contents when they changed since the last look; reports what came of it once.
    pub fn follow(&self) {
        let contents = contents(&self.certificate, &self.key);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == contents {
            return;
        }
        *seen = contents;
        match read_pair(&self.certificate, &self.key, &self.provider) {
            Ok(pair) => {
                self.current.store(Arc::new(pair));
                info!(certificate = %self.certificate.display(), "certificate exchanged");
            }
            Err(fault) => error!(error = %chain(&fault), "the new certificate is not usable, the old one stays"),
        }
    }
}

impl ResolvesServerCert for ReloadingPair {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for ReloadingPair {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Reads the CA certificates that a cluster trusts.
pub fn read_roots(path: &Path) -> Result<Arc<RootCertStore>, CertificateError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(read_chain(path)?);
    if added == 0 {
        return Err(CertificateError::NoPem { path: path.to_owned(), wanted: "certificate" });
    }
    Ok(Arc::new(roots))
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn read_pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let chain = read_chain(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&read_bounded(key)?)
        .map_err(|_| CertificateError::NoPem { path: key.to_owned(), wanted: "private key" })?;
    let mismatch = |source| CertificateError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    CertifiedKey::from_der(chain, private, provider).map_err(mismatch)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let no_pem = || CertificateError::NoPem { path: path.to_owned(), wanted: "certificate" };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&read_bounded(path)?).collect::<Result<_, _>>().map_err(|_| no_pem())?;
    if chain.is_empty() { Err(no_pem()) } else { Ok(chain) }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |source| CertificateError::Read { path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > MAX_PEM_LEN {
        return Err(CertificateError::TooLong { path: path.to_owned(), len });
    }
    fs::read(path).map_err(failed)
}

fn contents(certificate: &Path, key: &Path) -> Contents {
    Some((read_bounded(certificate).ok()?, read_bounded(key).ok()?))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs;
    use tempfile::TempDir;

    use super::*;

    /// Writes a new pair and returns its certificate.
    fn write_pair(dir: &Path) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        fs::write(dir.join("crt.pem"), certificate.pem()).expect("a file");
        fs::write(dir.join("key.pem"), key.serialize_pem()).expect("a file");
        certificate.der().clone()
    }

    #[test]
    fn a_new_pair_is_taken_and_a_bad_one_leaves_the_old_in_force() {
        let dir = TempDir::new().expect("a directory");
        let first = write_pair(dir.path());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = ReloadingPair::load(dir.path().join("crt.pem"), dir.path().join("key.pem"), provider);
        let pair = pair.expect("a pair");
        let check = |expected: &CertificateDer<'static>| {
            pair.follow();
            assert_eq!(pair.current().cert.first(), Some(expected));
        };
        check(&first);
        let second = write_pair(dir.path());
        check(&second);
        let key = fs::read(dir.path().join("key.pem")).expect("a file");
        write_pair(dir.path());
        fs::write(dir.path().join("key.pem"), key).expect("a file");
        check(&second);
        fs::remove_file(dir.path().join("crt.pem")).expect("a file");
        check(&second);
        let third = write_pair(dir.path());
        check(&third);
    }
}
