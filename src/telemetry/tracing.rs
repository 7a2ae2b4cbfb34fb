//! Spans: one for each decision that is traced, a child for each store call, exported by OTLP.
//!
//! Whether a decision is traced is its caller's choice (the `traceparent` that Envoy sends); only without one does the
//! sampling rate decide. A decision that is not traced has no span at all.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tracing::{Span, Subscriber, field, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::Error;

/// The target of all spans that are exported.
const TARGET: &str = "tollgate::spans";

/// How often an unreachable collector is worth a warning.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Where spans go.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Export spans; also on when an OTLP endpoint is set.
    pub enabled: bool,
    /// `service.name`, if OTEL_SERVICE_NAME is not set.
    pub service_name: String,
    /// `service.namespace`; empty for none.
    pub service_namespace: String,
    /// `service.instance.id`; random if empty.
    pub service_instance_id: String,
    /// OTLP over HTTP in place of gRPC.
    pub http: bool,
    /// The share of decisions that are traced when their caller has not decided, from 0 to 1.
    pub sampling_rate: f64,
}

/// Makes the spans of decisions, if they are exported at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing {
    enabled: bool,
}

/// What a span says of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// The domain.
    pub domain: &'a str,
    /// The rule that decided; empty if none.
    pub rule: &'a str,
    /// The limit that decided, as `100/minute`; empty if none.
    pub limit: &'a str,
    /// Whole hits left under it.
    pub remaining: u64,
    /// Why: one of a closed set.
    pub reason: &'a str,
    /// Whether the request may pass.
    pub admitted: bool,
}

impl Tracing {
    /// Spans, if `enabled` and a subscriber exports them.
    pub fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    /// The span of a decision, a child of the one that its caller names; none if that is not sampled.
    pub fn decision(self, headers: &HeaderMap) -> Span {
        if !self.enabled {
            return Span::none();
        }
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        let caller = parent.span().span_context().clone();
        if caller.is_valid() && !caller.is_sampled() {
            return Span::none();
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "ratelimit.should_rate_limit",
            otel.kind = "server",
            rpc.system = "grpc",
            domain = field::Empty,
            rule = field::Empty,
            limit = field::Empty,
            remaining = field::Empty,
            reason = field::Empty,
            admitted = field::Empty,
        );
        if caller.is_valid() {
            // It fails only for a span that is not exported.
            let _ = span.set_parent(parent);
        }
        span
    }
}

/// The span of a store call within the current span; none if that is none.
pub fn store_call(store: &'static str, keys: usize) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "store.transact",
        otel.kind = "client",
        db.system.name = store,
        db.operation.name = "transact",
        keys,
        error.type = field::Empty,
    )
}

/// Says on the current span what was decided.
pub fn record(decide: impl FnOnce(&mut dyn FnMut(Decision<'_>))) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    decide(&mut |decision| {
        span.record("domain", decision.domain);
        span.record("rule", decision.rule);
        span.record("limit", decision.limit);
        span.record("remaining", decision.remaining);
        span.record("reason", decision.reason);
        span.record("admitted", decision.admitted);
    });
}

/// The exporter and its queue, which is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`); none if spans are not exported.
pub(super) fn provider(settings: &Settings) -> Result<Option<SdkTracerProvider>, Error> {
    if !is_wanted(settings) {
        return Ok(None);
    }
    let built = if settings.http {
        Otlp::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .build()
    } else {
        Otlp::builder().with_tonic().build()
    };
    let exporter = built.map_err(|error| Error::Exporter(error.to_string()))?;
    let processor = BatchSpanProcessor::builder(Quiet::new(exporter), Tokio).build();
    let builder = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource(settings));
    let builder = if is_set("OTEL_TRACES_SAMPLER") {
        builder
    } else {
        let ratio = Sampler::TraceIdRatioBased(settings.sampling_rate);
        builder.with_sampler(Sampler::ParentBased(Box::new(ratio)))
    };
    Ok(Some(builder.build()))
}

/// The layer that makes OpenTelemetry spans of ours, and of nobody else's.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tollgate"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.target() == TARGET))
}

fn is_wanted(settings: &Settings) -> bool {
    let disabled =
        std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let endpoint = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    !disabled && (settings.enabled || endpoint.into_iter().any(is_set))
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| !value.is_empty())
}

fn resource(settings: &Settings) -> Resource {
    let instance = match settings.service_instance_id.as_str() {
        "" => format!("{:032x}", rand::random::<u128>()),
        given => given.to_owned(),
    };
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.instance.id", instance));
    let builder = match settings.service_namespace.as_str() {
        "" => builder,
        namespace => {
            builder.with_attribute(KeyValue::new("service.namespace", namespace.to_owned()))
        }
    };
    if is_set("OTEL_SERVICE_NAME") {
        return builder.build();
    }
    builder
        .with_service_name(settings.service_name.clone())
        .build()
}

struct Headers<'h>(&'h HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// An exporter whose failures are a warning now and then, however many they are.
struct Quiet {
    exporter: Otlp,
    begun: Instant,
    /// When the next warning is due, in milliseconds since `begun`.
    next_warning_ms: AtomicU64,
}

impl Quiet {
    fn new(exporter: Otlp) -> Self {
        Self {
            exporter,
            begun: Instant::now(),
            next_warning_ms: AtomicU64::new(0),
        }
    }

    fn warn(&self, error: &dyn fmt::Display) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let every = u64::try_from(WARN_EVERY.as_millis()).unwrap_or(u64::MAX);
        let due = self.next_warning_ms.load(Ordering::Relaxed);
        let next = now.saturating_add(every);
        let order = Ordering::Relaxed;
        if now >= due
            && self
                .next_warning_ms
                .compare_exchange(due, next, order, order)
                .is_ok()
        {
            warn!("spans cannot be exported and are dropped: {error}");
        }
    }
}

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Quiet")
    }
}

impl SpanExporter for Quiet {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result {
            self.warn(error);
        }
        result
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
