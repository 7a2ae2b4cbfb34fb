//! Calls of the rate limit service, as HTTP/2 has them.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{self, SendRequest};
use http::{Request, Response};
use prost::Message;
use tollgate::grpc::wire::RateLimitRequest;

/// A client of HTTP/2 that lets so many bytes of an answer come at a time.
pub(crate) async fn connect(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let mut builder = client::Builder::new();
    let shaken = builder
        .initial_window_size(window)
        .handshake(stream.expect("a connection"));
    let (client, connection) = shaken.await.expect("a handshake");
    tokio::spawn(connection);
    client
}

/// The head of a call.
pub(crate) fn head() -> Request<()> {
    Request::post("http://d/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a head")
}

/// A message as gRPC sends it.
pub(crate) fn framed(message: &RateLimitRequest) -> BytesMut {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed
}

/// A call whose answer has begun and not been read.
pub(crate) async fn call(
    client: &SendRequest<Bytes>,
    asked: &RateLimitRequest,
) -> Response<h2::RecvStream> {
    try_call(client, asked).await.expect("a response")
}

/// The same, where there may be no answer. Those that are begun before anything is waited for go together.
pub(crate) async fn try_call(
    client: &SendRequest<Bytes>,
    asked: &RateLimitRequest,
) -> Result<Response<h2::RecvStream>, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut body) = client.send_request(head(), false)?;
    body.send_data(framed(asked).freeze(), true)?;
    response.await
}
