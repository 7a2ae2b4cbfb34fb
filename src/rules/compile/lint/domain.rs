//! What a file says beside its descriptors: keys that no descriptor has, costs that nothing has, no rules at all.

use std::collections::{BTreeSet, HashMap};

use super::{File, advise, at, get, list, text, texts};
use crate::rules::compile::fields::Scope;
use crate::rules::diagnostic::{Code, distance};
use crate::rules::file::{Node, Span};
use crate::rules::glob::covers;

/// With how many costs of a key, the first in the file, the others are compared.
const MOST_COSTS: usize = 100;

/// Looks at the top of a file.
pub(super) fn look(file: &File<'_>, scope: &Scope<'_>, root: &Node<'_>) {
    if let Some(domain) = get(root, "domain") {
        texts::odd(&scope.field("domain"), domain);
        if file.rules.is_empty() {
            let message = format!(
                "the domain `{}` has no rules, so it limits nothing",
                file.domain.name
            );
            let help = "add `descriptors`, each with a `key` and a `rate_limit`";
            advise(scope, Code::EmptyDomain, domain.span, &message, help);
            return;
        }
    }
    let levels = file.rules.iter().flat_map(|rule| &rule.levels);
    let keys: BTreeSet<&str> = levels.map(|level| &*level.key).collect();
    // A key with `*` stands for others.
    if !keys.iter().any(|key| key.contains('*')) {
        keys_of(file, scope, root, "partition_by", &keys);
        keys_of(file, scope, root, "sensitive", &keys);
    }
    costs(file, scope, root, &keys);
}

fn keys_of(file: &File<'_>, scope: &Scope<'_>, root: &Node<'_>, name: &str, keys: &BTreeSet<&str>) {
    let items = get(root, name).and_then(list).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let Some(key) = text(item).filter(|key| !keys.contains(key)) else {
            continue;
        };
        let scope = scope.field(name);
        let near = near(file, key, keys);
        // Descriptors without a rule are seen too, and their values may be secret.
        if near.is_none() && name == "sensitive" {
            continue;
        }
        let message = format!("no descriptor of this domain has the key `{key}`");
        let found = scope.item(index).error(item.span, message);
        let found = found.coded(Code::UnknownKey);
        scope.report(match near {
            Some(near) => found.with_help(format!("did you mean `{near}`?")),
            None => found
                .with_help("it places no counter: remove it, unless rules with it are to come")
                .as_note(),
        });
    }
}

/// A key that differs so little that it is most likely meant.
fn near<'k>(file: &File<'_>, key: &str, keys: &BTreeSet<&'k str>) -> Option<&'k str> {
    if key.len() > LONGEST_KEY || !file.names.may_guess(keys.len()) {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let most = if key.len() < 8 { 1 } else { 2 };
    let own = plain(key);
    let same = |known: &&str| plain(known) == own || known.strip_suffix("_id") == Some(key);
    let near = |known: &&str| {
        let is_long = key.len() > 2 && known.len().abs_diff(key.len()) <= 4 * most;
        is_long && distance(known, key) <= most
    };
    let all = || keys.iter().copied();
    all().find(same).or_else(|| all().find(near))
}

/// The longest key of which another spelling is sought.
const LONGEST_KEY: usize = 64;

/// Costs behind others that match all that they do, and costs of keys that are misspelled.
fn costs(file: &File<'_>, scope: &Scope<'_>, root: &Node<'_>, keys: &BTreeSet<&str>) {
    let mut before: HashMap<&str, Vec<(&str, Span)>> = HashMap::new();
    let items = get(root, "costs").and_then(list).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        let Some(key) = get(item, "key").and_then(text) else {
            continue;
        };
        let value = get(item, "value")
            .and_then(text)
            .filter(|value| !value.is_empty());
        let value = value.unwrap_or("*");
        let span = at(item, &["value", "key"]);
        let scope = scope.field("costs");
        let scope = scope.item(index);
        let before = before.entry(key).or_default();
        if let Some((_, first)) = before.iter().find(|(wide, _)| covers(wide, value)) {
            let message = "no request has this cost".to_owned();
            let help = format!(
                "the first that matches counts, and the one in line {} matches all of it: put this one first",
                first.line
            );
            advise(&scope, Code::UnusedCost, span, &message, &help);
        } else if !keys.contains(key)
            && let Some(near) = near(file, key, keys)
        {
            let message = format!("no descriptor of this domain has the key `{key}`");
            let help = format!("did you mean `{near}`?");
            advise(
                &scope,
                Code::UnknownKey,
                at(item, &["key"]),
                &message,
                &help,
            );
        }
        if before.len() < MOST_COSTS {
            before.push((value, span));
        }
    }
}
