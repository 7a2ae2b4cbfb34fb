//! What is counted by plan, and how far the quotas of a month are used.

use crate::engine::fold::{Judged, Ruling, Said, Spoken};
use crate::engine::{Code, Reason};
use crate::limit::transaction::Amount;
use crate::limit::{Hits, Limit, Shape, Unit};
use crate::rules::{Domain, Rule, RuleLimit, RuleSet};
use crate::telemetry::metrics::plans::{PlanCounters, QuotaCounters, SHARES};
use crate::telemetry::metrics::{Counter, Metrics};

/// The counters of the plans and quotas of a rule set, which are there from the start.
#[derive(Debug)]
pub(super) struct Plans {
    /// By domain, then by plan.
    plans: Vec<Vec<PlanCounters>>,
    /// By domain, then by the place of a limit among those of all its plans: the plan.
    of_limits: Vec<Vec<usize>>,
    /// By limit, as the rule's own counters; none where it is no quota.
    quotas: Vec<Option<Box<QuotaCounters>>>,
}

impl Plans {
    pub(super) fn new(rules: &RuleSet, metrics: &Metrics) -> Self {
        let domains = rules.domains.values();
        let of_limits = domains.clone().map(|domain| {
            let plans = domain.plans.values().enumerate();
            let of_plan = |(place, limits): (usize, usize)| std::iter::repeat_n(place, limits);
            let counts = plans.map(|(place, plan)| (place, plan.limits.len()));
            counts.flat_map(of_plan).collect()
        });
        let mut quotas = Vec::new();
        quotas.resize_with(rules.limits, || None);
        for rule in &rules.rules {
            for (place, plan, limit) in limits(rules, rule) {
                if !is_quota(&limit.limit) {
                    continue;
                }
                if let Some(quota) = quotas.get_mut(rule.first + place) {
                    let name = match rule.limits.len() {
                        1 => rule.name.to_string(),
                        _ => {
                            let name = limit.name.as_deref();
                            super::name_among(&rule.name, plan, name, &limit.limit)
                        }
                    };
                    let plan = plan.unwrap_or_default();
                    *quota = Some(Box::new(metrics.quota(&rule.domain, &name, plan)));
                }
            }
        }
        let counters = |domain: &Domain| {
            let names = domain.plans.keys();
            let counters = names.map(|plan| metrics.plan(&domain.name, plan));
            counters.collect()
        };
        Self {
            of_limits: of_limits.collect(),
            plans: domains.map(counters).collect(),
            quotas,
        }
    }

    /// Counts what plans and quotas had to do with a ruling.
    pub(super) fn record(&self, domain: &Domain, ruling: &Ruling<'_>, reason: Reason) {
        let Some(plans) = self.plans.get(domain.place) else {
            return;
        };
        // What this instance counts alone while the store is away is a part of what was used.
        let is_whole = !matches!(
            reason,
            Reason::FallbackAllow | Reason::FallbackDeny | Reason::FallbackLocal
        );
        for item in &ruling.items {
            match item {
                Judged::Limited(spoken) => {
                    let Amount::Charge(hits) = spoken.amount else {
                        continue;
                    };
                    if let Some(counters) = self.plan_of(domain, spoken) {
                        counters.count(spoken.code());
                    }
                    if is_whole {
                        self.reached(spoken, hits);
                    }
                }
                Judged::Unlimited(Some(plan)) => {
                    let place = domain.plans.get_index_of(*plan);
                    if let Some(counters) = place.and_then(|place| plans.get(place)) {
                        counters.count(Code::Ok);
                    }
                }
                Judged::Unlimited(None) | Judged::Free | Judged::Refused(_) => {}
            }
        }
    }

    fn plan_of(&self, domain: &Domain, spoken: &Spoken<'_>) -> Option<&PlanCounters> {
        spoken.plan?;
        let place = spoken.limits.first()?.place;
        let plan = self.of_limits.get(domain.place)?.get(place)?;
        self.plans.get(domain.place)?.get(*plan)
    }

    fn reached(&self, spoken: &Spoken<'_>, hits: Hits) {
        let Some(rule) = spoken.rule else {
            return;
        };
        let is_charged = |said: &&Said<'_>| said.charged && is_quota(said.limit);
        for said in spoken.limits.iter().filter(is_charged) {
            if let Some(Some(counters)) = self.quotas.get(rule.first + said.place) {
                count_reached(counters.as_slice(), said, hits);
            }
        }
    }
}

impl PlanCounters {
    fn count(&self, code: Code) {
        match code {
            Code::Ok => self.admitted.inc(),
            Code::OverLimit => self.refused.inc(),
        }
    }
}

/// The limits of a rule, with their places and their plans.
fn limits<'r>(
    rules: &'r RuleSet,
    rule: &'r Rule,
) -> impl Iterator<Item = (usize, Option<&'r str>, &'r RuleLimit)> {
    let own = rule.limits.iter().enumerate();
    let own = own.map(|(place, limit)| (place, None, limit));
    let domain = rule
        .plan
        .as_ref()
        .and_then(|_| rules.domains.get(&*rule.domain));
    let plans = domain.into_iter().flat_map(|domain| &domain.plans);
    let of_plans = plans.flat_map(|(name, plan)| {
        let limits = plan.limits.iter().enumerate();
        limits.map(|(place, limit)| (plan.first + place, Some(name.as_str()), limit))
    });
    own.chain(of_plans)
}

/// Whether it is what people call a month's quota.
fn is_quota(limit: &Limit) -> bool {
    limit.unit() == Unit::Month && matches!(limit.shape(), Shape::FixedWindow(_))
}

/// Counts the shares of its quota that a subject has come to with these hits.
fn count_reached(counters: &[Counter], said: &Said<'_>, hits: Hits) {
    let limit = u128::from(said.limit.capacity().thousandths());
    let before = u128::from(said.used.thousandths());
    let after = before + u128::from(hits.thousandths());
    for (counter, percent) in counters.iter().zip(SHARES) {
        // The first use is where there was none.
        let least = (limit * u128::from(percent)).max(1);
        if before * 100 < least && after * 100 >= least {
            counter.inc();
        }
    }
}
