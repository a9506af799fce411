//! Authoritative DNS over UDP and TCP: sockets around the answers of `portolan-geodns`.
//!
//! Decides only what a packet deserves (RFC 1035, 6891, 7871); which addresses a client gets is the table's decision.
//! Never panics on what strangers send, and never lets one of them hold more than a bounded number of connections.

mod reply;
mod respond;
mod subnet;
mod tcp;
mod udp;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use portolan_geodns::{Answer, Query};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tracing::debug;

use crate::error::Error;

/// Size of the UDP socket's receive buffer: about 50 000 queries wait in it before the kernel drops.
const UDP_BUFFER: usize = 4 << 20;

/// Answers one question from the tables in force.
pub type Resolve = Arc<dyn Fn(&Query<'_>) -> Answer + Send + Sync>;

/// The bound sockets, before anything is served.
pub struct DnsSockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// Answers counted by their code.
#[derive(Debug, Default)]
pub struct DnsCounters {
    codes: [AtomicU64; CODES.len()],
}

/// The codes that are given out, with their labels; the last one stands for any other.
const CODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::Refused, "refused"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::BADVERS, "badvers"),
    (ResponseCode::ServFail, "servfail"),
];

impl DnsCounters {
    fn count(&self, code: ResponseCode) {
        let index = CODES.iter().position(|(known, _)| *known == code).unwrap_or(CODES.len() - 1);
        self.codes[index].fetch_add(1, Relaxed);
    }

    /// Answers so far, by the label of their code.
    pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CODES.iter().zip(&self.codes).map(|((_, label), count)| (*label, count.load(Relaxed)))
    }
}

impl DnsSockets {
    /// Binds `address` for UDP and TCP.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |listener| move |source| Error::Listen { listener, address, source };
        let udp = udp_socket(address).map_err(failed("DNS over UDP"))?;
        // With port 0 the system chooses for UDP, and TCP takes the same number.
        let address = udp.local_addr().map_err(failed("DNS over UDP"))?;
        let tcp = tcp_listener(address).map_err(failed("DNS over TCP"))?;
        Ok(Self { udp, tcp })
    }

    /// Where both listen.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves until `tasks` is dropped.
    pub fn serve(self, resolve: Resolve, counters: Arc<DnsCounters>, tasks: &mut JoinSet<()>) {
        let handler = Handler { resolve, counters };
        tasks.spawn(tcp::serve(self.tcp, handler.clone()));
        tasks.spawn(udp::serve(self.udp, handler));
    }
}

/// Turns requests into replies; the same for both transports.
#[derive(Clone)]
pub(crate) struct Handler {
    resolve: Resolve,
    counters: Arc<DnsCounters>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let reply = reply::to(request, &self.resolve);
        self.counters.count(reply.metadata.response_code);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &reply.edns {
            builder.edns(edns);
        }
        let message = builder.build(reply.metadata, &reply.answers, &reply.authorities, &reply.soa, []);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, source = %request.src(), "DNS answer not sent");
                let metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel may grant less (net.core.rmem_max); what it grants is enough to run.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn tcp_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    /// Connections the kernel completes before they are accepted.
    const BACKLOG: i32 = 256;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restarted node must not wait for connections in TIME_WAIT; a port in use is still refused.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests;
