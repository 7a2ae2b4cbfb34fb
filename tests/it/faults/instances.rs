//! Instances that are replaced or killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::gateway::Envoy;
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup};

const RULES: &str = "
domain: edge
descriptors:
  - key: user_id
    rate_limit: {name: user, requests_per_unit: 1500, unit: year}
";

/// How long an instance that is to stop is still asked by whoever has not yet heard.
const DRAIN_DELAY: &str = "4s";

fn instance(redis: &redis::Server) -> Setup {
    Setup::rules(RULES)
        .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
        .env("STORE_TIMEOUT", "5s")
        .env("DRAIN_DELAY", DRAIN_DELAY)
}

/// Two instances behind Envoy are replaced one after the other: no request fails, none passes unlimited, and each limit is
/// given out to the last request and no further.
#[test]
fn a_rolling_restart_behind_envoy() {
    let redis = redis::Server::start();
    let both = || {
        [
            instance(&redis).start_ready(),
            instance(&redis).start_ready(),
        ]
    };
    let before = both();
    let ports: Vec<u16> = before.iter().map(Server::grpc_port).collect();
    let envoy = Envoy::start("envoy.yaml", &[], &[&before[0], &before[1]]);
    let done = Arc::new(AtomicBool::new(false));
    let address = envoy.address;
    let load: Vec<_> = (0..6)
        .map(|n| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                let user = format!("user{}", n % 2);
                let (mut passed, mut refused, mut strange) = (0, 0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    let headers = [("x-api-key", user.as_str())];
                    match crate::support::http::send(address, "GET", "/", &headers, "") {
                        Some(reply) if reply.all("ratelimit-policy").is_empty() => {
                            strange.push(format!("not asked: {reply:?}"));
                        }
                        Some(reply) if reply.code == 200 => passed += 1,
                        Some(reply) if reply.code == 429 => refused += 1,
                        other => strange.push(format!("{other:?}")),
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                (passed, refused, strange)
            })
        })
        .collect();
    // Each new instance is on the port of the old one, as with a StatefulSet.
    let mut after = Vec::new();
    for (server, port) in before.into_iter().zip(ports) {
        server.signal("TERM");
        server.wait();
        let setup = instance(&redis).env("GRPC_PORT", &port.to_string());
        after.push(setup.start_ready());
        poll::until("Envoy to ask the new instance", || {
            (after.last()?.metric("ratelimit_service_total_requests") > 0.0).then_some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    let (mut passed, mut refused) = (0, 0);
    for caller in load {
        let (of_passed, of_refused, strange) = caller.join().expect("no panic");
        assert!(
            strange.is_empty(),
            "{} strange: {:?}",
            strange.len(),
            strange.first()
        );
        passed += of_passed;
        refused += of_refused;
    }
    super::tell(&format!(
        "a rolling restart: {passed} passed, {refused} refused"
    ));
    assert!(passed <= 3000, "{passed}");
    // Whatever was not given out yet, and no more.
    let mut left = 0;
    for user in ["user0", "user1"] {
        while envoy.get("/", &[("x-api-key", user)]).code == 200 {
            left += 1;
        }
    }
    assert_eq!(passed + left, 3000);
}

/// What an instance has reserved ahead of its requests is free again when the reservation ends, though it was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_takes_nothing_with_it_for_longer_than_the_window() {
    let redis = redis::Server::start();
    let rules = "
domain: d
descriptors:
  - {key: leased, rate_limit: {requests_per_unit: 1000, unit: second, unit_multiplier: 4, lease: 10%}}
";
    let setup = || {
        let url = format!("127.0.0.1:{}", redis.port);
        let setup = Setup::rules(rules).env("REDIS_URL", &url);
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let (killed, other) = (setup(), setup());
    let client = killed.client().await;
    let ask = || crate::support::server::request("d", &[&[("leased", "k")]]);
    poll::until_async("a lease", || {
        let (mut client, killed) = (client.clone(), &killed);
        async move {
            for _ in 0..20 {
                client.should_rate_limit(ask()).await.expect("an answer");
            }
            (killed.metric("tollgate_store_leased") > 0.0).then_some(())
        }
    })
    .await;
    killed.signal("KILL");
    killed.wait();
    let client = other.client().await;
    // In a window that begins later, all of it is there.
    let mut all = ask();
    all.hits_addend = 1000;
    poll::until_async("the whole limit to be there", || {
        let (mut client, all) = (client.clone(), all.clone());
        async move {
            let answer = client.should_rate_limit(all).await.expect("an answer");
            (answer.into_inner().overall_code == 1).then_some(())
        }
    })
    .await;
}
