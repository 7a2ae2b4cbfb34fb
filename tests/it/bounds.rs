//! What there may be at most, of the real binary: at the bound all is well, beyond it the answer is early and says so.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::poll;
use crate::support::server::{Setup, request};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 1000000, unit: hour}
";

/// Whether the other side closes the connection, rather than wait for what is said.
fn is_closed(stream: &mut TcpStream) -> bool {
    let patience = Some(Duration::from_millis(10));
    stream.set_read_timeout(patience).expect("a timeout");
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_closed_and_those_before_served() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CONNECTIONS", "3")
        .start_ready();
    let address = server.grpc.expect("a port");
    let mut client = server.client().await;
    let ask = || request("d", &[&[("user", "a")]]);
    client.should_rate_limit(ask()).await.expect("an answer");
    let held = [(); 2].map(|()| TcpStream::connect(address).expect("a connection"));
    for _ in 0..5 {
        let mut beyond = TcpStream::connect(address).expect("a connection");
        poll::until("the end of a connection", || {
            is_closed(&mut beyond).then_some(())
        });
    }
    client.should_rate_limit(ask()).await.expect("an answer");
    let warnings = server.log().into_iter();
    let warnings = warnings.filter(|line| line.contains("GRPC_MAX_CONNECTIONS"));
    assert_eq!(warnings.count(), 1, "once a minute");
    drop(held);
    poll::until_async("a free place", || async {
        let endpoint = tonic::transport::Endpoint::try_from(format!("http://{address}"));
        let channel = endpoint.expect("an address").connect().await.ok()?;
        let mut client = crate::support::server::client_of(channel);
        client.should_rate_limit(ask()).await.ok()
    })
    .await;
}

/// A connection that sends heads of calls and leaves the rest open.
async fn half_caller(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let (sender, connection) = h2::client::handshake(stream.expect("a connection"))
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    sender.ready().await.expect("a stream")
}

fn head(address: SocketAddr) -> Request<()> {
    let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_bound_are_answered_at_once_and_health_still_is() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CALLS", "2")
        .env("GRPC_THREADS", "1")
        .start_ready();
    let address = server.grpc.expect("a port");
    let mut client = server.client().await;
    let ask = || request("d", &[&[("user", "a")]]);
    let mut half = half_caller(address).await;
    let (_answer, mut first) = half.send_request(head(address), false).expect("sent");
    client.should_rate_limit(ask()).await.expect("the second");
    let (_answer, mut second) = half.send_request(head(address), false).expect("sent");
    let full = poll::until_async("no place", || {
        let mut client = client.clone();
        async move { client.should_rate_limit(ask()).await.err() }
    })
    .await;
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    let mut health = HealthClient::new(server.channel().await);
    let service = String::new();
    let asked = health.check(HealthCheckRequest { service }).await;
    asked.expect("health is answered");
    first.send_reset(h2::Reason::CANCEL);
    second.send_reset(h2::Reason::CANCEL);
    poll::until_async("a free place", || {
        let mut client = client.clone();
        async move { client.should_rate_limit(ask()).await.ok() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_connection_are_bounded() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CONCURRENT_STREAMS", "2")
        .start_ready();
    let address = server.grpc.expect("a port");
    let half = half_caller(address).await;
    poll::until("the server's settings", || {
        (half.current_max_send_streams() == 2).then_some(())
    });
    let streams = [(); 2].map(|()| half.clone().send_request(head(address), false));
    assert!(streams.iter().all(Result::is_ok));
    let mut third = half.clone();
    let (answer, _) = third.send_request(head(address), true).expect("it waits");
    let answer = tokio::time::timeout(Duration::from_millis(200), answer);
    assert!(answer.await.is_err(), "a third stream waits at the client");
    let mut client = server.client().await;
    let other = client.should_rate_limit(request("d", &[&[("user", "a")]]));
    other.await.expect("another connection has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_a_call_is_bounded() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    let with = |bytes: usize| {
        let mut message = tonic::Request::new(request("d", &[&[("user", "a")]]));
        let long = "x".repeat(bytes).parse().expect("ASCII");
        message.metadata_mut().insert("x-long", long);
        message
    };
    client.should_rate_limit(with(8_000)).await.expect("fits");
    let status = client.should_rate_limit(with(20_000)).await;
    status.expect_err("does not fit");
    client.should_rate_limit(with(0)).await.expect("goes on");
}
