//! Exports spans of requests to an OTLP collector, when the node file names one. Decides nothing: what a span holds is
//! the data path's, and a collector that is away costs only the spans.

use std::time::Duration;

use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use portolan_proxy::SpanTracer;

use crate::{error::Error, identity::NodeIdentity};

/// Longest wait for the collector.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The exporter while it runs.
pub struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Connects lazily to `endpoint` (gRPC). Must be called on the runtime that is to carry the export.
    pub fn start(endpoint: &str, me: &NodeIdentity) -> Result<Self, Error> {
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
