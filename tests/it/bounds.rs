//! What there may be at most, of the real binary: at the bound all is well, beyond it the answer is early and says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tollgate::admin::MAX_BODY;
use tollgate::admin::listen::MAX_CONNECTIONS;
use tollgate::grpc::preface::PREFACE_WITHIN;
use tollgate::store::redis::MAX_IN_FLIGHT;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::http::{get, send};
use crate::support::server::{Setup, is_over, request};
use crate::support::{poll, redis};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 1000000, unit: day}
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
    server.wait_for_log("GRPC_MAX_CONNECTIONS");
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

/// A place that somebody holds who says nothing is free again in time.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_holds_no_place_for_long() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CONNECTIONS", "2")
        .start_ready();
    let address = server.grpc.expect("a port");
    let mut client = server.client().await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(address).expect("a connection");
    silent.write_all(b"PRI * HTTP/2").expect("sent");
    poll::until("the end of a connection", || {
        is_closed(&mut silent).then_some(())
    });
    assert!(begun.elapsed() > PREFACE_WITHIN / 2, "not at once");
    let ask = request("d", &[&[("user", "a")]]);
    client.should_rate_limit(ask).await.expect("an answer");
    server.signal("TERM");
    let _late = TcpStream::connect(address);
    assert!(server.wait().success(), "nor does it hold up the end");
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
    let client = server.client().await;
    let ask = || request("d", &[&[("user", "a")]]);
    let mut half = half_caller(address).await;
    // One after the other, since a call that has just been answered may hold its place for a moment yet.
    let mut halves = Vec::new();
    let full = poll::until_async("no place", || {
        halves.push(half.send_request(head(address), false).expect("sent"));
        let mut client = client.clone();
        async move { client.should_rate_limit(ask()).await.err() }
    })
    .await;
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    let mut health = HealthClient::new(server.channel().await);
    let service = String::new();
    let asked = health.check(HealthCheckRequest { service }).await;
    asked.expect("health is answered");
    for (_, half) in &mut halves {
        half.send_reset(h2::Reason::CANCEL);
    }
    poll::until_async("a free place", || {
        let mut client = client.clone();
        async move { client.should_rate_limit(ask()).await.ok() }
    })
    .await;
}

/// A client that goes away while the store is waited for takes no place with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_its_place() {
    let store = redis::Server::start();
    let server = Setup::rules(RULES)
        .env("REDIS_URL", &format!("127.0.0.1:{}", store.port))
        .env("STORE_TIMEOUT", "1m")
        .env("GRPC_MAX_CALLS", "2")
        .env("GRPC_THREADS", "2")
        .start_ready();
    store.signal("-STOP");
    let address = server.grpc.expect("a port");
    let mut caller = half_caller(address).await;
    let message = request("d", &[&[("user", "a")]]).encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message");
    let framed = Bytes::from([&[0][..], &length.to_be_bytes(), &message].concat());
    let mut call = || {
        let (answer, mut sending) = caller.send_request(head(address), false).expect("sent");
        sending.send_data(framed.clone(), true).expect("sent");
        (answer, sending)
    };
    // Of the two places, the thread of this connection has one.
    let (_waiting, mut first) = call();
    let refused = tokio::time::timeout(Duration::from_secs(10), call().0).await;
    refused.expect("at once").expect("an answer");
    first.send_reset(h2::Reason::CANCEL);
    poll::until_async("a free place", || {
        let answer = tokio::time::timeout(Duration::from_millis(300), call().0);
        async move { answer.await.is_err().then_some(()) }
    })
    .await;
    store.signal("-CONT");
}

/// Shared out among the threads, one place would be none for most of them.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_calls_than_threads_leave_none_of_them_without_a_place() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CALLS", "1")
        .env("GRPC_THREADS", "4")
        .start_ready();
    // Connections are dealt out to the threads in turn.
    for connection in 0..8 {
        let mut client = server.client().await;
        let asked = client.should_rate_limit(request("d", &[&[("user", "a")]]));
        let answer = asked.await;
        assert!(answer.is_ok(), "connection {connection}: {answer:?}");
    }
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

/// Nor does what it holds: after the age and the grace its place is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_does_not_keep_an_old_connection() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CONNECTION_AGE", "100ms")
        .env("GRPC_MAX_CONNECTION_AGE_GRACE", "100ms")
        .start_ready();
    let address = server.grpc.expect("a port");
    let mut half = half_caller(address).await;
    let sent = half.send_request(head(address), false);
    let (answer, _sending) = sent.expect("sent");
    let ended = tokio::time::timeout(Duration::from_secs(30), answer).await;
    ended.expect("an end").expect_err("no answer");
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

/// A store that does not answer, and more calls than may wait for it: whether it is the bound that tells, or the breaker that has
/// opened by then. `redis::failing` has the bound alone.
#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_of_the_store_the_failure_mode_decides_at_once() {
    const TIMEOUT: Duration = Duration::from_secs(15);
    let rules = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 1000000, unit: day, failure_mode: deny}
";
    let store = redis::Server::start();
    let server = Setup::rules(rules)
        .env("REDIS_URL", &format!("127.0.0.1:{}", store.port))
        .env("STORE_TIMEOUT", &format!("{}s", TIMEOUT.as_secs()))
        .start_ready();
    let mut client = server.client().await;
    let ask = |n: usize| request("d", &[&[("user", &n.to_string())]]);
    let answer = client.should_rate_limit(ask(0)).await.expect("an answer");
    assert!(!is_over(answer.get_ref()), "the store answers");
    store.signal("-STOP");
    // They are answered when the store has timed out, or the test is over.
    let per_connection = 1000;
    for connection in 0..=MAX_IN_FLIGHT / per_connection {
        let client = server.client().await;
        for call in 0..per_connection {
            let mut client = client.clone();
            let asked = ask(connection * per_connection + call);
            tokio::spawn(async move { client.should_rate_limit(asked).await });
        }
    }
    let mut sooner = 0;
    let full = poll::until_async("an early answer", || {
        sooner += 1;
        let (mut client, asked) = (client.clone(), ask(100_000 + sooner));
        async move {
            let begun = Instant::now();
            let answer = client.should_rate_limit(asked);
            let answer = tokio::time::timeout(Duration::from_millis(500), answer).await;
            Some((answer.ok()?.ok()?, begun.elapsed()))
        }
    })
    .await;
    let (answer, took) = full;
    assert!(is_over(answer.get_ref()), "the failure mode is deny");
    assert!(took < TIMEOUT / 2, "after {took:?}");
    store.signal("-CONT");
}

#[test]
fn bodies_of_the_http_port_are_bounded() {
    let server = Setup::rules(RULES).start_ready();
    let body = |bytes: usize| {
        let json =
            r#"{"domain": "d", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}"#;
        json.to_owned() + &" ".repeat(bytes - json.len())
    };
    let post = |bytes: usize| send(server.http, "POST", "/json", &[], &body(bytes));
    assert_eq!(post(MAX_BODY).expect("an answer").code, 200);
    // The answer may be lost with the connection, as not all is read.
    let beyond = post(MAX_BODY + 1).map(|reply| reply.code);
    assert!(beyond.is_none_or(|code| code == 413), "{beyond:?}");
    let head = "x".repeat(32 * 1024);
    let beyond = send(server.http, "GET", "/health/live", &[("x-long", &head)], "");
    assert!(beyond.is_none_or(|reply| reply.code == 431));
    assert_eq!(get(server.http, "/health/live").code, 200);
}

#[test]
fn connections_of_the_http_port_are_bounded() {
    let server = Setup::rules(RULES).start_ready();
    let head = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut held: Vec<TcpStream> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.http).expect("a connection");
            stream.write_all(head).expect("sent");
            stream.read_exact(&mut [0; 12]).expect("an answer");
            stream
        })
        .collect();
    let mut beyond = TcpStream::connect(server.http).expect("a connection");
    beyond.write_all(head).expect("sent");
    let patience = Some(Duration::from_millis(100));
    beyond.set_read_timeout(patience).expect("a timeout");
    let early = beyond.read(&mut [0; 12]);
    assert!(early.is_err(), "it waits: {early:?}");
    held.pop();
    let patience = Some(Duration::from_secs(10));
    beyond.set_read_timeout(patience).expect("a timeout");
    beyond.read_exact(&mut [0; 12]).expect("its turn");
}
