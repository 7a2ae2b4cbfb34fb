//! Rules that change while the service runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tollgate::engine::{Engine, Settings};
use tollgate::reload::{Reloader, Source};
use tollgate::rules::RuleSet;
use tollgate::rules::compile::Options;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::Clock;

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

/// Of several files that change together, all do or none.
#[test]
fn files_are_loaded_all_or_not_at_all() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let write = |domain: &str, text: &str| {
        let path = dir.path().join(format!("{domain}.yaml"));
        fs::write(path, text).expect("a file");
    };
    let (engine, reloader) = reloader(dir.path());
    let limits = || {
        let limits = |rules: &RuleSet| {
            let rules = rules.rules.iter();
            let limits = rules.flat_map(|rule| &rule.limits);
            let mut numbers: Vec<u32> = limits
                .map(|limit| limit.limit.requests_per_unit())
                .collect();
            numbers.sort_unstable();
            numbers
        };
        engine.with_rules(limits).expect("rules")
    };
    for (domain, requests) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        write(domain, &rules(domain, requests));
    }
    reloader.load().expect("good rules");
    assert_eq!(limits(), [1, 2, 3, 4]);
    for (domain, requests) in [("a", 11), ("b", 12), ("c", 13), ("d", 14)] {
        write(domain, &rules(domain, requests));
    }
    reloader.load().expect("good rules");
    assert_eq!(limits(), [11, 12, 13, 14]);
    write("a", &rules("a", 21));
    write("c", "domain: c\ndescriptorz: []\n");
    write("d", &rules("d", 24));
    reloader.load().expect_err("one is bad");
    assert_eq!(limits(), [11, 12, 13, 14]);
    write("c", &rules("c", 23));
    reloader.load().expect("good rules");
    assert_eq!(limits(), [12, 21, 23, 24]);
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

/// A copy that keeps the times of its source, as `cp -p` and `rsync -t` make it.
#[test]
fn a_file_of_the_same_size_and_time_is_seen() {
    let server = Setup::rules(&rules("d", 1)).start_ready();
    let path = server.rules().join("rules.yaml");
    let time = fs::metadata(&path).and_then(|metadata| metadata.modified());
    fs::write(&path, rules("d", 2)).expect("a file");
    let file = fs::File::options().write(true).open(&path).expect("a file");
    file.set_modified(time.expect("a time"))
        .expect("a time set back");
    wait_for(&server, "d", Some(2));
}

#[test]
fn files_that_are_as_they_were_are_not_loaded_again() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("rules.yaml");
    fs::write(&path, rules("d", 1)).expect("a file");
    let (_, reloader) = reloader(dir.path());
    reloader.load().expect("good rules");
    assert!(reloader.load_changed().is_none());
    fs::write(&path, rules("d", 1)).expect("a file");
    fs::write(dir.path().join("notes.txt"), "other").expect("a file");
    assert!(reloader.load_changed().is_none());
    // A bad text is said once, and a good one that comes back is a change.
    fs::write(&path, "domain: [").expect("a file");
    assert!(reloader.load_changed().expect("a change").is_err());
    assert!(reloader.load_changed().is_none());
    fs::write(&path, rules("d", 1)).expect("a file");
    assert_eq!(
        reloader
            .load_changed()
            .expect("a change")
            .expect("good rules")
            .rules,
        1
    );
}

/// What changes after the rules were loaded and before anyone watches is not missed.
#[tokio::test]
async fn a_change_before_the_watch_is_seen() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let (engine, reloader) = reloader(dir.path());
    let reloader = Arc::new(reloader);
    assert_eq!(reloader.load().expect("no rules").rules, 0);
    fs::write(dir.path().join("rules.yaml"), rules("d", 1)).expect("a file");
    let watch = tokio::spawn(Arc::clone(&reloader).watch(Arc::default()));
    let loaded = || {
        std::future::ready(
            engine
                .with_rules(|rules| rules.rules.len())
                .filter(|n| *n == 1),
        )
    };
    poll::until_async("the rules", loaded).await;
    watch.abort();
}

/// Rules of a directory, and the engine that they go into.
fn reloader(dir: &Path) -> (Arc<Engine>, Reloader) {
    let (clock, metrics) = (Clock::default(), Metrics::new());
    let store = Store::Embedded(Embedded::new(16, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Arc::clone(&metrics));
    let engine = Arc::new(engine);
    let source = Source {
        dir: dir.to_owned(),
        ignore_dotfiles: false,
    };
    let reloader = Reloader::new(source, Options::default(), Arc::clone(&engine), metrics);
    (engine, reloader)
}
