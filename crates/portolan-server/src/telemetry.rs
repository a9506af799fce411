//! Exports spans of requests to an OTLP collector, when the node file names one. Decides nothing: what a span holds is
//! the data path's, and a collector that is away costs only the spans, a line in the log and a count.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter as Export},
};
use portolan_proxy::SpanTracer;

use crate::{error::Error, identity::NodeIdentity};

/// Longest wait for the collector.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The exporter while it runs.
pub struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Connects lazily to `endpoint` (gRPC). Spans that the collector did not take are counted in `lost`. Must be called on the runtime that is to carry the export.
    pub fn start(endpoint: &str, me: &NodeIdentity, lost: Arc<AtomicU64>) -> Result<Self, Error> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| Error::Telemetry { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
        let resource = Resource::builder()
            .with_service_name("portolan")
            .with_attribute(KeyValue::new("service.instance.id", me.name.to_string()))
            .with_attribute(KeyValue::new("cloud.region", me.region.to_string()))
            .build();
        let exporter = Watched { exporter, endpoint: endpoint.to_owned(), lost, away: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Self(provider))
    }

    /// What the data path starts its spans with.
    pub fn tracer(&self) -> SpanTracer {
        SpanTracer::new(BoxedTracer::new(Box::new(self.0.tracer("portolan"))))
    }

    /// Sends what waits, as far as the collector takes it. Blocks up to the export's timeout.
    pub fn stop(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(TIMEOUT) {
            tracing::debug!(%error, "spans were left unsent");
        }
    }
}

/// An exporter whose failures are seen: one line when the collector goes away, one when it is back.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    endpoint: String,
    lost: Arc<AtomicU64>,
    away: AtomicBool,
}

impl Export for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let outcome = self.exporter.export(batch).await;
        let was_away = self.away.swap(outcome.is_err(), AcqRel);
        let endpoint = &self.endpoint;
        match &outcome {
            Ok(()) if was_away => tracing::info!(endpoint, "the collector takes spans again"),
            Ok(()) => {}
            Err(error) => {
                self.lost.fetch_add(spans, Relaxed);
                if !was_away {
                    tracing::warn!(endpoint, %error, "the collector does not take spans, they are lost");
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };
    use opentelemetry::trace::{Span as _, Tracer as _};
    use portolan_model::{NodeName, RegionId};
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;

    /// Takes every export and answers as gRPC does.
    async fn collect(listener: TcpListener, exports: mpsc::UnboundedSender<(String, Bytes)>) {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = service_fn(move |request: Request<Incoming>| {
            let exports = exports.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                exports.send((path, body)).expect("the test listens");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let body = Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
                let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                let response = Response::builder().header("content-type", "application/grpc").body(body);
                Ok::<_, Infallible>(response.expect("a response"))
            }
        });
        // Ends with an error when the exporter leaves.
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    fn me() -> NodeIdentity {
        NodeIdentity {
            region: RegionId::new("eu-west").expect("a name"),
            name: NodeName::new("eu-west-1").expect("a name"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spans_that_no_collector_takes_are_counted() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let lost = Arc::new(AtomicU64::new(0));
        let telemetry = Telemetry::start(&format!("http://{nobody}"), &me(), Arc::clone(&lost)).expect("starts");
        for _ in 0..3 {
            telemetry.0.tracer("portolan").start("request").end();
        }
        tokio::task::spawn_blocking(move || telemetry.stop()).await.expect("stops");
        assert_eq!(lost.load(Relaxed), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spans_reach_the_collector_with_node_and_region() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (exports, mut exported) = mpsc::unbounded_channel();
        let collector = tokio::spawn(collect(listener, exports));
        let telemetry = Telemetry::start(&endpoint, &me(), Arc::default()).expect("starts");
        telemetry.0.tracer("portolan").start("request").end();
        tokio::task::spawn_blocking(move || telemetry.stop()).await.expect("stops");
        let (path, body) = exported.recv().await.expect("an export");
        collector.abort();
        assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        for word in ["request", "eu-west-1", "portolan"] {
            assert!(body.windows(word.len()).any(|part| part == word.as_bytes()), "{word} is missing");
        }
    }
}
