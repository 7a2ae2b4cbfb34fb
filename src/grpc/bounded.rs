//! A connection that ends by itself. tonic either sends a client away or, with a grace, cuts it off without a word; so tonic
//! sends it away, and what is still there after the grace is cut off here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use super::listen::Accepted;

/// A connection and its end.
#[derive(Debug)]
pub struct Bounded {
    stream: Accepted,
    end: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    /// Ends after `life`, if any.
    pub fn new(stream: Accepted, life: Option<Duration>) -> Self {
        let end = life.map(|life| Box::pin(sleep(life)));
        Self { stream, end }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut Accepted> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Bounded {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Bounded {
    /// The server always waits for something to read, so it is here that it notices the end.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
