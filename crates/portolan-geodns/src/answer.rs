//! The words of a question and its answer. Holds no rule; the record formats follow RFC 1035 and RFC 7871.

use std::{net::IpAddr, time::Duration};

use portolan_model::RegionId;

/// Numbers of the query types that get more than an empty answer (IANA "Resource Record (RR) TYPEs").
pub mod qtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Any type; answered with the addresses of both families, or where a zone has none its SOA (RFC 8482 §4.1).
    pub const ANY: u16 = 255;
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The name in lower case, without trailing dot.
    pub name: &'a str,
    /// The type asked for.
    pub qtype: u16,
    /// Whom the answer is for.
    pub client: ClientSubnet,
}

/// The network of the client as far as the query tells.
#[derive(Clone, Copy, Debug)]
pub struct ClientSubnet {
    /// Address of the client network or, without one, of the resolver. For a subnet option of source length 0 the
    /// caller passes the resolver's address too (RFC 7871 §7.2.1).
    pub address: IpAddr,
    /// Bits of `address` that are known: the source prefix length, or the whole address for a resolver. 0 with
    /// `from_ecs` means that the client wants no location of its own used: the whole address counts, the scope is 0.
    pub prefix: u8,
    /// Whether the query carried the client subnet option.
    pub from_ecs: bool,
}

/// Response codes this crate decides (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// The name exists.
    NoError,
    /// The name does not exist in its zone.
    NxDomain,
    /// No zone here holds the name.
    Refused,
}

/// One answer; whoever writes the packet adds the name that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub rcode: Rcode,
    /// Whether a zone here holds the name (the AA flag).
    pub authoritative: bool,
    /// A and AAAA records of the name; all of one region, unless every region is down.
    pub addresses: Vec<IpAddr>,
    /// NS records of the name: host names without trailing dot.
    pub ns: Vec<String>,
    /// The zone's SOA record, where the answer has one.
    pub soa: Option<Soa>,
    /// TTL of the addresses and name servers.
    pub ttl: Duration,
    /// Scope prefix length to echo; `None` when the query carried no client subnet.
    pub ecs_scope: Option<u8>,
    /// The region whose addresses these are, for logs and `explain`.
    pub region: Option<RegionId>,
}

/// A zone's SOA record (RFC 1035 §3.3.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// Where the record belongs.
    pub role: SoaRole,
    /// Owner name, without trailing dot.
    pub zone: String,
    /// Primary name server.
    pub mname: String,
    /// Mailbox of the person in charge, as a name.
    pub rname: String,
    /// Version of the zone.
    pub serial: u32,
    /// Times for zone transfer; there is none, so they only have to be sane (RFC 1912 §2.2).
    pub refresh: Duration,
    /// See `refresh`.
    pub retry: Duration,
    /// See `refresh`.
    pub expire: Duration,
    /// How long a negative answer may be cached (RFC 2308 §4); also the TTL of the record.
    pub minimum: Duration,
}

/// The section a SOA record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoaRole {
    /// It was asked for: answer section.
    Answer,
    /// It proves that nothing is there: authority section (RFC 2308 §3).
    Denial,
}
