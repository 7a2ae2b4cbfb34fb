//! The plan of a subject, and what it has been given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limit::{Hits, Limit};
use crate::rules::{Plan, RuleLimit};
use crate::time::Timestamp;

/// The most grants of one subject that are kept.
pub const MAX_GRANTS: usize = 64;

/// What is known of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The name of its plan; none for the rule's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Numbers in place of the plan's `requests_per_unit`, by the name of the limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u32>,
    /// When plan and numbers end, in microseconds since the epoch; none for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What it has been given on top.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
}

/// Hits on top of a limit, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The name of the limit.
    pub limit: String,
    /// Whole hits.
    pub hits: u32,
    /// Until when, in microseconds since the epoch.
    pub until: i64,
}

impl Standing {
    /// The name of the plan at `now`, if it has one.
    pub fn plan(&self, now: Timestamp) -> Option<&str> {
        self.plan.as_deref().filter(|_| self.holds(now))
    }

    /// The limits that stand in place of the plan's, by their places in it; empty if none does. A number that a limit cannot
    /// have is left out.
    pub fn limits(&self, plan: &Plan, now: Timestamp) -> Vec<Option<Limit>> {
        if self.limits.is_empty() && self.grants.is_empty() {
            return Vec::new();
        }
        plan.limits
            .iter()
            .map(|limit| self.limit(limit, now))
            .collect()
    }

    fn limit(&self, rule: &RuleLimit, now: Timestamp) -> Option<Limit> {
        let name = rule.label();
        let number = self.limits.get(name).filter(|_| self.holds(now));
        let limit = number.and_then(|number| rule.limit.with_requests(*number).ok());
        let granted = self
            .grants
            .iter()
            .filter(|grant| grant.limit == name && now.as_micros() < grant.until);
        let granted: u64 = granted.map(|grant| u64::from(grant.hits)).sum();
        if granted == 0 {
            return limit;
        }
        let extra = Hits::whole(u32::try_from(granted).unwrap_or(u32::MAX));
        let base = limit.as_ref().unwrap_or(&rule.limit);
        base.with_extra(extra).ok().or(limit)
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.plan.is_none()
            && self.limits.is_empty()
            && self.grants.is_empty()
            && self.note.is_empty()
    }

    /// The same without what has ended.
    #[must_use]
    pub fn pruned(mut self, now: Timestamp) -> Self {
        self.grants.retain(|grant| now.as_micros() < grant.until);
        if !self.holds(now) {
            (self.plan, self.until) = (None, None);
            self.limits.clear();
            self.note.clear();
        }
        self
    }

    fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now.as_micros() < until)
    }
}
