//! Secrets are planted wherever one is given to the real binary, and looked for wherever it says something.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tollgate::admin::api::PREFIX;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::support::authority::Authority;
use crate::support::http::send;
use crate::support::otlp::Received;
use crate::support::server::{Server, Setup, binary, client_of, request};
use crate::support::{poll, redis};

/// What every planted secret begins with.
const PLANTED: &str = "hunter2";

const RULES: &str = "
domain: d
sensitive: [api_key]
descriptors:
  - key: api_key
    rate_limit: {requests_per_unit: 1, unit: day}
";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Fails if a secret is in `text`: one that was planted, or a line of the key.
#[track_caller]
fn is_clean(what: &str, text: &str, key: &str) {
    assert!(!text.contains(PLANTED), "{what} tells a secret: {text}");
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    for line in lines {
        assert!(!text.contains(line), "{what} tells the key");
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// One call with a secret value, traced.
async fn call(server: &Server, authority: &Authority) {
    let port = server.grpc.expect("a port").port();
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
    let endpoint = Endpoint::try_from(format!("https://localhost:{port}"))
        .and_then(|endpoint| endpoint.tls_config(trust))
        .expect("an endpoint");
    let mut message = tonic::Request::new(request("d", &[&[("api_key", "hunter2-value")]]));
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01").parse();
    message
        .metadata_mut()
        .insert("traceparent", parent.expect("ASCII"));
    let secret = "Bearer hunter2-caller".parse().expect("ASCII");
    message.metadata_mut().insert("authorization", secret);
    let mut client = client_of(endpoint.connect().await.expect("a connection"));
    client.should_rate_limit(message).await.expect("an answer");
}

/// All that the HTTP ports say, to whoever has a token and to whoever has none.
fn surfaces(server: &Server) -> String {
    let mut all = String::new();
    for path in ["/metrics", "/health/ready", "/health/live", "/healthcheck"] {
        all += &send(server.http, "GET", path, &[], "").expect(path).body;
    }
    for path in ["/", "/rlconfig", "/stats"] {
        all += &send(server.debug, "GET", path, &[], "").expect(path).body;
    }
    for token in ["reader", "administrator", "guess"] {
        let token = format!("Bearer {PLANTED}-{token}");
        let headers = [("authorization", token.as_str())];
        let mut ask = |method: &str, path: &str, body: &str| {
            let path = format!("{PREFIX}{path}");
            all += &send(server.http, method, &path, &headers, body)
                .expect("an answer")
                .body;
        };
        for path in [
            "/status",
            "/metrics",
            "/tiers",
            "/endpoints",
            "/lists",
            "/top",
            "/overview",
        ] {
            ask("GET", path, "");
        }
        ask("PUT", "/lists/deny/api_key=hunter2-denied", "{}");
        ask("GET", "/lists/deny", "");
    }
    all
}

async fn nothing_tells(format: &str, level: &str) {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| write(dir.path(), name, text);
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let (received, collector) = Received::start().await;
    let mut store =
        redis::Server::with(&["--user", "app", "on", ">hunter2-auth", "~*", "&*", "+@all"]);
    let url = format!("redis://app:hunter2-url@127.0.0.1:{}/0", store.port);
    let audit = file("audit", "");
    let server = Setup::rules(RULES)
        .env("LOG_FORMAT", format)
        .env("LOG_LEVEL", level)
        .env("REDIS_URL", &url)
        .env("REDIS_AUTH", "app:hunter2-auth")
        .env("STORE_TIMEOUT", "2s")
        .env(
            "API_READ_TOKENS",
            &file("readers", "hunter2-reader\nhunter2-other\n"),
        )
        .env(
            "API_ADMIN_TOKENS",
            &file("administrators", "hunter2-administrator\n"),
        )
        .env("AUDIT_LOG", &audit)
        .env("GRPC_SERVER_USE_TLS", "true")
        .env("GRPC_SERVER_TLS_CERT", &file("cert.pem", &certificate))
        .env("GRPC_SERVER_TLS_KEY", &file("key.pem", &key))
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://{collector}"),
        )
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer hunter2-otel",
        )
        .start_ready();
    call(&server, &authority).await;
    let mut said = surfaces(&server);
    let admin = redis::Admin::connect(store.port).await;
    let keys = format!("{:?}", admin.run("KEYS *").await);
    assert!(keys.contains("api_key"), "{keys}");
    said += &keys;
    store.kill();
    call(&server, &authority).await;
    file("key.pem", "-----BEGIN PRIVATE KEY-----\nhunter2-key\n");
    server.wait_for_log("those before stay");
    said += &surfaces(&server);
    server.signal("TERM");
    poll::until("the last spans", || {
        (received.spans(TRACE).len() >= 2).then_some(())
    });
    said += &format!("{:?}", received.spans(TRACE));
    let log = server.log().join("\n");
    assert!(log.contains("stopping"), "{log}");
    is_clean("a surface", &said, &key);
    is_clean("the log", &log, &key);
    let audit = std::fs::read_to_string(audit).expect("a file");
    assert_eq!(audit.lines().count(), 1, "{audit}");
    is_clean("the audit log", &audit, &key);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_service_says_holds_a_secret() {
    nothing_tells("text", "trace").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_it_says_in_json_does() {
    nothing_tells("json", "debug").await;
}

#[test]
fn help_and_errors_hold_no_secret() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let garbage = write(
        dir.path(),
        "key.pem",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
    );
    let authority = Authority::new();
    let (certificate, _) = authority.sign("localhost");
    let certificate = write(dir.path(), "cert.pem", &certificate);
    let run = |args: &[&str], set: &[(&str, &str)]| {
        let ended = binary()
            .args(args)
            .env("REDIS_AUTH", "hunter2-auth")
            .env("REDIS_SENTINEL_AUTH", "hunter2-sentinel")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2-otel")
            .envs(set.iter().copied())
            .output()
            .expect("it runs");
        let said = [ended.stdout, ended.stderr].concat();
        (ended.status, String::from_utf8_lossy(&said).into_owned())
    };
    let url = ("REDIS_URL", "redis://:hunter2-url@localhost:6379");
    for args in [&["--help"][..], &["serve", "--help"], &["serve", "-h"]] {
        let (status, said) = run(args, &[url]);
        assert!(status.success(), "{said}");
        is_clean("the help", &said, "");
    }
    let tls = [
        ("GRPC_SERVER_USE_TLS", "true"),
        ("GRPC_SERVER_TLS_CERT", &certificate),
        ("GRPC_SERVER_TLS_KEY", &garbage),
    ];
    for set in [
        &[("REDIS_URL", "redis://:hunter2@local host")][..],
        &[("REDIS_URL", "redis://:hunter2@localhost/twelve")],
        &[("REDIS_URL", "me:hunter2@localhost:6379")],
        &[
            ("REDIS_URL", "redis://:hunter2@a:1,b:2"),
            ("REDIS_TYPE", "cluster"),
        ],
        &[
            ("REDIS_URL", "redis://:hunter2@a:1,b:2"),
            ("REDIS_TYPE", "sentinel"),
        ],
        &[url, ("REDIS_TYPE", "double")],
        &[url, ("BACKEND_TYPE", "paper")],
        &[url, ("PORT", "none")],
        &[url, ("REDIS_TLS", "true"), ("REDIS_TLS_CACERT", &garbage)],
        &[url, ("API_READ_TOKENS", "/nowhere/tokens")],
        &tls,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &garbage),
        ],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "no address")],
    ] {
        let (status, said) = run(&["serve"], set);
        assert!(!status.success(), "{set:?}: {said}");
        assert!(!said.is_empty(), "{set:?}");
        is_clean("an error", &said, "");
    }
}

#[test]
fn a_file_of_secrets_that_anybody_may_read_is_told_of() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = |name: &str, mode: u32| {
        let path = write(dir.path(), name, "a-token\n");
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, permissions).expect("a mode");
        path
    };
    let (open, closed) = (file("open", 0o644), file("closed", 0o640));
    let server = Setup::rules(RULES)
        .env("API_READ_TOKENS", &open)
        .env("API_ADMIN_TOKENS", &closed)
        .start_ready();
    let log = server.log().join("\n");
    assert!(log.contains(&format!("API_READ_TOKENS={open}")), "{log}");
    assert!(!log.contains(&closed), "{log}");
}
