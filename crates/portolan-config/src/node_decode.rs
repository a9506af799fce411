//! Reads node files. Checks the names in a file against each other; whether files and regions exist is for the caller.

use std::{collections::BTreeMap, net::SocketAddr};

use portolan_model::NodeName;

use crate::{
    AccessLog, CertificateFiles, IdentityFiles, Listen, NodeFile, Peer,
    decode::{self, Fields, Shape, choice, dangling, is_empty_list, list, named, node_name, parsed, string, whole},
    fault::Report,
    tree::{Entry, Node, Value},
};

/// A node file's keys.
pub(crate) const NODE: Shape = Shape {
    what: "a node file",
    keys: &[
        "version",
        "node",
        "region",
        "cluster",
        "data",
        "regions",
        "listen",
        "server_certificates",
        "identity",
        "peers",
        "bootstrap",
        "workers",
        "access_log",
        "otlp",
        "limits_key",
    ],
};

/// The keys of listening addresses.
pub(crate) const LISTEN: Shape =
    Shape { what: "a set of listening addresses", keys: &["https", "http", "dns", "admin", "mesh"] };

/// The keys of a server certificate.
pub(crate) const CERTIFICATE: Shape = Shape { what: "a server certificate", keys: &["certificate", "key"] };

/// The keys of a node's identity.
pub(crate) const IDENTITY: Shape = Shape { what: "an identity", keys: &["ca", "certificate", "key"] };

/// A peer's keys.
pub(crate) const PEER: Shape = Shape { what: "a peer", keys: &["region", "address"] };

/// The keys of an access log in a file.
pub(crate) const ACCESS_LOG: Shape = Shape { what: "an access log", keys: &["file"] };

pub(crate) fn decode(root: &Node, report: &mut Report<'_>) -> Option<NodeFile> {
    let fields = Fields::open(root, &NODE, report)?;
    fields.check_version(report);
    let node = fields.require("node", "eu-west-1", report).and_then(|node| node_name(node, report));
    let region = fields.require("region", "eu-west", report).and_then(|node| decode::region_id(node, report));
    let cluster = fields.require("cluster", "local", report).and_then(|node| decode::name(node, report));
    let data = fields.require("data", "data", report).and_then(|node| string(node, report));
    let regions = fields.require("regions", "regions", report).and_then(|node| string(node, report));
    let listen_example = "{ https: 127.0.0.1:8443, dns: 127.0.0.1:8053, admin: 127.0.0.1:8900, mesh: 127.0.0.1:8700 }";
    let listen = fields.require("listen", listen_example, report).and_then(|node| listen(node, report));
    let server_certificates = fields
        .require("server_certificates", "[{ certificate: server.pem, key: server.key }]", report)
        .and_then(|node| server_certificates(node, report));
    let identity = fields
        .require("identity", "{ ca: ca.pem, certificate: node.pem, key: node.key }", report)
        .and_then(|node| identity(node, report));
    let peer_entries = fields.get("peers").map(|node| named(node, PEER_EXAMPLE, MAX_PEERS, report)).unwrap_or_default();
    let peers = peers(peer_entries, node.as_ref(), report);
    let bootstrap = fields
        .require("bootstrap", "[eu-west-1]", report)
        .and_then(|names| bootstrap(names, node.as_ref(), peer_entries, report));
    let workers = fields.optional("workers", 1, report, |node, report| whole(node, 1..=MAX_WORKERS, report));
    let access_log = fields.optional("access_log", AccessLog::default(), report, access_log);
    let otlp = fields.get("otlp").and_then(|node| collector(node, report));
    let limits_key = fields.get("limits_key").and_then(|node| string(node, report));
    Some(NodeFile {
        node: node?,
        region: region?,
        cluster: cluster?,
        data: data?,
        regions: regions?,
        listen: listen?,
        server_certificates: server_certificates?,
        identity: identity?,
        peers,
        bootstrap: bootstrap?,
        workers: usize::try_from(workers).ok()?,
        access_log,
        otlp,
        limits_key,
    })
}

fn address(node: &Node, report: &mut Report<'_>) -> Option<SocketAddr> {
    parsed(node, "an address with a port", "write for example 127.0.0.1:8443 or [::1]:8443", report)
}

fn listen(node: &Node, report: &mut Report<'_>) -> Option<Listen> {
    let fields = Fields::open(node, &LISTEN, report)?;
    let mut at = |key: &str, example: &str| fields.require(key, example, report).and_then(|node| address(node, report));
    let https = at("https", "127.0.0.1:8443");
    let dns = at("dns", "127.0.0.1:8053");
    let admin = at("admin", "127.0.0.1:8900");
    let mesh = at("mesh", "127.0.0.1:8700");
    let http = fields.optional("http", None, report, |node, report| address(node, report).map(Some));
    let listen = Listen { https: https?, http, dns: dns?, admin: admin?, mesh: mesh? };
    let mut taken = vec![("https", listen.https), ("dns", listen.dns), ("admin", listen.admin), ("mesh", listen.mesh)];
    taken.extend(http.map(|http| ("http", http)));
    for (index, (key, address)) in taken.iter().enumerate() {
        let rival = taken[..index].iter().find(|(_, other)| other == address && address.port() != 0);
        if let (Some((rival, _)), Some(node)) = (rival, fields.get(key)) {
            let message = format!("{} is the address of `{rival}` too", node.quoted());
            report.fault(node.at, message, "give each its own port".to_owned());
        }
    }
    Some(listen)
}

fn server_certificates(node: &Node, report: &mut Report<'_>) -> Option<Vec<CertificateFiles>> {
    if is_empty_list(node) {
        let remedy = "write `server_certificates: [{ certificate: server.pem, key: server.key }]`".to_owned();
        report.fault(node.at, "`server_certificates` is empty, so no client could connect", remedy);
    }
    list(node, MAX_CERTIFICATES, report, |node, report| {
        let fields = Fields::open(node, &CERTIFICATE, report)?;
        let certificate = fields.require("certificate", "server.pem", report).and_then(|node| string(node, report));
        let key = fields.require("key", "server.key", report).and_then(|node| string(node, report));
        Some(CertificateFiles { certificate: certificate?, key: key? })
    })
}

fn identity(node: &Node, report: &mut Report<'_>) -> Option<IdentityFiles> {
    let fields = Fields::open(node, &IDENTITY, report)?;
    let ca = fields.require("ca", "ca.pem", report).and_then(|node| string(node, report));
    let certificate = fields.require("certificate", "node.pem", report).and_then(|node| string(node, report));
    let key = fields.require("key", "node.key", report).and_then(|node| string(node, report));
    Some(IdentityFiles { ca: ca?, certificate: certificate?, key: key? })
}

fn peers(entries: &[Entry], me: Option<&NodeName>, report: &mut Report<'_>) -> BTreeMap<NodeName, Peer> {
    let mut peers = BTreeMap::new();
    for entry in entries {
        let name = decode::entry_name(entry, report).and_then(|name| NodeName::new(name.as_str()).ok());
        if name.is_some() && name.as_ref() == me {
            let remedy = "list the other nodes only".to_owned();
            report.fault(entry.key_at, format!("`{}` is this node itself", entry.key), remedy);
        }
        let Some(fields) = Fields::open(&entry.node, &PEER, report) else { continue };
        let region = fields.require("region", "eu-west", report).and_then(|node| decode::region_id(node, report));
        let address = fields.require("address", "192.0.2.1:8700", report).and_then(|node| address(node, report));
        if let (Some(name), Some(region), Some(address)) = (name, region, address) {
            peers.insert(name, Peer { region, address });
        }
    }
    peers
}

fn bootstrap(node: &Node, me: Option<&NodeName>, peers: &[Entry], report: &mut Report<'_>) -> Option<Vec<NodeName>> {
    if is_empty_list(node) {
        let remedy = "name the nodes that found the cluster, the same on each".to_owned();
        report.fault(node.at, "`bootstrap` is empty", remedy);
    }
    let known = || peers.iter().map(|entry| &*entry.key).chain(me.map(NodeName::as_str));
    list(node, MAX_PEERS, report, |node, report| {
        let name = node_name(node, report)?;
        if me.is_some() && !known().any(|known| known == name.as_str()) {
            dangling(node, "node of this file", known(), report);
            return None;
        }
        Some(name)
    })
}

fn access_log(node: &Node, report: &mut Report<'_>) -> Option<AccessLog> {
    if let Value::Mapping(_) = node.value {
        let fields = Fields::open(node, &ACCESS_LOG, report)?;
        let file = fields.require("file", "access.log", report)?;
        return string(file, report).map(AccessLog::File);
    }
    const CHOICES: [(&str, bool); 2] = [("stdout", true), ("off", false)];
    if let Value::Scalar(word) = &node.value
        && word.contains(['/', '.'])
    {
        let remedy = format!("write `access_log: {{ file: {word} }}`");
        report.fault(node.at, format!("{} is neither `stdout` nor `off`", node.quoted()), remedy);
        return None;
    }
    choice(node, &CHOICES, report).map(|on| if on { AccessLog::Stdout } else { AccessLog::Off })
}

fn collector(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let url = string(node, report)?;
    if url.starts_with("http://") || url.starts_with("https://") {
        return Some(url);
    }
    let remedy = "write for example http://127.0.0.1:4317".to_owned();
    report.fault(node.at, format!("{} is not the address of a collector", node.quoted()), remedy);
    None
}

const PEER_EXAMPLE: &str = "peers: { NODE: { region: eu-west, address: 192.0.2.1:8700 } }";

/// Other nodes that one node knows.
const MAX_PEERS: usize = 1000;

/// Certificates of one node.
const MAX_CERTIFICATES: usize = 1000;

/// Threads that serve requests.
const MAX_WORKERS: u64 = 256;
