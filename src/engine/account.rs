//! What is counted of each decision, with the meaning that the reference gives its statistics.

use std::sync::OnceLock;

use plans::Plans;

use crate::engine::answer::metadata::metric_name;
use crate::engine::fold::{Ruling, Said, Spoken};
use crate::engine::top::Places;
use crate::engine::{Reason, Request, Settings};
use crate::limit::Limit;
use crate::limit::transaction::Amount;
use crate::rules::{Domain, Entry, Rule, RuleSet};
use crate::telemetry::metrics::{Counter, Metrics, RuleCounters, RuleHits, straddle};

mod plans;

/// The counters of each limit of each rule, at hand without a search once they have been used.
#[derive(Debug)]
pub struct Accounts {
    /// By rule, then by limit.
    limits: Vec<OnceLock<RuleCounters>>,
    /// By domain, then by reason.
    decisions: Vec<[OnceLock<Counter>; Reason::COUNT]>,
    plans: Plans,
    /// Where it is counted who asks most, by rule.
    pub(super) places: Places,
}

impl Accounts {
    /// No counter used yet but those of plans and quotas, which are in `metrics` from now on.
    pub fn new(rules: &RuleSet, metrics: &Metrics) -> Self {
        Self {
            limits: (0..rules.limits).map(|_| OnceLock::new()).collect(),
            decisions: rules.domains.iter().map(|_| Default::default()).collect(),
            plans: Plans::new(rules, metrics),
            places: Places::new(rules),
        }
    }

    /// Begins to bring into the cache where the limits of a rule are counted.
    pub fn fetch(&self, rule: &Rule) {
        prefetch_index::prefetch_index(&self.limits, rule.first);
        self.places.fetch(rule);
    }

    /// Counts a ruling.
    pub fn record(
        &self,
        metrics: &Metrics,
        settings: &Settings,
        domain: &Domain,
        request: &Request<'_>,
        ruling: &Ruling<'_>,
        reason: Reason,
    ) {
        if let Some(decisions) = self.decisions.get(domain.place) {
            let count = || metrics.decisions(request.domain, reason.name());
            decisions[reason as usize].get_or_init(count).inc();
        }
        self.plans.record(domain, ruling, reason);
        if settings.shadow_mode && !ruling.admitted {
            metrics.global_shadow_mode();
        }
        for spoken in ruling.spoken() {
            let entries = &request.descriptors[spoken.descriptor].entries;
            for (place, said) in spoken.limits.iter().enumerate() {
                if let Some(hits) = hits(settings, spoken, said) {
                    let add = |to: &RuleCounters| to.add(hits);
                    self.counters(metrics, request.domain, spoken, place, entries, add);
                }
            }
        }
    }

    /// The counters that were used, each with its place among the limits of all rules.
    pub(super) fn counted(&self) -> impl Iterator<Item = (usize, &RuleCounters)> {
        let cells = self.limits.iter().enumerate();
        cells.filter_map(|(place, cell)| Some((place, cell.get()?)))
    }

    /// How many decisions on the domain at `place` there were, by reason, for those that were used.
    pub(super) fn decided(&self, place: usize) -> impl Iterator<Item = (usize, u64)> {
        let reasons = self.decisions.get(place).into_iter().flatten().enumerate();
        reasons.filter_map(|(reason, cell)| Some((reason, cell.get()?.get())))
    }

    fn counters(
        &self,
        metrics: &Metrics,
        domain: &str,
        spoken: &Spoken<'_>,
        place: usize,
        entries: &[Entry<'_>],
        add: impl FnOnce(&RuleCounters),
    ) {
        let name = || limit_name(spoken, place, entries);
        let cached = spoken
            .rule
            .filter(|rule| !rule.named_by_values)
            .and_then(|rule| self.limits.get(rule.first + spoken.limits[place].place));
        match cached {
            Some(cell) => add(cell.get_or_init(|| metrics.rule(domain, &name()))),
            None => add(&metrics.rule_by_request(domain, &name())),
        }
    }
}

/// The rule's name; of several limits of a rule each adds its own name, or its plan and its window.
fn limit_name(spoken: &Spoken<'_>, place: usize, entries: &[Entry<'_>]) -> String {
    let rule = metric_name(spoken.rule, entries);
    if spoken.rule.is_none_or(|rule| rule.limits.len() == 1) {
        return rule.to_string();
    }
    let said = &spoken.limits[place];
    name_among(&rule, spoken.plan, said.name, said.limit)
}

/// The name of one of several limits of a rule.
pub(super) fn name_among(
    rule: &str,
    plan: Option<&str>,
    name: Option<&str>,
    limit: &Limit,
) -> String {
    if let Some(name) = name {
        return format!("{rule}.{name}");
    }
    let plan = plan.map(|plan| format!(".{plan}"));
    let plan = plan.unwrap_or_default();
    let unit = limit.unit().name();
    match limit.multiplier() {
        1 => format!("{rule}{plan}.{unit}"),
        multiplier => format!("{rule}{plan}.{multiplier}{unit}"),
    }
}

/// The hits to count; none of a peek or a refund.
fn hits(settings: &Settings, spoken: &Spoken<'_>, said: &Said<'_>) -> Option<RuleHits> {
    let Amount::Charge(hits) = spoken.amount else {
        return None;
    };
    if !said.charged && !said.refuses() {
        // What fitted but was not charged, because the request was refused, is asked but not within the limit.
        return Some(RuleHits {
            total: hits,
            ..RuleHits::default()
        });
    }
    let limit = said.limit.capacity().floor();
    let mut counted = straddle(limit, settings.near_limit_ratio, said.used, hits);
    if spoken.shadow {
        counted.shadow = counted.over;
    }
    Some(counted)
}
