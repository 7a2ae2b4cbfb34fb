//! Answers from templates are those that would be written, byte for byte; and there are no more templates than may be.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tollgate::engine::answer::shape::Shape;
use tollgate::engine::{Caller, Draft, ReferenceHeaders, Request, Settings, key};
use tollgate::grpc::wire;
use tollgate::rules::{Domain, Entry};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::faulty::{Fault, Faulty};
use tollgate::time::Micros;

use crate::support::rules::compile;
use crate::support::service::Service;

const RULES: &str = "
domain: d
response: {headers: HEADERS}
costs: [{key: none, value: 0, cost: 0}]
plans:
  free: [{requests_per_unit: 12, unit: minute}, {name: daily, requests_per_unit: 200, unit: day}]
  paid: [{name: minutely, requests_per_unit: 300, unit: minute}]
  open: unlimited
descriptors:
  - {key: user, rate_limit: {requests_per_unit: LIMIT, unit: minute}}
  - {key: bucket, rate_limit: {requests_per_unit: 20, unit: second, algorithm: token_bucket, burst: 40}}
  - {key: sliding, rate_limit: {requests_per_unit: 30, unit: minute, algorithm: sliding_window}}
  - key: both
    rate_limits:
      - {name: same, requests_per_unit: 30, unit: second}
      - {name: same, requests_per_unit: 400, unit: hour}
      - {requests_per_unit: 9, unit: minute}
  - {key: shadowed, shadow_mode: true, rate_limit: {requests_per_unit: 9, unit: minute}}
  - {key: quota, quota_mode: true, rate_limit: {requests_per_unit: 9, unit: minute}}
  - {key: detailed, detailed_metric: true, rate_limit: {requests_per_unit: 90, unit: minute}}
  - {key: a-key-so-long-that-its-policy-and-its-rule-and-all-that-is-told-of-them-take-lengths-of-more-than-a-byte-each-in-the-answer, rate_limit: {requests_per_unit: 1500, unit: minute}}
  - {key: replaces, rate_limit: {requests_per_unit: 90, unit: minute, replaces: [{name: same}]}}
  - {key: none, rate_limit: {unlimited: true}}
  - {key: plan, descriptors: [{key: of, plan: {from: plan, default: free}}, {key: for, plan: {from: plan, default: paid}}]}
  - {key: known, plan: {from: directory, default: paid}}
";

/// What may be asked for; the first are asked for most.
const KEYS: [&str; 18] = [
    "user=1",
    "user=2",
    "bucket=1",
    "both=1",
    "sliding=1",
    "plan=free,of=1",
    "plan=paid,for=1",
    "plan=open,of=1",
    "shadowed=1",
    "quota=1",
    "detailed=1",
    "detailed=2",
    "a-key-so-long-that-its-policy-and-its-rule-and-all-that-is-told-of-them-take-lengths-of-more-than-a-byte-each-in-the-answer=1",
    "known=1",
    "known=2",
    "replaces=1",
    "none=1",
    "none=0",
];

/// A service, and its link to a store.
fn service(random: &mut SmallRng) -> (Service, Arc<Faulty>) {
    let settings = Settings {
        reference_headers: random.random_bool(0.3).then(reference_headers),
        reference_metadata: random.random_bool(0.1),
        shadow_mode: random.random_bool(0.2),
        quota_mode: random.random_bool(0.1),
        ..Settings::default()
    };
    let mut link = None;
    let service = Service::with(&rules(random), settings, |clock| {
        let store = Arc::new(Store::Embedded(Embedded::new(1 << 16, clock)));
        let faulty = Arc::new(Faulty::new(store));
        link = Some(Arc::clone(&faulty));
        Store::Faulty(faulty)
    });
    (service, link.expect("a link"))
}

fn reference_headers() -> ReferenceHeaders {
    ReferenceHeaders {
        limit: "x-limit".to_owned(),
        remaining: "x-left".to_owned(),
        reset: "x-reset".to_owned(),
    }
}

/// Gives `known=1` another number of its own, or takes it.
async fn change(service: &Service, random: &mut SmallRng) {
    let entry = Entry {
        key: "known",
        value: "1",
    };
    let key = key::standing("", &Domain::named("d"), entry);
    let own = random
        .random_bool(0.7)
        .then(|| random.random_range(100..900));
    let (directory, store) = (service.engine.directory(), service.engine.store());
    let changed = directory.change(store, &key, Duration::from_secs(1), |mut standing| {
        standing.limits.clear();
        standing
            .limits
            .extend(own.map(|own| ("minutely".to_owned(), own)));
        standing
    });
    changed.await.expect("changed");
}

fn rules(random: &mut SmallRng) -> String {
    let headers = ["ratelimit", "retry-after", "x-ratelimit", "x-quota"];
    let share = [0.8, 0.5, 0.5, 0.1];
    let headers: Vec<&str> = headers
        .into_iter()
        .zip(share)
        .filter(|(_, share)| random.random_bool(*share))
        .map(|(header, _)| header)
        .collect();
    // Some cross where a field takes a byte less, and where a text does.
    let limit = [10, 103, 131, 16_390, 3_000_000_000_u32][random.random_range(0..5)];
    RULES
        .replace("HEADERS", &format!("[{}]", headers.join(", ")))
        .replace("LIMIT", &limit.to_string())
}

fn words(random: &mut SmallRng) -> Vec<String> {
    let count = [1, 1, 1, 1, 2, 3, 5, 20][random.random_range(0..8)];
    let descriptor = |_| {
        // Few are asked for often, so that templates are made of them.
        let key = random
            .random_range(0..KEYS.len())
            .min(random.random_range(0..KEYS.len()));
        let hits = ["", "", "", " +3", " -1", " ?"][random.random_range(0..6)];
        format!("{}{hits}", KEYS[key])
    };
    (0..count).map(descriptor).collect()
}

/// Asks, and tells whether the answer has a shape. The service would send what is written.
async fn ask(service: &Service, request: &Request<'_>) -> bool {
    let tell = |draft: &Draft<'_, '_, '_>| {
        let written = wire::framed(&draft.answer());
        assert_eq!(wire::framed_draft(draft), written, "{request:?}");
        draft.shape(&mut Shape::default())
    };
    let asked = service.engine.check_for(request, Caller::here(), tell);
    asked.await.expect("an answer")
}

/// Whatever the rules, the settings, the store and the directory say.
#[tokio::test]
async fn answers_from_templates_are_those_that_would_be_written() {
    let (mut asked, mut shaped) = (0, 0);
    for seed in 0..60 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (service, link) = service(&mut random);
        for _ in 0..10 {
            change(&service, &mut random).await;
            for _ in 0..40 {
                let words = words(&mut random);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                link.order(random.random_bool(0.1).then_some(Fault::Unreachable));
                asked += 1;
                shaped += u32::from(ask(&service, &Service::request(&words)).await);
                let pause = [0, 0, 0, 200_000, 3_000_000][random.random_range(0..5)];
                service.clock.advance(Micros::new(pause));
            }
            link.order(None);
            // The same names with other numbers.
            service.install(&rules(&mut random));
        }
    }
    assert!(shaped > asked / 3, "{shaped} of {asked}");
}

/// Numbers of the same length are told all along, and what else is told is another.
#[tokio::test]
async fn who_decides_and_who_refuses_is_part_of_a_shape() {
    const RULES: &str = "
domain: d
descriptors:
  - key: both
    rate_limits:
      - {name: fast, requests_per_unit: 4, unit: second}
      - {name: slow, requests_per_unit: 6, unit: minute}
  - {key: slow, rate_limit: {requests_per_unit: 6, unit: minute}}
  - {key: shadowed, shadow_mode: true, rate_limit: {requests_per_unit: 4, unit: second}}
  - {key: few, quota_mode: true, rate_limit: {requests_per_unit: 3, unit: minute}}
  - {key: many, quota_mode: true, rate_limit: {requests_per_unit: 90, unit: minute}}
";
    let settings = Settings {
        reference_headers: Some(reference_headers()),
        ..Settings::default()
    };
    let service = Service::with(RULES, settings, |clock| {
        Store::Embedded(Embedded::new(1 << 10, clock))
    });
    for words in [&["both=1"][..], &["slow=1", "shadowed=1"]] {
        // Both are fresh in seconds of one digit.
        service.advance(60 - 8);
        for _ in 0..6 {
            assert!(ask(&service, &Service::request(words)).await);
            service.advance(1);
        }
        service.advance(2);
    }
    for _ in 0..3 {
        for has_shape in [true, false] {
            let request = Service::request(&["few=1 +3", "many=1"]);
            assert_eq!(ask(&service, &request).await, has_shape);
        }
        service.advance(60);
    }
}

/// No limit tells them apart.
#[tokio::test]
async fn the_domain_is_part_of_a_shape() {
    let service = Service::new("domain: d\ndescriptors: [{key: user}]");
    let files = ["d", "e"].map(|domain| {
        let text = format!("domain: {domain}\ndescriptors: [{{key: user}}]");
        (format!("{domain}.yaml"), text)
    });
    service
        .engine
        .install(compile(&files, false).expect("rules"));
    for domain in ["d", "d", "d", "e", "d"] {
        let request = Request {
            domain,
            ..Service::request(&["user=1"])
        };
        assert!(ask(&service, &request).await);
    }
}

/// One is made of what is asked for twice in a row by its place; and however many limits there are, and however much they say, what is kept is bounded.
#[tokio::test]
async fn templates_are_made_of_what_comes_again_and_are_bounded() {
    let key = |number: usize| format!("key-{number}");
    let long = "long".repeat(200);
    let keys: Vec<String> = (0..3000).map(key).chain([long]).collect();
    let rule = |key: &String| {
        format!("  - {{key: {key}, rate_limit: {{requests_per_unit: 90, unit: minute}}}}\n")
    };
    let rules: String = keys.iter().map(rule).collect();
    let service = Service::new(&format!("domain: d\ndescriptors:\n{rules}"));
    let mut templates = wire::Templates::new();
    let mut ask = async |key: &str| {
        let words = format!("{key}=1");
        let tell = |draft: &Draft<'_, '_, '_>| {
            assert_eq!(templates.framed(draft), wire::framed(&draft.answer()));
            templates.count()
        };
        let request = Service::request(&[&words]);
        let asked = service.engine.check_for(&request, Caller::here(), tell);
        asked.await.expect("an answer")
    };
    let [first, .., long] = keys.as_slice() else {
        panic!("there are some");
    };
    for made in [0, 1, 1] {
        assert_eq!(ask(first).await, made);
    }
    for _ in 0..3 {
        assert_eq!(ask(long).await, 1, "it is too long");
    }
    for _ in 0..2 {
        for key in &keys {
            ask(key).await;
        }
    }
    assert!(ask(first).await < 100, "they are in each other's way");
    for key in &keys {
        ask(key).await;
        ask(key).await;
    }
    assert!((400..=512).contains(&ask(first).await));
}
