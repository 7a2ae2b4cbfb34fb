//! All descriptors that requests may bring, of both sides at once: where both go the same way step by step, and which rule each
//! comes to.

use crate::engine::key;
use crate::rules::outline::Node;
use crate::rules::{Entry, Rule};

use super::change::{Change, Changes, Effect, Subject};
use super::level::{Cell, Label, cells};
use super::rule::{self, Domains};

/// So many pairs of descriptors are looked at beside those that stand in the same place on both sides.
const MOST_PAIRS: usize = 2_000_000;

/// A walk through both trees of a domain.
pub(super) struct Walk<'n, 'c> {
    domains: Domains<'n>,
    changes: &'c mut Changes,
    path: Vec<Cell<'n>>,
    /// How many pairs may still be looked at.
    left: usize,
}

impl<'n, 'c> Walk<'n, 'c> {
    /// Adds all that changes for the descriptors of the domain to `changes`.
    pub(super) fn all(
        domains: Domains<'n>,
        old: &'n [Node],
        new: &'n [Node],
        changes: &'c mut Changes,
    ) {
        let mut walk = Walk {
            domains,
            changes,
            path: Vec::new(),
            left: MOST_PAIRS + count(old) + count(new),
        };
        walk.level(old, new);
    }

    fn level(&mut self, old: &'n [Node], new: &'n [Node]) {
        if old.is_empty() && new.is_empty() {
            return;
        }
        let size = old.len() + new.len();
        if self.left < size {
            self.changes.incomplete = true;
            return;
        }
        self.left -= size;
        for cell in cells(old, new, &mut self.changes.incomplete) {
            let (old, new) = (cell.old, cell.new);
            self.path.push(cell);
            self.end_here(old, new);
            let below = |node: Option<&'n Node>| node.map_or(&[][..], |node| &node.below);
            self.level(below(old), below(new));
            self.path.pop();
        }
    }

    /// What changes for descriptors that end here.
    fn end_here(&mut self, old: Option<&'n Node>, new: Option<&'n Node>) {
        let rule = |node: Option<&'n Node>| node.and_then(|node| node.rule.as_deref());
        let (old, new) = (rule(old), rule(new));
        if old.is_none() && new.is_none() {
            return;
        }
        let anew = match (old, new) {
            (Some(old), Some(new)) => self.other_key(old, new),
            _ => false,
        };
        let mut found = rule::compare(self.domains, old, new, anew);
        if let (Some(old), Some(new), true) = (old, new, found.is_empty())
            && old.name != new.name
        {
            let change = Change::new(Effect::Neutral, "another rule with the same limits");
            let change = change
                .note("metrics, metadata and, for limits without a name, headers have its name");
            found.push(change.from(&*old.name).to(&*new.name));
        }
        if found.is_empty() {
            return;
        }
        let domain = &*self.domains.new.name;
        let moved = self.moved();
        for mut change in found {
            change.notes.extend(moved.clone());
            let subject = || Subject {
                name: self.path.iter().map(name).collect::<Vec<_>>().join(", "),
                place: new
                    .or(old)
                    .map_or_else(String::new, |rule| rule.source.to_string()),
            };
            self.changes.add(domain, change, subject);
        }
    }

    /// Whether what the two rules count is kept under different keys.
    fn other_key(&self, old: &Rule, new: &Rule) -> bool {
        let entries = self.path.iter().map(|cell| Entry {
            key: &cell.key,
            value: &cell.value,
        });
        let entries: Vec<Entry<'_>> = entries.collect();
        key::key("", self.domains.old, &entries, Some(old))
            != key::key("", self.domains.new, &entries, Some(new))
    }

    /// What is said of descriptors that find another place than before.
    fn moved(&self) -> Option<String> {
        let mut moved = self.path.iter().filter_map(|cell| {
            let (old, new) = (cell.old?, cell.new?);
            let differ = old.key != new.key || old.matches != new.matches;
            differ.then_some((cell.label, old, new))
        });
        let (label, old, new) = moved.next()?;
        let is = |node: &Node| matches!(label, Label::Of(of) if std::ptr::eq(of, node));
        // The one that they are called by need not be named.
        Some(match (is(old), is(new)) {
            (_, true) => format!("found `{old}` before"),
            (true, false) => format!("finds `{new}` now"),
            (false, false) => format!("found `{old}` before, finds `{new}` now"),
        })
    }
}

fn name(cell: &Cell<'_>) -> String {
    match cell.label {
        Label::Of(node) => node.to_string(),
        Label::Both(one, other) => format!("{one} that is also {other}"),
    }
}

fn count(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| 1 + count(&node.below)).sum()
}
