//! The metrics as a scraper reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate::limit::Hits;
use tollgate::telemetry::metrics::plans::{MAX_PLANS, SHARES};
use tollgate::telemetry::metrics::rule::{MAX_BY_REQUEST, MAX_RULES};
use tollgate::telemetry::metrics::{MAX_UNKNOWN_DOMAINS, Metrics, RuleHits};
use tollgate::telemetry::tracing::always::{Kept, Why};

/// Names and types, as dashboards know them.
const FAMILIES: [(&str, &str); 45] = [
    ("ratelimit_service_config_load_error", "counter"),
    ("ratelimit_service_config_load_success", "counter"),
    ("ratelimit_service_global_shadow_mode", "counter"),
    ("ratelimit_service_rate_limit_domain_not_found", "counter"),
    ("ratelimit_service_rate_limit_near_limit", "counter"),
    ("ratelimit_service_rate_limit_over_limit", "counter"),
    ("ratelimit_service_rate_limit_shadow_mode", "counter"),
    ("ratelimit_service_rate_limit_total_hits", "counter"),
    ("ratelimit_service_rate_limit_within_limit", "counter"),
    ("ratelimit_service_response_time_seconds", "histogram"),
    ("ratelimit_service_should_rate_limit_error", "counter"),
    ("ratelimit_service_total_requests", "counter"),
    ("tollgate_build_info", "gauge"),
    ("tollgate_candidate_requests", "counter"),
    ("tollgate_decisions", "counter"),
    ("tollgate_directory_errors", "counter"),
    ("tollgate_directory_hits", "gauge"),
    ("tollgate_directory_misses", "gauge"),
    ("tollgate_embedded_keys", "gauge"),
    ("tollgate_fallbacks", "counter"),
    ("tollgate_in_flight", "gauge"),
    ("tollgate_instances", "gauge"),
    ("tollgate_kept_traces", "counter"),
    ("tollgate_owed", "gauge"),
    ("tollgate_settled", "gauge"),
    ("tollgate_settled_unknown", "gauge"),
    ("tollgate_plan_decisions", "counter"),
    ("tollgate_quota_reached", "counter"),
    ("tollgate_record_missing", "gauge"),
    ("tollgate_recorded", "gauge"),
    ("tollgate_rules_info", "gauge"),
    ("tollgate_rules_load_timestamp_seconds", "gauge"),
    ("tollgate_rules_loaded", "gauge"),
    ("tollgate_usage_late", "gauge"),
    ("tollgate_snapshots", "counter"),
    ("tollgate_snapshot_timestamp_seconds", "gauge"),
    ("tollgate_store_breaker_open", "gauge"),
    ("tollgate_store_call_seconds", "histogram"),
    ("tollgate_store_errors", "counter"),
    ("tollgate_store_failovers", "gauge"),
    ("tollgate_store_lost_give_backs", "gauge"),
    ("tollgate_store_remembered", "gauge"),
    ("tollgate_store_combined", "gauge"),
    ("tollgate_store_leased", "gauge"),
    ("tollgate_xds_connected", "gauge"),
];

/// An exposition, read strictly.
#[derive(Debug, Default)]
pub(crate) struct Read {
    families: BTreeMap<String, String>,
    pub(crate) samples: BTreeMap<String, f64>,
}

pub(crate) fn read(text: &str) -> Read {
    let mut read = Read::default();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').expect("a name and a type");
            family = name.to_owned();
            let before = read.families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(before, None, "{name} comes twice");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().unwrap_or_default();
            let own = name.strip_prefix(&family).expect("a series of its family");
            let histogram = read.families[&family] == "histogram";
            assert!(
                own.is_empty() || histogram && ["_bucket", "_sum", "_count"].contains(&own),
                "{line}"
            );
            let value = value.parse().expect("a number");
            let before = read.samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "{series} comes twice");
        }
    }
    read
}

fn total(hits: Hits) -> RuleHits {
    RuleHits {
        total: hits,
        ..RuleHits::default()
    }
}

#[test]
fn all_names_and_types_are_the_ones_that_dashboards_know() {
    let metrics = Metrics::new();
    // Those with labels are there once something is counted.
    metrics.rule("d", "r").add(total(Hits::ONE));
    metrics.domain_not_found("unknown");
    metrics.service_error();
    metrics.calls(1, Duration::from_millis(1));
    metrics.decisions("d", "within_limit").inc();
    metrics.store_failed("redis", "timeout", Duration::from_millis(1));
    metrics.fallback("fallback_local");
    metrics.directory_error("timeout");
    metrics.snapshot(None);
    metrics.plan("d", "free");
    metrics.candidate("d", "user");
    metrics.config_loaded(1, "0af765191600", 1e9);
    metrics.quota("d", "user.month", "free");
    metrics.kept_trace((Why::Refused, Kept::Dropped));
    metrics.breakers([("10.0.0.1:6379".to_owned(), "usual", false)]);
    let families = read(&metrics.encode()).families;
    let wanted: BTreeMap<String, String> = FAMILIES
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .into();
    assert_eq!(families, wanted);
}

#[test]
fn a_rule_is_counted_by_its_name_and_first_two_levels() {
    let metrics = Metrics::new();
    let counters = metrics.rule("edge", "user_id.path_/x.y");
    counters.add(RuleHits {
        total: Hits::from_thousandths(2500),
        within: Hits::whole(1),
        near: Hits::whole(2),
        over: Hits::from_thousandths(1500),
        shadow: Hits::whole(3),
    });
    // As after a reload: the same counters.
    metrics
        .rule("edge", "user_id.path_/x.y")
        .add(total(Hits::ONE));
    let read = read(&metrics.encode());
    for (stat, wanted) in [
        ("total_hits", 3.5),
        ("within_limit", 1.0),
        ("near_limit", 2.0),
        ("over_limit", 1.5),
        ("shadow_mode", 3.0),
    ] {
        let series = format!(
            "ratelimit_service_rate_limit_{stat}\
             {{domain=\"edge\",rule=\"user_id.path_/x.y\",key1=\"user_id\",key2=\"path_/x\"}}"
        );
        assert_eq!(read.samples.get(&series), Some(&wanted), "{series}");
    }
}

#[test]
fn a_histogram_counts_up_to_and_with_the_end_of_each_bucket() {
    let metrics = Metrics::new();
    for us in [1, 50, 51, 1_000_000, 1_000_001] {
        metrics.store_answered("redis", Duration::from_micros(us));
    }
    let read = read(&metrics.encode());
    let labels = "store=\"redis\",outcome=\"ok\"";
    let sample = |series: &str| *read.samples.get(series).expect(series);
    let below = |end: &str| sample(&bucket(&read, end));
    assert_eq!(below("0.00005"), 2.0);
    assert_eq!(below("0.0001"), 3.0);
    assert_eq!(below("0.5"), 3.0);
    assert_eq!(below("1.0"), 4.0);
    assert_eq!(below("+Inf"), 5.0);
    let count = format!("tollgate_store_call_seconds_count{{{labels}}}");
    assert_eq!(sample(&count), 5.0);
    let sum = sample(&format!("tollgate_store_call_seconds_sum{{{labels}}}"));
    assert!((sum - 2.000_103).abs() < 1e-9, "{sum}");
}

/// The series of the bucket of store calls that ends at `end`.
fn bucket(read: &Read, end: &str) -> String {
    let end = format!("le=\"{end}\"");
    let mut series = read.samples.keys();
    let found = series.find(|s| s.contains("store_call_seconds_bucket") && s.contains(&end));
    found.expect(&end).clone()
}

#[test]
fn clients_cannot_make_series_without_end() {
    let metrics = Metrics::new();
    for i in 0..1000 {
        metrics.domain_not_found(&format!("d{i}"));
    }
    let read = read(&metrics.encode());
    let name = "ratelimit_service_rate_limit_domain_not_found";
    let series = read
        .samples
        .keys()
        .filter(|series| series.starts_with(name));
    assert_eq!(series.count(), MAX_UNKNOWN_DOMAINS + 1);
    let other = format!("{name}{{domain=\"other\"}}");
    assert_eq!(read.samples[&other], 900.0);
}

#[test]
fn names_with_values_of_requests_leave_room_for_the_rules() {
    let metrics = Metrics::new();
    let name = |domain: &str, rule: &str| {
        format!(
            "ratelimit_service_rate_limit_total_hits\
             {{domain=\"{domain}\",rule=\"{rule}\",key1=\"{rule}\",key2=\"\"}}"
        )
    };
    let most = MAX_BY_REQUEST + 100;
    for i in 0..most {
        let counters = metrics.rule_by_request("d", &format!("value{i}"));
        counters.add(total(Hits::ONE));
    }
    metrics.rule("d", "rule").add(total(Hits::ONE));
    let first = read(&metrics.encode()).samples;
    assert_eq!(first[&name("d", "rule")], 1.0);
    assert_eq!(first[&name("d", "other")], 100.0);

    for i in 0..MAX_RULES {
        let counters = metrics.rule("d", &format!("rule{i}"));
        counters.add(total(Hits::ONE));
    }
    // Names that are known stay what they are.
    metrics.rule("d", "rule").add(total(Hits::ONE));
    let then = read(&metrics.encode()).samples;
    assert_eq!(then[&name("d", "rule")], 2.0);
    let all = then.keys().filter(|series| series.contains("total_hits"));
    assert_eq!(all.count(), MAX_RULES);
    assert_eq!(
        then[&name("d", "other")] as usize,
        100 + MAX_RULES - (MAX_RULES - MAX_BY_REQUEST - 2)
    );
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new();
    metrics.domain_not_found("a\"} 1\n# TYPE b unknown\\");
    let text = metrics.encode();
    let wanted = r#"_not_found{domain="a\"} 1\n# TYPE b unknown\\"} 1"#;
    assert!(text.lines().any(|line| line.ends_with(wanted)), "{text}");
    read(&text);
}

#[test]
fn plans_and_quotas_are_bounded() {
    let metrics = Metrics::new();
    for i in 0..MAX_PLANS + 5 {
        metrics.plan("d", &format!("plan{i}")).refused.inc();
        metrics.quota("d", "user", &format!("plan{i}"))[0].inc();
    }
    // What is known stays what it is.
    metrics.plan("d", "plan0").refused.inc();
    let read = read(&metrics.encode()).samples;
    let of = |name: &str| read.keys().filter(|key| key.starts_with(name)).count();
    assert_eq!(of("tollgate_plan_decisions"), (MAX_PLANS + 1) * 2);
    assert_eq!(of("tollgate_quota_reached"), (MAX_PLANS + 1) * SHARES.len());
    let refused = |domain: &str, plan: &str| {
        let labels = format!("domain=\"{domain}\",plan=\"{plan}\",outcome=\"refused\"");
        read[&format!("tollgate_plan_decisions{{{labels}}}")]
    };
    assert_eq!(refused("d", "plan0"), 2.0);
    assert_eq!(refused("other", "other"), 5.0);
}
