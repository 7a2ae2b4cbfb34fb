//! A unary call over HTTP/2, as the gRPC protocol frames it: one message in, one message and a status out.
//!
//! It is what `tonic::server::Grpc` does for any message, kind of call and compression. Here there is one of each, on the way of every
//! request, and its general form costs as much as the decision.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tonic::Status;

use super::places::Place;
use super::wire::{self, PREFIX, RateLimitRequest};

/// What answers the calls of `RateLimitService/ShouldRateLimit`.
pub trait Method: Clone + Send + Sync + 'static {
    /// Answers one call.
    fn call(&self, headers: &HeaderMap, message: RateLimitRequest) -> Answering;

    /// Keeps at hand what the calls of one thread need, until the future is dropped.
    fn prepare(&self) -> impl Future<Output = ()> + Send;
}

/// An answer as [`wire::framed`] has it, or why there is none.
pub type Answered = Result<Bytes, Status>;

/// How a call is answered.
pub enum Answering {
    /// It has been.
    Now(Answered),
    /// Something must be waited for.
    Later(BoxFuture<'static, Answered>),
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of a response.
pub(super) struct Reply {
    rest: Rest,
    /// Its call's, until it is sent or given up.
    _place: Option<Place>,
}

/// What is still to be sent.
enum Rest {
    /// A message, and the status after it.
    Message(Bytes),
    /// The status, which says that all is well.
    Status,
    /// Nothing more.
    Sent,
    /// What another service of the port says.
    Other(tonic::body::Body),
}

impl Reply {
    /// What another service says in a call that has this place.
    pub(super) fn other(body: tonic::body::Body, place: Option<Place>) -> Self {
        Self {
            rest: Rest::Other(body),
            _place: place,
        }
    }
}

/// Answers a call for which `method` decides, of at most `most` bytes. It has its place until the reply is sent.
pub(super) async fn answer<M: Method>(
    method: &M,
    most: usize,
    request: http::Request<impl Body<Data = Bytes, Error: Display> + Unpin>,
    place: Place,
) -> http::Response<Reply> {
    let (head, body) = request.into_parts();
    let answered = match read(body, most).await {
        Ok(message) => match method.call(&head.headers, message) {
            Answering::Now(answered) => answered,
            Answering::Later(answering) => answering.await,
        },
        Err(status) => Err(status),
    };
    match answered {
        Ok(message) => {
            let mut response = http::Response::new(Reply {
                rest: Rest::Message(message),
                _place: Some(place),
            });
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            response
        }
        Err(status) => refusal(&status),
    }
}

/// A response that is nothing but a status.
pub(super) fn refusal(status: &Status) -> http::Response<Reply> {
    let refusal = status.clone().into_http();
    refusal.map(|body| Reply::other(body, None))
}

/// The one message of a request.
async fn read(
    mut body: impl Body<Data = Bytes, Error: Display> + Unpin,
    most: usize,
) -> Result<RateLimitRequest, Status> {
    let mut pieces = BytesMut::new();
    let mut whole = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) else {
            continue;
        };
        if whole.is_some() {
            return Err(several());
        }
        // Nearly always all of it comes in one piece, and is not copied.
        if pieces.is_empty() && is_whole(&data, most)? {
            whole = Some(data);
            continue;
        }
        pieces.extend_from_slice(&data);
        if is_whole(&pieces, most)? {
            whole = Some(pieces.split().freeze());
        }
    }
    let mut message = whole.ok_or_else(|| match pieces.is_empty() {
        true => Status::internal("the call has no message"),
        false => Status::internal("the message is incomplete"),
    })?;
    message.advance(PREFIX);
    wire::decode(message).map_err(|error| Status::internal(error.to_string()))
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

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (frame, rest) = match &mut self.rest {
            Rest::Message(message) => (Frame::data(std::mem::take(message)), Rest::Status),
            Rest::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Rest::Sent)
            }
            Rest::Sent => return Poll::Ready(None),
            Rest::Other(body) => return Pin::new(body).poll_frame(cx),
        };
        self.rest = rest;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.rest {
            Rest::Message(_) | Rest::Status => false,
            Rest::Sent => true,
            Rest::Other(body) => body.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use prost::Message;
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

    fn message() -> RateLimitRequest {
        let entry = ("user".to_owned(), "alice".to_owned());
        wire::message("edge", 1, [vec![entry]])
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("a short message");
        [&[flag][..], &length.to_be_bytes(), message].concat()
    }

    fn read_pieces<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RateLimitRequest, Status> {
        let pieces = pieces.into_iter().map(Bytes::copy_from_slice).collect();
        futures::executor::block_on(read(Pieces(pieces), 1000))
    }

    #[test]
    fn a_message_is_read_however_it_is_cut() {
        let bytes = framed(0, &message().encode_to_vec());
        for size in 1..=bytes.len() {
            let read = read_pieces(bytes.chunks(size)).expect("a message");
            assert_eq!(read, message(), "in pieces of {size}");
        }
        let empty = framed(0, &[]);
        assert_eq!(
            read_pieces([&empty[..], &[]]).expect("a message"),
            RateLimitRequest::default()
        );
    }

    /// The pieces of a large message are gathered, not copied anew with each of them.
    #[test]
    fn a_large_message_in_many_pieces_is_read() {
        let entry = ("user".to_owned(), "x".repeat(1 << 20));
        let message = wire::message("edge", 1, [vec![entry]]);
        let bytes = framed(0, &message.encode_to_vec());
        let pieces: VecDeque<Bytes> = bytes.chunks(2).map(Bytes::copy_from_slice).collect();
        let read = futures::executor::block_on(read(Pieces(pieces), 2 << 20));
        assert_eq!(read.expect("a message"), message);
    }

    #[test]
    fn what_is_not_one_message_is_refused() {
        let bytes = framed(0, &message().encode_to_vec());
        let twice = [&bytes[..], &bytes].concat();
        let told = |pieces: &[&[u8]]| {
            let status = read_pieces(pieces.iter().copied()).expect_err("no message");
            (status.code(), status.message().to_owned())
        };
        let several = "a call has one message, not several";
        for (pieces, code, message) in [
            (&[][..], Code::Internal, "the call has no message"),
            (&[&bytes[..3]], Code::Internal, "the message is incomplete"),
            (&[&bytes[..20]], Code::Internal, "the message is incomplete"),
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
        let (code, message) = told(&[&framed(0, &[0xff])]);
        assert_eq!(code, Code::Internal);
        assert!(message.contains("decode"), "{message}");
    }
}
