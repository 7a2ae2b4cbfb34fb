//! From a bucket of the time to answer to a trace.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{CALLER, RULES, TRACE, ask};
use crate::support::http::{get, send};
use crate::support::otlp::Received;
use crate::support::poll;
use crate::support::redis::free_port;
use crate::support::server::{Server, Setup};

const OPEN: &str = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5";

fn open_metrics(server: &Server) -> String {
    let accept = [("accept", OPEN)];
    let reply = send(server.http, "GET", "/metrics", &accept, "").expect("an answer");
    let kind = reply.one("content-type");
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(reply.body.ends_with("\n# EOF\n"));
    reply.body
}

/// The lines that have an exemplar, each cut there.
fn exemplars(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" # ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_leads_to_the_last_trace_in_it() {
    let (_received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("TRACING_SAMPLING_RATE", "0")
        .env("TRACE_ALWAYS", "refused")
        .start_ready();
    ask(&server, None).await;
    ask(&server, Some(&format!("00-{}-{CALLER}-00", "3".repeat(32)))).await;
    let kept = open_metrics(&server);
    let traced: Vec<(&str, &str)> = exemplars(&kept);
    assert_eq!(traced.len(), 1, "the refusal, which is kept: {traced:?}");
    assert!(traced[0].1.contains(&"3".repeat(32)));

    for _ in 0..20 {
        ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    }
    let text = open_metrics(&server);
    let mut found = 0;
    for (series, exemplar) in exemplars(&text) {
        let wanted = "ratelimit_service_response_time_seconds_bucket{";
        assert!(series.starts_with(wanted), "{series}");
        let (labels, said) = exemplar.split_once("} ").expect("labels");
        let (took, at) = said.split_once(' ').expect("a value and a time");
        let [took, at] = [took, at].map(|number| number.parse::<f64>().expect("a number"));
        let end = series.split("le=\"").nth(1).expect("a bucket");
        let end: f64 = end
            .split('"')
            .next()
            .expect("its end")
            .parse()
            .expect("a number");
        assert!(took > 0.0 && took <= end, "{series} {took}");
        assert!(at > 1.6e9, "{at}");
        assert!(labels.contains(",span_id=\""), "{labels}");
        found += usize::from(labels.contains(&format!("trace_id=\"{TRACE}\"")));
    }
    assert!(found > 0, "{text}");
    let plain = get(server.http, "/metrics").body;
    assert!(exemplars(&plain).is_empty(), "Prometheus's format has none");
}

/// A Prometheus that scrapes a service; it ends with this.
struct Prometheus {
    process: Child,
    _dir: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_takes_them() {
    let (_received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .start_ready();
    let (dir, port) = (TempDir::new().expect("a directory"), free_port());
    let config = dir.path().join("prometheus.yml");
    let target = server.http;
    let text = format!(
        "global: {{scrape_interval: 200ms}}\nscrape_configs:\n- job_name: tollgate\n  static_configs: [{{targets: ['{target}']}}]\n"
    );
    std::fs::write(&config, text).expect("a file");
    let process = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--enable-feature=exemplar-storage")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus, which tests/tools/install brings");
    let _prometheus = Prometheus { process, _dir: dir };
    let query = "query=ratelimit_service_response_time_seconds_bucket&start=0&end=9999999999";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    poll::until_async("an exemplar", || async {
        ask(&server, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
        let address = ([127, 0, 0, 1], port).into();
        let reply = send(address, "POST", "/api/v1/query_exemplars", &form, query)?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        let series = answer["data"].as_array()?;
        let exemplars = series.iter().filter_map(|one| one["exemplars"].as_array());
        let mut labels = exemplars.flatten().map(|exemplar| &exemplar["labels"]);
        labels
            .any(|labels| labels["trace_id"] == TRACE)
            .then_some(())
    })
    .await;
}
