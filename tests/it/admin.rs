//! The HTTP and debug ports of the real binary.

use serde_json::Value;

use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::server::Setup;

const RULES: &str = "
domain: basic
descriptors:
  - key: one_per_hour
    rate_limit: {unit: hour, requests_per_unit: 1}
  - key: free
    rate_limit: {unlimited: true}
  - key: quarter
    quota_mode: true
    rate_limit: {unit: month, unit_multiplier: 3, requests_per_unit: 9}
";

#[test]
fn json_answers_as_the_reference_does() {
    let server = Setup::rules(RULES).start_ready();
    let post = |body: &str| send(server.http, "POST", "/json", &[], body).expect("an answer");
    for bad in [
        "",
        "}",
        "{\"domain\": \"foo\"}",
        "{\"domain\": \"basic\", \"nope\": 1, \"descriptors\": [{}]}",
    ] {
        let reply = post(bad);
        assert_eq!(
            (reply.code, reply.body.as_str()),
            (400, "Bad Request\n"),
            "{bad}"
        );
        assert_eq!(reply.one("content-type"), "text/plain; charset=utf-8");
    }
    let good = r#"{"domain": "basic", "descriptors": [{"entries": [{"key": "one_per_hour", "value": "v"}]}]}"#;
    let reply = post(good);
    assert_eq!(reply.code, 200);
    assert_eq!(reply.one("content-type"), "application/json");
    let body: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(body["overallCode"], "OK");
    assert_eq!(
        body["statuses"][0]["currentLimit"],
        serde_json::json!({"requestsPerUnit": 1, "unit": "HOUR"})
    );
    assert_eq!(
        body["statuses"][0].get("limitRemaining"),
        None,
        "zero fields are omitted"
    );
    let reply = post(good);
    assert_eq!(reply.code, 429);
    let body: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(body["overallCode"], "OVER_LIMIT");
    assert!(
        body["statuses"][0]["durationUntilReset"]
            .as_str()
            .expect("a duration")
            .ends_with('s')
    );
    assert!(post(&format!("{{\"domain\": \"{}\"}}", "x".repeat(2 << 20))).code >= 400);
}

#[test]
fn the_routes_of_both_ports_answer() {
    let server = Setup::rules(RULES).start_ready();
    assert_eq!(get(server.http, "/healthcheck").body, "OK");
    assert_eq!(get(server.http, "/health/live").code, 200);
    let ready: Value = serde_json::from_str(&get(server.http, "/health/ready").body).expect("JSON");
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["store"]["type"], "embedded");
    assert_eq!(get(server.http, "/nothing").code, 404);
    assert_eq!(
        get(server.debug, "/rlconfig").body,
        "basic.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false\n\
         basic.one_per_hour: unit=HOUR requests_per_unit=1, shadow_mode: false, quota_mode: false\n\
         basic.quarter: unit=MONTH unit_multiplier=3 requests_per_unit=9, shadow_mode: false, quota_mode: true\n"
    );
    assert!(get(server.debug, "/").body.contains("/rlconfig"));
}

#[test]
fn metrics_count_by_rule() {
    let server = Setup::rules(RULES).start_ready();
    let body = r#"{"domain": "basic", "descriptors": [{"entries": [{"key": "one_per_hour", "value": "v"}]}]}"#;
    for _ in 0..3 {
        send(server.http, "POST", "/json", &[], body).expect("an answer");
    }
    let rule = |stat: &str| {
        format!(
            "ratelimit_service_rate_limit_{stat}{{domain=\"basic\",rule=\"one_per_hour\",key1=\"one_per_hour\",key2=\"\"}}"
        )
    };
    for (stat, wanted) in [
        ("total_hits", 3.0),
        ("within_limit", 1.0),
        ("over_limit", 2.0),
        ("near_limit", 1.0),
    ] {
        assert_eq!(server.metric(&rule(stat)), wanted, "{stat}");
    }
    assert_eq!(
        server.metric("tollgate_decisions{domain=\"basic\",reason=\"over_limit\"}"),
        2.0
    );
    assert_eq!(server.metric("tollgate_embedded_keys"), 1.0);
    assert_eq!(server.metric("tollgate_rules_loaded"), 3.0);
}

#[test]
fn keys_that_expired_are_gone_without_a_request() {
    let rules =
        "domain: d\ndescriptors: [{key: k, rate_limit: {unit: second, requests_per_unit: 1}}]";
    let server = Setup::rules(rules).start_ready();
    let body = r#"{"domain": "d", "descriptors": [{"entries": [{"key": "k", "value": "v"}]}]}"#;
    let answer = send(server.http, "POST", "/json", &[], body).expect("an answer");
    assert_eq!(answer.code, 200, "it was charged");
    let is_gone = || (server.metric("tollgate_embedded_keys") == 0.0).then_some(());
    poll::until("the key that expired to be gone", is_gone);
}

#[test]
fn without_a_domain_health_is_a_matter_of_settings() {
    let server = Setup::rules("domain: d").start_ready();
    assert_eq!(get(server.http, "/healthcheck").code, 200);
    std::fs::remove_file(server.rules().join("rules.yaml")).expect("a file");
    server.wait_for_log("loaded the rules of ");
    assert_eq!(get(server.http, "/healthcheck").code, 200);
    let server = Setup::rules("domain: d")
        .env("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "true")
        .start_ready();
    std::fs::remove_file(server.rules().join("rules.yaml")).expect("a file");
    server.wait_for_log("loaded the rules of ");
    let reply = get(server.http, "/healthcheck");
    assert_eq!((reply.code, reply.body.as_str()), (500, ""));
}
