//! Descriptor to rule: level by level, each entry finds one node, and only its children are searched next.
//!
//! Per entry: the exact value, then the longest `cidr` that holds it, then the first pattern in file order, then the bare key.
//! There is no way back: an exact node without a limit hides a bare key with one. The cost does not depend on the number of
//! rules: all but patterns are looked up by hash, and patterns by the literal texts that they begin and end with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Domain, Entry, Rule};

/// One level of the descriptor tree.
#[derive(Debug, Default)]
pub struct Level {
    keys: HashMap<String, Values>,
    /// Patterns in keys, matched against `key_value` as a whole, as the reference does.
    flat: Option<Box<Patterns<Node>>>,
    /// How many nodes have been added: the file order of the next.
    added: usize,
}

/// A node of the tree.
#[derive(Debug, Default)]
pub struct Node {
    /// Its own rule, for descriptors that end here.
    pub rule: Option<Arc<Rule>>,
    /// What may follow.
    pub children: Level,
}

/// What a node matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    /// Any value that nothing else matches.
    Bare,
    /// This value.
    Exact(String),
    /// An address in this network.
    Cidr(IpNet),
    /// A value like this, `*` standing for any text.
    Pattern(String),
}

/// The same key and matcher are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the same key and matcher are there already")]
pub struct Duplicate;

/// The nodes of one key.
#[derive(Debug, Default)]
struct Values {
    exact: HashMap<String, Node>,
    cidrs: Cidrs<Node>,
    patterns: Patterns<Node>,
    bare: Option<Box<Node>>,
}

/// Networks by the length of their prefix, longest first.
#[derive(Debug)]
pub struct Cidrs<T>(BTreeMap<std::cmp::Reverse<u8>, HashMap<IpNet, T>>);

/// Patterns by the literal text that they begin with, and then by that which they end with.
#[derive(Debug)]
pub struct Patterns<T> {
    by_ends: ByLength<ByLength<Vec<Wildcard<T>>>>,
    known: HashSet<String>,
}

/// Things by a text, and by its length first: of a longer text, the beginning or end of each length is looked up.
type ByLength<T> = BTreeMap<usize, HashMap<Vec<u8>, T>>;

/// A pattern, and what it stands for.
#[derive(Debug)]
pub struct Wildcard<T> {
    /// Its place in the order of the file.
    pub order: usize,
    /// The literal texts between the pattern's first and last, each after a `*`.
    middle: Vec<Vec<u8>>,
    /// What it stands for.
    pub node: T,
}

impl Domain {
    /// The rule for a descriptor's entries, if any.
    pub fn find(&self, entries: &[Entry<'_>]) -> Option<&Arc<Rule>> {
        let (last, before) = entries.split_last()?;
        let mut level = &self.root;
        for entry in before {
            level = &level.node(entry)?.children;
        }
        level.node(last)?.rule.as_ref()
    }
}

impl Level {
    /// Adds a node.
    pub fn add(&mut self, key: &str, matcher: Matcher, node: Node) -> Result<(), Duplicate> {
        let order = self.added;
        self.added += 1;
        if key.contains('*') {
            let pattern = match matcher {
                Matcher::Bare => key.to_owned(),
                Matcher::Exact(value) | Matcher::Pattern(value) => format!("{key}_{value}"),
                Matcher::Cidr(net) => format!("{key}_{net}"),
            };
            let flat = self.flat.get_or_insert_default();
            return flat.add(pattern, order, node);
        }
        let values = self.keys.entry(key.to_owned()).or_default();
        match matcher {
            Matcher::Bare if values.bare.is_some() => Err(Duplicate),
            Matcher::Bare => {
                values.bare = Some(Box::new(node));
                Ok(())
            }
            Matcher::Exact(value) => insert_new(&mut values.exact, value, node),
            Matcher::Cidr(net) => values.cidrs.add(net, node),
            Matcher::Pattern(pattern) if !pattern.contains('*') => {
                insert_new(&mut values.exact, pattern, node)
            }
            Matcher::Pattern(pattern) => values.patterns.add(pattern, order, node),
        }
    }

    fn node(&self, entry: &Entry<'_>) -> Option<&Node> {
        let values = self.keys.get(entry.key);
        if let Some(node) = values.and_then(|values| values.exact.get(entry.value)) {
            return Some(node);
        }
        if let Some(node) = values.and_then(|values| values.cidrs.find(entry.value)) {
            return Some(node);
        }
        let own = values.and_then(|values| values.patterns.find(entry.value));
        let wildcard = match (own, self.find_flat(entry)) {
            (Some(own), Some(flat)) if flat.order < own.order => Some(flat),
            (own, flat) => own.or(flat),
        };
        wildcard
            .map(|found| &found.node)
            .or_else(|| values?.bare.as_deref())
    }

    fn find_flat(&self, entry: &Entry<'_>) -> Option<&Wildcard<Node>> {
        let flat = self.flat.as_ref()?;
        flat.find(&format!("{}_{}", entry.key, entry.value))
    }
}

impl<T> Default for Cidrs<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self {
            by_ends: ByLength::new(),
            known: HashSet::new(),
        }
    }
}

impl<T> Cidrs<T> {
    /// Adds a network.
    pub fn add(&mut self, net: IpNet, node: T) -> Result<(), Duplicate> {
        let same_length = self
            .0
            .entry(std::cmp::Reverse(net.prefix_len()))
            .or_default();
        insert_new(same_length, net.trunc(), node)
    }

    /// Of all networks that hold the address `value`, if it is one, the longest first.
    pub fn all(&self, value: &str) -> impl Iterator<Item = &T> {
        let address = (!self.0.is_empty()).then(|| value.parse::<IpAddr>().ok());
        let address = address.flatten().map(|address| address.to_canonical());
        self.0.iter().filter_map(move |(length, nets)| {
            let net = IpNet::new(address?, length.0).ok()?;
            nets.get(&net.trunc())
        })
    }

    /// Of the longest network that holds the address `value`, if it is one.
    pub fn find(&self, value: &str) -> Option<&T> {
        self.all(value).next()
    }
}

impl<T> Patterns<T> {
    /// Adds a pattern, which has a `*`.
    pub fn add(&mut self, pattern: String, order: usize, node: T) -> Result<(), Duplicate> {
        let mut parts: Vec<Vec<u8>> = pattern.split('*').map(Vec::from).collect();
        if !self.known.insert(pattern) {
            return Err(Duplicate);
        }
        // A pattern has a `*`, so it has two ends at least.
        let suffix = parts.pop().unwrap_or_default();
        let prefix = if parts.is_empty() {
            Vec::new()
        } else {
            parts.remove(0)
        };
        let with_prefix = self.by_ends.entry(prefix.len()).or_default();
        let by_suffix = with_prefix.entry(prefix).or_default();
        let with_suffix = by_suffix.entry(suffix.len()).or_default();
        with_suffix.entry(suffix).or_default().push(Wildcard {
            order,
            middle: parts,
            node,
        });
        Ok(())
    }

    /// The first in file order that matches.
    pub fn find(&self, value: &str) -> Option<&Wildcard<T>> {
        let value = value.as_bytes();
        let mut first: Option<&Wildcard<T>> = None;
        for (prefix, nodes) in self.by_ends.range(..=value.len()) {
            let (start, rest) = value.split_at(*prefix);
            let Some(by_suffix) = nodes.get(start) else {
                continue;
            };
            for (suffix, nodes) in by_suffix.range(..=rest.len()) {
                let (middle, end) = rest.split_at(rest.len() - suffix);
                let candidates = nodes.get(end).into_iter().flatten();
                let earlier =
                    |found: &&Wildcard<T>| first.is_none_or(|first| found.order < first.order);
                let mut earlier = candidates.take_while(earlier);
                first = earlier.find(|found| found.matches(middle)).or(first);
            }
        }
        first
    }
}

impl<T> Wildcard<T> {
    /// Whether `text`, between the pattern's two ends, has the parts between them in order.
    fn matches(&self, text: &[u8]) -> bool {
        let mut rest = text;
        self.middle.iter().all(|part| match find(rest, part) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

/// What follows the first `part` in `text`.
fn find<'t>(text: &'t [u8], part: &[u8]) -> Option<&'t [u8]> {
    if part.is_empty() {
        return Some(text);
    }
    let at = text.windows(part.len()).position(|window| window == part)?;
    text.get(at + part.len()..)
}

fn insert_new<K: std::hash::Hash + Eq, T>(
    map: &mut HashMap<K, T>,
    key: K,
    node: T,
) -> Result<(), Duplicate> {
    if map.contains_key(&key) {
        return Err(Duplicate);
    }
    map.insert(key, node);
    Ok(())
}
