//! Metrics: the only file, with those below it, that names one.
//!
//! Those of the reference have its names, without the `_total` that OpenMetrics wants of a counter, so that dashboards go
//! on; hence the format is Prometheus's own, which does not want it. The number of series is bounded wherever a client or a
//! rule file could make more.
//!
//! - [`kinds`]: counters and histograms
//! - `series`: all metrics by name; `labels`: their labels
//! - [`rule`]: the counters of each rule
//! - [`plans`]: those of plans, and of quotas of a month
//! - [`candidates`]: those of limits on trial
//! - [`stats`]: all of them as StatsD has them
//! - `exemplars`: the trace that a bucket leads to
//! - [`mod@straddle`]: which hits are near a limit, and which over it

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use self::candidates::{CandidateCounters, Candidates};
use self::exemplars::Exemplars;
use self::labels::{
    BreakerLabel, DecisionLabel, DomainLabel, ErrorLabel, KeptLabel, KindLabel, MethodLabel,
    OutcomeLabel, ReasonLabel, RulesLabel, StoreLabel,
};
use self::plans::{PlanCounters, Plans, QuotaCounters};
use self::rule::Rules;
use self::series::Series;
use super::tracing::Place;
use super::tracing::always::{Kept, Why};

pub mod candidates;
mod exemplars;
pub mod kinds;
mod labels;
pub mod plans;
pub mod rule;
mod series;
pub mod stats;
pub mod straddle;
mod stripes;

pub use kinds::{Counter, LATENCY_BUCKETS, Latency};
pub use rule::{RuleCounters, RuleHits};
pub use straddle::straddle;

/// What [`Metrics::encode`] returns, as a `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What [`Metrics::encode_open`] returns, as a `Content-Type`.
pub const OPEN_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many unknown domains are counted by name; the others are counted as `other`.
pub const MAX_UNKNOWN_DOMAINS: usize = 100;

/// What they are counted as together.
const OTHER_DOMAIN: &str = "other";

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    series: Series,
    rules: Arc<Rules>,
    /// What every request counts, at hand without a search once it has been used.
    calls: OnceLock<(Counter, Latency)>,
    store_answers: OnceLock<Latency>,
    /// The domains without rules that are counted by name.
    known_unknowns: Mutex<HashSet<String>>,
    exemplars: Exemplars,
    /// By why and by outcome: a flood of refusals counts each of them.
    kept: [[OnceLock<Counter>; Kept::COUNT]; Why::COUNT],
    plans: Plans,
    candidates: Candidates,
}

impl Metrics {
    /// All metrics, nothing counted.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::default();
        let rules = Arc::new(Rules::default());
        registry.register_collector(Box::new(Arc::clone(&rules)));
        let series = Series::register(&mut registry);
        let plans = Plans::register(&mut registry);
        let candidates = Candidates::register(&mut registry);
        Arc::new(Self {
            registry,
            series,
            rules,
            calls: OnceLock::new(),
            store_answers: OnceLock::new(),
            known_unknowns: Mutex::default(),
            exemplars: Exemplars::default(),
            kept: Default::default(),
            plans,
            candidates,
        })
    }

    /// The text that Prometheus reads, of the type [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        prometheus(&self.open())
    }

    /// The same in OpenMetrics, of the type [`OPEN_CONTENT_TYPE`], which has exemplars. What is counted has the type `unknown`, as a
    /// `counter` would need `_total`.
    pub fn encode_open(&self) -> String {
        self.exemplars.add(series::RESPONSE_TIME, &self.open())
    }

    fn open(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The counters of a rule; the same before and after a reload. At most [`rule::MAX_RULES`] are counted by name.
    pub fn rule(&self, domain: &str, rule: &str) -> RuleCounters {
        self.rules.counters(domain, rule, rule::MAX_RULES)
    }

    /// The counters of a rule whose name holds a value of the request. So that clients leave room for the names of the rule
    /// files, they get a name of their own only while fewer than [`rule::MAX_BY_REQUEST`] are counted by name, and none longer than
    /// [`rule::MAX_NAME`].
    pub fn rule_by_request(&self, domain: &str, rule: &str) -> RuleCounters {
        let rule = if rule.len() > rule::MAX_NAME {
            rule::OTHER
        } else {
            rule
        };
        self.rules.counters(domain, rule, rule::MAX_BY_REQUEST)
    }

    /// The counters of a plan; the same before and after a reload. At most [`plans::MAX_PLANS`] are counted by name.
    pub fn plan(&self, domain: &str, plan: &str) -> PlanCounters {
        self.plans.plan(domain, plan)
    }

    /// The counters of a limit of a month, of a `plan` or of none; the same before and after a reload. At most
    /// [`plans::MAX_PLANS`] are counted by name.
    pub fn quota(&self, domain: &str, rule: &str, plan: &str) -> QuotaCounters {
        self.plans.quota(domain, rule, plan)
    }

    /// The counters of a candidate for the limit of this name; the same before and after a reload. At most
    /// [`candidates::MAX_CANDIDATES`] are counted by name.
    pub fn candidate(&self, domain: &str, rule: &str) -> CandidateCounters {
        self.candidates.counters(domain, rule)
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
            OTHER_DOMAIN
        };
        drop(known);
        let domain = name.to_owned();
        self.series
            .unknown_domains
            .get_or_create(&DomainLabel { domain })
            .inc();
    }

    /// A request that the global shadow mode let pass.
    pub fn global_shadow_mode(&self) {
        self.series.global_shadow_mode.inc();
    }

    /// The rules were loaded at `at_secs` since the epoch; `rules` hold now, of files that are known by `version`.
    pub fn config_loaded(&self, rules: usize, version: &str, at_secs: f64) {
        let version = version.to_owned();
        // Those before hold no more.
        self.series.rules_info.clear();
        let info = self
            .series
            .rules_info
            .get_or_create(&RulesLabel { version });
        info.set(1);
        drop(info);
        self.series.config_load_success.inc();
        self.series
            .rules_loaded
            .set(i64::try_from(rules).unwrap_or(i64::MAX));
        self.series.rules_load_timestamp.set(at_secs);
    }

    /// Whether the management server that has the rules is connected.
    pub fn management_server(&self, connected: bool) {
        self.series.xds_connected.set(i64::from(connected));
    }

    /// The rules could not be loaded.
    pub fn config_failed(&self) {
        self.series.config_load_error.inc();
    }

    /// A request that is not decided.
    pub fn service_error(&self) {
        let err_type = "service_error";
        self.series
            .errors
            .get_or_create(&ErrorLabel { err_type })
            .inc();
    }

    /// Calls of `ShouldRateLimit`, and how long each took.
    pub fn calls(&self, calls: u32, took: Duration) {
        let (requests, response_time) = self.calls.get_or_init(|| {
            let grpc_method = "ShouldRateLimit";
            let label = MethodLabel { grpc_method };
            (
                self.series.requests.get_or_create(&label).clone(),
                self.series.response_time.get_or_create(&label).clone(),
            )
        });
        requests.add(calls.into());
        response_time.observe_all(calls.into(), took);
    }

    /// Where a call that took `took` until now is found among the traces, if it is there.
    pub fn exemplar(&self, took: Duration, place: Option<Place>) {
        if let Some(place) = place {
            self.exemplars.put(took, place);
        }
    }

    /// A decision that is kept for the traces though the sampler did not choose it, and whether there was room.
    pub fn kept_trace(&self, (why, kept): (Why, Kept)) {
        let of_kind = || {
            let (why, outcome) = (why.name(), kept.name());
            let label = KeptLabel { why, outcome };
            self.series.kept_traces.get_or_create(&label).clone()
        };
        self.kept[why as usize][kept as usize]
            .get_or_init(of_kind)
            .inc();
    }

    /// The counter of the decisions on a domain that has rules, for one reason of a closed set.
    pub fn decisions(&self, domain: &str, reason: &'static str) -> Counter {
        let domain = domain.to_owned();
        let label = DecisionLabel { domain, reason };
        self.series.decisions.get_or_create(&label).clone()
    }

    /// A call to the store that was answered, and how long it took.
    pub fn store_answered(&self, store: &'static str, took: Duration) {
        let outcome = "ok";
        let label = StoreLabel { store, outcome };
        let of_store = || self.series.store_calls.get_or_create(&label).clone();
        self.store_answers.get_or_init(of_store).observe(took);
    }

    /// A call to the store that was not answered, how long it took, and the kind of error.
    pub fn store_failed(&self, store: &'static str, outcome: &'static str, took: Duration) {
        let label = StoreLabel { store, outcome };
        self.series.store_calls.get_or_create(&label).observe(took);
        let err_type = "redis_error";
        let errors = &self.series.errors;
        errors.get_or_create(&ErrorLabel { err_type }).inc();
        let kind = KindLabel { kind: outcome };
        self.series.store_errors.get_or_create(&kind).inc();
    }

    /// The embedded store was written to its file at `at_secs` since the epoch; or it could not be.
    pub fn snapshot(&self, at_secs: Option<f64>) {
        let outcome = if at_secs.is_some() { "ok" } else { "error" };
        let label = OutcomeLabel { outcome };
        self.series.snapshots.get_or_create(&label).inc();
        if let Some(at_secs) = at_secs {
            self.series.snapshot_timestamp.set(at_secs);
        }
    }

    /// A standing that the store did not tell, and the kind of error.
    pub fn directory_error(&self, kind: &'static str) {
        let errors = self
            .series
            .directory_errors
            .get_or_create(&KindLabel { kind });
        errors.inc();
    }

    /// How many charges were told of while too much usage waited to be written down.
    pub fn usage_late(&self, count: u64) {
        self.series.usage_late.set(count);
    }

    /// How often standings were known, and how often the store was asked for one.
    pub fn directory(&self, (hits, misses): (u64, u64)) {
        self.series.directory_hits.set(hits);
        self.series.directory_misses.set(misses);
    }

    /// A request decided without the store.
    pub fn fallback(&self, reason: &'static str) {
        self.series
            .fallbacks
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    /// How many keys the embedded store has.
    pub fn embedded_keys(&self, keys: usize) {
        self.series
            .embedded_keys
            .set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// How many requests were refused from memory, and how many went to the store together with others.
    pub fn spared(&self, (remembered, combined): (u64, u64)) {
        self.series.remembered.set(remembered);
        self.series.combined.set(combined);
    }

    /// The servers of the store, and whether calls of each durability are kept from them.
    pub fn breakers(&self, servers: impl IntoIterator<Item = (String, &'static str, bool)>) {
        // One that is no longer among them has no series.
        self.series.breaker_open.clear();
        for (server, durability, is_open) in servers {
            let label = BreakerLabel { server, durability };
            let open = self.series.breaker_open.get_or_create(&label);
            open.set(i64::from(is_open));
        }
    }

    /// How many instances there are.
    pub fn instances(&self, count: u32) {
        self.series.instances.set(count.into());
    }

    /// How many keys the store is to be told of, and how many it has been told of; how many hits it was told of in vain, perhaps.
    pub fn owed(&self, (owed, settled): (usize, u64), unknown: u64) {
        self.series.owed.set(owed as u64);
        self.series.settled.set(settled);
        self.series.settled_unknown.set(unknown);
    }

    /// How many decisions were recorded, and how many the capture misses.
    pub fn recorded(&self, (taken, missing): (u64, u64)) {
        self.series.recorded.set(taken);
        self.series.record_missing.set(missing);
    }

    /// How many requests were charged in advance.
    pub fn leased(&self, count: u64) {
        self.series.leased.set(count);
    }

    /// How often another server of the store took over.
    pub fn failovers(&self, count: u64) {
        self.series.failovers.set(count);
    }

    /// How many charges could not be given back.
    pub fn lost_give_backs(&self, count: u64) {
        self.series.lost_give_backs.set(count);
    }

    /// So many more calls are under way, or fewer.
    pub fn in_flight(&self, change: i64) {
        self.series.in_flight.inc_by(change);
    }
}

/// The encoder's OpenMetrics in Prometheus's own format, which has counters of any name and no mark at the end.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let kind = line.strip_suffix(" unknown");
        match kind.filter(|line| line.starts_with("# TYPE ")) {
            Some(named) => text.extend([named, " counter\n"]),
            None => text.extend([line, "\n"]),
        }
    }
    text
}
