//! Who is let through, refused or banned whatever the limits say.
//!
//! An item names an entry: a key with an exact value, or with a network for addresses. Of several that a request meets, one
//! that denies counts first, then one that allows, then a ban.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::rules::matcher::Cidrs;
use crate::rules::{Descriptor, Domain, Entry};
use crate::time::{Micros, Timestamp};

/// The most items of all lists together.
pub const MAX_ITEMS: usize = 100_000;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    /// Refused; comes before all else.
    Deny,
    /// Let through, and charged nothing.
    Allow,
    /// Refused for a while.
    Ban,
}

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Which list.
    pub list: List,
    /// The domain that it holds for.
    pub domain: String,
    /// The key of the entry.
    pub key: String,
    /// Its value as keys have it (sensitive ones hashed), or a network.
    pub value: String,
    /// The value is a network.
    pub network: bool,
    /// When it ends, in microseconds since the epoch; none for never.
    pub until: Option<i64>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The limits have begun it, and enforce it themselves under this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
}

/// What the lists say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The list that counts.
    pub list: List,
    /// The descriptor whose entry is on it.
    pub descriptor: usize,
    /// How long that lasts; none for ever.
    pub wait: Option<Micros>,
}

/// All lists, as one request sees them.
#[derive(Debug, Default)]
pub struct Lists {
    items: HashMap<String, Item>,
    domains: HashMap<String, HashMap<String, OfKey>>,
}

#[derive(Debug, Default)]
struct OfKey {
    exact: HashMap<String, Vec<Mark>>,
    networks: Cidrs<Vec<Mark>>,
}

/// Networks and what they are marked with.
type Networks = Vec<(IpNet, Vec<Mark>)>;

/// What an entry is marked with.
#[derive(Clone, Copy, Debug)]
struct Mark {
    list: List,
    until: Option<i64>,
}

impl Item {
    /// What tells it from others: one entry may be once on each list.
    pub fn id(&self) -> String {
        let Self {
            list,
            domain,
            key,
            value,
            ..
        } = self;
        let (dl, kl) = (domain.len(), key.len());
        let counter = self.counter.as_deref().unwrap_or_default();
        format!("{list:?}:{dl}:{kl}:{domain}:{key}={value}:{counter}")
    }

    /// Whether it holds at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now.as_micros() < until)
    }
}

impl Lists {
    /// Of these items. What has ended says nothing, and is kept all the same: until it is removed from the store, somebody must
    /// know that it is there.
    pub fn new(items: impl IntoIterator<Item = Item>, now: Timestamp) -> Self {
        let items = items.into_iter().map(|item| (item.id(), item));
        let items: HashMap<String, Item> = items.collect();
        let mut marks: HashMap<(&str, &str, bool, &str), Vec<Mark>> = HashMap::new();
        // What the limits have begun holds for one descriptor, which they know best.
        let speaks = |item: &&Item| item.counter.is_none() && item.holds(now);
        for item in items.values().filter(speaks) {
            let of = (&*item.domain, &*item.key, item.network, &*item.value);
            let (list, until) = (item.list, item.until);
            marks.entry(of).or_default().push(Mark { list, until });
        }
        let mut domains: HashMap<String, HashMap<String, OfKey>> = HashMap::new();
        let mut networks: HashMap<(&str, &str), Networks> = HashMap::new();
        for ((domain, key, network, value), marks) in marks {
            let keys = domains.entry(domain.to_owned()).or_default();
            let of_key = keys.entry(key.to_owned()).or_default();
            match value.parse::<IpNet>() {
                Ok(net) if network => networks
                    .entry((domain, key))
                    .or_default()
                    .push((net, marks)),
                _ => {
                    of_key.exact.insert(value.to_owned(), marks);
                }
            }
        }
        for ((domain, key), networks) in networks {
            let keys = domains.get_mut(domain);
            if let Some(of_key) = keys.and_then(|keys| keys.get_mut(key)) {
                of_key.networks = Cidrs::new(networks);
            }
        }
        Self { items, domains }
    }

    /// All items, also those that have ended and are still in the store.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    /// The item of this name.
    pub fn get(&self, id: &str) -> Option<&Item> {
        self.items.get(id)
    }

    /// What the lists say of a request at `now()`; `name` makes of an entry what items have as its value.
    pub fn judge(
        &self,
        domain: &Domain,
        descriptors: &[Descriptor<'_>],
        now: impl FnOnce() -> Timestamp,
        name: impl Fn(Entry<'_>) -> String,
    ) -> Option<Listed> {
        let keys = self.domains.get(&*domain.name)?;
        let now = now();
        let mut first: Option<Listed> = None;
        for (descriptor, entries) in descriptors.iter().enumerate() {
            for entry in &entries.entries {
                let Some(of_key) = keys.get(entry.key) else {
                    continue;
                };
                let exact = of_key.exact.get(&name(*entry));
                let marks = exact.into_iter().chain(of_key.networks.all(entry.value));
                for mark in marks.flatten() {
                    let holds = mark.until.is_none_or(|until| now.as_micros() < until);
                    if holds && first.is_none_or(|first| mark.list < first.list) {
                        let wait = |until| Timestamp::from_micros(until).since(now);
                        first = Some(Listed {
                            list: mark.list,
                            descriptor,
                            wait: mark.until.map(wait),
                        });
                    }
                }
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(list: List, value: &str, network: bool, until: Option<i64>) -> Item {
        Item {
            list,
            domain: "d".to_owned(),
            key: "ip".to_owned(),
            value: value.to_owned(),
            network,
            until,
            note: String::new(),
            counter: None,
        }
    }

    #[test]
    fn deny_counts_before_allow_and_allow_before_a_ban() {
        let now = Timestamp::from_secs(10);
        let lists = Lists::new(
            [
                item(List::Ban, "10.0.0.1", false, None),
                item(List::Allow, "10.0.0.0/8", true, Some(20_000_000)),
                item(List::Deny, "10.1.0.0/16", true, None),
                item(List::Deny, "10.0.0.1", false, Some(5_000_000)),
            ],
            now,
        );
        let domain = crate::rules::Domain::named("d");
        let judge = |value: &str, now| {
            let entries = smallvec::smallvec![Entry { key: "ip", value }];
            let descriptor = Descriptor {
                entries,
                ..Descriptor::default()
            };
            let name = |entry: Entry<'_>| entry.value.to_owned();
            lists
                .judge(&domain, &[descriptor], || now, name)
                .map(|listed| listed.list)
        };
        assert_eq!(judge("10.0.0.1", now), Some(List::Allow));
        assert_eq!(judge("10.1.0.1", now), Some(List::Deny));
        assert_eq!(judge("11.0.0.1", now), None);
        let later = Timestamp::from_secs(30);
        assert_eq!(judge("10.0.0.1", later), Some(List::Ban));
        assert_eq!(judge("10.0.0.2", later), None);
    }
}
