//! A capture of a service on Redis: what came one after the other agrees. What was under way at the same time, or at the edge of a
//! window, need not (`docs/replay.md`).

use tempfile::TempDir;

use super::{finish, report};
use crate::support::redis::Server as Redis;
use crate::support::server::{Setup, request};

const RULES: &str = "
domain: edge
costs: [{key: path, value: /dear, cost: 2.5}]
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 20, unit: year}}
  - key: path
    descriptors:
      - {key: user, rate_limits: [{requests_per_unit: 11, unit: year}, {requests_per_unit: 100, unit: month}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn what_came_one_after_the_other_on_redis_agrees() {
    let redis = Redis::start();
    let dir = TempDir::new().expect("a directory");
    let capture = dir.path().join("capture");
    let url = format!("127.0.0.1:{}", redis.port);
    let server = Setup::rules(RULES)
        .env("RECORD", &capture.display().to_string())
        .env("REDIS_URL", &url)
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    let mut client = server.client().await;
    for number in 0..150 {
        let user = ["a", "b", "c"][number % 3];
        let path = if number % 4 == 0 { "/dear" } else { "/" };
        let asked = request(
            "edge",
            &[&[("user", user)], &[("path", path), ("user", user)]],
        );
        client.should_rate_limit(asked).await.expect("an answer");
    }
    finish(server);
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules).expect("a directory");
    std::fs::write(rules.join("edge.yaml"), RULES).expect("a file");
    let report = report(&rules, &capture, &[]);
    assert_eq!(report["traffic"]["store"], "redis");
    let compared = &report["compared"];
    assert_eq!(compared["agree"], 150, "{report:#}");
    assert_eq!(compared["agree_and_told_otherwise"], 0, "{report:#}");
    assert!(
        compared["refused_now"].as_u64().is_some_and(|now| now > 50),
        "{report:#}"
    );
    assert_eq!(
        report["may_differ"]["decided_without_the_store"], 0,
        "{report:#}"
    );
}
