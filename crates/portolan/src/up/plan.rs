//! Where everything of a local fleet is: addresses, files and names, from the regions and one loopback network.
//!
//! Decides the layout and renders the node files. Never touches the disk or the network.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use portolan_model::{Name, NodeName, RegionId};

use crate::{
    dev::Pair,
    wan::{self, MAX_SITES},
};

/// HTTPS over TCP, HTTP/3 over UDP.
const HTTPS_PORT: u16 = 8443;
const DNS_PORT: u16 = 8053;
const ADMIN_PORT: u16 = 8900;
const MESH_PORT: u16 = 8700;
/// Demo upstreams of a region.
const SERVICE_PORTS: [u16; 2] = [9101, 9102];

/// The network the shipped files are written for.
pub const SHIPPED_NETWORK: Network = Network(10);

/// The folder the shipped gateway document names its key set in.
pub const SHIPPED_DIR: &str = ".portolan";

/// A loopback network 127.X.0.0/16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(u8);

impl Network {
    /// The address of the n-th node of the k-th region, both counted from 1; region 0 is the relay's.
    fn address(self, k: u8, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.0, k, n)
    }

    /// Moves text written for the shipped network into this one.
    pub fn moved(self, text: &str) -> String {
        text.replace(&SHIPPED_NETWORK.prefix(), &self.prefix())
    }

    fn prefix(self) -> String {
        format!("127.{}.", self.0)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not 127.X.0.0/16 with X between 1 and 255");
        let number = text.strip_prefix("127.").and_then(|rest| rest.strip_suffix(".0.0/16")).ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        if number == 0 { Err(wrong()) } else { Ok(Self(number)) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "127.{}.0.0/16", self.0)
    }
}

/// A node of the fleet.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its region.
    pub region: RegionId,
    /// Its name.
    pub node: NodeName,
    /// Its address; each node has its own.
    pub address: Ipv4Addr,
    /// Its folder.
    pub dir: PathBuf,
}

/// A demo upstream.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Its region.
    pub region: RegionId,
    /// Its name.
    pub instance: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A fleet on this machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: Name,
    /// The folder of the fleet.
    pub dir: PathBuf,
    /// The nodes by region, in the order of the region names; the first of each region founds the cluster.
    pub nodes: Vec<NodePlan>,
    /// The upstreams of all regions.
    pub services: Vec<ServicePlan>,
    /// The relay's address, when mesh traffic goes through it.
    pub relay: Option<Ipv4Addr>,
    /// The gateway document that is applied first and named in the suggested commands.
    pub document: PathBuf,
}

impl NodePlan {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// HTTPS and HTTP/3.
    pub fn https(&self) -> SocketAddr {
        self.at(HTTPS_PORT)
    }

    /// DNS.
    pub fn dns(&self) -> SocketAddr {
        self.at(DNS_PORT)
    }

    /// Operators.
    pub fn admin(&self) -> SocketAddr {
        self.at(ADMIN_PORT)
    }

    /// Other nodes.
    pub fn mesh(&self) -> SocketAddr {
        self.at(MESH_PORT)
    }

    /// The node's certificate for the mesh and the admin API.
    pub fn identity(&self) -> Pair {
        Pair::in_dir(&self.dir, "node")
    }

    /// The node file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("node.yaml")
    }

    /// What the node prints.
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }
}

impl Plan {
    /// Lays a fleet with so many nodes per region out over `regions`, which are sorted by name.
    pub fn new(
        dir: &Path,
        regions: &[RegionId],
        nodes_per_region: u8,
        network: Network,
        with_relay: bool,
    ) -> Result<Self> {
        if regions.is_empty() {
            bail!("there are no regions; add one file per region to the regions folder");
        }
        let nodes = regions.len() * usize::from(nodes_per_region);
        if with_relay && nodes > MAX_SITES {
            let most = MAX_SITES / regions.len();
            bail!(
                "{} regions of {nodes_per_region} nodes are {nodes}, and `--wan` joins up to {MAX_SITES}; \
                 use `--nodes-per-region {most}`, or leave `--wan` out",
                regions.len()
            );
        }
        let mut plan = Self {
            cluster: Name::new("dev").context("a cluster name")?,
            dir: dir.to_owned(),
            nodes: Vec::new(),
            services: Vec::new(),
            relay: with_relay.then(|| network.address(0, 1)),
            document: dir.join("gateway.yaml"),
        };
        for (index, region) in regions.iter().enumerate() {
            let k =
                u8::try_from(index + 1).ok().filter(|k| *k < 255).context("a local fleet has at most 254 regions")?;
            for n in 1..=nodes_per_region {
                let node = NodeName::new(&format!("{region}-{n}"))
                    .with_context(|| format!("`{region}` is too long to name a node after"))?;
                let node_dir = dir.join("nodes").join(node.as_str());
                let address = network.address(k, n);
                plan.nodes.push(NodePlan { region: region.clone(), node, address, dir: node_dir });
            }
            for (index, port) in SERVICE_PORTS.into_iter().enumerate() {
                let instance = format!("{region}-{}", index + 1);
                let log = dir.join("services").join(format!("{instance}.log"));
                let listen = SocketAddr::new(IpAddr::V4(network.address(k, 1)), port);
                plan.services.push(ServicePlan { region: region.clone(), instance, listen, log });
            }
        }
        Ok(plan)
    }

    /// The first node of each region.
    pub fn founders(&self) -> impl Iterator<Item = &NodePlan> {
        self.nodes.chunk_by(|a, b| a.region == b.region).filter_map(<[NodePlan]>::first)
    }

    /// The region files' `text` with the addresses of all nodes where the first one's stands.
    pub fn with_all_addresses(&self, text: &str) -> String {
        let widen = |line: &str| {
            let mut line = line.to_owned();
            if line.trim_start().starts_with("addresses:") {
                for nodes in self.nodes.chunk_by(|a, b| a.region == b.region) {
                    let all: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
                    line = line.replace(&format!("[{}]", all[0]), &format!("[{}]", all.join(", ")));
                }
            }
            line + "\n"
        };
        text.lines().map(widen).collect()
    }

    /// The authority's files.
    pub fn authority(&self) -> Pair {
        Pair::in_dir(&self.dir, "ca")
    }

    /// The operator's files.
    pub fn operator(&self) -> Pair {
        Pair::in_dir(&self.dir, "operator")
    }

    /// The certificate shown to clients.
    pub fn server(&self) -> Pair {
        Pair::in_dir(&self.dir, "server")
    }

    /// The fleet's own copy of the region files.
    pub fn regions(&self) -> PathBuf {
        self.dir.join("regions")
    }

    /// The secret under which limits hash their keys.
    pub fn limits_key(&self) -> PathBuf {
        self.dir.join("limits.key")
    }

    /// The key set of the demo issuer.
    pub fn jwks(&self) -> PathBuf {
        self.dir.join("jwks.json")
    }

    /// Which process runs where.
    pub fn processes(&self) -> PathBuf {
        self.dir.join("processes.json")
    }

    /// Everything the fleet listens on, with what for.
    pub fn listeners(&self) -> Vec<Listener> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let mut add = |address, transport, purpose: &str| {
                all.push(Listener { address, transport, purpose: format!("{purpose} of {}", node.node) });
            };
            add(node.https(), Transport::Tcp, "HTTPS");
            add(node.https(), Transport::Udp, "HTTP/3");
            add(node.dns(), Transport::Udp, "DNS");
            add(node.dns(), Transport::Tcp, "DNS");
            add(node.admin(), Transport::Tcp, "the admin API");
            add(node.mesh(), Transport::Udp, "the mesh");
        }
        for service in &self.services {
            let purpose = format!("demo service {}", service.instance);
            all.push(Listener { address: service.listen, transport: Transport::Tcp, purpose });
        }
        all
    }

    /// The node file of the node with this index. Paths in it start at its own folder.
    pub fn node_file(&self, index: usize) -> String {
        let node = &self.nodes[index];
        let mut text = format!(
            "# Written by `portolan up` at every start.\n\
             version: 1\n\
             node: {name}\n\
             region: {region}\n\
             cluster: {cluster}\n\
             data: data\n\
             regions: ../../regions\n\
             listen:\n  https: {https}\n  dns: {dns}\n  admin: {admin}\n  mesh: {mesh}\n\
             server_certificates:\n  - {{ certificate: ../../server.pem, key: ../../server.key }}\n\
             identity: {{ ca: ../../ca.pem, certificate: node.pem, key: node.key }}\n\
             limits_key: ../../limits.key\n\
             access_log: {{ file: access.log }}\n",
            name = node.node,
            region = node.region,
            cluster = self.cluster,
            https = node.https(),
            dns = node.dns(),
            admin = node.admin(),
            mesh = node.mesh(),
        );
        let founders: Vec<&str> = self.founders().map(|node| node.node.as_str()).collect();
        let _ = writeln!(text, "bootstrap: [{}]", founders.join(", "));
        text.push_str(if self.nodes.len() > 1 { "peers:\n" } else { "peers: {}\n" });
        for (other, peer) in self.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
            // Within a region there is no wide-area network.
            let relay = self.relay.filter(|_| peer.region != node.region);
            let address = relay.map_or(peer.mesh(), |base| wan::entry_address(base, index, other));
            let _ = writeln!(text, "  {}: {{ region: {}, address: {address} }}", peer.node, peer.region);
        }
        text
    }
}

/// One port the fleet needs.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// Over what.
    pub transport: Transport,
    /// For whom, as an error message says it.
    pub purpose: String,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Listener {
    /// Says whether the port is free by taking it for a moment.
    pub fn check_free(&self) -> Result<()> {
        let taken = match self.transport {
            Transport::Tcp => std::net::TcpListener::bind(self.address).map(drop),
            Transport::Udp => std::net::UdpSocket::bind(self.address).map(drop),
        };
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        taken.with_context(|| {
            format!(
                "cannot listen on {transport} {} for {}; end what uses it, or move the fleet with --network 127.X.0.0/16",
                self.address, self.purpose
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::{NodeFile, SourceFile};

    use super::*;

    fn regions() -> Vec<RegionId> {
        ["ap-southeast", "eu-west", "us-east"].map(|name| RegionId::new(name).expect("a name")).to_vec()
    }

    #[test]
    fn regions_have_addresses_in_the_order_of_their_names() {
        let network = "127.42.0.0/16".parse().expect("a network");
        let plan = Plan::new(Path::new("fleet"), &regions(), 1, network, false).expect("a plan");
        let https: Vec<String> = plan.nodes.iter().map(|node| node.https().to_string()).collect();
        assert_eq!(https, ["127.42.1.1:8443", "127.42.2.1:8443", "127.42.3.1:8443"]);
        assert_eq!(network.moved("http://127.10.3.1:9101"), "http://127.42.3.1:9101");
        assert!("127.0.0.0/16".parse::<Network>().is_err() && "10.1.0.0/16".parse::<Network>().is_err());
    }

    #[test]
    fn a_node_file_parses_and_names_the_relay_in_place_of_the_peer() {
        for (with_relay, expected) in [(false, "127.10.1.1:8700"), (true, "127.10.0.1:7064")] {
            let plan = Plan::new(Path::new("fleet"), &regions(), 1, SHIPPED_NETWORK, with_relay).expect("a plan");
            let text = plan.node_file(1);
            let file = NodeFile::parse(&SourceFile { path: "node.yaml".into(), text }).expect("a node file");
            assert_eq!(file.node.as_str(), "eu-west-1");
            let peer = NodeName::new("ap-southeast-1").expect("a name");
            assert_eq!(file.peers[&peer].address.to_string(), expected);
        }
    }

    #[test]
    fn more_nodes_than_the_relay_joins_are_refused_with_the_number_that_fits() {
        let regions: Vec<RegionId> =
            (1..=8).map(|number| RegionId::new(&format!("region-{number}")).expect("a name")).collect();
        let check = |nodes, with_relay| Plan::new(Path::new("fleet"), &regions, nodes, SHIPPED_NETWORK, with_relay);
        let refused = check(9, true).expect_err("72 nodes").to_string();
        assert!(refused.contains("use `--nodes-per-region 8`"), "{refused}");
        assert!(check(8, true).is_ok() && check(9, false).is_ok());
    }

    #[test]
    fn several_nodes_of_a_region_meet_each_other_directly_and_are_all_named_in_dns() {
        let plan = Plan::new(Path::new("fleet"), &regions(), 3, SHIPPED_NETWORK, true).expect("a plan");
        let text = plan.node_file(4);
        let file = NodeFile::parse(&SourceFile { path: "node.yaml".into(), text }).expect("a node file");
        assert_eq!((file.node.as_str(), file.peers.len()), ("eu-west-2", 8));
        let founders: Vec<&str> = file.bootstrap.iter().map(NodeName::as_str).collect();
        assert_eq!(founders, ["ap-southeast-1", "eu-west-1", "us-east-1"]);
        let address = |name: &str| file.peers[&NodeName::new(name).expect("a name")].address.to_string();
        assert_eq!(address("eu-west-3"), "127.10.2.3:8700");
        assert!(address("us-east-1").starts_with("127.10.0.1:"));
        let text = plan.with_all_addresses("region: eu-west\naddresses: [127.10.2.1]\n");
        assert_eq!(text, "region: eu-west\naddresses: [127.10.2.1, 127.10.2.2, 127.10.2.3]\n");
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = holder.local_addr().expect("bound");
        let listener = Listener { address, transport: Transport::Tcp, purpose: "DNS of eu-west-1".into() };
        let error = format!("{:#}", listener.check_free().expect_err("taken"));
        assert!(error.contains(&address.to_string()) && error.contains("DNS of eu-west-1"), "{error}");
    }
}
