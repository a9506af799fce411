//! From one request to one reply: which code, which records in which section, which EDNS options.
//! Follows RFC 1035 §4, RFC 2308 §3 (denials), RFC 6891 §6 (EDNS), RFC 7871 §7 (client subnet), RFC 8482 (ANY).

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{NS, SOA, opt::EdnsOption},
    },
};
use hickory_server::server::Request;
use portolan_geodns::{Query, Rcode, Soa, SoaRole};

use super::{Resolve, subnet};

/// Largest UDP answer, in bytes: fits every path without fragments (DNS flag day 2020).
const MAX_UDP_PAYLOAD: u16 = 1232;

/// A reply, ready to be encoded.
pub(super) struct Reply {
    pub(super) metadata: Metadata,
    pub(super) edns: Option<Edns>,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) soa: Vec<Record>,
}

/// Answers `request`.
pub(super) fn to(request: &Request, resolve: &Resolve) -> Reply {
    let mut reply = Reply::empty(request);
    if let Err(code) = fill(&mut reply, request, resolve) {
        reply.metadata.response_code = code;
        if let Some(edns) = &mut reply.edns {
            // The high bits of the code are carried by the OPT record (RFC 6891 §6.1.3).
            edns.set_rcode_high(code.high());
        }
    }
    reply
}

impl Reply {
    fn empty(request: &Request) -> Self {
        // An error code or AA in the query is noise; only what a response must repeat is taken over.
        let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
        metadata.recursion_desired = request.metadata.recursion_desired;
        metadata.checking_disabled = request.metadata.checking_disabled;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().min(MAX_UDP_PAYLOAD));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        Self { metadata, edns, answers: Vec::new(), authorities: Vec::new(), soa: Vec::new() }
    }
}

fn fill(reply: &mut Reply, request: &Request, resolve: &Resolve) -> Result<(), ResponseCode> {
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [question] = request.queries.queries() else { return Err(ResponseCode::FormErr) };
    let subnet = subnet::of_request(request).map_err(|_| ResponseCode::FormErr)?;
    if question.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return Err(ResponseCode::Refused);
    }
    let ascii = question.name().to_ascii();
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    let client = subnet::client(request.src().ip(), subnet.as_ref());
    let answer = resolve(&Query { name, qtype: question.query_type().into(), client });

    if let (Some(edns), Some(asked)) = (&mut reply.edns, subnet) {
        let scope = subnet::scope(&asked, answer.ecs_scope);
        edns.options_mut().insert(EdnsOption::Subnet(scope));
    }
    match answer.rcode {
        Rcode::NoError => {}
        Rcode::NxDomain => reply.metadata.response_code = ResponseCode::NXDomain,
        Rcode::Refused => return Err(ResponseCode::Refused),
    }
    reply.metadata.authoritative = answer.authoritative;
    let owner = Name::from(question.name());
    let ttl = u32::try_from(answer.ttl.as_secs()).unwrap_or(u32::MAX);
    for address in &answer.addresses {
        reply.answers.push(Record::from_rdata(owner.clone(), ttl, address_data(*address)));
    }
    for host in &answer.ns {
        let host = Name::from_ascii(host).map_err(|_| ResponseCode::ServFail)?;
        reply.answers.push(Record::from_rdata(owner.clone(), ttl, RData::NS(NS(rooted(host)))));
    }
    if let Some(soa) = &answer.soa {
        let record = soa_record(soa).ok_or(ResponseCode::ServFail)?;
        match soa.role {
            SoaRole::Answer => reply.answers.push(record),
            SoaRole::Denial => reply.soa.push(record),
        }
    }
    Ok(())
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

fn soa_record(soa: &Soa) -> Option<Record> {
    let name = |text: &str| Name::from_ascii(text).ok().map(rooted);
    let seconds = |duration: std::time::Duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
    let minimum = u32::try_from(soa.minimum.as_secs()).unwrap_or(u32::MAX);
    let data = SOA::new(
        name(&soa.mname)?,
        name(&soa.rname)?,
        soa.serial,
        seconds(soa.refresh),
        seconds(soa.retry),
        seconds(soa.expire),
        minimum,
    );
    Some(Record::from_rdata(name(&soa.zone)?, minimum, RData::SOA(data)))
}

fn rooted(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}
