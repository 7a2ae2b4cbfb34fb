//! What one client may hold or send: the first line, connections, sizes, times, memory, resets.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{BEHIND_A_BALANCER, Whole};
use crate::support::http::{Reply, connect, get, send, send_over};
use crate::support::poll;

/// Whatever comes back over a connection until its end.
fn rest(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_flood_is_refused_before_tollgate_is_asked() {
    let [hops, addresses] = BEHIND_A_BALANCER;
    let five = (
        "{max_tokens: 400, tokens_per_fill: 200, fill_interval: 1s}",
        "{max_tokens: 5, tokens_per_fill: 5, fill_interval: 600s}",
    );
    let whole = Whole::start(&[hops, addresses, five]);
    let from = |address: &str| whole.get("/hello", &[("x-forwarded-for", address)]);
    let before = whole.decided();
    for _ in 0..5 {
        assert_eq!(from("192.0.2.1").code, 200);
    }
    for _ in 0..20 {
        let reply = from("192.0.2.1");
        assert_eq!(reply.code, 429);
        assert!(reply.one("retry-after").parse::<u32>().is_ok(), "{reply:?}");
    }
    assert_eq!(whole.decided() - before, 5.0);
    assert_eq!(from("192.0.2.2").code, 200, "others are not held up");
    let refused = whole
        .envoy
        .stat("first_line.http_local_rate_limit.rate_limited");
    assert_eq!(refused, 20);
}

#[test]
fn connections_have_a_bound_and_whoever_looks_still_gets_in() {
    let three = (
        "max_active_downstream_connections: 10000",
        "max_active_downstream_connections: 3",
    );
    let whole = Whole::alone(&[three]);
    let address = whole.envoy.address;
    let open = || connect(address).expect("a connection");
    let idle = [open(), open(), open()];
    poll::until("the bound", || {
        send(address, "GET", "/", &[], "").is_none().then_some(())
    });
    assert_eq!(get(whole.envoy.admin, "/ready").code, 200);
    drop(idle);
    poll::until("room", || send(address, "GET", "/", &[], ""));
}

#[test]
fn heads_and_bodies_have_bounds() {
    let small = ("max_request_bytes: 10485760", "max_request_bytes: 100000");
    let whole = Whole::alone(&[small]);
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        send(whole.envoy.address, method, path, headers, body)
    };
    // Envoy may hang up while the client still sends: then there is no answer.
    let refused = |reply: Option<Reply>, code: u16| {
        assert!(
            reply.as_ref().is_none_or(|reply| reply.code == code),
            "{reply:?}"
        );
    };
    let passed = |reply: Option<Reply>| assert_eq!(reply.expect("an answer").code, 200);
    let value = "v".repeat(33_000);
    refused(send("GET", "/", &[("x-long", &value)], ""), 431);
    passed(send("GET", "/", &[("x-long", &value[..30_000])], ""));
    let names: Vec<String> = (0..120).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    refused(send("GET", "/", &many, ""), 431);
    passed(send("GET", "/", &many[..80], ""));
    refused(send("GET", &format!("/?{value}"), &[], ""), 431);
    passed(send("POST", "/", &[], &value));
    let long = "b".repeat(100_001);
    refused(send("POST", "/", &[], &long), 413);
    let mut chunked = connect(whole.envoy.address).expect("a connection");
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = format!("{head}186A1\r\n{long}\r\n");
    chunked.write_all(chunks.as_bytes()).expect("sent");
    let answer = rest(&chunked);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    let too_large = |line: &serde_json::Value| line["code"] == 413;
    poll::until("both in the log", || {
        let lines = whole.envoy.access_log();
        (lines.into_iter().filter(too_large).count() == 2).then_some(())
    });
    assert_eq!(whole.code("/"), 200);
}

#[test]
fn who_says_two_lengths_is_refused() {
    let whole = Whole::alone(&[]);
    for lengths in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "content-length: 4\r\ncontent-length: 40",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "content-length: -1",
    ] {
        let mut stream = connect(whole.envoy.address).expect("a connection");
        let text = format!(
            "POST /hello HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).expect("sent");
        let answers = rest(&stream);
        let first = answers.lines().next().unwrap_or_default();
        assert!(
            ["HTTP/1.1 400 Bad Request", "HTTP/1.1 501 Not Implemented"].contains(&first),
            "{lengths}: {answers}"
        );
        assert_eq!(
            answers.matches("HTTP/1.1 ").count(),
            1,
            "{lengths}: {answers}"
        );
    }
    assert_eq!(whole.asked(), [0; 4]);
}

#[test]
fn whoever_is_slow_is_not_waited_for() {
    let whole = Whole::alone(&[
        (
            "request_headers_timeout: 5s",
            "request_headers_timeout: 0.3s",
        ),
        ("request_timeout: 30s", "request_timeout: 0.6s"),
        ("timeout: 15s", "timeout: 0.3s"),
    ]);
    let slow = |text: &str| {
        let mut stream = connect(whole.envoy.address).expect("a connection");
        stream.write_all(text.as_bytes()).expect("sent");
        rest(&stream)
    };
    let head = slow("GET / HTTP/1.1\r\nhost: localhost\r\n");
    assert!(
        head.is_empty() || head.starts_with("HTTP/1.1 408"),
        "{head}"
    );
    let body = slow("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nfive…");
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    for upstream in &whole.upstreams {
        upstream.hold(true);
    }
    assert_eq!(whole.code("/held"), 504);
}

#[test]
fn when_memory_is_short_requests_are_refused() {
    let whole = Whole::alone(&[(
        "max_heap_size_bytes: 1073741824",
        "max_heap_size_bytes: 1000",
    )]);
    let reply = poll::until("the alarm", || {
        let reply = whole.get("/hello", &[]);
        (reply.code == 503).then_some(reply)
    });
    assert!(reply.body.contains("unavailable"), "{reply:?}");
    let stat = "overload.envoy.overload_actions.stop_accepting_requests.active";
    assert_eq!(whole.envoy.stat(stat), 1);
}

/// Streams that are begun and reset cost an upstream much and the client nothing: the connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_resets_what_they_begin_is_put_out() {
    let whole = Whole::alone(&[]);
    let stream = tokio::net::TcpStream::connect(whole.envoy.address).await;
    let (mut client, connection) = h2::client::handshake(stream.expect("a connection"))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut begun = 0;
    while begun < 20_000 {
        let Ok(ready) = client.clone().ready().await else {
            break;
        };
        client = ready;
        let request = http::Request::get("http://localhost/held")
            .body(())
            .expect("a request");
        match client.send_request(request, true) {
            // Dropped before it is answered, a stream is reset.
            Ok((_, mut stream)) => stream.send_reset(h2::Reason::CANCEL),
            Err(_) => break,
        }
        begun += 1;
    }
    assert!(begun < 20_000, "never put out");
    // It has ended, well or not.
    let _ = connection.await.expect("no panic");
    let stat = "http.gateway.downstream_rq_too_many_premature_resets";
    assert_eq!(whole.envoy.stat(stat), 1);
    let stream = connect(whole.envoy.address).expect("a connection");
    assert_eq!(
        send_over(stream, "GET", "/", &[], "")
            .expect("an answer")
            .code,
        200
    );
}
