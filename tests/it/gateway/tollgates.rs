//! The gateway and its Tollgates: several, some, none, far ones.

use std::time::{Duration, Instant};

use super::{RULES, Whole};
use crate::support::gateway::edited;
use crate::support::poll;
use crate::support::redis::Server as Redis;
use crate::support::server::{Server, Setup};

const FEW: (&str, &str) = (
    "name: anonymous, requests_per_unit: 30, unit: minute",
    "name: anonymous, requests_per_unit: 8, unit: year",
);

fn two() -> (Redis, Vec<Server>) {
    let redis = Redis::start();
    let start = || {
        Setup::rules(&edited(RULES, &[FEW]))
            .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
            .env("STORE_TIMEOUT", "5s")
            .start_ready()
    };
    let tollgates = vec![start(), start()];
    (redis, tollgates)
}

fn asked(tollgate: &Server) -> f64 {
    tollgate.metric("ratelimit_service_total_requests")
}

#[test]
fn all_of_them_keep_one_limit_and_one_that_is_gone_is_not_missed() {
    let (_redis, tollgates) = two();
    let mut whole = Whole::before(tollgates, &[]);
    for _ in 0..4 {
        assert_eq!(whole.code("/hello"), 200);
    }
    poll::until("both to be asked", || {
        assert_eq!(
            whole
                .get("/identify", &[("authorization", "")])
                .all("ratelimit")
                .len(),
            1
        );
        whole
            .tollgates
            .iter()
            .all(|tollgate| asked(tollgate) > 0.0)
            .then_some(())
    });
    poll::until("the limit", || (whole.code("/hello") == 429).then_some(()));
    drop(whole.tollgates.pop());
    poll::until("it to be left out", || {
        (whole.healthy("tollgate") == 1).then_some(())
    });
    for _ in 0..20 {
        let reply = whole.get("/hello", &[]);
        assert_eq!(reply.code, 429, "{reply:?}");
    }
}

#[test]
fn without_any_requests_pass_unless_they_must_not() {
    for (deny, code, reaches) in [("false", 200, 1), ("true", 500, 0)] {
        let deny = format!("failure_mode_deny: {deny}");
        let whole = Whole::alone(&[("failure_mode_deny: false", &deny)]);
        let reply = whole.get("/hello", &[]);
        assert_eq!(reply.code, code, "{deny}");
        assert_eq!(whole.asked().iter().sum::<usize>(), reaches, "{deny}");
        assert_eq!(whole.code("/health"), 200);
    }
}

/// With the committed 20 ms: a Tollgate that hangs holds nobody up.
#[test]
fn a_tollgate_that_hangs_costs_its_timeout_and_no_more() {
    let tollgate = Setup::rules(&edited(RULES, &[])).start_ready();
    // It stays a member: what is shown is the timeout of the call.
    let whole = Whole::as_committed(
        vec![tollgate],
        &[("unhealthy_threshold: 2\n", "unhealthy_threshold: 1000\n")],
    );
    whole.tollgates[0].signal("STOP");
    let errors = || whole.envoy.stat("cluster.api.ratelimit.error");
    let before = errors();
    for _ in 0..10 {
        let begun = Instant::now();
        let reply = whole.get("/hello", &[]);
        assert_eq!((reply.code, reply.all("ratelimit").len()), (200, 0));
        // 20 ms, and what a busy machine adds.
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    assert_eq!(errors() - before, 10);
    whole.tollgates[0].signal("CONT");
    poll::until("a decision", || {
        let reply = whole.get("/hello", &[]);
        (reply.all("ratelimit").len() == 1).then_some(())
    });
}

#[test]
fn those_of_the_own_zone_are_asked_first() {
    let (_redis, tollgates) = two();
    let gateway = "port_value: 10000}}}}]}\n\n  # The collector";
    let both = "port_value: 10000}}}}]}\n      - {locality: {zone: b}, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.2, port_value: 10000}}}}]}\n\n  # The collector";
    let whole = Whole::before(
        tollgates,
        &[
            ("min_cluster_size: 6", "min_cluster_size: 1"),
            (gateway, both),
        ],
    );
    let before: Vec<f64> = whole.tollgates.iter().map(asked).collect();
    for _ in 0..30 {
        assert_eq!(whole.get("/hello", &[]).all("ratelimit").len(), 1);
    }
    let after: Vec<f64> = whole.tollgates.iter().map(asked).collect();
    assert_eq!([after[0] - before[0], after[1] - before[1]], [30.0, 0.0]);
    assert!(
        whole
            .envoy
            .stat("cluster.tollgate.lb_zone_routing_all_directly")
            >= 30
    );
}
