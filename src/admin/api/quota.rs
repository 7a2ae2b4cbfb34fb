//! What a subject has left, and what it is given.
//!
//! A subject is an entry, `user_id=alice`; a value alone is one of the first key of the domain's `partition_by`. The query
//! says the `domain` if there are several, and what other entries of the descriptors are (`tier=pro`).

use std::collections::{BTreeMap, HashMap};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, MAX_NOTE, Problem, Query, answer, as_moment, moment, read, show};
use crate::directory::follow::LOOK_WITHIN;
use crate::directory::standing::MAX_GRANTS;
use crate::directory::{Grant, Standing};
use crate::engine::quota::{Account, OnTrial, Used};
use crate::engine::{charges, key};
use crate::limit::Tag;
use crate::rules::{Domain, Entry, RuleSet};
use crate::store::Key;

/// A subject, as a call names it.
pub(super) struct Subject {
    pub(super) domain: String,
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutPlan {
    plan: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, Whole>,
    until: Option<String>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostGrant {
    limit: String,
    hits: Whole,
    until: Option<String>,
}

/// A whole number, as JSON has it: `5.0` is one.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
struct Whole(u32);

impl TryFrom<f64> for Whole {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
            return Ok(Self(number as u32));
        }
        Err(format!(
            "{number} is not a whole number from 0 to {}",
            u32::MAX
        ))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostReset {
    limit: Option<String>,
}

pub(super) async fn quota(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let accounts = api.accounts(&subject, &query).await?;
    let standing = api.standing(&subject).await?;
    let now = api.admin.engine.clock().now();
    let rules = accounts.iter().map(|account| {
        let limits = account.limits.iter().map(|used| {
            let mut value = show::limit(&used.label, &used.limit);
            value["used"] = show::hits(used.used);
            value["remaining"] = show::hits(used.left);
            value["reset_seconds"] = json!(used.reset.ceil_secs());
            value["reset_at"] = json!(as_moment((now + used.reset).whole_second().as_micros()));
            if let Some(candidate) = &used.candidate {
                value["candidate"] = on_trial(&used.label, candidate);
            }
            value
        });
        let mut shown = json!({
            "rule": account.rule,
            "path": account.path,
            "plan": account.plan,
            "unlimited": account.unlimited,
            "limits": limits.collect::<Vec<_>>(),
            "banned_seconds": account.banned_for.map(|wait| wait.ceil_secs()),
        });
        if let Some(candidate) = &account.candidate {
            let label = candidate.limit.unit().name();
            shown["candidate"] = on_trial(label, candidate);
        }
        shown
    });
    let lists = api.listed(&subject);
    // The one that is assigned, if a rule has it: others may have a default of their own.
    let plans = || {
        accounts
            .iter()
            .filter_map(|account| account.plan.as_deref())
    };
    let assigned = standing
        .plan(now)
        .filter(|assigned| plans().any(|plan| plan == *assigned));
    let plan = assigned.or_else(|| plans().next());
    answer(&json!({
        "domain": subject.domain,
        "subject": subject.shown(&api),
        "plan": plan,
        "assigned": as_json(&standing),
        "rules": rules.collect::<Vec<_>>(),
        "lists": lists,
    }))
}

/// A candidate, and how the subject would stand with it.
fn on_trial(label: &str, candidate: &OnTrial) -> Value {
    let mut value = show::candidate(label, &candidate.limit, candidate.unlimited);
    value["used"] = show::hits(candidate.used);
    if !candidate.unlimited {
        value["remaining"] = show::hits(candidate.left);
    }
    value
}

pub(super) async fn remaining(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let accounts = api.accounts(&subject, &query).await?;
    let limits = accounts.iter().flat_map(|account| {
        account.limits.iter().map(|used| {
            json!({
                "rule": account.rule,
                "limit": used.label,
                "remaining": show::hits(used.left),
                "reset_seconds": used.reset.ceil_secs(),
            })
        })
    });
    let limits: Vec<Value> = limits.collect();
    answer(&json!({"subject": subject.shown(&api), "limits": limits}))
}

pub(super) async fn reset(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let PostReset { limit } = read(&body)?;
    let accounts = api.accounts(&subject, &query).await?;
    let mut reset: Vec<&str> = Vec::new();
    for account in &accounts {
        let wanted = |label: &str| limit.as_deref().is_none_or(|limit| limit == label);
        let tags = account.tags.iter().filter(|(label, _)| wanted(label));
        reset.extend(tags.clone().map(|(label, _)| label.as_str()));
        let tags: Vec<Tag> = tags.map(|(_, tag)| *tag).collect();
        if !tags.is_empty() {
            api.admin.engine.forget(&account.key, &tags).await?;
        }
    }
    reset.sort_unstable();
    reset.dedup();
    if reset.is_empty() {
        let what = limit.as_deref().unwrap_or("at all");
        return Err(Problem::absent(format!("the subject has no limit {what}")));
    }
    let what = json!({"domain": subject.domain, "subject": subject.shown(&api), "limits": reset});
    api.access.audit(&headers, "reset", &what);
    answer(&json!({"reset": reset}))
}

pub(super) async fn grant(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let PostGrant {
        limit,
        hits: Whole(hits),
        until,
    } = read(&body)?;
    if hits == 0 {
        return Err(Problem::bad("`hits` must be above 0"));
    }
    let now = api.admin.engine.clock().now();
    let accounts = api.accounts(&subject, &query).await?;
    let of_plans = accounts.iter().filter(|account| account.plan.is_some());
    let found = of_plans
        .flat_map(|account| &account.limits)
        .find(|used| used.label == limit);
    let Some(used) = found else {
        return Err(Problem::absent(format!(
            "no plan of the subject has a limit `{limit}`"
        )));
    };
    let until = match until {
        Some(until) => moment(&until, now)?,
        None => (now + Used::window_ends_in(used))
            .whole_second()
            .as_micros(),
    };
    let full = std::sync::atomic::AtomicBool::new(false);
    let standing = api.change(&subject, |mut standing: Standing| {
        let is_full = standing.grants.len() >= MAX_GRANTS;
        full.store(is_full, std::sync::atomic::Ordering::Relaxed);
        if !is_full {
            let limit = limit.clone();
            standing.grants.push(Grant { limit, hits, until });
        }
        standing
    });
    let standing = standing.await?;
    if full.into_inner() {
        let detail = format!("the subject has {MAX_GRANTS} grants already");
        return Err(Problem::conflict(detail));
    }
    let what = json!({"domain": subject.domain, "subject": subject.shown(&api), "limit": limit, "hits": hits, "until": as_moment(until)});
    api.access.audit(&headers, "grant", &what);
    answer(&as_json(&standing))
}

pub(super) async fn plan(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let standing = api.standing(&subject).await?;
    if standing.plan.is_none() && standing.limits.is_empty() {
        return Err(Problem::absent("nothing is assigned to the subject"));
    }
    answer(&as_json(&standing))
}

pub(super) async fn put_plan(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let put: PutPlan = read(&body)?;
    let now = api.admin.engine.clock().now();
    let until = put.until.as_deref().map(|until| moment(until, now));
    let until = until.transpose()?;
    if put.note.len() > MAX_NOTE {
        return Err(Problem::bad(format!(
            "`note` is longer than {MAX_NOTE} bytes"
        )));
    }
    api.with_domain(&subject, |domain| check_plan(domain, &put))??;
    let numbers = put.limits.iter();
    let numbers: BTreeMap<String, u32> = numbers
        .map(|(name, Whole(number))| (name.clone(), *number))
        .collect();
    let standing = api.change(&subject, |standing| Standing {
        plan: put.plan.clone(),
        limits: numbers.clone(),
        until,
        note: put.note.clone(),
        ..standing
    });
    let standing = standing.await?;
    let what = json!({"domain": subject.domain, "subject": subject.shown(&api), "assigned": as_json(&standing)});
    api.access.audit(&headers, "plan", &what);
    answer(&as_json(&standing))
}

pub(super) async fn delete_plan(
    State(api): State<Api>,
    Path(subject): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    let subject = Subject::read(&api, &subject, &query)?;
    let standing = api.change(&subject, |standing| Standing {
        grants: standing.grants,
        ..Standing::default()
    });
    let standing = standing.await?;
    let what = json!({"domain": subject.domain, "subject": subject.shown(&api)});
    api.access.audit(&headers, "plan removed", &what);
    answer(&as_json(&standing))
}

/// Whether the plan is there, and its limits can have these numbers.
fn check_plan(domain: &Domain, put: &PutPlan) -> Result<(), Problem> {
    let plans = match &put.plan {
        Some(name) => match domain.plans.get(name) {
            Some(plan) => vec![plan],
            None => {
                let names: Vec<&str> = domain.plans.keys().map(String::as_str).collect();
                let names = names.join(", ");
                return Err(Problem::absent(format!(
                    "no plan `{name}`; there are: {names}"
                )));
            }
        },
        None => domain.plans.values().collect(),
    };
    for (name, Whole(number)) in &put.limits {
        let limits = plans.iter().flat_map(|plan| &plan.limits);
        let mut limits = limits.filter(|limit| limit.label() == name).peekable();
        if limits.peek().is_none() {
            return Err(Problem::absent(format!("the plan has no limit `{name}`")));
        }
        for limit in limits {
            let possible = limit.limit.with_requests(*number);
            possible.map_err(|error| Problem::conflict(format!("`{name}`: {error}")))?;
        }
    }
    Ok(())
}

fn as_json(standing: &Standing) -> Value {
    let grants = standing.grants.iter().map(
        |grant| json!({"limit": grant.limit, "hits": grant.hits, "until": as_moment(grant.until)}),
    );
    json!({
        "plan": standing.plan,
        "limits": standing.limits,
        "until": standing.until.and_then(as_moment),
        "note": standing.note,
        "grants": grants.collect::<Vec<_>>(),
    })
}

impl Subject {
    /// Reads what a call names, in the domain that it names.
    pub(super) fn read(api: &Api, text: &str, query: &Query) -> Result<Self, Problem> {
        let named = query.get("domain").cloned();
        let found = api.admin.engine.with_rules(|rules| {
            let domain = domain(rules, named.as_deref())?;
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), value),
                None => {
                    let first = domain.partition_by.first().cloned();
                    let help = "the domain has no `partition_by`: name the subject KEY=VALUE";
                    (first.ok_or_else(|| Problem::absent(help))?, text)
                }
            };
            if key.is_empty() || key.len() > charges::MAX_KEY || value.len() > charges::MAX_VALUE {
                return Err(Problem::absent("a subject is KEY=VALUE"));
            }
            Ok(Self {
                domain: domain.name.to_string(),
                key,
                value: value.to_owned(),
            })
        });
        found.unwrap_or_else(|| {
            Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no rules yet",
            ))
        })
    }

    pub(super) fn entry(&self) -> Entry<'_> {
        Entry {
            key: &self.key,
            value: &self.value,
        }
    }

    /// As keys have it: sensitive values are hashed.
    pub(super) fn shown(&self, api: &Api) -> String {
        let shown = api.with_domain(self, |domain| key::subject(domain, self.entry()));
        shown.unwrap_or_default()
    }
}

/// The domain of this name, or the only one.
fn domain<'r>(rules: &'r RuleSet, named: Option<&str>) -> Result<&'r Domain, Problem> {
    match named {
        Some(name) => rules
            .domains
            .get(name)
            .ok_or_else(|| Problem::absent(format!("there are no rules for the domain `{name}`"))),
        None if rules.domains.len() == 1 => {
            let only = rules.domains.values().next();
            only.ok_or_else(|| Problem::absent("there are no rules"))
        }
        None => Err(Problem::absent(
            "there are several domains: add ?domain=NAME",
        )),
    }
}

impl Api {
    /// Calls `show` with the subject's domain.
    pub(super) fn with_domain<T>(
        &self,
        subject: &Subject,
        show: impl FnOnce(&Domain) -> T,
    ) -> Result<T, Problem> {
        let shown = self
            .admin
            .engine
            .with_rules(|rules| rules.domains.get(&subject.domain).map(show));
        let gone = || Problem::absent("the domain is gone");
        shown.flatten().ok_or_else(gone)
    }

    async fn accounts(&self, subject: &Subject, query: &Query) -> Result<Vec<Account>, Problem> {
        let mut others: HashMap<String, String> = query.0.clone();
        others.remove("domain");
        let quota = self
            .admin
            .engine
            .quota(&subject.domain, subject.entry(), &others);
        Ok(quota.await?)
    }

    fn standing_key(&self, subject: &Subject) -> Result<Key, Problem> {
        let prefix = &self.admin.engine.settings().key_prefix;
        self.with_domain(subject, |domain| {
            key::standing(prefix, domain, subject.entry())
        })
    }

    async fn standing(&self, subject: &Subject) -> Result<Standing, Problem> {
        let key = self.standing_key(subject)?;
        let engine = &self.admin.engine;
        let asked = engine.directory().ask(engine.store(), &key, LOOK_WITHIN);
        let standing = asked.await?.map(|standing| (*standing).clone());
        Ok(standing.unwrap_or_default().pruned(engine.clock().now()))
    }

    async fn change(
        &self,
        subject: &Subject,
        change: impl Fn(Standing) -> Standing,
    ) -> Result<Standing, Problem> {
        let planned = self.admin.engine.with_rules(|rules| {
            rules.rules.iter().any(|rule| {
                let last = rule.levels.last();
                *rule.domain == *subject.domain
                    && rule.plan.is_some()
                    && last.is_some_and(|level| *level.key == *subject.key)
            })
        });
        if planned != Some(true) {
            let detail = format!("no rule has a plan for `{}`", subject.key);
            return Err(Problem::conflict(detail));
        }
        let key = self.standing_key(subject)?;
        let engine = &self.admin.engine;
        let changed = engine
            .directory()
            .change(engine.store(), &key, LOOK_WITHIN, change);
        Ok(changed.await?)
    }
}
