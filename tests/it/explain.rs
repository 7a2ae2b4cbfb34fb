//! `tollgate explain`: what it says, reviewed as text in `tests/golden/explain`; and that a running service says the same.
//!
//! `UPDATE_GOLDEN=1` writes what is said now.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::golden::compare;
use crate::support::redis;
use crate::support::server::{Setup, binary};

/// Calls without an Envoy configuration, and what stands in their files.
const RULES: [(&str, &[&str]); 9] = [
    (
        "matched",
        &[
            "--rules",
            "config/rules",
            "path=/api/v1/search,user_id=alice",
            "user=anonymous,remote_address=192.0.2.9",
            "method=POST",
        ],
    ),
    (
        "missed",
        &[
            "--rules",
            "config/rules",
            "user_id=alice,path=/x",
            "method=POTS",
            "user=anonymous",
            "pat=/x",
            "user_id=a,path=/api/v1/search",
        ],
    ),
    (
        "plan",
        &[
            "--rules",
            "config/product",
            "--plan",
            "user_id=alice=pro",
            "user_id=alice",
            "--domain",
            "product",
        ],
    ),
    (
        "cost",
        &[
            "--rules",
            "config/product",
            "user_id=alice",
            "path=/compare",
        ],
    ),
    (
        "never_fits",
        &["--rules", "config/rules", "--hits", "100", "user_id=alice"],
    ),
    (
        "other_domain",
        &[
            "--rules",
            "config/rules",
            "--domain",
            "egde",
            "user_id=alice",
        ],
    ),
    (
        "two_domains",
        &[
            "--rules",
            "config/rules",
            "--rules",
            "config/product",
            "user_id=alice",
        ],
    ),
    ("no_descriptor", &["--rules", "config/rules", "user_id"]),
    (
        "machine",
        &[
            "--rules",
            "config/rules",
            "--format",
            "json",
            "path=/api/v1/search,user_id=alice",
            "method=GET",
        ],
    ),
];

/// HTTP requests, of which an Envoy configuration makes descriptors.
const REQUESTS: [(&str, &[&str]); 7] = [
    (
        "http_key",
        &[
            "GET https://gateway/api/v1/search?api_key=k1",
            "--remote-address",
            "192.0.2.1",
        ],
    ),
    (
        "http_anonymous",
        &[
            "POST",
            "https://gateway/a/../b",
            "-H",
            "x-user-id: spoofed",
            "--remote-address",
            "192.0.2.1",
        ],
    ),
    ("http_no_address", &["https://gateway/"]),
    ("http_nobody_asks", &["https://gateway/health"]),
    (
        "http_listener",
        &["https://gateway/", "--listener", "gatewya"],
    ),
    ("http_no_url", &["user_id=alice"]),
    ("http_header", &["https://gateway/", "-H", "x-api-key"]),
];

/// What a call says, wherever it says it, and its exit code.
fn said(args: &[&str], input: &str) -> String {
    let mut child = binary()
        .arg("explain")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may not read it at all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    format!(
        "{}{}exit code {}\n",
        text(stdout),
        text(stderr),
        status.code().expect("a code")
    )
}

#[track_caller]
fn golden(name: &str, said: &str) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/explain");
    compare(&Path::new(dir).join(format!("{name}.txt")), said);
}

/// A Friday.
const AT: [&str; 2] = ["--at", "2026-03-06T12:00:00Z"];

#[test]
fn what_is_said_of_descriptors_is_as_reviewed() {
    for (name, args) in RULES {
        golden(name, &said(&[args, &AT].concat(), ""));
    }
}

#[test]
fn what_is_said_of_http_requests_is_as_reviewed() {
    let files: &[&str] = &["--rules", "config/rules", "--envoy", "envoy/envoy.yaml"];
    for (name, args) in REQUESTS {
        golden(name, &said(&[files, args, &AT].concat(), ""));
    }
    let files: &[&str] = &["--rules", "config/product", "--envoy", "envoy/product.yaml"];
    let claims: &[&str] = &[
        "--metadata",
        "envoy.filters.http.jwt_authn:token:sub=bob",
        "--metadata",
        "envoy.filters.http.jwt_authn:token:tier=pro",
    ];
    let batch: &[&str] = &[
        "POST https://gateway/batch",
        "-H",
        "x-batch-items: 20",
        "--remote-address",
        "198.51.100.7",
    ];
    golden(
        "http_claims",
        &said(&[files, batch, claims, &AT].concat(), ""),
    );
}

#[test]
fn a_request_is_read_as_json() {
    let args = ["--rules", "config/rules", "--request", "-"];
    let request = r#"{"domain": "edge", "descriptors": [
        {"entries": [{"key": "user_id", "value": "a"}], "hitsAddend": "3"},
        {"entries": [{"key": "any", "value": "thing"}], "limit": {"requestsPerUnit": 5, "unit": "HOUR"}},
        {"entries": [{"key": "user_id", "value": "b"}], "hitsAddend": "0"}
    ]}"#;
    golden("request", &said(&[&args[..], &AT].concat(), request));
    for (name, wrong) in [
        ("request_wrong", r#"{"domian": "edge"}"#),
        ("request_no_json", "domain: edge"),
    ] {
        golden(name, &said(&[&args[..], &AT].concat(), wrong));
    }
}

#[test]
fn what_cannot_be_read_is_said_and_the_exit_code_is_2() {
    let wrong: [(&str, &[&str]); 6] = [
        ("no_rules", &["user_id=alice"]),
        (
            "no_directory",
            &["--rules", "config/nothing", "user_id=alice"],
        ),
        (
            "url_without_envoy",
            &["--rules", "config/rules", "https://gateway/"],
        ),
        (
            "header_without_envoy",
            &["--rules", "config/rules", "user_id=a", "-H", "a: b"],
        ),
        (
            "no_configuration",
            &[
                "--rules",
                "config/rules",
                "--envoy",
                "config/rules/edge.yaml",
                "https://gateway/",
            ],
        ),
        (
            "no_moment",
            &["--rules", "config/rules", "--at", "yesterday", "user_id=a"],
        ),
    ];
    for (name, args) in wrong {
        let said = said(args, "");
        assert!(said.ends_with("exit code 2\n"), "{said}");
        golden(name, &said);
    }
}

const LIVE: &str = "
domain: edge
partition_by: [user_id]
descriptors:
  - key: path
    value: /search
    descriptors:
      - key: user_id
        rate_limit: {name: search, requests_per_unit: 2, unit: day}
";

/// The descriptors of the JSON of a call, without what hangs on where the rules are.
fn descriptors(args: &[&str]) -> Value {
    let said = said(&[args, &["--format", "json"]].concat(), "");
    let text = said
        .strip_suffix("exit code 0\n")
        .unwrap_or_else(|| panic!("{said}"));
    let mut all: Value = serde_json::from_str(text).expect("JSON");
    let mut descriptors = all["requests"][0]["descriptors"].take();
    for descriptor in descriptors.as_array_mut().expect("descriptors") {
        if descriptor["rule"].is_object() {
            descriptor["rule"]["file"].take();
        }
    }
    descriptors
}

#[test]
fn a_running_service_says_the_same_as_the_rules_in_files() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, "# readers\nr3ader\n").expect("a file");
    let tokens = tokens.to_str().expect("a path");
    let server = Setup::rules(LIVE)
        .env("API_READ_TOKENS", tokens)
        .start_ready();
    let url = format!("http://{}", server.http);
    let rules = server
        .rules()
        .parent()
        .expect("a directory")
        .to_str()
        .expect("a path");
    let asked = [
        "--domain",
        "edge",
        "path=/search,user_id=a",
        "path=/serch,user_id=a",
        "user_id=a",
    ];
    let live = ["--live", &url, "--token-file", tokens];
    let offline = descriptors(&[&["--rules", rules], &asked[..]].concat());
    assert_eq!(descriptors(&[&live, &asked[..]].concat()), offline);
    assert_eq!(offline[0]["rule"]["limits"][0]["name"], "search");
    assert_eq!(offline[1]["hint"], "did you mean `/search`?");

    let text = said(&[&live, &asked[..]].concat(), "");
    assert!(
        text.contains(&format!("asked {url}: as it stands now")),
        "{text}"
    );
    let refused = said(&[&["--live", &url], &asked[..]].concat(), "");
    assert!(
        refused.starts_with(&format!("error: {url}: 401 Unauthorized: ")),
        "{refused}"
    );
    let nobody = said(&[&["--live", "127.0.0.1:1"], &asked[..]].concat(), "");
    assert!(
        nobody.starts_with("error: http://127.0.0.1:1: "),
        "{nobody}"
    );
    assert!(nobody.ends_with("exit code 2\n"), "{nobody}");
}

#[test]
fn with_redis_the_server_of_the_slot_is_told() {
    let store = redis::Server::start();
    let url = format!("127.0.0.1:{}", store.port);
    let server = Setup::rules(LIVE)
        .env("REDIS_URL", &url)
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    let live = format!("http://{}", server.http);
    let asked = [
        "--live",
        &live,
        "--domain",
        "edge",
        "path=/search,user_id=a",
    ];
    let key = &descriptors(&asked)[0]["key"];
    assert_eq!(key["tag"], "{edge|user_id=a}");
    assert_eq!(key["server"], url.as_str());
    let text = said(&asked, "");
    assert!(
        text.contains(&format!("slot {} on {url}", key["slot"])),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_it_is_the_master_of_the_slot() {
    let cluster = redis::cluster::Cluster::start(false).await;
    let server = Setup::rules(LIVE)
        .env("REDIS_TYPE", "cluster")
        .env("REDIS_URL", &cluster.addresses())
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    let live = format!("http://{}", server.http);
    let users = ["a", "b", "c", "d", "e"].map(|user| format!("path=/search,user_id={user}"));
    let users = users.each_ref().map(String::as_str);
    let told = descriptors(&[&["--live", &live, "--domain", "edge"], &users[..]].concat());
    let mut masters = std::collections::BTreeSet::new();
    for descriptor in told.as_array().expect("descriptors") {
        let slot = descriptor["key"]["slot"].as_u64().expect("a slot");
        let master = redis::cluster::Cluster::first_master(u16::try_from(slot).expect("a slot"));
        let address = format!("127.0.0.1:{}", cluster.servers[master].port);
        assert_eq!(descriptor["key"]["server"], address.as_str());
        masters.insert(master);
    }
    assert!(masters.len() > 1, "{masters:?}");
}
