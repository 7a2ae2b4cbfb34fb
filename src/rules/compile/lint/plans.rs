//! Plans: those that nobody can have, those that are not there, and those that are worth less than they cost.

use super::{File, advise, get, limits, list};
use crate::limit::Limit;
use crate::rules::compile::fields::Scope;
use crate::rules::diagnostic::{Code, did_you_mean};
use crate::rules::file::{Node, Value};
use crate::rules::{Plan, PlanSource, Rule};

/// Names of plans that nobody pays for, and of some that one does.
const FREE: [&str; 5] = ["free", "trial", "basic", "anonymous", "guest"];
const PAID: [&str; 8] = [
    "pro",
    "premium",
    "plus",
    "gold",
    "platinum",
    "business",
    "enterprise",
    "paid",
];

/// Looks at the plans of a file.
pub(super) fn look(file: &File<'_>, scope: &Scope<'_>, root: &Node<'_>) {
    let Some(Value::Map(plans)) = get(root, "plans").map(|plans| &plans.value) else {
        return;
    };
    for (name, node) in plans {
        let scope = scope.field(&name.text);
        let Some(plan) = file.domain.plans.get(&*name.text) else {
            continue;
        };
        if !file.names.plans.contains(&*name.text) {
            let message = format!("nobody can have the plan `{}`", name.text);
            let help = "no descriptor has a `plan` that may choose it, such as `plan: {from: directory, default: free}`";
            advise(&scope, Code::UnusedPlan, name.span, &message, help);
        } else if let Some((free, what)) = worth_less(file, &name.text, plan) {
            let message = format!("the plan `{}` allows less than `{free}`: {what}", name.text);
            let help = "exchange the numbers, or the names";
            advise(&scope, Code::InvertedPlans, name.span, &message, help);
        }
        if let Some(items) = list(node) {
            let items: Vec<&Node<'_>> = items.iter().collect();
            limits::look(file, &scope, &plan.limits, &items, false);
        }
    }
}

/// A free plan of the same domain with more of anything than the paid plan `name`, and what that is.
fn worth_less<'r>(file: &File<'r>, name: &str, plan: &Plan) -> Option<(&'r str, String)> {
    let (kind, rest) = class(name)?;
    if kind == FREE || plan.unlimited {
        return None;
    }
    let others =
        file.domain.plans.iter().filter(|(other, _)| {
            class(other).is_some_and(|(kind, same)| kind == FREE && same == rest)
        });
    others.into_iter().find_map(|(name, other)| {
        if other.unlimited {
            return Some((name.as_str(), "that is `unlimited`".to_owned()));
        }
        let limits = |plan: &'r Plan| plan.limits.iter().map(|limit| &limit.limit);
        let of_plan: Vec<&Limit> = plan.limits.iter().map(|limit| &limit.limit).collect();
        limits(other).find_map(|free| {
            let same = of_plan.iter().find(|limit| limit.tag() == free.tag())?;
            let is_less = same.requests_per_unit() < free.requests_per_unit();
            is_less.then(|| (name.as_str(), format!("{same} by {free}")))
        })
    })
}

/// Whether a name is of a plan that is paid for or of one that is not, and what else stands in it: `app_free` is beside
/// `app_premium`, and not beside `user_premium`.
fn class(name: &str) -> Option<(&'static [&'static str], String)> {
    let name = name.to_lowercase();
    let mut words: Vec<&str> = name.split(['_', '-', ' ', '.']).collect();
    let of = |words: &[&str], kind: &'static [&'static str]| {
        words
            .iter()
            .position(|word| kind.contains(word))
            .map(|at| (kind, at))
    };
    let (kind, at) = of(&words, &FREE).or_else(|| of(&words, &PAID))?;
    words.remove(at);
    Some((kind, words.join("_")))
}

/// A descriptor that says which plan its subjects have by a value that names none.
pub(super) fn unknown(file: &File<'_>, scope: &Scope<'_>, node: &Node<'_>, rule: &Rule) {
    let Some(choice) = &rule.plan else { return };
    let PlanSource::Entry(level) = choice.from else {
        return;
    };
    let Some(level) = rule.levels.get(level) else {
        return;
    };
    let plans = &file.domain.plans;
    if level.value.is_empty() || level.wildcard || plans.contains_key(&*level.value) {
        return;
    }
    let Some(from) = get(node, "plan").and_then(|plan| get(plan, "from")) else {
        return;
    };
    let message = format!(
        "`{}` is `{}` here, and no plan is called so: all have the default `{}`",
        level.key, level.value, choice.default
    );
    let may_guess = file.names.may_guess(plans.len());
    let known = plans.keys().filter(|_| may_guess).map(String::as_str);
    let help = match did_you_mean(&level.value, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add `{}` under `plans`", level.value),
    };
    advise(
        &scope.field("plan"),
        Code::UnknownPlan,
        from.span,
        &message,
        &help,
    );
}
