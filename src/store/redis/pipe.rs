//! A connection for script calls alone: one of each serving thread to each server.
//!
//! The client library writes a few commands at a time to its socket, which costs this process and Redis more than the calls
//! themselves. Here a call is put into a buffer, and the connection's task, which runs after those that are ready, writes what
//! all of them have put there: many at once under load, one at once without. The library finds the server, and is what calls
//! go through while there is no pipe.
//!
//! - A call is sent at most once. What was under way when a connection ends is lost, and counts as charged.
//! - Redis answers in the order of the calls, so the calls that wait are a queue. Between the answers it tells what has changed of the
//!   keys that are watched.
//! - Where charges are to be on replicas before they count, each batch is followed by `WAIT`, and the next one goes when that is answered:
//!   so a replica that hangs leaves one batch unconfirmed, and no queue of them.
//! - `socket`: connecting, and the greeting
//! - `wire`: calls and answers as bytes; `bounds`: what a server may say at most
//! - `untrusted`: for the fuzzer

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use rand::Rng;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::io::AsyncWrite;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Interval};
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use self::bounds::Bounds;
use self::socket::Stream;
use self::wire::{put, put_command, take_frame};
use super::node::Call;
use super::refusals::Refusals;

mod bounds;
pub(super) mod socket;
mod untrusted;
mod wire;

pub(super) use socket::{Endpoint, Greeting};

/// Between attempts to connect: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// After this many looks without an answer to what waits, a connection is given up.
const LOOKS: u32 = 8;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The most answers that are waited for; whoever has given up leaves a place that is taken until the answer comes, or the end of
/// the connection.
const MOST_WAITING: usize = 16_384;

/// What is read at once, at least, in bytes.
const READ: usize = 16 * 1024;

/// What is written at once, at most, beside what one caller adds.
const KEEP: usize = 256 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Pipe {
    queue: Arc<Queue>,
    task: AbortOnDropHandle<()>,
}

/// Why a call has no answer of the script.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was not sent: there is no connection.
    Closed,
    /// It was not sent: too many answers are waited for.
    Full,
    /// It was sent, and the connection has ended.
    Lost,
    /// It was executed, and too few replicas say that they have it; or Redis does not ask them, and why.
    Unconfirmed(String),
    /// Redis says so: `NOSCRIPT …`.
    Said(String),
    /// What Redis says is not what a script of ours answers.
    Strange(String),
}

/// What callers and the task share.
#[derive(Debug, Default)]
struct Queue {
    calls: Mutex<Calls>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct Calls {
    is_open: bool,
    /// Whether the task knows that there is something to write.
    is_told: bool,
    out: BytesMut,
    /// Whom the next answer is for, and so on.
    waiting: VecDeque<Awaited>,
}

/// Whom an answer is for.
#[derive(Debug)]
enum Awaited {
    Call(Caller),
    /// Nobody: it is that to `ASKING`.
    Nobody,
    /// All calls of the batch before: it is that to `WAIT`.
    Batch,
}

type Caller = oneshot::Sender<Result<BytesFrame, Unconfirmed>>;

/// The call was executed, and is not known to have reached the replicas: what Redis says of that.
#[derive(Debug)]
struct Unconfirmed(String);

/// When a call counts as made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirming {
    /// So many replicas must have it.
    pub(super) replicas: u8,
    /// How long that may take.
    pub(super) within: Duration,
}

impl Pipe {
    /// Begins to connect to wherever the server is, and keeps at it until dropped. Runs on this runtime. Calls are answered when
    /// they are executed, or `confirming`.
    pub(super) fn start(
        at: watch::Receiver<Option<Endpoint>>,
        greeting: Arc<Greeting>,
        confirming: Option<Confirming>,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let task = tokio::spawn(keep_up(Arc::clone(&queue), at, greeting, confirming));
        Self {
            queue,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether calls can be made now.
    pub(super) fn is_open(&self) -> bool {
        self.queue.calls.lock().is_open
    }

    /// Whether its runtime has ended.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Calls the script, by its name or `whole`; `asking` also for keys that are only on their way to this server.
    pub(super) async fn call(
        &self,
        call: &Call<'_>,
        asking: bool,
        whole: bool,
    ) -> Result<Bytes, Trouble> {
        let answer = self.send(|calls| {
            if asking {
                put_command(&mut calls.out, &[b"ASKING"]);
                calls.waiting.push_back(Awaited::Nobody);
            }
            put(&mut calls.out, call, whole);
        });
        match answer?.await {
            Ok(Ok(BytesFrame::BlobString { data, .. })) => Ok(data),
            Ok(Ok(frame)) => Err(match said_error(&frame) {
                Some(text) => Trouble::Said(text),
                None => Trouble::Strange(format!("{:?}", frame.kind())),
            }),
            Ok(Err(Unconfirmed(why))) => Err(Trouble::Unconfirmed(why)),
            Err(_) => Err(Trouble::Lost),
        }
    }

    /// What stands under `key`, if anything does. When it changes, the refusals are told.
    pub(super) async fn watch(&self, key: &[u8]) -> Option<Bytes> {
        let answer = self.send(|calls| {
            put_command(&mut calls.out, &[b"CLIENT", b"CACHING", b"YES"]);
            calls.waiting.push_back(Awaited::Nobody);
            put_command(&mut calls.out, &[b"GET", key]);
        });
        let BytesFrame::BlobString { data, .. } = answer.ok()?.await.ok()?.ok()? else {
            return None;
        };
        Some(data)
    }

    /// Puts a command into the buffer, and whoever waits for its answer into the queue.
    fn send(
        &self,
        put: impl FnOnce(&mut Calls),
    ) -> Result<oneshot::Receiver<Result<BytesFrame, Unconfirmed>>, Trouble> {
        let (caller, answer) = oneshot::channel();
        let was_told = {
            let mut calls = self.queue.calls.lock();
            if !calls.is_open {
                return Err(Trouble::Closed);
            }
            if calls.waiting.len() >= MOST_WAITING {
                return Err(Trouble::Full);
            }
            put(&mut calls);
            calls.waiting.push_back(Awaited::Call(caller));
            std::mem::replace(&mut calls.is_told, true)
        };
        if !was_told {
            self.queue.task.wake();
        }
        Ok(answer)
    }
}

impl Confirming {
    /// Adds the command that is answered when the replicas have what was executed before it, or in time.
    fn put(self, out: &mut BytesMut) {
        // To Redis, 0 is for ever.
        let within = self.within.as_millis().max(1).to_string();
        let replicas = self.replicas.to_string();
        put_command(out, &[b"WAIT", replicas.as_bytes(), within.as_bytes()]);
    }

    /// Why its answer does not say that enough of them have it; none if it does.
    fn lacks(self, answer: &BytesFrame) -> Option<String> {
        let BytesFrame::Number { data, .. } = answer else {
            return Some(said_error(answer).unwrap_or_else(|| format!("{:?}", answer.kind())));
        };
        let is_enough = *data >= i64::from(self.replicas);
        (!is_enough).then(|| format!("{data} of {} replicas", self.replicas))
    }
}

/// The text of an error, as one line of a log.
fn said_error(frame: &BytesFrame) -> Option<String> {
    let one_line = |text: &str| text.replace(char::is_control, " ");
    if let BytesFrame::BlobError { data, .. } = frame {
        return Some(one_line(&String::from_utf8_lossy(data)));
    }
    let BytesFrame::SimpleError { data, .. } = frame else {
        return None;
    };
    Some(one_line(data))
}

impl Queue {
    fn open(&self) {
        self.calls.lock().is_open = true;
    }

    /// Whoever waits is told that the answer is lost.
    fn close(&self) {
        let closed = std::mem::take(&mut *self.calls.lock());
        drop(closed);
    }
}

/// Closes the queue when the task ends, however it does; Redis then no longer tells what has changed.
struct Closing(Arc<Queue>, Arc<Refusals>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
        self.1.forget_all();
    }
}

async fn keep_up(
    queue: Arc<Queue>,
    mut at: watch::Receiver<Option<Endpoint>>,
    greeting: Arc<Greeting>,
    confirming: Option<Confirming>,
) {
    let (first, longest) = PAUSE;
    let mut pause = first;
    let mut is_refused = false;
    loop {
        // The library says why there is no server.
        let Ok(endpoint) = at.wait_for(Option::is_some).await.map(|at| at.clone()) else {
            return;
        };
        let Some(endpoint) = endpoint else { continue };
        at.mark_unchanged();
        match socket::connect(&endpoint, &greeting).await {
            Ok(stream) => {
                let closing = Closing(Arc::clone(&queue), Arc::clone(&greeting.refusals));
                queue.open();
                (pause, is_refused) = (first, false);
                let refusals = Arc::clone(&greeting.refusals);
                let carrying = Carrying::new(stream, Arc::clone(&queue), refusals, confirming);
                let ended = tokio::select! {
                    error = carrying => Some(error),
                    moved = at.changed() => moved.err().map(io::Error::other),
                };
                drop(closing);
                if let Some(error) = ended {
                    tracing::debug!(%endpoint, %error, "a pipe to redis has ended");
                }
            }
            // Redis itself refuses, and will again: calls go on over the library's connection.
            Err(error) if error.kind() == io::ErrorKind::Other && !is_refused => {
                is_refused = true;
                tracing::warn!(%endpoint, %error, "redis refuses the fast connection; calls are slower");
            }
            Err(error) => tracing::debug!(%endpoint, %error, "no pipe to redis"),
        }
        let jitter = rand::rng().random_range(0.8..1.2);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(longest);
    }
}

/// An open connection at work; ends with an error.
struct Carrying {
    stream: Stream,
    queue: Arc<Queue>,
    refusals: Arc<Refusals>,
    writing: BytesMut,
    reading: BytesMut,
    bounds: Bounds,
    answered: Vec<(Caller, Result<BytesFrame, Unconfirmed>)>,
    confirming: Option<Confirming>,
    /// What the batch that is to be confirmed was answered.
    unconfirmed: Vec<(Caller, BytesFrame)>,
    /// Whether there is such a batch.
    is_confirming: bool,
    looks: Interval,
    /// How many looks have found calls that wait, and no answer since the one before.
    silent: u32,
    has_read: bool,
}

impl Carrying {
    fn new(
        stream: Stream,
        queue: Arc<Queue>,
        refusals: Arc<Refusals>,
        confirming: Option<Confirming>,
    ) -> Self {
        Self {
            stream,
            queue,
            refusals,
            writing: BytesMut::new(),
            reading: BytesMut::with_capacity(READ),
            bounds: Bounds::default(),
            answered: Vec::new(),
            confirming,
            unconfirmed: Vec::new(),
            is_confirming: false,
            looks: tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY),
            silent: 0,
            has_read: false,
        }
    }

    /// Reads what there is, and hands the answers out.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            self.reading.reserve(READ);
            let stream = Pin::new(&mut self.stream);
            match poll_read_buf(stream, cx, &mut self.reading)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(_) => self.has_read = true,
            }
            self.hand_out()?;
        }
    }

    fn hand_out(&mut self) -> io::Result<()> {
        let taken_apart = self.take_apart();
        for (caller, answer) in self.answered.drain(..) {
            // Whoever waits no longer has given up.
            let _ = caller.send(answer);
        }
        taken_apart
    }

    /// Finds whom each whole frame is for; after an error nothing more is.
    fn take_apart(&mut self) -> io::Result<()> {
        let mut calls = self.queue.calls.lock();
        while self.bounds.is_whole(&self.reading)? {
            let frame = take_frame(&mut self.reading)?;
            if let BytesFrame::Push { data, .. } = &frame {
                self.refusals.hear(data);
                continue;
            }
            let awaited = calls.waiting.pop_front();
            match awaited.ok_or_else(|| io::Error::other("an answer to no call"))? {
                Awaited::Nobody => {}
                Awaited::Call(caller) if self.confirming.is_some() => {
                    self.unconfirmed.push((caller, frame));
                }
                Awaited::Call(caller) => self.answered.push((caller, Ok(frame))),
                Awaited::Batch => {
                    self.is_confirming = false;
                    let lacking = self.confirming.and_then(|it| it.lacks(&frame));
                    let told = |frame| match &lacking {
                        // An error is none of the script's doing, and nothing was charged.
                        Some(why) if said_error(&frame).is_none() => Err(Unconfirmed(why.clone())),
                        Some(_) | None => Ok(frame),
                    };
                    let batch = self.unconfirmed.drain(..);
                    let batch = batch.map(|(caller, frame)| (caller, told(frame)));
                    self.answered.extend(batch);
                }
            }
        }
        Ok(())
    }

    /// Writes all that callers have put into the buffer.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.writing.is_empty() {
                if self.is_confirming {
                    let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
                    return Ok(());
                }
                let mut calls = self.queue.calls.lock();
                calls.is_told = false;
                if calls.out.is_empty() {
                    drop(calls);
                    let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
                    return Ok(());
                }
                if self.writing.capacity() > KEEP {
                    self.writing = BytesMut::new();
                }
                std::mem::swap(&mut self.writing, &mut calls.out);
                if let Some(confirming) = &self.confirming {
                    confirming.put(&mut self.writing);
                    calls.waiting.push_back(Awaited::Batch);
                    self.is_confirming = true;
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.writing)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => self.writing.advance(written),
            }
        }
    }

    /// Gives up on a server that has said nothing for too long to those who wait.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.looks.poll_tick(cx).is_ready() {
            let waits = !self.queue.calls.lock().waiting.is_empty();
            let is_silent = waits && !std::mem::take(&mut self.has_read);
            self.silent = if is_silent { self.silent + 1 } else { 0 };
            if self.silent >= LOOKS {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl Future for Carrying {
    type Output = io::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let this = &mut *self;
        this.queue.task.register(cx.waker());
        let done = this
            .read(cx)
            .and_then(|()| this.write(cx))
            .and_then(|()| this.look(cx));
        match done {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_redis_says() {
        let data = Bytes::from_static(b"ERR\n2026-01-01 ERROR forged\x1b[31m");
        let attributes = None;
        let frame = BytesFrame::BlobError { data, attributes };
        let text = said_error(&frame).expect("an error");
        assert_eq!(text, "ERR 2026-01-01 ERROR forged [31m");
    }
}
