//! Two levels of descriptors side by side: which descriptor of each an entry finds. All entries for which the answer is the same
//! are one *cell*; together the cells are all entries that find anything.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::rules::glob::{Common, common};
use crate::rules::matcher::{Cidrs, Patterns};
use crate::rules::outline::{Matches, Node};

use super::patterns::{self, Wild};

/// Entries that find the same on both sides.
#[derive(Clone, Debug)]
pub(super) struct Cell<'n> {
    /// One of the entries.
    pub(super) key: Cow<'n, str>,
    pub(super) value: Cow<'n, str>,
    /// What is said of all of them.
    pub(super) label: Label<'n>,
    /// What they find.
    pub(super) old: Option<&'n Node>,
    pub(super) new: Option<&'n Node>,
}

/// What people call the entries of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label<'n> {
    /// Those of this descriptor, but for what others of its level take.
    Of(&'n Node),
    /// Those of both patterns.
    Both(&'n Node, &'n Node),
}

/// A level, to be searched as the matcher does.
#[derive(Default)]
struct Level<'n> {
    keys: HashMap<&'n str, Group<'n>>,
    /// Patterns in keys.
    flat: Vec<Wild<'n>>,
    flat_index: Patterns<&'n Node>,
}

/// The descriptors of one key.
#[derive(Default)]
struct Group<'n> {
    values: HashMap<&'n str, &'n Node>,
    networks: Vec<(IpNet, &'n Node)>,
    cidrs: Cidrs<&'n Node>,
    patterns: Vec<Wild<'n>>,
    index: Patterns<&'n Node>,
    rest: Option<&'n Node>,
}

/// With how many patterns that may match addresses a network is compared.
const MOST_OF_ADDRESSES: usize = 100;

/// All cells in which either side finds something, unless it says `incomplete`: then some are missing.
pub(super) fn cells<'n>(old: &'n [Node], new: &'n [Node], incomplete: &mut bool) -> Vec<Cell<'n>> {
    let mut both = Both {
        old: Level::new(old),
        new: Level::new(new),
        cells: Vec::with_capacity(old.len().max(new.len())),
        incomplete: false,
    };
    let mut seen = HashSet::new();
    for node in old.iter().chain(new) {
        if !node.key.contains('*') && seen.insert(&*node.key) {
            both.key(&node.key);
        }
    }
    both.other_keys();
    // Patterns in keys are met again with each key that they match.
    let mut known = HashSet::new();
    let is_flat = |node: &&Node| node.key.contains('*');
    let place = |node: Option<&Node>| node.map_or(0, |node| std::ptr::from_ref(node).addr());
    both.cells.retain(|cell| {
        let flat = cell.old.as_ref().is_some_and(is_flat) || cell.new.as_ref().is_some_and(is_flat);
        !flat || known.insert((place(cell.old), place(cell.new)))
    });
    *incomplete |= both.incomplete;
    both.cells
}

struct Both<'n> {
    old: Level<'n>,
    new: Level<'n>,
    cells: Vec<Cell<'n>>,
    incomplete: bool,
}

impl<'n> Level<'n> {
    fn new(nodes: &'n [Node]) -> Self {
        let mut level = Level::default();
        for (order, node) in nodes.iter().enumerate() {
            if node.key.contains('*') {
                let text = match &node.matches {
                    Matches::Rest => node.key.to_string(),
                    Matches::Value(value) | Matches::Pattern(value) => {
                        format!("{}_{value}", node.key)
                    }
                    Matches::Network(net) => format!("{}_{net}", node.key),
                };
                // Two of them that match the same are refused.
                let _ = level.flat_index.add(&text, order, node);
                level.flat.push(Wild { order, text, node });
                continue;
            }
            let group = level.keys.entry(&node.key).or_default();
            match &node.matches {
                Matches::Rest => group.rest = Some(node),
                Matches::Value(value) => {
                    group.values.insert(value, node);
                }
                Matches::Network(net) => group.networks.push((*net, node)),
                Matches::Pattern(pattern) => {
                    let _ = group.index.add(pattern, order, node);
                    let text = format!("{}_{pattern}", node.key);
                    group.patterns.push(Wild { order, text, node });
                }
            }
        }
        for group in level.keys.values_mut() {
            group.cidrs = Cidrs::new(group.networks.iter().copied());
        }
        level
    }

    /// What an entry finds.
    fn find(&self, key: &str, value: &str) -> Option<&'n Node> {
        let exact = self.keys.get(key).and_then(|group| group.values.get(value));
        exact.copied().or_else(|| self.find_wide(key, value))
    }

    /// The same if no descriptor has just this value.
    fn find_wide(&self, key: &str, value: &str) -> Option<&'n Node> {
        let group = self.keys.get(key);
        if let Some(net) = group.and_then(|group| group.cidrs.find(value)) {
            return Some(net);
        }
        let own = group.and_then(|group| group.index.find(value));
        let flat = self.flat_index.find(&format!("{key}_{value}"));
        let first = match (own, flat) {
            (Some(own), Some(flat)) if flat.order < own.order => Some(flat),
            (own, flat) => own.or(flat),
        };
        let first = first.map(|found| found.node);
        first.or_else(|| group?.rest)
    }

    /// The patterns that values of a key may match, in the order of the file.
    fn patterns(&self, key: &str) -> Vec<Wild<'n>> {
        let own = self.keys.get(key).map_or(&[][..], |group| &group.patterns);
        let all = format!("{key}_*");
        let reaches = |wild: &&Wild<'n>| common(&[&wild.text, &all]) != Common::Nothing;
        let flat = self.flat.iter().filter(reaches);
        let mut all: Vec<Wild<'n>> = own.iter().chain(flat).cloned().collect();
        all.sort_by_key(|wild| wild.order);
        all
    }

    /// What addresses that no network holds may find: patterns of values, and what these find.
    fn of_addresses(&self, key: &str) -> Vec<(String, Option<&'n Node>)> {
        let any = || "*".to_owned();
        let value = |wild: &Wild<'n>| match wild.node.key.contains('*') {
            true => any(),
            false => wild
                .text
                .get(key.len() + 1..)
                .map_or_else(any, str::to_owned),
        };
        let is_of_address = |b: u8| b.is_ascii_hexdigit() || b".:*".contains(&b);
        let patterns = self.patterns(key);
        let patterns = patterns.iter().map(|wild| (value(wild), Some(wild.node)));
        let patterns = patterns.filter(|(value, _)| value.bytes().all(is_of_address));
        patterns
            .take(MOST_OF_ADDRESSES)
            .chain([(any(), self.rest(key))])
            .collect()
    }

    fn rest(&self, key: &str) -> Option<&'n Node> {
        self.keys.get(key)?.rest
    }
}

impl<'n> Both<'n> {
    fn add(
        &mut self,
        entry: (&str, &str),
        label: Label<'n>,
        old: Option<&'n Node>,
        new: Option<&'n Node>,
    ) {
        self.cells.push(Cell {
            key: entry.0.to_owned().into(),
            value: entry.1.to_owned().into(),
            label,
            old,
            new,
        });
    }

    /// The cells of a key that either side names.
    fn key(&mut self, key: &'n str) {
        self.values(key);
        self.networks(key);
        let all = format!("{key}_*");
        let (old, new) = (self.old.patterns(key), self.new.patterns(key));
        let rests = (self.old.rest(key), self.new.rest(key));
        for met in patterns::met(&old, &new, rests, Some(&all), &mut self.incomplete) {
            let value = met.text.get(key.len() + 1..).unwrap_or_default().to_owned();
            self.add((key, &value), met.label, met.old, met.new);
        }
        let takes_all = |list: &[Wild<'_>]| {
            let mut list = list.iter();
            list.any(|wild| crate::rules::glob::covers(&wild.text, &all))
        };
        if let Some(node) = rests.1.or(rests.0)
            && !takes_all(&old)
            && !takes_all(&new)
        {
            self.add((key, UNUSUAL), Label::Of(node), rests.0, rests.1);
        }
    }

    fn values(&mut self, key: &'n str) {
        let level = |level: &Level<'n>| match level.keys.get(key) {
            Some(group) => group
                .values
                .iter()
                .map(|(value, node)| (*value, *node))
                .collect(),
            None => HashMap::new(),
        };
        let (old, new) = (level(&self.old), level(&self.new));
        let mut cells: Vec<Cell<'n>> = Vec::with_capacity(new.len());
        let cell = |value: &'n str, node, old, new| Cell {
            key: key.into(),
            value: value.into(),
            label: Label::Of(node),
            old,
            new,
        };
        for (value, node) in &new {
            let before = old
                .get(value)
                .copied()
                .or_else(|| self.old.find(key, value));
            cells.push(cell(value, node, before, Some(*node)));
        }
        for (value, node) in old.iter().filter(|(value, _)| !new.contains_key(*value)) {
            cells.push(cell(value, node, Some(*node), self.new.find(key, value)));
        }
        // In the order of the files, whatever the map's is.
        cells.sort_by_cached_key(|cell| {
            (super::line(cell.new.or(cell.old)), cell.value.to_string())
        });
        self.cells.append(&mut cells);
    }

    fn networks(&mut self, key: &'n str) {
        let of = |level: &Level<'n>| -> Vec<(IpNet, &'n Node)> {
            level
                .keys
                .get(key)
                .map_or_else(Vec::new, |group| group.networks.clone())
        };
        let (old, new) = (of(&self.old), of(&self.new));
        let (olds, news): (HashMap<IpNet, &Node>, HashMap<IpNet, &Node>) =
            (old.iter().copied().collect(), new.iter().copied().collect());
        if old.is_empty() && new.is_empty() {
            return;
        }
        let old_others = self.old.of_addresses(key);
        let new_others = self.new.of_addresses(key);
        for (net, address) in free_addresses(old.iter().chain(&new).map(|(net, _)| *net)) {
            let value = address.to_string();
            let found = (olds.get(&net).copied(), news.get(&net).copied());
            let Some(node) = found.1.or(found.0) else {
                continue;
            };
            let label = Label::Of(node);
            let before = found.0.or_else(|| self.old.find_wide(key, &value));
            let after = found.1.or_else(|| self.new.find_wide(key, &value));
            self.add((key, &value), label, before, after);
            // Where only one side has the network, the other may have several patterns for parts of it.
            let (one_sided, others) = match found {
                (Some(_), None) => (after, &new_others),
                (None, Some(_)) => (before, &old_others),
                _ => continue,
            };
            if one_sided.is_some_and(|node| matches!(node.matches, Matches::Network(_))) {
                continue;
            }
            let others = others.iter().filter(|(pattern, _)| may_hold(net, pattern));
            for (_, other) in others.filter(|(_, other)| !same(*other, one_sided)) {
                let (old, new) = match found.0 {
                    Some(_) => (found.0, *other),
                    None => (*other, found.1),
                };
                self.add((key, &value), label, old, new);
            }
        }
    }

    /// The cells of all keys that neither side names.
    fn other_keys(&mut self) {
        let met = patterns::met(
            &self.old.flat,
            &self.new.flat,
            (None, None),
            None,
            &mut self.incomplete,
        );
        for met in met {
            // A `*` may stand for the `_` that joins key and value.
            let text = match met.text.contains('_') {
                true => met.text,
                false => met.pattern.replace('*', "x_x"),
            };
            let (key, value) = text.split_once('_').unwrap_or((&text, ""));
            self.add((key, value), met.label, met.old, met.new);
        }
    }
}

/// A value that is nobody's.
const UNUSUAL: &str = "any";

fn same(a: Option<&Node>, b: Option<&Node>) -> bool {
    a.map(std::ptr::from_ref) == b.map(std::ptr::from_ref)
}

/// Whether some address in the network may be written so.
fn may_hold(net: IpNet, pattern: &str) -> bool {
    let addresses = match net {
        // One of IPv4 may be written as one of IPv6.
        IpNet::V4(_) if pattern.contains(':') => return true,
        IpNet::V4(net) => {
            let octets = net.network().octets().into_iter();
            let known = octets.take(usize::from(net.prefix_len() / 8));
            known.map(|octet| format!("{octet}.")).collect::<String>() + "*"
        }
        IpNet::V6(_) => "*:*".to_owned(),
    };
    // Of a whole address nothing follows.
    let addresses = match net.prefix_len() {
        32 if addresses.ends_with(".*") => addresses.trim_end_matches(".*").to_owned(),
        _ => addresses,
    };
    common(&[&addresses, pattern]) != Common::Nothing
}

/// For each network an address in it that no smaller one holds; none for a network that smaller ones fill.
fn free_addresses(nets: impl Iterator<Item = IpNet>) -> Vec<(IpNet, IpAddr)> {
    let mut nets: Vec<IpNet> = nets.collect::<HashSet<_>>().into_iter().collect();
    // Of networks that begin together the one that holds the others comes first.
    nets.sort_by_key(|net| (net.network(), net.prefix_len()));
    let mut found = Vec::with_capacity(nets.len());
    // The networks that hold what has been reached, the smallest last, each with its first address that is free so far.
    let mut open: Vec<(IpNet, Option<IpAddr>)> = Vec::new();
    let close = |(net, free): (IpNet, Option<IpAddr>), open: &mut Vec<(IpNet, Option<IpAddr>)>| {
        if let Some((_, outer)) = open.last_mut() {
            *outer = after(net.broadcast());
        }
        free.filter(|free| net.contains(free))
            .map(|free| (net, free))
    };
    for net in nets {
        while let Some(last) = open.pop_if(|(last, _)| !last.contains(&net)) {
            let free = close(last, &mut open);
            found.extend(free);
        }
        if let Some((outer, free)) = open.last_mut()
            && free.is_some_and(|free| free < net.network())
        {
            // It is found, and need not be looked for any more.
            let (outer, address) = (*outer, free.take());
            found.extend(address.map(|address| (outer, address)));
        }
        open.push((net, Some(net.network())));
    }
    while let Some(last) = open.pop() {
        let free = close(last, &mut open);
        found.extend(free);
    }
    let mut known = HashSet::new();
    found.retain(|(net, _)| known.insert(*net));
    found.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    found
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_meets_the_patterns_that_its_addresses_may_match() {
        for (net, pattern, wanted) in [
            ("10.0.0.0/8", "10.1.*", true),
            ("192.168.0.0/16", "10.1.*", false),
            ("192.168.0.0/12", "192.1*", true),
            ("10.1.2.3/32", "10.1.2.3*", true),
            ("10.1.2.3/32", "*.4", false),
            ("10.0.0.0/8", "::ffff:*", true),
            ("2001:db8::/32", "10.*", true),
            ("2001:db8::/32", "10.1.2.3", false),
        ] {
            let net: IpNet = net.parse().expect(net);
            assert_eq!(may_hold(net, pattern), wanted, "{net} {pattern}");
        }
    }

    #[test]
    fn the_free_address_of_a_network_is_in_no_smaller_one() {
        let nets = [
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.128.0.0/16",
            "10.129.0.0/16",
            "::/0",
            "::/1",
            "8000::/1",
        ];
        let nets: Vec<IpNet> = nets
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
        let found = free_addresses(nets.iter().copied());
        // The last two fill the one that holds them.
        assert_eq!(found.len(), nets.len() - 1);
        for (net, address) in found {
            let holding = nets.iter().filter(|other| other.contains(&address));
            assert_eq!(
                holding.max_by_key(|other| other.prefix_len()),
                Some(&net),
                "{address}"
            );
        }
    }
}
