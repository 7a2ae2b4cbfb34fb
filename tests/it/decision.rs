//! The decision on whole requests, sentence by sentence of what is promised.

use serde_json::json;
use tollgate::engine::{Code, Reason, Settings};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;

use crate::support::service::{Service, header};

const FIVE: &str = "
domain: d
descriptors:
  - {key: a, rate_limit: {requests_per_unit: 5, unit: minute}}
  - {key: b, rate_limit: {requests_per_unit: 2, unit: hour}}
";

#[tokio::test]
async fn a_refused_request_costs_nothing_anywhere() {
    let service = Service::new(FIVE);
    assert_eq!(service.say(&["a=1", "b=1 +2"]).await, "ok 4, ok 0");
    for _ in 0..3 {
        // What passes reads what is there: it was not charged.
        assert_eq!(service.say(&["a=1", "b=1"]).await, "ok 4, over 3600");
    }
    assert_eq!(service.say(&["a=1 +4"]).await, "ok 0");
}

#[tokio::test]
async fn a_peek_is_told_what_one_more_hit_would_be_told() {
    let service = Service::new(FIVE);
    assert_eq!(service.say(&["a=1 ?"]).await, "ok 5");
    assert_eq!(service.say(&["a=1 +5"]).await, "ok 0");
    assert_eq!(service.say(&["a=1 ?"]).await, "over 60");
    assert_eq!(service.say(&["a=2 ?"]).await, "ok 5");
}

#[tokio::test]
async fn a_refund_never_goes_below_zero_used() {
    let service = Service::new(FIVE);
    assert_eq!(service.say(&["a=1 +4"]).await, "ok 1");
    assert_eq!(service.say(&["a=1 -3"]).await, "ok 4");
    assert_eq!(service.say(&["a=1 -9"]).await, "ok 5");
    assert_eq!(service.say(&["a=1 +5"]).await, "ok 0");
}

#[tokio::test]
async fn identical_descriptors_read_as_if_they_came_one_after_the_other() {
    let service = Service::new(FIVE);
    assert_eq!(service.say(&["a=1 +2", "a=1 +2"]).await, "ok 3, ok 1");
    assert_eq!(service.say(&["a=1", "a=1"]).await, "ok 0, over 60");
    assert_eq!(
        service.say(&["a=1"]).await,
        "ok 0",
        "the two were refused together"
    );
}

#[tokio::test]
async fn charge_always_charges_what_is_refused() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: a, rate_limit: {requests_per_unit: 5, unit: minute, charge: always}}
  - {key: b, rate_limit: {requests_per_unit: 5, unit: minute}}
  - key: t
    rate_limit: {requests_per_unit: 1, unit: second, algorithm: token_bucket, burst: 10, charge: always}
",
    );
    assert_eq!(service.say(&["a=1 +9", "b=1"]).await, "over 60, ok 5");
    assert_eq!(service.say(&["a=1", "b=1"]).await, "over 60, ok 5");
    service.advance(60);
    assert_eq!(service.say(&["a=1"]).await, "ok 4");
    // The debt of a bucket is at most one bucket.
    assert_eq!(service.say(&["t=1 +9"]).await, "ok 1");
    assert_eq!(service.say(&["t=1 +9"]).await, "over 17");
    for _ in 0..9 {
        service.say(&["t=1 +9"]).await;
    }
    assert_eq!(service.say(&["t=1 ?"]).await, "over 11");
}

#[tokio::test]
async fn several_limits_of_a_descriptor_are_charged_together() {
    let service = Service::new(
        "
domain: d
descriptors:
  - key: a
    rate_limits:
      - {name: fast, requests_per_unit: 3, unit: second}
      - {name: slow, requests_per_unit: 5, unit: hour}
",
    );
    let answer = service.ask(&["a=1 +3"]).await;
    assert_eq!(
        answer.statuses[0]
            .limit
            .as_ref()
            .map(|limit| limit.name.as_deref().unwrap_or_default()),
        Some("fast"),
        "the least remaining"
    );
    // Only the fast one refuses, and the slow one is not charged.
    let answer = service.ask(&["a=1 +2"]).await;
    assert_eq!(
        header(&answer, "ratelimit"),
        Some("\"fast\";r=0;t=1, \"slow\";r=2;t=3600")
    );
    service.advance(1);
    assert_eq!(service.say(&["a=1 +2"]).await, "ok 0");
    // Both refuse: the longest wait decides.
    let answer = service.ask(&["a=1 +2"]).await;
    assert_eq!(
        answer.statuses[0]
            .limit
            .as_ref()
            .map(|limit| limit.name.as_deref().unwrap_or_default()),
        Some("slow")
    );
    assert_eq!(answer.statuses[0].reset_secs, Some(3599));
    assert_eq!(header(&answer, "retry-after"), Some("3599"));
}

#[tokio::test]
async fn what_never_fits_has_a_reason_of_its_own_and_no_retry_after() {
    let service = Service::new(FIVE);
    let answer = service.ask(&["a=1 +6"]).await;
    assert_eq!(answer.overall, Code::OverLimit);
    assert_eq!(answer.reason, Reason::NeverFits);
    assert_eq!(header(&answer, "retry-after"), None);
    let body: serde_json::Value =
        serde_json::from_str(answer.body.as_deref().expect("a body")).expect("JSON");
    assert_eq!(body["retry_after"], json!(null));
    assert_eq!(service.say(&["a=1 +5"]).await, "ok 0");
}

#[tokio::test]
async fn whoever_waits_as_told_passes_and_not_a_second_earlier() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: s, rate_limit: {requests_per_unit: 3, unit: minute, algorithm: sliding_window}}
  - {key: t, rate_limit: {requests_per_unit: 6, unit: minute, algorithm: token_bucket}}
",
    );
    assert_eq!(service.say(&["s=1 +2"]).await, "ok 1");
    service.advance(30);
    assert_eq!(service.say(&["s=1"]).await, "ok 0");
    // The window reaches back to 12:00:00, whose slice of 6 s counts whole.
    assert_eq!(service.say(&["s=1"]).await, "over 36");
    service.advance(35);
    assert_eq!(service.say(&["s=1 ?"]).await, "over 1");
    service.advance(1);
    assert_eq!(service.say(&["s=1"]).await, "ok 1");

    assert_eq!(service.say(&["t=1 +6"]).await, "ok 0");
    assert_eq!(service.say(&["t=1"]).await, "over 10");
    service.advance(9);
    assert_eq!(service.say(&["t=1"]).await, "over 1");
    service.advance(1);
    assert_eq!(service.say(&["t=1"]).await, "ok 0");
}

#[tokio::test]
async fn months_are_those_of_the_domains_time_zone() {
    let service = Service::new(
        "
domain: d
time_zone: Pacific/Auckland
descriptors:
  - {key: m, rate_limit: {requests_per_unit: 1, unit: month}}
  - {key: w, rate_limit: {requests_per_unit: 1, unit: week}}
",
    );
    // Saturday, 7 March 01:00 in Auckland (UTC+13); April begins before the clocks go back, on the 5th.
    assert_eq!(service.say(&["m=1", "w=1"]).await, "ok 0, ok 0");
    let month = (24 * 24 + 23) * 3600;
    let week = (24 + 23) * 3600;
    assert_eq!(service.say(&["m=1"]).await, format!("over {month}"));
    assert_eq!(service.say(&["w=1"]).await, format!("over {week}"));
}

#[tokio::test]
async fn a_changed_number_applies_at_once_and_keeps_what_was_used() {
    let service = Service::new(FIVE);
    assert_eq!(service.say(&["a=1 +4"]).await, "ok 1");
    service.install(&FIVE.replace("requests_per_unit: 5", "requests_per_unit: 10"));
    assert_eq!(service.say(&["a=1"]).await, "ok 5");
    service.install(&FIVE.replace("requests_per_unit: 5", "requests_per_unit: 3"));
    assert_eq!(service.say(&["a=1"]).await, "over 60");
    // A limit that is added keeps what the others have used.
    service.install(
        "
domain: d
descriptors:
  - key: a
    rate_limits: [{requests_per_unit: 9, unit: day}, {requests_per_unit: 6, unit: minute}]
",
    );
    assert_eq!(service.say(&["a=1"]).await, "ok 0");
}

#[tokio::test]
async fn shadowed_rules_refuse_nothing_and_take_nothing_beyond_their_limit() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: a, shadow_mode: true, rate_limit: {requests_per_unit: 2, unit: minute}}
",
    );
    for wanted in ["ok 1", "ok 0", "ok 0", "ok 0"] {
        assert_eq!(service.say(&["a=1"]).await, wanted);
    }
    let answer = service.ask(&["a=1"]).await;
    assert_eq!(
        (answer.overall, answer.reason),
        (Code::Ok, Reason::Shadowed)
    );
    assert_eq!(header(&answer, "ratelimit"), None, "clients do not see it");
    let counted = |stat: &str| {
        format!(
            "ratelimit_service_rate_limit_{stat}{{domain=\"d\",rule=\"a\",key1=\"a\",key2=\"\"}} 3\n"
        )
    };
    let text = service.metrics.encode();
    assert!(
        text.contains(&counted("shadow_mode")) && text.contains(&counted("over_limit")),
        "{text}"
    );
}

#[tokio::test]
async fn statuses_come_in_order_one_per_descriptor() {
    let service = Service::new(FIVE);
    let answer = service.ask(&["x=1", "a=1", "a=1,b=1", "b=2"]).await;
    let remaining: Vec<(u32, bool)> = answer
        .statuses
        .iter()
        .map(|s| (s.remaining, s.limit.is_some()))
        .collect();
    assert_eq!(remaining, [(0, false), (4, true), (0, false), (1, true)]);
}

#[tokio::test]
async fn the_answer_is_as_the_domain_wants_it() {
    let rules = "
domain: d
response: {headers: [x-ratelimit, retry-after], body: problem}
descriptors:
  - {key: a, rate_limit: {name: 'say \"hi\"', requests_per_unit: 1, unit: month}}
";
    let service = Service::new(rules);
    let answer = service.ask(&["a=1"]).await;
    assert_eq!(header(&answer, "x-ratelimit-limit"), Some("1"));
    assert_eq!(header(&answer, "x-ratelimit-remaining"), Some("0"));
    assert_eq!(header(&answer, "ratelimit"), None);
    assert_eq!(answer.body, None);
    let answer = service.ask(&["a=1"]).await;
    assert_eq!(
        header(&answer, "content-type"),
        Some("application/problem+json")
    );
    let body: serde_json::Value =
        serde_json::from_str(answer.body.as_deref().expect("a body")).expect("JSON");
    assert_eq!(
        (&body["status"], &body["error"]),
        (&json!(429), &json!("monthly_quota_exceeded"))
    );
    assert_eq!(
        body["retry_after"].to_string(),
        header(&answer, "retry-after").expect("seconds")
    );
    let metadata = json!(answer.metadata.expect("metadata"));
    assert_eq!(metadata["reason"], json!("over_limit"));
    assert_eq!(metadata["rule"], json!("a"));

    let service = Service::new(
        &rules
            .replace("x-ratelimit, retry-after", "ratelimit")
            .replace("problem", "none"),
    );
    service.ask(&["a=1"]).await;
    let answer = service.ask(&["a=1"]).await;
    assert_eq!(answer.body, None);
    assert_eq!(
        header(&answer, "ratelimit-policy"),
        Some("\"say _hi_\";q=1;w=2592000"),
        "quotes cannot break out"
    );
    assert_eq!(header(&answer, "retry-after"), None);
}

/// Items of `RateLimit` are told from each other by their names alone.
#[tokio::test]
async fn limits_of_one_name_are_numbered_in_both_headers() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: a, rate_limit: {requests_per_unit: 5, unit: minute}}
  - {key: b, rate_limit: {requests_per_unit: 7, unit: minute}}
",
    );
    let answer = service
        .ask(&["a=1", "b=1", "a=2", "b=2", "a=3", "a=4 +2"])
        .await;
    let names = |name: &str| {
        let value = header(&answer, name).expect("a header");
        let items = value.split(", ").filter_map(|item| item.split(';').next());
        items.map(|name| name.trim_matches('"')).collect::<Vec<_>>()
    };
    let numbered = [
        "a_minute",
        "b_minute",
        "a_minute-2",
        "b_minute-2",
        "a_minute-3",
        "a_minute-4",
    ];
    assert_eq!(names("ratelimit-policy"), numbered);
    assert_eq!(names("ratelimit"), numbered);
    let state = header(&answer, "ratelimit").expect("a header");
    assert!(state.contains("\"a_minute-4\";r=3;"), "{state}");
}

#[tokio::test]
async fn the_global_shadow_mode_lets_everything_pass() {
    let settings = Settings {
        shadow_mode: true,
        ..Settings::default()
    };
    let service = Service::with(FIVE, settings, |clock| {
        Store::Embedded(Embedded::new(1 << 10, clock))
    });
    service.ask(&["a=1 +5"]).await;
    let answer = service.ask(&["a=1"]).await;
    assert_eq!(
        (answer.overall, answer.reason),
        (Code::Ok, Reason::Shadowed)
    );
    assert_eq!(answer.statuses[0].code, Code::OverLimit);
    assert_eq!(answer.body, None);
}
