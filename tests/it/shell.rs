//! What surrounds the service: which variables a subcommand reads, and how long an HTTP client may take.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::sync::watch;
use tollgate::admin::listen::{self, HEAD_WITHIN};

/// How much later than its bound something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

#[test]
fn serves_variables_are_read_by_serve_alone() {
    let check = tollgate(&["check", "config/rules"]);
    assert!(check.status.success(), "{check:?}");
    for args in [&[][..], &["serve"], &["--grpc-port", "0"]] {
        let serve = tollgate(args);
        assert_eq!(serve.status.code(), Some(2), "{args:?}: {serve:?}");
        let stderr = String::from_utf8(serve.stderr).expect("text");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("--port"), "{stderr}");
    }
}

#[test]
fn help_and_version_need_no_subcommand() {
    for (flag, says) in [
        ("--help", "serve"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let told = tollgate(&[flag]);
        assert!(told.status.success(), "{told:?}");
        let stdout = String::from_utf8(told.stdout).expect("text");
        assert!(stdout.contains(says), "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_ends_its_connection_and_no_other() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let (shutdown, down) = watch::channel(false);
    let routes = Router::new().route("/", get(async || "here"));
    let server = tokio::spawn(listen::serve(listener, None, routes, down));
    let client = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let mut slow = connect(address);
        slow.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
        let mut quick = connect(address);
        quick
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        quick.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("here"), "{answer}");
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest).expect("the end");
        begun.elapsed()
    });
    let took = client.await.expect("a client");
    assert!(took >= HEAD_WITHIN, "closed after {took:?}");
    shutdown.send_replace(true);
    let ended = tokio::time::timeout(SLACK, server).await.expect("in time");
    ended.expect("no panic").expect("no error");
}

fn connect(address: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    let bound = Some(HEAD_WITHIN + SLACK);
    stream.set_read_timeout(bound).expect("a timeout");
    stream
}

/// Runs the program with a PORT that is none.
fn tollgate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PORT", "abc")
        .args(args)
        .output()
        .expect("it runs")
}
