//! Which decisions are traced from the start: those that their caller samples, and a share of those without a caller.

use http::HeaderMap;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use super::caller::Caller;
use super::export::set;

/// Marks a context: its span is exported, since that has been decided.
#[derive(Debug)]
pub(super) struct Chosen;

/// The sampler that the settings name.
#[derive(Clone, Debug)]
pub(super) struct Head(Sampler);

impl Head {
    /// What OTEL_TRACES_SAMPLER names; else the caller's choice, and a share of `rate` without one.
    pub(super) fn new(rate: f64) -> Self {
        let share = || {
            let share = set("OTEL_TRACES_SAMPLER_ARG").and_then(|share| share.parse().ok());
            Sampler::TraceIdRatioBased(share.unwrap_or(1.0))
        };
        let by_parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
        Self(match set("OTEL_TRACES_SAMPLER").as_deref() {
            None => by_parent(Sampler::TraceIdRatioBased(rate)),
            Some("always_on") => Sampler::AlwaysOn,
            Some("always_off") => Sampler::AlwaysOff,
            Some("traceidratio") => share(),
            Some("parentbased_always_off") => by_parent(Sampler::AlwaysOff),
            Some("parentbased_traceidratio") => by_parent(share()),
            // As OpenTelemetry has it for what it does not know.
            Some(_) => by_parent(Sampler::AlwaysOn),
        })
    }

    /// The context of a decision's span; none if it is not traced.
    pub(super) fn choose(&self, caller: Option<Caller>, headers: &HeaderMap) -> Option<Context> {
        let (parent, trace) = match caller {
            Some(caller) if !caller.is_sampled => return None,
            Some(caller) => {
                let parent = Context::new().with_remote_span_context(caller.context(Some(headers)));
                (Some(parent), caller.trace())
            }
            None => (None, TraceId::from(rand::random::<u128>())),
        };
        let sampled = self.sample(parent.as_ref(), trace, "", &SpanKind::Server, &[], &[]);
        let is_chosen = sampled.decision == SamplingDecision::RecordAndSample;
        is_chosen.then(|| parent.unwrap_or_default().with_value(Chosen))
    }

    fn sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        self.0
            .should_sample(parent, trace, name, kind, attributes, links)
    }
}

impl ShouldSample for Head {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        match parent.filter(|parent| parent.get::<Chosen>().is_some()) {
            Some(parent) => SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: parent.span().span_context().trace_state().clone(),
            },
            None => self.sample(parent, trace, name, kind, attributes, links),
        }
    }
}
