//! Spans: one for each decision that is traced, a child for each store call, exported by OTLP.
//!
//! Whether a decision is traced is its caller's choice (the `traceparent` that Envoy sends); only without one does the
//! sampling rate decide. A decision that is not traced has no span at all.
//!
//! - `export`: where spans go
//! - `secured`: TLS on the way

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub(super) mod export;
mod secured;

/// The target of all spans that are exported.
pub(super) const TARGET: &str = "tollgate::spans";

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
    /// How to speak to the collector; none leaves it to the standard variables.
    pub protocol: Option<Protocol>,
    /// The share of decisions that are traced when their caller has not decided, from 0 to 1.
    pub sampling_rate: f64,
}

/// The two forms of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, by custom on port 4317.
    Grpc,
    /// Protocol buffers over HTTP, by custom on port 4318.
    Http,
}

/// Makes the spans of decisions, if they are exported at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing {
    enabled: bool,
}

/// What a span says of a decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decision<'a> {
    /// The domain.
    pub domain: &'a str,
    /// What was asked for.
    pub descriptors: &'a str,
    /// The rule that decided; empty if none.
    pub rule: &'a str,
    /// Where it stands in the YAML: `descriptors[0]`.
    pub path: &'a str,
    /// The file and the line: `edge.yaml:18`.
    pub source: &'a str,
    /// The plan that has the limit; empty if none.
    pub plan: &'a str,
    /// The limit that decided, as `100/minute`; empty if none.
    pub limit: &'a str,
    /// What was asked of it, costs included.
    pub hits: &'a str,
    /// Whole hits left under it.
    pub remaining: u64,
    /// Whole seconds until the same request would pass, or nothing is used.
    pub reset: u64,
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
            descriptors = field::Empty,
            rule = field::Empty,
            rule.path = field::Empty,
            rule.source = field::Empty,
            plan = field::Empty,
            limit = field::Empty,
            hits = field::Empty,
            remaining = field::Empty,
            reset = field::Empty,
            reason = field::Empty,
            admitted = field::Empty,
            rpc.grpc.status_code = field::Empty,
            otel.status_code = field::Empty,
        );
        if caller.is_valid() {
            // It fails only for a span that is not exported.
            let _ = span.set_parent(parent);
        }
        span
    }
}

/// The span of the decision that is being made; none if it is not traced.
pub fn current() -> Span {
    let current = Span::current();
    if is_ours(&current) {
        current
    } else {
        Span::none()
    }
}

/// The span of a transaction with the store within `decision`, the current span; none if that is none.
pub fn store_call(decision: &Span, store: &'static str, keys: usize) -> Span {
    if decision.is_none() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "store.transact",
        otel.kind = "client",
        db.system.name = store,
        db.operation.name = "transact",
        keys,
        served_from = field::Empty,
        error.type = field::Empty,
        otel.status_code = field::Empty,
    )
}

/// The span of one call of a script at `server`, an address, within that of its transaction; none if that is none.
pub fn script_call(server: &str) -> Span {
    if !is_ours(&Span::current()) {
        return Span::none();
    }
    let address = server.rsplit_once(':');
    let address = address.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let span = info_span!(
        target: TARGET,
        "EVALSHA",
        otel.kind = "client",
        db.system.name = "redis",
        db.operation.name = "EVALSHA",
        server.address = address.map_or(server, |(host, _)| host),
        server.port = field::Empty,
        error.type = field::Empty,
        otel.status_code = field::Empty,
    );
    if let Some((_, port)) = address {
        span.record("server.port", port);
    }
    span
}

/// Says on the current span, if it is of a transaction with the store, what answered it without a call of its own: `memory`,
/// `lease`, or `combined` with others, of which the first that is traced has the call.
pub fn served_from(what: &'static str) {
    current().record("served_from", what);
}

/// Says on `span`, of a call, that it failed and how: one of a closed set.
pub fn failed(span: &Span, kind: &'static str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

/// Says on `span`, of a decision, with which gRPC status it was answered, and whether that is a fault of this service.
pub fn answered(span: &Span, status: i32, is_fault: bool) {
    span.record("rpc.grpc.status_code", status);
    if is_fault {
        span.record("otel.status_code", "ERROR");
    }
}

/// Says on `span`, of a decision, what was decided.
pub fn record(span: &Span, decide: impl FnOnce(&mut dyn FnMut(Decision<'_>))) {
    if span.is_none() {
        return;
    }
    decide(&mut |decision| {
        span.record("domain", decision.domain);
        span.record("descriptors", decision.descriptors);
        span.record("rule", decision.rule);
        span.record("rule.path", decision.path);
        span.record("rule.source", decision.source);
        span.record("plan", decision.plan);
        span.record("limit", decision.limit);
        span.record("hits", decision.hits);
        span.record("remaining", decision.remaining);
        span.record("reset", decision.reset);
        span.record("reason", decision.reason);
        span.record("admitted", decision.admitted);
    });
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

/// Whether a span is one that is exported, and not one of a library's.
fn is_ours(span: &Span) -> bool {
    span.metadata()
        .is_some_and(|metadata| metadata.target() == TARGET)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(flags: &str) -> HeaderMap {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let parent = parent.parse().expect("a header");
        HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), parent)])
    }

    #[test]
    fn what_is_not_traced_has_no_span() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let (on, off) = (Tracing::new(true), Tracing::new(false));
            assert!(off.decision(&headers("01")).is_none());
            assert!(on.decision(&headers("00")).is_none());
            assert!(!on.decision(&headers("01")).is_none());
            assert!(!on.decision(&HeaderMap::new()).is_none());
        });
    }

    #[test]
    fn only_within_a_decision_do_calls_have_spans() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let store_call = || store_call(&current(), "redis", 1);
            assert!(store_call().is_none());
            let foreign = info_span!("connection");
            foreign.in_scope(|| assert!(store_call().is_none()));
            Tracing::new(true).decision(&headers("01")).in_scope(|| {
                let call = store_call();
                assert!(!call.is_none());
                call.in_scope(|| assert!(!script_call("localhost:6379").is_none()));
            });
        });
    }
}
