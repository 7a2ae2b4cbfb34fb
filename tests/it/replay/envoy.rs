//! Replays of the access log that a real Envoy has written, in the format of `envoy/envoy.yaml`.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::report;
use crate::support::gateway::Gateway;
use crate::support::poll;

/// How many of a year's requests for a path pass.
fn rules(dir: &TempDir, most: u32) -> PathBuf {
    let rules = dir.path().join(format!("rules-{most}"));
    std::fs::create_dir(&rules).expect("a directory");
    std::fs::write(rules.join("edge.yaml"), text(most)).expect("a file");
    rules
}

fn text(most: u32) -> String {
    format!(
        "domain: edge\ndescriptors:\n  - {{key: path, value: /limited, rate_limit: {{requests_per_unit: {most}, unit: year}}}}\n"
    )
}

#[test]
fn the_log_of_a_real_envoy_is_replayed_as_it_stands() {
    let gateway = Gateway::start("envoy.yaml", &[], &text(5));
    let codes: Vec<u16> = (0..9)
        .map(|_| gateway.envoy.get("/limited", &[]).code)
        .collect();
    assert_eq!(codes, [200, 200, 200, 200, 200, 429, 429, 429, 429]);
    assert_eq!(
        gateway.envoy.get("/free", &[("x-api-key", "alice")]).code,
        200
    );
    // It is not asked about.
    assert_eq!(gateway.envoy.get("/health", &[]).code, 200);
    poll::until("Envoy to write its log", || {
        let lines = gateway.envoy.access_log();
        let is_last = |line: &serde_json::Value| line["path"] == "/health";
        lines.iter().any(is_last).then_some(())
    });
    let log = gateway.envoy.access_log_file();
    let dir = TempDir::new().expect("a directory");
    let envoy = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/envoy.yaml");
    let envoy = envoy.display().to_string();
    let (same, strict) = (rules(&dir, 5), rules(&dir, 3));
    for how in [["--envoy", envoy.as_str()], ["--descriptor", "path=%path%"]] {
        let report = report(&same, &log, &how);
        let compared = &report["compared"];
        assert_eq!(compared["refused_before"], 4, "{how:?}: {report:#}");
        assert_eq!(compared["refused_now"], 4, "{how:?}: {report:#}");
        assert_eq!(compared["newly_refused"], 0, "{how:?}: {report:#}");
        assert_eq!(compared["newly_admitted"], 0, "{how:?}: {report:#}");
        let notes = report["traffic"]["notes"].to_string();
        assert!(notes.contains("Tollgate was not asked about"), "{notes}");
        assert!(!notes.contains("cannot be read"), "{notes}");
        let report = super::report(&strict, &log, &how);
        assert_eq!(
            report["compared"]["newly_refused"], 2,
            "{how:?}: {report:#}"
        );
        assert_eq!(report["by_rule"][0]["rule"], "path_/limited");
        assert_eq!(report["by_rule"][0]["refused_before"], 4);
    }
}
