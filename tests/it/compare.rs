//! `tollgate compare` between real services.

use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::authority::Authority;
use crate::support::server::{Server, Setup, binary};

fn rules(per_day: u32) -> String {
    format!(
        "
domain: d
descriptors:
  - key: user_id
    rate_limit: {{requests_per_unit: {per_day}, unit: day}}
  - key: free
    rate_limit: {{unlimited: true}}
"
    )
}

fn start(per_day: u32) -> Server {
    Setup::rules(&rules(per_day)).start_ready()
}

fn compare(old: &str, new: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = binary();
    command
        .args(["compare", "--old", old, "--new", new])
        .args(args);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn address(server: &Server) -> String {
    server.grpc.expect("a port").to_string()
}

#[test]
fn services_with_the_same_rules_agree() {
    let (old, new) = (start(5), start(5));
    let args = [
        "--domain",
        "d",
        "--descriptors",
        "user_id={}",
        "--keys",
        "3",
    ];
    let more = ["--descriptors", "free=x", "--requests", "40"];
    let (code, said, _) = compare(&address(&old), &address(&new), &[&args[..], &more].concat());
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "40 requests: 40 agree, 0 disagree\n")
    );
}

#[test]
fn services_with_other_rules_disagree_and_it_is_said_in_what() {
    let (old, new) = (start(5), start(3));
    let args = ["--domain", "d", "--descriptors", "user_id=alice"];
    let more = ["--requests", "6", "--show", "5", "--tolerance", "2"];
    let (code, said, _) = compare(&address(&old), &address(&new), &[&args[..], &more].concat());
    assert_eq!(code, Some(1));
    assert!(
        said.contains(
            "request 1: d [user_id=alice]\n  limit: descriptor 0: old 5 per day, new 3 per day\n"
        ),
        "{said}"
    );
    // What remains differs by 2, which is tolerated; the fourth and the fifth pass in one place only.
    assert!(
        said.contains("request 4: d [user_id=alice]\n  code: overall: old OK, new OVER_LIMIT"),
        "{said}"
    );
    assert_eq!(said.matches("request ").count(), 5, "{said}");
    assert!(
        said.ends_with("6 requests: 0 agree, 6 disagree (code 2, limit 6)\n"),
        "{said}"
    );
}

#[test]
fn what_remains_may_differ_by_as_much_as_is_said() {
    let (old, other) = (start(50), start(50));
    let new = address(&other);
    let once = [
        "--domain",
        "d",
        "--descriptors",
        "user_id=a",
        "--requests",
        "1",
    ];
    assert_eq!(compare(&new, &new, &once).0, Some(0));
    // The new one has counted two more.
    let (code, said, _) = compare(&address(&old), &new, &once);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("remaining: descriptor 0: old 49, new 47"),
        "{said}"
    );
    let more = [&once[..], &["--tolerance", "2"]].concat();
    assert_eq!(compare(&address(&old), &new, &more).0, Some(0));
}

/// Lets this many requests pass, and says nothing of their descriptors, as Limitador does.
struct Whole(AtomicU32);

#[tonic::async_trait]
impl RateLimitService for Whole {
    async fn should_rate_limit(
        &self,
        _: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let is_left = |left: u32| left.checked_sub(1);
        let passed = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left);
        let code = passed.map_or(Code::OverLimit, |_| Code::Ok);
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            ..RateLimitResponse::default()
        }))
    }
}

#[test]
fn a_service_that_tells_the_whole_only_is_compared_by_that() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a port");
    let old = listener.local_addr().expect("an address").to_string();
    let service = RateLimitServiceServer::new(Whole(AtomicU32::new(6)));
    let server = tonic::transport::Server::builder().add_service(service);
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let args = ["--domain", "d", "--descriptors", "user_id=alice"];
    let five = [&args[..], &["--requests", "5"]].concat();
    let (code, said, _) = compare(&old, &address(&start(5)), &five);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "5 requests: 5 agree, 0 disagree; of 5 the old service says only whether they pass\n"
        )
    );
    // One is left there, and none here.
    let two = [&args[..], &["--requests", "2"]].concat();
    let (code, said, _) = compare(&old, &address(&start(0)), &two);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("request 1: d [user_id=alice]\n  code: overall: old OK, new OVER_LIMIT\n2 requests: 1 agree, 1 disagree (code 1)"),
        "{said}"
    );
}

#[test]
fn requests_come_from_a_file() {
    let (old, new) = (start(5), start(5));
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("requests.jsonl");
    let good = r#"{"domain": "d", "hitsAddend": 2, "descriptors": [{"entries": [{"key": "user_id", "value": "a"}]}]}"#;
    let failing = r#"{"domain": "", "descriptors": []}"#;
    std::fs::write(&path, format!("{good}\n\n{good}\n{failing}\n{good}")).expect("a file");
    let (old, new) = (&address(&old), &address(&new));
    let file = path.display().to_string();
    let (code, said, _) = compare(old, new, &["--file", &file]);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "4 requests: 3 agree, 0 disagree, 1 failed on both\n"
        )
    );
    std::fs::write(&path, format!("{good}\n{{\"domain\": 5}}\n")).expect("a file");
    let (code, _, error) = compare(old, new, &["--file", &file]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("requests.jsonl:2: not the JSON of a RateLimitRequest"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_compared_is_exit_code_2() {
    let server = start(5);
    let address = address(&server);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = taken.local_addr().expect("an address").to_string();
    drop(taken);
    let made = ["--domain", "d", "--descriptors", "user_id=a"];
    let (code, _, error) = compare(&address, &nobody, &made);
    assert_eq!(code, Some(2));
    assert!(error.contains(&nobody), "{error}");
    assert_eq!(compare(&address, &address, &[]).0, Some(2));
    assert_eq!(compare(&address, &address, &["--domain", "d"]).0, Some(2));
    let empty = ["--file", "/dev/null"];
    assert!(
        compare(&address, &address, &empty)
            .2
            .contains("there are no requests")
    );
}

#[test]
fn services_over_tls_are_asked_with_the_certificates_that_they_want() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let ca = write("ca.pem", &authority.pem());
    let (certificate, key) = (write("cert.pem", &certificate), write("key.pem", &key));
    let server = Setup::rules(&rules(50))
        .env("GRPC_SERVER_USE_TLS", "true")
        .env("GRPC_SERVER_TLS_CERT", &certificate)
        .env("GRPC_SERVER_TLS_KEY", &key)
        .env("GRPC_CLIENT_TLS_CACERT", &ca)
        .start_ready();
    let other = start(50);
    let secured = format!("localhost:{}", server.grpc_port());
    let made = ["--domain", "d", "--descriptors", "user_id=a"];
    let pems = [
        "--grpc-server-ca-file",
        &ca,
        "--grpc-cert-file",
        &certificate,
        "--grpc-key-file",
        &key,
    ];
    let old = format!("https://{secured}");
    let (code, said, error) = compare(&old, &address(&other), &[&made[..], &pems].concat());
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(said, "1000 requests: 1000 agree, 0 disagree\n");
    // Without a certificate of its own, or by nobody who is trusted.
    assert_eq!(compare(&old, &address(&other), &made).0, Some(2));
    let mut client = binary();
    client.args([
        "ratelimit_client",
        "-grpc-use-tls",
        "-dial_string",
        &secured,
    ]);
    client.args(pems.map(|arg| arg.strip_prefix('-').unwrap_or(arg)));
    let output = client
        .args(["-domain", "d", "-descriptors", "user_id=b"])
        .output();
    let output = output.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("response: overall_code:OK"), "{said}");
}
