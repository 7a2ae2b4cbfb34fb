//! What a client of the proxied service can put into descriptors, and where none of it may break out: keys, headers, bodies,
//! metrics, logs, traces and the API, all of the real binary.

use std::collections::{BTreeSet, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use http::Request;
use serde_json::Value;
use tollgate::admin::api::PREFIX;
use tollgate::engine::charges::{MAX_KEY, MAX_VALUE};
use tonic::Code;

use crate::metrics::read;
use crate::support::http::send;
use crate::support::otlp::{Received, attribute};
use crate::support::server::{Server, Setup, is_over, request};
use crate::support::{poll, redis};

const RULES: &str = "
domain: d
partition_by: [user]
response: {headers: [ratelimit, x-ratelimit, x-quota, retry-after], body: json}
descriptors:
  - key: user
    detailed_metric: true
    rate_limit: {requests_per_unit: 1, unit: day}
  - key: path
    rate_limit: {requests_per_unit: 1, unit: day}
    descriptors:
      - key: user
        rate_limit: {requests_per_unit: 1, unit: day}
";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Values that mean something somewhere.
fn values() -> Vec<String> {
    let texts = [
        "",
        "\r\nx-evil: 1\r\n\r\n<html>",
        "\n{\"level\":\"error\",\"@message\":\"forged\"}",
        "\0",
        "a\0b",
        "\"",
        "\\",
        "\\\"} 1\nforged_metric 1",
        "{",
        "}",
        "{d|user=alice}",
        "}{d|user=alice}",
        "alice}|^",
        "|",
        "a|user=b",
        "=",
        "%",
        "%7C",
        "%0D%0A",
        "#",
        "*",
        "^",
        "@",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{7f}\u{80}\u{9b}31m",
        "\u{202e}evil",
        "\u{2028}",
        "ä",
        "a\u{308}",
        "日本語🦀",
        "${jndi:ldap://x}",
        "{limit}{retry_after}",
        "' OR 1=1 --",
        "../../etc/passwd",
    ];
    let long = ["x".repeat(MAX_VALUE), "\u{1F980}".repeat(MAX_VALUE / 4)];
    texts.into_iter().map(str::to_owned).chain(long).collect()
}

async fn ask(server: &Server, entries: &[(&str, &str)]) -> RateLimitResponse {
    let mut message = tonic::Request::new(request("d", &[entries]));
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01").parse();
    let parent = parent.expect("ASCII");
    message.metadata_mut().insert("traceparent", parent);
    let mut client = server.client().await;
    let answer = client.should_rate_limit(message).await;
    answer.expect("an answer").into_inner()
}

/// Fails unless the headers are visible ASCII and the body is JSON.
#[track_caller]
fn is_well_formed(answer: &RateLimitResponse, value: &str) {
    for header in &answer.response_headers_to_add {
        let text = format!("{}{}", header.key, header.value);
        let visible = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        assert!(visible, "{value:?}: {header:?}");
    }
    if is_over(answer) {
        let body: Value = serde_json::from_slice(&answer.raw_body).expect("JSON");
        assert_eq!(body["error"], "rate_limit_exceeded", "{value:?}");
        assert_eq!(body.as_object().expect("an object").len(), 5);
    }
}

/// Fails unless each line is one of the service's own.
#[track_caller]
fn is_one_line_each(log: &[String], json: bool) {
    for line in log {
        if json {
            let line: Value = serde_json::from_str(line).expect(line);
            assert_ne!(line["@message"], "forged");
        } else {
            let begins = line.as_bytes().first().is_some_and(u8::is_ascii_digit);
            assert!(begins, "a line begins with no time: {line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}

async fn stands(format: &str) {
    let (received, collector) = Received::start().await;
    let store = redis::Server::start();
    let server = Setup::rules(RULES)
        .env("LOG_FORMAT", format)
        .env("LOG_LEVEL", "trace")
        .env("REDIS_URL", &format!("127.0.0.1:{}", store.port))
        .env("STORE_TIMEOUT", "2s")
        .env("RESPONSE_DYNAMIC_METADATA", "true")
        .env("LIMIT_RESPONSE_HEADERS_ENABLED", "true")
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://{collector}"),
        )
        .start_ready();
    let values = values();
    for value in &values {
        let user = [("user", value.as_str())];
        let both = [("path", value.as_str()), ("user", "alice")];
        for entries in [&user[..], &both] {
            let first = ask(&server, entries).await;
            assert!(!is_over(&first), "{value:?} has a key of its own");
            is_well_formed(&first, value);
            let second = ask(&server, entries).await;
            assert!(is_over(&second), "{value:?}");
            is_well_formed(&second, value);
        }
    }
    let admin = redis::Admin::connect(store.port).await;
    let keys = admin.run("KEYS {d|*").await.into_array();
    let keys: BTreeSet<String> = keys
        .into_iter()
        .filter_map(|key| key.into_string())
        .collect();
    assert_eq!(keys.len(), 2 * values.len());
    let mut tags: HashMap<&str, usize> = HashMap::new();
    for key in &keys {
        assert!(key.bytes().all(|b| b.is_ascii_graphic()), "{key:?}");
        assert!(key.len() < 200, "{key:?}");
        assert_eq!(key.matches(['{', '}']).count(), 2, "{key:?}");
        let (tag, _) = key.split_once('}').expect("a tag");
        *tags.entry(tag).or_default() += 1;
    }
    // One for each user: no value of a path has chosen another.
    assert_eq!(tags["{d|user=alice"], values.len());
    assert_eq!(tags.len(), values.len() + 1);

    let metrics = read(
        &send(server.http, "GET", "/metrics", &[], "")
            .expect("metrics")
            .body,
    );
    assert!(
        metrics
            .samples
            .keys()
            .all(|name| !name.starts_with("forged"))
    );
    let long = metrics.samples.keys().map(String::len).max();
    assert!(long < Some(4096), "{long:?}");
    server.signal("TERM");
    poll::until("all spans", || {
        let decided = received.spans(TRACE);
        let decided = decided
            .iter()
            .filter_map(|span| attribute(span, "rule"))
            .inspect(|rule| assert!(rule.len() < 1024));
        (decided.count() >= 4 * values.len()).then_some(())
    });
    is_one_line_each(&server.log(), format == "json");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_breaks_out_of_where_it_stands() {
    stands("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_out_of_logs_in_json() {
    stands("json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_is_refused_and_what_is_as_long_as_may_be_is_not() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    for (key, value, passes) in [
        (MAX_KEY, MAX_VALUE, true),
        (MAX_KEY + 1, 1, false),
        (1, MAX_VALUE + 1, false),
        (1, 64 * 1024, false),
    ] {
        let (key, value) = ("k".repeat(key), "v".repeat(value));
        let entry = [(key.as_str(), value.as_str())];
        let answer = client.should_rate_limit(request("d", &[&entry])).await;
        let code = answer
            .as_ref()
            .map_or_else(|status| status.code(), |_| Code::Ok);
        let wanted = if passes {
            Code::Ok
        } else {
            Code::InvalidArgument
        };
        assert_eq!(code, wanted, "{} and {}", key.len(), value.len());
    }
    for (domain, wanted) in [(MAX_KEY, Code::Ok), (MAX_KEY + 1, Code::InvalidArgument)] {
        let domain = "\n".repeat(domain);
        let asked = request(&domain, &[&[("user", "a")]]);
        let answer = client.should_rate_limit(asked).await;
        let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, wanted, "a domain of {} bytes", domain.len());
    }
    read(
        &send(server.http, "GET", "/metrics", &[], "")
            .expect("metrics")
            .body,
    );
}

/// The bytes of a message whose domain is `domain`, sent as they are; the status of the answer.
async fn status_of(server: &Server, domain: &[u8]) -> String {
    let address = server.grpc.expect("a port");
    let stream = tokio::net::TcpStream::connect(address).await;
    let (sender, connection) = h2::client::handshake(stream.expect("a connection"))
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("a stream");
    let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let head = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (answer, mut body) = sender.send_request(head, false).expect("sent");
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(domain.len() + 2).expect("short"));
    // Field 1, a length and a text.
    message.put_slice(&[0x0a, u8::try_from(domain.len()).expect("short")]);
    message.put_slice(domain);
    body.send_data(Bytes::from(message), true).expect("sent");
    let (head, mut body) = answer.await.expect("an answer").into_parts();
    let told = match head.headers.get("grpc-status") {
        Some(status) => status.clone(),
        None => {
            while let Some(data) = body.data().await {
                data.expect("data");
            }
            let trailers = body.trailers().await.expect("trailers");
            trailers.expect("trailers")["grpc-status"].clone()
        }
    };
    told.to_str().expect("ASCII").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_refused() {
    let server = Setup::rules(RULES).start_ready();
    // No descriptors: it was read, at least.
    assert_eq!(status_of(&server, b"d").await, "3");
    for wrong in [&b"\xff\xfe"[..], b"d\xc0\x80", b"\xed\xa0\x80", b"\xf5"] {
        assert_eq!(status_of(&server, wrong).await, "13", "{wrong:?}");
    }
    assert!(!is_over(&ask(&server, &[("user", "a")]).await));
}

#[test]
fn changes_leave_a_line_each_whatever_they_are_of() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let audit = dir.path().join("audit");
    let server = Setup::rules(RULES)
        .env("AUDIT_LOG", &audit.display().to_string())
        .start_ready();
    let entries = [
        "user=%0D%0Aforged",
        "user=%00",
        "user=%22%7D",
        "user=%1B%5B31m",
    ];
    for entry in entries {
        let path = format!("{PREFIX}/lists/deny/{entry}");
        let note = r#"{"note": "a\nb\u0000c\"d"}"#;
        let reply = send(server.http, "PUT", &path, &[], note).expect("an answer");
        assert_eq!(reply.code, 200, "{entry}: {}", reply.body);
        serde_json::from_str::<Value>(&reply.body).expect("JSON");
    }
    let lists = send(server.http, "GET", &format!("{PREFIX}/lists"), &[], "").expect("lists");
    let lists: Value = serde_json::from_str(&lists.body).expect("JSON");
    assert_eq!(lists["items"].as_array().map(Vec::len), Some(entries.len()));
    let written = std::fs::read_to_string(&audit).expect("a file");
    assert_eq!(written.lines().count(), entries.len());
    for line in written.lines() {
        serde_json::from_str::<Value>(line).expect(line);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let body = r#"{"domain": "\r\n\"", "descriptors": [{"entries": [{"key": "\u0000", "value": "\r\n"}]}]}"#;
    let reply = send(server.http, "POST", "/json", &[], body).expect("an answer");
    serde_json::from_str::<Value>(&reply.body).expect("JSON");
}
