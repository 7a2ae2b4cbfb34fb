//! The gateway of `envoy/envoy.yaml`, with its sample rules and with others.

use serde_json::Value;

use crate::support::gateway::{Gateway, assert_valid, edited};
use crate::support::poll;

fn start(rules: &str) -> Gateway {
    Gateway::start("envoy.yaml", &[], rules)
}

#[test]
fn the_committed_configuration_is_valid() {
    assert_valid("envoy.yaml");
}

#[test]
fn a_limit_is_reached_and_passes_again() {
    let gateway = start(
        "
domain: edge
descriptors:
  - key: user_id
    rate_limits:
      - {name: burst, requests_per_unit: 3, unit: second, unit_multiplier: 2, algorithm: sliding_window}
      - {name: daily, requests_per_unit: 1000, unit: day}
",
    );
    let alice = [("x-api-key", "alice")];
    for left in [2, 1, 0] {
        let reply = gateway.get("/hello", &alice);
        assert_eq!(reply.code, 200);
        assert_eq!(
            reply.one("ratelimit-policy"),
            "\"burst\";q=3;w=2, \"daily\";q=1000;w=86400"
        );
        assert!(
            reply
                .one("ratelimit")
                .starts_with(&format!("\"burst\";r={left};t=")),
            "{reply:?}"
        );
    }
    let refused = gateway.get("/hello", &alice);
    assert_eq!(refused.code, 429);
    let wait: u64 = refused.one("retry-after").parse().expect("seconds");
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(refused.one("content-type"), "application/json");
    assert_eq!(refused.one("x-envoy-ratelimited"), "true");
    assert!(
        refused.one("ratelimit").starts_with("\"burst\";r=0;t="),
        "{refused:?}"
    );
    let body: Value = serde_json::from_str(&refused.body).expect("JSON");
    assert_eq!(body["error"], "rate_limit_exceeded");
    assert_eq!(body["limit"], 3);
    assert_eq!(body["retry_after"], wait);
    assert_eq!(
        gateway.get("/hello", &[("x-api-key", "bob")]).code,
        200,
        "others are not held up"
    );
    poll::until("alice to pass again", || {
        (gateway.get("/hello", &alice).code == 200).then_some(())
    });
}

#[test]
fn who_calls_is_found_out_and_the_address_is_for_the_anonymous_only() {
    let gateway = start(
        "
domain: edge
descriptors:
  - key: user_id
    rate_limit: {name: user, requests_per_unit: 1000, unit: day}
  - key: user
    value: anonymous
    descriptors:
      - key: remote_address
        rate_limit: {name: address, requests_per_unit: 2, unit: day}
",
    );
    let policy = |path: &str, headers: &[(&str, &str)]| {
        let reply = gateway.get(path, headers);
        let all = reply.all("ratelimit-policy").join("");
        (
            reply.code,
            all.split(';').next().unwrap_or_default().to_owned(),
            reply.body,
        )
    };
    for (path, headers) in [
        ("/", &[("x-api-key", "k")][..]),
        ("/", &[("authorization", "Bearer t")]),
        ("/?api_key=q&page=2", &[]),
    ] {
        for _ in 0..4 {
            let (code, name, body) = policy(path, headers);
            assert_eq!(
                (code, name.as_str()),
                (200, "\"user\""),
                "{path} {headers:?}"
            );
            assert!(
                !body.contains("api_key=") && !body.to_lowercase().contains("x-user-id"),
                "{body}"
            );
        }
    }
    // A made-up header does not make a user.
    let spoofed: &[(&str, &str)] = &[("x-user-id", "admin")];
    assert_eq!(policy("/", &[]).1, "\"address\"");
    assert_eq!(policy("/", spoofed).1, "\"address\"");
    assert_eq!(policy("/", spoofed).0, 429);
    assert_eq!(policy("/health", &[]).0, 200, "health is never limited");
}

#[test]
fn the_sample_rules_hold() {
    let gateway = start(&edited("config/rules/edge.yaml", &[]));
    // The limit is 10 a minute: within 21 requests at most two windows are touched.
    let codes: Vec<u16> = (0..21)
        .map(|_| gateway.get("/", &[("x-api-key", "alice")]).code)
        .collect();
    assert!(codes[..10].iter().all(|code| *code == 200), "{codes:?}");
    assert!(codes.contains(&429), "{codes:?}");
    let anonymous: Vec<u16> = (0..12).map(|_| gateway.get("/", &[]).code).collect();
    assert!(
        anonymous[..10].iter().all(|code| *code == 200),
        "{anonymous:?}"
    );
    assert_eq!(anonymous[11], 429, "{anonymous:?}");
}
