//! DNS over UDP: one datagram in, at most one out, one after the other.
//!
//! Written here rather than taken from hickory-server, which starts a task per datagram without bound and answers
//! responses that do not decode. At the bound, the socket's buffer, the kernel drops the newest.

use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::net::UdpSocket;
use tracing::debug;

use super::{Handler, respond::respond};

/// Largest query, in bytes: EDNS lets a client send more than 512, and nothing asked here needs as much.
const MAX_QUERY: usize = 4096;

/// Pause after the socket failed, lest a lasting fault spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped.
pub(super) async fn serve(socket: UdpSocket, handler: Handler) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (len, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "DNS over UDP cannot receive");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // A forged source could make this server talk to itself; nobody asks from port 0.
        if source.port() == 0 {
            continue;
        }
        if let Some(answer) = respond(buffer[..len].to_vec(), source, Protocol::Udp, &handler).await
            && let Err(error) = socket.send_to(&answer, source).await
        {
            debug!(%error, %source, "DNS answer not sent");
        }
    }
}
