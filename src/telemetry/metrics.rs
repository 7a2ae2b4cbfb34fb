//! Metrics: the only file, with those below it, that names one.
//!
//! Those of the reference have its names, without the `_total` that OpenMetrics wants of a counter, so that dashboards go
//! on; hence they are encoded with the type `unknown`. The number of series is bounded wherever a client or a rule file
//! could make more.
//!
//! - [`rule`]: the counters of each rule
//! - [`mod@straddle`]: which hits are near a limit, and which over it

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

pub mod rule;
pub mod straddle;

pub use rule::{RuleCounters, RuleHits};
pub use straddle::straddle;

/// How many unknown domains are counted by name; the others are counted as `other`.
pub const MAX_UNKNOWN_DOMAINS: usize = 100;

/// The buckets of the latency histograms, in seconds.
pub const LATENCY_BUCKETS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0,
];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    rules: Arc<rule::Rules>,
    unknown_domains: Family<DomainLabel, Counter>,
    known_unknowns: Mutex<std::collections::HashSet<String>>,
    global_shadow_mode: Counter,
    config_load_success: Counter,
    config_load_error: Counter,
    errors: Family<ErrorLabel, Counter>,
    requests: Family<MethodLabel, Counter>,
    response_time: Family<MethodLabel, Histogram>,
    decisions: Family<DecisionLabel, Counter>,
    store_calls: Family<StoreLabel, Histogram>,
    store_errors: Family<KindLabel, Counter>,
    fallbacks: Family<ReasonLabel, Counter>,
    rules_loaded: Gauge,
    rules_load_timestamp: Gauge<f64, AtomicU64>,
    embedded_keys: Gauge,
    lost_give_backs: Gauge,
    in_flight: Gauge<i64, AtomicI64>,
}

/// A number that only grows, and is called just what it is called. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A call that is under way, for as long as it is held.
#[derive(Debug)]
pub struct InFlight(Gauge<i64, AtomicI64>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabel {
    domain: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    domain: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    err_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    grpc_method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabel {
    store: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// All metrics, nothing counted.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        let rules = Arc::new(rule::Rules::default());
        registry.register_collector(Box::new(Arc::clone(&rules)));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("tollgate_build", "The version that runs", build);
        let mut adder = Adder(&mut registry);
        let metrics = Self {
            rules,
            known_unknowns: Mutex::default(),
            unknown_domains: adder.add(
                "ratelimit_service_rate_limit_domain_not_found",
                "Requests for a domain without rules",
                Family::default(),
            ),
            global_shadow_mode: adder.add(
                "ratelimit_service_global_shadow_mode",
                "Requests that SHADOW_MODE let pass",
                Counter::default(),
            ),
            config_load_success: adder.add(
                "ratelimit_service_config_load_success",
                "Loads of the rules that succeeded",
                Counter::default(),
            ),
            config_load_error: adder.add(
                "ratelimit_service_config_load_error",
                "Loads of the rules that failed; the rules before stay",
                Counter::default(),
            ),
            errors: adder.add(
                "ratelimit_service_should_rate_limit_error",
                "Requests without a decision (service_error), or decided without the store (redis_error)",
                Family::default(),
            ),
            requests: adder.add(
                "ratelimit_service_total_requests",
                "gRPC calls",
                Family::default(),
            ),
            response_time: adder.add(
                "ratelimit_service_response_time_seconds",
                "Time to answer a gRPC call",
                Family::new_with_constructor(latency as fn() -> Histogram),
            ),
            decisions: adder.add(
                "tollgate_decisions",
                "Requests by what was decided and why",
                Family::default(),
            ),
            store_calls: adder.add(
                "tollgate_store_call_seconds",
                "Time of the store's answers",
                Family::new_with_constructor(latency as fn() -> Histogram),
            ),
            store_errors: adder.add(
                "tollgate_store_errors",
                "Calls that the store did not answer",
                Family::default(),
            ),
            fallbacks: adder.add(
                "tollgate_fallbacks",
                "Requests decided without the store, by failure mode",
                Family::default(),
            ),
            rules_loaded: adder.add("tollgate_rules_loaded", "Rules that hold", Gauge::default()),
            rules_load_timestamp: adder.add(
                "tollgate_rules_load_timestamp_seconds",
                "When the rules that hold were loaded",
                Gauge::default(),
            ),
            embedded_keys: adder.add(
                "tollgate_embedded_keys",
                "Keys in the embedded store",
                Gauge::default(),
            ),
            lost_give_backs: adder.add(
                "tollgate_store_lost_give_backs",
                "Charges of refused requests that could not be given back: limits that are stricter until their windows end",
                Gauge::default(),
            ),
            in_flight: adder.add("tollgate_in_flight", "gRPC calls under way", Gauge::default()),
            registry: Registry::default(),
        };
        Arc::new(Self {
            registry,
            ..metrics
        })
    }

    /// The text that Prometheus reads, in the OpenMetrics format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The counters of a rule; the same before and after a reload.
    pub fn rule(&self, domain: &str, rule: &str) -> RuleCounters {
        self.rules.counters(domain, rule)
    }

    /// A request for a domain without rules.
    pub fn domain_not_found(&self, domain: &str) {
        let mut known = self.known_unknowns.lock();
        let name = if known.contains(domain) {
            domain
        } else if known.len() < MAX_UNKNOWN_DOMAINS {
            known.insert(domain.to_owned());
            domain
        } else {
            "other"
        };
        drop(known);
        let domain = name.to_owned();
        self.unknown_domains
            .get_or_create(&DomainLabel { domain })
            .inc();
    }

    /// A request that the global shadow mode let pass.
    pub fn global_shadow_mode(&self) {
        self.global_shadow_mode.inc();
    }

    /// The rules were loaded at `at_secs` since the epoch; `rules` hold now.
    pub fn config_loaded(&self, rules: usize, at_secs: f64) {
        self.config_load_success.inc();
        self.rules_loaded
            .set(i64::try_from(rules).unwrap_or(i64::MAX));
        self.rules_load_timestamp.set(at_secs);
    }

    /// The rules could not be loaded.
    pub fn config_failed(&self) {
        self.config_load_error.inc();
    }

    /// A request that is not decided.
    pub fn service_error(&self) {
        let err_type = "service_error";
        self.errors.get_or_create(&ErrorLabel { err_type }).inc();
    }

    /// A gRPC call, and how long it took.
    pub fn call(&self, grpc_method: &'static str, took: Duration) {
        let label = MethodLabel { grpc_method };
        self.requests.get_or_create(&label).inc();
        self.response_time
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    /// A decision, of a domain that has rules.
    pub fn decision(&self, domain: &str, reason: &'static str) {
        let domain = domain.to_owned();
        self.decisions
            .get_or_create(&DecisionLabel { domain, reason })
            .inc();
    }

    /// A call to the store, how long it took, and `ok` or the kind of error.
    pub fn store_call(&self, store: &'static str, outcome: &'static str, took: Duration) {
        let label = StoreLabel { store, outcome };
        self.store_calls
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        if outcome != "ok" {
            let err_type = "redis_error";
            self.errors.get_or_create(&ErrorLabel { err_type }).inc();
            self.store_errors
                .get_or_create(&KindLabel { kind: outcome })
                .inc();
        }
    }

    /// A request decided without the store.
    pub fn fallback(&self, reason: &'static str) {
        self.fallbacks.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// How many keys the embedded store has.
    pub fn embedded_keys(&self, keys: usize) {
        self.embedded_keys
            .set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// How many charges of refused requests could not be given back.
    pub fn lost_give_backs(&self, count: u64) {
        self.lost_give_backs
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a call as under way until what is returned is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl EncodeMetric for Counter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Counter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers a metric and hands it back.
struct Adder<'r>(&'r mut Registry);

impl Adder<'_> {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Hits;

    #[test]
    fn names_and_labels_are_the_references() {
        let metrics = Metrics::new();
        let counters = metrics.rule("edge", "user_id.path_/x");
        counters.add(RuleHits {
            total: Hits::whole(3),
            ..RuleHits::default()
        });
        let text = metrics.encode();
        let wanted = "ratelimit_service_rate_limit_total_hits{domain=\"edge\",rule=\"user_id.path_/x\",key1=\"user_id\",key2=\"path_/x\"} 3\n";
        assert!(text.contains(wanted), "{text}");
        assert!(
            text.contains("ratelimit_service_config_load_success 0\n"),
            "{text}"
        );
    }

    #[test]
    fn clients_cannot_make_series() {
        let metrics = Metrics::new();
        for i in 0..1000 {
            metrics.domain_not_found(&format!("d{i}"));
        }
        let text = metrics.encode();
        assert_eq!(
            text.matches("domain_not_found{").count(),
            MAX_UNKNOWN_DOMAINS + 1
        );
        assert!(
            text.contains("domain_not_found{domain=\"other\"} 900\n"),
            "{text}"
        );
    }

    #[test]
    fn labels_are_escaped() {
        let metrics = Metrics::new();
        metrics.domain_not_found("a\"} 1\nb");
        assert!(metrics.encode().contains("domain=\"a\\\"} 1\\nb\"} 1\n"));
    }
}
