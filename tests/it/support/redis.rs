//! Real Redis servers on free ports of 127.0.0.1, gone when the test is.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::config::{Config, ServerConfig};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use tempfile::TempDir;
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::{Kind, Settings, Socket};

use super::poll::pause;

pub(crate) mod cluster;
pub(crate) mod sentinel;

/// How long anything may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Generous, since the machines that run tests are busy.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server in a directory of its own.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    _directory: TempDir,
    arguments: Vec<String>,
    pub(crate) port: u16,
}

impl Server {
    /// A plain server.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A server with further command-line options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Self::on(free_port(), options, TempDir::new().expect("a directory"))
    }

    /// A server on `port` with a `directory` for its files.
    pub(crate) fn on(port: u16, options: Vec<String>, directory: TempDir) -> Self {
        let mut arguments: Vec<String> = [
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--daemonize",
            "no",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &directory.path().display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(options);
        Self::run(arguments, port, directory)
    }

    /// A sentinel with the configuration in `file`, which it rewrites.
    pub(crate) fn sentinel(port: u16, file: &str, directory: TempDir) -> Self {
        let port_text = port.to_string();
        let arguments = [
            file,
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--sentinel",
        ];
        Self::run(arguments.map(str::to_owned).to_vec(), port, directory)
    }

    fn run(arguments: Vec<String>, port: u16, directory: TempDir) -> Self {
        Self {
            child: spawn(&arguments),
            _directory: directory,
            arguments,
            port,
        }
    }

    /// Ends the server as a power cut does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts a killed server again, on the same port and without its keys.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.arguments);
    }

    /// Stops the server's work or lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status();
        assert!(status.expect("kill").success());
    }

    pub(crate) fn settings(&self) -> Settings {
        let url = format!("127.0.0.1:{}", self.port);
        let mut settings = Settings::parse(Kind::Single, Socket::Tcp, &url).expect("settings");
        settings.timeout = CALL_TIMEOUT;
        settings
    }

    /// The store on this server, connected.
    pub(crate) async fn store(&self) -> Redis {
        connected(&self.settings()).await
    }

    /// A client that knows nothing of the store.
    pub(crate) async fn admin(&self) -> Admin {
        Admin::connect(self.port).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Any command, to any server.
#[derive(Clone, Debug)]
pub(crate) struct Admin(Client);

impl Admin {
    pub(crate) async fn connect(port: u16) -> Self {
        let config = Config {
            server: ServerConfig::new_centralized("127.0.0.1", port),
            ..Config::default()
        };
        let started = Instant::now();
        loop {
            let client = Builder::from_config(config.clone())
                .build()
                .expect("client");
            if client.init().await.is_ok() {
                return Self(client);
            }
            assert!(started.elapsed() < PATIENCE, "no server on port {port}");
            pause().await;
        }
    }

    pub(crate) async fn run(&self, command: &str) -> Value {
        self.try_run(command).await.expect(command)
    }

    pub(crate) async fn try_run(&self, command: &str) -> Result<Value, fred::error::Error> {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.send(&words).await
    }

    /// A command whose arguments may hold spaces.
    pub(crate) async fn send(&self, words: &[&str]) -> Result<Value, fred::error::Error> {
        let (name, arguments) = words.split_first().expect("a command");
        let command = CustomCommand::new(name.to_string(), ClusterHash::FirstKey, false);
        self.0.custom(command, arguments.to_vec()).await
    }

    pub(crate) async fn set(&self, key: &str, value: &[u8]) {
        let _: Value = self
            .0
            .set(key, value, None, None, false)
            .await
            .expect("set");
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        self.0.get(key).await.expect("get")
    }

    pub(crate) async fn text(&self, command: &str) -> String {
        self.run(command).await.into_string().unwrap_or_default()
    }
}

/// The store of `settings`, once it answers.
pub(crate) async fn connected(settings: &Settings) -> Redis {
    let store = Redis::connect(settings).expect("settings");
    until("the store answers", async || store.ping().await.is_ok()).await;
    store
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        pause().await;
    }
}

/// The ports for programs that must be told one: below those that the system gives to whoever asks for any, so that none is
/// taken between the look and the start.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

/// A port that nobody listens on, and that no other test of this process is given.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at places of their own.
    let begin = std::process::id().wrapping_mul(997);
    let count = PORTS.end - PORTS.start;
    for _ in PORTS {
        let place = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count;
        let port = u16::try_from(PORTS.start + place).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// What the servers run: `REDIS_SERVER`, as `tests/matrix` sets it, or the one that is installed.
fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

fn spawn(arguments: &[String]) -> Child {
    let program = program();
    // The kernel ends the server when the test process ends, however that comes about.
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", &program]);
        command
    } else {
        Command::new(&program)
    };
    let found = Command::new(&program).arg("--version").output();
    assert!(found.is_ok(), "no {program}: run tests/tools/install");
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("redis-server starts")
}
