//! How many asked in the last minutes, as the page has it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate::admin::api::PREFIX;
use tollgate::engine::history::{MAX_RULES, SAMPLES};
use tollgate::engine::{Engine, Request, Settings};
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::rules::{Descriptor, Entry, RuleSet};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, Timestamp};

use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::server::Setup;

const RULES: &str = "
domain: d
plans:
  free:
    - {name: minute, requests_per_unit: 2, unit: minute}
    - {name: month, requests_per_unit: 1000, unit: month}
descriptors:
  - {key: user, plan: {from: directory, default: free}}
  - {key: ip, shadow_mode: true, rate_limit: {requests_per_unit: 1, unit: day}}
  - {key: free, rate_limit: {unlimited: true}}
";

fn rules(text: &str) -> RuleSet {
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text: text.to_owned(),
    }];
    compile(&files, Options::default()).expect("rules")
}

fn engine(text: &str) -> Engine {
    let (clock, _) = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let store = Store::Embedded(Embedded::new(1 << 16, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
    engine.install(rules(text));
    engine
}

async fn ask(engine: &Engine, key: &str, times: usize) {
    for _ in 0..times {
        let descriptor = Descriptor {
            entries: [Entry { key, value: "v" }].into_iter().collect(),
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
}

/// The last rates of a rule.
fn last(engine: &Engine, rule: &str) -> Option<[f64; 2]> {
    let shown = engine.history().shown();
    let found = shown.rules.iter().find(|((_, name), _)| **name == *rule);
    found.and_then(|(_, rates)| rates.last().copied())
}

#[tokio::test]
async fn rates_are_those_since_the_look_before() {
    let engine = engine(RULES);
    let begin = Instant::now();
    let look = |secs: u64| engine.look(begin + Duration::from_secs(secs));
    look(0);
    // Two limits of one plan are one request, and shadow mode refuses nothing.
    ask(&engine, "user", 6).await;
    ask(&engine, "ip", 2).await;
    ask(&engine, "free", 2).await;
    look(2);
    assert_eq!(last(&engine, "user"), Some([3.0, 2.0]));
    assert_eq!(last(&engine, "ip"), Some([1.0, 0.0]));
    let shown = engine.history().shown();
    assert_eq!(shown.all, [[5.0, 2.0]]);
    assert_eq!(shown.domains["d"], [[5.0, 2.0]]);
    assert_eq!(shown.without_store, [0.0]);

    // Rules that are loaded anew have the counters that they had.
    engine.install(rules(RULES));
    look(4);
    assert_eq!(last(&engine, "user"), Some([0.0, 0.0]));
    ask(&engine, "user", 4).await;
    look(8);
    assert_eq!(last(&engine, "user"), Some([1.0, 1.0]));
    for secs in 9..200 {
        look(secs);
    }
    let shown = engine.history().shown();
    assert_eq!(shown.all.len(), SAMPLES);
    assert!(shown.rules.values().all(|rates| rates.len() == SAMPLES));
}

#[tokio::test]
async fn rules_with_a_history_are_bounded_and_quiet_ones_make_way() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for rule in 0..=MAX_RULES {
        text += &format!("  - {{key: k{rule}, rate_limit: {{requests_per_unit: 9, unit: day}}}}\n");
    }
    let engine = engine(&text);
    let begin = Instant::now();
    let look = |secs: u64| engine.look(begin + Duration::from_secs(secs));
    look(0);
    for rule in 0..=MAX_RULES {
        ask(&engine, &format!("k{rule}"), 1).await;
    }
    look(1);
    assert_eq!(engine.history().shown().rules.len(), MAX_RULES);
    (2..100).for_each(look);
    for rule in 0..=MAX_RULES / 2 {
        ask(&engine, &format!("k{rule}"), 1).await;
    }
    look(100);
    look(101);
    let rules = engine.history().shown().rules;
    assert_eq!(rules.len(), MAX_RULES / 2 + 1);
}

/// The rates that the API tells, of a server that has just been asked.
#[test]
fn of_many_rules_those_that_are_asked_for_are_shown() {
    const MANY: usize = 600;
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for rule in 0..MANY {
        text += &format!("  - {{key: k{rule}, rate_limit: {{requests_per_unit: 9, unit: day}}}}\n");
    }
    let server = Setup::rules(&text).start_ready();
    let asked =
        json!({"domain": "d", "descriptors": [{"entries": [{"key": "k599", "value": "v"}]}]});
    send(server.http, "POST", "/json", &[], &asked.to_string()).expect("an answer");
    let overview = poll::until("the rule that was asked for", || {
        let reply = get(server.http, &format!("{PREFIX}/overview"));
        let overview: Value = serde_json::from_str(&reply.body).expect("JSON");
        let rules = overview["rules"].as_array().expect("rules").clone();
        assert_eq!(rules.len(), 500);
        (rules[499]["rule"]["name"] == "k599").then_some(overview)
    });
    assert_eq!(overview["rules_counted"], MANY);
    let rates = overview["rules"][499]["hits"]["asked"]
        .as_array()
        .expect("rates");
    assert!(rates.iter().any(|rate| rate.as_f64() > Some(0.0)));
    assert_eq!(overview["loads"]["failed"], Value::Null);
}
