//! Calls over HTTP/2 without a gRPC library between: the load generator must not be the bottleneck.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The windows of a connection and its streams: answers are never held up.
const WINDOW: u32 = 1 << 24;

/// How long to wait before a lost connection is made anew: a service that is away is not to be stormed.
const BEFORE_MENDING: Duration = Duration::from_millis(10);

/// Where the service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String),
    /// A socket's path.
    Unix(PathBuf),
}

/// A connection of many callers, made anew when it is lost: services send their clients away now and then.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    client: RefCell<Client>,
    is_mending: Cell<bool>,
}

#[derive(Clone, Debug)]
struct Client {
    send: SendRequest<Bytes>,
    head: Request<()>,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// The request may pass.
    Ok,
    /// It is refused.
    OverLimit,
    /// Neither: a gRPC status code.
    Failed(u8),
}

impl Answer {
    /// The connection broke, or what came is no answer; no gRPC status has this code.
    pub const LOST: Self = Self::Failed(u8::MAX);
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No HTTP/2.
    #[error("{0}")]
    H2(#[from] h2::Error),
    /// No sense.
    #[error("{0}")]
    Http(#[from] http::Error),
    /// No answer.
    #[error("connecting takes too long")]
    Slow,
}

/// The first field of the answer: the others are skipped.
#[derive(Clone, PartialEq, Message)]
struct Overall {
    #[prost(int32, tag = "1")]
    code: i32,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        let address = text.trim_start_matches("http://").trim_end_matches('/');
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(address.to_owned()))
            }
            _ => Err("host:port or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Connection {
    /// Connects; what drives the connection runs as a local task.
    pub async fn open(address: &Address) -> Result<Self, Error> {
        Ok(Self {
            address: address.clone(),
            client: RefCell::new(Client::connect(address).await?),
            is_mending: Cell::new(false),
        })
    }

    /// One call.
    pub async fn call(&self, message: Bytes) -> Answer {
        let client = self.client.borrow().clone();
        client.try_call(message).await.unwrap_or(Answer::LOST)
    }

    /// Connects anew after a call was lost; one caller does it for all.
    pub async fn mend(&self) {
        let is_first = !self.is_mending.replace(true);
        tokio::time::sleep(BEFORE_MENDING).await;
        if is_first {
            // If it does not work, the next call says so.
            if let Ok(client) = Client::connect(&self.address).await {
                self.client.replace(client);
            }
            self.is_mending.set(false);
        }
    }
}

impl Client {
    async fn connect(address: &Address) -> Result<Self, Error> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Self::over(stream, address).await
            }
            Address::Unix(path) => Self::over(UnixStream::connect(path).await?, "localhost").await,
        }
    }

    async fn over<S>(stream: S, authority: &str) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false);
        let (send, connection) = builder.handshake::<_, Bytes>(stream).await?;
        tokio::task::spawn_local(async move {
            // A connection that breaks is seen by its calls.
            let _ = connection.await;
        });
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
            .build()?;
        let head = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(uri)
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            )
            .header(header::TE, HeaderValue::from_static("trailers"))
            .body(())?;
        Ok(Self { send, head })
    }

    async fn try_call(self, message: Bytes) -> Result<Answer, h2::Error> {
        let mut send = self.send.ready().await?;
        let (response, mut stream) = send.send_request(self.head, false)?;
        stream.send_data(message, true)?;
        let response = response.await?;
        if let Some(answer) = failure(response.headers()) {
            return Ok(answer);
        }
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            if bytes.len() + chunk.len() <= MAX_ANSWER {
                bytes.extend_from_slice(&chunk);
            }
        }
        if let Some(answer) = body.trailers().await?.as_ref().and_then(failure) {
            return Ok(answer);
        }
        let overall = bytes
            .get(5..)
            .and_then(|message| Overall::decode(message).ok());
        Ok(match overall {
            Some(overall) if overall.code == crate::grpc::wire::OVER_LIMIT => Answer::OverLimit,
            Some(_) => Answer::Ok,
            None => Answer::LOST,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ok => f.write_str("ok"),
            Answer::OverLimit => f.write_str("over_limit"),
            &Answer::LOST => f.write_str("lost"),
            Answer::Failed(code) => write!(f, "{:?}", tonic::Code::from_i32(i32::from(*code))),
        }
    }
}

/// The status of a call that has failed.
fn failure(headers: &HeaderMap) -> Option<Answer> {
    let status = headers
        .get("grpc-status")?
        .to_str()
        .ok()?
        .parse::<u8>()
        .ok()?;
    (status != 0).then_some(Answer::Failed(status))
}
