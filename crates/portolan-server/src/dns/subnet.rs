//! The EDNS client subnet option (RFC 7871): when it is well formed, whom it stands for, what is echoed.

use std::net::IpAddr;

use hickory_proto::rr::rdata::opt::{ClientSubnet as Option_, EdnsCode, EdnsOption};
use hickory_server::server::Request;
use portolan_geodns::ClientSubnet;

/// The option breaks RFC 7871 §7.1.2 or §6; answered with FORMERR.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The option of a request. Families and lengths that do not parse are refused by the decoder before.
pub(super) fn of_request(request: &Request) -> Result<Option<Option_>, Malformed> {
    let Some(edns) = &request.edns else { return Ok(None) };
    match edns.options().get_all(EdnsCode::Subnet).as_slice() {
        [] => Ok(None),
        [EdnsOption::Subnet(subnet)] => {
            let subnet = check(*subnet)?;
            if is_written_in(&subnet, request.as_slice()) { Ok(Some(subnet)) } else { Err(Malformed) }
        }
        _ => Err(Malformed),
    }
}

/// Whom the answer is for. A source length of 0 asks not to be located (RFC 7871 §7.1.2): the resolver stands in.
pub(super) fn client(source: IpAddr, subnet: Option<&Option_>) -> ClientSubnet {
    match subnet {
        Some(subnet) if subnet.source_prefix() > 0 => {
            ClientSubnet { address: subnet.addr(), prefix: subnet.source_prefix(), from_ecs: true }
        }
        _ => {
            let address = source.to_canonical();
            ClientSubnet { address, prefix: width(address), from_ecs: subnet.is_some() }
        }
    }
}

/// The option of the reply: family, address and source as asked, and how far the answer holds.
pub(super) fn scope(asked: &Option_, scope: Option<u8>) -> Option_ {
    let scope = if asked.source_prefix() == 0 { 0 } else { scope.unwrap_or(0) };
    Option_::new(asked.addr(), asked.source_prefix(), scope)
}

fn check(subnet: Option_) -> Result<Option_, Malformed> {
    let beyond = match subnet.addr() {
        _ if subnet.source_prefix() > width(subnet.addr()) => return Err(Malformed),
        IpAddr::V4(v4) => v4.to_bits().checked_shl(subnet.source_prefix().into()).unwrap_or(0) != 0,
        IpAddr::V6(v6) => v6.to_bits().checked_shl(subnet.source_prefix().into()).unwrap_or(0) != 0,
    };
    // "The SCOPE PREFIX-LENGTH MUST be 0 in queries"; bits beyond the source length MUST be 0 (§6).
    if beyond || subnet.scope_prefix() != 0 { Err(Malformed) } else { Ok(subnet) }
}

/// The decoder reads no further than the source length, so an address with octets beyond it looks well formed; it does
/// not look the same when written again.
fn is_written_in(subnet: &Option_, message: &[u8]) -> bool {
    let Ok(value) = Vec::<u8>::try_from(subnet) else { return false };
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let option = [&u16::from(EdnsCode::Subnet).to_be_bytes()[..], &len.to_be_bytes(), &value].concat();
    message.windows(option.len()).any(|part| part == option)
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_option(address: &str, source: u8, scope: u8, well_formed: bool) {
        let option = Option_::new(address.parse().expect("an address"), source, scope);
        assert_eq!(check(option).is_ok(), well_formed, "{address}/{source} scope {scope}");
    }

    #[test]
    fn bits_beyond_the_source_length_and_a_scope_in_a_query_are_malformed() {
        check_option("192.0.2.0", 24, 0, true);
        check_option("0.0.0.0", 0, 0, true);
        check_option("192.0.2.1", 32, 0, true);
        check_option("2001:db8::", 56, 0, true);
        check_option("192.0.2.1", 24, 0, false);
        check_option("192.0.2.0", 24, 24, false);
        check_option("192.0.2.0", 33, 0, false);
        check_option("128.0.0.0", 0, 0, false);
    }

    #[test]
    fn a_source_length_of_zero_stands_for_the_resolver_and_echoes_scope_zero() {
        let asked = Option_::new("0.0.0.0".parse().expect("an address"), 0, 0);
        let resolver = "198.51.100.7".parse().expect("an address");
        let client = client(resolver, Some(&asked));
        assert_eq!((client.address, client.prefix, client.from_ecs), (resolver, 32, true));
        assert_eq!(scope(&asked, Some(24)).scope_prefix(), 0);
    }
}
