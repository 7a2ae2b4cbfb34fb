//! `tollgate check --envoy`: rules held against an Envoy configuration, reviewed as text in `tests/golden/envoy`.
//!
//! `UPDATE_GOLDEN=1` writes what is said now.

use std::fs;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tollgate::envoy::{Client, Configuration, HttpRequest};

use crate::support::gateway::edited;
use crate::support::golden::compare;
use crate::support::server::binary;

/// What a call says, and its exit code.
fn said(args: &[&str]) -> String {
    let output = binary()
        .arg("check")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("a code");
    format!(
        "{}{}exit code {code}\n",
        text(output.stdout),
        text(output.stderr)
    )
}

#[track_caller]
fn golden(name: &str, said: &str) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/envoy");
    compare(&Path::new(dir).join(format!("{name}.txt")), said);
}

#[test]
fn what_is_doubtful_is_said_as_reviewed() {
    let case = [
        "tests/golden/envoy/doubtful/rules",
        "--envoy",
        "tests/golden/envoy/doubtful/envoy.yaml",
    ];
    golden("doubtful", &said(&case));
    let with = |more: &[&str]| said(&[&case, more].concat());
    golden("doubtful_json", &with(&["--format", "json"]));
    golden("doubtful_sarif", &with(&["--format", "sarif"]));
    assert!(with(&["--deny-warnings"]).ends_with("exit code 1\n"));
}

#[test]
fn of_the_samples_nothing_is_doubtful() {
    for case in [
        &["config/rules", "--envoy", "envoy/envoy.yaml"][..],
        &[
            "config/product",
            "--envoy",
            "envoy/product.yaml",
            "--envoy",
            "envoy/gateway.yaml",
        ],
    ] {
        let said = said(&[case, &["--deny-warnings"]].concat());
        assert!(said.ends_with("exit code 0\n"), "{said}");
    }
}

#[test]
fn wrong_configurations_are_told_as_reviewed() {
    let dir = format!(
        "{}/tests/golden/envoy/configurations",
        env!("CARGO_MANIFEST_DIR")
    );
    for item in fs::read_dir(&dir).expect("a directory") {
        let path = item.expect("an item").path();
        let name = path.file_stem().expect("a name").to_str().expect("text");
        if path.extension().is_some_and(|e| e == "yaml") {
            let path = format!("tests/golden/envoy/configurations/{name}.yaml");
            let said = said(&["config/rules", "--envoy", &path]);
            assert!(said.ends_with("exit code 1\n"), "{said}");
            golden(&format!("configurations/{name}"), &said);
        }
    }
    let missing = said(&["config/rules", "--envoy", "nothing.yaml"]);
    assert!(missing.ends_with("exit code 2\n"), "{missing}");
}

const SAMPLE: &str = "tests/golden/envoy/doubtful/envoy.yaml";

fn read(edits: &[(&str, &str)]) -> Configuration {
    let text = edited(SAMPLE, edits);
    Configuration::read(SAMPLE, &text).expect("a configuration")
}

fn request(url: &str) -> HttpRequest {
    HttpRequest::new("GET", url).expect("a URL")
}

/// What is not computed is told, and the others are sent.
#[test]
fn what_is_not_known_is_said_and_not_guessed() {
    let cel = "{extension: {name: expr, typed_config: {descriptor_key: user_id}}}";
    let configuration = read(&[("{remote_address: {}}", cel)]);
    let sent = configuration
        .requests(&request("http://h/search"))
        .expect("it is known");
    let [call] = sent.calls.as_slice() else {
        panic!("{sent:#?}")
    };
    let unknown: Vec<&str> = call.unknown.iter().map(|one| one.why.as_str()).collect();
    assert_eq!(unknown, ["the extension `expr` is not computed here"]);
    assert_eq!(call.descriptors.len(), 1, "{sent:#?}");

    let without_address = read(&[])
        .requests(&request("http://h/search"))
        .expect("it is known");
    let unknown = &without_address.calls[0].unknown;
    assert_eq!(
        unknown[0].why,
        "nobody has said where the request comes from"
    );

    let routes = read(&[(
        "route_config:",
        "rds: {route_config_name: r}\n          other:",
    )]);
    let why = routes
        .requests(&request("http://h/search"))
        .expect_err("it is not known");
    assert!(
        why.to_string().contains("come from a management server"),
        "{why}"
    );
    assert_eq!(routes.shapes().open.len(), 1);

    let matched = read(&[(
        "{prefix: /search}",
        "{prefix: /search, dynamic_metadata: []}",
    )]);
    let why = matched
        .requests(&request("http://h/search"))
        .expect_err("it is not known");
    assert!(
        why.to_string()
            .contains("`dynamic_metadata` is not computed here"),
        "{why}"
    );
    matched
        .requests(&request("http://h/pay"))
        .expect("the prefix does not match, whatever the rest does");
}

/// A dump of a running Envoy has routes of a management server, and listeners twice.
#[test]
fn a_dump_is_read_with_the_routes_that_envoy_was_sent() {
    let listener = |routes: &str| {
        format!(
            r#"{{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l", "filterChains": [{{"filters": [{{"name": "h", "typedConfig":
        {{"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", {routes}, "httpFilters": [{{"name": "rl", "typedConfig":
        {{"@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit", "domain": "d"}}}}]}}}}]}}]}}"#
        )
    };
    let listener = listener(r#""rds": {"routeConfigName": "r"}"#);
    let routes = r#"{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r", "virtualHosts": [{"name": "v", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c", "rateLimits": [{"actions": [{"genericKey": {"descriptorValue": "x"}}]}]}}]}]}"#;
    let dump = format!(
        r#"{{"configs": [{{"staticListeners": [{{"listener": {listener}}}, {{"listener": {listener}}}]}}, {{"dynamicRouteConfigs": [{{"routeConfig": {routes}}}]}}]}}"#
    );
    let configuration = Configuration::read("dump.json", &dump).expect("a configuration");
    assert_eq!(configuration.listeners(), ["l"]);
    let sent = configuration
        .requests(&request("http://h/"))
        .expect("it is known");
    assert_eq!(
        sent.calls[0].descriptors[0].entries,
        [("generic_key".to_owned(), "x".to_owned())]
    );
}

/// Whatever is in a file, reading it ends, and so does asking.
#[test]
fn mutated_configurations_never_panic() {
    let mut random = SmallRng::seed_from_u64(8);
    let names = [
        "envoy/envoy.yaml",
        "envoy/product.yaml",
        "tests/it/envoy_model/actions.yaml",
    ];
    let texts = names.map(|name| edited(name, &[]));
    let words = [
        "null",
        "[]",
        "{}",
        "\"\"",
        "%",
        "%REQ(",
        "-1",
        "99999999999999999999",
        "*",
        "..",
        "\u{e9}",
    ];
    let (mut read, mut asked) = (0, 0);
    for round in 0..300 {
        let text = &texts[round % texts.len()];
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..lines.len());
            let line = lines[place].clone();
            let word = words[random.random_range(0..words.len())];
            lines[place] = match (random.random_range(0..3), line.split_once(": ")) {
                (0, _) => String::new(),
                (_, Some((name, _))) => format!("{name}: {word}"),
                (_, None) => line.replace('/', word),
            };
        }
        let Ok(configuration) = Configuration::read("mutated.yaml", &lines.join("\n")) else {
            continue;
        };
        read += 1;
        let shapes = configuration.shapes();
        for path in ["/", "/generic?key=%zz&=%", "/batch", "*", "/%2e%2e%/\u{e9}"] {
            let request = HttpRequest {
                client: Client::Connection([192, 0, 2, 1].into()),
                headers: vec![
                    ("authorization".to_owned(), "Bearer a.b.c".to_owned()),
                    ("host".to_owned(), ":".to_owned()),
                ],
                path: path.to_owned(),
                ..request("https://gateway:99999/")
            };
            asked += usize::from(configuration.requests(&request).is_ok());
        }
        drop(shapes);
    }
    assert!(
        read > 50 && asked > 200,
        "{read} {asked}: hardly anything is left"
    );
}
