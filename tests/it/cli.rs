//! The command line of the real binary.

use std::net::TcpListener;
use std::process::Output;

use crate::support::server::{Setup, binary};

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = binary();
    command.args(args).envs(env.iter().copied());
    command.output().expect("the binary runs")
}

#[track_caller]
fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text
}

#[test]
fn help_shows_every_setting_with_its_variable() {
    let output = run(&["serve", "--help"], &[]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Lines are broken where the terminal ends, which may be before a variable's name.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for variable in [
        "GRPC_PORT",
        "REDIS_URL",
        "STORE_TIMEOUT",
        "RUNTIME_ROOT",
        "LOG_FORMAT",
        "TRACING_ENABLED",
    ] {
        assert!(
            text.contains(&format!("[env: {variable}")),
            "{variable}\n{text}"
        );
    }
}

#[test]
fn a_bad_value_is_one_line_and_exit_code_2() {
    for (name, value, said) in [
        ("PORT", "abc", "(variable PORT)"),
        ("STORE_TIMEOUT", "10", "not a duration"),
        ("EMBEDDED_SNAPSHOT_EVERY", "0s", "not longer than no time"),
        ("GRPC_THREADS", "1025", "1025 is not in 0..=1024"),
        ("SHADOW_MODE", "maybe", "neither true nor false"),
        ("NEAR_LIMIT_RATIO", "2", "not a number from 0 to 1"),
        ("REDIS_PERSECOND", "true", "beside REDIS_URL"),
        ("BACKEND_TYPE", "memcache", "memcache is not supported"),
        ("BACKEND_TYPE", "disk", "neither embedded nor redis"),
        ("LOG_LEVEL", "a=b=c", "LOG_LEVEL"),
        ("LOG_LEVEL", "inof", "LOG_LEVEL=inof is neither a level"),
        ("GRPC_SERVER_USE_TLS", "true", "GRPC_SERVER_TLS_CERT"),
    ] {
        let output = run(&["serve"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name}={value}");
        let line = one_line(&output);
        assert!(line.contains(said), "{name}={value}: {line}");
    }
}

#[test]
fn what_is_wrong_with_the_second_redis_is_said_with_its_variable() {
    let first = [("REDIS_URL", "localhost:1"), ("REDIS_PERSECOND", "true")];
    for (name, value, said) in [
        (
            "REDIS_PERSECOND_AUTH",
            "hunter2",
            "needs a REDIS_PERSECOND_URL",
        ),
        (
            "REDIS_PERSECOND_URL",
            "redis://:hunter2@",
            "REDIS_PERSECOND_URL must read",
        ),
    ] {
        let output = run(&["serve"], &[&first[..], &[(name, value)]].concat());
        assert_eq!(output.status.code(), Some(2), "{name}={value}");
        let line = one_line(&output);
        assert!(line.contains(said) && !line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let mut env = vec![
        ("GRPC_HOST", "127.0.0.1"),
        ("GRPC_PORT", port.as_str()),
        ("LOG_LEVEL", "error"),
    ];
    for empty in [
        "GRPC_UDS",
        "REDIS_URL",
        "RUNTIME_ROOT",
        "BACKEND_TYPE",
        "SHADOW_MODE",
        "PORT",
    ] {
        env.push((empty, ""));
    }
    // It gets as far as the port that is taken.
    assert!(one_line(&run(&[], &env)).contains("choose another GRPC_PORT"));
}

#[test]
fn a_taken_port_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let env = [
        ("GRPC_HOST", "127.0.0.1"),
        ("GRPC_PORT", port.as_str()),
        ("LOG_LEVEL", "error"),
    ];
    let output = run(&[], &env);
    assert_eq!(output.status.code(), Some(1));
    assert!(one_line(&output).contains("choose another GRPC_PORT"));
}

#[test]
fn secrets_are_not_shown() {
    let env = [
        ("REDIS_URL", "redis://user:hunter2@localhost:1"),
        ("REDIS_AUTH", "hunter2"),
        ("REDIS_PERSECOND_URL", "redis://:hunter2@localhost:1"),
        ("REDIS_PERSECOND_AUTH", "hunter2"),
        ("PORT", "x"),
    ];
    for args in [&["serve", "--help"][..], &["serve"]] {
        let output = run(args, &env);
        for text in [output.stdout, output.stderr] {
            assert!(!String::from_utf8_lossy(&text).contains("hunter2"));
        }
    }
}

/// Warnings pass, unless they are not to; and machines are told the same as people.
#[test]
fn check_warns_of_what_is_unwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let rules = "domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day}\n";
    std::fs::write(dir.path().join("d.yaml"), rules).expect("a file");
    let path = dir.path().to_str().expect("a path").to_owned();
    let check = |more: &[&str]| {
        let output = run(&[&["check", &path], more].concat(), &[]);
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), text)
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("warning[always-refuses]: this limit refuses every request"),
        "{text}"
    );
    assert!(text.ends_with("1 domain, 1 rule, 1 warning\n"), "{text}");
    assert!(text.contains("memory for a million subjects"), "{text}");
    assert_eq!(check(&["--deny-warnings"]).0, Some(1));
    let json = |format| -> serde_json::Value {
        let (code, text) = check(&["--format", format]);
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let found = &json("json")["diagnostics"][0];
    assert_eq!(found["severity"], "warning");
    assert_eq!(
        (found["line"].as_u64(), found["column"].as_u64()),
        (Some(4), Some(18))
    );
    let sarif = json("sarif");
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(
        (&sarif["version"], &result["level"]),
        (&"2.1.0".into(), &"warning".into())
    );
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["region"]["startLine"], 4);
    let file = dir.path().join("d.yaml");
    assert_eq!(
        place["artifactLocation"]["uri"],
        file.to_str().expect("a path")
    );
    assert_eq!(
        (&found["code"], &result["ruleId"]),
        (&"always-refuses".into(), &"always-refuses".into())
    );
    let kinds = sarif["runs"][0]["tool"]["driver"]["rules"].as_array();
    let mut kinds = kinds.expect("kinds").iter();
    assert!(kinds.any(|kind| kind["id"] == "always-refuses"), "{sarif}");
    let memory = &json("json")["directories"][0]["memory_per_subject"][0];
    assert_eq!(memory["rules"][0]["rule"], "a", "{memory}");
    assert!(memory["redis_bytes"].as_u64() > Some(100), "{memory}");
    // A single file, as hooks name them.
    let output = run(&["check", file.to_str().expect("a path")], &[]);
    assert!(output.status.success(), "{output:?}");
    let empty = tempfile::tempdir().expect("a directory");
    let empty = run(&["check", empty.path().to_str().expect("a path")], &[]);
    assert_eq!(empty.status.code(), Some(2), "{empty:?}");
    let nowhere = run(&["check", "/nowhere/at/all"], &[]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}

#[test]
fn the_tests_of_the_sample_rules_pass() {
    for sample in ["rules", "product"] {
        let dir = format!("{}/config/{sample}", env!("CARGO_MANIFEST_DIR"));
        let output = run(&["test", &dir], &[]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.ends_with(" tests, 0 failed\n"), "{text}");
    }
}

/// What a candidate would have said is expected like the answer itself.
#[test]
fn tests_of_rules_may_expect_what_a_candidate_would_have_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name).display().to_string();
    let rules = "domain: d\ndescriptors:\n  - key: a\n    rate_limit: {requests_per_unit: 2, unit: day, candidate: {requests_per_unit: 1}}\n  - key: b\n";
    std::fs::write(place("d.yaml"), rules).expect("a file");
    let test = "- name: t
  steps:
  - {request: a=x, expect: {decision: ok, candidate: ok}}
  - {request: a=x, expect: {decision: ok, candidate: refused}}
  - {request: a=x, expect: {decision: over_limit, candidate: refused}}
  - {request: b=x, expect: {candidate: null}}
  - {request: a=x, expect: {candidate: ok}}
";
    std::fs::write(place("d.test.yaml"), test).expect("a file");
    let output = run(&["test", &place("")], &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wanted = "step 5, a=x: candidate is \"refused\", not \"ok\"";
    assert!(said.contains(wanted), "{said}");
    assert_eq!(said.matches(" is ").count(), 1, "{said}");
}

/// What is other than expected is told, to people and to machines; what is wrong with a test is no failure of the rules.
#[test]
fn tests_of_rules_fail_where_the_rules_do_something_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name).display().to_string();
    let rules =
        "domain: d\ndescriptors:\n  - key: a\n    rate_limit: {requests_per_unit: 2, unit: day}\n";
    std::fs::write(place("d.yaml"), rules).expect("a file");
    let test = |text: &str| {
        std::fs::write(place("d.test.yaml"), text).expect("a file");
        let junit = place("junit.xml");
        let output = run(&["test", &place(""), "--junit", &junit], &[]);
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        (output.status.code(), said.concat())
    };
    let (code, said) = test(
        "- {name: a < b, steps: [{request: a=x, times: 3, expect: {decision: ok, statuses: [{remaining: 1}]}}]}",
    );
    assert_eq!(code, Some(1), "{said}");
    for line in [
        "FAIL a < b",
        "step 1, 2 of 3, a=x: statuses[0].remaining is 0, not 1",
        "step 1, 3 of 3, a=x: decision is \"over_limit\", not \"ok\"",
        "1 tests, 1 failed",
    ] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
    let junit = std::fs::read_to_string(place("junit.xml")).expect("a file");
    assert!(junit.contains("name=\"a &lt; b\""), "{junit}");
    assert!(junit.contains("tests=\"1\" failures=\"1\""), "{junit}");
    for (text, wrong) in [
        (
            "- {name: t, steps: [{request: a=x, expect: {remaning: 1}}]}",
            "did you mean `remaining`?",
        ),
        (
            "- {name: t, steps: [{request: a}]}",
            "not written like key=value",
        ),
        ("- {name: t, steps: [{advance: 1x}]}", "no length of time"),
        (
            "- {name: t, steps: [{request: a=x, advance: 1s}]}",
            "a step is one of",
        ),
        (
            "- {name: t, domain: e, steps: []}",
            "no rules are for the domain `e`",
        ),
        ("- {name: t, at: noon, steps: []}", "no moment"),
        (
            "- {name: t, steps: [{plan: {a=x: gold}}]}",
            "there is no plan `gold`",
        ),
        ("- {name: t, setps: []}", "unknown field `setps`"),
        (
            "- {name: t, steps: [{request: a=x, times: 0}]}",
            "`times` is a number",
        ),
    ] {
        let (code, said) = test(text);
        assert_eq!(code, Some(2), "{text}\n{said}");
        assert!(said.contains(wrong), "{wrong} in\n{said}");
    }
    let (code, said) = test("[]");
    assert_eq!(code, Some(1), "there are no tests: {said}");
}

#[test]
fn check_says_what_is_wrong() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().display().to_string();
    std::fs::write(
        dir.path().join("a.yaml"),
        "domain: a\ndescriptors:\n  - key: k\n    rate_limit: {unit: minutes}\n",
    )
    .expect("a file");
    let output = run(&["check", &path], &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("a.yaml:4:24") && text.contains("did you mean `minute`?"),
        "{text}"
    );
    std::fs::write(dir.path().join("a.yaml"), "domain: a\n").expect("a file");
    assert!(run(&["check", &path], &[]).status.success());
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rules");
    assert!(
        run(&["check", samples], &[]).status.success(),
        "the sample rules are good"
    );
}

/// What asks it in an image that has nothing else.
#[test]
fn health_says_whether_the_service_is_ready() {
    let rules = "domain: d\ndescriptors: []\n";
    let server = Setup::rules(rules).start_ready();
    let port = server.http.port().to_string();
    let ask = || run(&["health"], &[("PORT", &port)]);
    assert!(ask().status.success());
    drop(server);
    let gone = ask();
    assert_eq!(gone.status.code(), Some(1));
    assert!(one_line(&gone).contains("does not answer"));
    let unready = Setup::rules("domain: [").start();
    let port = unready.http.port().to_string();
    let asked = run(&["health", "--port", &port], &[("PORT", "")]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(one_line(&asked).contains("is not ready"));
}
