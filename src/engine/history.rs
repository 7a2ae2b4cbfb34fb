//! How many asked, and how many were refused, in the last two minutes: what somebody who has just come to look wants to see.
//!
//! It is read off the counters of the metrics every [`EVERY`], so no request does anything for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::account::Accounts;
use super::{Engine, Live, Reason};
use crate::rules::{Rule, RuleSet};

/// How often it is looked.
pub const EVERY: Duration = Duration::from_secs(2);

/// How many looks are remembered.
pub const SAMPLES: usize = 60;

/// How many looks are recent.
const LATEST: usize = 3;

/// How many rules are remembered: the first that are asked for.
pub const MAX_RULES: usize = 1000;

/// In a second: how many asked, and how many of these were refused.
pub type Rates = [f64; 2];

/// A rule, by its domain and its name.
type Name = (Arc<str>, Arc<str>);

/// What was seen.
#[derive(Debug, Default)]
pub struct History(Mutex<Seen>);

/// What was seen, for people.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Requests, oldest first.
    pub all: Vec<Rates>,
    /// Of these decided without the store.
    pub without_store: Vec<f64>,
    /// Requests by domain.
    pub domains: BTreeMap<String, Vec<Rates>>,
    /// Hits by rule.
    pub rules: HashMap<Name, Vec<Rates>>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    /// What counters said last: of each domain by reason, and of limits by which counters they are.
    domains: HashMap<String, [u64; Reason::COUNT]>,
    limits: HashMap<usize, [u64; 2]>,
    /// The rates: asked, refused, decided without the store.
    of_all: Ring<3>,
    of_domains: BTreeMap<String, Ring<2>>,
    of_rules: HashMap<Name, Ring<2>>,
}

/// The last rates, oldest first.
#[derive(Debug)]
struct Ring<const N: usize>(VecDeque<[f64; N]>);

/// Why a request is refused; which of those that are decided by [`Reason::FallbackLocal`] are is not counted.
const REFUSED: [Reason; 5] = [
    Reason::Denied,
    Reason::Banned,
    Reason::OverLimit,
    Reason::NeverFits,
    Reason::FallbackDeny,
];

const WITHOUT_STORE: [Reason; 3] = [
    Reason::FallbackAllow,
    Reason::FallbackDeny,
    Reason::FallbackLocal,
];

impl History {
    /// What was seen in the last [`SAMPLES`] looks.
    pub fn shown(&self) -> Shown {
        let seen = self.0.lock();
        let all = seen.of_all.0.iter();
        Shown {
            all: all
                .clone()
                .map(|[asked, refused, _]| [*asked, *refused])
                .collect(),
            without_store: all.map(|[_, _, without]| *without).collect(),
            domains: seen
                .of_domains
                .iter()
                .map(|(n, r)| (n.clone(), r.list()))
                .collect(),
            rules: seen
                .of_rules
                .iter()
                .map(|(n, r)| (n.clone(), r.list()))
                .collect(),
        }
    }

    /// The rates of all requests, the mean of the last looks: single ones jump.
    pub(super) fn latest(&self) -> Rates {
        let seen = self.0.lock();
        let last = seen.of_all.0.iter().rev().take(LATEST);
        let count = last.len().max(1) as f64;
        last.fold([0.0; 2], |[asked, refused], one| {
            [asked + one[0] / count, refused + one[1] / count]
        })
    }
}

impl Engine {
    /// Remembers how many ask, and ends what is over of who asks most, until the future is dropped.
    pub async fn keep_history(&self) {
        let mut looks = tokio::time::interval(EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look(Instant::now());
            self.turn_top();
        }
    }

    /// How many have asked lately.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Remembers how many have asked since the last look.
    pub fn look(&self, now: Instant) {
        if let Some(live) = self.live.load_full() {
            self.history.0.lock().look(&live, now);
        }
    }
}

impl Seen {
    fn look(&mut self, live: &Live, now: Instant) {
        let passed = self
            .at
            .replace(now)
            .map(|before| now.duration_since(before));
        let by_domain = self.domains_since(live);
        let by_rule = self.rules_since(live);
        let Some(secs) = passed
            .map(|passed| passed.as_secs_f64())
            .filter(|s| *s > 0.0)
        else {
            return;
        };
        let mut all = [0_u64; 3];
        for counts in by_domain.values() {
            (0..all.len()).for_each(|i| all[i] += counts[i]);
        }
        self.of_all.push(all.map(|count| count as f64 / secs));
        // Those that are gone stay for as long as there is something to see of them.
        let names = by_domain
            .keys()
            .cloned()
            .chain(self.of_domains.keys().cloned());
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let [asked, refused, _] = by_domain.get(&name).copied().unwrap_or_default();
            let rates = [asked, refused].map(|count| count as f64 / secs);
            self.of_domains.entry(name).or_default().push(rates);
        }
        let is_there = |name: &str| live.rules.domains.contains_key(name);
        self.of_domains
            .retain(|name, ring| is_there(name) || !ring.is_quiet());
        for (name, ring) in &mut self.of_rules {
            let counts = by_rule.get(name).copied().unwrap_or_default();
            ring.push(counts.map(|thousandths| thousandths as f64 / 1000.0 / secs));
        }
        for (name, counts) in by_rule {
            if self.of_rules.len() < MAX_RULES && !self.of_rules.contains_key(&name) {
                let mut ring = Ring::default();
                ring.push(counts.map(|thousandths| thousandths as f64 / 1000.0 / secs));
                self.of_rules.insert(name, ring);
            }
        }
        if self.of_rules.len() >= MAX_RULES {
            self.of_rules.retain(|_, ring| !ring.is_quiet());
        }
    }

    /// How often the requests of each domain were decided since the last look.
    fn domains_since(&mut self, live: &Live) -> BTreeMap<String, [u64; 3]> {
        let mut since = BTreeMap::new();
        for domain in live.rules.domains.values() {
            let name = domain.name.to_string();
            let last = self.domains.entry(name.clone()).or_default();
            let mut new = [0; Reason::COUNT];
            for (reason, count) in live.accounts.decided(domain.place) {
                new[reason] = count.saturating_sub(last[reason]);
                last[reason] = count;
            }
            let of = |reasons: &[Reason]| reasons.iter().map(|r| new[*r as usize]).sum();
            since.insert(name, [new.iter().sum(), of(&REFUSED), of(&WITHOUT_STORE)]);
        }
        since
    }

    /// The hits of each rule since the last look, in thousandths: asked for, and refused.
    fn rules_since(&mut self, live: &Live) -> HashMap<Name, [u64; 2]> {
        // The limits of one rule, or of one plan of it, are asked for together, and mostly one of them refuses.
        let mut together: HashMap<(usize, usize), [u64; 2]> = HashMap::new();
        for (place, [asked, refused]) in self.limits_since(&live.accounts) {
            let Some((index, rule)) = rule_of(&live.rules, place) else {
                continue;
            };
            let plan = plan_of(&live.rules, rule, place - rule.first);
            let sums = together.entry((index, plan)).or_default();
            *sums = [sums[0].max(asked), sums[1].saturating_add(refused)];
        }
        let mut since: HashMap<Name, [u64; 2]> = HashMap::new();
        for ((index, _), [asked, refused]) in together {
            let rule = &live.rules.rules[index];
            let name = (Arc::clone(&rule.domain), Arc::clone(&rule.name));
            let sums = since.entry(name).or_default();
            *sums = [sums[0] + asked, sums[1] + refused.min(asked)];
        }
        since
    }

    fn limits_since(&mut self, accounts: &Accounts) -> Vec<(usize, [u64; 2])> {
        let mut since = Vec::new();
        for (place, counters) in accounts.counted() {
            let (asked, refused) = counters.asked_and_refused();
            let last = self.limits.insert(counters.id(), [asked, refused]);
            let [before, refused_before] = last.unwrap_or_default();
            // Counters that several rules share are those of the first here.
            let hits = [
                asked.saturating_sub(before),
                refused.saturating_sub(refused_before),
            ];
            if hits != [0, 0] {
                since.push((place, hits));
            }
        }
        since
    }
}

/// The rule that has the limit at a place.
fn rule_of(rules: &RuleSet, place: usize) -> Option<(usize, &Rule)> {
    let after = rules.rules.partition_point(|rule| rule.first <= place);
    let index = after.checked_sub(1)?;
    Some((index, rules.rules.get(index)?))
}

/// Which plan has the limit at a place of a rule, counted from 1; 0 if the rule has it itself.
fn plan_of(rules: &RuleSet, rule: &Rule, place: usize) -> usize {
    if rule.plan.is_none() {
        return 0;
    }
    let plans = rules.domains.get(&*rule.domain).map(|domain| &domain.plans);
    let plans = plans.into_iter().flatten();
    plans.filter(|(_, plan)| plan.first <= place).count()
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self(VecDeque::with_capacity(SAMPLES))
    }
}

impl<const N: usize> Ring<N> {
    fn push(&mut self, rates: [f64; N]) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(rates);
    }

    fn list(&self) -> Vec<[f64; N]> {
        self.0.iter().copied().collect()
    }

    fn is_quiet(&self) -> bool {
        self.0.iter().flatten().all(|rate| *rate == 0.0)
    }
}
