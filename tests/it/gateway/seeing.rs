//! What is to be seen of a request afterwards: a line in the log, spans.

use serde_json::{Value, json};

use super::{NO_FIRST_LINE, Whole};
use crate::support::otlp::Received;
use crate::support::poll;
use crate::support::token::bearer;

#[test]
fn the_log_has_the_decision_and_no_secret() {
    let whole = Whole::start(&[]);
    let token = bearer(&json!({"sub": "alice", "tier": "free", "roles": ["support"]}));
    let caller = [("authorization", &*token)];
    let id = whole
        .get("/compare?api_key=hush", &caller)
        .one("x-request-id")
        .to_owned();
    let line_of = |id: &str| {
        poll::until("the line", || {
            let lines = whole.envoy.access_log();
            lines.into_iter().find(|line| line["id"] == *id)
        })
    };
    let line = line_of(&id);
    assert_eq!(line["user"], "alice");
    assert_eq!(
        (&line["code"], &line["path"]),
        (&json!(200), &json!("/compare"))
    );
    let decision = &line["rate_limit"];
    assert_eq!(decision["reason"], "within_limit", "{line}");
    assert_eq!(decision["domain"], "product");
    assert!(decision["remaining"].is_number(), "{line}");
    assert!(
        line["upstream"]
            .as_str()
            .is_some_and(|host| host.starts_with("127.0.0.1:"))
    );
    let text = line.to_string();
    assert!(
        !text.contains("hush") && !text.contains(&token[20..40]),
        "{text}"
    );
    let refused = poll::until("a refusal", || {
        let reply = whole.get("/hello", &[]);
        (reply.code == 429).then_some(reply)
    });
    let line = line_of(refused.one("x-request-id"));
    let decision = &line["rate_limit"];
    assert_eq!(decision["reason"], "over_limit", "{line}");
    assert_eq!(
        (&line["flags"], &line["user"], &line["upstream"]),
        (&json!("RL"), &Value::Null, &Value::Null)
    );
    let support = whole.get("/admin", &caller).one("x-request-id").to_owned();
    assert_eq!(line_of(&support)["role"], "support");
}

/// The flags of what an upstream was told of a trace: 01 if it is kept.
fn kept(body: &str) -> bool {
    let head = body.to_lowercase();
    let parent = head.split("traceparent: ").nth(1).expect("a parent");
    parent
        .lines()
        .next()
        .expect("a line")
        .trim()
        .ends_with("-01")
}

#[test]
fn one_in_ten_is_traced_and_nobody_outside_says_which() {
    let whole = Whole::alone(&[NO_FIRST_LINE]);
    let ask = |headers: &[(&str, &str)]| {
        (0..150)
            .filter(|_| kept(&whole.get("/", headers).body))
            .count()
    };
    let forced = [
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("x-client-trace-id", "mine"),
        ("x-envoy-force-trace", "true"),
    ];
    for headers in [&[][..], &forced] {
        // 15 on average; 40 is more than six standard deviations off.
        let traced = ask(headers);
        assert!((1..=40).contains(&traced), "{traced} of 150");
    }
    // While it runs it can be all of them.
    let all = "/runtime_modify?tracing.random_sampling=10000";
    crate::support::http::send(whole.envoy.admin, "POST", all, &[], "").expect("an answer");
    poll::until("all", || (ask(&[]) == 150).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_has_the_request_the_question_and_the_upstream() {
    let (received, collector) = Received::start().await;
    let port = format!("port_value: {}}}", collector.port());
    let whole = Whole::start(&[
        (
            "random_sampling: {value: 10}",
            "random_sampling: {value: 100}",
        ),
        ("port_value: 4317}", &port),
    ]);
    let token = bearer(&json!({"sub": "alice", "tier": "pro"}));
    let reply = whole.get("/hello", &[("authorization", &token)]);
    let head = reply.body.to_lowercase();
    let trace = head.split("traceparent: 00-").nth(1).expect("a parent")[..32].to_owned();
    let spans = poll::until("the spans", || {
        // Envoy sends them when there are some.
        whole.get("/hello", &[]);
        let spans = received.spans(&trace);
        (spans.len() >= 3).then_some(spans)
    });
    let question = spans
        .iter()
        .find(|span| span.name.contains("ShouldRateLimit"))
        .expect("the question");
    let request = spans
        .iter()
        .find(|span| span.parent_span_id.is_empty())
        .expect("the request");
    assert_eq!(question.parent_span_id, request.span_id);
    let tag = |key: &str| crate::support::otlp::attribute(request, key);
    assert_eq!(tag("user").as_deref(), Some("alice"));
    assert_eq!(tag("ratelimit.reason").as_deref(), Some("within_limit"));
}
