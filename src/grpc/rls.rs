//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::{Instrument, error};

use super::wire::server::{RateLimitService, RateLimitServiceServer};
use super::wire::{self, RateLimitRequest, RateLimitResponse};
use crate::engine::{Engine, Rejection};
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing as spans;

/// The service.
#[derive(Clone, Debug)]
pub struct Rls {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    tracing: Tracing,
}

/// The service for requests of at most `max_message_size` bytes.
pub fn service(
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    tracing: Tracing,
    max_message_size: usize,
) -> RateLimitServiceServer<Rls> {
    let rls = Rls {
        engine,
        metrics,
        tracing,
    };
    RateLimitServiceServer::new(rls).max_decoding_message_size(max_message_size)
}

/// Decides a message, which came with what the caller says of its deadline. The HTTP port asks here as well.
pub async fn decide(
    engine: &Engine,
    message: &RateLimitRequest,
    deadline: Option<Instant>,
) -> Result<RateLimitResponse, Rejection> {
    let request = wire::request(message).inspect_err(|_| engine.refuse())?;
    let answer = engine.check(&request, deadline).await?;
    Ok(wire::response(answer))
}

/// Whether an answer refuses the request.
pub fn is_refusal(response: &RateLimitResponse) -> bool {
    response.overall_code == wire::OVER_LIMIT
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

#[tonic::async_trait]
impl RateLimitService for Rls {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let begun = Instant::now();
        let _in_flight = self.metrics.in_flight();
        let deadline = timeout(request.metadata()).map(|timeout| begun + timeout);
        let span = self.tracing.decision(request.metadata().as_ref());
        let deciding = decide(&self.engine, request.get_ref(), deadline).instrument(span.clone());
        let deciding = AssertUnwindSafe(deciding);
        let answer = match deciding.catch_unwind().await {
            Ok(Ok(answer)) => Ok(Response::new(answer)),
            Ok(Err(rejection)) => Err(status(&rejection)),
            Err(_) => {
                error!("a request made the service panic; it alone is answered INTERNAL");
                Err(Status::internal("internal error"))
            }
        };
        self.metrics.call("ShouldRateLimit", begun.elapsed());
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let is_fault = matches!(code, Code::Unknown | Code::Internal);
        spans::answered(&span, code as i32, is_fault);
        answer
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
