//! A connection and its calls, in turns: what has come in is read, then each call is looked at, then all that is answered is sent.
//!
//! Nearly all calls are answered when they are first looked at, so they never become tasks of their own, which cost a tenth of what
//! serving them does; and the answers to what came together leave together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use tonic::Status;

use super::connection::Port;
use super::preface::Begun;
use super::stream::Caller;
use super::unary::{self, Method};
use super::{aside, stream};

/// The path of the one method that is served here.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// What a call is told that there is no place for. Its message is not read.
const FULL: &str = "too many calls are under way";

/// The most calls of a turn, while other connections of the thread wait: a fraction of a millisecond.
const MOST: usize = 64;

/// For how many calls a connection keeps room between turns.
const KEPT: usize = 8;

/// A connection as a future, which ends with it.
pub(super) struct Turns<'p, M> {
    http: Connection<Begun, Bytes>,
    port: &'p Port<M>,
    /// Room for the calls of a turn, in the order in which they came; empty between turns. Those beyond wait in the connection,
    /// which bounds them, however many the client takes back.
    come: Vec<(Request<RecvStream>, SendResponse<Bytes>)>,
    /// Set when a call comes.
    heard: &'p AtomicBool,
}

impl<'p, M: Method> Turns<'p, M> {
    pub(super) fn new(
        http: Connection<Begun, Bytes>,
        port: &'p Port<M>,
        heard: &'p AtomicBool,
    ) -> Self {
        Self {
            http,
            port,
            come: Vec::new(),
            heard,
        }
    }

    /// Tells the client to go elsewhere; the calls under way finish.
    pub(super) fn shut_down(&mut self) {
        self.http.graceful_shutdown();
    }

    /// Looks at a call for the first time.
    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let port = self.port;
        let is_decision = request.uri().path() == SHOULD_RATE_LIMIT;
        let places = match is_decision {
            true => &port.calls,
            false => &port.asides,
        };
        let Some(place) = places.take() else {
            return stream::refuse(respond, &Status::resource_exhausted(FULL));
        };
        let caller = Caller::new(respond, place);
        match is_decision {
            true => {
                let (head, body) = request.into_parts();
                let most = port.settings.max_message_size;
                unary::answer(&port.method, most, head.headers, body, caller);
            }
            false => {
                tokio::spawn(aside::answer(port.others.clone(), request, caller));
            }
        }
    }
}

impl<M: Method> Future for Turns<'_, M> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // All that came first, as each look for more sends what has been answered before it.
        while self.come.len() < MOST {
            match self.http.poll_accept(cx) {
                Poll::Ready(Some(Ok(call))) => self.come.push(call),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        let mut come = std::mem::take(&mut self.come);
        if !come.is_empty() {
            self.heard.store(true, Ordering::Relaxed);
        }
        // What is answered wakes the connection, which then sends it all at once.
        if come.len() == MOST {
            cx.waker().wake_by_ref();
        }
        for (request, respond) in come.drain(..) {
            // A panic ends its call, as it would a task of its own, and not the connection.
            let _ = catch_unwind(AssertUnwindSafe(|| self.begin(request, respond)));
        }
        come.shrink_to(KEPT);
        self.come = come;
        Poll::Pending
    }
}
