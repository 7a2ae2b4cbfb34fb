//! The real binary, on free ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::{http, poll};

/// A running service; it ends with this.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) debug: SocketAddr,
    rules: PathBuf,
    /// Kept until the service has ended.
    _dir: TempDir,
}

/// Rules and settings for a service.
pub(crate) struct Setup {
    rules: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

/// The command of the binary, with nothing of the tester's environment that it would take for a setting.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear();
    for kept in ["PATH", "HOME", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.stdin(Stdio::null());
    command
}

impl Setup {
    /// A service with one rule file.
    pub(crate) fn rules(text: &str) -> Self {
        Self {
            rules: vec![("rules.yaml".to_owned(), text.to_owned())],
            env: Vec::new(),
        }
    }

    /// With another rule file.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.rules.push((name.to_owned(), text.to_owned()));
        self
    }

    /// With a setting.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(self) -> Server {
        let dir = TempDir::new().expect("a temporary directory");
        let rules = dir.path().join("rules");
        std::fs::create_dir(&rules).expect("a directory");
        for (name, text) in &self.rules {
            std::fs::write(rules.join(name), text).expect("a rule file");
        }
        let mut command = binary();
        command.arg("serve").env("RULES_DIR", &rules);
        for name in ["GRPC_PORT", "PORT", "DEBUG_PORT"] {
            command.env(name, "0");
        }
        for name in ["GRPC_HOST", "HOST"] {
            command.env(name, "127.0.0.1");
        }
        command
            .envs(self.env)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("a pipe"), &log);
        collect(child.stderr.take().expect("a pipe"), &log);
        let mut server = Server {
            child,
            log,
            grpc: None,
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            debug: SocketAddr::from(([127, 0, 0, 1], 0)),
            rules,
            _dir: dir,
        };
        let line = server.wait_for_log("listening: ");
        let port = |name: &str| {
            let after = line.split(&format!("{name} on ")).nth(1).expect("a port");
            after
                .split([',', '"', ' '])
                .next()
                .and_then(|text| text.parse().ok())
        };
        server.grpc = port("gRPC");
        server.http = port("HTTP").expect("an address");
        server.debug = port("debug").expect("an address");
        server
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn start_ready(self) -> Server {
        let server = self.start();
        poll::until("readiness", || server.is_ready().then_some(()));
        server
    }
}

impl Server {
    /// Whether it says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        http::get(self.http, "/health/ready").code == 200
    }

    /// Waits for a line of its log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let find = || self.log().into_iter().find(|line| line.contains(text));
        poll::until(&format!("the log line {text:?}"), find)
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// The directory of its rules.
    pub(crate) fn rules(&self) -> &Path {
        &self.rules
    }

    /// The value of a metric, given by the beginning of its line; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.http, "/metrics").body;
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0)
    }

    /// Its gRPC port.
    pub(crate) fn grpc_port(&self) -> u16 {
        self.grpc.expect("a port").port()
    }

    /// A connection to its gRPC port.
    pub(crate) async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.grpc.expect("a port"));
        let endpoint = Endpoint::try_from(address).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    /// A client of its gRPC port.
    pub(crate) async fn client(&self) -> RateLimitServiceClient<Channel> {
        client_of(self.channel().await)
    }

    /// Sends a signal by the name that `kill` knows.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(status.expect("kill").success());
    }

    /// Waits until it has ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        poll::until("the end of the process", || {
            self.child.try_wait().expect("a child")
        })
    }
}

/// Adds all lines of a pipe to a log.
fn collect(pipe: impl std::io::Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lock().expect("no panic").push(line);
        }
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client over a connection.
pub(crate) fn client_of(channel: Channel) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::new(channel)
}

/// A request of one hit, each descriptor given by its entries.
pub(crate) fn request(domain: &str, descriptors: &[&[(&str, &str)]]) -> RateLimitRequest {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let descriptor = |entries: &&[(&str, &str)]| RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        ..RateLimitDescriptor::default()
    };
    RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.iter().map(descriptor).collect(),
        hits_addend: 0,
    }
}

/// Whether an answer refuses.
pub(crate) fn is_over(response: &RateLimitResponse) -> bool {
    response.overall_code == 2
}
