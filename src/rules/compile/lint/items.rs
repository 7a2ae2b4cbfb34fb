//! Descriptors that stand beside each other, and which of them take values from others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{at, get, list, text};
use crate::rules::file::{Node, Span};
use crate::rules::glob::covers;

/// A descriptor among those beside it.
pub(super) struct Item<'n> {
    /// Its place in the list.
    pub(super) index: usize,
    pub(super) node: &'n Node<'n>,
    pub(super) span: Span,
    pub(super) key: &'n str,
    pub(super) matches: Matches<'n>,
    /// It says what holds for descriptors that end here.
    pub(super) limits: bool,
    /// It says that nothing does.
    pub(super) unlimited: bool,
    pub(super) below: Option<&'n [Node<'n>]>,
}

/// What of a key's values a descriptor matches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Matches<'n> {
    /// Those that no other does.
    Rest,
    Value(&'n str),
    Pattern(&'n str),
    Network(&'n str),
    /// Keys and values that are together like the key and this.
    Flat(&'n str),
}

/// The descriptors of a level by what they begin with, so that few are compared with each other.
pub(super) struct Level<'i, 'n> {
    /// Patterns by key and the text before their first `*`.
    patterns: HashMap<(&'n str, &'n str), Vec<&'i Item<'n>>>,
    /// Of each key the longest such text.
    longest: HashMap<&'n str, usize>,
    bare: HashMap<&'n str, &'i Item<'n>>,
    networks: HashMap<(&'n str, IpNet), &'i Item<'n>>,
    flat: Vec<&'i Item<'n>>,
}

/// With how many patterns that begin alike, the first in the file, others are compared.
const MOST_ALIKE: usize = 100;

impl<'n> Item<'n> {
    /// The descriptor at a place of a list, if it is one.
    pub(super) fn of((index, node): (usize, &'n Node<'n>)) -> Option<Self> {
        let key = text(get(node, "key")?)?;
        let said = |name| {
            get(node, name)
                .and_then(text)
                .filter(|text| !text.is_empty())
        };
        let (value, network) = (said("value"), said("cidr"));
        let matches = match (value, network) {
            (value, None) if key.contains('*') => Matches::Flat(value.unwrap_or_default()),
            (None, None) => Matches::Rest,
            (None, Some(network)) => Matches::Network(network),
            (Some(value), _) if value.contains('*') => Matches::Pattern(value),
            (Some(value), _) => Matches::Value(value),
        };
        let limit = get(node, "rate_limit");
        let below = get(node, "descriptors").and_then(list);
        let unlimited = limit
            .and_then(|limit| get(limit, "unlimited"))
            .and_then(text);
        let limiting = ["rate_limit", "rate_limits", "plan", "usage"];
        Some(Item {
            index,
            node,
            span: at(node, &["value", "cidr", "key"]),
            key,
            matches,
            limits: limiting.into_iter().any(|name| get(node, name).is_some()),
            unlimited: unlimited == Some("true"),
            below: below.filter(|below| !below.is_empty()),
        })
    }

    /// `key`, or `key=value`.
    pub(super) fn written(&self) -> String {
        match self.matches {
            Matches::Rest | Matches::Flat("") => self.key.to_owned(),
            Matches::Value(value)
            | Matches::Pattern(value)
            | Matches::Network(value)
            | Matches::Flat(value) => format!("{}={value}", self.key),
        }
    }

    /// Key and value as one text, in which patterns of keys look for theirs.
    fn flat(&self) -> String {
        match self.matches {
            Matches::Flat("") => self.key.to_owned(),
            Matches::Rest => format!("{}_*", self.key),
            Matches::Value(value)
            | Matches::Pattern(value)
            | Matches::Network(value)
            | Matches::Flat(value) => format!("{}_{value}", self.key),
        }
    }
}

impl<'i, 'n> Level<'i, 'n> {
    pub(super) fn of(items: &'i [Item<'n>]) -> Self {
        let mut level = Level {
            patterns: HashMap::new(),
            longest: HashMap::new(),
            bare: HashMap::new(),
            networks: HashMap::new(),
            flat: Vec::new(),
        };
        for item in items {
            match item.matches {
                Matches::Rest => {
                    level.bare.entry(item.key).or_insert(item);
                }
                Matches::Pattern(pattern) => {
                    let start = beginning(pattern);
                    let longest = level.longest.entry(item.key).or_default();
                    *longest = start.len().max(*longest);
                    let alike = level.patterns.entry((item.key, start)).or_default();
                    if alike.len() < MOST_ALIKE {
                        alike.push(item);
                    }
                }
                Matches::Network(text) => {
                    if let Some(net) = network(text) {
                        level.networks.entry((item.key, net)).or_insert(item);
                    }
                }
                Matches::Flat(_) => {
                    if level.flat.len() < MOST_ALIKE {
                        level.flat.push(item);
                    }
                }
                Matches::Value(_) => {}
            }
        }
        level
    }

    /// The descriptor that leaves nothing for `item` of what it would match.
    pub(super) fn takes_all(&self, item: &Item<'n>) -> Option<&'i Item<'n>> {
        let flat = || {
            let before = self
                .flat
                .iter()
                .filter(|other| matches!(item.matches, Matches::Rest) || other.index < item.index);
            let mut before = before.filter(|other| other.index != item.index);
            before
                .find(|other| covers(&other.flat(), &item.flat()))
                .copied()
        };
        match item.matches {
            Matches::Value(_) | Matches::Network(_) => None,
            Matches::Flat(_) => flat(),
            Matches::Pattern(narrow) => {
                let mut wide = self.alike(item.key, narrow).into_iter();
                let wide = wide.find(|other| other.index < item.index);
                wide.or_else(|| self.network_of(item, narrow)).or_else(flat)
            }
            Matches::Rest => {
                let all = self.patterns.get(&(item.key, "")).into_iter().flatten();
                let mut all = all.filter(|other| {
                    matches!(other.matches, Matches::Pattern(wide) if wide.bytes().all(|byte| byte == b'*'))
                });
                all.next()
                    .copied()
                    .or_else(|| self.all_addresses(item.key))
                    .or_else(flat)
            }
        }
    }

    /// What would match some of what `item` does if that were not there, in the order in which it is asked.
    pub(super) fn hidden_by(&self, item: &Item<'n>) -> Vec<&'i Item<'n>> {
        let mut hidden = match item.matches {
            Matches::Rest | Matches::Flat(_) => return Vec::new(),
            Matches::Value(value) => {
                let network = self.around(item.key, value).into_iter();
                network.chain(self.alike(item.key, value)).collect()
            }
            Matches::Pattern(narrow) => {
                let mut wide = self.alike(item.key, narrow);
                wide.retain(|other| other.index > item.index);
                wide
            }
            Matches::Network(text) => self.around(item.key, text).into_iter().collect(),
        };
        hidden.extend(self.bare.get(item.key));
        hidden
    }

    /// The patterns that match all that `text` stands for, in the order of the file.
    fn alike(&self, key: &'n str, text: &'n str) -> Vec<&'i Item<'n>> {
        let Some(longest) = self.longest.get(key) else {
            return Vec::new();
        };
        let start = beginning(text);
        let ends = (0..=start.len().min(*longest)).filter(|end| start.is_char_boundary(*end));
        let alike = ends.filter_map(|end| self.patterns.get(&(key, &start[..end])));
        let alike = alike.flatten().copied();
        let mut wide: Vec<&Item<'_>> = alike
            .filter(|other| match other.matches {
                Matches::Pattern(wide) => wide != text && covers(wide, text),
                Matches::Rest | Matches::Value(_) | Matches::Network(_) | Matches::Flat(_) => false,
            })
            .collect();
        wide.sort_by_key(|item| item.index);
        wide
    }

    /// The longest network around another.
    fn around(&self, key: &'n str, text: &str) -> Option<&'i Item<'n>> {
        let net = network(text)?;
        let shorter = (0..net.prefix_len()).rev();
        let mut wider = shorter.filter_map(|length| IpNet::new(net.addr(), length).ok());
        wider.find_map(|net| self.networks.get(&(key, net.trunc())).copied())
    }

    /// The network of all that a pattern such as `10.1.*` can match.
    fn network_of(&self, item: &Item<'n>, pattern: &str) -> Option<&'i Item<'n>> {
        let parts: Vec<&str> = pattern.strip_suffix(".*")?.split('.').collect();
        let mut bytes = [0_u8; 4];
        if parts.len() > 3 {
            return None;
        }
        for (byte, part) in bytes.iter_mut().zip(&parts) {
            *byte = part.parse().ok()?;
        }
        let net = IpNet::new(Ipv4Addr::from(bytes).into(), parts.len() as u8 * 8).ok()?;
        let own = self.networks.get(&(item.key, net)).copied();
        own.or_else(|| self.around(item.key, &net.to_string()))
    }

    /// Whether networks take every address of a key.
    fn all_addresses(&self, key: &'n str) -> Option<&'i Item<'n>> {
        let all =
            ["0.0.0.0/0", "::/0"].map(|net| self.networks.get(&(key, network(net)?)).copied());
        all[0].and(all[1])
    }
}

fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok();
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What a pattern's matches all begin with.
fn beginning(pattern: &str) -> &str {
    pattern.split('*').next().unwrap_or_default()
}
