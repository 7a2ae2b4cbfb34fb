//! What is answered while the store does not answer.

use std::time::{Duration, Instant};

use tollgate::engine::{Code, Reason, Settings};
use tollgate::store::Store;
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::{Kind, Settings as RedisSettings, Socket};

use crate::support::redis::{Server, connected};
use crate::support::service::Service;

const RULES: &str = "
domain: d
descriptors:
  - {key: allow, rate_limit: {requests_per_unit: 1, unit: hour, failure_mode: allow}}
  - {key: deny, rate_limit: {requests_per_unit: 1, unit: hour, failure_mode: deny}}
  - {key: local, rate_limit: {requests_per_unit: 4, unit: hour}}
  - key: both
    rate_limits:
      - {requests_per_unit: 4, unit: hour, failure_mode: allow}
      - {requests_per_unit: 2, unit: day}
  - {key: denied_quota, quota_mode: true, rate_limit: {requests_per_unit: 9, unit: hour, failure_mode: deny}}
  - {key: local_quota, quota_mode: true, rate_limit: {requests_per_unit: 2, unit: hour}}
";

/// A service whose Redis is not there, one of two instances.
fn alone() -> Service {
    let redis = RedisSettings::parse(Kind::Single, Socket::Tcp, "127.0.0.1:1").expect("settings");
    let settings = Settings {
        instances: 2,
        ..Settings::default()
    };
    Service::with(RULES, settings, |_| {
        Store::Redis(Redis::connect(&redis).expect("settings"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_has_its_own_way() {
    let service = alone();
    for _ in 0..5 {
        let answer = service.ask(&["allow=1"]).await;
        assert_eq!(
            (answer.overall, answer.reason),
            (Code::Ok, Reason::FallbackAllow)
        );
    }
    let answer = service.ask(&["deny=1"]).await;
    assert_eq!(
        (answer.overall, answer.reason),
        (Code::OverLimit, Reason::FallbackDeny)
    );
    // The share of one of two instances is half the limit.
    assert_eq!(service.say(&["local=1"]).await, "ok 1");
    assert_eq!(
        service.say(&["local=1", "deny=1"]).await,
        "ok 1, over 1",
        "what is denied charges nothing"
    );
    assert_eq!(service.say(&["local=1"]).await, "ok 0");
    assert!(service.say(&["local=1"]).await.starts_with("over "));
    assert_eq!(service.ask(&["both=1"]).await.overall, Code::Ok);
    assert_eq!(service.ask(&["both=1"]).await.overall, Code::OverLimit);
    assert_eq!(service.ask(&["unruled=1"]).await.reason, Reason::NoRule);
    let text = service.metrics.encode();
    assert!(
        text.contains("tollgate_fallbacks{reason=\"fallback_allow\"} 5\n"),
        "{text}"
    );
    assert!(
        text.contains("tollgate_store_errors{kind=\"unreachable\"}"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_not_denied() {
    let service = alone();
    for descriptors in [&["deny=1 -1"][..], &["deny=1 -1", "local=1"]] {
        let answer = service.ask(descriptors).await;
        assert_eq!(answer.overall, Code::Ok, "{descriptors:?}");
    }
    let answer = service.ask(&["deny=1 -1", "deny=2"]).await;
    let codes: Vec<Code> = answer.statuses.iter().map(|status| status.code).collect();
    assert_eq!(codes, [Code::Ok, Code::OverLimit]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_denied_gives_nothing_back() {
    let service = alone();
    assert_eq!(service.say(&["local=1 +2"]).await, "ok 0");
    let answer = service.ask(&["local=1 -2", "deny=1"]).await;
    assert_eq!(answer.overall, Code::OverLimit);
    assert!(service.say(&["local=1"]).await.starts_with("over "));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_that_refuse_together_leave_the_other_limits_as_they_are() {
    let service = alone();
    let request = ["denied_quota=1", "local_quota=1", "local=1"];
    assert_eq!(service.ask(&request).await.overall, Code::Ok);
    for _ in 0..5 {
        let answer = service.ask(&request).await;
        assert_eq!(answer.overall, Code::OverLimit);
    }
    assert_eq!(service.say(&["local=1"]).await, "ok 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_not_waited_for() {
    let server = Server::start();
    let store = connected(&server.settings()).await;
    let service = Service::with(RULES, Settings::default(), |_| Store::Redis(store));
    // However busy the machine, the first answer comes from the store in the end.
    crate::support::poll::until_async("an answer of the store", || async {
        (service.ask(&["local=0 ?"]).await.reason == Reason::WithinLimit).then_some(())
    })
    .await;
    server.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(
            service.ask(&["allow=1"]).await.reason,
            Reason::FallbackAllow
        );
    }
    // Twenty times 10 ms, on a busy machine; the server would hang for ever.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    server.signal("-CONT");
    crate::support::poll::until_async("the store to be back", || async {
        (service.ask(&["local=1 ?"]).await.reason == Reason::WithinLimit).then_some(())
    })
    .await;
}
