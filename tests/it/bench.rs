//! `tollgate bench` against the real service.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::poll;
use crate::support::server::{Server, Setup, binary};

const RULES: &str = "
domain: bench
descriptors:
  - key: user_id
    rate_limit: {requests_per_unit: 100, unit: year}
    descriptors:
      - key: part
        rate_limit: {requests_per_unit: 4000000000, unit: year}
";

fn bench(server: &Server, args: &[&str]) -> Value {
    let address = server.grpc.expect("a port").to_string();
    let output = binary()
        .args([
            "bench",
            "--format",
            "json",
            "--warmup",
            "0",
            "--address",
            &address,
        ])
        .args(args)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn count(result: &Value, answer: &str) -> u64 {
    result["answers"][answer].as_u64().unwrap_or(0)
}

#[test]
fn its_counts_are_the_services() {
    let server = Setup::rules(RULES).start_ready();
    let result = bench(
        &server,
        &[
            "--duration",
            "500ms",
            "--distribution",
            "one",
            "--connections",
            "3",
        ],
    );
    assert_eq!(count(&result, "ok"), 100);
    let refused = count(&result, "over_limit");
    assert!(refused > 0);
    let decided = |reason: &str| {
        server.metric(&format!(
            "tollgate_decisions{{domain=\"bench\",reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(decided("within_limit"), 100.0);
    assert_eq!(decided("over_limit"), refused as f64);
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let server = Setup::rules(RULES).start_ready();
    let result = bench(
        &server,
        &[
            "--duration",
            "1s",
            "--rate",
            "200",
            "--keys",
            "50",
            "--distribution",
            "zipf:1.1",
            "--descriptors",
            "3",
        ],
    );
    let sent = count(&result, "ok") + count(&result, "over_limit");
    assert!((1..=200).contains(&sent), "{result}");
    assert_eq!(
        server.metric("ratelimit_service_total_requests"),
        sent as f64
    );
}

/// A load that ends with the test.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With a request a second there is next to nothing to do.
#[test]
fn a_load_that_spins_does_not_sleep() {
    let server = Setup::rules(RULES).start_ready();
    let address = server.grpc.expect("a port").to_string();
    let load = binary()
        .args(["bench", "--spin", "--rate", "1", "--duration", "60s"])
        .args(["--address", &address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let load = Load(load.expect("the binary runs"));
    let stat = format!("/proc/{}/stat", load.0.id());
    poll::until("half a second of the processor", || {
        let stat = std::fs::read_to_string(&stat).expect("a process");
        // In hundredths of a second.
        let user = stat.split(' ').nth(13)?.parse::<u64>().ok()?;
        (user >= 50).then_some(())
    });
}

#[test]
fn errors_are_told_apart_and_a_service_that_is_not_there_is_one_line() {
    let server = Setup::rules("domain: [").start();
    let result = bench(&server, &["--duration", "200ms"]);
    assert!(count(&result, "Unknown") > 0, "{result}");
    let output = binary()
        .args(["bench", "--address", "127.0.0.1:1", "--duration", "100ms"])
        .output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
}
