//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};
use tracing::{Instrument, Span, error};

use super::unary::{Answered, Answering, Method};
use super::wire::{self, RateLimitRequest};
use crate::engine::{Answer, Engine, Rejection};
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing as spans;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The service.
#[derive(Clone, Debug)]
pub struct Rls {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    tracing: Tracing,
}

impl Rls {
    /// The service that asks `engine`.
    pub fn new(engine: Arc<Engine>, metrics: Arc<Metrics>, tracing: Tracing) -> Self {
        let parts = Parts {
            engine,
            metrics,
            tracing,
        };
        Self {
            parts: Arc::new(parts),
        }
    }
}

impl Method for Rls {
    fn call(&self, headers: &HeaderMap, message: RateLimitRequest) -> Answering {
        let parts = &self.parts;
        let begun = Instant::now();
        let call = Call {
            begun,
            deadline: timeout(headers).map(|timeout| begun + timeout),
            span: parts.tracing.decision(headers),
        };
        // What is waited for is large, and would be carried from place to place.
        match parts.engine.is_immediate() {
            true => match pin!(call.answer(parts, &message)).now_or_never() {
                Some(answered) => Answering::Now(answered),
                None => Answering::Now(Err(Status::internal("the embedded store waits"))),
            },
            false => {
                let parts = Arc::clone(parts);
                Answering::Later(Box::pin(async move { call.answer(&parts, &message).await }))
            }
        }
    }

    async fn prepare(&self) {
        self.parts.engine.prepare().await;
    }
}

/// A call under way.
struct Call {
    begun: Instant,
    deadline: Option<Instant>,
    span: Span,
}

impl Call {
    async fn answer(self, parts: &Parts, message: &RateLimitRequest) -> Answered {
        let Call {
            begun,
            deadline,
            span,
        } = self;
        let _in_flight = parts.metrics.in_flight();
        let answering =
            async { decide(&parts.engine, message, begun, deadline, wire::framed).await };
        // In its place at once, and only pointed to from here on.
        let answering = pin!(answering);
        let answering = AssertUnwindSafe(answering).catch_unwind();
        let answered = if span.is_none() {
            answering.await
        } else {
            answering.instrument(span.clone()).await
        };
        let answered = match answered {
            Ok(answered) => answered.map_err(|rejection| status(&rejection)),
            Err(_) => {
                error!("a request made the service panic; it alone is answered INTERNAL");
                Err(Status::internal("internal error"))
            }
        };
        parts.metrics.call(begun.elapsed());
        if !span.is_none() {
            let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
            let is_fault = matches!(code, Code::Unknown | Code::Internal);
            spans::answered(&span, code as i32, is_fault);
        }
        answered
    }
}

/// Decides a message that came at `begun` with what the caller says of its deadline. The HTTP port asks here as well.
pub async fn decide<T>(
    engine: &Engine,
    message: &RateLimitRequest,
    begun: Instant,
    deadline: Option<Instant>,
    tell: impl FnOnce(&Answer<'_>) -> T,
) -> Result<T, Rejection> {
    let request = wire::request(message).inspect_err(|_| engine.refuse())?;
    engine.check(&request, begun, deadline, tell).await
}

/// What a caller is told of a rejection.
pub fn status(rejection: &Rejection) -> Status {
    match rejection {
        // The reference's code for it.
        Rejection::NoRules => Status::unknown(rejection.to_string()),
        Rejection::EmptyDomain
        | Rejection::NoDescriptors
        | Rejection::TooMany { .. }
        | Rejection::TooLong { .. }
        | Rejection::OverrideUnit { .. }
        | Rejection::TooManyHits { .. } => Status::invalid_argument(rejection.to_string()),
    }
}

/// The caller's `grpc-timeout`: at most eight digits and a unit, as the gRPC protocol has it.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = digits.parse().ok()?;
    let number = u64::from(number);
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_nonsense_is_none() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("20m"), Some(Duration::from_millis(20)));
        assert_eq!(read("100u"), Some(Duration::from_micros(100)));
        for wrong in ["", "m", "20", "20x", "-1m"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
