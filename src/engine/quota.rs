//! What a subject has used and has left: every limit that is its own, read without charging.
//!
//! A rule's limits are a subject's own if one level of the rule is the subject's entry and the others are known: exact values,
//! the entry that names a plan (it is not part of the key), or what the asker says of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::charges::{Charges, Found};
use super::compare::Compared;
use super::fold::{Judged, Ruling};
use super::{Caller, Engine, Rejection, Request, key};
use crate::directory::follow::LOOK_WITHIN;
use crate::limit::{Hits, Limit, Shape, Tag, Verdict};
use crate::rules::{Descriptor, Domain, Entries, Entry, PlanSource, Rule, RuleLimit, RuleSet};
use crate::store::{Key, StoreError, Transaction};
use crate::time::Micros;

/// The most rules that are read for one subject.
pub const MAX_RULES: usize = 256;

/// A rule, as it stands with a subject.
#[derive(Clone, Debug)]
pub struct Account {
    /// The rule's name.
    pub rule: String,
    /// Its place in the YAML.
    pub path: String,
    /// The plan that has the limits.
    pub plan: Option<String>,
    /// Nothing limits the subject here.
    pub unlimited: bool,
    /// The limits.
    pub limits: Vec<Used>,
    /// What is tried where nothing limits the subject.
    pub candidate: Option<OnTrial>,
    /// How long a ban of this rule still lasts.
    pub banned_for: Option<Micros>,
    /// Where it is kept.
    pub key: Key,
    /// The names of all limits that may be kept there, under any plan, with their labels.
    pub tags: Vec<(String, Tag)>,
}

/// A limit, and what is used of it.
#[derive(Clone, Debug)]
pub struct Used {
    /// What people call it.
    pub label: String,
    /// The limit, with the subject's own numbers.
    pub limit: Limit,
    /// What is used.
    pub used: Hits,
    /// What is left.
    pub left: Hits,
    /// The time until it is as good as fresh.
    pub reset: Micros,
    /// What is tried in its place.
    pub candidate: Option<OnTrial>,
}

/// A candidate, and what is used of it.
#[derive(Clone, Debug)]
pub struct OnTrial {
    /// The limit.
    pub limit: Limit,
    /// It refuses nothing.
    pub unlimited: bool,
    /// What is used.
    pub used: Hits,
    /// What would be left.
    pub left: Hits,
}

/// Why there is no account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// No rules for this domain.
    #[error("there are no rules for the domain `{0}`")]
    NoDomain(String),
    /// What was asked cannot be.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// The store does not answer.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Used {
    /// When what is granted now on top of it ends: with the window, or after the length of one.
    pub fn window_ends_in(&self) -> Micros {
        match self.limit.shape() {
            Shape::FixedWindow(_) => self.reset,
            Shape::TokenBucket(_) | Shape::SlidingWindow(_) => self.limit.window(),
        }
    }
}

impl Engine {
    /// How a subject stands with each rule that has limits of its own for it. `others` says what other entries of its
    /// descriptors are.
    pub async fn quota(
        &self,
        domain: &str,
        subject: Entry<'_>,
        others: &HashMap<String, String>,
    ) -> Result<Vec<Account>, QuotaError> {
        let live = self.live.load_full().ok_or(Rejection::NoRules)?;
        let Some(domain) = live.rules.domains.get(domain) else {
            return Err(QuotaError::NoDomain(domain.to_owned()));
        };
        let descriptors = descriptors(&live.rules, domain, subject, others);
        let request = Request {
            domain: &domain.name,
            hits_addend: 0,
            descriptors: descriptors.into(),
        };
        let mut call = self.call(Caller::here(), true);
        call.answers_by = Instant::now() + LOOK_WITHIN;
        let mut found = SmallVec::new();
        self.find(domain, &request, &call, &mut found).await?;
        let mut charges = Charges::default();
        charges.collect(&self.settings, domain, &request, &found, Hits::ONE)?;
        charges.only_peek();
        let outcome = if charges.demands.is_empty() {
            Default::default()
        } else {
            let transaction = Transaction {
                keys: &charges.keys,
                demands: &charges.demands,
                now: self.given_time(),
                timeout: call
                    .answers_by
                    .saturating_duration_since(Instant::now())
                    .max(Duration::from_millis(1)),
            };
            self.store.transact(&transaction).await?
        };
        let ruling = Ruling::new(&charges, &outcome);
        let all = request.descriptors.iter().zip(&found).zip(&ruling.items);
        let account = |(place, ((descriptor, found), judged))| {
            let mut account = self.account(domain, descriptor, found, judged)?;
            let here = |one: &&Compared<'_>| one.tried.descriptor == place;
            for compared in ruling.compared.iter().filter(here) {
                account.tries(found, compared);
            }
            Some(account)
        };
        Ok(all.enumerate().filter_map(account).collect())
    }

    fn account(
        &self,
        domain: &Domain,
        descriptor: &Descriptor<'_>,
        found: &Found<'_>,
        judged: &Judged<'_>,
    ) -> Option<Account> {
        let rule = found.rule?;
        let prefix = &self.settings.key_prefix;
        let mut account = Account {
            rule: rule.name.to_string(),
            path: rule.path.clone(),
            plan: found.plan.map(|(name, _)| name.to_owned()),
            unlimited: false,
            limits: Vec::new(),
            candidate: None,
            banned_for: None,
            key: key::key(prefix, domain, &descriptor.entries, Some(rule)),
            tags: tags(domain, rule),
        };
        match judged {
            Judged::Unlimited(_) => account.unlimited = true,
            Judged::Limited(spoken) => {
                for said in &spoken.limits {
                    if let Verdict::Banned(wait) = said.verdict {
                        account.banned_for = Some(wait);
                    }
                    account.limits.push(Used {
                        label: match said.name {
                            Some(name) => name.to_string(),
                            None => said.limit.unit().name().to_owned(),
                        },
                        limit: said.limit.clone(),
                        used: said.used,
                        left: said.limit.capacity().saturating_sub(said.used),
                        reset: said.full_reset,
                        candidate: None,
                    });
                }
            }
            Judged::Free | Judged::Refused(_) => return None,
        }
        Some(account)
    }
}

impl Account {
    /// Adds a candidate to its limit.
    fn tries(&mut self, found: &Found<'_>, compared: &Compared<'_>) {
        let candidate = compared.tried.candidate;
        let on_trial = OnTrial {
            limit: candidate.limit.clone(),
            unlimited: candidate.unlimited,
            used: compared.used,
            left: candidate.limit.capacity().saturating_sub(compared.used),
        };
        let Some(place) = candidate.instead_of else {
            self.candidate = Some(on_trial);
            return;
        };
        let of_rule = found.limits().get(place).map(|limit| limit.limit.tag());
        let mut limits = self.limits.iter_mut();
        if let Some(used) = limits.find(|used| Some(used.limit.tag()) == of_rule) {
            used.candidate = Some(on_trial);
        }
    }
}

/// The names of the limits of a rule or of the plans; a candidate goes by the label of its limit.
fn tags(domain: &Domain, rule: &Rule) -> Vec<(String, Tag)> {
    let own = (&*rule.limits, &*rule.candidates);
    let plans = domain.plans.values().filter(|_| rule.plan.is_some());
    let plans = plans.map(|plan| (&*plan.limits, &*plan.candidates));
    let mut tags = Vec::new();
    for (limits, candidates) in std::iter::once(own).chain(plans) {
        let live = limits.iter();
        tags.extend(live.map(|limit| (limit.label().to_owned(), limit.limit.tag())));
        tags.extend(candidates.iter().map(|candidate| {
            let live = candidate.instead_of.and_then(|place| limits.get(place));
            let label = live.map_or(candidate.limit.unit().name(), RuleLimit::label);
            (label.to_owned(), candidate.limit.tag())
        }));
    }
    tags
}

/// The descriptors that have the subject in them and match a rule with limits.
fn descriptors<'a>(
    rules: &'a RuleSet,
    domain: &'a Domain,
    subject: Entry<'a>,
    others: &'a HashMap<String, String>,
) -> Vec<Descriptor<'a>> {
    let of_domain = rules
        .rules
        .iter()
        .filter(|rule| *rule.domain == *domain.name);
    let descriptors = of_domain.filter_map(|rule| {
        let entries = entries(rule, subject, others)?;
        let matched = domain.find(&entries)?;
        (matched.id == rule.id).then(|| Descriptor {
            entries,
            hits_addend: Some(0),
            ..Descriptor::default()
        })
    });
    descriptors.take(MAX_RULES).collect()
}

/// The entries of a descriptor that reaches the rule, if they are known.
fn entries<'a>(
    rule: &'a Rule,
    subject: Entry<'a>,
    others: &'a HashMap<String, String>,
) -> Option<Entries<'a>> {
    let at = rule
        .levels
        .iter()
        .position(|level| *level.key == *subject.key)?;
    let entry = |(place, level): (usize, &'a crate::rules::Segment)| {
        let names_plan = rule
            .plan
            .as_ref()
            .filter(|plan| plan.from == PlanSource::Entry(place));
        let value = match others.get(&*level.key) {
            _ if place == at => subject.value,
            Some(said) => said,
            None if !level.value.is_empty() && !level.wildcard => &level.value,
            None => &names_plan?.default,
        };
        Some(Entry {
            key: &level.key,
            value,
        })
    };
    rule.levels.iter().enumerate().map(entry).collect()
}
