//! Descriptor to rule: level by level, each entry finds one node, and only what stands below it is searched next.
//!
//! Per entry: the exact value, then the longest `cidr` that holds it, then the first pattern in file order, then the bare key.
//! There is no way back: an exact node without a limit hides a bare key with one.
//!
//! All levels of a domain are in the same few tables, so the cost does not depend on the number of rules but for what the
//! processor's caches do not hold: exact values and bare keys take one look each, in which all that is needed stands side by
//! side. The tables' hashes are fast and no defence against floods, which need none: what the tables hold comes from the
//! rules, and clients only look for it.
//!
//! - [`cidrs`]: networks, by where they begin
//! - `exact`: values, by their hashes
//! - [`patterns`]: patterns, by the texts that they begin and end with
//! - [`reach`]: how far a descriptor comes, for people

use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::{Domain, Entry, Rule};

pub mod cidrs;
mod exact;
pub mod patterns;
pub mod reach;

pub use cidrs::Cidrs;
use exact::Exacts;
pub use patterns::Patterns;

/// The descriptors of a domain, to be searched.
#[derive(Debug, Default)]
pub struct Tree {
    keys: HashMap<String, Known>,
    exact: Exacts,
    bare: HashMap<(Level, Key), Node>,
    cidrs: HashMap<(Level, Key), Cidrs<Node>>,
    patterns: HashMap<(Level, Key), Patterns<Node>>,
    /// Patterns in keys, matched against `key_value` as a whole, as the reference does.
    flat: HashMap<Level, Patterns<Node>>,
}

/// A [`Tree`] while its descriptors are read.
#[derive(Debug)]
pub struct Builder {
    tree: Tree,
    cidrs: HashMap<(Level, Key), HashMap<IpNet, Node>>,
    /// How many levels there are.
    levels: u32,
    /// How many nodes have been added: the place of the next.
    added: usize,
}

/// What stands below one node, or the first level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Level(u32);

/// A key without `*`, for short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u32);

/// A key, and how the rules match its values beside [`Matcher::Bare`]: what none of them does is not looked up.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: Key,
    exact: bool,
    cidr: bool,
    pattern: bool,
}

/// A node of the tree.
#[derive(Clone, Debug)]
struct Node {
    /// For descriptors that end here.
    rule: Option<Arc<Rule>>,
    /// What may follow; none if nothing does.
    below: Level,
    /// How many were added before it.
    place: u32,
}

/// What a node matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matcher<'v> {
    /// Any value that nothing else matches.
    Bare,
    /// This value.
    Exact(&'v str),
    /// An address in this network.
    Cidr(IpNet),
    /// A value like this, `*` standing for any text.
    Pattern(&'v str),
}

/// The same key and matcher are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the same key and matcher are there already")]
pub struct Duplicate {
    /// How many nodes were added before the one that is there.
    pub first: usize,
}

impl Domain {
    /// The rule for a descriptor's entries, if any.
    pub fn find(&self, entries: &[Entry<'_>]) -> Option<&Arc<Rule>> {
        let (last, before) = entries.split_last()?;
        let mut level = Level::ROOT;
        for entry in before {
            level = self.tree.node(level, entry)?.below;
            if level == Level::NONE {
                return None;
            }
        }
        self.tree.node(level, last)?.rule.as_ref()
    }

    /// Whether there are so many descriptors that [`Domain::find`] mostly waits for memory.
    pub fn has_many(&self) -> bool {
        self.tree.exact.are_many()
    }

    /// Begins to bring into the cache what [`Domain::find`] looks at first.
    pub fn fetch(&self, entries: &[Entry<'_>]) {
        if let Some(first) = entries.first()
            && let Some(known) = self.tree.keys.get(first.key)
            && known.exact
        {
            self.tree.exact.fetch(Level::ROOT, known.key, first.value);
        }
    }
}

impl Level {
    /// The first.
    pub const ROOT: Level = Level(0);
    /// Below a node below which nothing stands.
    pub const NONE: Level = Level(u32::MAX);
}

impl Tree {
    fn node(&self, level: Level, entry: &Entry<'_>) -> Option<&Node> {
        let known = self.keys.get(entry.key);
        if let Some(known) = known.filter(|known| known.exact)
            && let Some(node) = self.exact.find(level, known.key, entry.value)
        {
            return Some(node);
        }
        if let Some(known) = known.filter(|known| known.cidr)
            && let Some(nets) = self.cidrs.get(&(level, known.key))
            && let Some(node) = nets.find(entry.value)
        {
            return Some(node);
        }
        let wildcard = self.wildcard(level, known, entry);
        wildcard.or_else(|| self.bare.get(&(level, known?.key)))
    }

    /// The first pattern in file order, of those of the key and those in keys.
    fn wildcard(&self, level: Level, known: Option<&Known>, entry: &Entry<'_>) -> Option<&Node> {
        let own = known.filter(|known| known.pattern);
        let own = own.and_then(|known| self.patterns.get(&(level, known.key))?.find(entry.value));
        let flat = match self.flat.is_empty() {
            true => None,
            false => self.flat.get(&level),
        };
        let flat = flat.and_then(|flat| flat.find(&format!("{}_{}", entry.key, entry.value)));
        let first = match (own, flat) {
            (Some(own), Some(flat)) if flat.order < own.order => Some(flat),
            (own, flat) => own.or(flat),
        };
        first.map(|found| &found.node)
    }
}

impl Default for Builder {
    /// A tree without descriptors; its first level is there.
    fn default() -> Self {
        Self {
            tree: Tree::default(),
            cidrs: HashMap::default(),
            levels: 1,
            added: 0,
        }
    }
}

impl Builder {
    /// A new level, for a node that is yet to be added.
    pub fn level(&mut self) -> Level {
        self.levels += 1;
        Level(self.levels - 1)
    }

    /// Adds a node to a level, with its own rule for descriptors that end there, and what stands below.
    pub fn add(
        &mut self,
        level: Level,
        key: &str,
        matcher: Matcher<'_>,
        rule: Option<Arc<Rule>>,
        below: Level,
    ) -> Result<(), Duplicate> {
        let order = self.added;
        self.added += 1;
        let place = u32::try_from(order).unwrap_or(u32::MAX);
        let node = Node { rule, below, place };
        let tree = &mut self.tree;
        if key.contains('*') {
            let pattern = match matcher {
                Matcher::Bare => key.to_owned(),
                Matcher::Exact(value) | Matcher::Pattern(value) => format!("{key}_{value}"),
                Matcher::Cidr(net) => format!("{key}_{net}"),
            };
            return tree
                .flat
                .entry(level)
                .or_default()
                .add(&pattern, order, node);
        }
        let known = u32::try_from(tree.keys.len()).unwrap_or(u32::MAX);
        let known = tree.keys.entry_ref(key).or_insert(Known {
            key: Key(known),
            exact: false,
            cidr: false,
            pattern: false,
        });
        let key = known.key;
        match matcher {
            Matcher::Bare => insert_new(&mut tree.bare, (level, key), node),
            Matcher::Exact(value) => {
                known.exact = true;
                tree.exact.add(level, key, value, node)
            }
            Matcher::Cidr(net) => {
                known.cidr = true;
                let of_key = self.cidrs.entry((level, key)).or_default();
                insert_new(of_key, net.trunc(), node)
            }
            Matcher::Pattern(value) if !value.contains('*') => {
                known.exact = true;
                tree.exact.add(level, key, value, node)
            }
            Matcher::Pattern(pattern) => {
                known.pattern = true;
                let of_key = tree.patterns.entry((level, key)).or_default();
                of_key.add(pattern, order, node)
            }
        }
    }

    /// The tree of all that was added.
    pub fn build(self) -> Tree {
        let Self {
            mut tree, cidrs, ..
        } = self;
        tree.exact.shrink();
        let cidrs = cidrs.into_iter();
        tree.cidrs = cidrs.map(|(key, nets)| (key, Cidrs::new(nets))).collect();
        tree
    }
}

impl Node {
    fn duplicate(&self) -> Duplicate {
        let first = self.place as usize;
        Duplicate { first }
    }
}

fn insert_new<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Node>,
    key: K,
    node: Node,
) -> Result<(), Duplicate> {
    match map.entry(key) {
        hashbrown::hash_map::Entry::Occupied(there) => Err(there.get().duplicate()),
        hashbrown::hash_map::Entry::Vacant(free) => {
            free.insert(node);
            Ok(())
        }
    }
}
