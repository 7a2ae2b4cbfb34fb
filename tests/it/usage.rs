//! What was used, for billing: equal to the sum of the admitted hits, over instances, plans and restarts.

use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::http::send;
use crate::support::redis;
use crate::support::server::{Server, Setup, is_over, request};

const RULES: &str = "
domain: d
costs:
  - {key: path, value: /half, cost: 0.5}
plans:
  free: [{name: month, requests_per_unit: 40, unit: month}]
  enterprise: unlimited
descriptors:
  - key: user
    plan: {from: directory, default: free}
    usage: month
  - key: path
  - key: seen
    usage: day
";

/// All lines after a number; and the last number.
fn lines(server: &Server, after: u64) -> (Vec<Value>, u64) {
    let (mut lines, mut last) = (Vec::new(), after);
    loop {
        let path = format!("/api/v1/rate-limit/usage?after={last}&limit=2");
        let reply = send(server.http, "GET", &path, &[], "").expect("an answer");
        assert_eq!(reply.code, 200, "{}", reply.body);
        let more: Vec<Value> = reply
            .body
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let Some(id) = more
            .last()
            .map(|line| line["id"].as_u64().expect("a number"))
        else {
            return (lines, last);
        };
        assert!(id > last);
        last = id;
        lines.extend(more);
    }
}

/// The last line of each subject.
fn used(lines: &[Value]) -> BTreeMap<String, f64> {
    let row = |line: &Value| {
        let subject = line["subject"].as_str().expect("text").to_owned();
        (subject, line["used"].as_f64().expect("a number"))
    };
    lines.iter().map(row).collect()
}

/// Hits of many tasks on some users of all servers; how many were admitted of each.
async fn load(servers: &[&Server], hits: usize) -> BTreeMap<String, f64> {
    let mut tasks = Vec::new();
    for server in servers {
        for task in 0..4 {
            let mut client = server.client().await;
            tasks.push(tokio::spawn(async move {
                let mut admitted = Vec::new();
                for hit in 0..hits {
                    let user = format!("u{}", (task + hit) % 3);
                    let path = if hit % 2 == 0 { "/half" } else { "/whole" };
                    let asked = request("d", &[&[("user", &user)], &[("path", path)]]);
                    let answer = client.should_rate_limit(asked).await.expect("an answer");
                    if !is_over(answer.get_ref()) {
                        let cost = if hit % 2 == 0 { 0.5 } else { 1.0 };
                        admitted.push((format!("user={user}"), cost));
                    }
                }
                admitted
            }));
        }
    }
    let mut sums = BTreeMap::new();
    for task in tasks {
        for (user, cost) in task.await.expect("no panic") {
            *sums.entry(user).or_insert(0.0) += cost;
        }
    }
    sums
}

fn add(sums: &mut BTreeMap<String, f64>, more: BTreeMap<String, f64>) {
    for (user, cost) in more {
        *sums.entry(user).or_insert(0.0) += cost;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_the_sum_of_what_was_admitted_on_two_instances_and_over_a_restart() {
    let redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let start = || {
        Setup::rules(RULES)
            .env("REDIS_URL", &url)
            .env("STORE_TIMEOUT", "5s")
            .start_ready()
    };
    let (one, other) = (start(), start());
    // Without a limit it is counted too.
    let enterprise = send(
        one.http,
        "PUT",
        "/api/v1/rate-limit/quota/user=u0/plan",
        &[],
        r#"{"plan": "enterprise"}"#,
    );
    assert_eq!(enterprise.expect("an answer").code, 200);
    let mut sums = load(&[&one, &other], 30).await;
    other.signal("TERM");
    assert!(other.wait().success());
    let (before, last) = lines(&one, 0);
    assert_eq!(used(&before), sums);
    assert_eq!(before[0]["period"], "month");
    assert_eq!(before[0]["ended"], false);
    assert!(lines(&one, last).0.is_empty(), "nothing has changed since");

    let again = start();
    add(&mut sums, load(&[&again], 30).await);
    let (after, _) = lines(&again, last);
    let mut known = used(&before);
    known.extend(used(&after));
    assert_eq!(known, sums);
    assert_eq!(known["user=u1"], 40.0, "the limit was reached");
}

#[tokio::test]
async fn usage_of_the_embedded_store_outlives_the_service() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("snapshot");
    let start = || {
        let file = file.to_str().expect("text");
        Setup::rules(RULES)
            .env("EMBEDDED_SNAPSHOT", file)
            .start_ready()
    };
    let server = start();
    let mut sums = load(&[&server], 10).await;
    let (_, last) = lines(&server, 0);
    server.signal("TERM");
    assert!(server.wait().success());
    let server = start();
    assert_eq!(used(&lines(&server, 0).0), sums);
    assert!(lines(&server, last).0.is_empty());
    add(&mut sums, load(&[&server], 1).await);
    assert_eq!(used(&lines(&server, 0).0), sums);
    // A rule may count and limit nothing; what is only asked, refused or given back is not counted.
    let mut client = server.client().await;
    let seen = request("d", &[&[("seen", "x")]]);
    client.should_rate_limit(seen).await.expect("an answer");
    let mut peek = request("d", &[&[("seen", "x")]]);
    peek.descriptors[0].hits_addend =
        Some(envoy_types::pb::google::protobuf::UInt64Value { value: 0 });
    client.should_rate_limit(peek).await.expect("an answer");
    let mut refund = request("d", &[&[("seen", "x")]]);
    refund.descriptors[0].is_negative_hits = true;
    client.should_rate_limit(refund).await.expect("an answer");
    assert_eq!(used(&lines(&server, last).0)["seen=x"], 1.0);
}
