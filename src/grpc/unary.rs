//! A unary call over HTTP/2, as the gRPC protocol frames it: one message in, one message and a status out.
//!
//! It is what `tonic::server::Grpc` does for any message, kind of call and compression. Here there is one of each, on the way of every
//! request, and its general form costs as much as the decision.

use std::fmt::Display;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use smallvec::SmallVec;
use tonic::Status;

use super::stream::{Caller, Incoming};
use super::wire::PREFIX;

/// What answers the calls of `RateLimitService/ShouldRateLimit`.
pub trait Method: Clone + Send + Sync + 'static {
    /// A call that nothing is waited for.
    type Soon: Send + 'static;

    /// A call that is not answered at once.
    type Later: Future<Output = Answered> + Send + Unpin + 'static;

    /// What calls have in common that come in one turn.
    type Turn: Send + Sync;

    /// Begins a turn of calls whose messages are there at `begun`.
    fn turn(&self, begun: Instant) -> Self::Turn;

    /// Begins to answer one call of `turn`, whose message is a `RateLimitRequest`, not read yet.
    fn call(
        &self,
        headers: &HeaderMap,
        message: Bytes,
        turn: &Self::Turn,
    ) -> Answering<Self::Soon, Self::Later>;

    /// Answers a call of `turn` that nothing is waited for, in [`LOOKS`](crate::engine::LOOKS) looks at most, which may follow each other at once: one may end
    /// while memory is fetched, which takes as long as to go on with another call.
    fn answer(&self, soon: Self::Soon, turn: &Self::Turn) -> impl Future<Output = Answered> + Send;

    /// So many more calls are under way, or fewer.
    fn under_way(&self, _change: i64) {}

    /// So many calls have their answers, which now leave, and each of them took so long.
    fn answered(&self, _calls: u32, _took: Duration) {}

    /// Keeps at hand what the calls of one thread need, until the future is dropped.
    fn prepare(&self) -> impl Future<Output = ()> + Send;
}

/// An answer as [`framed`](super::wire::framed) has it, or why there is none.
pub type Answered = Result<Bytes, Status>;

/// How a call is answered.
pub enum Answering<S, L> {
    /// By [`Method::answer`].
    Soon(S),
    /// Something must be waited for.
    Later(L),
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A call that waits for its answer.
pub(super) struct Waits<L> {
    /// None once it has been answered.
    caller: Option<Caller>,
    /// When its message was there, once it is.
    begun: Option<Instant>,
    step: Step<L>,
}

/// A call after the first look at it.
pub(super) enum Looked<M: Method> {
    /// It has been told what there is to tell.
    Told,
    /// Nothing is waited for: it is to be answered now.
    Asked(Asked<M>),
    Waits(Waits<M::Later>),
}

/// A call that nothing is waited for.
pub(super) struct Asked<M: Method> {
    soon: M::Soon,
    caller: Caller,
}

/// A call that is answered, and has not been told yet.
pub(super) struct Decided {
    answered: Answered,
    caller: Caller,
}

impl<M: Method> Asked<M> {
    /// Finds its answer, in as many looks as [`Method::answer`] takes.
    pub(super) async fn decide(self, method: &M, turn: &M::Turn) -> Decided {
        let answered = pin!(method.answer(self.soon, turn)).await;
        let caller = self.caller;
        Decided { answered, caller }
    }
}

impl Decided {
    pub(super) fn tell(self) {
        tell(self.caller, self.answered);
    }
}

/// How many calls are answered that came at the same time; those that are woken together mostly have.
#[derive(Default)]
pub(super) struct Tally(SmallVec<[(Instant, u32); 4]>);

impl Tally {
    /// So many more whose messages were there at `begun`.
    pub(super) fn add(&mut self, begun: Instant, calls: usize) {
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        match self.0.last_mut() {
            _ if calls == 0 => {}
            Some((same, counted)) if *same == begun => *counted += calls,
            Some(_) | None => self.0.push((begun, calls)),
        }
    }

    /// Their answers leave now.
    pub(super) fn tell<M: Method>(self, method: &M) {
        if self.0.is_empty() {
            return;
        }
        let now = Instant::now();
        for (begun, calls) in self.0 {
            method.answered(calls, now.saturating_duration_since(begun));
        }
    }
}

/// An answer, and when the message was there; none if it never was.
type Read = (Answered, Option<Instant>);

/// What a call waits for.
enum Step<L> {
    /// The rest of its message, and then for its answer.
    Message(BoxFuture<'static, Read>),
    Answer(L),
}

impl<L: Future<Output = Answered> + Unpin> Future for Waits<L> {
    /// When its message was there, if it ever was; nothing once its caller has gone.
    type Output = Option<(Decided, Option<Instant>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // A panic ends its call, as it would a task of its own, and not the connection.
        let looked = catch_unwind(AssertUnwindSafe(|| {
            let looked = match &mut this.step {
                Step::Message(reading) => reading.poll_unpin(cx),
                Step::Answer(answering) => {
                    let answered = answering.poll_unpin(cx);
                    answered.map(|answered| (answered, this.begun))
                }
            };
            let Poll::Ready((answered, begun)) = looked else {
                let caller = this.caller.as_mut();
                let gone = caller.map_or(Poll::Ready(()), |caller| caller.poll_gone(cx));
                return gone.map(|()| None);
            };
            let caller = this.caller.take();
            Poll::Ready(caller.map(|caller| (Decided { answered, caller }, begun)))
        }));
        looked.unwrap_or(Poll::Ready(None))
    }
}

/// Begins to answer a call that came at `begun`, in `turn`, for which `method` decides, of at most `most` bytes. The request stays where
/// it is unless its message is waited for.
pub(super) fn begin<M: Method>(
    method: &M,
    most: usize,
    come: &mut Option<Request<RecvStream>>,
    (turn, begun): (&M::Turn, Instant),
    caller: Caller,
) -> Looked<M> {
    let Some(request) = come else {
        return Looked::Told;
    };
    let mut reading = Reading::new(most);
    // Nobody is woken: what is not there yet is asked for again at once.
    let mut nobody = Context::from_waker(Waker::noop());
    let (begun, step) = match reading.poll(&mut Incoming::new(request.body_mut()), &mut nobody) {
        Poll::Ready(Ok(message)) => match method.call(request.headers(), message, turn) {
            Answering::Soon(soon) => return Looked::Asked(Asked { soon, caller }),
            Answering::Later(answering) => (Some(begun), Step::Answer(answering)),
        },
        Poll::Ready(Err(status)) => {
            caller.refuse(&status);
            return Looked::Told;
        }
        Poll::Pending => match come.take() {
            Some(request) => {
                let reading = Box::pin(read(method.clone(), reading, request));
                (None, Step::Message(reading))
            }
            None => return Looked::Told,
        },
    };
    Looked::Waits(Waits {
        caller: Some(caller),
        begun,
        step,
    })
}

/// Answers a call once its message is there.
async fn read<M: Method>(method: M, mut reading: Reading, request: Request<RecvStream>) -> Read {
    let (head, body) = request.into_parts();
    let mut body = Incoming::new(body);
    let message = match poll_fn(|cx| reading.poll(&mut body, cx)).await {
        Ok(message) => message,
        Err(status) => return (Err(status), None),
    };
    let begun = Instant::now();
    let turn = method.turn(begun);
    let answered = match method.call(&head.headers, message, &turn) {
        Answering::Soon(soon) => method.answer(soon, &turn).await,
        Answering::Later(answering) => answering.await,
    };
    (answered, Some(begun))
}

fn tell(caller: Caller, answered: Answered) {
    let message = match answered {
        Ok(message) => message,
        Err(status) => return caller.refuse(&status),
    };
    let mut head = Response::new(());
    *head.headers_mut() = HEAD.clone();
    let Some(mut answer) = caller.begin(head) else {
        return;
    };
    match answer.send_now(message) {
        Ok(()) => answer.end(ALL_IS_WELL.clone()),
        Err(message) => {
            tokio::spawn(async move {
                if answer.send(message).await.is_some() {
                    answer.end(ALL_IS_WELL.clone());
                }
            });
        }
    }
}

/// What each answer begins and ends with. To copy it takes half of what it takes to make it.
static HEAD: LazyLock<HeaderMap> = LazyLock::new(|| one(CONTENT_TYPE, "application/grpc"));
static ALL_IS_WELL: LazyLock<HeaderMap> = LazyLock::new(|| one(GRPC_STATUS, "0"));

/// Room for just one: a map that grows has room for six of a hundred bytes.
fn one(name: HeaderName, value: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(name, HeaderValue::from_static(value));
    headers
}

/// The one message of a request, as it comes.
struct Reading {
    most: usize,
    /// The beginning of a message that is not whole yet.
    pieces: BytesMut,
    whole: Option<Bytes>,
}

impl Reading {
    fn new(most: usize) -> Self {
        Self {
            most,
            pieces: BytesMut::new(),
            whole: None,
        }
    }

    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        if self.whole.is_some() {
            return Err(several());
        }
        // Nearly always all of it comes in one piece, and is not copied.
        if self.pieces.is_empty() && is_whole(&data, self.most)? {
            self.whole = Some(data);
            return Ok(());
        }
        self.pieces.extend_from_slice(&data);
        if is_whole(&self.pieces, self.most)? {
            self.whole = Some(self.pieces.split().freeze());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Bytes, Status> {
        let mut message = self
            .whole
            .take()
            .ok_or_else(|| match self.pieces.is_empty() {
                true => Status::internal("the call has no message"),
                false => Status::internal("the message is incomplete"),
            })?;
        message.advance(PREFIX);
        Ok(message)
    }

    /// The message that `body` has, once it has ended.
    fn poll<B: Body<Data = Bytes, Error: Display> + Unpin>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, Status>> {
        while !body.is_end_stream() {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                break;
            };
            let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
            if let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) {
                self.take(data)?;
            }
        }
        Poll::Ready(self.end())
    }
}

/// Whether these bytes are one message with its prefix, rather than the beginning of one.
fn is_whole(bytes: &[u8], most: usize) -> Result<bool, Status> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(false);
    };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    match flag {
        0 if length > most => Err(Status::out_of_range(format!(
            "the message has {length} bytes; the most are {most}"
        ))),
        0 if message.len() > length => Err(several()),
        0 => Ok(message.len() == length),
        1 => Err(Status::unimplemented("compressed messages are not read")),
        _ => Err(Status::internal(format!(
            "{flag} does not tell whether the message is compressed"
        ))),
    }
}

fn several() -> Status {
    Status::internal("a call has one message, not several")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body::Frame;
    use tonic::Code;

    use super::*;

    /// A body of these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    const MESSAGE: &[u8] = b"what is asked";

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("a short message");
        [&[flag][..], &length.to_be_bytes(), message].concat()
    }

    fn read(mut pieces: Pieces, most: usize) -> Result<Bytes, Status> {
        let mut reading = Reading::new(most);
        let mut nobody = Context::from_waker(Waker::noop());
        match reading.poll(&mut pieces, &mut nobody) {
            Poll::Ready(message) => message,
            Poll::Pending => panic!("all of it is there"),
        }
    }

    fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Bytes, Status> {
        let pieces = pieces.into_iter().map(Bytes::copy_from_slice).collect();
        read(Pieces(pieces), 1000)
    }

    #[test]
    fn a_message_is_read_however_it_is_cut() {
        let bytes = framed(0, MESSAGE);
        for size in 1..=bytes.len() {
            let read = read_pieces(bytes.chunks(size)).expect("a message");
            assert_eq!(read, MESSAGE, "in pieces of {size}");
        }
        let empty = framed(0, &[]);
        assert_eq!(
            read_pieces([&empty[..], &[]]).expect("a message"),
            Bytes::new()
        );
    }

    /// The pieces of a large message are gathered, not copied anew with each of them.
    #[test]
    fn a_large_message_in_many_pieces_is_read() {
        let message = vec![b'x'; 1 << 20];
        let bytes = framed(0, &message);
        let pieces: VecDeque<Bytes> = bytes.chunks(2).map(Bytes::copy_from_slice).collect();
        let read = read(Pieces(pieces), 2 << 20);
        assert_eq!(read.expect("a message"), message);
    }

    #[test]
    fn what_is_not_one_message_is_refused() {
        let bytes = framed(0, MESSAGE);
        let twice = [&bytes[..], &bytes].concat();
        let told = |pieces: &[&[u8]]| {
            let status = read_pieces(pieces.iter().copied()).expect_err("no message");
            (status.code(), status.message().to_owned())
        };
        let several = "a call has one message, not several";
        for (pieces, code, message) in [
            (&[][..], Code::Internal, "the call has no message"),
            (&[&bytes[..3]], Code::Internal, "the message is incomplete"),
            (&[&bytes[..10]], Code::Internal, "the message is incomplete"),
            (&[&twice], Code::Internal, several),
            (&[&bytes, &bytes[..1]], Code::Internal, several),
            (
                &[&framed(1, b"x")],
                Code::Unimplemented,
                "compressed messages are not read",
            ),
            (
                &[&framed(2, b"x")],
                Code::Internal,
                "2 does not tell whether the message is compressed",
            ),
            (
                &[&framed(0, &[0; 1001])[..5]],
                Code::OutOfRange,
                "the message has 1001 bytes; the most are 1000",
            ),
        ] {
            assert_eq!(told(pieces), (code, message.to_owned()));
        }
    }
}
