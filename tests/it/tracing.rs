//! Traces of the real binary, received by a real OTLP receiver.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tonic::{Code, Request};

use crate::support::otlp::{Received, attribute, hex};
use crate::support::server::{Server, Setup, binary, is_over, request};
use crate::support::{poll, redis};

mod always;
mod cluster;
mod exemplars;

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 1, unit: day, name: one}
";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

async fn ask(server: &Server, traceparent: Option<&str>) -> bool {
    let mut message = Request::new(request("d", &[&[("user", "alice")]]));
    if let Some(traceparent) = traceparent {
        message
            .metadata_mut()
            .insert("traceparent", traceparent.parse().expect("ASCII"));
    }
    is_over(
        server
            .client()
            .await
            .should_rate_limit(message)
            .await
            .expect("an answer")
            .get_ref(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_a_child_of_its_caller_and_has_a_store_call() {
    let (received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("TRACING_SERVICE_NAMESPACE", "edge")
        .start_ready();
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    assert!(!ask(&server, Some(&traceparent)).await);
    assert!(ask(&server, Some(&traceparent)).await);
    let spans = poll::until_async("four spans", || async {
        Some(received.spans(TRACE)).filter(|spans| spans.len() == 4)
    })
    .await;
    let (decisions, calls): (Vec<_>, Vec<_>) = spans
        .iter()
        .partition(|span| span.name == "ratelimit.should_rate_limit");
    assert_eq!((decisions.len(), calls.len()), (2, 2));
    for (decision, reason) in decisions.iter().zip(["within_limit", "over_limit"]) {
        assert_eq!(hex(&decision.parent_span_id), CALLER);
        assert_eq!(decision.kind, SpanKind::Server as i32);
        for (key, wanted) in [
            ("domain", "d"),
            ("descriptors", "user=alice"),
            ("rule", "user"),
            ("rule.path", "descriptors[0]"),
            ("rule.source", "rules.yaml:4"),
            ("hits", "1"),
            ("limit", "1/day"),
            ("remaining", "0"),
            ("reason", reason),
        ] {
            assert_eq!(attribute(decision, key).as_deref(), Some(wanted), "{key}");
        }
        let child = calls
            .iter()
            .find(|call| call.parent_span_id == decision.span_id)
            .expect("a child");
        assert_eq!(child.kind, SpanKind::Client as i32);
        assert_eq!(
            attribute(child, "db.system.name").as_deref(),
            Some("embedded")
        );
    }
    assert_eq!(
        received.resource("service.name").as_deref(),
        Some("RateLimit")
    );
    assert_eq!(
        received.resource("service.namespace").as_deref(),
        Some("edge")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_what_is_traced() {
    let (received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("TRACING_ENABLED", "true")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("TRACING_SAMPLING_RATE", "0")
        .start_ready();
    ask(&server, Some(&format!("00-{TRACE}-{CALLER}-00"))).await;
    ask(&server, None).await;
    ask(&server, Some("nonsense")).await;
    let sampled = "11111111111111111111111111111111";
    ask(&server, Some(&format!("00-{sampled}-{CALLER}-01"))).await;
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(
        received.spans(sampled).len(),
        2,
        "what was traced is sent before the end"
    );
    assert_eq!(received.names().len(), 2, "nothing else was");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_also_leave_over_http() {
    let (received, address) = Received::start_http().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .start_ready();
    ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(received.spans(TRACE).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_decision_says_why() {
    let (received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .start_ready();
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    for (domain, code) in [("unknown", Code::Ok), ("", Code::InvalidArgument)] {
        let mut message = Request::new(request(domain, &[&[("user", "alice")]]));
        let traceparent = sampled.parse().expect("ASCII");
        message.metadata_mut().insert("traceparent", traceparent);
        let answer = server.client().await.should_rate_limit(message).await;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |_| Code::Ok),
            code
        );
    }
    server.signal("TERM");
    assert!(server.wait().success());
    let spans = received.spans(TRACE);
    let said = |span: &Span| {
        ["domain", "reason", "rpc.grpc.status_code"]
            .map(|key| attribute(span, key).unwrap_or_default())
    };
    let said: Vec<_> = spans.iter().map(said).collect();
    assert_eq!(said, [["unknown", "no_rule", "0"], ["", "", "3"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_names_its_redis_server_and_how_it_failed() {
    let (received, address) = Received::start().await;
    let mut redis = redis::Server::start();
    let port = redis.port.to_string();
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("REDIS_URL", &format!("127.0.0.1:{port}"))
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    redis.kill();
    server.wait_for_log("no connection to redis");
    let failing = "11111111111111111111111111111111";
    ask(&server, Some(&format!("00-{failing}-{CALLER}-01"))).await;
    server.signal("TERM");
    assert!(server.wait().success());

    let spans = received.spans(TRACE);
    let of = |spans: &[Span], name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.expect(name).clone()
    };
    let (store, call) = (of(&spans, "store.transact"), of(&spans, "EVALSHA"));
    assert_eq!(call.parent_span_id, store.span_id);
    assert_eq!(call.kind, SpanKind::Client as i32);
    for (key, wanted) in [
        ("db.system.name", "redis"),
        ("server.address", "127.0.0.1"),
        ("server.port", port.as_str()),
    ] {
        assert_eq!(attribute(&call, key).as_deref(), Some(wanted), "{key}");
    }
    assert_eq!(attribute(&store, "error.type"), None);

    let spans = received.spans(failing);
    for name in ["store.transact", "EVALSHA"] {
        let span = of(&spans, name);
        let kind = attribute(&span, "error.type").expect("a kind");
        assert!(
            ["unreachable", "timeout"].contains(&kind.as_str()),
            "{kind}"
        );
        assert_eq!(
            span.status.expect("a status").code,
            StatusCode::Error as i32
        );
    }
    let decision = of(&spans, "ratelimit.should_rate_limit");
    assert_eq!(
        attribute(&decision, "reason").as_deref(),
        Some("fallback_local")
    );
}

/// Requests that go together are one call, and the trace of the first has it; who is refused from memory has none.
#[tokio::test(flavor = "multi_thread")]
async fn what_costs_no_call_says_what_it_is_served_from() {
    const TOGETHER: usize = 40;
    let (received, address) = Received::start().await;
    let redis = redis::Server::start();
    let rules = "
domain: d
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 100, unit: day, name: day}}
";
    let server = Setup::rules(rules)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
        .env("STORE_TIMEOUT", "5s")
        .env("GRPC_THREADS", "1")
        .start_ready();
    let client = server.client().await;
    let asked = (0..TOGETHER).map(|n| {
        let mut client = client.clone();
        let mut message = Request::new(request("d", &[&[("user", "alice")]]));
        let parent = format!("00-{n:031}1-{CALLER}-01");
        let parent = parent.parse().expect("ASCII");
        message.metadata_mut().insert("traceparent", parent);
        async move { client.should_rate_limit(message).await.map(|_| ()) }
    });
    for answer in futures::future::join_all(asked).await {
        answer.expect("an answer");
    }
    let spans = poll::until_async("all spans", || async {
        let traces = (0..TOGETHER).map(|n| received.spans(&format!("{n:031}1")));
        let spans: Vec<Span> = traces.flatten().collect();
        let stores = spans.iter().filter(|span| span.name == "store.transact");
        (stores.count() == TOGETHER).then_some(spans)
    })
    .await;
    let calls: Vec<&Span> = spans.iter().filter(|span| span.name == "EVALSHA").collect();
    let combined = |span: &&Span| attribute(span, "served_from").as_deref() == Some("combined");
    let (combined, alone): (Vec<&Span>, Vec<&Span>) = spans
        .iter()
        .filter(|span| span.name == "store.transact")
        .partition(combined);
    assert!(calls.len() < TOGETHER / 2, "{} calls", calls.len());
    let has_call = |store: &&&Span| calls.iter().any(|c| c.parent_span_id == store.span_id);
    assert!(alone.iter().all(|store| has_call(&store)), "its own call");
    let of_others = combined.iter().filter(has_call).count();
    assert_eq!(
        alone.len() + of_others,
        calls.len(),
        "each call has its place"
    );
    assert!((1..combined.len()).contains(&of_others), "{of_others}");

    let (refused, mut asked) = ("22222222222222222222222222222222", 0);
    while !ask(&server, None).await {
        asked += 1;
        assert!(asked <= 100, "refused in the end");
    }
    poll::until_async("a refusal from memory", || async {
        ask(&server, Some(&format!("00-{refused}-{CALLER}-01"))).await;
        let spans = received.spans(refused);
        let of = |span: &Span| attribute(span, "served_from").as_deref() == Some("memory");
        spans.iter().any(of).then_some(())
    })
    .await;
}

#[test]
fn a_protocol_that_is_not_known_is_an_error_of_its_variable() {
    let output = binary()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
        .output()
        .expect("the binary");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "OTEL_EXPORTER_OTLP_PROTOCOL=http/json is neither grpc nor http/protobuf";
    assert!(said.contains(wanted), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_up_neither_answers_nor_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        .start_ready();
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    let begun = Instant::now();
    for _ in 0..100 {
        ask(&server, Some(&sampled)).await;
    }
    server.signal("TERM");
    assert!(server.wait().success());
    // Shorter than the exporter's own patience, which is ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_nothing_but_a_warning() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{nobody}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start_ready();
    let begun = Instant::now();
    for _ in 0..50 {
        ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    }
    server.wait_for_log("spans cannot be exported");
    assert!(begun.elapsed() < Duration::from_secs(10));
    for _ in 0..50 {
        ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    }
    let warnings = server
        .log()
        .into_iter()
        .filter(|line| line.contains("spans cannot be exported"));
    assert_eq!(warnings.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_when_asked_and_refusals_are_no_lines() {
    let server = Setup::rules(RULES).env("LOG_FORMAT", "json").start_ready();
    for _ in 0..5 {
        ask(&server, None).await;
    }
    server.signal("TERM");
    server.wait_for_log("stopping");
    let mut lines = server.log();
    for line in &lines {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(
            line["@timestamp"].is_string()
                && line["@message"].is_string()
                && line["level"] == "info"
        );
    }
    // All that was written before has been read by then.
    let stopping = lines.iter().position(|line| line.contains("stopping"));
    lines.truncate(stopping.expect("a line"));
    assert_eq!(lines.len(), 3, "{lines:?}");
}
