//! `tollgate replay`, held against what a live service did.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use envoy_types::pb::google::protobuf::UInt64Value;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::capture::{Asked, Decision, Reader};

use crate::support::server::{Server, Setup, binary, request};
use crate::support::{http, poll};

mod envoy;
mod offline;
mod redis;

/// Every kind of limit, with windows that end while the test runs.
const EDGE: &str = "
domain: edge
partition_by: [user_id]
sensitive: [token]
costs:
  - {key: path, value: /dear, cost: 2.5}
  - {key: path, value: /free, cost: 0}
plans:
  free:
    - {name: second, requests_per_unit: 5, unit: second}
    - {name: day, requests_per_unit: 60, unit: day}
  pro:
    - {name: second, requests_per_unit: 30, unit: second, algorithm: token_bucket, burst: 40}
  endless: unlimited
descriptors:
  - {key: user_id, plan: {from: directory, default: free}}
  - key: tier
    descriptors: [{key: user_id, plan: {from: tier, default: free}}]
  - {key: path, rate_limit: {requests_per_unit: 60, unit: second, algorithm: sliding_window}}
  - {key: bucket, rate_limit: {requests_per_unit: 20, unit: second, algorithm: token_bucket, burst: 30}}
  - {key: token, value: gold, rate_limit: {unlimited: true}}
  - {key: token, rate_limit: {requests_per_unit: 15, unit: second}}
  - {key: late, rate_limit: {requests_per_unit: 10, unit: second, charge: always}}
  - {key: shadow, shadow_mode: true, rate_limit: {requests_per_unit: 5, unit: second}}
  - {key: quota, quota_mode: true, rate_limit: {requests_per_unit: 10, unit: second}}
  - {key: file, value: 'a*', share_threshold: true, rate_limit: {requests_per_unit: 20, unit: second}}
";

const SHOP: &str = "
domain: shop
descriptors:
  - key: cart
    rate_limits:
      - {requests_per_unit: 4, unit: second}
      - {requests_per_unit: 100, unit: minute}
";

/// How many callers there are, and how many requests each makes.
const CALLERS: u64 = 8;
const REQUESTS: usize = 500;

/// What a descriptor of a request may be.
const DESCRIPTORS: [&[(&str, &[&str])]; 12] = [
    &[("user_id", &["u0", "u1", "u2", "u3", "u4"])],
    &[
        ("tier", &["free", "pro", "endless", "none"]),
        ("user_id", &["u0", "u1", "u2"]),
    ],
    &[("path", &["/", "/dear", "/free", "/other"])],
    &[("path", &["/", "/dear"]), ("user_id", &["u0", "u1"])],
    &[("bucket", &["b0", "b1", "b2"])],
    &[("token", &["gold", "t0", "t1"])],
    &[("late", &["l0", "l1"])],
    &[("shadow", &["s0"])],
    &[("quota", &["q0", "q1"])],
    &[("quota", &["q0", "q2"])],
    &[("file", &["a1", "a2", "b1"])],
    &[("nobody", &["x"])],
];

/// A request with a number, which no rule asks for: it tells which answer is which decision's.
fn some_request(random: &mut SmallRng, number: &str) -> RateLimitRequest {
    let shop = random.random_ratio(1, 8);
    let mut descriptors: Vec<RateLimitDescriptor> = Vec::new();
    let of = |entries: &[(&str, &str)]| request("", &[entries]).descriptors.remove(0);
    for _ in 0..random.random_range(1..=3) {
        if shop {
            let cart = format!("c{}", random.random_range(0..4));
            descriptors.push(of(&[("cart", &cart)]));
            continue;
        }
        let kinds = DESCRIPTORS[random.random_range(0..DESCRIPTORS.len())];
        let entries: Vec<(&str, &str)> = kinds
            .iter()
            .map(|(key, values)| (*key, values[random.random_range(0..values.len())]))
            .collect();
        descriptors.push(of(&entries));
    }
    let hits = |value| Some(UInt64Value { value });
    for descriptor in &mut descriptors {
        match random.random_range(0..12) {
            0 => descriptor.hits_addend = hits(0),
            1 => descriptor.hits_addend = hits(random.random_range(1..5)),
            2 => {
                descriptor.hits_addend = hits(random.random_range(1..3));
                descriptor.is_negative_hits = true;
            }
            3 => {
                use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
                descriptor.limit = Some(RateLimitOverride {
                    requests_per_unit: 7,
                    unit: RateLimitUnit::Second as i32,
                });
            }
            _ => {}
        }
    }
    descriptors.push(of(&[("number", number)]));
    RateLimitRequest {
        domain: if shop { "shop" } else { "edge" }.to_owned(),
        descriptors,
        hits_addend: random.random_range(0..3),
    }
}

/// Asks from several connections at once; the answers by number.
async fn drive(server: &Server, seed: u64) -> HashMap<String, RateLimitResponse> {
    let mut tasks = Vec::new();
    for caller in 0..CALLERS {
        let mut client = server.client().await;
        tasks.push(tokio::spawn(async move {
            let mut random = SmallRng::seed_from_u64(seed * 1000 + caller);
            let mut answers = Vec::with_capacity(REQUESTS);
            for place in 0..REQUESTS {
                let number = format!("{caller}-{place}");
                let answer = client
                    .should_rate_limit(some_request(&mut random, &number))
                    .await;
                answers.push((number, answer.expect("an answer").into_inner()));
            }
            answers
        }));
    }
    let mut all = HashMap::new();
    for task in tasks {
        all.extend(task.await.expect("no panic"));
    }
    all
}

fn assign(server: &Server, user: &str, plan: &str) {
    let path = format!("/api/v1/rate-limit/quota/user_id={user}/plan?domain=edge");
    let body = json!({"plan": plan}).to_string();
    let reply = http::send(server.http, "PUT", &path, &[], &body).expect("an answer");
    assert_eq!(reply.code, 200, "{}", reply.body);
}

/// Runs the subcommand.
pub(crate) fn replay(rules: &Path, traffic: &Path, more: &[&str]) -> Output {
    let mut command = binary();
    command
        .arg("replay")
        .arg("--rules")
        .arg(rules)
        .args(more)
        .arg(traffic);
    command.output().expect("the binary runs")
}

/// Runs it, and reads its report.
#[track_caller]
pub(crate) fn report(rules: &Path, traffic: &Path, more: &[&str]) -> Value {
    let more = [more, &["--format", "json"]].concat();
    let output = replay(rules, traffic, &more);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "", "nobody sees a bar");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Calls `show` with each decision of a capture.
pub(crate) fn each(path: &Path, mut show: impl FnMut(&Decision<'_>)) {
    let file = std::fs::File::open(path).expect("a capture");
    let mut reader = Reader::new(std::io::BufReader::new(file)).expect("a capture");
    while let Some(decision) = reader.next_decision().expect("readable") {
        show(&decision);
    }
}

/// Ends a service, and waits until its capture is whole.
fn finish(server: Server) {
    server.signal("TERM");
    assert!(server.wait().success());
}

struct Live {
    dir: TempDir,
    answers: HashMap<String, RateLimitResponse>,
}

impl Live {
    fn capture(&self) -> PathBuf {
        self.dir.path().join("capture")
    }

    /// The rules that it had, as `edited`.
    fn rules(&self, name: &str, edge: &str) -> PathBuf {
        let rules = self.dir.path().join(name);
        std::fs::create_dir(&rules).expect("a directory");
        std::fs::write(rules.join("edge.yaml"), edge).expect("a file");
        std::fs::write(rules.join("shop.yaml"), SHOP).expect("a file");
        rules
    }
}

/// A service that records, asked by many at once, with plans that change meanwhile.
async fn live(settings: &[(&str, &str)]) -> Live {
    let dir = TempDir::new().expect("a directory");
    let capture = dir.path().join("capture");
    let mut setup = Setup::rules(EDGE).file("shop.yaml", SHOP);
    setup = setup.env("RECORD", &capture.display().to_string());
    for (name, value) in settings {
        setup = setup.env(name, value);
    }
    let server = setup.start_ready();
    assign(&server, "u0", "pro");
    let mut answers = HashMap::new();
    let (asked, changed) = tokio::join!(drive(&server, 7), async {
        tokio::task::block_in_place(|| {
            for plan in ["pro", "free", "endless", "pro"] {
                assign(&server, "u1", plan);
                assign(&server, "u2", plan);
            }
        });
    });
    let () = changed;
    answers.extend(asked);
    finish(server);
    Live { dir, answers }
}

/// What the client was told of a descriptor is what the capture says.
#[track_caller]
fn assert_recorded_as_told(live: &Live) {
    let mut seen = 0;
    each(&live.capture(), |decision| {
        let number = decision.asked.last().expect("a number").entries[0].value;
        let answer = &live.answers[number];
        assert_eq!(decision.refused, answer.overall_code == 2, "{decision:?}");
        let told = |asked: &Asked<'_>| (if asked.refused { 2 } else { 1 }, asked.remaining);
        let recorded: Vec<(i32, u32)> = decision.asked.iter().map(told).collect();
        let statuses = answer.statuses.iter();
        let answered: Vec<(i32, u32)> = statuses.map(|s| (s.code, s.limit_remaining)).collect();
        assert_eq!(recorded, answered, "{decision:?}");
        seen += 1;
    });
    assert_eq!(seen, live.answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_under_the_same_rules_agrees_decision_by_decision() {
    let live = live(&[]).await;
    assert_recorded_as_told(&live);
    let refused = live
        .answers
        .values()
        .filter(|answer| answer.overall_code == 2)
        .count();
    assert!(refused > 500 && refused < 3500, "{refused}");
    let text = std::fs::read(live.capture()).expect("a capture");
    assert!(text.len() < 60 * live.answers.len(), "{} bytes", text.len());
    let mut hidden = 0;
    each(&live.capture(), |decision| {
        let entries = decision.asked.iter().flat_map(|asked| &asked.entries);
        for token in entries.filter(|entry| entry.key == "token") {
            assert!(token.value.starts_with('#'), "{decision:?}");
            hidden += 1;
        }
    });
    assert!(hidden > 100, "{hidden}");
    let report = report(&live.rules("same", EDGE), &live.capture(), &[]);
    let wanted = json!({
        "requests": live.answers.len(),
        "agree": live.answers.len(),
        "refused_before": refused,
        "refused_now": refused,
        "newly_refused": 0,
        "newly_admitted": 0,
        "newly_refused_ratio": 0.0,
        "agree_and_told_otherwise": 0,
    });
    assert_eq!(report["compared"], wanted, "{report:#}");
    assert_eq!(report["traffic"]["missing"], 0);
    assert_eq!(report["traffic"]["notes"], json!([]));
    assert_eq!(report["may_differ"]["late"], 0);
    // And not for want of looking: a stricter rule refuses more, a looser one less.
    let strict = (
        "unit: second, charge: always",
        "unit: minute, charge: always",
    );
    let loose = (
        "requests_per_unit: 15, unit: second",
        "requests_per_unit: 1500, unit: second",
    );
    for ((from, to), other) in [(strict, "newly_refused"), (loose, "newly_admitted")] {
        let edited = EDGE.replace(from, to);
        assert_ne!(edited, EDGE, "{from}");
        let report = self::report(&live.rules(other, &edited), &live.capture(), &[]);
        assert_ne!(report["compared"][other], 0, "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_has_whole_subjects_and_its_replay_agrees() {
    let live = live(&[("RECORD_SAMPLE", "0.5")]).await;
    let mut seen = 0;
    let mut by_subject: HashMap<String, bool> = HashMap::new();
    each(&live.capture(), |decision| {
        seen += 1;
        assert!(decision.asked.iter().any(|asked| asked.sampled));
        for asked in &decision.asked {
            // Of a user all is in it or nothing, whatever else a descriptor says.
            let user = asked.entries.iter().find(|entry| entry.key == "user_id");
            let subject = user.map_or_else(
                || format!("{:?}", asked.entries),
                |user| user.value.to_owned(),
            );
            let before = by_subject.insert(format!("{} {subject}", decision.domain), asked.sampled);
            assert!(
                before.is_none_or(|before| before == asked.sampled)
                    || asked.entries[0].key == "file"
                    || asked.limit.is_some(),
                "{subject}"
            );
        }
    });
    assert!(seen > 1000 && seen < live.answers.len(), "{seen}");
    let report = report(&live.rules("same", EDGE), &live.capture(), &[]);
    assert_eq!(report["traffic"]["sample"], 0.5);
    assert_eq!(report["compared"]["newly_refused"], 0, "{report:#}");
    assert_eq!(report["compared"]["newly_admitted"], 0, "{report:#}");
    assert_eq!(
        report["compared"]["agree_and_told_otherwise"], 0,
        "{report:#}"
    );
    assert_eq!(
        report["may_differ"]["counters_not_whole_in_the_sample"], 0,
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_service_has_recorded_is_replayed() {
    let dir = TempDir::new().expect("a directory");
    let capture = dir.path().join("capture");
    let server = Setup::rules(SHOP).env("RECORD", &capture.display().to_string());
    let server = server.start_ready();
    let mut client = server.client().await;
    for _ in 0..50 {
        let asked = client.should_rate_limit(request("shop", &[&[("cart", "c")]]));
        asked.await.expect("an answer");
    }
    poll::until("a block in the file", || {
        let mut seen = 0;
        each(&capture, |_| seen += 1);
        (seen == 50).then_some(())
    });
    assert_eq!(server.metric("tollgate_recorded"), 50.0);
    assert_eq!(server.metric("tollgate_record_missing"), 0.0);
    server.signal("KILL");
    server.wait();
    let whole = std::fs::read(&capture).expect("a capture");
    std::fs::write(&capture, [&whole[..], b"block and no more"].concat()).expect("a file");
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules).expect("a directory");
    std::fs::write(rules.join("shop.yaml"), SHOP).expect("a file");
    let report = report(&rules, &capture, &[]);
    assert_eq!(report["compared"]["agree"], 50);
    let note = report["traffic"]["notes"][0].as_str().expect("a note");
    assert!(note.contains("ends in the middle of a block"), "{note}");
}
