//! What `config/` has for Prometheus and Grafana: alerts that come when they should, and charts that are not empty.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::gateway::{Envoy, edited};
use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::redis::{Server as Redis, free_port};
use crate::support::server::{Server, Setup};

/// Charts ask for the rate over this time; everything in the test happens within it.
const INTERVAL: &str = "1m";

const RULES: &str = "
domain: edge
plans:
  free:
    - {name: free_day, requests_per_unit: 5, unit: day}
    - {name: free_month, requests_per_unit: 1000, unit: month}
descriptors:
  - key: user_id
    plan: {from: directory, default: free}
  - key: user
    value: anonymous
    descriptors:
      - key: remote_address
        shadow_mode: true
        rate_limit: {name: shadowed, requests_per_unit: 1, unit: day, candidate: {requests_per_unit: 2}}
";

#[track_caller]
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus"))
        .output()
        .expect("promtool, which tests/tools/install brings");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn the_configuration_of_prometheus_is_valid_and_its_alerts_come_when_they_should() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "tollgate.rules.test.yml"]);
}

/// All rules of one kind, by name.
fn rules(kind: &str) -> Vec<(String, serde_yaml::Value)> {
    let text = edited("config/prometheus/tollgate.rules.yml", &[]);
    let file: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
    let groups = file["groups"].as_sequence().expect("groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"));
    let named = rules.filter_map(|rule| Some((rule[kind].as_str()?.to_owned(), rule.clone())));
    named.collect()
}

#[test]
fn every_alert_is_tried_and_says_what_to_do() {
    let tests = edited("config/prometheus/tollgate.rules.test.yml", &[]);
    let runbook = edited("docs/operations.md", &[]);
    let alerts = rules("alert");
    assert!(alerts.len() > 8, "{alerts:?}");
    for (name, alert) in alerts {
        assert!(
            tests.contains(&format!("alertname: {name}\n    exp_alerts:")),
            "{name} is not tried"
        );
        assert!(runbook.contains(&format!("\n### {name}\n")), "{name}");
        let link = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook"].as_str(), Some(&*link));
    }
}

/// A Prometheus that scrapes a gateway; it ends with this.
struct Prometheus {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl Prometheus {
    fn start(tollgate: &Server, envoy: &Envoy) -> Self {
        let (dir, port) = (TempDir::new().expect("a directory"), free_port());
        // One Tollgate is enough here.
        let ports = [
            ("localhost:8080\", \"localhost:8082", tollgate.http.port()),
            ("localhost:9901", envoy.admin.port()),
        ];
        let ports = ports.map(|(from, to)| (from, format!("127.0.0.1:{to}")));
        let often = [("_interval: 5s", "_interval: 250ms")].into_iter();
        let edits = ports.iter().map(|(from, to)| (*from, to.as_str()));
        let edits: Vec<(&str, &str)> = edits.chain(often).collect();
        let config = dir.path().join("prometheus.yml");
        std::fs::write(&config, edited("config/prometheus/prometheus.yml", &edits))
            .expect("a file");
        let rules = edited("config/prometheus/tollgate.rules.yml", &[]);
        std::fs::write(dir.path().join("tollgate.rules.yml"), rules).expect("a file");
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let process = Command::new("prometheus")
            .arg(flag("config.file", &config))
            .arg(flag("storage.tsdb.path", &dir.path().join("data")))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, which tests/tools/install brings");
        Self {
            process,
            port,
            _dir: dir,
        }
    }

    /// What an expression comes to; none if it cannot be asked yet.
    fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let address = ([127, 0, 0, 1], self.port).into();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let escaped: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let asked = format!("query={escaped}");
        let reply = send(address, "POST", "/api/v1/query", &form, &asked)?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        Some(answer["data"]["result"].as_array()?.clone())
    }

    /// Whether there is a number.
    fn has_data(&self, expression: &str) -> bool {
        let is_number = |sample: &Value| sample["value"][1] != "NaN";
        let samples = self.query(expression).unwrap_or_default();
        samples.iter().any(is_number)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dashboard(name: &str) -> Value {
    let text = edited(&format!("config/grafana/dashboards/{name}.json"), &[]);
    serde_json::from_str(&text).expect("JSON")
}

/// The title and the expression of every query of the dashboards.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for file in ["gateway", "rate-limits"] {
        let board = dashboard(file);
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expression = target["expr"].as_str().expect("an expression");
                let expression = expression.replace("$__rate_interval", INTERVAL);
                queries.push((
                    format!("{file}: {}", panel["title"]),
                    expression.replace("$domain", ".*"),
                ));
            }
        }
    }
    queries
}

/// A real Prometheus, a real Envoy, a Redis that is away for a while.
#[test]
fn every_chart_and_every_recorded_series_has_data() {
    let redis = Redis::start();
    let tollgate = Setup::rules(RULES)
        .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
        .start_ready();
    let envoy = Envoy::start("envoy.yaml", &[], &[&tollgate]);
    let prometheus = Prometheus::start(&tollgate, &envoy);
    let ask = |user: &str| envoy.get("/hello", &[("x-api-key", user)]);
    let recorded = rules("record").into_iter();
    let recorded = recorded.map(|(name, _)| ("a recorded series".to_owned(), name));
    let all: Vec<(String, String)> = queries().into_iter().chain(recorded).collect();
    assert!(all.len() > 30, "{}", all.len());
    // Rates need a sample from before.
    poll::until("the first samples", || {
        envoy.get("/hello", &[]);
        ask("alice");
        let seen = "ratelimit_service_rate_limit_shadow_mode > 0 and on () up{job=\"envoy\"}";
        prometheus.has_data(seen).then_some(())
    });
    // A request that Tollgate does not answer, which Envoy lets pass.
    tollgate.signal("STOP");
    poll::until("a request that is not answered", || {
        ask("alice");
        // Envoy has none before the first.
        let stats = get(envoy.admin, "/stats?filter=ratelimit.error").body;
        let errors = stats.trim().rsplit_once(": ");
        errors.filter(|(_, number)| *number != "0")?;
        Some(())
    });
    tollgate.signal("CONT");
    redis.signal("-STOP");
    poll::until("decisions without the store", || {
        ask("bob");
        prometheus.has_data("tollgate_fallbacks > 0").then_some(())
    });
    redis.signal("-CONT");
    for (title, expression) in all {
        poll::until(&format!("data of {title}: {expression}"), || {
            for user in ["alice", "carol"] {
                ask(user);
            }
            envoy.get("/hello", &[]);
            prometheus.has_data(&expression).then_some(())
        });
    }
}

#[test]
fn the_dashboards_name_their_data_as_grafana_is_told() {
    let sources = edited("config/grafana/provisioning/datasources/tollgate.yaml", &[]);
    let sources: serde_yaml::Value = serde_yaml::from_str(&sources).expect("YAML");
    let known: Vec<&str> = sources["datasources"]
        .as_sequence()
        .expect("sources")
        .iter()
        .filter_map(|source| source["uid"].as_str())
        .collect();
    let prometheus = &sources["datasources"][0]["jsonData"];
    let traces = &prometheus["exemplarTraceIdDestinations"][0];
    assert_eq!(traces["name"].as_str(), Some("trace_id"));
    assert!(known.contains(&traces["datasourceUid"].as_str().expect("a source")));
    let board = dashboard("rate-limits");
    let panels = board["panels"].as_array().expect("panels").iter();
    let mut targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    assert!(targets.any(|target| target["exemplar"] == true));
    for file in ["gateway", "rate-limits"] {
        let board = dashboard(file);
        for panel in board["panels"].as_array().expect("panels") {
            let uid = panel["datasource"]["uid"].as_str().expect("a source");
            assert!(known.contains(&uid), "{file}: {}", panel["title"]);
        }
    }
}
