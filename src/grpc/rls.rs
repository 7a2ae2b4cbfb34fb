//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tower::Service;
use tracing::{Instrument, error};

use super::wire::{self, Codec, RateLimitRequest};
use crate::engine::{Answer, Engine, Rejection};
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing as spans;

/// The service's name.
const NAME: &str = "envoy.service.ratelimit.v3.RateLimitService";

/// The path of its method.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The service, for requests of at most `max_message_size` bytes.
#[derive(Clone, Debug)]
pub struct Rls {
    parts: Arc<Parts>,
    max_message_size: usize,
}

#[derive(Debug)]
struct Parts {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    tracing: Tracing,
}

/// The one method, for one call.
struct ShouldRateLimit(Arc<Parts>);

impl Rls {
    /// The service for requests of at most `max_message_size` bytes.
    pub fn new(
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        tracing: Tracing,
        max_message_size: usize,
    ) -> Self {
        let parts = Parts {
            engine,
            metrics,
            tracing,
        };
        Self {
            parts: Arc::new(parts),
            max_message_size,
        }
    }

    /// Who decides.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.parts.engine
    }
}

impl NamedService for Rls {
    const NAME: &'static str = NAME;
}

impl Service<http::Request<Body>> for Rls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != SHOULD_RATE_LIMIT {
            let unknown = Status::unimplemented("no such method").into_http();
            return Box::pin(std::future::ready(Ok(unknown)));
        }
        let method = ShouldRateLimit(Arc::clone(&self.parts));
        let most = Some(self.max_message_size);
        Box::pin(async move {
            let mut grpc = Grpc::new(Codec).apply_max_message_size_config(most, None);
            Ok(grpc.unary(method, request).await)
        })
    }
}

impl UnaryService<RateLimitRequest> for ShouldRateLimit {
    type Response = Answer;
    type Future = BoxFuture<'static, Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<RateLimitRequest>) -> Self::Future {
        let parts = Arc::clone(&self.0);
        Box::pin(async move {
            let begun = Instant::now();
            let _in_flight = parts.metrics.in_flight();
            let deadline = timeout(request.metadata()).map(|timeout| begun + timeout);
            let span = parts.tracing.decision(request.metadata().as_ref());
            // In its place at once, and only pointed to from here on: it is large.
            let deciding = pin!(decide(&parts.engine, request.get_ref(), begun, deadline));
            let deciding = AssertUnwindSafe(deciding).catch_unwind();
            let decided = if span.is_none() {
                deciding.await
            } else {
                deciding.instrument(span.clone()).await
            };
            let answer = match decided {
                Ok(Ok(answer)) => Ok(Response::new(answer)),
                Ok(Err(rejection)) => Err(status(&rejection)),
                Err(_) => {
                    error!("a request made the service panic; it alone is answered INTERNAL");
                    Err(Status::internal("internal error"))
                }
            };
            parts.metrics.call(begun.elapsed());
            if !span.is_none() {
                let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
                let is_fault = matches!(code, Code::Unknown | Code::Internal);
                spans::answered(&span, code as i32, is_fault);
            }
            answer
        })
    }
}

/// Decides a message that came at `begun` with what the caller says of its deadline. The HTTP port asks here as well.
pub async fn decide(
    engine: &Engine,
    message: &RateLimitRequest,
    begun: Instant,
    deadline: Option<Instant>,
) -> Result<Answer, Rejection> {
    let request = wire::request(message).inspect_err(|_| engine.refuse())?;
    engine.check(&request, begun, deadline).await
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
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
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
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("20m"), Some(Duration::from_millis(20)));
        assert_eq!(read("100u"), Some(Duration::from_micros(100)));
        for wrong in ["", "m", "20", "20x", "-1m"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
