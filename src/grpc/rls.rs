//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};
use tracing::{Instrument, Span, error};

use super::desk::{Job, Office, Seated};
use super::unary::{Answered, Answering, Method};
use super::wire::{self, RateLimitRequest, Unread};
use crate::engine::{self, Answer, Draft, Engine, Rejection, Request, Traced};
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing::{self as spans, Begun};

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
    type Soon = Call;
    type Later = Deciding;
    type Turn = Arc<Turn>;

    fn turn(&self, begun: Instant) -> Arc<Turn> {
        Arc::new(Turn {
            begun,
            decided: self.parts.engine.turn(),
            parts: Arc::clone(&self.parts),
        })
    }

    fn call(
        &self,
        headers: &HeaderMap,
        message: Bytes,
        turn: &Arc<Turn>,
    ) -> Answering<Self::Soon, Self::Later> {
        let parts = &self.parts;
        let call = Call {
            message,
            deadline: timeout(headers).map(|timeout| turn.begun + timeout),
            traced: parts.tracing.begin(headers),
        };
        match parts.engine.is_immediate() {
            true => Answering::Soon(call),
            false => {
                let turn = Arc::clone(turn);
                Answering::Later(Deciding(Seated::new(Waiting { call, turn })))
            }
        }
    }

    fn answer(&self, call: Call, turn: &Arc<Turn>) -> impl Future<Output = Answered> + Send {
        call.answer(turn)
    }

    fn under_way(&self, change: i64) {
        self.parts.metrics.in_flight(change);
    }

    fn answered(&self, calls: u32, took: Duration) {
        self.parts.metrics.calls(calls, took);
    }

    async fn prepare(&self) {
        self.parts.engine.prepare().await;
    }
}

/// What calls have in common that come in one turn. Those that wait hold this instead of the parts themselves, whose count all cores would write to.
#[derive(Debug)]
pub struct Turn {
    begun: Instant,
    decided: engine::Turn,
    parts: Arc<Parts>,
}

/// A call that the store is waited for.
pub struct Deciding(Seated<Waiting>);

impl Future for Deciding {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        self.0.poll_unpin(cx)
    }
}

/// What it takes to answer it.
struct Waiting {
    call: Call,
    turn: Arc<Turn>,
}

thread_local! {
    static OFFICE: Office<Waiting> = const { Office::new() };
}

impl Job for Waiting {
    async fn answer(self) -> Answered {
        pin!(self.call.answer(&self.turn)).await
    }

    fn office<T>(with: impl FnOnce(&Office<Self>) -> T) -> T {
        OFFICE.with(with)
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Call {
    message: Bytes,
    deadline: Option<Instant>,
    traced: Option<Box<Begun>>,
}

impl Call {
    async fn answer(self, turn: &Turn) -> Answered {
        let Turn {
            begun,
            decided,
            parts,
        } = turn;
        let begun = *begun;
        let Call {
            message,
            deadline,
            traced,
        } = self;
        let unseen = traced
            .as_ref()
            .and_then(|traced| parts.tracing.unseen(traced, begun));
        let span = traced.map_or_else(Span::none, |traced| traced.span);
        // Where the answer stays: whatever hands it on copies it.
        let mut framed = None;
        let answering = async {
            let caller = engine::Caller {
                begun,
                deadline,
                traced: Traced {
                    span: span.clone(),
                    unseen: unseen.as_ref(),
                },
                turn: Some(decided),
            };
            let engine = &parts.engine;
            let mut room = None;
            let mut request = Request::default();
            wire::read(&message, &mut room, &mut request).inspect_err(|_| engine.refuse())?;
            // In its place at once, and only pointed to from here on, as it is large.
            let tell = |draft: &Draft<'_, '_, '_>| framed = Some(wire::framed_draft(draft));
            pin!(engine.check_for(&request, caller, tell)).await?;
            Ok(())
        };
        let told = {
            let answering = pin!(answering);
            let answering = AssertUnwindSafe(answering).catch_unwind();
            if span.is_none() {
                answering.await
            } else {
                answering.instrument(span.clone()).await
            }
        };
        let answered = match (told, framed) {
            (Ok(Ok(())), Some(framed)) => Ok(framed),
            (Ok(Err(Unread::Malformed(error))), _) => Err(Status::internal(error.to_string())),
            (Ok(Err(Unread::Rejected(rejection))), _) => Err(status(&rejection)),
            (Err(_) | Ok(Ok(())), _) => {
                error!("a request made the service panic; it alone is answered INTERNAL");
                Err(Status::internal("internal error"))
            }
        };
        let status = || {
            let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
            (code as i32, matches!(code, Code::Unknown | Code::Internal))
        };
        if !span.is_none() {
            let (code, is_fault) = status();
            spans::answered(&span, code, is_fault);
            parts.metrics.exemplar(begun.elapsed(), spans::place(&span));
        }
        if let Some(unseen) = &unseen {
            if answered.is_err()
                && let Some(kept) = unseen.keep((false, true), status(), |_| ())
            {
                parts.metrics.kept_trace(kept);
            }
            parts.metrics.exemplar(begun.elapsed(), unseen.place());
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
    // There are so few that to compare them is faster than to hash the name.
    let (_, text) = headers.iter().find(|(name, _)| *name == GRPC_TIMEOUT)?;
    let text = text.to_str().ok()?;
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
