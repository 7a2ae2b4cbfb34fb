//! Decisions that are kept whatever the head sampler says: refused ones, failed ones, slow ones.
//!
//! Which they are is known when they are over, and only then are their spans made, with the times at which they began and
//! ended. Until then a decision carries nothing but the name of its caller's span. A flood of refusals is not to become a
//! flood of spans, so there is a most of them a second.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

use super::caller::Caller;
use super::sampler::Chosen;
use super::{Decision, Place};

/// Which decisions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Those of these kinds.
    pub kinds: Kinds,
    /// From which time to answer on one is slow.
    pub slow: Duration,
    /// The most spans of decisions a second.
    pub per_second: u32,
}

/// Kinds of decisions, as TRACE_ALWAYS names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    refused: bool,
    error: bool,
    slow: bool,
}

/// Why a decision is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The store did not decide, or nobody did.
    Error,
    /// It was refused.
    Refused,
    /// It took long.
    Slow,
}

/// What became of a decision that is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It has a span.
    Told,
    /// There were too many in this second.
    Dropped,
}

/// Makes their spans.
#[derive(Debug)]
pub(super) struct Always {
    settings: Settings,
    tracer: SdkTracer,
    budget: Budget,
}

/// A decision without a span, until it turns out to be one that is kept.
#[derive(Debug)]
pub struct Unseen<'a> {
    always: &'a Always,
    caller: Option<Caller>,
    begun: Instant,
    store: OnceLock<Asked>,
    place: OnceLock<Place>,
}

/// How the store was asked.
#[derive(Debug)]
struct Asked {
    store: &'static str,
    at: Instant,
    took: Duration,
    error: Option<&'static str>,
}

/// So many a second.
#[derive(Debug)]
struct Budget {
    begun: Instant,
    per_second: u32,
    /// A second since `begun`, and how many there were in it: each half of the bits.
    spent: AtomicU64,
}

impl FromStr for Kinds {
    type Err = String;

    /// Reads `refused,error,slow`, or some of them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut kinds = Self::default();
        let words = text.split(',').map(str::trim);
        for word in words.filter(|word| !word.is_empty()) {
            match word {
                "refused" => kinds.refused = true,
                "error" => kinds.error = true,
                "slow" => kinds.slow = true,
                _ => return Err(format!("{word} is none of refused, error and slow")),
            }
        }
        Ok(kinds)
    }
}

impl Why {
    /// How many there are.
    pub(in crate::telemetry) const COUNT: usize = Why::Slow as usize + 1;

    /// As it stands in metrics and spans.
    pub fn name(self) -> &'static str {
        match self {
            Why::Error => "error",
            Why::Refused => "refused",
            Why::Slow => "slow",
        }
    }
}

impl Kept {
    /// How many there are.
    pub(in crate::telemetry) const COUNT: usize = Kept::Dropped as usize + 1;

    /// As it stands in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kept::Told => "kept",
            Kept::Dropped => "dropped",
        }
    }
}

impl Always {
    /// None if no decision is kept.
    pub(super) fn new(settings: &Settings, tracer: SdkTracer) -> Option<Self> {
        (settings.kinds != Kinds::default()).then(|| Self {
            settings: *settings,
            tracer,
            budget: Budget {
                begun: Instant::now(),
                per_second: settings.per_second,
                spent: AtomicU64::default(),
            },
        })
    }
}

impl<'a> Unseen<'a> {
    pub(super) fn new(always: &'a Always, caller: Option<Caller>, begun: Instant) -> Self {
        Self {
            always,
            caller,
            begun,
            store: OnceLock::new(),
            place: OnceLock::new(),
        }
    }

    /// Notes that `store` was asked at `at`, how long it took, and the kind of error if it did not answer.
    pub fn asked(
        &self,
        store: &'static str,
        at: Instant,
        took: Duration,
        error: Option<&'static str>,
    ) {
        // A decision asks once.
        let _ = self.store.set(Asked {
            store,
            at,
            took,
            error,
        });
    }

    /// Keeps a decision, answered just now with the gRPC status `code`, if it is of a kind that is kept; says why, and what
    /// became of it. `is_fault`: the status is a fault of this service. `decide` says what was decided, if anything was.
    pub fn keep(
        &self,
        (refused, failed): (bool, bool),
        (code, is_fault): (i32, bool),
        decide: impl FnOnce(&mut dyn FnMut(Decision<'_>)),
    ) -> Option<(Why, Kept)> {
        let Settings { kinds, slow, .. } = self.always.settings;
        let why = match () {
            () if failed && kinds.error => Why::Error,
            () if refused && kinds.refused => Why::Refused,
            () if kinds.slow && self.begun.elapsed() >= slow => Why::Slow,
            () => return None,
        };
        if !self.always.budget.take() {
            return Some((why, Kept::Dropped));
        }
        let mut attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.grpc.status_code", i64::from(code)),
            KeyValue::new("kept", why.name()),
        ];
        decide(&mut |decision| attributes.extend(said(&decision)));
        self.tell(attributes, is_fault);
        Some((why, Kept::Told))
    }

    /// Where its span is, once it has one.
    pub fn place(&self) -> Option<Place> {
        self.place.get().copied()
    }

    fn tell(&self, attributes: Vec<KeyValue>, is_fault: bool) {
        let (now, wall) = (Instant::now(), opentelemetry::time::now());
        let at = |moment: Instant| wall.checked_sub(now.saturating_duration_since(moment));
        let at = |moment: Instant| at(moment).unwrap_or(wall);
        let tracer = &self.always.tracer;
        let parent = match self.caller {
            Some(caller) => Context::new().with_remote_span_context(caller.context(None)),
            None => Context::new(),
        };
        let decision = SpanBuilder::from_name("ratelimit.should_rate_limit")
            .with_kind(SpanKind::Server)
            .with_start_time(at(self.begun))
            .with_attributes(attributes);
        let mut decision = tracer.build_with_context(decision, &parent.with_value(Chosen));
        if is_fault {
            decision.set_status(Status::error(""));
        }
        let context = decision.span_context().clone();
        // It is told once.
        let _ = self.place.set(Place {
            trace: context.trace_id(),
            span: context.span_id(),
        });
        if let Some(asked) = self.store.get() {
            let parent = Context::new().with_remote_span_context(context);
            let call = SpanBuilder::from_name("store.transact")
                .with_kind(SpanKind::Client)
                .with_start_time(at(asked.at))
                .with_attributes([
                    KeyValue::new("db.system.name", asked.store),
                    KeyValue::new("db.operation.name", "transact"),
                ]);
            let mut call = tracer.build_with_context(call, &parent.with_value(Chosen));
            if let Some(error) = asked.error {
                call.set_attribute(KeyValue::new("error.type", error));
                call.set_status(Status::error(""));
            }
            call.end_with_timestamp(at(asked.at + asked.took));
        }
        decision.end_with_timestamp(wall);
    }
}

impl Budget {
    /// Whether there may be one more in this second.
    fn take(&self) -> bool {
        let second = self.begun.elapsed().as_secs() << 32;
        let order = Ordering::Relaxed;
        let spend = |spent: u64| match spent {
            before if before < second => Some(second + 1),
            now if now & u64::from(u32::MAX) < u64::from(self.per_second) => Some(now + 1),
            _ => None,
        };
        self.spent.fetch_update(order, order, spend).is_ok()
    }
}

/// The attributes of a span of this decision, as [`record`](super::record) has them.
fn said(decision: &Decision<'_>) -> [KeyValue; 12] {
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    let number = |key: &'static str, value: u64| {
        KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
    };
    [
        text("domain", decision.domain),
        text("descriptors", decision.descriptors),
        text("rule", decision.rule),
        text("rule.path", decision.path),
        text("rule.source", decision.source),
        text("plan", decision.plan),
        text("limit", decision.limit),
        text("hits", decision.hits),
        number("remaining", decision.remaining),
        number("reset", decision.reset),
        text("reason", decision.reason),
        KeyValue::new("admitted", decision.admitted),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_and_others_are_errors() {
        let read = |text: &str| text.parse::<Kinds>();
        let kinds = read("refused, slow").expect("kinds");
        assert!(kinds.refused && kinds.slow && !kinds.error);
        assert_eq!(read(""), Ok(Kinds::default()));
        let said = read("refused,dear").expect_err("an error");
        assert_eq!(said, "dear is none of refused, error and slow");
    }

    #[test]
    fn no_more_are_kept_in_a_second_than_may_be() {
        let budget = |begun: Instant, spent: u64| Budget {
            begun,
            per_second: 3,
            spent: spent.into(),
        };
        let second = budget(Instant::now(), 0);
        assert_eq!((0..10).filter(|_| second.take()).count(), 3);
        let ago = Instant::now().checked_sub(Duration::from_secs(5));
        // Those of a second before count no more.
        let next = budget(ago.expect("a moment"), 4 << 32 | 3);
        assert_eq!((0..10).filter(|_| next.take()).count(), 3);
    }
}
