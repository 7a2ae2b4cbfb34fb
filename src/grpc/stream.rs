//! A stream of HTTP/2: one call's request and response.

use std::borrow::BorrowMut;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use tonic::Status;

use super::places::Place;

/// What a client sends after the head of its request.
pub(super) struct Incoming<S> {
    stream: S,
    has_ended: bool,
}

/// Up to how many bytes at the end of a message the window has back only when the call has ended: h2 does that by itself, and each
/// thing asked of it is a lock.
const LEFT_TO_H2: usize = 512;

impl<S: BorrowMut<RecvStream>> Incoming<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            has_ended: false,
        }
    }
}

impl<S: BorrowMut<RecvStream> + Unpin> Body for Incoming<S> {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let stream = this.stream.borrow_mut();
        if let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data?;
            this.has_ended = stream.is_end_stream();
            if !this.has_ended || data.len() > LEFT_TO_H2 {
                // It fails where more is given back than came.
                let _ = stream.flow_control().release_capacity(data.len());
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

/// Who waits for an answer. The call has its place for as long as this is held.
pub(super) struct Caller {
    respond: SendResponse<Bytes>,
    place: Place,
}

/// The way of an answer, once it has begun.
pub(super) struct Answer {
    stream: SendStream<Bytes>,
    _place: Place,
}

impl Caller {
    pub(super) fn new(respond: SendResponse<Bytes>, place: Place) -> Self {
        Self { respond, place }
    }

    /// What `future` comes to; none if the caller goes before.
    pub(super) async fn waits_for<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.poll_unpin(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }

    /// Whether the caller has gone, or when it does.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(|_| ())
    }

    /// Begins an answer; none if the caller has gone.
    pub(super) fn begin(mut self, head: Response<()>) -> Option<Answer> {
        let stream = self.respond.send_response(head, false).ok()?;
        Some(Answer {
            stream,
            _place: self.place,
        })
    }

    /// Answers with a head and nothing else.
    pub(super) fn end(mut self, head: Response<()>) {
        end(&mut self.respond, head);
    }

    /// Answers with nothing but a status.
    pub(super) fn refuse(self, status: &Status) {
        refuse(self.respond, status);
    }
}

/// Answers a call that has no place with nothing but a status.
pub(super) fn refuse(mut respond: SendResponse<Bytes>, status: &Status) {
    end(&mut respond, status.clone().into_http());
}

fn end(respond: &mut SendResponse<Bytes>, head: Response<()>) {
    // It fails when the caller has gone.
    let _ = respond.send_response(head, true);
}

impl Answer {
    /// Sends the whole of an answer, if the client takes that much now.
    pub(super) fn send_now(&mut self, data: Bytes) -> Result<(), Bytes> {
        self.stream.reserve_capacity(data.len());
        if self.stream.capacity() < data.len() {
            return Err(data);
        }
        // It fails when the caller has gone.
        let _ = self.stream.send_data(data, false);
        Ok(())
    }

    /// Sends `data` as the client takes it; none if it goes before.
    pub(super) async fn send(&mut self, mut data: Bytes) -> Option<()> {
        let stream = &mut self.stream;
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            let mut room = stream.capacity();
            while room == 0 {
                room = poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
            }
            let piece = data.split_to(room.min(data.len()));
            stream.send_data(piece, false).ok()?;
        }
        Some(())
    }

    /// The next frame of `body`; none if the caller goes before.
    pub(super) async fn next<B: Body + Unpin>(
        &mut self,
        body: &mut B,
    ) -> Option<Option<Result<Frame<B::Data>, B::Error>>> {
        poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => self.stream.poll_reset(cx).map(|_| None),
        })
        .await
    }

    /// Ends the answer.
    pub(super) fn end(mut self, trailers: HeaderMap) {
        // It fails when the caller has gone.
        let _ = self.stream.send_trailers(trailers);
    }

    /// Breaks the answer off.
    pub(super) fn fail(mut self) {
        self.stream.send_reset(h2::Reason::INTERNAL_ERROR);
    }
}
