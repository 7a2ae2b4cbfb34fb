//! What was wrong once, each test named for the cause.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tollgate::admin::Access;
use tollgate::admin::api::PREFIX;
use tollgate::admin::api::access::MAX_FILE;
use tollgate::engine::Settings;
use tollgate::limit::Unit;
use tollgate::limit::ban::{Ban, State};
use tollgate::settings::values::duration;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::settings::Address;
use tollgate::telemetry::metrics::Metrics;
use tollgate::telemetry::metrics::rule::MAX_NAME;
use tollgate::time::{Clock, Micros, Timestamp};

use crate::support::server::Setup;
use crate::support::service::Service;

/// The fuzzer: a stored count of 2^32 - 1 refusals wrapped around to none, and the ban did not come.
#[test]
fn one_more_than_all_refusals_was_none() {
    let hour = Micros::from_secs(3600);
    let ban = Ban::new(u32::MAX, Unit::Minute, hour, hour).expect("a ban");
    let now = Timestamp::from_secs(0);
    let mut state = State::fresh(&ban, now);
    state.refusals = u32::MAX;
    state.refuse(&ban, now);
    assert_eq!(state.banned(now), Some(hour));
}

/// A timeout that no clock can reach was taken, and then each request panicked when it was added to the time.
#[test]
fn a_timeout_could_be_longer_than_the_clock() {
    assert!(duration("2562047788015216h").is_err());
    let longest = duration("876000h").expect("100 years");
    let end = Instant::now().checked_add(longest.0);
    assert!(end.is_some_and(|end| end > Instant::now() + Duration::from_secs(1)));
}

/// The fuzzer: half a pair of brackets, spaces and line ends were part of the host.
#[test]
fn a_redis_host_could_be_nonsense() {
    for text in [
        "[\n/:63",
        "[::1:6379",
        "::1]:6379",
        "a b:6379",
        "[[::1]]:6379",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text:?}");
    }
    for (text, host) in [("[::1]:6379", "::1"), ("redis:6379", "redis")] {
        let address: Address = text.parse().expect("an address");
        assert_eq!(address.host, host);
    }
}

/// The review: the decoder calls itself for each array within another, and 5,000 of them overflowed the stack and ended the
/// process.
#[test]
fn an_answer_nested_without_end_overflowed_the_stack() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let said = |text: &[u8]| {
        let answers = tollgate::store::redis::untrusted::answers(text);
        runtime.block_on(answers).expect("a socket")
    };
    assert!(said(&b"*1\r\n".repeat(5_000)).is_empty());
    assert!(said(&b"%1\r\n+a\r\n".repeat(100_000)).is_empty());
    assert!(said(&b"|1\r\n+a\r\n+b\r\n".repeat(100_000)).is_empty());
    // What was answered before stays answered.
    let first = [b"$2\r\nok\r\n".to_vec(), b"*1\r\n".repeat(5_000)].concat();
    assert_eq!(said(&first), ["ok"]);
}

/// The review: without tokens the API was for loopback, but a proxy on the machine brought anybody there, and so did a browser
/// whose page has a name that came to mean 127.0.0.1.
#[test]
fn whoever_came_over_loopback_was_local() {
    let server = Setup::rules("domain: d").start_ready();
    let status = |host: &str, header: Option<&str>| {
        let headers = header.map(|name| format!("{name}: 192.0.2.1\r\n"));
        let headers = headers.unwrap_or_default();
        let path = format!("{PREFIX}/status");
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
        let mut stream = std::net::TcpStream::connect(server.http).expect("a connection");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).and_then(|code| code.parse().ok())
    };
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
    ] {
        assert_eq!(status(host, None), Some(200), "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "192.0.2.1",
        "localhost.evil",
        "",
    ] {
        assert_eq!(status(host, None), Some(403), "{host}");
    }
    for header in [
        "origin",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "via",
    ] {
        assert_eq!(status("localhost", Some(header)), Some(403), "{header}");
    }
}

/// The review: of a file of tokens over 1 MiB the rest was left out, and half a token did for the whole.
#[test]
fn half_a_token_did_for_the_whole() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("tokens");
    let most = usize::try_from(MAX_FILE).expect("a size");
    let text = "0123456789abcde\n".repeat(most / 16 - 1) + "0123456789abcdefghij";
    std::fs::write(&path, &text).expect("a file");
    let access = Access::new(Some(path.clone()), None, None);
    let trouble = access.trouble().expect("it is too long");
    assert!(trouble.contains("1048576"), "{trouble}");
    std::fs::write(&path, &text[..most]).expect("a file");
    assert_eq!(access.trouble(), None, "as long as may be");
}

/// The review: the secret that keeps clients from aiming at a shard was printed with the store.
#[test]
fn the_secret_of_the_store_was_printed() {
    let store = Embedded::new(64, Clock::System);
    assert_eq!(format!("{store:?}"), "Embedded { .. }");
}

/// The review: RESPONSE_DYNAMIC_METADATA told Envoy, and so its access log, the values that the domain calls sensitive.
#[tokio::test]
async fn sensitive_values_were_told_in_metadata() {
    let rules = "domain: d\nsensitive: [api_key]\ndescriptors: [{key: api_key, rate_limit: {requests_per_unit: 1, unit: day}}]";
    let settings = Settings {
        reference_metadata: true,
        ..Settings::default()
    };
    let store = |clock| Store::Embedded(Embedded::new(64, clock));
    let service = Service::with(rules, settings, store);
    let answer = service.ask(&["api_key=hunter2", "path=/x"]).await;
    let told = serde_json::to_string(&answer.metadata).expect("JSON");
    assert!(
        told.contains("api_key=#") && told.contains("path=/x"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
}

/// The review: a name of 16 KiB for each of 5,000 series, and for each of them five counters.
#[test]
fn values_of_requests_made_names_of_any_length() {
    let metrics = Metrics::new();
    for name in ["a".repeat(MAX_NAME), "b".repeat(MAX_NAME + 1)] {
        drop(metrics.rule_by_request("d", &name));
    }
    let text = metrics.encode();
    assert!(text.contains(&"a".repeat(MAX_NAME)) && !text.contains("bb"));
    assert!(text.contains("rule=\"other\""));
}
