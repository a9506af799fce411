//! Decides who a certificate speaks for: a node of this cluster, or one of its operators.
//! Never trusts a name outside a certificate; whether the chain is good is decided by `verifier`.
//! Names are SPIFFE IDs in a SAN URI (SPIFFE X.509-SVID §2): exactly one URI per certificate.

use std::fmt;

use portolan_model::{Name, NodeName, RegionId};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest operator name in bytes; it is stored with every revision.
const MAX_OPERATOR_LEN: usize = 64;

/// Who a certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// A node: `spiffe://<cluster>/region/<region>/node/<name>`.
    Node(NodeIdentity),
    /// A person or a tool that changes the cluster: `spiffe://<cluster>/operator/<name>`.
    Operator(String),
}

/// A node and the region it serves, as its certificate names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeIdentity {
    /// The region.
    pub region: RegionId,
    /// The node.
    pub name: NodeName,
}

/// Why a certificate names nobody in this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The certificate does not parse.
    #[error("the certificate is malformed")]
    Malformed,
    /// No SAN URI, or more than one.
    #[error("the certificate has {found} SAN URIs, exactly one is needed")]
    UriCount {
        /// How many it has.
        found: usize,
    },
    /// The URI belongs to another cluster.
    #[error("`{uri}` is not of cluster `{cluster}`")]
    ForeignCluster {
        /// What the certificate says.
        uri: String,
        /// The cluster of this node.
        cluster: Name,
    },
    /// The URI has another form than a node's or an operator's.
    #[error("`{uri}` names neither a node nor an operator")]
    UnknownForm {
        /// What the certificate says.
        uri: String,
    },
}

impl Identity {
    /// Reads the identity out of an end-entity certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>, cluster: &Name) -> Result<Self, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let names = parsed.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        match uris.as_slice() {
            [uri] => Self::parse(uri, cluster),
            _ => Err(IdentityError::UriCount { found: uris.len() }),
        }
    }

    /// Reads a SPIFFE ID of `cluster`.
    pub fn parse(uri: &str, cluster: &Name) -> Result<Self, IdentityError> {
        let unknown = || IdentityError::UnknownForm { uri: uri.to_owned() };
        let rest = uri.strip_prefix("spiffe://").ok_or_else(unknown)?;
        let (authority, path) = rest.split_once('/').ok_or_else(unknown)?;
        if authority != cluster.as_str() {
            return Err(IdentityError::ForeignCluster { uri: uri.to_owned(), cluster: cluster.clone() });
        }
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["region", region, "node", name] => Ok(Self::Node(NodeIdentity {
                region: RegionId::new(region).map_err(|_| unknown())?,
                name: NodeName::new(name).map_err(|_| unknown())?,
            })),
            ["operator", name] if is_operator_name(name) => Ok(Self::Operator((*name).to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.region)
    }
}

/// SPIFFE path segments are letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.2); none of them needs escaping in a log.
fn is_operator_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_OPERATOR_LEN).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, expected: Result<Identity, IdentityError>) {
        assert_eq!(Identity::parse(uri, &Name::new("edge").expect("a name")), expected, "{uri}");
    }

    #[test]
    fn a_spiffe_id_names_a_node_or_an_operator_of_this_cluster_or_nobody() {
        let node = NodeIdentity {
            region: RegionId::new("eu-west").expect("a name"),
            name: NodeName::new("eu-west-1").expect("a name"),
        };
        check("spiffe://edge/region/eu-west/node/eu-west-1", Ok(Identity::Node(node)));
        check("spiffe://edge/operator/ada.l", Ok(Identity::Operator("ada.l".into())));
        let unknown = |uri: &str| Err(IdentityError::UnknownForm { uri: uri.into() });
        for uri in [
            "spiffe://edge",
            "spiffe://edge/",
            "https://edge/operator/ada",
            "spiffe://edge/operator/",
            "spiffe://edge/operator/..",
            "spiffe://edge/operator/ada/x",
            "spiffe://edge/operator/a%0Ab",
            "spiffe://edge/region/EU/node/n",
            "spiffe://edge/region/eu/node/n/extra",
        ] {
            check(uri, unknown(uri));
        }
        let foreign = "spiffe://other/operator/ada";
        let cluster = Name::new("edge").expect("a name");
        check(foreign, Err(IdentityError::ForeignCluster { uri: foreign.into(), cluster }));
    }
}
