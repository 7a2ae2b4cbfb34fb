//! Two rules, one of each side, for the same descriptors: what changes for those.

use crate::limit::ban::Ban;
use crate::rules::{Domain, PlanChoice, PlanSource, Rule, RuleLimit, Segment};
use crate::time::Micros;

use super::candidates;
use super::change::{Change, Effect};
use super::limits::{self, Defaults, list, said};

/// Both domains, by which rules are understood.
#[derive(Clone, Copy)]
pub(super) struct Domains<'d> {
    pub(super) old: &'d Domain,
    pub(super) new: &'d Domain,
}

/// What limits descriptors.
#[derive(Clone, Copy)]
pub(super) enum Terms<'r> {
    Nothing,
    Unlimited,
    Limits(&'r [RuleLimit]),
    Plan(&'r PlanChoice),
}

impl<'r> Terms<'r> {
    fn of(rule: Option<&'r Rule>) -> Self {
        match rule {
            None => Terms::Nothing,
            Some(rule) if rule.unlimited => Terms::Unlimited,
            Some(rule) => match &rule.plan {
                Some(choice) => Terms::Plan(choice),
                None if rule.limits.is_empty() => Terms::Nothing,
                None => Terms::Limits(&rule.limits),
            },
        }
    }

    fn limit(&self) -> bool {
        matches!(self, Terms::Limits(_) | Terms::Plan(_))
    }

    fn said(&self, rule: Option<&Rule>) -> String {
        match self {
            Terms::Nothing => "no limit".to_owned(),
            Terms::Unlimited => "unlimited".to_owned(),
            Terms::Limits(limits) => limits.iter().map(said).collect::<Vec<_>>().join("; "),
            Terms::Plan(choice) => {
                let from = rule.map_or_else(String::new, |rule| source(choice, rule));
                format!("the plan that {from} names, or {}", choice.default)
            }
        }
    }
}

/// What changes from one rule to the other; `anew` if their counters are kept under other keys.
pub(super) fn compare(
    domains: Domains<'_>,
    old: Option<&Rule>,
    new: Option<&Rule>,
    anew: bool,
) -> Vec<Change> {
    let mut changes = terms(domains, old, new);
    let shadow = |rule: Option<&Rule>| rule.is_some_and(|rule| rule.shadow_mode);
    if shadow(new) || (shadow(old) && !Terms::of(new).limit()) {
        // Nobody is refused by it, or was.
        for change in &mut changes {
            change.effect = Effect::Neutral;
            change
                .notes
                .push("refuses nobody: `shadow_mode`".to_owned());
        }
    }
    if let (Some(old), Some(new)) = (old, new)
        && Terms::of(Some(old)).limit()
        && Terms::of(Some(new)).limit()
    {
        roles(&mut changes, old, new);
    }
    changes.extend(candidates::compare(
        candidates::of(old),
        candidates::of(new),
    ));
    let ban = |rule: Option<&Rule>| rule.and_then(|rule| rule.ban.as_deref().copied());
    changes.extend(bans(ban(old), ban(new)));
    beside(&mut changes, old, new);
    let counts = |rule: Option<&Rule>| {
        Terms::of(rule).limit() || rule.is_some_and(|rule| rule.meter.is_some())
    };
    if anew && counts(old) && counts(new) {
        let forgotten = Change::new(Effect::Looser, "counters start anew").anew(true);
        let forgotten =
            forgotten.note("what was used is forgotten once: they are kept under other keys");
        match changes.iter_mut().find(|change| change.anew) {
            Some(_) => {}
            None => changes.push(forgotten),
        }
    }
    changes
}

/// What limits them.
fn terms(domains: Domains<'_>, old: Option<&Rule>, new: Option<&Rule>) -> Vec<Change> {
    let (before, after) = (Terms::of(old), Terms::of(new));
    let change = |effect, what: &str| {
        let change = Change::new(effect, what);
        vec![change.from(before.said(old)).to(after.said(new))]
    };
    match (before, after) {
        (Terms::Nothing, Terms::Nothing) | (Terms::Unlimited, Terms::Unlimited) => Vec::new(),
        (Terms::Nothing, Terms::Unlimited) | (Terms::Unlimited, Terms::Nothing) => {
            change(Effect::Neutral, "no limit, said otherwise")
        }
        (Terms::Nothing | Terms::Unlimited, Terms::Limits(_) | Terms::Plan(_)) => {
            change(Effect::Stricter, "limited from now on")
        }
        (Terms::Limits(_) | Terms::Plan(_), Terms::Nothing | Terms::Unlimited) => {
            change(Effect::Looser, "no longer limited")
        }
        (Terms::Limits(before), Terms::Limits(after)) => {
            limits::compare(before, after, domains.defaults())
        }
        (Terms::Limits(_), Terms::Plan(_)) => {
            change(Effect::Mixed, "limited by a plan from now on")
        }
        (Terms::Plan(_), Terms::Limits(_)) => change(Effect::Mixed, "no longer limited by a plan"),
        (Terms::Plan(before), Terms::Plan(after)) => choices(domains, (before, old), (after, new)),
    }
}

/// Two ways to a plan.
fn choices(
    domains: Domains<'_>,
    (before, old): (&PlanChoice, Option<&Rule>),
    (after, new): (&PlanChoice, Option<&Rule>),
) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.from != after.from {
        let from = |choice, rule: Option<&Rule>| {
            rule.map_or_else(String::new, |rule| source(choice, rule))
        };
        let change = Change::new(Effect::Mixed, "another source names the plan");
        changes.push(change.from(from(before, old)).to(from(after, new)));
    }
    if before.default != after.default {
        let effect = plan_effect(domains, &before.default, &after.default);
        let change = Change::new(effect, "another plan for who has none");
        changes.push(change.from(&*before.default).to(&*after.default));
    }
    changes
}

/// Who names the plan.
fn source(choice: &PlanChoice, rule: &Rule) -> String {
    match choice.from {
        PlanSource::Directory => "the directory".to_owned(),
        PlanSource::Entry(level) => match rule.levels.get(level) {
            Some(level) => format!("`{}`", level.key),
            None => "an entry".to_owned(),
        },
    }
}

/// What it means to have the plan `new` of the new rules in place of the plan `old` of the old ones.
pub(super) fn plan_effect(domains: Domains<'_>, old: &str, new: &str) -> Effect {
    let (Some(old), Some(new)) = (domains.old.plans.get(old), domains.new.plans.get(new)) else {
        return Effect::Mixed;
    };
    match (old.unlimited, new.unlimited) {
        (true, true) => Effect::Neutral,
        (true, false) => Effect::Stricter,
        (false, true) => Effect::Looser,
        (false, false) => {
            let changes = limits::compare(&old.limits, &new.limits, domains.defaults());
            let effects = changes.iter().map(|change| change.effect);
            effects.fold(Effect::Neutral, Effect::and)
        }
    }
}

/// Whether the limits refuse.
fn roles(changes: &mut Vec<Change>, old: &Rule, new: &Rule) {
    match (old.shadow_mode, new.shadow_mode) {
        (false, true) => changes.push(
            Change::new(Effect::Looser, "shadowed").note("computed and counted, refuses nobody"),
        ),
        (true, false) => changes
            .push(Change::new(Effect::Stricter, "no longer shadowed").note("refuses from now on")),
        _ => {}
    }
    match (old.quota_mode, new.quota_mode) {
        (false, true) => changes.push(
            Change::new(Effect::Looser, "made a quota")
                .note("a request is refused only when all its quotas are over"),
        ),
        (true, false) => changes.push(
            Change::new(Effect::Stricter, "no longer a quota")
                .note("refuses a request by itself from now on"),
        ),
        _ => {}
    }
    let shared = |levels: &[Segment]| -> Vec<String> {
        let shared = levels.iter().filter(|level| level.share_threshold);
        shared
            .map(|level| format!("{}={}", level.key, level.value))
            .collect()
    };
    let (before, after) = (shared(&old.levels), shared(&new.levels));
    if before != after {
        let all = |of: &[String], others: &[String]| of.iter().all(|one| others.contains(one));
        let effect = match (all(&before, &after), all(&after, &before)) {
            (true, _) => Effect::Stricter,
            (false, true) => Effect::Looser,
            (false, false) => Effect::Mixed,
        };
        let change = Change::new(effect, "values that share one counter").anew(true);
        changes.push(change.from(list(&before)).to(list(&after)));
    }
}

fn bans(old: Option<Ban>, new: Option<Ban>) -> Option<Change> {
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(Change::new(Effect::Stricter, "ban added").to(ban(&new))),
        (Some(old), None) => {
            let change = Change::new(Effect::Looser, "ban removed").from(ban(&old));
            Some(change.note("bans that it has begun no longer hold"))
        }
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => {
            let per = |ban: &Ban| f64::from(ban.after()) / ban.window().get() as f64;
            let effect = Effect::of(per(&old), per(&new), Effect::Looser)
                .and(Effect::of(old.after(), new.after(), Effect::Looser))
                .and(Effect::of(old.first(), new.first(), Effect::Stricter))
                .and(Effect::of(old.longest(), new.longest(), Effect::Stricter));
            let change = Change::new(effect, "ban changed")
                .from(ban(&old))
                .to(ban(&new));
            let anew = old.tag() != new.tag();
            let change = change.anew(anew);
            Some(match anew {
                true => change.note("refusals counted so far, and bans begun, are forgotten"),
                false => change,
            })
        }
    }
}

fn ban(ban: &Ban) -> String {
    let (first, longest) = (time(ban.first()), time(ban.longest()));
    let within = time(ban.window());
    format!(
        "after {} refusals within {within}, for {first}, at most {longest}",
        ban.after()
    )
}

/// As rule files have it.
fn time(time: Micros) -> String {
    let secs = time.get() / 1_000_000;
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let fits = units
        .into_iter()
        .find(|(unit, _)| secs >= *unit && secs.is_multiple_of(*unit));
    let (unit, name) = fits.unwrap_or((1, "s"));
    format!("{}{name}", secs / unit)
}

/// What is said and counted beside the limits.
fn beside(changes: &mut Vec<Change>, old: Option<&Rule>, new: Option<&Rule>) {
    let meter = |rule: Option<&Rule>| {
        let meter = rule.and_then(|rule| rule.meter.as_ref());
        meter.map_or("none", |meter| meter.unit().name())
    };
    if meter(old) != meter(new) {
        let anew = old.is_some_and(|old| old.meter.is_some()) && meter(new) != "none";
        let change = Change::new(Effect::Neutral, "usage counted for billing").anew(anew);
        changes.push(change.from(meter(old)).to(meter(new)));
    }
    let replaces =
        |rule: Option<&Rule>| rule.map_or_else(|| list(&[]), |rule| list(&rule.replaces));
    if replaces(old) != replaces(new) {
        let change = Change::new(Effect::Mixed, "replaces other limits");
        changes.push(change.from(replaces(old)).to(replaces(new)));
    }
    let (Some(old), Some(new)) = (old, new) else {
        return;
    };
    let by_values = |rule: &Rule| -> Vec<String> {
        let levels = rule.levels.iter();
        let levels = levels.filter(|level| rule.detailed_metric || level.value_to_metric);
        levels.map(|level| level.key.to_string()).collect()
    };
    if by_values(old) != by_values(new) {
        let change = Change::new(Effect::Neutral, "values in the name of its metrics");
        changes.push(change.from(list(&by_values(old))).to(list(&by_values(new))));
    }
    if old.metadata != new.metadata {
        let said = |rule: &Rule| {
            rule.metadata
                .as_ref()
                .map_or("none".to_owned(), |m| m.to_string())
        };
        let change = Change::new(Effect::Neutral, "metadata of requests that pass");
        changes.push(change.from(said(old)).to(said(new)));
    }
}

impl Domains<'_> {
    pub(super) fn defaults(self) -> Defaults {
        Defaults {
            old_mode: self.old.failure_mode,
            new_mode: self.new.failure_mode,
        }
    }
}
