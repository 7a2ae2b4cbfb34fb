//! Who asks most: sketches against exact counts, and what the API tells of them, over several instances.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate::admin::api::PREFIX;
use tollgate::engine::top::sketch::{CAPACITY, Sketch};
use tollgate::engine::top::summary::Summary;
use tollgate::engine::top::{By, EXACT, KEPT, MAX_RULES, MAX_SUBJECT, SLICE};
use tollgate::engine::{Engine, Request, Settings};
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::rules::{Descriptor, Entry};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::posts::{Board, MAX_POSTS};
use tollgate::store::redis::Redis;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, ManualClock, Micros, Timestamp};

use crate::support::http::send;
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup, request};

/// Exact counts, and a summary that must not contradict them.
fn holds(exact: &HashMap<String, u64>, summary: &Summary) -> Result<(), TestCaseError> {
    prop_assert_eq!(summary.total, exact.values().sum::<u64>());
    for row in &summary.rows {
        let true_hits = exact.get(&row.subject).copied().unwrap_or_default();
        prop_assert!(row.hits >= true_hits, "{row:?} has {true_hits}");
        prop_assert!(row.hits - row.error <= true_hits, "{row:?} has {true_hits}");
    }
    for (subject, hits) in exact {
        let named = summary.rows.iter().any(|row| row.subject == *subject);
        prop_assert!(named || *hits <= summary.floor, "{subject} has {hits}");
    }
    Ok(())
}

fn count(hits: &[(u16, u64)]) -> (HashMap<String, u64>, Sketch) {
    let (mut exact, mut sketch) = (HashMap::new(), Sketch::default());
    for (subject, hits) in hits {
        let name = format!("user={subject}");
        sketch.add(u64::from(*subject), *hits, |to| to.push_str(&name));
        *exact.entry(name).or_default() += hits;
    }
    (exact, sketch)
}

/// Few subjects, or many, of which some ask much more than others.
fn stream() -> impl Strategy<Value = Vec<(u16, u64)>> {
    let subject = prop_oneof![0..10_u16, 0..100_u16, 0..2_000_u16];
    proptest::collection::vec((subject, 1..50_u64), 0..600)
}

proptest! {
    #[test]
    fn a_sketch_is_off_by_no_more_than_it_says(hits in stream()) {
        let (exact, sketch) = count(&hits);
        let summary = sketch.summary(CAPACITY);
        holds(&exact, &summary)?;
        // What Metwally and others promise.
        let least = summary.total / CAPACITY as u64;
        prop_assert!(summary.floor <= least);
        prop_assert!(summary.rows.iter().all(|row| row.error <= least));
        let few = summary.truncated(KEPT);
        prop_assert!(few.rows.len() <= KEPT);
        holds(&exact, &few)?;
    }

    #[test]
    fn sums_of_sketches_are_off_by_no_more_than_they_say(
        streams in proptest::collection::vec(stream(), 1..6),
        kept in 1..CAPACITY,
    ) {
        let mut exact: HashMap<String, u64> = HashMap::new();
        let mut parts = Vec::new();
        for stream in &streams {
            let (counts, sketch) = count(stream);
            counts.into_iter().for_each(|(name, hits)| *exact.entry(name).or_default() += hits);
            parts.push(sketch.summary(kept));
        }
        let merged = Summary::merged(&parts);
        holds(&exact, &merged)?;
        // Each part, cut off after `kept`, is off by no more than its share.
        let least = parts.iter().map(|part| part.total / kept as u64).sum::<u64>();
        prop_assert!(merged.floor <= least, "{} {least}", merged.floor);
        holds(&exact, &merged.clone().truncated(kept))?;
        // In whatever order, and in whatever groups, it is about the same: within what each says.
        parts.reverse();
        prop_assert_eq!(&Summary::merged(&parts), &merged);
        let (some, others) = parts.split_at(parts.len() / 2);
        let grouped = [Summary::merged(some), Summary::merged(others)];
        holds(&exact, &Summary::merged(&grouped))?;
    }
}

const RULES: &str = "
domain: d
sensitive: [api_key]
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 3, unit: day}}
  - {key: api_key, rate_limit: {requests_per_unit: 3, unit: day}}
  - key: path
    value: /search
    descriptors:
      - {key: user, rate_limit: {requests_per_unit: 100, unit: day}}
";

/// An engine in memory, on a clock that is moved by hand.
fn engine(rules: &str) -> (Engine, ManualClock) {
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text: rules.to_owned(),
    }];
    let rules = compile(&files, Options::default()).expect("rules");
    let (clock, handle) = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let store = Store::Embedded(Embedded::new(1 << 16, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
    engine.install(rules);
    (engine, handle)
}

async fn ask(engine: &Engine, entries: &[(&str, &str)]) {
    let entries = entries.iter().map(|(key, value)| Entry { key, value });
    let descriptor = Descriptor {
        entries: entries.collect(),
        ..Descriptor::default()
    };
    let request = Request {
        domain: "d",
        hits_addend: 0,
        descriptors: [descriptor].into_iter().collect(),
    };
    let answer = engine.check(&request, Instant::now(), None, |answer| answer.overall);
    answer.await.expect("an answer");
}

/// The subjects of a rule with their hits.
async fn subjects(engine: &Engine, by: By, window: usize, rule: &str) -> Vec<(String, u64)> {
    let rules = engine.top(by, window).await.rules;
    let found = rules.into_iter().find(|(_, name, _)| name == rule);
    let rows = found.map(|(.., summary)| summary.rows).unwrap_or_default();
    let rows = rows.into_iter();
    rows.map(|row| (row.subject, row.hits / 1000)).collect()
}

#[tokio::test]
async fn hits_and_refusals_are_told_for_as_long_as_the_window_is() {
    let (engine, clock) = engine(RULES);
    let named = |name: &str, hits: u64| (name.to_owned(), hits);
    for (user, times) in [("alice", 5), ("bob", 2)] {
        for _ in 0..times {
            ask(&engine, &[("user", user)]).await;
        }
    }
    ask(&engine, &[("path", "/search"), ("user", "carol")]).await;
    engine.turn_top();
    let both = [named("user=alice", 5), named("user=bob", 2)];
    assert_eq!(subjects(&engine, By::Hits, 0, "user").await, both);
    let refused = subjects(&engine, By::Refused, 0, "user").await;
    assert_eq!(refused, [named("user=alice", 2)]);
    // What the rule says itself is not part of who it is.
    let nested = subjects(&engine, By::Hits, 0, "path_/search.user").await;
    assert_eq!(nested, [named("user=carol", 1)]);

    // A minute is over, ten are not.
    for _ in 0..4 {
        clock.advance(SLICE);
        engine.turn_top();
    }
    assert_eq!(subjects(&engine, By::Hits, 0, "user").await, []);
    assert_eq!(subjects(&engine, By::Hits, 2, "user").await, both);
    ask(&engine, &[("user", "bob")]).await;
    let then = subjects(&engine, By::Hits, 2, "user").await;
    assert_eq!(then, [named("user=alice", 5), named("user=bob", 3)]);
    for _ in 0..30 {
        clock.advance(SLICE);
        engine.turn_top();
    }
    assert_eq!(subjects(&engine, By::Hits, 2, "user").await, []);
}

#[tokio::test]
async fn what_is_sensitive_or_long_is_hashed_and_names_are_bounded() {
    let (engine, _) = engine(RULES);
    ask(&engine, &[("api_key", "s3cret")]).await;
    ask(&engine, &[("user", &"x".repeat(1000))]).await;
    // Each of its bytes is three as it is told.
    ask(
        &engine,
        &[("path", "/search"), ("user", &"\u{1}".repeat(64))],
    )
    .await;
    let told = format!("{:?}", engine.top(By::Hits, 0).await.rules);
    assert!(
        told.contains("api_key=#") && told.contains("user=#"),
        "{told}"
    );
    assert!(!told.contains("s3cret") && !told.contains("xxx"), "{told}");
    let rules = engine.top(By::Hits, 0).await.rules;
    let mut rows = rules.iter().flat_map(|(.., summary)| &summary.rows);
    assert!(rows.all(|row| row.subject.len() <= MAX_SUBJECT));
}

/// Of many hits one of thirty-two is looked at.
#[tokio::test]
async fn of_many_hits_it_is_told_about_how_many_there_were() {
    let (engine, _) = engine(RULES);
    const MANY: u64 = 20_000;
    assert!(MANY > 10 * u64::from(EXACT));
    for _ in 0..MANY / 4 {
        for user in ["alice", "alice", "alice", "bob"] {
            ask(&engine, &[("user", user)]).await;
        }
    }
    let found = subjects(&engine, By::Hits, 0, "user").await;
    for ((name, hits), (wanted, share)) in
        found.iter().zip([("user=alice", 0.75), ("user=bob", 0.25)])
    {
        let off = *hits as f64 / (MANY as f64 * share) - 1.0;
        assert!(name == wanted && off.abs() < 0.25, "{name}: {hits}");
    }
}

#[tokio::test]
async fn of_too_many_rules_the_busiest_have_room() {
    let mut rules = "domain: d\ndescriptors:\n".to_owned();
    for rule in 0..=MAX_RULES {
        rules +=
            &format!("  - {{key: k{rule}, rate_limit: {{requests_per_unit: 9, unit: day}}}}\n");
    }
    let (engine, clock) = engine(&rules);
    let name = |rule: usize| format!("k{rule}");
    for rule in 0..MAX_RULES {
        ask(&engine, &[(&name(rule), "v")]).await;
        if rule > 0 {
            ask(&engine, &[(&name(rule), "v")]).await;
        }
    }
    ask(&engine, &[(&name(MAX_RULES), "v")]).await;
    engine.turn_top();
    assert_eq!(engine.top(By::Hits, 2).await.rules.len(), MAX_RULES);
    assert_eq!(subjects(&engine, By::Hits, 2, &name(MAX_RULES)).await, []);
    clock.advance(SLICE);
    engine.turn_top();
    // Some have made way, the one with a single hit first.
    assert_eq!(subjects(&engine, By::Hits, 2, &name(0)).await, []);
    ask(&engine, &[(&name(MAX_RULES), "late")]).await;
    let late = subjects(&engine, By::Hits, 2, &name(MAX_RULES)).await;
    assert_eq!(late, [("k256=late".to_owned(), 1)]);
    // Who has made way finds that its place is another's, and gets one of its own.
    ask(&engine, &[(&name(0), "again")]).await;
    ask(&engine, &[(&name(0), "again")]).await;
    let again = subjects(&engine, By::Hits, 2, &name(0)).await;
    assert_eq!(
        again,
        [("k0=again".to_owned(), 1)],
        "the first finds that out"
    );
}

fn top(http: SocketAddr, query: &str) -> Value {
    let path = format!("{PREFIX}/top{query}");
    let reply = send(http, "GET", &path, &[], "").expect("an answer");
    assert_eq!(reply.code, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).expect("JSON")
}

async fn hit(server: &Server, user: &str, times: usize) {
    let mut client = server.client().await;
    for _ in 0..times {
        let asked = request("d", &[&[("user", user)]]);
        client.should_rate_limit(asked).await.expect("an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_tells_of_all() {
    let mut redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let start = || {
        let setup = Setup::rules(RULES).env("REDIS_URL", &url);
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let (one, other) = (start(), start());
    hit(&one, "alice", 4).await;
    hit(&one, "bob", 1).await;
    hit(&other, "alice", 3).await;
    hit(&other, "carol", 2).await;
    for server in [&one, &other] {
        let told = poll::until("all instances to be told of", || {
            let told = top(server.http, "");
            (told["instances"][1].is_object() && told["rules"][0]["hits"] == 10).then_some(told)
        });
        let subject =
            |name: &str, hits: u64| json!({"subject": name, "hits": hits, "at_least": hits});
        assert_eq!(
            told["rules"][0]["subjects"],
            json!([
                subject("user=alice", 7),
                subject("user=carol", 2),
                subject("user=bob", 1)
            ])
        );
        assert_eq!(
            (&told["whole"], &told["by"]),
            (&json!(true), &json!("hits"))
        );
    }
    let refused = top(
        one.http,
        "?by=refused&limit=1&domain=d&rule=user&window=10m",
    );
    assert_eq!(refused["rules"][0]["subjects"][0]["subject"], "user=alice");
    assert_eq!(refused["rules"][0]["hits"], 4);
    assert_eq!(top(one.http, "?domain=another")["rules"], json!([]));
    // Without the others it still tells what it knows itself.
    redis.kill();
    poll::until("the store to be missed", || {
        let told = top(one.http, "");
        (told["whole"] == json!(false) && told["rules"][0]["hits"] == 5).then_some(())
    });
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let server = Setup::rules(RULES).start_ready();
    for query in [
        "?by=name",
        "?window=1h",
        "?limit=0",
        "?limit=21",
        "?limit=x",
    ] {
        let path = format!("{PREFIX}/top{query}");
        let reply = send(server.http, "GET", &path, &[], "").expect("an answer");
        assert_eq!(reply.code, 400, "{query}: {}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_instances_tell_is_bounded_and_forgotten() {
    let redis = redis::Server::start();
    let store = Store::Redis(Redis::connect(&redis.settings()).expect("settings"));
    let within = redis::CALL_TIMEOUT;
    let board = Board::new("");
    poll::until_async("the store", || async { store.ping().await.ok() }).await;
    for instance in 0..MAX_POSTS + 5 {
        let (name, text) = (
            instance.to_string(),
            Bytes::from(format!("text {instance}")),
        );
        let keep = Micros::from_secs(60 + instance as u64);
        let posted = store.post(&board, &name, &text, keep, within).await;
        posted.expect("written");
    }
    let posts = store.posts(&board, within).await.expect("texts");
    assert_eq!(posts.len(), MAX_POSTS);
    let newest = (68.to_string(), Bytes::from_static(b"text 68"));
    assert_eq!(posts[0], newest);
    let anew = Bytes::from_static(b"anew");
    let soon = Micros::new(1_000);
    let posted = store.post(&board, "68", &anew, soon, within).await;
    posted.expect("written");
    poll::until_async("what is past to be forgotten", || async {
        let posts = store.posts(&board, within).await.expect("texts");
        assert_eq!(posts.len(), MAX_POSTS, "all others hold");
        posts.iter().all(|(name, _)| name != "68").then_some(())
    })
    .await;
}
