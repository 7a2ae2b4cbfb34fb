//! Calls with a `grpc-timeout` that only the service heeds: what comes too late is seen, and is not made an error by a library.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use tokio::net::TcpStream;

/// A connection to the gRPC port.
#[derive(Clone)]
pub(crate) struct Caller {
    send: SendRequest<Bytes>,
    uri: String,
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) response: RateLimitResponse,
    pub(crate) took: Duration,
}

impl Caller {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        // It ends when the last of its callers is gone.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            send,
            uri: format!(
                "http://{address}/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
            ),
        }
    }

    /// Asks; an error if anything but an answer with the status OK comes.
    pub(crate) async fn ask(
        &self,
        request: &RateLimitRequest,
        timeout: Option<Duration>,
    ) -> Result<Called, String> {
        let mut head = Request::builder()
            .method(Method::POST)
            .uri(&self.uri)
            .version(Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        if let Some(timeout) = timeout {
            head = head.header("grpc-timeout", format!("{}u", timeout.as_micros()));
        }
        let head = head.body(()).expect("a request");
        let message = request.encode_to_vec();
        let mut body = BytesMut::with_capacity(5 + message.len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).expect("a small message"));
        body.put_slice(&message);
        let begun = Instant::now();
        self.answer(head, body.freeze())
            .await
            .map(|response| Called {
                response,
                took: begun.elapsed(),
            })
    }

    async fn answer(&self, head: Request<()>, body: Bytes) -> Result<RateLimitResponse, String> {
        let text = |error: h2::Error| error.to_string();
        let mut send = self.send.clone().ready().await.map_err(text)?;
        let (answer, mut sending) = send.send_request(head, false).map_err(text)?;
        sending.send_data(body, true).map_err(text)?;
        let (head, mut body) = answer.await.map_err(text)?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(part) = body.data().await {
            bytes.put(part.map_err(text)?);
        }
        let trailers = body.trailers().await.map_err(text)?;
        let status = |of: &HeaderMap| Some(of.get("grpc-status")?.to_str().ok()?.to_owned());
        let status = trailers
            .as_ref()
            .and_then(status)
            .or_else(|| status(&head.headers));
        if status.as_deref() != Some("0") {
            return Err(format!(
                "status {status:?}: {:?} {trailers:?}",
                head.headers
            ));
        }
        bytes.advance(5.min(bytes.len()));
        RateLimitResponse::decode(bytes).map_err(|error| error.to_string())
    }
}

/// Why an answer is what it is, as its metadata says.
pub(crate) fn reason(response: &RateLimitResponse) -> &str {
    use envoy_types::pb::google::protobuf::value::Kind;
    let metadata = response.dynamic_metadata.as_ref();
    let reason = metadata.and_then(|metadata| metadata.fields.get("reason")?.kind.as_ref());
    match reason {
        Some(Kind::StringValue(reason)) => reason,
        _ => "none",
    }
}
