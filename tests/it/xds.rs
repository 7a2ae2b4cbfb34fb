//! Rules from a management server, which is a real one in this process.
//!
//! - `gateway`: resources of the shape that Envoy Gateway makes
//! - `lost`: servers that go away, and connections

use std::process::Command;

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::ratelimit::config::ratelimit::v3 as reference;
use prost::Message;
use serde_json::{Value, json};

use crate::support::ads::{ManagementServer, any, resource};
use crate::support::http::send;
use crate::support::poll;
use crate::support::server::{Server, Setup, binary};

mod gateway;
mod lost;

/// Both protocols.
const VARIANTS: [&str; 2] = ["GRPC_XDS_SOTW", "GRPC_XDS_DELTA"];

/// A service that has its rules from a server, and comes back to it at once.
fn follow(server: &ManagementServer, variant: &str) -> Setup {
    Setup::rules("")
        .env("CONFIG_TYPE", variant)
        .env("CONFIG_GRPC_XDS_SERVER_URL", &server.address.to_string())
        .env("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "20ms")
        .env("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "20ms")
        .env("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "100ms")
}

/// A domain with one limit a day.
fn domain(name: &str, requests: u32) -> Value {
    json!({"name": name, "domain": name, "descriptors": [
        {"key": "k", "rateLimit": {"unit": "DAY", "requestsPerUnit": requests}},
    ]})
}

/// The answer to a request whose descriptors are given by their entries; each with its hits.
fn ask(server: &Server, domain: &str, descriptors: &[(&[(&str, &str)], u64)]) -> Value {
    let entry = |(key, value): &(&str, &str)| json!({"key": key, "value": value});
    let descriptor = |(entries, hits): &(&[(&str, &str)], u64)| {
        json!({
            "entries": entries.iter().map(entry).collect::<Vec<_>>(),
            "hitsAddend": hits.to_string(),
        })
    };
    let body = json!({
        "domain": domain,
        "descriptors": descriptors.iter().map(descriptor).collect::<Vec<_>>(),
    });
    let reply = send(server.http, "POST", "/json", &[], &body.to_string()).expect("an answer");
    // Before there are rules the answer is no JSON.
    serde_json::from_str(&reply.body).unwrap_or_default()
}

/// The number of the limit of the first descriptor; none if it has none.
fn limit(server: &Server, domain: &str) -> Option<u64> {
    let answer = ask(server, domain, &[(&[("k", "v")], 0)]);
    answer["statuses"][0]["currentLimit"]["requestsPerUnit"].as_u64()
}

#[track_caller]
fn wait_for(server: &Server, domain: &str, wanted: Option<u64>) {
    let what = format!("the limit {wanted:?} of {domain}");
    poll::until(&what, || (limit(server, domain) == wanted).then_some(()));
}

#[test]
fn rules_come_change_and_go() {
    for variant in VARIANTS {
        let management = ManagementServer::start();
        let server = follow(&management, variant).start();
        let first = management.wait_for(1);
        assert_eq!((first.version.as_str(), first.nonce.as_str()), ("", ""));
        assert!(!server.is_ready(), "{variant}: there are no rules yet");

        management.set_json(&[domain("one", 10)]);
        poll::until("readiness", || server.is_ready().then_some(()));
        assert_eq!(limit(&server, "one"), Some(10), "{variant}");
        let taken = management.wait_for(2);
        assert_eq!((taken.nonce.as_str(), taken.error), ("1-1", None));

        management.set_json(&[domain("one", 20), domain("two", 30)]);
        wait_for(&server, "one", Some(20));
        wait_for(&server, "two", Some(30));
        management.set_json(&[domain("two", 30)]);
        wait_for(&server, "one", None);
        assert_eq!(limit(&server, "two"), Some(30), "{variant}");
        // None at all: rules there are nevertheless, which limit nothing.
        management.set_json(&[]);
        wait_for(&server, "two", None);
        assert!(server.is_ready());

        let last = management.wait_for(5);
        assert_eq!((last.nonce.as_str(), last.error), ("1-4", None));
        if variant == "GRPC_XDS_SOTW" {
            assert_eq!(last.version, "4");
        }
        assert!(last.node.is_none(), "who it is stands in the first request");
        let loaded = || server.metric("ratelimit_service_config_load_success");
        poll::until("four loads", || (loaded() == 4.0).then_some(()));
        assert_eq!(server.metric("ratelimit_service_config_load_error"), 0.0);
    }
}

#[test]
fn wrong_resources_are_refused_with_what_is_wrong_and_those_before_stay() {
    for variant in VARIANTS {
        let management = ManagementServer::start();
        let server = follow(&management, variant).start();
        management.set_json(&[domain("one", 10)]);
        wait_for(&server, "one", Some(10));

        // Of all that is wrong nothing is left out, and of what is right beside it nothing is taken.
        let wrong = json!({"name": "a-resource", "domain": "two", "descriptors": [
            {"key": "k", "rateLimit": {"requestsPerUnit": 5}},
            {"value": "v", "rateLimit": {"unit": "DAY", "requestsPerUnit": 5}},
            {"key": "k", "rateLimit": {"unit": "DAY", "requestsPerUnit": 5, "algorithm": "leaky_bucket"}},
        ]});
        management.set_json(&[domain("one", 11), wrong]);
        let refused = management.wait_for(3);
        let text = refused.error.expect("a refusal");
        for part in [
            "--> resource a-resource",
            "path: descriptors[0].rate_limit",
            "the rate limit has no `unit`",
            "path: descriptors[1]",
            "the descriptor has no `key`",
            "path: descriptors[2].rate_limit.algorithm",
            "unknown algorithm `leaky_bucket`",
        ] {
            assert!(text.contains(part), "{variant}: no {part:?} in\n{text}");
        }
        assert_eq!(refused.nonce, "1-2");
        if variant == "GRPC_XDS_SOTW" {
            assert_eq!(refused.version, "1", "what holds");
        }
        assert_eq!(server.metric("ratelimit_service_config_load_error"), 1.0);
        assert_eq!(limit(&server, "one"), Some(10), "{variant}");
        assert!(server.is_ready());
        server.wait_for_log("the rules have errors, and those before stay");

        // What was right beside it is taken with the next that is.
        management.set_json(&[domain("one", 11), domain("a-resource", 12)]);
        wait_for(&server, "one", Some(11));
        wait_for(&server, "a-resource", Some(12));
        assert_eq!(management.wait_for(4).error, None);
    }
}

#[test]
fn what_is_no_resource_is_refused() {
    let foreign = any(Vec::new());
    let foreign = envoy_types::pb::google::protobuf::Any {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..foreign
    };
    let mut deep = json!({"key": "k"});
    for _ in 0..40 {
        deep = json!({"key": "k", "descriptors": [deep]});
    }
    let deep = resource(json!({"name": "deep", "domain": "d", "descriptors": [deep]}));
    let two = [domain("a", 1), json!({"name": "b", "domain": "a"})].map(resource);
    let cases = [
        (
            vec![("x".to_owned(), foreign)],
            "a resource of the type `type.googleapis.com/envoy",
        ),
        (
            vec![("x".to_owned(), any(vec![0xff; 9]))],
            "no message of this type",
        ),
        (vec![("x".to_owned(), any(Vec::new()))], "has no `domain`"),
        (vec![deep], "nested more than 64 deep"),
        (two.into(), "the domain `a` has two files"),
    ];
    for (resources, wanted) in cases {
        for variant in VARIANTS {
            let management = ManagementServer::start();
            let server = follow(&management, variant).start();
            management.set(resources.clone());
            let text = management.wait_for_refusal();
            assert!(text.contains(wanted), "{variant}: no {wanted:?} in\n{text}");
            assert_eq!(server.metric("ratelimit_service_config_load_error"), 1.0);
            assert!(!server.is_ready());
        }
    }
}

#[test]
fn a_refusal_is_bounded() {
    let management = ManagementServer::start();
    let _server = follow(&management, "GRPC_XDS_SOTW").start();
    let wrong = vec![json!({"key": "ä", "rateLimit": {}}); 1000];
    management.set_json(&[json!({"name": "ä", "domain": "d", "descriptors": wrong})]);
    let text = management.wait_for_refusal();
    let most = tollgate::xds::MAX_DETAIL;
    assert!((most - 4..=most).contains(&text.len()), "{}", text.len());
}

#[test]
fn what_a_server_names_is_one_line_of_the_log() {
    let management = ManagementServer::start();
    let server = follow(&management, "GRPC_XDS_SOTW").start();
    let forged = "a\nERROR forged";
    management.set_json(&[domain(forged, 10)]);
    wait_for(&server, forged, Some(10));
    server.wait_for_log(r"loaded the rules of a\nERROR forged");
    let wrong =
        json!({"name": forged, "domain": forged, "descriptors": [{"key": forged, "plan": {}}]});
    management.set_json(&[wrong]);
    server.wait_for_log("--> resource a ERROR forged");
    let forges = |line: &String| line.starts_with("ERROR");
    assert!(!server.log().iter().any(forges), "{:?}", server.log());
}

#[test]
fn the_server_learns_who_asks_and_sees_the_headers() {
    for variant in VARIANTS {
        let management = ManagementServer::start();
        let _server = follow(&management, variant)
            .env("CONFIG_GRPC_XDS_NODE_ID", "ratelimit-0")
            .env("CONFIG_GRPC_XDS_NODE_METADATA", "zone=eu=1,team=edge")
            .env(
                "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
                "x-tenant:acme,authorization:Bearer a:b",
            )
            .start();
        let node = management.wait_for(1).node.expect("a node");
        assert_eq!(node.id, "ratelimit-0");
        assert_eq!(node.user_agent_name, "tollgate");
        assert!(matches!(
            node.user_agent_version_type,
            Some(UserAgentVersionType::UserAgentVersion(_))
        ));
        let fields = node.metadata.expect("metadata").fields;
        let field = |name: &str| fields.get(name).and_then(|value| value.kind.clone());
        assert_eq!(field("zone"), Some(Kind::StringValue("eu=1".to_owned())));
        assert_eq!(field("team"), Some(Kind::StringValue("edge".to_owned())));
        let head = management.head().expect("a stream");
        let header = |name: &str| head.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("x-tenant"), Some("acme"));
        assert_eq!(header("authorization"), Some("Bearer a:b"));
    }
}

/// The bytes are those of the reference's own type, whose fields are all read.
#[test]
fn the_message_is_the_references() {
    let limit = |requests, unit: reference::RateLimitUnit| reference::RateLimitPolicy {
        unit: unit.into(),
        requests_per_unit: requests,
        ..reference::RateLimitPolicy::default()
    };
    let descriptor = |key: &str, rate_limit| reference::RateLimitDescriptor {
        key: key.to_owned(),
        rate_limit: Some(rate_limit),
        ..reference::RateLimitDescriptor::default()
    };
    let metadata =
        json!({"tier": "gold", "weight": 1.5, "on": true, "list": [1, null, {"a": "b"}]});
    let metadata = serde_json::to_vec(&metadata).expect("JSON");
    let pool = prost_reflect::DescriptorPool::decode(tollgate::grpc::DESCRIPTORS).expect("a pool");
    let kind = pool
        .get_message_by_name("google.protobuf.Struct")
        .expect("a struct");
    let mut text = serde_json::Deserializer::from_slice(&metadata);
    let metadata = prost_reflect::DynamicMessage::deserialize(kind, &mut text).expect("a struct");
    let units = [
        ("week", reference::RateLimitUnit::Week),
        ("month", reference::RateLimitUnit::Month),
        ("year", reference::RateLimitUnit::Year),
    ];
    let mut descriptors: Vec<_> = units
        .into_iter()
        .map(|(key, unit)| descriptor(key, limit(7, unit)))
        .collect();
    descriptors.push(reference::RateLimitDescriptor {
        value: "v".to_owned(),
        shadow_mode: true,
        quota_mode: true,
        detailed_metric: true,
        metadata: metadata.transcode_to().ok(),
        ..descriptor(
            "flags",
            reference::RateLimitPolicy {
                name: "own".to_owned(),
                replaces: vec![reference::RateLimitReplace {
                    name: "other".to_owned(),
                }],
                ..limit(1, reference::RateLimitUnit::Second)
            },
        )
    });
    descriptors.push(descriptor(
        "free",
        reference::RateLimitPolicy {
            unlimited: true,
            ..reference::RateLimitPolicy::default()
        },
    ));
    let config = reference::RateLimitConfig {
        name: "n".to_owned(),
        domain: "d".to_owned(),
        descriptors,
    };
    let management = ManagementServer::start();
    let server = follow(&management, "GRPC_XDS_SOTW")
        .env("RESPONSE_DYNAMIC_METADATA", "true")
        .start();
    management.set([("n".to_owned(), any(config.encode_to_vec()))]);
    poll::until("readiness", || server.is_ready().then_some(()));
    for unit in ["WEEK", "MONTH", "YEAR"] {
        let answer = ask(&server, "d", &[(&[(&unit.to_lowercase(), "x")], 1)]);
        let limit = &answer["statuses"][0]["currentLimit"];
        assert_eq!(limit["unit"], unit);
        assert_eq!(limit["requestsPerUnit"], 7);
    }
    let flags: &[(&str, &str)] = &[("flags", "v")];
    let answer = ask(&server, "d", &[(flags, 2)]);
    assert_eq!(answer["overallCode"], "OK", "in shadow mode: {answer}");
    assert_eq!(answer["statuses"][0]["currentLimit"]["name"], "own");
    let said = answer.to_string();
    for part in [
        r#""tier":"gold""#,
        r#""weight":1.5"#,
        r#""on":true"#,
        r#"{"a":"b"}"#,
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let answer = ask(&server, "d", &[(&[("free", "x")], 1)]);
    assert_eq!(answer["statuses"][0]["limitRemaining"], u64::from(u32::MAX));
}

#[test]
fn all_that_a_rule_file_says_a_resource_can_say() {
    let management = ManagementServer::start();
    let server = follow(&management, "GRPC_XDS_DELTA").start();
    management.set_json(&[json!({
        "name": "own", "domain": "own",
        "timeZone": "Europe/Berlin",
        "partitionBy": ["user"],
        "sensitive": ["token"],
        "failureMode": "allow",
        "response": {"headers": ["ratelimit"], "body": "problem", "messages": {"banned": "{retry_after}"}},
        "costs": [{"key": "path", "value": "/free", "cost": 0}, {"key": "path", "value": "/half", "cost": 0.5}],
        "plans": [
            {"name": "free", "limits": [{"requestsPerUnit": 3, "unit": "DAY"}]},
            {"name": "all", "unlimited": true},
        ],
        "descriptors": [
            {"key": "user", "plan": {"from": "directory", "default": "free"},
             "ban": {"after": 100, "within": "MINUTE", "for": "1h", "max": "2h"}, "usage": "month"},
            {"key": "address", "cidr": "10.0.0.0/8", "rateLimit": {"unlimited": true}},
            {"key": "file", "value": "f/*", "shareThreshold": true, "valueToMetric": true,
             "rateLimit": {"requestsPerUnit": 2, "unit": "HOUR", "unitMultiplier": 2, "charge": "admitted"}},
            {"key": "path", "rateLimits": [
                {"requestsPerUnit": 4, "unit": "MINUTE", "algorithm": "token_bucket", "burstMultiplier": 1.5,
                 "charge": "admitted", "lease": "1%"},
                {"requestsPerUnit": 9, "unit": "HOUR", "algorithm": "token_bucket", "burst": 9,
                 "failureMode": "deny", "durability": "replicated", "lease": "1%"},
            ]},
        ],
    })]);
    poll::until("readiness", || server.is_ready().then_some(()));
    let status = |entries: &[(&str, &str)], hits| {
        ask(&server, "own", &[(entries, hits)])["statuses"][0].clone()
    };
    assert_eq!(status(&[("user", "a")], 3)["limitRemaining"], Value::Null);
    assert_eq!(status(&[("user", "a")], 1)["code"], "OVER_LIMIT");
    assert_eq!(
        status(&[("address", "10.1.2.3")], 1)["limitRemaining"],
        u64::from(u32::MAX)
    );
    // All that match share what the pattern has, and a refused request is charged nowhere.
    assert_eq!(status(&[("file", "f/1")], 1)["code"], "OK");
    assert_eq!(status(&[("file", "f/2")], 2)["code"], "OVER_LIMIT");
    assert_eq!(status(&[("file", "f/2")], 1)["code"], "OK");
    assert_eq!(status(&[("path", "/half")], 12)["code"], "OK");
    assert_eq!(status(&[("path", "/half")], 2)["code"], "OVER_LIMIT");
    assert_eq!(status(&[("path", "/free")], 50)["code"], "OK");

    management.set_json(&[json!({"name": "own", "domain": "own", "plans": [
        {"name": "a", "unlimited": true, "limits": [{"requestsPerUnit": 3, "unit": "DAY"}]},
        {"name": "a"}, {},
    ], "costs": [{"key": "k"}]})]);
    let text = management.wait_for_refusal();
    for part in [
        "the plan `a` is unlimited and has limits",
        "the plan `a` stands here twice",
        "a plan has no `name`",
        "the cost has no `cost`",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// What the reference's users rely on; STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT and `charge` say otherwise.
#[test]
fn refused_requests_are_charged_unless_something_says_otherwise() {
    for (stop, after) in [
        (None, "OVER_LIMIT"),
        (Some("false"), "OVER_LIMIT"),
        (Some("true"), "OK"),
    ] {
        let management = ManagementServer::start();
        let mut setup = follow(&management, "GRPC_XDS_SOTW");
        if let Some(stop) = stop {
            setup = setup.env("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", stop);
        }
        let server = setup.start();
        management.set_json(&[domain("one", 10)]);
        poll::until("readiness", || server.is_ready().then_some(()));
        let code = |hits| ask(&server, "one", &[(&[("k", "v")], hits)])["overallCode"].clone();
        assert_eq!(code(11), "OVER_LIMIT");
        assert_eq!(code(1), after, "{stop:?}");
    }
}

#[test]
fn wrong_settings_are_told_before_anything_is_served() {
    let cases = [
        ("CONFIG_TYPE", "ETCD", "CONFIG_TYPE=ETCD is neither"),
        (
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
            "hunter2",
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS is not of the form",
        ),
        (
            "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
            "268435457",
            "not a number of bytes",
        ),
        (
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT",
            "a.pem",
            "need each other",
        ),
        (
            "CONFIG_GRPC_XDS_SERVER_TLS_CACERT",
            "/none.pem",
            "xDS: /none.pem: ",
        ),
        ("CONFIG_GRPC_XDS_SERVER_URL", "no host", "xDS: "),
    ];
    for (name, value, wanted) in cases {
        let mut command: Command = binary();
        command.arg("serve").env("CONFIG_TYPE", "GRPC_XDS_SOTW");
        command.env("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true");
        for port in ["GRPC_PORT", "PORT", "DEBUG_PORT"] {
            command.env(port, "0");
        }
        let output = command.env(name, value).output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name}={value}");
        assert!(said.contains(wanted), "{name}={value}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
