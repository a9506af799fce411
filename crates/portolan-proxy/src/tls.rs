//! Decides which certificate a client is shown: exact name over wildcard over default. Protocols by ALPN, TLS 1.2 and 1.3.
//!
//! Never reads a file: the server loads PEM texts and swaps the whole [`CertificateStore`], so a reload needs no restart
//! and no handshake sees half of one. Matching follows RFC 6125 §6.4.3: a wildcard stands for one whole label.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// Protocols offered over TCP, preferred first.
pub(crate) const TCP_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Protocols offered over QUIC.
pub(crate) const QUIC_PROTOCOLS: [&[u8]; 1] = [b"h3"];

/// One certificate with its key, as texts.
#[derive(Clone)]
pub struct CertificateSource {
    /// Where it came from, for messages.
    pub origin: String,
    /// Chain in PEM, leaf first.
    pub chain_pem: Vec<u8>,
    /// Private key in PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for CertificateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateSource").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Why certificates cannot be served; the store in use stays.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// No certificate was given.
    #[error("at least one server certificate is needed")]
    Empty,
    /// The chain is not PEM, or holds no certificate.
    #[error("`{origin}` holds no certificate chain in PEM")]
    Chain {
        /// Where it came from.
        origin: String,
    },
    /// The key is not PEM.
    #[error("the key of `{origin}` is no private key in PEM")]
    Key {
        /// Where it came from.
        origin: String,
    },
    /// The leaf is no X.509 certificate.
    #[error("the first certificate of `{origin}` is not readable")]
    Leaf {
        /// Where it came from.
        origin: String,
    },
    /// The key has a kind that is not supported, or belongs to another certificate.
    #[error("the key of `{origin}` does not serve its certificate")]
    Mismatch {
        /// Where it came from.
        origin: String,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
}

/// All server certificates of a node, by the names they are for.
pub struct CertificateStore {
    default: Arc<CertifiedKey>,
    exact: BTreeMap<String, Arc<CertifiedKey>>,
    /// By the suffix after `*.`.
    wildcard: BTreeMap<String, Arc<CertifiedKey>>,
}

impl CertificateStore {
    /// Reads certificates; the first is the default, and of two for one name the first is shown.
    pub fn new(sources: &[CertificateSource]) -> Result<Self, CertificateError> {
        let provider = aws_lc_rs::default_provider();
        let (mut exact, mut wildcard, mut default) = (BTreeMap::new(), BTreeMap::new(), None);
        for source in sources {
            let key = certified_key(source, &provider)?;
            for name in leaf_names(&key, &source.origin)? {
                match name.strip_prefix("*.") {
                    Some(suffix) => wildcard.entry(suffix.to_owned()).or_insert_with(|| Arc::clone(&key)),
                    None => exact.entry(name).or_insert_with(|| Arc::clone(&key)),
                };
            }
            default.get_or_insert(key);
        }
        Ok(Self { default: default.ok_or(CertificateError::Empty)?, exact, wildcard })
    }

    /// The certificate for a name in lower case; without a name, or for an unknown one, the default.
    pub fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let by_suffix = || name.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
            self.exact.get(name).or_else(by_suffix)
        });
        Arc::clone(found.unwrap_or(&self.default))
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("exact", &self.exact.keys())
            .field("wildcard", &self.wildcard.keys())
            .finish_non_exhaustive()
    }
}

fn certified_key(source: &CertificateSource, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
    let origin = || source.origin.clone();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&source.chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Chain { origin: origin() })?;
    if chain.is_empty() {
        return Err(CertificateError::Chain { origin: origin() });
    }
    let key = PrivateKeyDer::from_pem_slice(&source.key_pem).map_err(|_| CertificateError::Key { origin: origin() })?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|source| CertificateError::Mismatch { origin: origin(), source })
}

/// DNS names and addresses of the leaf, in lower case.
fn leaf_names(key: &CertifiedKey, origin: &str) -> Result<Vec<String>, CertificateError> {
    let fault = || CertificateError::Leaf { origin: origin.to_owned() };
    let leaf = key.cert.first().ok_or_else(fault)?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(leaf).map_err(|_| fault())?;
    let names = certificate.subject_alternative_name().map_err(|_| fault())?;
    let names = names.map(|extension| &extension.value.general_names).into_iter().flatten();
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(dns.collect())
}

/// Resolves through the swapped store, so that each handshake sees the newest one whole.
#[derive(Debug)]
struct Resolver(Arc<ArcSwap<CertificateStore>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        Some(self.0.load().find(name.as_deref()))
    }
}

/// The TLS configuration of a listener. Tickets are stateless, so workers share nothing per session; early data is off,
/// because a replayed request would be charged and forwarded twice (RFC 8470).
pub(crate) fn server_config(
    certificates: &Arc<ArcSwap<CertificateStore>>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(Arc::clone(certificates))));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.max_early_data_size = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(names: &[&str]) -> CertificateSource {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("names are valid");
        CertificateSource {
            origin: "test.pem".to_owned(),
            chain_pem: made.cert.pem().into_bytes(),
            key_pem: made.signing_key.serialize_pem().into_bytes(),
        }
    }

    #[test]
    fn an_exact_name_is_preferred_to_a_wildcard_and_that_to_the_default() {
        let sources = [source(&["fallback.test"]), source(&["*.example.test"]), source(&["api.example.test"])];
        let store = CertificateStore::new(&sources).expect("certificates are sound");
        let check = |name: Option<&str>, expected: usize| {
            let expected = CertificateDer::from_pem_slice(&sources[expected].chain_pem).expect("is PEM");
            assert_eq!(store.find(name).cert[0], expected, "{name:?}");
        };
        check(Some("api.example.test"), 2);
        check(Some("www.example.test"), 1);
        check(Some("a.b.example.test"), 0);
        check(Some("example.test"), 0);
        check(Some("elsewhere.test"), 0);
        check(None, 0);
    }

    #[test]
    fn damaged_certificates_are_named() {
        let good = source(&["a.test"]);
        let check = |chain: &[u8], key: &[u8], expected: &str| {
            let bad = CertificateSource { origin: "x.pem".into(), chain_pem: chain.into(), key_pem: key.into() };
            let error = CertificateStore::new(&[bad]).expect_err("is damaged");
            assert_eq!(error.to_string(), expected);
        };
        check(b"", &good.key_pem, "`x.pem` holds no certificate chain in PEM");
        check(&good.chain_pem, b"no key", "the key of `x.pem` is no private key in PEM");
        check(&good.chain_pem, &source(&["a.test"]).key_pem, "the key of `x.pem` does not serve its certificate");
        let none = CertificateStore::new(&[]).expect_err("is empty");
        assert_eq!(none.to_string(), "at least one server certificate is needed");
    }
}
