//! Sockets, and the connections that they accept.
//!
//! One loop accepts for all threads and deals the connections out in turn. Envoy has few and long-lived ones, one or two a
//! worker, which the kernel's own choice among several listeners (`SO_REUSEPORT`, by hash) would spread unevenly.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::server::TlsStream;
use tracing::warn;

use super::places::{Place, Places};
use super::tls::Tls;
use crate::telemetry::logs::Seldom;

/// How many connections wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// How many TLS handshakes are under way at once.
const HANDSHAKES: usize = 256;
/// How long to wait when no connection can be accepted, for want of file descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(50);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that no thread waits on yet, and its place.
#[derive(Debug)]
pub(super) struct Loose(Stream, Place);

#[derive(Debug)]
enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// An accepted connection, on the thread that serves it.
#[derive(Debug)]
pub enum Accepted {
    /// In clear.
    Tcp(TcpStream),
    /// After a handshake.
    Tls(Box<TlsStream<TcpStream>>),
    /// On a unix socket.
    Unix(UnixStream),
}

impl Listener {
    /// Listens on a port; 0 takes a free one. A port that another process listens on is an error.
    pub fn tcp(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = Bound::Tcp(TcpListener::from_std(socket.into())?);
        Ok(Self { socket, tls })
    }

    /// Listens on a unix socket; one that a process has left behind is replaced.
    pub fn unix(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Self {
            socket: Bound::Unix(UnixListener::bind(path)?),
            tls: None,
        })
    }

    /// The port's address; none of a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(socket) => socket.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    /// What its connections begin with, if anything.
    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts connections and deals them out to `threads` in turn, until `shutdown`. One that there is no place for is closed.
    pub(super) async fn accept_into(
        self,
        threads: Vec<mpsc::Sender<Loose>>,
        places: Places,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let full = Seldom::new();
        let mut threads = threads.iter().cycle();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = shutdown.wait_for(|down| *down) => return,
            };
            match accepted {
                Ok(stream) => match (places.take(), threads.next()) {
                    // A thread that is gone has been shut down.
                    (Some(place), Some(thread)) => {
                        drop(thread.send(Loose(stream, place)).await);
                    }
                    _ if full.is_due() => {
                        warn!("GRPC_MAX_CONNECTIONS are open; those beyond are closed at once");
                    }
                    _ => {}
                },
                Err(error) => {
                    warn!("a connection cannot be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The TLS handshakes of one thread.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    /// None if connections are in clear.
    tls: Option<Arc<Tls>>,
    /// One for each that may be under way.
    permits: Arc<Semaphore>,
}

impl Handshakes {
    pub(super) fn new(tls: Option<Arc<Tls>>) -> Self {
        Self {
            tls,
            permits: Arc::new(Semaphore::new(HANDSHAKES)),
        }
    }

    /// The connection after its handshake, if it has one; none if that fails.
    pub(super) async fn shake(&self, stream: Accepted) -> Option<Accepted> {
        let (tls, stream) = match (&self.tls, stream) {
            (Some(tls), Accepted::Tcp(stream)) => (tls, stream),
            (_, stream) => return Some(stream),
        };
        let _permit = self.permits.acquire().await;
        let stream = tls.shake(stream).await?;
        Some(Accepted::Tls(Box::new(stream)))
    }
}

impl Loose {
    /// The connection, on this thread.
    pub(super) fn settle(self) -> io::Result<(Accepted, Place)> {
        let Self(stream, place) = self;
        let stream = match stream {
            Stream::Tcp(stream) => TcpStream::from_std(stream).map(Accepted::Tcp),
            Stream::Unix(stream) => UnixStream::from_std(stream).map(Accepted::Unix),
        };
        Ok((stream?, place))
    }
}

impl Bound {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Bound::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                stream.set_nodelay(true)?;
                stream.into_std().map(Stream::Tcp)
            }
            Bound::Unix(socket) => socket.accept().await?.0.into_std().map(Stream::Unix),
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Accepted::Tcp($stream) => $call,
            Accepted::Tls($stream) => $call,
            Accepted::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Accepted::Tcp(stream) => stream.is_write_vectored(),
            Accepted::Tls(stream) => stream.is_write_vectored(),
            Accepted::Unix(stream) => stream.is_write_vectored(),
        }
    }
}
