//! Rules that change while the service runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::http::send;
use crate::support::poll;
use crate::support::server::{Server, Setup};

fn rules(domain: &str, requests: u32) -> String {
    format!(
        "domain: {domain}\ndescriptors:\n  - key: k\n    rate_limit: {{unit: day, requests_per_unit: {requests}}}\n"
    )
}

/// The number of the limit that the service answers with; none if it has none.
fn limit(server: &Server, domain: &str) -> Option<u64> {
    let body = format!(
        r#"{{"domain": "{domain}", "descriptors": [{{"entries": [{{"key": "k", "value": "v"}}], "hitsAddend": "0"}}]}}"#
    );
    let reply = send(server.http, "POST", "/json", &[], &body)?;
    let body: serde_json::Value = serde_json::from_str(&reply.body).ok()?;
    body["statuses"][0]["currentLimit"]["requestsPerUnit"].as_u64()
}

#[track_caller]
fn wait_for(server: &Server, domain: &str, wanted: Option<u64>) {
    let what = format!("the limit {wanted:?} of {domain}");
    poll::until(&what, || (limit(server, domain) == wanted).then_some(()));
}

#[test]
fn files_are_edited_replaced_added_and_removed() {
    let server = Setup::rules(&rules("d", 1)).start_ready();
    let dir = server.rules().to_owned();
    assert_eq!(limit(&server, "d"), Some(1));
    fs::write(dir.join("rules.yaml"), rules("d", 2)).expect("a file");
    wait_for(&server, "d", Some(2));
    fs::write(dir.join(".new"), rules("d", 3)).expect("a file");
    fs::rename(dir.join(".new"), dir.join("rules.yaml")).expect("a rename");
    wait_for(&server, "d", Some(3));
    fs::create_dir(dir.join("more")).expect("a directory");
    fs::write(dir.join("more/e.yml"), rules("e", 4)).expect("a file");
    wait_for(&server, "e", Some(4));
    fs::remove_file(dir.join("more/e.yml")).expect("a file");
    wait_for(&server, "e", None);
    assert_eq!(limit(&server, "d"), Some(3));
}

#[test]
fn a_bad_file_keeps_the_old_rules_and_readiness() {
    let server = Setup::rules(&rules("d", 1)).start_ready();
    fs::write(
        server.rules().join("rules.yaml"),
        "domain: d\ndescriptorz: []\n",
    )
    .expect("a file");
    server.wait_for_log("did you mean `descriptors`?");
    assert_eq!(limit(&server, "d"), Some(1));
    assert!(server.is_ready());
    assert_eq!(server.metric("ratelimit_service_config_load_error"), 1.0);
    fs::write(server.rules().join("rules.yaml"), rules("d", 2)).expect("a file");
    wait_for(&server, "d", Some(2));
    assert_eq!(server.metric("ratelimit_service_config_load_error"), 1.0);
    assert_eq!(server.metric("ratelimit_service_config_load_success"), 2.0);
}

#[test]
fn a_config_map_is_swapped() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let (root, mount) = (dir.path(), dir.path().join("mount"));
    fs::create_dir(&mount).expect("a directory");
    let version = |number: u32| {
        let name = format!("..v{number}");
        fs::create_dir(mount.join(&name)).expect("a directory");
        fs::write(mount.join(&name).join("rules.yaml"), rules("d", number)).expect("a file");
        std::os::unix::fs::symlink(&name, mount.join("..tmp")).expect("a link");
        fs::rename(mount.join("..tmp"), mount.join("..data")).expect("a rename");
    };
    version(1);
    std::os::unix::fs::symlink("..data/rules.yaml", mount.join("rules.yaml")).expect("a link");
    let server = Setup::rules("")
        .env("RULES_DIR", &mount.display().to_string())
        .start_ready();
    assert_eq!(limit(&server, "d"), Some(1));
    version(2);
    wait_for(&server, "d", Some(2));
    let _ = root;
}

#[test]
fn the_runtime_root_is_swapped() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let version = |number: u32| {
        let config = dir.path().join(format!("v{number}/ratelimit/config"));
        fs::create_dir_all(&config).expect("a directory");
        fs::write(config.join("rules.yaml"), rules("d", number)).expect("a file");
        let _ = fs::remove_file(dir.path().join("tmp"));
        std::os::unix::fs::symlink(format!("v{number}"), dir.path().join("tmp")).expect("a link");
        fs::rename(dir.path().join("tmp"), dir.path().join("current")).expect("a rename");
    };
    version(1);
    let root = dir.path().join("current").display().to_string();
    let server = Setup::rules("")
        .env("RUNTIME_ROOT", &root)
        .env("RUNTIME_SUBDIRECTORY", "ratelimit")
        .start_ready();
    assert_eq!(limit(&server, "d"), Some(1));
    version(2);
    wait_for(&server, "d", Some(2));
}

#[test]
fn a_hangup_reloads() {
    let server = Setup::rules(&rules("d", 1)).start_ready();
    server.signal("HUP");
    poll::until("a second load", || {
        (server.metric("ratelimit_service_config_load_success") == 2.0).then_some(())
    });
    // What was used is still used: a reload resets nothing.
    let charge = r#"{"domain": "d", "descriptors": [{"entries": [{"key": "k", "value": "v"}]}]}"#;
    assert_eq!(
        send(server.http, "POST", "/json", &[], charge)
            .expect("an answer")
            .code,
        200
    );
    server.signal("HUP");
    poll::until("a third load", || {
        (server.metric("ratelimit_service_config_load_success") == 3.0).then_some(())
    });
    assert_eq!(
        send(server.http, "POST", "/json", &[], charge)
            .expect("an answer")
            .code,
        429
    );
}

#[test]
fn the_directory_goes_and_comes_back() {
    let server = Setup::rules(&rules("d", 1)).start_ready();
    let (dir, away) = (
        server.rules().to_owned(),
        server.rules().with_extension("away"),
    );
    rename(&dir, &away);
    server.wait_for_log("the rules cannot be read");
    assert_eq!(limit(&server, "d"), Some(1));
    fs::write(away.join("rules.yaml"), rules("d", 2)).expect("a file");
    rename(&away, &dir);
    wait_for(&server, "d", Some(2));
}

fn rename(from: &Path, to: &Path) {
    let status = Command::new("mv").args([from, to]).status();
    assert!(status.expect("mv").success());
}
