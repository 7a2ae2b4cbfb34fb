//! What every HTTP/2 connection begins with, read before anything is made of it: from then on whoever does not answer pings is
//! found out, but nobody asks one who has not said anything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::listen::Accepted;

/// How long a client may take to say it.
pub const PREFACE_WITHIN: Duration = Duration::from_secs(10);

/// How many bytes it has.
const LENGTH: usize = 24;

/// A connection that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    /// What was read of it already, and how much of that has been read again.
    preface: [u8; LENGTH],
    again: usize,
    stream: Accepted,
}

impl Begun {
    /// The connection once it has begun; an error if that does not come.
    pub(super) async fn begin(mut stream: Accepted) -> io::Result<Self> {
        let mut preface = [0; LENGTH];
        let reading = stream.read_exact(&mut preface);
        match tokio::time::timeout(PREFACE_WITHIN, reading).await {
            Ok(read) => read?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        Ok(Self {
            preface,
            again: 0,
            stream,
        })
    }
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.preface.get(this.again..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let some = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(some);
        this.again += some.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
