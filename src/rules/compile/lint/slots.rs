//! Rules of one subject that lie in several slots, where one entry under `partition_by` would place them in one.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, advise, get};
use crate::rules::compile::fields::Scope;
use crate::rules::diagnostic::Code;
use crate::rules::file::Node;
use crate::rules::{Domain, Rule};

/// Tells of the key that would bring most rules together. Nothing is said of rules that `partition_by` places: where it names
/// several keys, that rules lie apart is meant.
pub(super) fn look(file: &File<'_>, scope: &Scope<'_>, root: &Node<'_>) {
    // Those for which two sorts of rules count: to place by another, such as a path, would put all users of it in one slot.
    let mut by_key: BTreeMap<&str, BTreeSet<Vec<&str>>> = BTreeMap::new();
    let lone = |rule: &&&Rule| counts(rule) && placing(file.domain, rule).is_none();
    for rule in file.rules.iter().filter(lone) {
        let subject = rule.levels.last();
        if let Some(level) = subject.filter(|level| level.value.is_empty() && !level.wildcard) {
            let keys = rule.levels.iter().map(|level| &*level.key).collect();
            by_key.entry(&level.key).or_default().insert(keys);
        }
    }
    let shared = by_key.iter().filter(|(_, sorts)| sorts.len() > 1);
    // Of several the first by name.
    let most = shared.max_by_key(|(key, sorts)| (sorts.len(), std::cmp::Reverse(**key)));
    let Some((key, sorts)) = most else {
        return;
    };
    let all = sorts.len();
    let shown: Vec<String> = sorts
        .iter()
        .take(3)
        .map(|keys| format!("`{}`", keys.join(", ")))
        .collect();
    let more = if all > shown.len() { ", …" } else { "" };
    let message = format!(
        "a request that finds rules of {}{more} is charged in {all} slots of Redis, and in one if `{key}` placed them",
        shown.join(" and "),
    );
    let known = |by: &&String| {
        let levels = file.rules.iter().flat_map(|rule| &rule.levels);
        levels.into_iter().any(|level| *level.key == ***by)
    };
    let mut keys: Vec<String> = file
        .domain
        .partition_by
        .iter()
        .filter(known)
        .cloned()
        .collect();
    keys.push((*key).to_owned());
    let help = format!(
        "`partition_by: [{}]` makes it 1 call in place of {all} at the same time, and spares the round trip that gives back what one took when another refuses; the counters begin anew",
        keys.join(", ")
    );
    let span = get(root, "partition_by")
        .or(get(root, "domain"))
        .map(|node| node.span);
    let field = if get(root, "partition_by").is_some() {
        "partition_by"
    } else {
        "domain"
    };
    advise(
        &scope.field(field),
        Code::SplitRequest,
        span.unwrap_or_default(),
        &message,
        &help,
    );
}

/// The key under `partition_by` that places the counters of a rule.
fn placing<'d>(domain: &'d Domain, rule: &Rule) -> Option<&'d str> {
    let mut keys = domain.partition_by.iter();
    let key = keys.find(|key| rule.levels.iter().any(|level| *level.key == ***key));
    key.map(String::as_str)
}

/// Whether the rule has counters.
fn counts(rule: &Rule) -> bool {
    !rule.limits.is_empty() || rule.plan.is_some() || rule.meter.is_some()
}
