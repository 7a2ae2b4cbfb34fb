//! Circuits that open and close again: ejection, thresholds, retries and their budget.

use std::thread;

use super::Whole;
use crate::support::http::send;
use crate::support::poll;

/// Ejections end soon enough for a test.
const SHORT: [(&str, &str); 2] = [
    ("base_ejection_time: 60s", "base_ejection_time: 0.5s"),
    ("max_ejection_time: 300s", "max_ejection_time: 1s"),
];

/// Each answer is the upstream's own.
const NO_RETRIES: (&str, &str) = ("num_retries: 2", "num_retries: 0");

fn ejections(whole: &Whole) -> u64 {
    whole
        .envoy
        .stat("cluster.api.outlier_detection.ejections_active")
}

fn ever_ejected(whole: &Whole) -> u64 {
    whole
        .envoy
        .stat("cluster.api.outlier_detection.ejections_enforced_total")
}

/// Sends writes, which are not repeated, until one upstream has been asked so often.
fn until_asked(whole: &Whole, upstream: usize, times: usize) {
    poll::until("the upstream to be asked", || {
        whole.send("POST", "/", &[]);
        (whole.upstreams[upstream].asked() >= times).then_some(())
    });
}

#[test]
fn the_committed_numbers_are_those_that_are_told() {
    let config: serde_yaml::Value =
        serde_yaml::from_str(&crate::support::gateway::edited("envoy/gateway.yaml", &[]))
            .expect("YAML");
    let clusters = config["static_resources"]["clusters"]
        .as_sequence()
        .expect("clusters");
    for name in ["api", "docs", "chat", "next"] {
        let cluster = clusters
            .iter()
            .find(|cluster| cluster["name"] == *name)
            .expect(name);
        let outliers = &cluster["outlier_detection"];
        assert_eq!(outliers["consecutive_5xx"], 5);
        assert_eq!(outliers["consecutive_local_origin_failure"], 5);
        assert_eq!(outliers["base_ejection_time"], "60s");
        assert!(cluster["health_checks"][0]["http_health_check"].is_mapping());
        assert!(cluster["circuit_breakers"]["thresholds"][0]["retry_budget"].is_mapping());
    }
}

/// Closed, open after five failures, tried again after the ejection, open again, closed.
#[test]
fn an_upstream_that_fails_is_left_alone_tried_again_and_taken_back() {
    let whole = Whole::alone(&SHORT);
    let sick = &whole.upstreams[1];
    until_asked(&whole, 1, 1);
    assert_eq!(ever_ejected(&whole), 0);
    let before = sick.asked();
    sick.answer(500);
    for time in [1, 2] {
        poll::until("the ejection", || {
            whole.send("POST", "/", &[]);
            (ever_ejected(&whole) == time as u64).then_some(())
        });
        assert_eq!(sick.asked(), before + 5 * time, "no sooner and no later");
    }
    sick.answer(200);
    poll::until("the end of the ejection", || {
        (ejections(&whole) == 0).then_some(())
    });
    let asked = sick.asked();
    until_asked(&whole, 1, asked + 20);
    assert_eq!(ever_ejected(&whole), 2);
}

/// That the process lives does not say that it works.
#[test]
fn a_passed_health_check_does_not_end_an_ejection() {
    let whole = Whole::alone(&[]);
    let sick = &whole.upstreams[0];
    sick.answer(500);
    poll::until("the ejection", || {
        whole.send("POST", "/", &[]);
        (ejections(&whole) == 1).then_some(())
    });
    sick.answer(200);
    let asked = sick.asked();
    let checks = || whole.envoy.stat("cluster.api.health_check.success");
    let passed = checks();
    poll::until("more checks", || (checks() > passed + 9).then_some(()));
    for _ in 0..20 {
        assert_eq!(whole.send("POST", "/", &[]).code, 200);
    }
    assert_eq!((sick.asked(), ejections(&whole)), (asked, 1));
}

#[test]
fn when_all_are_out_requests_are_refused_at_once_and_not_for_ever() {
    let short = ("base_ejection_time: 60s", "base_ejection_time: 3s");
    let whole = Whole::alone(&[short, NO_RETRIES]);
    for upstream in &whole.upstreams {
        upstream.answer(503);
    }
    poll::until("all ejections", || {
        assert_eq!(whole.code("/"), 503);
        (ejections(&whole) == 3).then_some(())
    });
    for upstream in &whole.upstreams {
        upstream.answer(200);
    }
    let asked = whole.asked();
    let reply = whole.get("/", &[]);
    if ejections(&whole) == 3 {
        assert_eq!(
            (reply.code, whole.asked()),
            (503, asked),
            "nobody was asked"
        );
        let id = reply.one("x-request-id").to_owned();
        assert_eq!(
            reply.body.trim(),
            format!("{{\"error\":\"unavailable\",\"request_id\":\"{id}\"}}")
        );
    }
    poll::until("an answer", || (whole.code("/") == 200).then_some(()));
    assert_eq!(
        whole.code("/docs"),
        200,
        "other clusters have circuits of their own"
    );
}

#[test]
fn what_is_more_than_may_be_under_way_is_refused_at_once() {
    let whole = Whole::alone(&[(
        "max_connections: 1000, max_pending_requests: 100, max_requests: 1000",
        "max_connections: 1000, max_pending_requests: 100, max_requests: 2",
    )]);
    for upstream in &whole.upstreams {
        upstream.hold(true);
    }
    let address = whole.envoy.address;
    let held = || {
        thread::spawn(move || {
            send(address, "GET", "/held", &[], "")
                .expect("an answer")
                .code
        })
    };
    let two = [held(), held()];
    let holding = || {
        whole
            .upstreams
            .iter()
            .map(|upstream| upstream.holding())
            .sum::<usize>()
    };
    poll::until("two under way", || (holding() == 2).then_some(()));
    assert_eq!(
        whole
            .envoy
            .stat("cluster.api.circuit_breakers.default.rq_open"),
        1
    );
    let reply = whole.get("/", &[]);
    assert_eq!(reply.code, 503);
    assert_eq!(holding(), 2);
    assert_eq!(
        whole.code("/docs"),
        200,
        "other clusters have circuits of their own"
    );
    for upstream in &whole.upstreams {
        upstream.hold(false);
    }
    assert_eq!(two.map(|held| held.join().expect("an answer")), [200, 200]);
    poll::until("the circuit to close", || {
        (whole.code("/") == 200).then_some(())
    });
    let flags = |line: &serde_json::Value| line["flags"] == "UO";
    poll::until("the log", || {
        whole.envoy.access_log().iter().any(flags).then_some(())
    });
}

#[test]
fn what_only_reads_is_tried_on_another_and_what_writes_is_not() {
    // Nobody is ejected meanwhile.
    let whole = Whole::alone(&[("consecutive_5xx: 5", "consecutive_5xx: 1000")]);
    whole.upstreams[0].answer(503);
    for _ in 0..20 {
        assert_eq!(whole.code("/"), 200);
    }
    assert!(whole.envoy.stat("cluster.api.upstream_rq_retry_success") > 0);
    let asked: usize = whole.asked().iter().sum();
    let codes: Vec<u16> = (0..30).map(|_| whole.send("POST", "/", &[]).code).collect();
    assert!(codes.contains(&503) && codes.contains(&200), "{codes:?}");
    assert_eq!(whole.asked().iter().sum::<usize>(), asked + 30, "each once");
}

#[test]
fn an_upstream_that_is_killed_costs_no_request() {
    let whole = Whole::alone(&[]);
    let both = |times: usize| {
        for _ in 0..times {
            // What has not reached an upstream may be repeated even if it writes.
            let codes = [whole.code("/"), whole.send("POST", "/", &[]).code];
            assert_eq!(codes, [200, 200]);
        }
    };
    both(6);
    whole.upstreams[2].kill();
    both(12);
    poll::until("it to be left out", || {
        (whole.healthy("api") == 2).then_some(())
    });
    both(6);
}

/// Without a budget, none is repeated; the committed one is a fifth of what is under way.
#[test]
fn retries_have_a_budget() {
    let whole = Whole::alone(&[
        ("consecutive_5xx: 5", "consecutive_5xx: 1000"),
        (
            "budget_percent: {value: 20}, min_retry_concurrency: 3",
            "budget_percent: {value: 0}, min_retry_concurrency: 0",
        ),
    ]);
    for upstream in &whole.upstreams {
        upstream.answer(503);
    }
    assert_eq!(whole.code("/"), 503);
    assert_eq!(whole.asked().iter().sum::<usize>(), 1);
    assert_eq!(
        whole.envoy.stat("cluster.api.upstream_rq_retry_overflow"),
        1
    );
}
