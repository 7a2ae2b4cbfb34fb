//! What TRACE_ALWAYS keeps though the head sampler said no.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tonic::{Code, Request};

use super::{CALLER, TRACE, ask};
use crate::support::otlp::{Received, attribute, hex};
use crate::support::redis;
use crate::support::server::{Server, Setup, binary, request};

const RULES: &str = "
domain: d
sensitive: [user]
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 1, unit: day, name: one}
";

const DECISION: &str = "ratelimit.should_rate_limit";

/// Nothing is sampled, and of the rest `kinds` are kept.
async fn keeping(kinds: &str) -> (Received, Setup) {
    let (received, address) = Received::start().await;
    let setup = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("TRACING_SAMPLING_RATE", "0")
        .env("TRACE_ALWAYS", kinds);
    (received, setup)
}

fn end(server: Server) {
    server.signal("TERM");
    assert!(server.wait().success());
}

fn unsampled() -> String {
    format!("00-{TRACE}-{CALLER}-00")
}

fn of<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found = spans.iter().find(|span| span.name == name);
    found.expect(name)
}

fn keys(span: &Span) -> Vec<&str> {
    let keys = span.attributes.iter().map(|a| a.key.as_str());
    // What belongs to the making of a span, and what only those kept after the fact have.
    let made = ["level", "target", "busy_ns", "idle_ns", "kept"];
    let mut keys: Vec<&str> = keys.filter(|key| !made.contains(key)).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_kept_as_if_it_had_been_sampled() {
    let (received, setup) = keeping("refused").await;
    let server = setup.start_ready();
    let sampled = "11111111111111111111111111111111";
    assert!(!ask(&server, Some(&unsampled())).await);
    assert!(ask(&server, Some(&unsampled())).await);
    assert!(ask(&server, None).await);
    assert!(ask(&server, Some(&format!("00-{sampled}-{CALLER}-01"))).await);
    let kept = "tollgate_kept_traces{why=\"refused\",outcome=\"kept\"}";
    assert_eq!(server.metric(kept), 2.0);
    end(server);

    let spans = received.spans(TRACE);
    assert_eq!(spans.len(), 2, "the refusal alone: {spans:?}");
    let decision = of(&spans, DECISION);
    assert_eq!(hex(&decision.parent_span_id), CALLER);
    assert_eq!(decision.kind, SpanKind::Server as i32);
    assert!(decision.end_time_unix_nano > decision.start_time_unix_nano);
    for (key, wanted) in [
        ("domain", "d"),
        ("rule", "user"),
        ("rule.source", "rules.yaml:5"),
        ("limit", "1/day"),
        ("remaining", "0"),
        ("reason", "over_limit"),
        ("admitted", "false"),
        ("rpc.grpc.status_code", "0"),
        ("kept", "refused"),
    ] {
        assert_eq!(attribute(decision, key).as_deref(), Some(wanted), "{key}");
    }
    let said = attribute(decision, "descriptors").expect("descriptors");
    assert!(
        said.starts_with("user") && !said.contains("alice"),
        "{said}"
    );
    let call = of(&spans, "store.transact");
    assert_eq!(call.parent_span_id, decision.span_id);
    assert!(call.start_time_unix_nano >= decision.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= decision.end_time_unix_nano);

    let spans = received.spans(sampled);
    assert_eq!(
        keys(of(&spans, DECISION)),
        keys(decision),
        "as the usual one"
    );
    // Without a caller it is a trace of its own.
    assert_eq!(
        received.names().iter().filter(|n| *n == DECISION).count(),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_did_not_decide_is_kept_and_what_nobody_decided() {
    let (received, setup) = keeping("error").await;
    let mut redis = redis::Server::start();
    let server = setup
        .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    assert!(!ask(&server, Some(&unsampled())).await);
    let mut nonsense = Request::new(request("", &[&[("user", "alice")]]));
    let other = "22222222222222222222222222222222";
    let parent = format!("00-{other}-{CALLER}-00").parse().expect("ASCII");
    nonsense.metadata_mut().insert("traceparent", parent);
    let answer = server.client().await.should_rate_limit(nonsense).await;
    assert_eq!(answer.expect_err("an error").code(), Code::InvalidArgument);
    redis.kill();
    server.wait_for_log("no connection to redis");
    ask(&server, Some(&unsampled())).await;
    end(server);

    let spans = received.spans(TRACE);
    assert_eq!(spans.len(), 2, "the failed one alone: {spans:?}");
    let decision = of(&spans, DECISION);
    let reason = attribute(decision, "reason");
    assert_eq!(reason.as_deref(), Some("fallback_local"));
    let call = of(&spans, "store.transact");
    assert!(attribute(call, "error.type").is_some());
    let status = call.status.as_ref().expect("a status");
    assert_eq!(status.code, StatusCode::Error as i32);

    let spans = received.spans(other);
    let code = attribute(of(&spans, DECISION), "rpc.grpc.status_code");
    assert_eq!(code.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_is_kept_and_no_more_than_may_be() {
    const ASKED: usize = 200;
    let (received, setup) = keeping("slow").await;
    let server = setup
        .env("TRACE_SLOW", "0")
        .env("TRACE_ALWAYS_RATE", "3")
        .start_ready();
    for _ in 0..ASKED {
        ask(&server, Some(&unsampled())).await;
    }
    let count = |outcome: &str| {
        let name = format!("tollgate_kept_traces{{why=\"slow\",outcome=\"{outcome}\"}}");
        server.metric(&name)
    };
    let (kept, dropped) = (count("kept"), count("dropped"));
    assert_eq!(kept + dropped, ASKED as f64);
    assert!(kept >= 3.0 && dropped > 0.0, "{kept} and {dropped}");
    end(server);
    let spans = received.spans(TRACE);
    let decisions = spans.iter().filter(|span| span.name == DECISION);
    assert_eq!(decisions.count() as f64, kept);
    let why = attribute(of(&spans, DECISION), "kept");
    assert_eq!(why.as_deref(), Some("slow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quick_and_admitted_is_not_kept() {
    let (received, setup) = keeping("refused,error,slow").await;
    let server = setup.env("TRACE_SLOW", "1h").start_ready();
    assert!(!ask(&server, Some(&unsampled())).await);
    end(server);
    assert_eq!(received.names(), Vec::<String>::new());
}

#[test]
fn a_kind_that_is_not_known_is_an_error_of_its_variable() {
    let output = binary().env("TRACE_ALWAYS", "refused,dear").output();
    let output = output.expect("the binary");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "TRACE_ALWAYS: dear is none of refused, error and slow";
    assert!(said.contains(wanted), "{said}");
}
