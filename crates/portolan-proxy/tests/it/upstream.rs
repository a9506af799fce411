//! Upstreams for tests: one that tells what it received, and ones that misbehave.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Starts an upstream that echoes: method, target, header fields in order of name, an empty line, body. Trailers of the
/// request come back as trailers. Returns its address and a count of its requests.
pub async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let address = serve(move |stream| {
        let count = Arc::clone(&counted);
        async move {
            let service = service_fn(move |request| {
                count.fetch_add(1, SeqCst);
                answer(request)
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (address, count)
}

/// Starts an upstream that runs `connection` on each connection.
pub async fn serve<F>(connection: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
    address
}

/// Starts an upstream that reads something and answers with these bytes, then closes. Counts its connections.
pub async fn canned(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let address = serve(move |mut stream| {
        counted.fetch_add(1, SeqCst);
        async move {
            let mut scratch = [0; 4096];
            let _ = stream.read(&mut scratch).await;
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    (address, count)
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let collected = body.collect().await;
    let (body, trailers) = match collected {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            (collected.to_bytes(), trailers)
        }
        Err(error) => (Bytes::from(format!("body failed: {error}")), None),
    };
    let mut fields: Vec<String> =
        head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?"))).collect();
    fields.sort();
    let text = format!("{} {}\n{}\n\n{}", head.method, head.uri, fields.join("\n"), String::from_utf8_lossy(&body));
    let mut frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from(text)))];
    let mut response = Response::builder().header("connection", "x-hop").header("x-hop", "1").header("x-kept", "1");
    if let Some(trailers) = trailers {
        response = response.header("trailer", "x-sum");
        frames.push(Ok(Frame::trailers(trailers)));
    }
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(response.body(BodyExt::boxed(body)).expect("fields are sound"))
}

/// Trailers for tests.
pub fn trailers() -> HeaderMap {
    [(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))].into_iter().collect()
}
