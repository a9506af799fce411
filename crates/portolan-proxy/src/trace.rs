//! Decides the ids of a request: its `X-Request-Id`, its W3C trace context and, when spans are exported, its span.
//!
//! Never trusts a malformed id: it is replaced. Without a tracer a client's context passes unchanged, because a parent
//! that nobody exports would break the trace. Source: W3C Trace Context, §3.2.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _,
    },
};

use crate::head::{TRACEPARENT, client_request_id};

/// A tracer that spans are started with; cheap to clone.
#[derive(Clone)]
pub struct SpanTracer(Arc<BoxedTracer>);

impl SpanTracer {
    /// Takes a tracer of any exporter.
    pub fn new(tracer: BoxedTracer) -> Self {
        Self(Arc::new(tracer))
    }
}

impl fmt::Debug for SpanTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanTracer")
    }
}

/// The ids of one request.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Its `X-Request-Id`.
    pub request_id: HeaderValue,
    /// What upstreams get as `traceparent`.
    pub traceparent: HeaderValue,
    /// Whether the client's trace goes on.
    pub continues_trace: bool,
    /// Its span.
    pub span: Option<BoxedSpan>,
}

impl Ids {
    /// Takes the client's ids over where they are sound and makes new ones where not.
    pub fn new(headers: &HeaderMap, tracer: Option<&SpanTracer>, mut random: impl FnMut() -> u64) -> Self {
        let request_id = client_request_id(headers).unwrap_or_else(|| hex_value(&[random(), random()]));
        let client = headers.get(TRACEPARENT).filter(|_| headers.get_all(TRACEPARENT).iter().count() == 1);
        let parent = client.and_then(parse);
        let Some(tracer) = tracer else {
            let kept = client.filter(|_| parent.is_some()).cloned();
            let continues_trace = kept.is_some();
            // An id of zeros is invalid.
            let traceparent = kept.unwrap_or_else(|| render([random(), random() | 1], random().max(1), 0));
            return Self { request_id, traceparent, continues_trace, span: None };
        };
        let mut context = Context::new();
        let continues_trace = parent.is_some();
        if let Some(parent) = parent {
            context = context.with_remote_span_context(parent);
        }
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        let span = tracer.0.build_with_context(builder, &context);
        let own = span.span_context();
        let trace = u128::from_be_bytes(own.trace_id().to_bytes());
        let id = u64::from_be_bytes(own.span_id().to_bytes());
        let traceparent = render([(trace >> 64) as u64, trace as u64], id, own.trace_flags().to_u8());
        Self { request_id, traceparent, continues_trace, span: Some(span) }
    }

    /// The trace id within `traceparent`.
    pub fn trace_id(traceparent: &HeaderValue) -> &str {
        traceparent.to_str().ok().and_then(|text| text.get(3..35)).unwrap_or_default()
    }
}

/// Ends a span with what came of its request.
pub(crate) fn end_span(mut span: BoxedSpan, attributes: Vec<KeyValue>, failed: bool) {
    span.set_attributes(attributes);
    if failed {
        span.set_status(Status::error(""));
    }
    span.end();
}

fn parse(value: &HeaderValue) -> Option<SpanContext> {
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    let sized = lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(span, 16) && lower_hex(flags, 2);
    // Version 00 ends after the flags; later versions may go on; ff is forbidden.
    if !sized || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

fn render(trace: [u64; 2], span: u64, flags: u8) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut text[3..19], trace[0]);
    write_hex(&mut text[19..35], trace[1]);
    write_hex(&mut text[36..52], span);
    text[54] = b'0' + (flags & 1);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a field value")
}

fn hex_value(words: &[u64; 2]) -> HeaderValue {
    let mut text = [0; 32];
    write_hex(&mut text[..16], words[0]);
    write_hex(&mut text[16..], words[1]);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a field value")
}

fn write_hex(text: &mut [u8], word: u64) {
    for (index, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(word >> (60 - 4 * index) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt as _, noop::NoopTracer};

    use super::*;

    fn traceparent_for(sent: Option<&'static str>) -> (String, bool) {
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(TRACEPARENT, HeaderValue::from_static(sent));
        }
        let ids = Ids::new(&headers, None, || 0xabc);
        (ids.traceparent.to_str().expect("is text").to_owned(), ids.continues_trace)
    }

    #[test]
    fn an_upstream_gets_the_ids_that_are_exported() {
        // Stands in for an exporter: its spans take over the context they are started in.
        let tracer = SpanTracer::new(BoxedTracer::new(Box::new(NoopTracer::new())));
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203330-01";
        let headers = [(TRACEPARENT, HeaderValue::from_static(sent))].into_iter().collect();
        let ids = Ids::new(&headers, Some(&tracer), || 0);
        let exported = Context::new().with_span(ids.span.expect("is started"));
        let exported = exported.span().span_context().clone();
        let rendered = format!("00-{}-{}-01", exported.trace_id(), exported.span_id());
        assert_eq!(ids.traceparent, rendered);
    }

    #[test]
    fn a_sound_trace_goes_on_and_a_malformed_one_is_replaced() {
        const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        const FRESH: &str = "00-0000000000000abc0000000000000abd-0000000000000abc-00";
        assert_eq!(traceparent_for(Some(SOUND)), (SOUND.to_owned(), true));
        for malformed in [
            None,
            Some("x"),
            Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            Some("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra"),
            Some("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ] {
            assert_eq!(traceparent_for(malformed), (FRESH.to_owned(), false), "{malformed:?}");
        }
    }
}
