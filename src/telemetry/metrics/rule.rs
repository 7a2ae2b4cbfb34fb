//! The counters of each rule, in thousandths of a hit.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, LabelSetEncoder, MetricEncoder,
};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet};
use prometheus_client::metrics::MetricType;

use super::stripes::Stripes;
use crate::limit::Hits;

/// How many rules are counted by name; the others of a domain are counted as `other`.
pub const MAX_RULES: usize = 10_000;

/// Up to how many a name may still hold a value of the request.
pub const MAX_BY_REQUEST: usize = 5_000;

/// The longest name that holds a value of the request, in bytes: longer ones are counted as `other`, and told as that.
pub const MAX_NAME: usize = 512;

/// What is counted together.
pub const OTHER: &str = "other";

/// The hits of one decision under one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Asked for.
    pub total: Hits,
    /// Of requests within the limit.
    pub within: Hits,
    /// Near the limit.
    pub near: Hits,
    /// Over it.
    pub over: Hits,
    /// Over it, and let pass by shadow mode.
    pub shadow: Hits,
}

/// A handle on the counters of one rule.
#[derive(Clone, Debug, Default)]
pub struct RuleCounters(Stripes<5>);

/// All rules that were counted since the start.
#[derive(Debug, Default)]
pub(super) struct Rules(RwLock<HashMap<RuleLabel, RuleCounters>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RuleLabel {
    domain: String,
    rule: String,
}

/// One of the five counters of a rule, for the encoder, in thousandths.
struct Value(u64);

/// The counters of a rule, as the reference calls them.
pub(super) const RULE_STATS: [&str; 5] = [
    "total_hits",
    "within_limit",
    "near_limit",
    "over_limit",
    "shadow_mode",
];

const NAMES: [(&str, &str); 5] = [
    (
        "ratelimit_service_rate_limit_total_hits",
        "Hits asked for, admitted or not",
    ),
    (
        "ratelimit_service_rate_limit_within_limit",
        "Hits of requests within the limit",
    ),
    (
        "ratelimit_service_rate_limit_near_limit",
        "Hits above NEAR_LIMIT_RATIO of the limit",
    ),
    (
        "ratelimit_service_rate_limit_over_limit",
        "Hits over the limit",
    ),
    (
        "ratelimit_service_rate_limit_shadow_mode",
        "Hits over the limit that shadow mode let pass",
    ),
];

impl RuleCounters {
    /// Counts a decision.
    pub fn add(&self, hits: RuleHits) {
        let RuleHits {
            total,
            within,
            near,
            over,
            shadow,
        } = hits;
        let here = self.0.here();
        let count = |place: usize, hits: Hits| {
            if hits > Hits::ZERO {
                here[place].fetch_add(hits.thousandths(), Ordering::Relaxed);
            }
        };
        // One after the other: a loop over both takes longer than what it does.
        count(0, total);
        count(1, within);
        count(2, near);
        count(3, over);
        count(4, shadow);
    }
}

impl RuleCounters {
    /// Which ones they are: the same for clones, and never another's.
    pub fn id(&self) -> usize {
        self.0.id()
    }

    /// The hits that were asked for, and those that were refused: over the limit, and not let pass by shadow mode. In
    /// thousandths.
    pub fn asked_and_refused(&self) -> (u64, u64) {
        let [total, over, shadow] = [0, 3, 4].map(|place| self.0.sum(place));
        (total, over.saturating_sub(shadow))
    }
}

impl Rules {
    /// The counters of a rule, by its name if it has been counted before or fewer than `most` have.
    pub(super) fn counters(&self, domain: &str, rule: &str, most: usize) -> RuleCounters {
        let mut label = RuleLabel {
            domain: domain.to_owned(),
            rule: rule.to_owned(),
        };
        if let Some(known) = self.0.read().get(&label) {
            return known.clone();
        }
        let mut all = self.0.write();
        if all.len() >= most && !all.contains_key(&label) {
            label.rule = OTHER.to_owned();
        }
        all.entry(label).or_default().clone()
    }
}

impl Rules {
    /// Calls `see` with the domain, the name and the counters of each rule, in thousandths and in the order of [`RULE_STATS`].
    pub(super) fn each(&self, mut see: impl FnMut(&str, &str, [u64; 5])) {
        for (label, counters) in self.0.read().iter() {
            let sum = |place| counters.0.sum(place);
            see(&label.domain, &label.rule, std::array::from_fn(sum));
        }
    }
}

impl Collector for Rules {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.read();
        for (index, (name, help)) in NAMES.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
            for (label, counters) in all.iter() {
                let value = Value(counters.0.sum(index));
                value.encode(family.encode_family(label)?)?;
            }
        }
        Ok(())
    }
}

impl EncodeLabelSet for RuleLabel {
    /// `key1` and `key2` are the first two levels of the rule, as the reference's mapping to Prometheus has them.
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let mut levels = self.rule.split('.');
        ("domain", self.domain.as_str()).encode(encoder.encode_label())?;
        ("rule", self.rule.as_str()).encode(encoder.encode_label())?;
        ("key1", levels.next().unwrap_or_default()).encode(encoder.encode_label())?;
        ("key2", levels.next().unwrap_or_default()).encode(encoder.encode_label())
    }
}

impl EncodeMetric for Value {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let thousandths = self.0;
        if thousandths.is_multiple_of(1000) {
            encoder.encode_gauge(&(thousandths / 1000))
        } else {
            encoder.encode_gauge(&(thousandths as f64 / 1000.0))
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Unknown
    }
}
