//! DNS over TCP (RFC 7766): several queries per connection, answered in order.
//!
//! Written here rather than taken from hickory-server, whose loop bounds neither the connections of one client nor
//! those of all. At a bound the newest connection is closed at once.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode},
    rr::Record,
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::Handler;

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
    let open = Arc::new(Open::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, source)) => {
                    let Some(place) = Place::take(&open, source.ip()) else { continue };
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
        let Some(answer) = respond(message, source, handler).await else { return };
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

/// The answer to one message; `None` when it deserves none.
async fn respond(message: Vec<u8>, source: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(&message)).ok()?;
    // A response is never answered, lest two servers talk for ever.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let Ok(request) = Request::from_bytes(message, source, Protocol::Tcp) else {
        handler.counters.count(ResponseCode::FormErr);
        return form_error(&header);
    };
    let written = Written::default();
    handler.handle_request::<_, TokioTime>(&request, written.clone()).await;
    written.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn form_error(asked: &Header) -> Option<Vec<u8>> {
    let mut metadata = Metadata::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    metadata.response_code = ResponseCode::FormErr;
    let mut bytes = Vec::with_capacity(12);
    let header = Header { metadata, counts: HeaderCounts::default() };
    header.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// Keeps the encoded answer for the connection to write.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Option<Vec<u8>>>>);

#[async_trait::async_trait]
impl ResponseHandler for Written {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}

/// Connections by client address.
#[derive(Default)]
struct Open(Mutex<BTreeMap<IpAddr, usize>>);

/// The right to hold one connection; given back when dropped.
struct Place {
    open: Arc<Open>,
    address: IpAddr,
}

impl Place {
    fn take(open: &Arc<Open>, address: IpAddr) -> Option<Self> {
        let mut counts = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let own = counts.get(&address).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS || own >= MAX_PER_ADDRESS {
            return None;
        }
        counts.insert(address, own + 1);
        Some(Self { open: Arc::clone(open), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}
