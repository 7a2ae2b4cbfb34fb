//! What is answered while the store does not answer.

use std::time::{Duration, Instant};

use tollgate::engine::{Code, Reason, Settings};
use tollgate::store::Store;
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::{Kind, Settings as RedisSettings, Socket};

use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::{Server, connected};
use crate::support::service::Service;

mod owed;

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
  - {key: shadowed, shadow_mode: true, rate_limit: {requests_per_unit: 4, unit: hour}}
";

/// A service whose Redis is not there, one of two instances.
fn alone() -> Service {
    let redis = RedisSettings::parse(Kind::Single, Socket::Tcp, "127.0.0.1:1").expect("settings");
    let settings = Settings {
        instances: Some(2),
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

/// A server without a replica: what must be on one is decided by its failure mode, and all else by the store.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_replica_confirms_is_decided_by_its_failure_mode() {
    let rules = "
domain: d
descriptors:
  - {key: kept, rate_limit: {requests_per_unit: 9, unit: month, durability: replicated, failure_mode: deny}}
  - {key: usual, rate_limit: {requests_per_unit: 1000000, unit: month}}
";
    let server = Server::start();
    let mut redis = server.settings();
    // On a busy machine there is time left behind what the replicas have.
    let patience = Duration::from_millis(400);
    redis.timeout = patience;
    let settings = Settings {
        store_timeout: patience,
        ..Settings::default()
    };
    let store = connected(&redis).await;
    let service = Service::with(rules, settings, |_| Store::Redis(store));
    until_answered(&service, "usual=1 ?").await;
    crate::support::poll::until_async("an answer that is not confirmed", || async {
        let answer = service.ask(&["kept=1"]).await;
        assert_eq!(
            (answer.overall, answer.reason),
            (Code::OverLimit, Reason::FallbackDeny)
        );
        let text = service.metrics.encode();
        text.contains("kind=\"unconfirmed\"").then_some(())
    })
    .await;
    until_answered(&service, "usual=1").await;
    assert_eq!(service.engine.owed(), (0, 0));
}

/// The first of two instances admits alone while the store hangs; then both feel it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_without_the_store_is_charged_when_it_is_back() {
    let server = Server::start();
    let mut both = Vec::new();
    for _ in 0..2 {
        let store = connected(&server.settings()).await;
        both.push(Service::with(RULES, Settings::default(), |_| {
            Store::Redis(store)
        }));
    }
    let [one, other] = <[Service; 2]>::try_from(both).ok().expect("two");
    for service in [&one, &other] {
        until_answered(service, "both=2 ?").await;
    }
    server.signal("-STOP");
    // Until the breaker opens each call is sent, and may be executed yet: those count as charged.
    crate::support::poll::until_async("the breaker to open", || async {
        one.ask(&["allow=1"]).await;
        one.metrics
            .encode()
            .contains("kind=\"breaker_open\"")
            .then_some(())
    })
    .await;
    assert_eq!(one.engine.owed(), (0, 0));
    assert_eq!(one.ask(&["local=1 +3"]).await.reason, Reason::FallbackLocal);
    assert_eq!(
        one.say(&["local=1 +2"]).await.split(' ').next(),
        Some("over")
    );
    assert_eq!(one.ask(&["both=1"]).await.reason, Reason::FallbackLocal);
    // What has no room in a shadow is not charged, now or later.
    assert_eq!(one.ask(&["shadowed=1 +5"]).await.overall, Code::Ok);
    // All but what went to look whether the breaker still holds.
    assert!(one.engine.owed().0 > 0);
    server.signal("-CONT");
    let settling = async {
        until_answered(&other, "local=1 ?").await;
        crate::support::poll::until_async("all to be settled", || async {
            (one.engine.owed().0 == 0).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = one.engine.pay_owed() => unreachable!("it never ends"),
        () = settling => {}
    }
    for service in [&one, &other] {
        assert_eq!(left(service, "local=1 ?").await, 1);
        assert_eq!(left(service, "both=1 ?").await, 1);
        assert_eq!(left(service, "shadowed=1 ?").await, 4);
    }
    assert_eq!(one.engine.owed().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_count_themselves() {
    let server = Server::start();
    let mut all = Vec::new();
    for _ in 0..3 {
        let store = connected(&server.settings()).await;
        all.push(Service::with(RULES, Settings::default(), |_| {
            Store::Redis(store)
        }));
    }
    let present = all.iter().map(|service| service.engine.be_present());
    let counted = |wanted: u32| {
        let all = &all;
        async move {
            crate::support::poll::until_async("the instances to be counted", || async {
                let counts = all.iter().map(|service| service.engine.instances());
                counts.eq([wanted; 3]).then_some(())
            })
            .await;
        }
    };
    tokio::select! {
        _ = futures::future::join_all(present) => unreachable!("it never ends"),
        () = counted(3) => {}
    }
    all[2].engine.leave().await.expect("an answer");
    let staying = all[..2].iter().map(|service| service.engine.be_present());
    tokio::select! {
        _ = futures::future::join_all(staying) => unreachable!("it never ends"),
        () = counted(2) => {}
    }
}

/// What is left as the store says, which may be too slow the first time.
async fn left(service: &Service, descriptor: &str) -> u32 {
    crate::support::poll::until_async("an answer of the store", || async {
        let answer = service.ask(&[descriptor]).await;
        let by_store = answer.reason == Reason::WithinLimit;
        by_store.then(|| answer.statuses[0].remaining)
    })
    .await
}

async fn until_answered(service: &Service, descriptor: &str) {
    crate::support::poll::until_async("an answer of the store", || async {
        (service.ask(&[descriptor]).await.reason == Reason::WithinLimit).then_some(())
    })
    .await;
}

/// What was owed was sent to find out whether the store answers, and then counted as charged.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_is_not_risked_on_a_store_that_is_silent() {
    let server = Server::start();
    let proxy = Proxy::to(server.port, 1);
    let url = format!("127.0.0.1:{}", proxy.port);
    let mut settings = RedisSettings::parse(Kind::Single, Socket::Tcp, &url).expect("settings");
    settings.connect_timeout = Duration::from_secs(1);
    let store = connected(&settings).await;
    let service = Service::with(RULES, Settings::default(), |_| Store::Redis(store));
    until_answered(&service, "both=2 ?").await;
    let (requests, replies) = (true, true);
    proxy.order(Fault::Swallow { requests, replies });
    crate::support::poll::until_async("the breaker to open", || async {
        service.ask(&["allow=1"]).await;
        let text = service.metrics.encode();
        text.contains("kind=\"breaker_open\"").then_some(())
    })
    .await;
    crate::support::poll::until_async("something to be owed", || async {
        service.ask(&["local=1 +1"]).await;
        (service.engine.owed().0 > 0).then_some(())
    })
    .await;
    let settling = async {
        // Nobody else asks now. It is looked for longer than a payment is waited for.
        crate::support::poll::hold(Duration::from_millis(2500)).await;
        proxy.order(Fault::None);
        proxy.reset();
        until_answered(&service, "both=2 ?").await;
        crate::support::poll::until_async("all to be settled", || async {
            (service.engine.owed() == (0, 1)).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = service.engine.pay_owed() => unreachable!("it never ends"),
        () = settling => {}
    }
    assert_eq!(left(&service, "local=1 ?").await, 3);
}
