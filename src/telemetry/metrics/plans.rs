//! The counters of plans and of quotas of a month. Their names are those of the rule files, and still there is a most of them.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::kinds::Counter;
use super::rule::OTHER;

/// How many plans, and how many quotas, are counted by name since the start; the others are counted as `other`.
pub const MAX_PLANS: usize = 1000;

/// The shares of a quota whose reaching is counted, in percent: none is the first use of it in its month.
pub const SHARES: [u64; 5] = [0, 50, 80, 90, 100];

/// [`SHARES`] as the label has them.
const NAMES: [&str; SHARES.len()] = ["0", "0.5", "0.8", "0.9", "1"];

/// A handle on the counters of one plan.
#[derive(Clone, Debug)]
pub struct PlanCounters {
    /// Of descriptors that were not refused by it.
    pub admitted: Counter,
    /// Of those that were.
    pub refused: Counter,
}

/// A handle on the counters of one quota: one for each of [`SHARES`].
pub type QuotaCounters = [Counter; SHARES.len()];

/// All plans and quotas that were loaded since the start.
#[derive(Debug, Default)]
pub(super) struct Plans {
    decisions: Family<PlanLabel, Counter>,
    reached: Family<QuotaLabel, Counter>,
    known: Mutex<[HashSet<[String; 3]>; 2]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlanLabel {
    domain: String,
    plan: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabel {
    domain: String,
    rule: String,
    plan: String,
    share: &'static str,
}

impl Plans {
    /// None loaded yet.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let plans = Self::default();
        registry.register(
            "tollgate_plan_decisions",
            "Descriptors that were decided under a plan, and whether it refused them",
            plans.decisions.clone(),
        );
        registry.register(
            "tollgate_quota_reached",
            "Subjects whose use of a limit of a month has come to this share of it; 0 is their first use in the month",
            plans.reached.clone(),
        );
        plans
    }

    /// The counters of a plan, there from now on; the same before and after a reload.
    pub(super) fn plan(&self, domain: &str, plan: &str) -> PlanCounters {
        let [domain, plan, _] = self.bounded(0, [domain, plan, ""]);
        let counter = |outcome: &'static str| {
            let (domain, plan) = (domain.clone(), plan.clone());
            let label = PlanLabel {
                domain,
                plan,
                outcome,
            };
            self.decisions.get_or_create(&label).clone()
        };
        PlanCounters {
            admitted: counter("admitted"),
            refused: counter("refused"),
        }
    }

    /// The counters of a quota, there from now on: what an alert takes the increase of must have been none before.
    pub(super) fn quota(&self, domain: &str, rule: &str, plan: &str) -> QuotaCounters {
        let [domain, rule, plan] = self.bounded(1, [domain, rule, plan]);
        NAMES.map(|share| {
            let label = QuotaLabel {
                domain: domain.clone(),
                rule: rule.clone(),
                plan: plan.clone(),
                share,
            };
            self.reached.get_or_create(&label).clone()
        })
    }

    /// These names if they are known, or may be yet.
    fn bounded(&self, kind: usize, names: [&str; 3]) -> [String; 3] {
        let names = names.map(str::to_owned);
        let mut known = self.known.lock();
        let known = &mut known[kind];
        if known.contains(&names) {
            return names;
        }
        if known.len() < MAX_PLANS {
            known.insert(names.clone());
            return names;
        }
        [OTHER; 3].map(str::to_owned)
    }
}
