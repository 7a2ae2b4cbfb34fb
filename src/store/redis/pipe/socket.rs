//! Connecting to a server, and what is said first.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bounds::Bounds;
use super::{put_command, said_error};
use crate::store::redis::refusals::Refusals;
use crate::store::redis::script;
use crate::store::redis::settings::{Address, Credentials};

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::redis) enum Endpoint {
    Tcp(Address),
    Unix(PathBuf),
}

/// What every connection begins with.
#[derive(Clone)]
pub(in crate::store::redis) struct Greeting {
    pub(in crate::store::redis) credentials: Credentials,
    pub(in crate::store::redis) database: Option<u8>,
    pub(in crate::store::redis) tls: Option<TlsConnector>,
    pub(in crate::store::redis) timeout: Duration,
    /// Who is told what has changed.
    pub(in crate::store::redis) refusals: Arc<Refusals>,
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Connects and greets; the error holds no secret.
pub(super) async fn connect(endpoint: &Endpoint, greeting: &Greeting) -> io::Result<Stream> {
    let connecting = async {
        let mut stream = open(endpoint, greeting.tls.as_ref()).await?;
        greet(&mut stream, greeting).await?;
        Ok(stream)
    };
    let connected = tokio::time::timeout(greeting.timeout, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn open(endpoint: &Endpoint, tls: Option<&TlsConnector>) -> io::Result<Stream> {
    let address = match endpoint {
        Endpoint::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix),
        Endpoint::Tcp(address) => address,
    };
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Stream::Tcp(stream));
    };
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let stream = tls.connect(name, stream).await?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Says who this is, and gives Redis the script.
async fn greet(stream: &mut Stream, greeting: &Greeting) -> io::Result<()> {
    let mut said = BytesMut::new();
    let mut answers = 0;
    let mut say = |command: &[&[u8]]| {
        put_command(&mut said, command);
        answers += 1;
    };
    let Credentials { user, password } = &greeting.credentials;
    let user = user.as_deref().unwrap_or("default");
    match password {
        Some(password) => say(&[
            b"HELLO",
            b"3",
            b"AUTH",
            user.as_bytes(),
            password.as_bytes(),
        ]),
        None => say(&[b"HELLO", b"3"]),
    }
    if let Some(database) = greeting.database {
        say(&[b"SELECT", database.to_string().as_bytes()]);
    }
    // Tells of changes to those keys alone that are asked for after `CLIENT CACHING YES`.
    say(&[b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]);
    say(&[b"SCRIPT", b"LOAD", script::DECIDE.source.as_bytes()]);
    stream.write_all(&said).await?;
    stream.flush().await?;
    let (mut read, mut bounds) = (BytesMut::new(), Bounds::default());
    while answers > 0 {
        if !bounds.is_whole(&read)? {
            if stream.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            continue;
        }
        let decoded = decode_bytes_mut(&mut read).map_err(io::Error::other)?;
        let (frame, ..) = decoded.ok_or_else(|| io::Error::other("a frame that ends elsewhere"))?;
        match said_error(&frame) {
            Some(text) => return Err(io::Error::other(text)),
            None => answers -= 1,
        }
    }
    Ok(())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for Greeting {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting").finish_non_exhaustive()
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
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
}
