//! Resources of the shape that Envoy Gateway makes of its policies: a listener's domain, below it a descriptor for each route, and
//! below that one for each match of a rule, in a chain that ends with the limit. A policy that is shared has a domain of its own.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ask, follow};
use crate::support::ads::ManagementServer;
use crate::support::gateway::{Envoy, edited};
use crate::support::poll;
use crate::support::redis::free_port;
use crate::support::server::Server;
use crate::support::upstream::Upstream;

/// A key whose value is itself, as generic keys and header matches have it.
fn twice(name: &str) -> (&str, &str) {
    (name, name)
}

/// A descriptor with a value or none, and what is below it or holds there.
fn node(key: &str, value: &str, rest: Value) -> Value {
    let mut node = json!({"key": key, "value": value});
    let fields = rest.as_object().expect("fields").clone();
    node.as_object_mut().expect("a descriptor").extend(fields);
    node
}

fn below(descriptors: &[Value]) -> Value {
    json!({ "descriptors": descriptors })
}

fn limit(requests: u32, unit: &str) -> Value {
    json!({"rateLimit": {"requestsPerUnit": requests, "unit": unit}})
}

/// A service with what two listeners and a shared policy come to.
fn gateway(management: &ManagementServer) -> Server {
    let server = follow(management, "GRPC_XDS_SOTW").start();
    let listener = json!({"name": "default/eg/http", "domain": "default/eg/http", "descriptors": [
        // Two headers, one of which must not match (Invert), within a network: all within it share the limit.
        node("httproute/default/api/rule/0", "httproute/default/api/rule/0", below(&[
            node("rule-0-match-0", "rule-0-match-0", below(&[
                node("rule-0-match-1", "rule-0-match-1", below(&[
                    node("masked_remote_address", "192.168.0.0/16", limit(3, "HOUR")),
                ])),
            ])),
            // Each value of a header by itself, with another limit for one of them.
            node("rule-1-match-0", "", limit(2, "WEEK")),
            node("rule-1-match-0", "client-a", limit(4, "WEEK")),
            // Each address of a network by itself.
            node("masked_remote_address", "10.0.0.0/8", below(&[
                node("remote_address", "", limit(1, "MONTH")),
            ])),
            // All that comes.
            node("rule-3-match--1", "rule-3-match--1", limit(100, "YEAR")),
            node("rule-4-match--1", "rule-4-match--1", limit(5000, "DAY")),
        ])),
        // The same rules of another route have counters of their own.
        node("httproute/default/web/rule/0", "httproute/default/web/rule/0", below(&[
            node("rule-0-match--1", "rule-0-match--1", limit(2, "DAY")),
            node("rule-1-match--1", "rule-1-match--1", json!({
                "rateLimit": {"requestsPerUnit": 1, "unit": "DAY"}, "shadowMode": true,
            })),
            node("rule-2-match--1", "rule-2-match--1", json!({
                "rateLimit": {"requestsPerUnit": 1, "unit": "DAY"}, "quotaMode": true,
            })),
            node("rule-3-match--1", "rule-3-match--1", json!({
                "rateLimit": {"requestsPerUnit": 5, "unit": "DAY"}, "quotaMode": true, "detailedMetric": true,
            })),
        ])),
    ]});
    let shared = json!({"name": "test-namespace/test-policy-1", "domain": "test-namespace/test-policy-1", "descriptors": [
        node("test-namespace/test-policy-1/rule/0", "test-namespace/test-policy-1/rule/0", below(&[
            node("rule-0-match-0", "", limit(10, "DAY")),
        ])),
    ]});
    management.set_json(&[listener, shared]);
    poll::until("readiness", || server.is_ready().then_some(()));
    server
}

/// The limit that is counted in bytes.
const BYTES: u64 = 5000;
const LISTENER: &str = "default/eg/http";
const API: (&str, &str) = (
    "httproute/default/api/rule/0",
    "httproute/default/api/rule/0",
);
const WEB: (&str, &str) = (
    "httproute/default/web/rule/0",
    "httproute/default/web/rule/0",
);

/// How many of so many single hits pass.
fn passed(server: &Server, domain: &str, entries: &[(&str, &str)], hits: usize) -> usize {
    let passes = |_: &usize| ask(server, domain, &[(entries, 1)])["overallCode"] == "OK";
    (0..hits).filter(passes).count()
}

#[test]
fn chains_of_matches_limit_what_they_match() {
    let management = ManagementServer::start();
    let server = gateway(&management);
    let passed = |entries: &[_], hits| passed(&server, LISTENER, entries, hits);
    let headers = [twice("rule-0-match-0"), twice("rule-0-match-1")];
    let within = ("masked_remote_address", "192.168.0.0/16");
    assert_eq!(passed(&[API, headers[0], headers[1], within], 5), 3);
    // One that is outside, or does not have both headers, is not limited.
    let outside = ("masked_remote_address", "172.16.0.0/16");
    assert_eq!(passed(&[API, headers[0], headers[1], outside], 5), 5);
    assert_eq!(passed(&[API, headers[0], within], 5), 5);

    for (client, wanted) in [("client-a", 4), ("client-b", 2), ("client-c", 2)] {
        assert_eq!(
            passed(&[API, ("rule-1-match-0", client)], 6),
            wanted,
            "{client}"
        );
    }
    let network = ("masked_remote_address", "10.0.0.0/8");
    for address in ["10.0.0.1", "10.0.0.2"] {
        assert_eq!(passed(&[API, network, ("remote_address", address)], 3), 1);
    }
    assert_eq!(passed(&[WEB, twice("rule-0-match--1")], 4), 2);
    // In shadow mode nothing is refused; and a quota refuses only when all quotas of a request do.
    assert_eq!(passed(&[WEB, twice("rule-1-match--1")], 4), 4);
    let quotas: [&[_]; 2] = [
        &[WEB, twice("rule-2-match--1")],
        &[WEB, twice("rule-3-match--1")],
    ];
    let both = |_: &i32| ask(&server, LISTENER, &quotas.map(|q| (q, 1)))["overallCode"] == "OK";
    assert_eq!((0..8).filter(both).count(), 5);
}

#[test]
fn shared_rules_are_one_for_all_routes() {
    let management = ManagementServer::start();
    let server = gateway(&management);
    let domain = "test-namespace/test-policy-1";
    let shared = twice("test-namespace/test-policy-1/rule/0");
    // A request of any route sends the same descriptor.
    let entries = [shared, ("rule-0-match-0", "alice")];
    assert_eq!(passed(&server, domain, &entries, 6), 6);
    assert_eq!(passed(&server, domain, &entries, 6), 4);
}

/// A cost on the request of 0 and one on the response that is only known at its end: the first looks, the second charges, also beyond the
/// limit, since the work has been done.
#[test]
fn a_peek_at_the_request_and_a_charge_at_the_end_add_up() {
    let management = ManagementServer::start();
    let server = gateway(&management);
    let entries: &[_] = &[API, ("rule-3-match--1", "rule-3-match--1")];
    let look = || ask(&server, LISTENER, &[(entries, 0)]);
    let left = |answer: &Value| {
        answer["statuses"][0]["limitRemaining"]
            .as_u64()
            .unwrap_or(0)
    };
    let mut used = 0;
    for cost in [7, 0, 13, 1, 40, 38] {
        let seen = look();
        assert_eq!(seen["overallCode"], "OK");
        assert_eq!(left(&seen), 100 - used, "after {used}");
        if cost > 0 {
            let answer = ask(&server, LISTENER, &[(entries, cost)]);
            used += cost;
            assert_eq!(left(&answer), 100 - used);
        }
    }
    assert_eq!(used, 99);
    assert_eq!(look()["overallCode"], "OK", "one is left");
    // What costs 25 goes over, is charged nevertheless, and from then on nothing begins.
    assert_eq!(
        ask(&server, LISTENER, &[(entries, 25)])["overallCode"],
        "OVER_LIMIT"
    );
    assert_eq!(look()["overallCode"], "OVER_LIMIT");
}

/// The same through a real Envoy, which asks at the request and, with `apply_on_stream_done`, at its end.
#[test]
fn what_envoy_charges_when_a_stream_is_done_adds_up() {
    let management = ManagementServer::start();
    let server = gateway(&management);
    let upstream = Upstream::start();
    let envoy = poll::until("an Envoy that listens", || {
        let (port, admin) = (free_port(), free_port());
        let ports = [
            (10000, port),
            (9901, admin),
            (8081, server.grpc_port()),
            (10080, upstream.port),
        ];
        let value = |port: u16| format!("port_value: {port}}}");
        let edits = ports.map(|(from, to)| (value(from), value(to)));
        let edits: Vec<_> = edits
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let config = edited("tests/it/xds/envoy.yaml", &edits);
        let dir = TempDir::new().expect("a directory");
        let mut envoy = Envoy::run(&config, dir, port, admin);
        envoy.listens().then_some(envoy)
    });
    let entries: &[_] = &[API, ("rule-4-match--1", "rule-4-match--1")];
    let left = || {
        let answer = ask(&server, LISTENER, &[(entries, 0)]);
        answer["statuses"][0]["limitRemaining"]
            .as_u64()
            .unwrap_or(0)
    };
    let mut used = 0;
    let mut get = |path: &str| {
        let reply = envoy.get(path, &[]);
        // What is left at the request, which itself costs nothing.
        let told = reply.one("x-ratelimit-remaining").parse();
        assert_eq!(told, Ok(BYTES - used), "{reply:?}");
        // A refusal has an end too.
        used += match path {
            "/bytes" => reply.body.len() as u64,
            _ => 7,
        };
        used = used.min(BYTES);
        poll::until("the charge of the stream", || {
            (left() == BYTES - used).then_some(())
        });
        (reply.code, used)
    };
    for _ in 0..5 {
        assert_eq!(get("/seven").0, 200);
        assert_eq!(get("/bytes").0, 200);
    }
    // The last of these goes over, and was answered; from then on nothing is.
    let last = poll::until("the limit", || {
        let (code, used) = get("/bytes");
        assert_eq!(code, 200);
        (used == BYTES).then_some(used)
    });
    assert_eq!(last, BYTES);
    assert_eq!(get("/seven").0, 429);
}
