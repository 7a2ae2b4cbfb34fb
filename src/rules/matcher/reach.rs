//! How far a descriptor comes, and what stands beside its way, for people.

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{Cidrs, Key, Level, Node, Patterns, Tree};
use crate::rules::{Domain, Entry};

/// The most nodes of one level that are told.
pub const MAX_BESIDE: usize = 1000;

/// A node of a level that an entry was looked for in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The key as written.
    pub key: String,
    /// The value as written; empty for the bare key.
    pub value: String,
    /// Whether an entry with its key would match it, if nothing more specific did.
    pub fits: bool,
    /// It is the one that the entry found.
    pub is_taken: bool,
    /// A descriptor that ends here has a rule.
    pub has_rule: bool,
    /// Others stand below it.
    pub goes_on: bool,
}

impl Domain {
    /// How many of the entries, from the first on, find something that may stand where they stand.
    pub fn reach(&self, entries: &[Entry<'_>]) -> usize {
        let mut level = Level::ROOT;
        let found = |entry: &&Entry<'_>| {
            let node = self.tree.node(level, entry);
            level = node.map_or(Level::NONE, |node| node.below);
            node.is_some()
        };
        entries.iter().take_while(found).count()
    }

    /// What stands in the level of each entry, up to the one that finds nothing; if all find something, in the level below
    /// as well.
    pub fn beside(&self, entries: &[Entry<'_>]) -> Vec<Vec<Beside>> {
        let mut levels = Vec::new();
        let mut level = Level::ROOT;
        for entry in entries {
            if level == Level::NONE {
                break;
            }
            let taken = self.tree.node(level, entry);
            levels.push(self.tree.standing(level, Some(entry), taken));
            level = taken.map_or(Level::NONE, |node| node.below);
        }
        if level != Level::NONE {
            levels.push(self.tree.standing(level, None, None));
        }
        levels
    }
}

impl Tree {
    /// The nodes of a level, those first that an entry could be meant for.
    fn standing(
        &self,
        level: Level,
        entry: Option<&Entry<'_>>,
        taken: Option<&Node>,
    ) -> Vec<Beside> {
        let names: HashMap<Key, &str> = self
            .keys
            .iter()
            .map(|(name, known)| (known.key, name.as_str()))
            .collect();
        let name = |key: Key| names.get(&key).copied().unwrap_or_default();
        let value = entry.map_or("", |entry| entry.value);
        let is_key = |key: &str| entry.is_none_or(|entry| entry.key == key);
        let is_taken = |node: &Node| taken.is_some_and(|taken| std::ptr::eq(taken, node));
        let mut all: Vec<Beside> = Vec::new();
        let mut add = |key: &str, written: String, fits: bool, node: &Node| {
            let one = Beside {
                key: key.to_owned(),
                value: written,
                fits: fits && is_key(key),
                is_taken: is_taken(node),
                has_rule: node.rule.is_some(),
                goes_on: node.below != Level::NONE,
            };
            // What may be meant has a place, whatever else there is.
            if all.len() < MAX_BESIDE || one.is_taken {
                all.push(one);
            }
        };
        let here = |at: &(Level, Key)| at.0 == level;
        for ((_, key), node) in self.bare.iter().filter(|(at, _)| here(at)) {
            add(name(*key), String::new(), true, node);
        }
        for ((_, key), nets) in self.cidrs.iter().filter(|(at, _)| here(at)) {
            for (net, node) in nets.nets() {
                add(name(*key), net.to_string(), holds(net, value), node);
            }
        }
        for ((_, key), patterns) in self.patterns.iter().filter(|(at, _)| here(at)) {
            for (pattern, node) in patterns.written() {
                add(name(*key), pattern.to_owned(), fits(pattern, value), node);
            }
        }
        for (pattern, node) in self
            .flat
            .get(&level)
            .into_iter()
            .flat_map(Patterns::written)
        {
            let whole = entry.map(|entry| format!("{}_{}", entry.key, entry.value));
            let fits = whole.is_some_and(|whole| fits(pattern, &whole));
            add(pattern, String::new(), fits, node);
        }
        let exact = self.exact.iter().filter(|one| one.level == level);
        for one in exact {
            let written = String::from_utf8_lossy(&one.value).into_owned();
            let fits = written == value;
            add(name(one.key), written, fits, &one.node);
        }
        all.sort_by(|a, b| {
            (!is_key(&a.key), &a.key, &a.value).cmp(&(!is_key(&b.key), &b.key, &b.value))
        });
        all
    }
}

/// Whether the network alone holds a value.
fn holds(net: IpNet, value: &str) -> bool {
    Cidrs::new([(net, ())]).find(value).is_some()
}

/// Whether the pattern alone matches a value.
fn fits(pattern: &str, value: &str) -> bool {
    let mut alone = Patterns::default();
    alone.add(pattern, 0, ()).is_ok() && alone.find(value).is_some()
}
