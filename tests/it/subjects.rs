//! Plans, costs, bans, lists and grants, as a request meets them.

use serde_json::json;
use tollgate::directory::{Grant, Item, List, Standing};
use tollgate::engine::{Code, Reason, key};
use tollgate::rules::Entry;

use crate::support::service::{Service, header};

const PLANS: &str = "
domain: d
partition_by: [user]
costs:
  - {key: path, value: /compare, cost: 2}
  - {key: path, value: /half, cost: 0.5}
  - {key: path, value: /health*, cost: 0}
plans:
  free:
    - {name: minute, requests_per_unit: 4, unit: minute, algorithm: token_bucket, burst_multiplier: 1.5}
    - {name: month, requests_per_unit: 20, unit: month}
  pro:
    - {name: minute, requests_per_unit: 40, unit: minute, algorithm: token_bucket, burst_multiplier: 1.5}
    - {name: month, requests_per_unit: 100, unit: month}
  enterprise: unlimited
response: {headers: [retry-after, x-quota], messages: {banned: 'no, {retry_after} s', monthly_quota_exceeded: '{plan}: {limit} per {window}'}}
descriptors:
  - key: tier
    descriptors:
      - {key: user, plan: {from: tier, default: free}}
  - {key: user, plan: {from: directory, default: free}}
  - {key: path}
  - key: ip
    rate_limit: {requests_per_unit: 2, unit: second}
    ban: {after: 3, within: minute, for: 1m, max: 2m}
";

async fn change(service: &Service, user: &str, change: impl Fn(Standing) -> Standing) {
    let domain = tollgate::rules::Domain::named("d");
    let entry = Entry {
        key: "user",
        value: user,
    };
    let key = key::standing("", &domain, entry);
    let (directory, store) = (service.engine.directory(), service.engine.store());
    let changed = directory.change(store, &key, std::time::Duration::from_secs(1), change);
    changed.await.expect("changed");
}

async fn list(service: &Service, list: List, value: &str, secs: Option<i64>) {
    let now = service.engine.clock().now().as_micros();
    let item = Item {
        list,
        domain: "d".to_owned(),
        key: "ip".to_owned(),
        value: value.to_owned(),
        network: value.contains('/'),
        until: secs.map(|secs| now + secs * 1_000_000),
        note: String::new(),
        counter: None,
    };
    let (directory, store) = (service.engine.directory(), service.engine.store());
    let timeout = std::time::Duration::from_secs(1);
    let id = item.id();
    let set = directory.set_item(store, &id, Some(&item), timeout);
    set.await.expect("set");
}

#[tokio::test]
async fn the_plan_comes_from_an_entry_and_a_subject_that_moves_keeps_what_it_has_used() {
    let service = Service::new(PLANS);
    assert_eq!(service.say(&["tier=free,user=a +5"]).await, "ok 1");
    assert_eq!(service.say(&["tier=pro,user=a +5"]).await, "ok 50");
    assert_eq!(service.say(&["tier=free,user=a"]).await, "over 75");
    // A name that is no plan is the default.
    assert_eq!(service.say(&["tier=gold,user=b"]).await, "ok 5");
    let answer = service.ask(&["tier=enterprise,user=a +1000"]).await;
    assert_eq!(answer.statuses[0].remaining, u32::MAX);
    assert_eq!(header(&answer, "x-quota-tier"), Some("enterprise"));
}

#[tokio::test]
async fn the_directory_moves_subjects_gives_them_numbers_and_grants() {
    let service = Service::new(PLANS);
    let answer = service.ask(&["user=a +6"]).await;
    assert_eq!(header(&answer, "x-quota-tier"), Some("free"));
    assert_eq!(header(&answer, "x-quota-monthly-remaining"), Some("14"));
    assert_eq!(service.say(&["user=a"]).await, "over 15");
    change(&service, "a", |standing| Standing {
        plan: Some("pro".to_owned()),
        ..standing
    })
    .await;
    assert_eq!(service.say(&["user=a"]).await, "ok 53");
    change(&service, "a", |mut standing| {
        standing.limits.insert("month".to_owned(), 10);
        standing
    })
    .await;
    assert_eq!(service.say(&["user=a +3"]).await, "ok 0");
    let answer = service.ask(&["user=a"]).await;
    let body: serde_json::Value = serde_json::from_str(&answer.body.expect("a body")).unwrap();
    assert_eq!(body["error"], json!("monthly_quota_exceeded"));
    assert_eq!(body["message"], json!("pro: 10 per month"));
    let until = service.engine.clock().now().as_micros() + 90_000_000;
    change(&service, "a", move |mut standing| {
        let limit = "month".to_owned();
        standing.grants.push(Grant {
            limit,
            hits: 5,
            until,
        });
        standing
    })
    .await;
    assert_eq!(service.say(&["user=a +2"]).await, "ok 3");
    service.advance(90);
    assert_eq!(service.ask(&["user=a"]).await.overall, Code::OverLimit);
    // All of it ends by itself.
    change(&service, "a", move |standing| Standing {
        until: Some(until + 1_000_000),
        ..standing
    })
    .await;
    let answer = service.ask(&["user=a ?"]).await;
    assert_eq!(header(&answer, "x-quota-tier"), Some("pro"));
    service.advance(1);
    let answer = service.ask(&["user=a"]).await;
    assert_eq!(header(&answer, "x-quota-tier"), Some("free"));
    assert_eq!(header(&answer, "x-quota-monthly-remaining"), Some("8"));
}

#[tokio::test]
async fn a_message_with_nothing_to_say_is_tollgates_own() {
    let service = Service::new(PLANS);
    list(&service, List::Deny, "7", None).await;
    let answer = service.ask(&["ip=7"]).await;
    let body: serde_json::Value = serde_json::from_str(&answer.body.expect("a body")).unwrap();
    assert_eq!(body["message"], json!("Requests are refused for now."));
    // What is refused for its size has left the month as it was.
    let answer = service.ask(&["user=a +21"]).await;
    assert_eq!(answer.reason, Reason::NeverFits);
    assert_eq!(header(&answer, "x-quota-monthly-remaining"), Some("20"));
}

#[tokio::test]
async fn a_cost_multiplies_all_hits_and_none_exempts() {
    let service = Service::new(PLANS);
    assert_eq!(
        service.say(&["user=a +2", "path=/compare"]).await,
        "ok 2, ok 0"
    );
    assert_eq!(
        service.say(&["user=a +3", "path=/half"]).await,
        "ok 0, ok 0"
    );
    assert_eq!(service.say(&["user=a ?", "path=/half"]).await, "ok 0, ok 0");
    assert_eq!(service.say(&["user=a", "path=/half"]).await, "ok 0, ok 0");
    let answer = service.ask(&["user=a +100", "path=/healthz"]).await;
    assert_eq!((answer.overall, answer.reason), (Code::Ok, Reason::Exempt));
    assert_eq!(service.ask(&["user=a"]).await.overall, Code::OverLimit);
    let huge = format!("user=a +{}", u32::MAX);
    let rejected = service.try_ask(&[&huge, "path=/compare"]).await;
    assert!(rejected.is_err(), "more than can be counted");
}

#[tokio::test]
async fn refusals_ban_longer_each_time() {
    let service = Service::new(PLANS);
    assert_eq!(service.say(&["ip=1 +2"]).await, "ok 0");
    assert_eq!(service.say(&["ip=1"]).await, "over 1");
    // What asks is not refused, and what is given back neither.
    assert_eq!(service.say(&["ip=1 ?"]).await, "over 1");
    assert_eq!(service.say(&["ip=1"]).await, "over 1");
    let answer = service.ask(&["ip=1"]).await;
    assert_eq!(answer.reason, Reason::Banned);
    assert_eq!(header(&answer, "retry-after"), Some("60"));
    let body: serde_json::Value = serde_json::from_str(&answer.body.expect("a body")).unwrap();
    assert_eq!(
        (&body["error"], &body["message"]),
        (&json!("banned"), &json!("no, 60 s"))
    );
    service.advance(59);
    assert_eq!(service.say(&["ip=1"]).await, "over 1");
    assert_eq!(service.say(&["ip=2"]).await, "ok 1");
    service.advance(1);
    for lasts in [120, 120] {
        assert_eq!(service.say(&["ip=1 +2"]).await, "ok 0");
        for _ in 0..2 {
            assert_eq!(service.say(&["ip=1"]).await, "over 1");
        }
        assert_eq!(service.say(&["ip=1"]).await, format!("over {lasts}"));
        service.advance(lasts);
    }
}

#[tokio::test]
async fn a_ban_counts_what_other_limits_refuse() {
    let service = Service::new(
        "
domain: d
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 1, unit: hour}}
  - key: ip
    rate_limit: {requests_per_unit: 100, unit: second}
    ban: {after: 3, within: minute, for: 1h}
",
    );
    assert_eq!(service.say(&["user=a", "ip=1"]).await, "ok 0, ok 99");
    for _ in 0..3 {
        assert_eq!(service.say(&["user=a", "ip=1"]).await, "over 3600, ok 99");
    }
    assert_eq!(service.say(&["user=b", "ip=1"]).await, "ok 1, over 3600");
    assert_eq!(service.say(&["user=b", "ip=2"]).await, "ok 0, ok 99");
}

#[tokio::test]
async fn lists_let_through_refuse_and_end() {
    let service = Service::new(PLANS);
    list(&service, List::Deny, "10.0.0.0/8", Some(30)).await;
    list(&service, List::Allow, "10.1.0.0/16", None).await;
    list(&service, List::Allow, "11.0.0.1", None).await;
    let answer = service.ask(&["user=a", "ip=10.1.2.3"]).await;
    assert_eq!(
        (answer.overall, answer.reason),
        (Code::OverLimit, Reason::Denied)
    );
    assert_eq!(header(&answer, "retry-after"), Some("30"));
    assert_eq!(answer.statuses[0].code, Code::Ok);
    assert_eq!(answer.statuses[1].code, Code::OverLimit);
    // A refusal that no limit has made has charged none.
    assert_eq!(service.say(&["user=a ?"]).await, "ok 6");
    assert_eq!(
        service.ask(&["ip=11.0.0.1 +9"]).await.reason,
        Reason::Allowed
    );
    assert_eq!(
        service.ask(&["ip=11.0.0.2 +9"]).await.reason,
        Reason::NeverFits
    );
    service.advance(30);
    assert_eq!(
        service.ask(&["ip=10.1.2.3 +9"]).await.reason,
        Reason::Allowed
    );
    list(&service, List::Ban, "11.0.0.2", Some(5)).await;
    assert_eq!(service.ask(&["ip=11.0.0.2"]).await.reason, Reason::Banned);
}

/// Hits of many tasks while the subject is moved to and fro and is given more: what was admitted is what is used, and never
/// more than the largest limit that ever held.
async fn moving_under_load(store: impl FnOnce(tollgate::time::Clock) -> tollgate::store::Store) {
    const RULES: &str = "
domain: d
plans:
  free: [{name: day, requests_per_unit: 200, unit: day}]
  pro: [{name: day, requests_per_unit: 300, unit: day}]
descriptors:
  - key: user
    plan: {from: directory, default: free}
    ban: {after: 1000000, within: minute, for: 1h}
";
    let settings = tollgate::engine::Settings {
        store_timeout: std::time::Duration::from_secs(5),
        ..Default::default()
    };
    let service = std::sync::Arc::new(Service::with(RULES, settings, store));
    let hitting = (0..8).map(|_| {
        let service = std::sync::Arc::clone(&service);
        tokio::spawn(async move {
            let mut admitted = 0;
            for _ in 0..100 {
                let answer = service.ask(&["user=a"]).await;
                admitted += u64::from(answer.overall == Code::Ok);
            }
            admitted
        })
    });
    let hitting: Vec<_> = hitting.collect();
    for round in 0..40 {
        let plan = ["free", "pro"][round % 2];
        change(&service, "a", |mut standing| {
            standing.plan = Some(plan.to_owned());
            if round == 20 {
                let until = i64::MAX;
                let (limit, hits) = ("day".to_owned(), 50);
                standing.grants.push(Grant { limit, hits, until });
            }
            standing
        })
        .await;
    }
    let mut admitted = 0;
    for task in hitting {
        admitted += task.await.expect("no panic");
    }
    let others = std::collections::HashMap::new();
    let entry = Entry {
        key: "user",
        value: "a",
    };
    let accounts = service.engine.quota("d", entry, &others).await;
    let used = accounts.expect("an account")[0].limits[0].used.floor();
    assert_eq!(used, admitted, "no charge is lost, and none is made twice");
    // The last plan is pro, and the grant holds.
    while service.ask(&["user=a"]).await.overall == Code::Ok {
        admitted += 1;
    }
    assert_eq!(admitted, 350);
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_under_load_is_exact_on_the_embedded_store() {
    moving_under_load(|clock| {
        tollgate::store::Store::Embedded(tollgate::store::embedded::Embedded::new(1 << 16, clock))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_under_load_is_exact_on_redis() {
    let redis = crate::support::redis::Server::start();
    let store = redis.store().await;
    moving_under_load(|_| tollgate::store::Store::Redis(store)).await;
}

/// Those beyond are refused all the same, and made known with a later request.
#[tokio::test]
async fn no_more_bans_are_made_known_at_once_than_may_be() {
    const MAX_NOTING: usize = 64;
    let service = Service::new(PLANS);
    let meet = async |n: usize| {
        let descriptor = format!("ip=10.0.0.{n}");
        // The fifth begins the ban.
        for _ in 0..4 {
            service.ask(&[&descriptor]).await;
        }
        service.ask(&[&descriptor]).await.reason
    };
    let known = || service.engine.directory().lists().items().count();
    // Nothing here waits, so that none of them is made known before all are met.
    for n in 0..=MAX_NOTING {
        assert_eq!(meet(n).await, Reason::Banned);
    }
    crate::support::poll::until_async("the bans", async || (known() >= MAX_NOTING).then_some(()))
        .await;
    crate::support::poll::pause().await;
    assert_eq!(known(), MAX_NOTING);
    assert_eq!(meet(MAX_NOTING).await, Reason::Banned);
    crate::support::poll::until_async("the last ban", async || {
        (known() > MAX_NOTING).then_some(())
    })
    .await;
}
