//! What is said beside descriptors: the domain's own fields, its plans, and what requests cost.

use std::collections::{HashMap, HashSet};

use crate::engine::key;
use crate::limit::Hits;
use crate::rules::costs::Cost;
use crate::rules::outline::Outline;
use crate::rules::{Body, Domain, Entry, Plan, PlanSource, Response, Rule, RuleSet};

use super::candidates;
use super::change::{Change, Changes, Effect, Subject};
use super::limits::{self, list, said, strictness};
use super::rule::{Domains, plan_effect};
use super::walk::Walk;

/// Rules of one side.
pub(super) struct Side {
    pub(super) rules: RuleSet,
    pub(super) outline: Outline,
}

/// All that changes from one side to the other.
pub(super) fn compare(old: &Side, new: &Side) -> Changes {
    let mut changes = Changes::default();
    let names: HashSet<&String> = old
        .rules
        .domains
        .keys()
        .chain(new.rules.domains.keys())
        .collect();
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort();
    for name in names {
        match (old.rules.domains.get(name), new.rules.domains.get(name)) {
            (Some(before), Some(after)) => {
                let domains = Domains {
                    old: before,
                    new: after,
                };
                let mut both = Both {
                    domains,
                    rules: &new.rules,
                    changes: &mut changes,
                };
                both.fields();
                both.plans();
                both.costs();
                let (before, after) = (old.outline.get(name), new.outline.get(name));
                let empty = Vec::new();
                Walk::all(
                    domains,
                    before.unwrap_or(&empty),
                    after.unwrap_or(&empty),
                    &mut changes,
                );
            }
            (None, Some(_)) => whole(&mut changes, name, &new.rules, true),
            (Some(_), None) => whole(&mut changes, name, &old.rules, false),
            (None, None) => {}
        }
    }
    changes
}

/// A domain that only one side has.
fn whole(changes: &mut Changes, name: &str, rules: &RuleSet, is_new: bool) {
    let of_domain = |rule: &&std::sync::Arc<Rule>| *rule.domain == *name;
    let all: Vec<_> = rules.rules.iter().filter(of_domain).collect();
    let limits = all.iter().any(|rule| !rule.unlimited && !rule.shadow_mode);
    let has = match all.len() {
        1 => "1 rule".to_owned(),
        rules => format!("{rules} rules"),
    };
    let (effect, what) = match is_new {
        true => (Effect::Stricter, "domain added"),
        false => (Effect::Looser, "domain removed"),
    };
    let change = Change::new(if limits { effect } else { Effect::Neutral }, what);
    let change = match is_new {
        true => change.to(has),
        false => change.from(has).note("its requests are no longer limited"),
    };
    let place = all
        .first()
        .map_or_else(String::new, |rule| rule.source.file.to_string());
    let subject = || Subject {
        name: String::new(),
        place,
    };
    changes.add(name, change, subject);
}

struct Both<'d, 'c> {
    domains: Domains<'d>,
    /// Those of the new side.
    rules: &'d RuleSet,
    changes: &'c mut Changes,
}

impl Both<'_, '_> {
    fn add(&mut self, subject: impl Into<String>, change: Change) {
        let subject = Subject {
            name: subject.into(),
            place: String::new(),
        };
        let domain = &*self.domains.new.name;
        self.changes.add(domain, change, || subject);
    }

    fn domain(&mut self, change: Change) {
        self.add("", change);
    }

    fn fields(&mut self) {
        let Domains { old, new } = self.domains;
        if old.failure_mode != new.failure_mode {
            let effect = Effect::of(
                strictness(old.failure_mode),
                strictness(new.failure_mode),
                Effect::Stricter,
            );
            let change = Change::new(effect, "while the store does not answer");
            let change = change
                .from(old.failure_mode.name())
                .to(new.failure_mode.name());
            self.domain(change.note("for limits that do not say (`failure_mode`)"));
        }
        if old.time_zone.name() != new.time_zone.name() {
            let change = Change::new(
                Effect::Neutral,
                "days, weeks, months and years begin elsewhere",
            );
            let change = change.from(old.time_zone.name()).to(new.time_zone.name());
            self.domain(change.note("what was used in the current ones stays used"));
        }
        if old.partition_by != new.partition_by {
            let change = Change::new(Effect::Neutral, "counters are placed by other entries");
            let change = change
                .from(list(&old.partition_by))
                .to(list(&new.partition_by));
            self.domain(
                change.note("`partition_by`: what is charged in one step, and in which slot"),
            );
        }
        self.sensitive(old, new);
        self.response(&old.response, &new.response);
    }

    fn sensitive(&mut self, old: &Domain, new: &Domain) {
        let keys = old.sensitive.iter().chain(&new.sensitive);
        let mut seen = HashSet::new();
        for key in keys.filter(|key| seen.insert(key.as_str())) {
            let is = |domain: &Domain| match domain.sensitive.contains(key) {
                true => "hashed",
                false => "shown",
            };
            if is(old) == is(new) {
                continue;
            }
            let entry = Entry { key, value: "any" };
            let change = Change::new(Effect::Neutral, format!("values of `{key}`"));
            let change = change.from(is(old)).to(is(new));
            let lost = key::standing("", old, entry) != key::standing("", new, entry);
            self.domain(match lost {
                true => Change {
                    effect: Effect::Mixed,
                    ..change.note("plans, grants, lists and bans that the API has given them no longer find them")
                },
                false => change,
            });
        }
    }

    fn response(&mut self, old: &Response, new: &Response) {
        let headers = |response: &Response| {
            let named = [
                ("ratelimit", response.ratelimit),
                ("retry-after", response.retry_after),
                ("x-ratelimit", response.x_ratelimit),
                ("x-quota", response.x_quota),
            ];
            let named = named.into_iter().filter(|(_, on)| *on);
            list(&named.map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
        };
        let body = |response: &Response| match response.body {
            Body::Json => "json",
            Body::Problem => "problem",
            Body::None => "none",
        };
        let own = "Tollgate's own".to_owned();
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| own.clone());
        let (a, b) = (&old.messages, &new.messages);
        let all = [
            ("headers of answers", headers(old), headers(new)),
            (
                "body of refusals",
                body(old).to_owned(),
                body(new).to_owned(),
            ),
            (
                "message of a limit",
                text(&a.rate_limit_exceeded),
                text(&b.rate_limit_exceeded),
            ),
            (
                "message of a monthly quota",
                text(&a.monthly_quota_exceeded),
                text(&b.monthly_quota_exceeded),
            ),
            ("message of a ban", text(&a.banned), text(&b.banned)),
        ];
        for (what, before, after) in all {
            if before != after {
                self.domain(Change::new(Effect::Neutral, what).from(before).to(after));
            }
        }
    }

    fn plans(&mut self) {
        let Domains { old, new } = self.domains;
        let names = old.plans.keys().chain(new.plans.keys());
        let mut seen = HashSet::new();
        for name in names.filter(|name| seen.insert(name.as_str())) {
            let users = self.users(name);
            let changes = match (old.plans.get(name), new.plans.get(name)) {
                (Some(before), Some(after)) => plan(self.domains, before, after),
                (None, Some(after)) => vec![self.appears(name, after)],
                (Some(before), None) => vec![self.disappears(name, before)],
                (None, None) => Vec::new(),
            };
            for change in changes {
                self.add(format!("plan {name}"), change.note(users.clone()));
            }
        }
    }

    /// A plan that was not there: who named it had the default.
    fn appears(&self, name: &str, plan: &Plan) -> Change {
        let effects = self
            .choices(name)
            .map(|default| plan_effect(self.domains, default, name));
        let effect = effects.fold(Effect::Neutral, Effect::and);
        Change::new(effect, "plan added")
            .from("the default plan")
            .to(contents(plan))
    }

    /// A plan that is gone: who names it has the default.
    fn disappears(&self, name: &str, plan: &Plan) -> Change {
        let effects = self
            .choices(name)
            .map(|default| plan_effect(self.domains, name, default));
        let effect = effects.fold(Effect::Neutral, Effect::and);
        Change::new(effect, "plan removed")
            .from(contents(plan))
            .to("the default plan")
    }

    /// The defaults of rules that may come by a plan.
    fn choices(&self, plan: &str) -> impl Iterator<Item = &str> {
        let rules = self
            .rules
            .rules
            .iter()
            .filter(|rule| rule.domain == self.domains.new.name);
        let rules = rules.filter(move |rule| may_use(rule, plan));
        rules.filter_map(|rule| Some(rule.plan.as_ref()?.default.as_str()))
    }

    /// The rules that may come by a plan, in words.
    fn users(&self, plan: &str) -> String {
        let rules = self
            .rules
            .rules
            .iter()
            .filter(|rule| rule.domain == self.domains.new.name);
        let users: Vec<String> = rules
            .filter(|rule| may_use(rule, plan))
            .map(|rule| written(rule))
            .collect();
        match users.as_slice() {
            [] => "no rule uses it".to_owned(),
            [one] => format!("for {one}"),
            users => {
                let more = users.len().saturating_sub(MOST_USERS);
                let first = users
                    .iter()
                    .take(MOST_USERS)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; ");
                match more {
                    0 => format!("for {first}"),
                    more => format!("for {first}; and {more} more"),
                }
            }
        }
    }

    fn costs(&mut self) {
        let Domains { old, new } = self.domains;
        let (old, new) = (first(old.costs.written()), first(new.costs.written()));
        let known = |list: &[&Cost]| -> HashMap<(String, String), Hits> {
            let costs = list.iter().map(|cost| (place(cost), cost.cost));
            costs.collect()
        };
        let (olds, news) = (known(&old), known(&new));
        for cost in &new {
            let before = olds.get(&place(cost));
            if before == Some(&cost.cost) {
                continue;
            }
            let usual = before.unwrap_or(&Hits::ONE);
            let change = Change::new(Effect::of(*usual, cost.cost, Effect::Stricter), COST);
            let change = match before {
                Some(before) => change.from(before.to_string()),
                None => change.from("1, or that of another cost"),
            };
            self.add(named(cost), change.to(cost.cost.to_string()));
        }
        for cost in old.iter().filter(|cost| !news.contains_key(&place(cost))) {
            let effect = Effect::of(cost.cost, Hits::ONE, Effect::Stricter);
            let change = Change::new(effect, COST).from(cost.cost.to_string());
            self.add(named(cost), change.to("1, or that of another cost"));
        }
        let order =
            |list: &[&Cost], others: &HashMap<(String, String), Hits>| -> Vec<(String, String)> {
                let places = list.iter().map(|cost| place(cost));
                places.filter(|place| others.contains_key(place)).collect()
            };
        if order(&old, &news) != order(&new, &olds) {
            let change = Change::new(Effect::Mixed, "costs in another order");
            self.domain(change.note("the first that matches any entry of a request counts"));
        }
    }
}

const COST: &str = "cost of a request";

/// Of costs that match the same the first counts.
fn first(costs: &[Cost]) -> Vec<&Cost> {
    let mut seen = HashSet::new();
    costs
        .iter()
        .filter(|cost| seen.insert(place(cost)))
        .collect()
}

/// What a cost matches.
fn place(cost: &Cost) -> (String, String) {
    (cost.key.clone(), cost.value.clone())
}

fn named(cost: &Cost) -> String {
    match &*cost.value {
        "" => cost.key.clone(),
        value => format!("{}={value}", cost.key),
    }
}

/// So many rules of a plan are named.
const MOST_USERS: usize = 5;

/// What changes in a plan.
fn plan(domains: Domains<'_>, old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = plan_limits(domains, old, new);
    changes.extend(candidates::compare(
        (&old.limits, &old.candidates),
        (&new.limits, &new.candidates),
    ));
    changes
}

fn plan_limits(domains: Domains<'_>, old: &Plan, new: &Plan) -> Vec<Change> {
    match (old.unlimited, new.unlimited) {
        (true, true) => Vec::new(),
        (false, false) => limits::compare(&old.limits, &new.limits, domains.defaults()),
        (was, _) => {
            let (effect, what) = match was {
                true => (Effect::Stricter, "limited from now on"),
                false => (Effect::Looser, "no longer limited"),
            };
            vec![
                Change::new(effect, what)
                    .from(contents(old))
                    .to(contents(new)),
            ]
        }
    }
}

fn contents(plan: &Plan) -> String {
    match plan.unlimited {
        true => "unlimited".to_owned(),
        false => plan.limits.iter().map(said).collect::<Vec<_>>().join("; "),
    }
}

/// Whether some descriptor of the rule can come by the plan.
fn may_use(rule: &Rule, plan: &str) -> bool {
    let Some(choice) = &rule.plan else {
        return false;
    };
    let named = match choice.from {
        PlanSource::Directory => true,
        PlanSource::Entry(level) => rule
            .levels
            .get(level)
            .is_none_or(|level| level.value.is_empty() || level.wildcard || *level.value == *plan),
    };
    named || choice.default == plan
}

/// A rule in a few words, such as `tier, user_id`.
fn written(rule: &Rule) -> String {
    let levels = rule.levels.iter().map(|level| match &*level.value {
        "" => level.key.to_string(),
        value => format!("{}={value}", level.key),
    });
    levels.collect::<Vec<_>>().join(", ")
}
