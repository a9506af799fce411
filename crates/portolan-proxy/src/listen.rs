//! Binds the sockets of all workers: one TCP listener per worker on one port, and one UDP socket for QUIC beside them.
//!
//! Never shares a port with another process by accident: `SO_REUSEPORT` alone would let two fleets of one user listen
//! side by side, so the port is first bound without it.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{proxy::StartError, worker::Listeners};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Free ports tried until one is free for TCP and for UDP.
const PORT_TRIES: usize = 16;

/// Buffer of the QUIC socket in each direction; the system may grant less.
const UDP_BUFFER: usize = 2 << 20;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// For HTTP/1.1 and HTTP/2.
    Tcp,
    /// For HTTP/3.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Bound sockets, one set per worker.
pub(crate) struct Bound {
    pub https: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub listeners: Vec<Listeners>,
}

/// Binds everything, or names the address that cannot be bound.
pub(crate) fn bind(https: Option<SocketAddr>, http: Option<SocketAddr>, workers: usize) -> Result<Bound, StartError> {
    let mut listeners: Vec<Listeners> = (0..workers).map(|_| Listeners::default()).collect();
    let mut bound = Bound { https: None, http: None, listeners: Vec::new() };
    if let Some(address) = https {
        let (tcp, udp) = bind_pair(address, workers)?;
        bound.https = Some(local(&tcp[0], address)?);
        for (worker, socket) in listeners.iter_mut().zip(tcp) {
            worker.https = Some(socket);
        }
        // One QUIC worker serves all connections; ids have room for more.
        listeners[0].quic = Some(udp);
    }
    if let Some(address) = http {
        let tcp = bind_tcp(address, workers).map_err(|source| fault(address, Transport::Tcp, source))?;
        bound.http = Some(local(&tcp[0], address)?);
        for (worker, socket) in listeners.iter_mut().zip(tcp) {
            worker.http = Some(socket);
        }
    }
    bound.listeners = listeners;
    Ok(bound)
}

/// TCP and UDP on one port number. A free port asked for may be free for TCP only; then another one is drawn.
fn bind_pair(address: SocketAddr, workers: usize) -> Result<(Vec<TcpListener>, UdpSocket), StartError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let tcp = bind_tcp(address, workers).map_err(|source| fault(address, Transport::Tcp, source))?;
        let at = local(&tcp[0], address)?;
        tries -= 1;
        match bind_udp(at) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(_) if tries > 0 => {}
            Err(source) => return Err(fault(at, Transport::Udp, source)),
        }
    }
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    if workers == 1 {
        return Ok(vec![listener(address, Reuse::Alone)?]);
    }
    let address = listener(address, Reuse::Alone)?.local_addr()?;
    (0..workers).map(|_| listener(address, Reuse::Shared)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Alone,
    Shared,
}

fn listener(address: SocketAddr, reuse: Reuse) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse == Reuse::Shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(UDP_BUFFER)?;
    socket.set_send_buffer_size(UDP_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn local(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| fault(asked, Transport::Tcp, source))
}

fn fault(address: SocketAddr, transport: Transport, source: io::Error) -> StartError {
    StartError::Bind { address, transport, source }
}
