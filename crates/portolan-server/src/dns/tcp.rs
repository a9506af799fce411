//! DNS over TCP (RFC 7766): several queries per connection, answered in order.
//!
//! Written here rather than taken from hickory-server, whose loop bounds neither the connections of one client nor
//! those of all. At a bound the newest connection is closed at once.

use std::{net::SocketAddr, time::Duration};

use hickory_server::net::xfer::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::{Handler, respond::respond};
use crate::places::Places;

/// How long a connection may be idle, and how long one message may take in either direction (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// Connections of all clients together.
const MAX_CONNECTIONS: usize = 256;

/// Connections of one address: one recursive resolver needs few (RFC 7766 §6.2.2).
const MAX_PER_ADDRESS: usize = 16;

/// Pause after `accept` failed, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Handler) {
    let places = Places::new(MAX_CONNECTIONS, MAX_PER_ADDRESS);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, source)) => {
                    let Some(place) = places.take(source.ip()) else { continue };
                    let handler = handler.clone();
                    connections.spawn(async move {
                        converse(stream, source, &handler).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "DNS over TCP cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Answers the queries of one connection until it is silent, closed or sends what is no DNS message.
async fn converse(mut stream: TcpStream, source: SocketAddr, handler: &Handler) {
    loop {
        let Ok(Ok(message)) = timeout(IDLE, read_message(&mut stream)).await else { return };
        let Some(answer) = respond(message, source, Protocol::Tcp, handler).await else { return };
        let Ok(len) = u16::try_from(answer.len()) else { return };
        let framed = [&len.to_be_bytes(), answer.as_slice()].concat();
        let Ok(Ok(())) = timeout(IDLE, stream.write_all(&framed)).await else { return };
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; len.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
