//! Connections of the gRPC port, as HTTP/2 has them: signs of life, windows, many calls at once.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use futures::future::{BoxFuture, join_all, poll_fn};
use h2::client::SendRequest;
use http::HeaderMap;
use prost::Message;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tollgate::engine::Answer;
use tollgate::grpc::unary::{Answered, Answering, Method};
use tollgate::grpc::wire::{self, RateLimitRequest, RateLimitResponse};
use tonic::transport::Channel;

use crate::support::http2::{call, connect, framed, head};
use crate::support::method::Served;
use crate::support::poll;
use crate::support::server::{Server, Setup, is_over, request};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 500, unit: day}
";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn address(server: &Server) -> SocketAddr {
    server.grpc.expect("a port")
}

/// A connection that sends frames and reads them.
fn frames(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(address(server)).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    stream.write_all(PREFACE).expect("a preface");
    let settings = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    stream.write_all(&settings).expect("settings");
    stream
}

/// The kind, flags and content of the next frame.
fn frame(stream: &mut TcpStream) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [high, middle, low, kind, flags, ..] = head;
    let length = u32::from_be_bytes([0, high, middle, low]);
    let mut content = vec![0; length as usize];
    stream.read_exact(&mut content)?;
    Ok((kind, flags, content))
}

#[test]
fn a_silent_client_is_asked_for_signs_of_life_and_lives_by_them() {
    let server = Setup::rules(RULES)
        .env("GRPC_KEEPALIVE_INTERVAL", "100ms")
        .env("GRPC_KEEPALIVE_TIMEOUT", "1s")
        .start_ready();
    let mut lively = frames(&server);
    let mut asked = 0;
    while asked < 15 {
        let (kind, _, content) = frame(&mut lively).expect("a frame");
        if kind == PING {
            asked += 1;
            let answer = [0, 0, 8, PING, 1, 0, 0, 0, 0];
            lively.write_all(&answer).expect("a head");
            lively.write_all(&content).expect("a pong");
        }
    }
    let mut silent = frames(&server);
    let begun = Instant::now();
    let mut asked = 0;
    let ended = loop {
        match frame(&mut silent) {
            Ok((kind, ..)) => asked += usize::from(kind == PING),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(asked, 1, "once, and then no more");
    // Not by this test's own patience.
    assert_ne!(ended, io::ErrorKind::WouldBlock);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{ended}");
}

/// A server of one call at a time, and a client that takes ten bytes at a time.
async fn one_at_a_time() -> (Server, SendRequest<Bytes>) {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CALLS", "1")
        .env("GRPC_THREADS", "1")
        .start_ready();
    let client = connect(address(&server), 10).await;
    (server, client)
}

async fn until_there_is_a_place(client: &SendRequest<Bytes>, asked: &RateLimitRequest) {
    poll::until_async("a place", || async {
        let told = call(client, asked).await;
        (!told.headers().contains_key("grpc-status")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_as_the_client_takes_it_and_keeps_its_place_until_then() {
    let (_server, client) = one_at_a_time().await;
    let alice = request("d", &[&[("user", "alice")]]);
    let mut slow = call(&client, &alice).await.into_body();
    let first = slow.data().await.expect("a piece").expect("a piece");
    assert_eq!(first.len(), 10, "no more than there is room for");
    let beside = call(&client, &alice).await;
    assert_eq!(beside.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");

    let mut framed = first.to_vec();
    let release = |body: &mut h2::RecvStream, size| {
        let released = body.flow_control().release_capacity(size);
        released.expect("what came");
    };
    release(&mut slow, first.len());
    while let Some(piece) = slow.data().await {
        let piece = piece.expect("a piece");
        assert!(piece.len() <= 10, "{piece:?}");
        release(&mut slow, piece.len());
        framed.extend_from_slice(&piece);
    }
    let trailers = slow.trailers().await.expect("the end").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let answer = RateLimitResponse::decode(&framed[5..]).expect("an answer");
    assert_eq!(answer.statuses[0].limit_remaining, 499);
    // The place is free again, and what was refused has charged nothing.
    until_there_is_a_place(&client, &alice).await;
}

/// An answer that nobody takes ends with its stream, and gives its place back.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_gives_its_places_back() {
    let (_server, client) = one_at_a_time().await;
    let alice = request("d", &[&[("user", "alice")]]);
    let begun = call(&client, &alice).await;
    assert!(!begun.headers().contains_key("grpc-status"));
    // Dropped, it is reset.
    drop(begun);
    until_there_is_a_place(&client, &alice).await;
}

/// More than a connection is served at a time, each to the hit.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_at_once_are_all_answered() {
    let server = Setup::rules(RULES).start_ready();
    let client = server.client().await;
    let alice = request("d", &[&[("user", "alice")]]);
    let calls = (0..800).map(|_| {
        let (mut client, alice) = (client.clone(), alice.clone());
        async move { client.should_rate_limit(alice).await }
    });
    let answers = join_all(calls).await;
    let over = answers
        .iter()
        .filter(|answer| is_over(answer.as_ref().expect("an answer").get_ref()));
    assert_eq!(over.count(), 300);
}

/// Answers nobody before so many have asked.
#[derive(Clone)]
struct Together(Arc<Barrier>);

impl Method for Together {
    type Soon = Infallible;
    type Later = BoxFuture<'static, Answered>;
    type Turn = ();

    fn turn(&self, _: Instant) {}

    fn call(&self, _: &HeaderMap, _: Bytes, (): &()) -> Answering<Infallible, Self::Later> {
        let barrier = Arc::clone(&self.0);
        Answering::Later(Box::pin(async move {
            barrier.wait().await;
            Ok(wire::framed(&Answer::default()))
        }))
    }

    async fn answer(&self, soon: Infallible, (): &()) -> Answered {
        match soon {}
    }

    async fn prepare(&self) {}
}

/// However many wait, those that come behind them are looked at.
#[tokio::test]
async fn calls_that_wait_keep_no_others_from_their_turn() {
    const CALLS: usize = 300;
    let served = Served::by(Together(Arc::new(Barrier::new(CALLS)))).await;
    let calls = (0..CALLS).map(|_| {
        let mut client = served.client.clone();
        async move { client.should_rate_limit(request("d", &[])).await }
    });
    let answers = timeout(Duration::from_secs(20), join_all(calls)).await;
    let answers = answers.expect("all were looked at");
    assert!(answers.iter().all(Result::is_ok));
    served.end().await;
}

/// Answers nobody, and remembers how many calls are under way.
#[derive(Clone, Default)]
struct Silent(Arc<AtomicI64>);

impl Method for Silent {
    type Soon = Infallible;
    type Later = Pending<Answered>;
    type Turn = ();

    fn turn(&self, _: Instant) {}

    fn call(&self, _: &HeaderMap, _: Bytes, (): &()) -> Answering<Infallible, Self::Later> {
        Answering::Later(pending())
    }

    async fn answer(&self, soon: Infallible, (): &()) -> Answered {
        match soon {}
    }

    fn under_way(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    async fn prepare(&self) {}
}

/// Whether their callers go one by one, or with their connection.
#[tokio::test]
async fn calls_that_wait_are_under_way_until_they_are_gone() {
    let method = Silent::default();
    let served = Served::by(method.clone()).await;
    let under_way = async |calls: i64| {
        poll::until_async("calls that are under way", async || {
            (method.0.load(Ordering::Relaxed) == calls).then_some(())
        })
        .await;
    };
    let asking = |client: &RateLimitServiceClient<Channel>| {
        let mut client = client.clone();
        async move { client.should_rate_limit(request("d", &[])).await }
    };
    let calls = [(); 3].map(|()| tokio::spawn(asking(&served.client)));
    under_way(3).await;
    calls[0].abort();
    under_way(2).await;
    // The connections of a runtime end with it.
    let other = tokio::runtime::Runtime::new().expect("a runtime");
    let address = format!("http://{}", served.address);
    other.spawn(async move {
        let client = RateLimitServiceClient::connect(address).await;
        let client = client.expect("a connection");
        join_all([asking(&client), asking(&client)]).await
    });
    under_way(4).await;
    other.shutdown_background();
    under_way(2).await;
    calls.iter().for_each(JoinHandle::abort);
    under_way(0).await;
    served.end().await;
}

/// A message may come in as many frames as the client likes, and end without another word.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_late_is_waited_for() {
    let server = Setup::rules(RULES).start_ready();
    let client = connect(address(&server), 1 << 16).await;
    let mut message = framed(&request("d", &[&[("user", "alice")]]));
    let mut client = client.ready().await.expect("a connection");
    let (mut response, mut body) = client.send_request(head(), false).expect("a stream");
    while !message.is_empty() {
        let piece = message.split_to(message.len().min(7));
        body.send_data(piece.freeze(), false).expect("a piece");
        tokio::task::yield_now().await;
    }
    let early = poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut response).poll(cx)));
    assert!(early.await.is_pending(), "it has not ended");
    body.send_data(Bytes::new(), true).expect("an end");
    let mut answer = response.await.expect("a response").into_body();
    let framed = answer.data().await.expect("a message").expect("a message");
    let answer = RateLimitResponse::decode(&framed[5..]).expect("an answer");
    assert_eq!(answer.statuses[0].limit_remaining, 499);
}

/// What is no request ends its call with a word, is counted, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_request_ends_its_call_alone() {
    let server = Setup::rules(RULES).start_ready();
    let client = connect(address(&server), 1 << 16).await;
    for garbage in [&[0xff_u8][..], &[0x0a, 5, b'd'], &[0x0a, 1, 0xff]] {
        let mut client = client.clone().ready().await.expect("a connection");
        let (response, mut body) = client.send_request(head(), false).expect("a stream");
        let prefix = [0, 0, 0, 0, garbage.len() as u8];
        let framed = Bytes::from([&prefix, garbage].concat());
        body.send_data(framed, true).expect("a message");
        let response = response.await.expect("a response");
        assert_eq!(response.headers()["grpc-status"], "13", "INTERNAL");
        let told = response.headers()["grpc-message"].to_str().expect("text");
        assert!(told.contains("decode"), "{told}");
    }
    let asked = request("d", &[&[("user", "alice")]]);
    let answer = server.client().await.should_rate_limit(asked).await;
    assert_eq!(
        answer.expect("an answer").get_ref().statuses[0].limit_remaining,
        499
    );
    let errors = "ratelimit_service_should_rate_limit_error{err_type=\"service_error\"}";
    assert_eq!(server.metric(errors), 3.0);
}

/// Tells when the message of each call was there.
#[derive(Clone)]
struct Begun(mpsc::UnboundedSender<Instant>);

impl Method for Begun {
    type Soon = ();
    type Later = Pending<Answered>;
    type Turn = Instant;

    fn turn(&self, begun: Instant) -> Instant {
        begun
    }

    fn call(&self, _: &HeaderMap, _: Bytes, begun: &Instant) -> Answering<(), Self::Later> {
        let _ = self.0.send(*begun);
        Answering::Soon(())
    }

    async fn answer(&self, (): (), _: &Instant) -> Answered {
        Ok(wire::framed(&Answer::default()))
    }

    async fn prepare(&self) {}
}

/// The time that the store may take does not run while the client is yet to say what it asks.
#[tokio::test]
async fn a_call_begins_when_its_message_is_there() {
    let (sender, mut begun) = mpsc::unbounded_channel();
    let served = Served::by(Begun(sender)).await;
    let client = connect(served.address, 1 << 16).await;
    let asked = request("d", &[]);
    let mut late = client.clone().ready().await.expect("a connection");
    let (response, mut body) = late.send_request(head(), false).expect("a stream");
    // What came on the same connection after its head has been answered, so the head has been read.
    call(&client, &asked).await;
    begun.recv().await.expect("a call");
    let before = Instant::now();
    body.send_data(framed(&asked).freeze(), true)
        .expect("a message");
    response.await.expect("a response");
    assert!(begun.recv().await.expect("a call") >= before);
    drop((client, late));
    served.end().await;
}

/// What was read makes room for more: of one message, and of many on one connection.
#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_window_are_read_to_their_end() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_MESSAGE_SIZE", "4194304")
        .start_ready();
    let mut client = server.client().await;
    let long = "x".repeat(3 << 20);
    for _ in 0..2 {
        let answer = client.should_rate_limit(request("d", &[&[("user", &long)]]));
        let answer = timeout(Duration::from_secs(20), answer).await;
        let status = answer.expect("in time").expect_err("it is too long");
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    }
    let value = "x".repeat(16_000);
    for _ in 0..200 {
        let answer = client.should_rate_limit(request("d", &[&[("user", &value)]]));
        assert!(!is_over(answer.await.expect("an answer").get_ref()));
    }
    // What comes with the end of its call h2 gives back by itself: one and a half windows of it.
    let client = connect(address(&server), 1 << 16).await;
    for number in 0..4000 {
        let value = format!("{number:0>400}");
        let asked = request("d", &[&[("user", &value)]]);
        let told = timeout(Duration::from_secs(20), call(&client, &asked)).await;
        assert!(told.expect("in time").status().is_success());
    }
}
