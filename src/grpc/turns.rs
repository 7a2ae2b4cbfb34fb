//! A connection and its calls, in turns: what has come in is read, then the calls are decided, then they are told, then all of it is sent.
//!
//! No call becomes a task of its own, which would cost a tenth of what serving it does: most are answered when they are first looked
//! at, and the others are the connection's to look at. So the answers to what came together leave together.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;
use tonic::Status;

use super::connection::Port;
use super::preface::Begun;
use super::stream::Caller;
use super::unary::{self, Decided, Looked, Method, Tally, Waits};
use super::{aside, pairs, stream};

/// The path of the one method that is served here.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// What a call is told that there is no place for. Its message is not read.
const FULL: &str = "too many calls are under way";

/// The most calls of a turn, while other connections of the thread wait: a fraction of a millisecond.
const MOST: usize = 64;

/// A call that has come: its request, and who waits for the answer. Whoever goes on with one takes it; most requests are only read,
/// where they lie, as they are large.
type Come = (Option<Request<RecvStream>>, Option<SendResponse<Bytes>>);

thread_local! {
    /// Where the calls of a turn lie, in the order in which they came: room for [`MOST`], and empty between turns.
    static ROOM: Cell<Vec<Come>> = const { Cell::new(Vec::new()) };
    /// Where those lie that have been decided; empty between turns as well.
    static DECIDED: Cell<Vec<Decided>> = const { Cell::new(Vec::new()) };
}

/// So many that have been decided there is always room for, once there was.
const ROOM_KEPT: usize = 1024;

/// A connection as a future, which ends with it.
pub(super) struct Turns<'p, M: Method> {
    http: Connection<Begun, Bytes>,
    port: &'p Port<M>,
    /// The calls that wait for their answers.
    waiting: FuturesUnordered<Waits<M::Later>>,
    /// How many of them the method was told of.
    told_of: i64,
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
            waiting: FuturesUnordered::new(),
            told_of: 0,
            heard,
        }
    }

    /// Tells the client to go elsewhere; the calls under way finish.
    pub(super) fn shut_down(&mut self) {
        self.http.graceful_shutdown();
    }

    /// Looks at a call that came in `turn` for the first time.
    fn begin(&self, (come, respond): &mut Come, turn: (&M::Turn, Instant)) -> Looked<M> {
        let port = self.port;
        let (Some(request), Some(respond)) = (come.as_ref(), respond.take()) else {
            return Looked::Told;
        };
        let is_decision = request.uri().path() == SHOULD_RATE_LIMIT;
        let places = match is_decision {
            true => &port.calls,
            false => &port.asides,
        };
        let Some(place) = places.take() else {
            stream::refuse(respond, &Status::resource_exhausted(FULL));
            return Looked::Told;
        };
        let caller = Caller::new(respond, place);
        if is_decision {
            let most = port.settings.max_message_size;
            return unary::begin(&port.method, most, come, turn, caller);
        }
        if let Some(request) = come.take() {
            tokio::spawn(aside::answer(port.others.clone(), request, caller));
        }
        Looked::Told
    }

    /// Tells the method how many calls wait, once for all that have come and gone.
    fn tell_of_waiting(&mut self) {
        let waiting = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
        let change = waiting - std::mem::replace(&mut self.told_of, waiting);
        if change != 0 {
            self.port.method.under_way(change);
        }
    }
}

impl<M: Method> Drop for Turns<'_, M> {
    /// Those that waited have gone with the connection.
    fn drop(&mut self) {
        self.waiting.clear();
        self.tell_of_waiting();
    }
}

impl<M: Method> Future for Turns<'_, M> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut come = ROOM.take();
        // All that came first, as each look for more sends what has been answered before it. Those beyond wait in the connection,
        // which bounds them, however many the client takes back.
        while come.len() < MOST {
            match self.http.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    come.push((Some(request), Some(respond)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        // Each step is taken with all calls before the next one: what one takes fits into a core's nearest cache, and not beside the others.
        let mut decided = DECIDED.take();
        let mut tally = Tally::default();
        if !come.is_empty() {
            self.heard.store(true, Ordering::Relaxed);
            // What is answered wakes the connection, which then sends it all at once.
            if come.len() == MOST {
                cx.waker().wake_by_ref();
            }
            let begun = Instant::now();
            let turn = &self.port.method.turn(begun);
            let mut asked = Vec::with_capacity(come.len());
            for call in &mut come {
                // A panic ends its call, as it would a task of its own, and not the connection.
                match catch_unwind(AssertUnwindSafe(|| self.begin(call, (turn, begun)))) {
                    Ok(Looked::Asked(call)) => asked.push(call),
                    Ok(Looked::Waits(waits)) => self.waiting.push(waits),
                    Ok(Looked::Told) | Err(_) => {}
                }
            }
            come.clear();
            decided.reserve(asked.len());
            pairs::decide(&self.port.method, turn, asked, |call| decided.push(call));
            tally.add(begun, decided.len());
        }
        ROOM.set(come);
        // Those that have just come, and those that have been woken; on the embedded store none ever waits.
        while !self.waiting.is_empty()
            && let Poll::Ready(Some(call)) = self.waiting.poll_next_unpin(cx)
        {
            let Some((call, begun)) = call else {
                continue;
            };
            if let Some(begun) = begun {
                tally.add(begun, 1);
            }
            decided.push(call);
        }
        self.tell_of_waiting();
        tally.tell(&self.port.method);
        for call in decided.drain(..) {
            // As above.
            let _ = catch_unwind(AssertUnwindSafe(|| call.tell()));
        }
        decided.shrink_to(ROOM_KEPT);
        DECIDED.set(decided);
        Poll::Pending
    }
}
