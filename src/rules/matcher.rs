//! Descriptor to rule: level by level, each entry finds one node, and only its children are searched next.
//!
//! Per entry: the exact value, then the longest `cidr` that holds it, then the first pattern in file order, then the bare key.
//! There is no way back: an exact node without a limit hides a bare key with one. The cost does not depend on the number of
//! rules: all but patterns are looked up by hash, and patterns by the literal text that they begin with.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Domain, Entry, Rule};

/// One level of the descriptor tree.
#[derive(Debug, Default)]
pub struct Level {
    keys: HashMap<String, Values>,
    /// Patterns in keys, matched against `key_value` as a whole, as the reference does.
    flat: Vec<Wildcard>,
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

/// The nodes of one key.
#[derive(Debug, Default)]
struct Values {
    exact: HashMap<String, Node>,
    cidrs: Cidrs,
    patterns: Patterns,
    bare: Option<Box<Node>>,
}

/// Networks by the length of their prefix, longest first.
#[derive(Debug, Default)]
struct Cidrs(BTreeMap<std::cmp::Reverse<u8>, HashMap<IpNet, Node>>);

/// Patterns by the literal text that they begin with.
#[derive(Debug, Default)]
struct Patterns(BTreeMap<usize, HashMap<Vec<u8>, Vec<Wildcard>>>);

#[derive(Debug)]
struct Wildcard {
    order: usize,
    parts: Vec<Vec<u8>>,
    node: Node,
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
    /// Adds a node; gives it back if the same key and matcher are there already.
    pub fn add(&mut self, key: &str, matcher: Matcher, node: Node) -> Result<(), Node> {
        let order = self.added;
        self.added += 1;
        if key.contains('*') {
            let value = match matcher {
                Matcher::Bare => String::new(),
                Matcher::Exact(value) | Matcher::Pattern(value) => format!("_{value}"),
                Matcher::Cidr(net) => format!("_{net}"),
            };
            let wildcard = Wildcard::new(&format!("{key}{value}"), order, node);
            return push_new(&mut self.flat, wildcard);
        }
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_owned(), Values::default());
        }
        let Some(values) = self.keys.get_mut(key) else {
            return Err(node);
        };
        match matcher {
            Matcher::Bare if values.bare.is_some() => Err(node),
            Matcher::Bare => {
                values.bare = Some(Box::new(node));
                Ok(())
            }
            Matcher::Exact(value) => insert_new(&mut values.exact, value, node),
            Matcher::Cidr(net) => values.cidrs.add(net, node),
            Matcher::Pattern(pattern) => values.patterns.add(Wildcard::new(&pattern, order, node)),
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

    fn find_flat(&self, entry: &Entry<'_>) -> Option<&Wildcard> {
        if self.flat.is_empty() {
            return None;
        }
        let text = if entry.value.is_empty() {
            entry.key.to_owned()
        } else {
            format!("{}_{}", entry.key, entry.value)
        };
        self.flat
            .iter()
            .find(|wildcard| wildcard.matches(text.as_bytes()))
    }
}

impl Cidrs {
    fn add(&mut self, net: IpNet, node: Node) -> Result<(), Node> {
        let same_length = self
            .0
            .entry(std::cmp::Reverse(net.prefix_len()))
            .or_default();
        insert_new(same_length, net.trunc(), node)
    }

    fn find(&self, value: &str) -> Option<&Node> {
        if self.0.is_empty() {
            return None;
        }
        let address = value.parse::<IpAddr>().ok()?.to_canonical();
        self.0.iter().find_map(|(length, nets)| {
            let net = IpNet::new(address, length.0).ok()?;
            nets.get(&net.trunc())
        })
    }
}

impl Patterns {
    fn add(&mut self, wildcard: Wildcard) -> Result<(), Node> {
        let prefix = wildcard.parts.first().cloned().unwrap_or_default();
        let same_length = self.0.entry(prefix.len()).or_default();
        push_new(same_length.entry(prefix).or_default(), wildcard)
    }

    /// The first in file order that matches.
    fn find(&self, value: &str) -> Option<&Wildcard> {
        let value = value.as_bytes();
        let with_prefix = self
            .0
            .range(..=value.len())
            .filter_map(|(length, by_prefix)| {
                let candidates = by_prefix.get(&value[..*length])?;
                candidates.iter().find(|wildcard| wildcard.matches(value))
            });
        with_prefix.min_by_key(|wildcard| wildcard.order)
    }
}

impl Wildcard {
    fn new(pattern: &str, order: usize, node: Node) -> Self {
        Self {
            order,
            parts: pattern
                .split('*')
                .map(|part| part.as_bytes().to_vec())
                .collect(),
            node,
        }
    }

    /// Begins with the first part, ends with the last, has the others between them in order, and none overlaps.
    fn matches(&self, text: &[u8]) -> bool {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else {
            return false;
        };
        let literal: usize = self.parts.iter().map(Vec::len).sum();
        if literal > text.len() || !text.starts_with(first) || !text.ends_with(last) {
            return false;
        }
        if self.parts.len() == 1 {
            return text == first.as_slice();
        }
        let mut rest = &text[first.len()..text.len() - last.len()];
        for part in &self.parts[1..self.parts.len() - 1] {
            match find(rest, part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

fn insert_new<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, Node>,
    key: K,
    node: Node,
) -> Result<(), Node> {
    if map.contains_key(&key) {
        return Err(node);
    }
    map.insert(key, node);
    Ok(())
}

fn push_new(list: &mut Vec<Wildcard>, wildcard: Wildcard) -> Result<(), Node> {
    if list.iter().any(|other| other.parts == wildcard.parts) {
        return Err(wildcard.node);
    }
    list.push(wildcard);
    Ok(())
}
