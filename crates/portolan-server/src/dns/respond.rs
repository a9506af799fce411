//! From one message to one, over either transport: what is no query is dropped or refused before the handler sees it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
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

use super::Handler;

/// Longest answer over UDP to a query without EDNS, in bytes (RFC 1035 §4.2.1).
const PLAIN_UDP: u16 = 512;

/// The answer to one message; `None` when it deserves none.
pub(super) async fn respond(
    message: Vec<u8>,
    source: SocketAddr,
    protocol: Protocol,
    handler: &Handler,
) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(&message)).ok()?;
    // A response is never answered, whole or broken, lest two servers talk for ever.
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let Ok(request) = Request::from_bytes(message, source, protocol) else {
        handler.counters.count(ResponseCode::FormErr);
        return form_error(&header);
    };
    let written = Written { protocol, bytes: Arc::default() };
    handler.handle_request::<_, TokioTime>(&request, written.clone()).await;
    written.bytes.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn form_error(asked: &Header) -> Option<Vec<u8>> {
    let mut metadata = Metadata::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    metadata.response_code = ResponseCode::FormErr;
    let mut bytes = Vec::with_capacity(12);
    let header = Header { metadata, counts: HeaderCounts::default() };
    header.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// Keeps the encoded answer for the transport to send.
#[derive(Clone)]
struct Written {
    protocol: Protocol,
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
}

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
        let udp = || response.edns().map_or(PLAIN_UDP, |edns| edns.max_payload());
        encoder.set_max_size(if self.protocol == Protocol::Udp { udp() } else { u16::MAX });
        let info = response.destructive_emit(&mut encoder)?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}
