//! Probes endpoints as the node asks: a TCP connection, or a GET that must answer 2xx or 3xx.
//! Decides nothing about health; outcomes go back to the node. Bounded: a probe that finds no place fails nobody.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portolan_config::EndpointAddress;
use portolan_node::ProbeRequest;
use portolan_routing::{EndpointId, ProbeOutcome};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

/// Probes under way at once. Further ones are skipped and counted: their endpoint keeps the health it has.
const MAX_PROBES: usize = 256;

/// Outcomes that wait for the node's loop.
const OUTCOMES: usize = 1024;

/// Starts probes and collects their outcomes.
pub struct Prober {
    places: Arc<Semaphore>,
    outcomes: mpsc::Sender<(EndpointId, ProbeOutcome)>,
    running: JoinSet<()>,
    skipped: Arc<AtomicU64>,
}

impl Prober {
    /// A prober and where its outcomes come out.
    pub fn new() -> (Self, mpsc::Receiver<(EndpointId, ProbeOutcome)>) {
        let (outcomes, receiver) = mpsc::channel(OUTCOMES);
        let places = Arc::new(Semaphore::new(MAX_PROBES));
        (Self { places, outcomes, running: JoinSet::new(), skipped: Arc::default() }, receiver)
    }

    /// Starts one probe.
    pub fn start(&mut self, request: ProbeRequest) {
        while self.running.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.skipped.fetch_add(1, Relaxed);
            return;
        };
        let outcomes = self.outcomes.clone();
        self.running.spawn(async move {
            let outcome = probe(&request.address, request.path.as_deref(), request.timeout).await;
            drop(place);
            // Fails only when the node's loop has ended.
            let _ = outcomes.send((request.endpoint, outcome)).await;
        });
    }

    /// Counts probes that found no place.
    pub fn skipped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.skipped)
    }
}

/// Makes one probe.
pub(crate) async fn probe(address: &EndpointAddress, path: Option<&str>, limit: Duration) -> ProbeOutcome {
    match timeout(limit, attempt(address, path)).await {
        Ok(Some(())) => ProbeOutcome::Success,
        _ => ProbeOutcome::Failure,
    }
}

async fn attempt(address: &EndpointAddress, path: Option<&str>) -> Option<()> {
    let stream = connect(address).await.ok()?;
    let Some(path) = path else { return Some(()) };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string().trim_start_matches("http://"))
        .header(header::USER_AGENT, "portolan-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = alongside(connection, sender.send_request(request)).await?.ok()?;
    (response.status().is_success() || response.status().is_redirection()).then_some(())
}

async fn connect(address: &EndpointAddress) -> std::io::Result<TcpStream> {
    match address.host.parse() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, address.port)).await,
        Err(_) => TcpStream::connect((address.host.as_str(), address.port)).await,
    }
}

/// Drives a connection while `exchange` needs it; both end together.
async fn alongside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> Option<T> {
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => Some(done),
        // The connection may end in the same moment in which the answer is complete.
        _ = &mut connection => futures_util::FutureExt::now_or_never(exchange),
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::EndpointAddress;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn check(answer: Option<&'static str>, path: Option<&str>, expected: ProbeOutcome) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let port = listener.local_addr().expect("bound").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.expect("writes"),
                None => std::future::pending().await,
            }
        });
        let address = EndpointAddress { host: "127.0.0.1".into(), port };
        let outcome = probe(&address, path, Duration::from_millis(300)).await;
        server.abort();
        assert_eq!(outcome, expected, "{answer:?} on {path:?}");
    }

    #[tokio::test]
    async fn a_probe_succeeds_on_a_connection_or_on_a_good_status_in_time() {
        check(None, None, ProbeOutcome::Success).await;
        check(None, Some("/health"), ProbeOutcome::Failure).await;
        check(Some("HTTP/1.1 204 No Content\r\n\r\n"), Some("/health"), ProbeOutcome::Success).await;
        check(Some("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"), Some("/health"), ProbeOutcome::Failure).await;
        check(Some("SSH-2.0\r\n"), Some("/health"), ProbeOutcome::Failure).await;
    }

    #[tokio::test]
    async fn a_probe_of_a_closed_port_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let address = EndpointAddress { host: "127.0.0.1".into(), port };
        assert_eq!(probe(&address, None, Duration::from_secs(1)).await, ProbeOutcome::Failure);
    }
}
