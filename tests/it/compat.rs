//! What it means that a rule file of envoyproxy/ratelimit works unchanged: its behaviour as data, in `tests/compat`.
//!
//! `cases.yaml` is the reference's behaviour, `differences.yaml` what stands in its place where Tollgate is meant to differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_yaml::Value;
use tollgate::engine::{self, Answer, Code, Engine, ReferenceHeaders, Rejection, Request};
use tollgate::limit::Unit;
use tollgate::rules::{Descriptor, Entry, Override};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, ManualClock, Micros, Timestamp};

use crate::support::redis::{Server, cluster, connected};
use crate::support::rules::compile;

/// One case with its differences laid over.
struct Case {
    id: String,
    body: Value,
    configs: Value,
}

fn cases() -> Vec<Case> {
    let read = |name: &str| {
        let path = format!("{}/tests/compat/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect(&path);
        serde_yaml::from_str::<Value>(&text).expect(&path)
    };
    let (reference, differences) = (read("cases.yaml"), read("differences.yaml"));
    let mut found = 0;
    let cases = reference["cases"]
        .as_sequence()
        .expect("cases")
        .iter()
        .map(|case| {
            let id = case["id"].as_str().expect("an id").to_owned();
            let mut body = case.clone();
            if let Some(difference) = differences.get(&id) {
                found += 1;
                for (key, value) in difference.as_mapping().expect("a mapping") {
                    body[key] = value.clone();
                }
            }
            Case {
                id,
                body,
                configs: reference["configs"].clone(),
            }
        });
    let cases = cases.collect();
    assert_eq!(
        found,
        differences.as_mapping().expect("a mapping").len(),
        "a difference of no case"
    );
    cases
}

impl Case {
    /// The rule files: name and text.
    fn files(&self) -> Vec<(String, String)> {
        let text = |name: &str| self.configs[name].as_str().expect(name).to_owned();
        let list = self.body["config"].as_sequence().expect("config");
        let file = |item: &Value| match item.as_str() {
            Some(name) => (format!("{name}.yaml"), text(name)),
            None => {
                let file = item["file"].as_str().expect("a file").to_owned();
                let yaml = item["yaml"].as_str().map(str::to_owned);
                (
                    file,
                    yaml.unwrap_or_else(|| text(item["use"].as_str().expect("a name"))),
                )
            }
        };
        list.iter().map(file).collect()
    }

    fn env(&self) -> BTreeMap<String, String> {
        let pairs = self.body["env"].as_mapping().into_iter().flatten();
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        pairs.map(|(key, value)| (text(key), text(value))).collect()
    }

    fn settings(&self) -> engine::Settings {
        let env = self.env();
        let on = |name: &str| env.get(name).is_some_and(|value| value == "true");
        let text = |name: &str, default: &str| env.get(name).cloned().unwrap_or(default.to_owned());
        engine::Settings {
            stop_increment: Some(on("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT")),
            shadow_mode: on("SHADOW_MODE"),
            quota_mode: on("QUOTA_MODE"),
            near_limit_ratio: text("NEAR_LIMIT_RATIO", "0.8").parse().expect("a ratio"),
            reference_headers: on("LIMIT_RESPONSE_HEADERS_ENABLED").then(|| ReferenceHeaders {
                limit: text("LIMIT_LIMIT_HEADER", "RateLimit-Limit"),
                remaining: text("LIMIT_REMAINING_HEADER", "RateLimit-Remaining"),
                reset: text("LIMIT_RESET_HEADER", "RateLimit-Reset"),
            }),
            reference_metadata: on("RESPONSE_DYNAMIC_METADATA"),
            // Stores are shared by the cases.
            key_prefix: format!("{}:", self.id),
            store_timeout: std::time::Duration::from_secs(5),
            ..engine::Settings::default()
        }
    }

    /// Whether the case is one that this runner can play: the others are about processes, sockets and real time.
    fn playable(&self) -> bool {
        !self.body["steps"].is_null()
    }
}

/// A service under one case.
struct Play {
    engine: Engine,
    clock: ManualClock,
    metrics: Arc<Metrics>,
    reference_headers: [String; 3],
}

impl Play {
    async fn new(case: &Case, store: impl AsyncFn(Clock) -> Store) -> Self {
        let now = case.body["now"].as_i64().unwrap_or(1_000_000);
        let (clock, handle) = Clock::manual(Timestamp::from_secs(now));
        let metrics = Metrics::new();
        let settings = case.settings();
        let names = settings
            .reference_headers
            .clone()
            .map(|names| [names.limit, names.remaining, names.reset]);
        let engine = Engine::new(
            store(clock.clone()).await,
            settings,
            clock,
            Arc::clone(&metrics),
        );
        let merge = case
            .env()
            .get("MERGE_DOMAIN_CONFIG")
            .is_some_and(|value| value == "true");
        engine.install(compile(&case.files(), merge).expect("the rules are good"));
        let default =
            ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"].map(str::to_owned);
        Self {
            engine,
            clock: handle,
            metrics,
            reference_headers: names.unwrap_or(default),
        }
    }

    async fn steps(&self, case: &Case) {
        let mut before = None;
        for (index, step) in case.body["steps"]
            .as_sequence()
            .expect("steps")
            .iter()
            .enumerate()
        {
            let prelude = step["prelude"].as_bool().unwrap_or(false);
            if !prelude && before.is_none() {
                before = Some(self.metrics.encode());
            }
            self.clock
                .advance(Micros::from_secs(step["advance_s"].as_u64().unwrap_or(0)));
            for turn in 0..step["repeat"].as_i64().unwrap_or(1) {
                let place = format!("{}, step {index}, turn {turn}", case.id);
                let answer = self.ask(&step["request"]).await;
                if !prelude {
                    self.compare(&place, &step["expect"], answer, turn);
                }
            }
        }
        let counters = case.body["after"]["counters"].as_mapping();
        let (before, after) = (before.unwrap_or_default(), self.metrics.encode());
        for (name, wanted) in counters.into_iter().flatten() {
            let name = name.as_str().expect("a name");
            let found = counter(&after, name) - counter(&before, name);
            assert_eq!(Some(found), wanted.as_f64(), "{}: {name}\n{after}", case.id);
        }
    }

    async fn ask(&self, request: &Value) -> Result<Answer<'static>, Rejection> {
        let descriptors = request["descriptors"].as_sequence().expect("descriptors");
        let request = Request {
            domain: request["domain"].as_str().expect("a domain"),
            hits_addend: request["hits_addend"].as_u64().unwrap_or(0) as u32,
            descriptors: descriptors.iter().map(descriptor).collect(),
        };
        self.engine
            .check(&request, Instant::now(), None, |answer| answer.owned())
            .await
    }

    fn compare(
        &self,
        place: &str,
        expect: &Value,
        answer: Result<Answer<'static>, Rejection>,
        turn: i64,
    ) {
        if let Some(error) = expect["grpc_error"].as_mapping() {
            let rejection = answer.expect_err(place);
            assert_eq!(
                Some(rejection.to_string().as_str()),
                error["message"].as_str(),
                "{place}"
            );
            return;
        }
        let answer = answer.expect(place);
        assert_eq!(
            code(answer.overall),
            expect["overall"].as_str().expect("overall"),
            "{place}: {answer:?}"
        );
        let statuses = expect["statuses"].as_sequence().expect("statuses");
        assert_eq!(answer.statuses.len(), statuses.len(), "{place}");
        for (status, wanted) in answer.statuses.iter().zip(statuses) {
            let place = format!("{place}: {wanted:?}, found {status:?}");
            assert_eq!(Some(code(status.code)), wanted["code"].as_str(), "{place}");
            if let Some(remaining) = wanted["remaining"].as_i64() {
                let step = wanted["remaining_step"].as_i64().unwrap_or(0);
                assert_eq!(
                    i64::from(status.remaining),
                    remaining + turn * step,
                    "{place}"
                );
            }
            if let Some(reset) = wanted["reset_s"].as_u64() {
                assert_eq!(status.reset_secs, Some(reset), "{place}");
            }
            compare_limit(&place, wanted, status.limit.as_ref());
        }
        if let Some(headers) = expect["headers"].as_sequence() {
            self.compare_headers(place, headers, &answer);
        }
        if !expect["dynamic_metadata"].is_null() {
            let found = serde_yaml::to_value(&answer.metadata).expect("metadata");
            assert_eq!(found, expect["dynamic_metadata"], "{place}");
        }
    }

    /// The reference's headers are exactly these; others, which it does not have, may stand beside them.
    fn compare_headers(&self, place: &str, wanted: &[Value], answer: &Answer<'_>) {
        let wanted: Vec<(&str, &str)> = wanted
            .iter()
            .map(|pair| {
                (
                    pair[0].as_str().expect("a name"),
                    pair[1].as_str().expect("a value"),
                )
            })
            .collect();
        let found: Vec<(&str, &str)> = answer
            .headers
            .iter()
            .filter(|header| {
                self.reference_headers
                    .iter()
                    .any(|name| *name == header.name)
            })
            .map(|header| (&*header.name, &*header.value))
            .collect();
        assert_eq!(found, wanted, "{place}");
    }
}

fn descriptor(value: &Value) -> Descriptor<'_> {
    let entries = value["entries"].as_sequence().expect("entries").iter();
    let limit = value["limit"].as_mapping().map(|limit| Override {
        requests_per_unit: limit["requests_per_unit"].as_u64().expect("a number") as u32,
        unit: limit["unit"]
            .as_str()
            .and_then(|unit| unit.parse::<Unit>().ok())
            .expect("a unit"),
    });
    Descriptor {
        entries: entries
            .map(|pair| Entry {
                key: pair[0].as_str().expect("a key"),
                value: pair[1].as_str().expect("a value"),
            })
            .collect(),
        hits_addend: value["hits_addend"].as_u64(),
        is_negative_hits: false,
        limit,
    }
}

fn compare_limit(place: &str, wanted: &Value, found: Option<&engine::CurrentLimit<'_>>) {
    let Some(limit) = wanted.get("limit") else {
        return;
    };
    if limit.is_null() {
        assert_eq!(found, None, "{place}");
        return;
    }
    let found = found.expect(place);
    if let Some(number) = limit["requests_per_unit"].as_u64() {
        assert_eq!(u64::from(found.requests_per_unit), number, "{place}");
    }
    if let Some(unit) = limit["unit"].as_str() {
        assert!(found.unit.name().eq_ignore_ascii_case(unit), "{place}");
    }
    if let Some(name) = limit["name"].as_str() {
        assert_eq!(found.name.as_deref().unwrap_or_default(), name, "{place}");
    }
}

fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::OverLimit => "OVER_LIMIT",
    }
}

/// The value of the counter that has this name in the reference; 0 if there is none.
fn counter(metrics: &str, name: &str) -> f64 {
    const RULES: &str = "ratelimit.service.rate_limit.";
    let line = match name
        .strip_prefix(RULES)
        .map(|rest| rest.split_once('.').expect("a domain"))
    {
        Some((domain, "domain_not_found")) => {
            format!("ratelimit_service_rate_limit_domain_not_found{{domain=\"{domain}\"}} ")
        }
        Some((domain, rest)) => {
            let (rule, stat) = rest.rsplit_once('.').expect("a rule");
            format!("ratelimit_service_rate_limit_{stat}{{domain=\"{domain}\",rule=\"{rule}\",")
        }
        None if name.ends_with("service_error") => {
            "ratelimit_service_should_rate_limit_error{err_type=\"service_error\"} ".to_owned()
        }
        None => format!("{} ", name.replace('.', "_")),
    };
    let found = metrics.lines().find(|found| found.starts_with(&line));
    let value = found.and_then(|found| found.rsplit(' ').next());
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Plays every case that can be played, each on a store of its own or apart by its keys.
async fn play_all(store: impl AsyncFn(Clock) -> Store) {
    let mut played = 0;
    for case in cases().iter().filter(|case| case.playable()) {
        Play::new(case, &store).await.steps(case).await;
        played += 1;
    }
    assert!(played > 50, "only {played} cases were played");
}

#[tokio::test]
async fn every_case_passes_on_the_embedded_store() {
    play_all(async |clock| Store::Embedded(Embedded::new(1 << 16, clock))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_on_redis() {
    let server = Server::start();
    play_all(async |_| Store::Redis(connected(&server.settings()).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_with_a_redis_of_their_own_for_limits_per_second() {
    let (server, second) = (Server::start(), Server::start());
    let mut settings = server.settings();
    settings.per_second = Some(Box::new(second.settings()));
    play_all(async |_| Store::Redis(connected(&settings).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_on_a_redis_cluster() {
    let settings = cluster::shared();
    play_all(async |_| Store::Redis(connected(&settings).await)).await;
}

#[test]
fn every_file_that_the_reference_rejects_is_rejected_with_its_name() {
    let mut rejected = 0;
    for case in cases().iter().filter(|case| case.body["rejected"] == true) {
        let files = case.files();
        let report = compile(&files, false).expect_err(&case.id);
        assert!(report.contains(&files[0].0), "{}: {report}", case.id);
        rejected += 1;
    }
    assert!(rejected >= 10, "only {rejected} files were tried");
}
