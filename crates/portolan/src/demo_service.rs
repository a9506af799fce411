//! A demo upstream: answers every request with what it received, as JSON, and can be told to be slow or to fail.
//!
//! Decides nothing about the gateway. `/__control?delay=200ms&fail=503&healthy=false` changes the instance until the
//! next such call; `?delay=…`, `?status=…`, `?bytes=…` and `?mirror=true` change one answer. `/healthz` says 200 or 503.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use portolan_model::{ByteSize, parse_duration};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::mpsc};

/// Who this instance says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The region named in every answer.
    pub region: String,
    /// The instance named in every answer.
    pub instance: String,
}

/// What every answer of the instance is subject to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Control {
    delay: Duration,
    fail: Option<StatusCode>,
    healthy: bool,
}

struct Service {
    identity: Identity,
    control: Mutex<Control>,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Serves on `listen` until the process ends.
pub async fn serve(listen: SocketAddr, identity: Identity) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let control = Control { delay: Duration::ZERO, fail: None, healthy: true };
    let service = Arc::new(Service { identity, control: Mutex::new(control) });
    println!("demo service {} of {} listens on http://{listen}", service.identity.instance, service.identity.region);
    loop {
        // A connection lost before it was accepted, or no descriptor left: neither ends the service.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let handler = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // A client that goes away is its own affair.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), handler).await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let query = Query::of(request.uri().query());
        match request.uri().path() {
            "/__control" => self.change(&query),
            "/healthz" => {
                let status = if self.control().healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                plain(status, json!({ "healthy": status.is_success() }))
            }
            _ => self.echo(request, &query).await,
        }
    }

    fn control(&self) -> Control {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, query: &Query) -> Answer {
        match query.control() {
            Ok(control) => {
                let answer = json!({
                    "delay_ms": control.delay.as_millis() as u64,
                    "fail": control.fail.map(|status| status.as_u16()),
                    "healthy": control.healthy,
                });
                *self.control.lock().unwrap_or_else(PoisonError::into_inner) = control;
                plain(StatusCode::OK, answer)
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, json!({ "error": error.to_string() })),
        }
    }

    async fn echo(&self, request: Request<Incoming>, query: &Query) -> Answer {
        let control = self.control();
        let one = match query.one_answer() {
            Ok(one) => one,
            Err(error) => return plain(StatusCode::BAD_REQUEST, json!({ "error": error.to_string() })),
        };
        let delay = control.delay + one.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let status = control.fail.or(one.status).unwrap_or(StatusCode::OK);
        if one.mirror {
            return mirror(request, status);
        }
        if let Some(ByteSize(size)) = one.bytes {
            return filler(size, status);
        }
        let (parts, body) = request.into_parts();
        let Ok(received) = Received::read(body).await else {
            return plain(StatusCode::BAD_REQUEST, json!({ "error": "the body was cut off" }));
        };
        let answer = json!({
            "region": self.identity.region,
            "instance": self.identity.instance,
            "method": parts.method.as_str(),
            "path": parts.uri.path(),
            "query": parts.uri.query(),
            "headers": header_object(&parts.headers),
            "body_bytes": received.bytes,
            "trailers": header_object(&received.trailers),
        });
        with_trailers(status, answer, received.trailers)
    }
}

/// What is left of a request body once it was read.
struct Received {
    bytes: u64,
    trailers: HeaderMap,
}

impl Received {
    async fn read(mut body: Incoming) -> Result<Self, hyper::Error> {
        let mut received = Self { bytes: 0, trailers: HeaderMap::new() };
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => received.bytes += data.len() as u64,
                Err(frame) => received.trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
        Ok(received)
    }
}

/// The parameters of a request, decoded no further than demo switches need.
struct Query(Vec<(String, String)>);

/// How one answer departs from the usual one.
#[derive(Default)]
struct OneAnswer {
    delay: Duration,
    status: Option<StatusCode>,
    bytes: Option<ByteSize>,
    mirror: bool,
}

impl Query {
    fn of(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (k.into(), v.into())).collect())
    }

    fn control(&self) -> Result<Control> {
        let mut control = Control { delay: Duration::ZERO, fail: None, healthy: true };
        for (key, value) in &self.0 {
            match key.as_str() {
                "delay" => control.delay = parse_duration(value)?,
                "fail" => control.fail = Some(status(value)?),
                "healthy" => control.healthy = value.parse()?,
                other => return Err(anyhow!("`{other}` is not a switch; write delay, fail or healthy")),
            }
        }
        Ok(control)
    }

    fn one_answer(&self) -> Result<OneAnswer> {
        let mut one = OneAnswer::default();
        for (key, value) in &self.0 {
            match key.as_str() {
                "delay" => one.delay = parse_duration(value)?,
                "status" => one.status = Some(status(value)?),
                "bytes" => one.bytes = Some(value.parse()?),
                "mirror" => one.mirror = value.parse()?,
                _ => {}
            }
        }
        Ok(one)
    }
}

fn status(text: &str) -> Result<StatusCode> {
    text.parse().with_context(|| format!("`{text}` is not a status"))
}

fn plain(status: StatusCode, answer: Value) -> Answer {
    with_trailers(status, answer, HeaderMap::new())
}

/// An answer that ends with the trailers of the request, so that a test sees them pass both ways.
fn with_trailers(status: StatusCode, answer: Value, trailers: HeaderMap) -> Answer {
    let mut text = answer.to_string();
    text.push('\n');
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if trailers.is_empty() {
        return response.map(|()| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    }
    let names: Vec<&str> = trailers.keys().map(header::HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::TRAILER, names);
    }
    let body = Full::new(Bytes::from(text)).with_trailers(std::future::ready(Some(Ok(trailers))));
    response.map(|()| body.map_err(|never: Infallible| match never {}).boxed())
}

/// The request body sent back as it arrives.
fn mirror(request: Request<Incoming>, status: StatusCode) -> Answer {
    let mut response = Response::new(request.into_body().boxed());
    *response.status_mut() = status;
    response
}

/// `size` bytes, produced no faster than they are read.
fn filler(size: u64, status: StatusCode) -> Answer {
    let chunk_of_dots = Bytes::from_static(&[b'.'; 16 * 1024]);
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut left = size;
        while left > 0 {
            let chunk = chunk_of_dots.slice(..chunk_of_dots.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= chunk.len() as u64;
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Channelled(receiver).boxed());
    *response.status_mut() = status;
    response
}

/// A body fed by a bounded channel.
struct Channelled(mpsc::Receiver<Bytes>);

impl Body for Channelled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// Headers by name; several of one name stand in one array.
fn header_object(headers: &HeaderMap) -> Value {
    let mut object = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::from(values) };
        object.insert(name.to_string(), value);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_and_wrong_ones_named() {
        let control = Query::of(Some("delay=200ms&fail=503&healthy=false")).control().expect("known switches");
        let expected =
            Control { delay: Duration::from_millis(200), fail: Some(StatusCode::SERVICE_UNAVAILABLE), healthy: false };
        assert_eq!(control, expected);
        assert!(Query::of(Some("dealy=1s")).control().is_err_and(|error| error.to_string().contains("dealy")));
        assert!(Query::of(Some("delay=1")).control().is_err());
    }
}
