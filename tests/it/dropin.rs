//! The binary in the place of envoyproxy/ratelimit: its names, its variables, its other programs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tollgate::reload::LOOK_EVERY;
use tollgate::settings::reference::{WITHOUT_EFFECT, variables};

use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup, binary};

fn root(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// All variables of the reference, each with its default.
fn of_the_reference() -> Vec<(String, String)> {
    let text = fs::read_to_string(root("tests/compat/variables.txt")).expect("a list");
    let pair = |line: &str| {
        let (name, default) = line.split_once('=').expect("NAME=DEFAULT");
        (name.to_owned(), default.to_owned())
    };
    text.lines().map(pair).collect()
}

fn is_without_effect(name: &str) -> bool {
    WITHOUT_EFFECT.iter().any(|(variable, _)| *variable == name)
}

#[test]
fn every_variable_is_a_setting_or_is_said_to_have_no_effect() {
    let (reference, settings) = (of_the_reference(), variables());
    assert_eq!(reference.len(), 115);
    for (name, _) in &reference {
        let is_setting = settings.contains(name);
        assert!(is_setting || is_without_effect(name), "{name} is ignored");
        let both = is_setting && is_without_effect(name);
        assert!(!both, "{name} is both");
    }
}

/// What stands in the table of variables: whether it is honoured, and the rest.
fn documented(text: &str, name: &str) -> String {
    let start = format!("| `{name}` |");
    let mut lines = text.lines().filter(|line| line.starts_with(&start));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("{name} is not documented"));
    assert!(lines.next().is_none(), "{name} is documented twice");
    line[start.len()..].trim_matches([' ', '|']).to_owned()
}

#[test]
fn every_variable_is_documented_as_it_is() {
    let text = fs::read_to_string(root("docs/differences.md")).expect("a page");
    let help = run(binary().args(["serve", "--help"])).1;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, default) in of_the_reference() {
        let said = documented(&text, &name);
        let advice = WITHOUT_EFFECT
            .iter()
            .find(|(variable, _)| *variable == name);
        match advice {
            Some((_, advice)) => {
                assert_eq!(said, format!("no effect: {advice}"), "{name}");
            }
            None => assert!(!said.starts_with("no effect"), "{name}"),
        }
        if !default.is_empty() && said == "as there" {
            let found = default_of(&help, &name).unwrap_or(default.clone());
            assert!(found.eq_ignore_ascii_case(&default), "{name}: {found}");
        }
    }
    for (name, advice) in WITHOUT_EFFECT {
        let said = documented(&text, name);
        assert!(said.ends_with(advice), "{name}");
    }
}

/// The default that the help tells of; none if it tells of none.
fn default_of(help: &str, name: &str) -> Option<String> {
    let (_, after) = help.split_once(&format!("[env: {name}=]"))?;
    let (default, _) = after
        .trim_start()
        .strip_prefix("[default: ")?
        .split_once(']')?;
    Some(default.to_owned())
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn each_variable_without_effect_is_a_line_at_the_start() {
    let with = |setup: Setup, (name, _): (&str, &str)| setup.env(name, "hunter2");
    let setup = WITHOUT_EFFECT
        .into_iter()
        .fold(Setup::rules("domain: d"), with);
    let log = setup.env("MEMCACHE_TLS", "false").start_ready().log();
    for (name, advice) in WITHOUT_EFFECT {
        let line = format!("{name} has no effect: {advice}");
        let found = log.iter().filter(|said| said.contains(&line)).count();
        assert_eq!(found, usize::from(name != "MEMCACHE_TLS"), "{line}");
    }
    assert!(!log.iter().any(|line| line.contains("hunter2")));
}

#[test]
fn memcached_is_refused_and_it_is_said_why_and_what_to_do() {
    let (code, _, error) = run(binary()
        .env("BACKEND_TYPE", "memcache")
        .env("MEMCACHE_HOST_PORT", "localhost:11211")
        .env("LOG_LEVEL", "error"));
    assert_eq!(code, Some(2));
    assert!(
        error.contains("memcached cannot charge several limits in one step"),
        "{error}"
    );
    assert!(
        error.contains("use REDIS_URL with BACKEND_TYPE=redis"),
        "{error}"
    );
}

/// The binary by another name, as a link to it is called.
fn called(name: &str) -> Command {
    let mut command = binary();
    command.arg0(name);
    command
}

#[test]
fn the_service_starts_by_the_references_name_and_as_an_argument_of_an_entry_point() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let env = [
        ("GRPC_HOST", "127.0.0.1"),
        ("GRPC_PORT", &port),
        ("LOG_LEVEL", "error"),
    ];
    for command in [
        &mut called("/bin/ratelimit"),
        binary().arg("/bin/ratelimit"),
        binary().arg("ratelimit"),
    ] {
        // It gets as far as the port that is taken.
        let (code, _, error) = run(command.envs(env));
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("choose another GRPC_PORT"), "{error}");
    }
}

#[test]
fn the_config_check_has_the_flags_words_and_exit_codes() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().display().to_string();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    write("a.yaml", "domain: a\n");
    let begin = format!(
        "checking rate limit configs...\nloading config directory: {path}\nopening config file: {path}/a.yaml\n"
    );
    let check = |command: &mut Command, flags: &[&str]| run(command.args(flags));
    for command in [
        &mut called("/bin/ratelimit_config_check"),
        binary().arg("ratelimit_config_check"),
    ] {
        let (code, said, _) = check(command, &["-config_dir", &path]);
        assert_eq!(code, Some(0));
        assert_eq!(said, format!("{begin}all rate limit configs ok\n"));
    }
    write("b.yaml", "domain: a\n");
    let both = format!("-config_dir={path}");
    let (code, said, _) = check(&mut called("ratelimit_config_check"), &[&both]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("\nerror loading rate limit configs: error: "),
        "{said}"
    );
    let merged = [both.as_str(), "-merge_domain_configs"];
    assert_eq!(
        check(&mut called("ratelimit_config_check"), &merged).0,
        Some(0)
    );
    let (code, said, _) = check(
        &mut called("ratelimit_config_check"),
        &["--config_dir=/nowhere"],
    );
    assert_eq!(code, Some(1));
    assert!(
        said.contains("error opening directory /nowhere: "),
        "{said}"
    );
    let (code, _, _) = check(&mut called("ratelimit_config_check"), &["-nope"]);
    assert_eq!(code, Some(2));
}

#[test]
fn the_client_has_the_flags_words_and_exit_codes() {
    let rules = "
domain: d
descriptors:
  - key: k
    rate_limit: {name: few, unit: hour, requests_per_unit: 2}
";
    let server = Setup::rules(rules).start_ready();
    let address = server.grpc.expect("a port").to_string();
    let ask = |flags: &[&str]| {
        run(called("/bin/ratelimit_client")
            .args(["-dial_string", &address])
            .args(flags))
    };
    let good = [
        "-domain",
        "d",
        "-descriptors",
        "k=v",
        "-descriptors",
        "o=x,p=y",
    ];
    let (code, said, _) = ask(&good);
    assert_eq!(code, Some(0), "{said}");
    let flags = format!(
        "Flag: --descriptors=\"[ <key=k, value=v> ] [ <key=o, value=x>  <key=p, value=y> ] \"\n\
         Flag: --dial_string=\"{address}\"\nFlag: --domain=\"d\"\nFlag: --grpc-cert-file=\"\"\n\
         Flag: --grpc-key-file=\"\"\nFlag: --grpc-server-ca-file=\"\"\nFlag: --grpc-use-tls=\"false\"\n\
         Flag: --oltp-protocol=\"\"\nresponse: overall_code:OK statuses:{{code:OK current_limit:{{"
    );
    assert!(said.starts_with(&flags), "{said}");
    for part in [
        "requests_per_unit:2 unit:HOUR",
        "name:\"few\"",
        "limit_remaining:1 duration_until_reset:{seconds:",
        "statuses:{code:OK}",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    ask(&good);
    let (code, said, _) = ask(&good);
    assert_eq!(code, Some(0), "a refusal is an answer");
    assert!(
        said.contains("response: overall_code:OVER_LIMIT statuses:{code:OVER_LIMIT"),
        "{said}"
    );
    let (code, said, _) = ask(&["-domain", "", "-descriptors", "k=v"]);
    assert_eq!(code, Some(1));
    let problem = "request error: rpc error: code = InvalidArgument desc = rate limit domain must not be empty";
    assert!(said.contains(problem), "{said}");
    assert_eq!(ask(&["-descriptors", "k"]).0, Some(2));
    let (code, said, _) = run(binary().args(["ratelimit_client", "-dial_string", "127.0.0.1:1"]));
    assert_eq!(code, Some(1));
    assert!(said.contains("error connecting: 127.0.0.1:1: "), "{said}");
}

const KEY: &str = "
domain: d
descriptors:
  - key: k
    rate_limit: {unit: hour, requests_per_unit: 2}
  - key: other
    rate_limit: {unit: hour, requests_per_unit: 9}
";

/// The answer of `/json` to `hits` of both descriptors of [`KEY`]: its code and body.
fn both(server: &Server, hits: u32) -> (u16, Value) {
    let body = format!(
        r#"{{"domain": "d", "hitsAddend": {hits}, "descriptors": [
            {{"entries": [{{"key": "k", "value": "v"}}]}}, {{"entries": [{{"key": "other", "value": "v"}}]}}]}}"#
    );
    let reply = send(server.http, "POST", "/json", &[], &body).expect("an answer");
    let body = serde_json::from_str(&reply.body).expect("JSON");
    (reply.code, body)
}

#[test]
fn the_modes_let_pass_what_is_over() {
    let usual = Setup::rules(KEY).start_ready();
    assert_eq!(both(&usual, 3).0, 429);
    let shadow = Setup::rules(KEY).env("SHADOW_MODE", "true").start_ready();
    let (code, body) = both(&shadow, 3);
    assert_eq!((code, &body["overallCode"]), (200, &"OK".into()));
    assert_eq!(body["statuses"][0]["code"], "OVER_LIMIT");
    assert_eq!(shadow.metric("ratelimit_service_global_shadow_mode"), 1.0);
    // Refused only when all are over.
    let quota = Setup::rules(KEY).env("QUOTA_MODE", "true").start_ready();
    let (code, body) = both(&quota, 3);
    assert_eq!(
        (code, &body["statuses"][0]["code"]),
        (200, &"OVER_LIMIT".into())
    );
    assert_eq!(both(&quota, 10).0, 429);
}

#[test]
fn headers_and_metadata_are_the_references_when_asked_for() {
    let names = |body: &Value| {
        let headers = body["responseHeadersToAdd"].as_array().cloned();
        let header = |header: &Value| {
            let text = |name: &str| header[name].as_str().unwrap_or_default().to_owned();
            (text("key"), text("value"))
        };
        headers.iter().flatten().map(header).collect::<Vec<_>>()
    };
    let has = |found: &[(String, String)], name: &str, value: &str| {
        found.contains(&(name.to_owned(), value.to_owned()))
    };
    let usual = Setup::rules(KEY).start_ready();
    let found = names(&both(&usual, 1).1);
    assert!(
        !found.iter().any(|(name, _)| name == "RateLimit-Limit"),
        "{found:?}"
    );
    let server = Setup::rules(KEY)
        .env("LIMIT_RESPONSE_HEADERS_ENABLED", "true")
        .env("LIMIT_REMAINING_HEADER", "X-Left")
        .env("RESPONSE_DYNAMIC_METADATA", "true")
        .start_ready();
    let (_, body) = both(&server, 1);
    let found = names(&body);
    assert!(has(&found, "RateLimit-Limit", "2"), "{found:?}");
    assert!(has(&found, "X-Left", "1"), "{found:?}");
    assert!(
        found.iter().any(|(name, _)| name == "RateLimit-Reset"),
        "{found:?}"
    );
    let metadata = &body["dynamicMetadata"];
    assert_eq!(metadata["domain"], "d", "{metadata}");
    assert_eq!(
        metadata["descriptors"][0]["entries"][0], "k=v",
        "{metadata}"
    );
}

#[test]
fn the_near_limit_ratio_says_what_is_near() {
    for (ratio, near) in [("0.8", 2.0), ("0.5", 5.0)] {
        let server = Setup::rules(KEY)
            .env("NEAR_LIMIT_RATIO", ratio)
            .start_ready();
        for _ in 0..9 {
            let body = r#"{"domain": "d", "descriptors": [{"entries": [{"key": "other", "value": "v"}]}]}"#;
            send(server.http, "POST", "/json", &[], body).expect("an answer");
        }
        let name = "ratelimit_service_rate_limit_near_limit{domain=\"d\",rule=\"other\"";
        assert_eq!(server.metric(name), near, "{ratio}");
    }
}

#[test]
fn keys_in_redis_begin_with_the_prefix_and_refusals_are_remembered() {
    let redis = redis::Server::start();
    let server = Setup::rules(KEY)
        .env("BACKEND_TYPE", "redis")
        .env("REDIS_SOCKET_TYPE", "tcp")
        .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
        .env("CACHE_KEY_PREFIX", "edge-1:")
        .env("LOCAL_CACHE_SIZE_IN_BYTES", "1048576")
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    assert_eq!(both(&server, 1).0, 200);
    let port = redis.port.to_string();
    let keys = run(Command::new("redis-cli").args(["-p", &port, "--scan"])).1;
    assert!(keys.lines().any(|key| key.contains("edge-1:")), "{keys}");
    assert_eq!(both(&server, 1).0, 200);
    // The first refusal is from Redis, those after it from memory.
    poll::until("a refusal from memory", || {
        assert_eq!(both(&server, 1).0, 429);
        (server.metric("tollgate_store_remembered") > 0.0).then_some(())
    });
}

#[test]
fn several_files_of_one_domain_need_to_be_allowed() {
    let more = "domain: d\ndescriptors:\n  - {key: more, rate_limit: {unit: hour, requests_per_unit: 1}}\n";
    let refused = Setup::rules(KEY).file("more.yaml", more).start();
    refused.wait_for_log("have errors");
    assert!(!refused.is_ready());
    assert_eq!(get(refused.http, "/healthcheck").code, 500);
    let merged = Setup::rules(KEY).file("more.yaml", more);
    let merged = merged.env("MERGE_DOMAIN_CONFIG", "true").start_ready();
    let limits = get(merged.debug, "/rlconfig").body;
    assert_eq!(limits.lines().count(), 3, "{limits}");
}

#[test]
fn health_waits_for_rules_unless_it_need_not() {
    let wrong = "domain: d\ndescriptorz: []\n";
    let waiting = Setup::rules(wrong).start();
    assert_eq!(get(waiting.http, "/healthcheck").code, 500);
    let forced = Setup::rules(wrong).env("FORCE_START_WITHOUT_INITIAL_CONFIG", "true");
    let forced = forced.start_ready();
    assert_eq!(get(forced.http, "/healthcheck").body, "OK");
}

/// The files as a container of the reference has them: a ConfigMap below RUNTIME_ROOT, with the links that Kubernetes makes.
#[test]
fn a_config_map_below_the_runtime_root_is_reloaded() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let mount = dir.path().join("ratelimit/config");
    fs::create_dir_all(&mount).expect("a directory");
    let version = |number: u32| {
        let data = format!("..2026_{number}");
        fs::create_dir(mount.join(&data)).expect("a directory");
        let text = KEY.replace(
            "requests_per_unit: 2",
            &format!("requests_per_unit: {number}"),
        );
        fs::write(mount.join(&data).join("config.yaml"), text).expect("a file");
        symlink(&data, mount.join("..data_tmp")).expect("a link");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("a rename");
    };
    version(5);
    symlink("..data/config.yaml", mount.join("config.yaml")).expect("a link");
    fs::write(mount.join(".hidden.yaml"), "domain: hidden\n").expect("a file");
    for watch_root in ["true", "false"] {
        let start = |ignore: &str| {
            Setup::rules("")
                .env("RUNTIME_ROOT", &dir.path().display().to_string())
                .env("RUNTIME_SUBDIRECTORY", "ratelimit")
                .env("RUNTIME_WATCH_ROOT", watch_root)
                .env("RUNTIME_IGNOREDOTFILES", ignore)
                .start_ready()
        };
        let (all, server) = (start("false"), start("true"));
        assert!(all.wait_for_log("loaded 2 rules").contains("2 files"));
        assert!(server.wait_for_log("loaded 2 rules").contains("1 files"));
        let number = if watch_root == "true" { 6 } else { 7 };
        version(number);
        let wanted = format!("d.k: unit=HOUR requests_per_unit={number}, ");
        poll::until("the new rules", || {
            let limits = get(server.debug, "/rlconfig").body;
            limits.contains(&wanted).then_some(())
        });
    }
    // What has changed is seen at one look and loaded at the next.
    assert!(LOOK_EVERY * 3 < Duration::from_secs(1));
}

/// Those that envoyproxy/ratelimit makes of its counters, by the same names.
#[test]
fn the_metrics_have_the_references_names() {
    let server = Setup::rules(KEY).env("SHADOW_MODE", "true").start_ready();
    both(&server, 1);
    both(&server, 9);
    let address = server.grpc.expect("a port").to_string();
    let flags = [
        "-domain",
        "",
        "-descriptors",
        "k=v",
        "-dial_string",
        &address,
    ];
    run(binary().arg("ratelimit_client").args(flags));
    let text = get(server.http, "/metrics").body;
    let rule = "{domain=\"d\",rule=\"k\",key1=\"k\",key2=\"\"} ";
    for stat in ["total_hits", "within_limit", "near_limit", "over_limit"] {
        let name = format!("\nratelimit_service_rate_limit_{stat}{rule}");
        assert!(text.contains(&name), "{name}: {text}");
    }
    for name in [
        "ratelimit_service_config_load_success 1",
        "ratelimit_service_config_load_error ",
        "ratelimit_service_global_shadow_mode 1",
        "ratelimit_service_total_requests{grpc_method=\"ShouldRateLimit\"} 1",
        "ratelimit_service_should_rate_limit_error{err_type=\"service_error\"} 1",
        "ratelimit_service_response_time_seconds_bucket{",
        "ratelimit_service_response_time_seconds_count{grpc_method=\"ShouldRateLimit\"} 1",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name}: {text}");
    }
}
