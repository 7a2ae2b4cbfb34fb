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
pub(super) enum Reply {
    /// A message that is still to be sent, and the status after it.
    Message(Bytes),
    /// The status, which says that all is well.
    Status,
    /// Nothing more.
    Sent,
    /// What another service of the port says.
    Other(tonic::body::Body),
}

/// Answers a call for which `method` decides, of at most `most` bytes.
pub(super) async fn answer<M: Method>(
    method: &M,
    most: usize,
    request: http::Request<impl Body<Data = Bytes, Error: Display> + Unpin>,
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
            let mut response = http::Response::new(Reply::Message(message));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            response
        }
        Err(status) => refusal(&status),
    }
}

/// A response that is nothing but a status.
pub(super) fn refusal(status: &Status) -> http::Response<Reply> {
    status.clone().into_http().map(Reply::Other)
}

/// The one message of a request.
async fn read(
    mut body: impl Body<Data = Bytes, Error: Display> + Unpin,
    most: usize,
) -> Result<RateLimitRequest, Status> {
    let mut rest = BytesMut::new();
    let mut whole = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // Nearly always all of it comes in one piece, and is not copied.
        let mut data = if rest.is_empty() {
            data
        } else {
            rest.extend_from_slice(&data);
            rest.split().freeze()
        };
        if data.is_empty() {
            continue;
        }
        if whole.is_some() {
            return Err(Status::internal("a call has one message, not several"));
        }
        match length(&data, most)? {
            Some(length) if data.len() >= PREFIX + length => {
                data.advance(PREFIX);
                whole = Some(data.split_to(length));
                rest.extend_from_slice(&data);
                if !data.is_empty() {
                    return Err(Status::internal("a call has one message, not several"));
                }
            }
            Some(_) | None => rest.extend_from_slice(&data),
        }
    }
    let message = whole.ok_or_else(|| match rest.is_empty() {
        true => Status::internal("the call has no message"),
        false => Status::internal("the message is incomplete"),
    })?;
    wire::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// The length of the message that `data` begins with, once its prefix is there.
fn length(data: &[u8], most: usize) -> Result<Option<usize>, Status> {
    let Some((prefix, _)) = data.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    match flag {
        0 if length <= most => Ok(Some(length)),
        0 => Err(Status::out_of_range(format!(
            "the message has {length} bytes; the most are {most}"
        ))),
        1 => Err(Status::unimplemented("compressed messages are not read")),
        _ => Err(Status::internal(format!(
            "{flag} does not tell whether the message is compressed"
        ))),
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (frame, next) = match &mut *self {
            Reply::Message(message) => (Frame::data(std::mem::take(message)), Reply::Status),
            Reply::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Reply::Sent)
            }
            Reply::Sent => return Poll::Ready(None),
            Reply::Other(body) => return Pin::new(body).poll_frame(cx),
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Message(_) | Reply::Status => false,
            Reply::Sent => true,
            Reply::Other(body) => body.is_end_stream(),
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
