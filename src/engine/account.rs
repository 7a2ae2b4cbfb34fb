//! What is counted of each decision, with the meaning that the reference gives its statistics.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use crate::engine::answer::metadata::metric_name;
use crate::engine::fold::{Ruling, Said, Spoken};
use crate::engine::{Reason, Request, Settings};
use crate::limit::transaction::Amount;
use crate::rules::{Entry, Rule, RuleSet};
use crate::telemetry::metrics::{Metrics, RuleCounters, RuleHits, straddle};

/// The counters of each limit of each rule, at hand without a search once they have been used.
#[derive(Debug)]
pub struct Accounts {
    /// By rule, then by limit.
    rules: Vec<Vec<OnceLock<RuleCounters>>>,
}

impl Accounts {
    /// No counter used yet.
    pub fn new(rules: &RuleSet) -> Self {
        let places = |limits: usize| (0..limits).map(|_| OnceLock::new()).collect();
        let of_rule = |rule: &Arc<Rule>| match &rule.plan {
            Some(_) => {
                let domain = rules.domains.get(&*rule.domain);
                let plans = domain.iter().flat_map(|domain| domain.plans.values());
                places(plans.map(|plan| plan.limits.len()).sum())
            }
            None => places(rule.limits.len()),
        };
        Self {
            rules: rules.rules.iter().map(of_rule).collect(),
        }
    }

    /// Counts a ruling.
    pub fn record(
        &self,
        metrics: &Metrics,
        settings: &Settings,
        request: &Request<'_>,
        ruling: &Ruling<'_>,
        reason: Reason,
    ) {
        metrics.decision(request.domain, reason.name());
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
        let static_rule = spoken
            .rule
            .filter(|rule| matches!(rule.metric_name(entries), Cow::Borrowed(_)));
        let cached = static_rule.and_then(|rule| {
            let of_rule = self.rules.get(rule.id.0 as usize)?;
            of_rule.get(spoken.limits[place].place)
        });
        match cached {
            Some(cell) => add(cell.get_or_init(|| metrics.rule(domain, &name()))),
            None => add(&metrics.rule_by_request(domain, &name())),
        }
    }
}

/// The rule's name; of several limits of a rule each adds its own name, or its plan and its window.
fn limit_name(spoken: &Spoken<'_>, place: usize, entries: &[Entry<'_>]) -> String {
    let mut rule = metric_name(spoken.rule, entries);
    if spoken.rule.is_none_or(|rule| rule.limits.len() == 1) {
        return rule;
    }
    if let (Some(plan), "") = (spoken.plan, spoken.limits[place].name) {
        rule = format!("{rule}.{plan}");
    }
    let said = &spoken.limits[place];
    let unit = said.limit.unit().name();
    match (said.name, said.limit.multiplier()) {
        ("", 1) => format!("{rule}.{unit}"),
        ("", multiplier) => format!("{rule}.{multiplier}{unit}"),
        (name, _) => format!("{rule}.{name}"),
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
