//! Every metric but those of the rules, by name, and what it says.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::kinds::{Counter, Latency};
use super::labels::{
    BreakerLabel, DecisionLabel, DomainLabel, ErrorLabel, KeptLabel, KindLabel, MethodLabel,
    OutcomeLabel, ReasonLabel, RulesLabel, StoreLabel, VersionLabel,
};

/// A handle on each metric.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) unknown_domains: Family<DomainLabel, Counter>,
    pub(super) global_shadow_mode: Counter,
    pub(super) config_load_success: Counter,
    pub(super) config_load_error: Counter,
    pub(super) errors: Family<ErrorLabel, Counter>,
    pub(super) requests: Family<MethodLabel, Counter>,
    pub(super) response_time: Family<MethodLabel, Latency>,
    pub(super) decisions: Family<DecisionLabel, Counter>,
    pub(super) store_calls: Family<StoreLabel, Latency>,
    pub(super) store_errors: Family<KindLabel, Counter>,
    pub(super) failovers: Gauge<u64, AtomicU64>,
    pub(super) lost_give_backs: Gauge<u64, AtomicU64>,
    pub(super) remembered: Gauge<u64, AtomicU64>,
    pub(super) combined: Gauge<u64, AtomicU64>,
    pub(super) breaker_open: Family<BreakerLabel, Gauge>,
    pub(super) instances: Gauge,
    pub(super) owed: Gauge<u64, AtomicU64>,
    pub(super) settled: Gauge<u64, AtomicU64>,
    pub(super) settled_unknown: Gauge<u64, AtomicU64>,
    pub(super) leased: Gauge<u64, AtomicU64>,
    pub(super) recorded: Gauge<u64, AtomicU64>,
    pub(super) record_missing: Gauge<u64, AtomicU64>,
    pub(super) directory_hits: Gauge<u64, AtomicU64>,
    pub(super) directory_misses: Gauge<u64, AtomicU64>,
    pub(super) directory_errors: Family<KindLabel, Counter>,
    pub(super) usage_late: Gauge<u64, AtomicU64>,
    pub(super) snapshots: Family<OutcomeLabel, Counter>,
    pub(super) snapshot_timestamp: Gauge<f64, AtomicU64>,
    pub(super) fallbacks: Family<ReasonLabel, Counter>,
    pub(super) rules_loaded: Gauge,
    pub(super) xds_connected: Gauge,
    pub(super) rules_info: Family<RulesLabel, Gauge>,
    pub(super) rules_load_timestamp: Gauge<f64, AtomicU64>,
    pub(super) embedded_keys: Gauge,
    pub(super) in_flight: Gauge<i64, AtomicI64>,
    pub(super) kept_traces: Family<KeptLabel, Counter>,
}

/// The time to answer, whose buckets have exemplars.
pub(super) const RESPONSE_TIME: &str = "ratelimit_service_response_time_seconds";

impl Series {
    /// All of them, nothing counted.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut adder = Adder(registry);
        let build: Family<VersionLabel, Gauge> = adder.add(
            "tollgate_build_info",
            "The version that runs",
            Family::default(),
        );
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&VersionLabel { version }).set(1);
        Self {
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
                RESPONSE_TIME,
                "Time to answer a gRPC call",
                Family::default(),
            ),
            decisions: adder.add(
                "tollgate_decisions",
                "Requests by what was decided and why",
                Family::default(),
            ),
            store_calls: adder.add(
                "tollgate_store_call_seconds",
                "Time of the answers of a store that is waited for",
                Family::default(),
            ),
            store_errors: adder.add(
                "tollgate_store_errors",
                "Calls that the store did not answer",
                Family::default(),
            ),
            failovers: adder.add(
                "tollgate_store_failovers",
                "Times that another server of the store took over",
                Gauge::default(),
            ),
            lost_give_backs: adder.add(
                "tollgate_store_lost_give_backs",
                "Charges of refused requests, and unused ones of leases, that could not be given back: limits that are stricter until their windows end",
                Gauge::default(),
            ),
            remembered: adder.add(
                "tollgate_store_remembered",
                "Requests refused from memory, without asking the store",
                Gauge::default(),
            ),
            combined: adder.add(
                "tollgate_store_combined",
                "Requests that went to the store together with others for the same key",
                Gauge::default(),
            ),
            breaker_open: adder.add(
                "tollgate_store_breaker_open",
                "1 while calls are kept from a server that does not answer, or whose replicas do not confirm what they are to confirm",
                Family::default(),
            ),
            instances: adder.add(
                "tollgate_instances",
                "Instances among which a limit is shared while the store does not answer",
                Gauge::default(),
            ),
            owed: adder.add(
                "tollgate_owed",
                "Keys under which this instance has admitted what the store does not know of yet",
                Gauge::default(),
            ),
            settled: adder.add(
                "tollgate_settled",
                "Keys for which the store was told later what had been admitted without it",
                Gauge::default(),
            ),
            settled_unknown: adder.add(
                "tollgate_settled_unknown",
                "Hits that the store was told of later, without an answer: they may be missing there",
                Gauge::default(),
            ),
            leased: adder.add(
                "tollgate_store_leased",
                "Requests answered from a lease: charged in advance, with another request",
                Gauge::default(),
            ),
            recorded: adder.add(
                "tollgate_recorded",
                "Decisions taken for the file of RECORD",
                Gauge::default(),
            ),
            record_missing: adder.add(
                "tollgate_record_missing",
                "Decisions that the file of RECORD should have and has not",
                Gauge::default(),
            ),
            directory_hits: adder.add(
                "tollgate_directory_hits",
                "Looks at the standing of a subject that this instance knew",
                Gauge::default(),
            ),
            directory_misses: adder.add(
                "tollgate_directory_misses",
                "Looks at the standing of a subject that the store was asked for",
                Gauge::default(),
            ),
            directory_errors: adder.add(
                "tollgate_directory_errors",
                "Standings that the store did not tell: the last known counted, or the rule's default",
                Family::default(),
            ),
            usage_late: adder.add(
                "tollgate_usage_late",
                "Charges whose usage is not written down before the subject's next one, since too many waited",
                Gauge::default(),
            ),
            snapshots: adder.add(
                "tollgate_snapshots",
                "Times that the embedded store was written to its file, or should have been",
                Family::default(),
            ),
            snapshot_timestamp: adder.add(
                "tollgate_snapshot_timestamp_seconds",
                "When it was last written",
                Gauge::default(),
            ),
            fallbacks: adder.add(
                "tollgate_fallbacks",
                "Requests decided without the store, by failure mode",
                Family::default(),
            ),
            xds_connected: adder.add(
                "tollgate_xds_connected",
                "1 while the management server that has the rules is connected, 0 without one",
                Gauge::default(),
            ),
            rules_loaded: adder.add("tollgate_rules_loaded", "Rules that hold", Gauge::default()),
            rules_info: adder.add(
                "tollgate_rules_info",
                "The version of the rules that hold: the same where the files are",
                Family::default(),
            ),
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
            in_flight: adder.add("tollgate_in_flight", "gRPC calls under way", Gauge::default()),
            kept_traces: adder.add(
                "tollgate_kept_traces",
                "Decisions kept for traces by TRACE_ALWAYS, or dropped beyond TRACE_ALWAYS_RATE",
                Family::default(),
            ),
        }
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
