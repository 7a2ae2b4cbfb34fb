//! Candidate limits: charged as if they were the limits, reported, and without a part in any decision.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tollgate::admin::api::PREFIX;
use tollgate::directory::{Grant, Standing};
use tollgate::engine::trials::{MAX_TRIALS, Tally};
use tollgate::engine::{Answer, Settings};
use tollgate::rules::Entry;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::faulty::{Fault, Faulty};
use tollgate::telemetry::metrics::candidates::MAX_CANDIDATES;

use crate::metrics::read;
use crate::support::http::send;
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup, request};
use crate::support::service::Service;

const LOWER: &str = "
domain: d
descriptors:
  - {key: a, rate_limit: {requests_per_unit: 5, unit: minute, candidate: {requests_per_unit: 2}}}
  - {key: b, rate_limit: {requests_per_unit: 2, unit: hour}}
";

const HIGHER: &str = "
domain: d
descriptors:
  - {key: a, rate_limit: {requests_per_unit: 2, unit: minute, candidate: {requests_per_unit: 4}}}
  - {key: b, rate_limit: {requests_per_unit: 2, unit: hour}}
";

/// Of the only candidate: requests, those that would be refused, those that would be admitted.
async fn counts(service: &Service) -> (u64, u64, u64) {
    let tallies = service.engine.trials().await;
    let [tally] = tallies.candidates.as_slice() else {
        panic!("{tallies:?}");
    };
    (tally.requests, tally.would_refuse, tally.would_admit)
}

fn subjects(tally: &Tally, which: usize) -> Vec<(String, u64)> {
    let rows = tally.subjects[which].rows.iter();
    rows.map(|row| (row.subject.clone(), row.hits / 1000))
        .collect()
}

#[tokio::test]
async fn a_lower_candidate_would_refuse_and_refuses_nothing() {
    let service = Service::new(LOWER);
    for left in (0..5).rev() {
        assert_eq!(service.say(&["a=1"]).await, format!("ok {left}"));
    }
    assert_eq!(service.say(&["a=1"]).await, "over 60");
    assert_eq!(service.say(&["a=2"]).await, "ok 4");
    // The sixth is refused either way.
    assert_eq!(counts(&service).await, (7, 3, 0));
    let tallies = service.engine.trials().await;
    let tally = &tallies.candidates[0];
    assert_eq!(subjects(tally, 0), [("a=1".to_owned(), 3)]);
    assert_eq!(subjects(tally, 1), []);
    // What the candidate would have refused it was not charged: in the next window both begin anew.
    service.advance(60);
    assert_eq!(service.say(&["a=1"]).await, "ok 4");
    assert_eq!(counts(&service).await, (8, 3, 0));
}

/// Were it charged only with what passes, it would admit without end.
#[tokio::test]
async fn a_higher_candidate_is_charged_with_what_the_limit_refuses() {
    let service = Service::new(HIGHER);
    for _ in 0..6 {
        service.say(&["a=1"]).await;
    }
    // Two pass, two more would, and two are refused either way.
    assert_eq!(counts(&service).await, (6, 0, 2));
    let tallies = service.engine.trials().await;
    assert_eq!(subjects(&tallies.candidates[0], 1), [("a=1".to_owned(), 2)]);
}

#[tokio::test]
async fn what_other_limits_refuse_is_refused_under_a_candidate_too_and_costs_it_nothing() {
    let service = Service::new(HIGHER);
    service.say(&["b=1 +2"]).await;
    for _ in 0..5 {
        assert_eq!(service.say(&["a=1", "b=1"]).await, "ok 2, over 3600");
    }
    assert_eq!(counts(&service).await, (5, 0, 0));
    for _ in 0..5 {
        service.say(&["a=1"]).await;
    }
    assert_eq!(counts(&service).await, (10, 0, 2), "it was not charged");
}

#[tokio::test]
async fn no_word_of_an_answer_differs() {
    for (rules, live) in [
        (LOWER, "candidate: {requests_per_unit: 2}"),
        (HIGHER, "candidate: {requests_per_unit: 4}"),
    ] {
        let without = rules.replace(&format!(", {live}"), "");
        assert!(!without.contains("candidate"));
        let (tried, plain) = (Service::new(rules), Service::new(&without));
        let requests: [&[&str]; 6] = [
            &["a=1"],
            &["a=1 +2", "b=1"],
            &["a=1", "a=1"],
            &["a=1 ?"],
            &["a=1 -1"],
            &["a=1 +9", "b=1"],
        ];
        for round in 0..20 {
            for request in requests {
                let (tried, plain) = (tried.ask(request).await, plain.ask(request).await);
                assert_eq!(told(&tried), told(&plain), "{round}: {request:?}");
            }
            tried.advance(7);
            plain.advance(7);
        }
    }
}

/// All of an answer but for where its rule stands.
fn told(answer: &Answer<'_>) -> String {
    format!("{answer:?}")
}

#[tokio::test]
async fn several_limits_each_have_a_world_of_their_own() {
    let service = Service::new(
        "
domain: d
descriptors:
  - key: a
    rate_limits:
      - {name: fast, requests_per_unit: 2, unit: second, candidate: {requests_per_unit: 9}}
      - {name: slow, requests_per_unit: 3, unit: hour, candidate: {requests_per_unit: 1}}
",
    );
    for _ in 0..4 {
        service.say(&["a=1"]).await;
    }
    let tallies = service.engine.trials().await;
    let of = |name: &str| {
        let named = |tally: &&Tally| tally.of.live.as_ref().is_some_and(|live| live.0 == name);
        let tally = tallies.candidates.iter().find(named);
        let tally = tally.expect("a candidate");
        (tally.requests, tally.would_refuse, tally.would_admit)
    };
    // Of four, two pass. Under 9/second the slow one, which is live, has room for all four, as it is charged only twice.
    assert_eq!(of("fast"), (4, 0, 2));
    // Under 1/hour the second would be refused; the others are by the fast one.
    assert_eq!(of("slow"), (4, 1, 0));
}

#[tokio::test]
async fn an_unlimited_rule_tries_a_limit_and_a_limit_tries_none() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: free, rate_limit: {unlimited: true, candidate: {requests_per_unit: 2, unit: minute}}}
  - {key: bound, rate_limit: {requests_per_unit: 2, unit: minute, candidate: {unlimited: true}}}
",
    );
    for _ in 0..5 {
        assert_eq!(service.say(&["free=1"]).await, "ok 4294967295");
    }
    for wanted in ["ok 1", "ok 0", "over 60", "over 60"] {
        assert_eq!(service.say(&["bound=1"]).await, wanted);
    }
    let tallies = service.engine.trials().await;
    let of = |rule: &str| {
        let found = tallies.candidates.iter().find(|one| *one.of.rule == *rule);
        let tally = found.expect("a candidate");
        (tally.requests, tally.would_refuse, tally.would_admit)
    };
    assert_eq!(of("free"), (5, 3, 0));
    assert_eq!(of("bound"), (4, 0, 2));
}

#[tokio::test]
async fn peeks_are_not_counted_refunds_are_felt_and_shadows_are_compared_as_if_enforced() {
    let service = Service::new(LOWER);
    service.say(&["a=1 +2"]).await;
    service.say(&["a=1 ?"]).await;
    assert_eq!(counts(&service).await, (1, 0, 0));
    service.say(&["a=1 -1"]).await;
    service.say(&["a=1"]).await;
    assert_eq!(counts(&service).await, (2, 0, 0), "there is room again");
    service.say(&["a=1"]).await;
    assert_eq!(counts(&service).await, (3, 1, 0));

    let shadow = LOWER.replace("{key: a, ", "{key: a, shadow_mode: true, ");
    let service = Service::new(&shadow);
    for _ in 0..6 {
        assert!(service.say(&["a=1"]).await.starts_with("ok"));
    }
    assert_eq!(counts(&service).await, (6, 3, 0));
}

#[tokio::test]
async fn a_candidate_that_is_charged_always_goes_over() {
    let rules = LOWER.replace(
        "candidate: {requests_per_unit: 2}",
        "candidate: {requests_per_unit: 2, charge: always}",
    );
    let service = Service::new(&rules);
    service.say(&["b=1 +2"]).await;
    for _ in 0..2 {
        assert_eq!(service.say(&["a=1", "b=1"]).await, "ok 5, over 3600");
    }
    service.say(&["a=1"]).await;
    assert_eq!(counts(&service).await, (3, 1, 0));
}

#[tokio::test]
async fn what_is_counted_outlasts_a_reload_and_ends_with_the_candidate() {
    let service = Service::new(LOWER);
    for _ in 0..3 {
        service.say(&["a=1"]).await;
    }
    let since = service.engine.trials().await.candidates[0].since;
    service.advance(1);
    // Another rule has changed, and moved this one down.
    service.install(&LOWER.replace("descriptors:", "descriptors:\n  - {key: new}"));
    let tallies = service.engine.trials().await;
    assert_eq!(tallies.candidates[0].since, since);
    assert_eq!(tallies.candidates[0].of.path, "descriptors[1]");
    service.say(&["a=1"]).await;
    assert_eq!(counts(&service).await, (4, 2, 0), "its counter is kept");

    // Another number is another candidate, which keeps what was used: 2 of 3.
    let raised = LOWER.replace(
        "candidate: {requests_per_unit: 2}",
        "candidate: {requests_per_unit: 3}",
    );
    service.install(&raised);
    assert_eq!(counts(&service).await, (0, 0, 0));
    service.say(&["a=2"]).await;
    service.say(&["a=1"]).await;
    service.say(&["a=1 ?"]).await;
    assert_eq!(counts(&service).await, (2, 0, 0));

    let without = LOWER.replace(", candidate: {requests_per_unit: 2}", "");
    service.install(&without);
    assert!(service.engine.trials().await.candidates.is_empty());
    service.advance(60);
    service.say(&["a=1"]).await;
    service.install(LOWER);
    assert_eq!(counts(&service).await, (0, 0, 0), "it begins anew");
}

#[tokio::test]
async fn whoever_has_a_limit_of_its_own_is_left_out() {
    let service = Service::new(
        "
domain: d
plans:
  free:
    - {name: m, requests_per_unit: 5, unit: minute, candidate: {requests_per_unit: 1}}
descriptors:
  - {key: user, plan: {from: directory, default: free}}
",
    );
    let place = service.engine.with_rules(|rules| {
        let entry = Entry {
            key: "user",
            value: "granted",
        };
        tollgate::engine::key::standing("", &rules.domains["d"], entry)
    });
    let grant = Grant {
        limit: "m".to_owned(),
        hits: 3,
        until: i64::MAX,
    };
    let granted = |_| Standing {
        grants: vec![grant.clone()],
        ..Standing::default()
    };
    let (directory, store) = (service.engine.directory(), service.engine.store());
    let timeout = std::time::Duration::from_secs(1);
    let place = place.expect("rules");
    let changed = directory.change(store, &place, timeout, granted);
    changed.await.expect("a store that answers");
    for user in ["user=granted", "user=other"] {
        for _ in 0..3 {
            service.say(&[user]).await;
        }
    }
    assert_eq!(counts(&service).await, (3, 2, 0));
}

#[tokio::test]
async fn while_the_store_does_not_answer_nothing_is_tried() {
    let rules = format!(
        "{LOWER}  - {{key: free, rate_limit: {{unlimited: true, candidate: {{requests_per_unit: 1, unit: minute}}}}}}\n"
    );
    let link = OnceLock::new();
    let service = Service::with(&rules, Settings::default(), |clock| {
        let store = Store::Embedded(Embedded::new(1 << 16, clock));
        let faulty = Arc::new(Faulty::new(Arc::new(store)));
        link.set(Arc::clone(&faulty)).expect("once");
        Store::Faulty(faulty)
    });
    let link = link.get().expect("a link");
    service.say(&["a=1"]).await;
    link.order(Some(Fault::Unreachable));
    for _ in 0..3 {
        let answer = service.ask(&["free=1"]).await;
        assert_eq!(answer.reason.name(), "unlimited", "as without a candidate");
        service.say(&["a=1"]).await;
    }
    link.order(None);
    let tallies = service.engine.trials().await;
    let requests: Vec<u64> = tallies.candidates.iter().map(|one| one.requests).collect();
    assert_eq!(requests, [1, 0]);
}

#[tokio::test]
async fn metrics_count_by_rule_and_outcome_and_are_bounded() {
    let service = Service::new(LOWER);
    for _ in 0..6 {
        service.say(&["a=1"]).await;
    }
    let found = read(&service.metrics.encode());
    let of = |outcome: &str| {
        let series =
            format!("tollgate_candidate_requests{{domain=\"d\",rule=\"a\",outcome=\"{outcome}\"}}");
        found.samples[&series]
    };
    assert_eq!(of("same"), 3.0);
    assert_eq!(of("would_refuse"), 3.0);
    assert_eq!(of("would_admit"), 0.0);
    for n in 0..MAX_CANDIDATES + 5 {
        service.metrics.candidate("d", &n.to_string()).same.inc();
    }
    let found = read(&service.metrics.encode());
    let other = "tollgate_candidate_requests{domain=\"other\",rule=\"other\",outcome=\"same\"}";
    assert_eq!(found.samples[other], 6.0);
}

#[tokio::test]
async fn beyond_the_bound_only_metrics_count() {
    let mut rules = "domain: d\ndescriptors:\n".to_owned();
    for n in 0..=MAX_TRIALS {
        rules += &format!(
            "  - {{key: k{n}, rate_limit: {{requests_per_unit: 2, unit: hour, candidate: {{requests_per_unit: 1}}}}}}\n"
        );
    }
    let service = Service::new(&rules);
    let last = format!("k{MAX_TRIALS}=1");
    service.say(&[&last]).await;
    let tallies = service.engine.trials().await;
    assert_eq!(tallies.candidates.len(), MAX_TRIALS);
    assert!(tallies.candidates.iter().all(|tally| tally.requests == 0));
    let found = read(&service.metrics.encode());
    let series = format!(
        "tollgate_candidate_requests{{domain=\"d\",rule=\"k{MAX_TRIALS}\",outcome=\"same\"}}"
    );
    assert_eq!(found.samples[&series], 1.0);
}

fn get(http: SocketAddr, path: &str) -> Value {
    let reply = send(http, "GET", &format!("{PREFIX}{path}"), &[], "").expect("an answer");
    assert_eq!(reply.code, 200, "{path}: {}", reply.body);
    serde_json::from_str(&reply.body).expect("JSON")
}

async fn hit(server: &Server, user: &str, times: usize) {
    let mut client = server.client().await;
    for _ in 0..times {
        let asked = request("d", &[&[("a", user)]]);
        client.should_rate_limit(asked).await.expect("an answer");
    }
}

/// A refusal is remembered, and equal requests go together: neither hides a request from a candidate.
#[tokio::test(flavor = "multi_thread")]
async fn all_instances_tell_of_their_candidates_and_no_request_is_missed() {
    let redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let rules = HIGHER.replace("minute", "day");
    let start = || {
        let setup = Setup::rules(&rules).env("REDIS_URL", &url);
        // What Redis does not decide in time is no candidate's.
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let (one, other) = (start(), start());
    hit(&one, "alice", 20).await;
    hit(&other, "bob", 3).await;
    hit(&other, "alice", 1).await;
    for server in [&one, &other] {
        let told = poll::until("all instances to be told of", || {
            let told = get(server.http, "/candidates?domain=d");
            (told["candidates"][0]["requests"] == 24).then_some(told)
        });
        let tally = &told["candidates"][0];
        assert_eq!(told["whole"], json!(true));
        assert_eq!(told["instances"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            (&tally["would_refuse"], &tally["would_admit"]),
            (&json!(0), &json!(3))
        );
        assert_eq!(
            tally["subjects"]["would_admit"],
            json!([
                {"subject": "a=alice", "requests": 2, "at_least": 2},
                {"subject": "a=bob", "requests": 1, "at_least": 1},
            ])
        );
        assert_eq!(tally["limit"]["requests_per_unit"], 2);
        assert_eq!(tally["candidate"]["requests_per_unit"], 4);
        assert!(tally["since"].is_string(), "{tally}");
    }
    let none = get(one.http, "/candidates?rule=another");
    assert_eq!(none["candidates"], json!([]));
    let few = get(one.http, "/candidates?limit=1");
    let subjects = few["candidates"][0]["subjects"]["would_admit"].as_array();
    assert_eq!(subjects.map(Vec::len), Some(1));
    for limit in ["0", "21", "x"] {
        let path = format!("{PREFIX}/candidates?limit={limit}");
        let reply = send(one.http, "GET", &path, &[], "").expect("an answer");
        assert_eq!(reply.code, 400, "{limit}: {}", reply.body);
    }
    // Under the live limit, wherever that is listed.
    let quota = get(one.http, "/quota/a=alice");
    let limit = &quota["rules"][0]["limits"][0];
    assert_eq!(
        (&limit["used"], &limit["remaining"]),
        (&json!(2), &json!(0))
    );
    let candidate = &limit["candidate"];
    assert_eq!(
        (&candidate["used"], &candidate["remaining"]),
        (&json!(4), &json!(0))
    );
    let rules = get(one.http, "/endpoints");
    let shown = &rules["rules"][0]["limits"][0]["candidate"];
    assert_eq!(shown["requests_per_unit"], 4);
    // A reset is one of the candidate too.
    let path = format!("{PREFIX}/quota/a=alice/reset");
    let reply = send(one.http, "POST", &path, &[], "").expect("an answer");
    assert_eq!(reply.code, 200, "{}", reply.body);
    let quota = get(one.http, "/quota/a=alice");
    let candidate = &quota["rules"][0]["limits"][0]["candidate"];
    assert_eq!(candidate["used"], 0);
}
