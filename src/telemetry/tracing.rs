//! Spans: one for each decision that is traced, a child for each store call, exported by OTLP.
//!
//! Whether a decision is traced is its caller's choice (the `traceparent` that Envoy sends); only without one does the
//! sampling rate decide. A decision that is not traced has no span at all, unless it turns out to be one that is always kept.
//!
//! - `caller`: what a caller says of its trace
//! - `sampler`: which decisions are traced from the start
//! - [`always`]: those that are kept all the same, told after the fact
//! - `export`: where spans go
//! - `secured`: TLS on the way

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use opentelemetry::trace::{SpanId, TraceContextExt, TraceId, TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub mod always;
mod caller;
pub(super) mod export;
mod sampler;
mod secured;

use always::{Always, Unseen};
use caller::Caller;
use sampler::Head;

/// The target of all spans that are exported.
pub(super) const TARGET: &str = "tollgate::spans";

/// The scope that they are made in.
const TRACER: &str = "tollgate";

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
    /// Which are kept whatever the sampler says.
    pub always: always::Settings,
}

/// The two forms of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, by custom on port 4317.
    Grpc,
    /// Protocol buffers over HTTP, by custom on port 4318.
    Http,
}

/// Makes the spans of decisions, if they are exported at all. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tracing(Option<Arc<Exported>>);

#[derive(Debug)]
struct Exported {
    head: Head,
    /// None if no decision is kept whatever the sampler says.
    always: Option<Always>,
}

/// How a decision is traced, as it begins.
#[derive(Debug)]
pub struct Begun {
    /// The decision's; none if it is not traced from the start.
    pub span: Span,
    /// Its caller's, for a span that is made after the fact.
    caller: Option<Caller>,
}

/// Where a decision is found among the traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The trace.
    pub trace: TraceId,
    /// The span in it.
    pub span: SpanId,
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
    /// Spans for `provider`; none without one.
    pub fn new(settings: &Settings, provider: Option<&SdkTracerProvider>) -> Self {
        Self(provider.map(|provider| {
            Arc::new(Exported {
                head: Head::new(settings.sampling_rate),
                always: Always::new(&settings.always, provider.tracer(TRACER)),
            })
        }))
    }

    /// Begins a decision: its span is a child of the one that its caller names, and none if that is not sampled. None if nothing is
    /// exported.
    pub fn begin(&self, headers: &HeaderMap) -> Option<Box<Begun>> {
        let exported = self.0.as_ref()?;
        let caller = Caller::of(headers);
        let span = match exported.head.choose(caller, headers) {
            None => Span::none(),
            Some(context) => {
                let span = decision();
                // It fails only for a span that is not exported.
                let _ = span.set_parent(context);
                span
            }
        };
        Some(Box::new(Begun { span, caller }))
    }

    /// What may be told after the fact of a decision that came at `begun`; none if it is traced anyway, or never.
    pub fn unseen(&self, begun: &Begun, at: Instant) -> Option<Unseen<'_>> {
        let always = self.0.as_ref()?.always.as_ref()?;
        begun
            .span
            .is_none()
            .then(|| Unseen::new(always, begun.caller, at))
    }
}

/// The span of a decision, of which nothing is said yet.
fn decision() -> Span {
    info_span!(
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
    )
}

/// Where `span`, of a decision, is found; none if it is not exported.
pub fn place(span: &Span) -> Option<Place> {
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_sampled().then(|| Place {
        trace: context.trace_id(),
        span: context.span_id(),
    })
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

/// The span of one call of a script, named by its `digest`, at `server`, an address, within that of its transaction; none if
/// that is none. `slot` is where the keys lie in a cluster.
pub fn script_call(server: &str, digest: &str, slot: Option<u16>) -> Span {
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
        db.stored_procedure.name = digest,
        tollgate.redis.slot = slot,
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

/// Says on `span`, of a transaction with the store, what answered it without a call of its own: `memory`, `lease`, or `combined` with
/// others, of which the first that is traced has the call.
pub fn served_from(span: &Span, what: &'static str) {
    span.record("served_from", what);
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
        .with_tracer(provider.tracer(TRACER))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(flags: &str) -> HeaderMap {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let parent = parent.parse().expect("a header");
        HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), parent)])
    }

    fn tracing(rate: f64) -> Tracing {
        let settings = Settings {
            sampling_rate: rate,
            ..Settings::default()
        };
        Tracing::new(&settings, Some(&SdkTracerProvider::builder().build()))
    }

    #[test]
    fn what_is_not_traced_has_no_span() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let (all, none) = (tracing(1.0), tracing(0.0));
            let span = |tracing: &Tracing, headers: &HeaderMap| {
                let begun = tracing.begin(headers);
                begun.map_or_else(Span::none, |begun| begun.span)
            };
            assert!(span(&Tracing::default(), &headers("01")).is_none());
            assert!(span(&all, &headers("00")).is_none());
            assert!(!span(&all, &headers("01")).is_none());
            assert!(!span(&all, &HeaderMap::new()).is_none());
            assert!(!span(&none, &headers("01")).is_none());
            assert!(span(&none, &HeaderMap::new()).is_none());
        });
    }

    #[test]
    fn only_within_a_decision_do_calls_have_spans() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let store_call = || store_call(&current(), "redis", 1);
            assert!(store_call().is_none());
            let foreign = info_span!("connection");
            foreign.in_scope(|| assert!(store_call().is_none()));
            let begun = tracing(1.0).begin(&headers("01"));
            begun.expect("it is exported").span.in_scope(|| {
                let call = store_call();
                assert!(!call.is_none());
                call.in_scope(|| assert!(!script_call("localhost:6379", "", None).is_none()));
            });
        });
    }
}
