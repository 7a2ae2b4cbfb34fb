//! What a request costs: the first cost in file order that matches any of its entries multiplies all its hits.

use std::collections::HashMap;

use super::Descriptor;
use super::matcher::{Matcher, Patterns};
use crate::limit::Hits;

/// The costs of a domain.
#[derive(Debug, Default)]
pub struct Costs {
    by_key: HashMap<String, OfKey>,
    written: Vec<Cost>,
}

/// A cost as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Of an entry.
    pub key: String,
    /// Of an entry, or a pattern; empty for any.
    pub value: String,
    /// Of a hit.
    pub cost: Hits,
}

/// A cost and its place in the file.
type Placed = (usize, Hits);

#[derive(Debug, Default)]
struct OfKey {
    exact: HashMap<String, Placed>,
    patterns: Patterns<Hits>,
    bare: Option<Placed>,
}

impl Costs {
    /// Adds a cost behind those before it. Of two that match the same, the first counts.
    pub fn add(&mut self, key: &str, matcher: Matcher<'_>, cost: Hits) {
        let order = self.written.len();
        self.written.push(Cost {
            key: key.to_owned(),
            value: match matcher {
                Matcher::Bare => String::new(),
                Matcher::Exact(value) | Matcher::Pattern(value) => value.to_owned(),
                Matcher::Cidr(net) => net.to_string(),
            },
            cost,
        });
        let of_key = self.by_key.entry(key.to_owned()).or_default();
        match matcher {
            Matcher::Bare => {
                of_key.bare.get_or_insert((order, cost));
            }
            Matcher::Exact(value) => {
                of_key
                    .exact
                    .entry(value.to_owned())
                    .or_insert((order, cost));
            }
            Matcher::Cidr(net) => {
                of_key.exact.entry(net.to_string()).or_insert((order, cost));
            }
            Matcher::Pattern(pattern) => {
                // The same pattern twice: the first counts.
                let _ = of_key.patterns.add(pattern, order, cost);
            }
        }
    }

    /// All, in file order.
    pub fn written(&self) -> &[Cost] {
        &self.written
    }

    /// The most that a hit can cost; none if nothing has a cost.
    pub fn dearest(&self) -> Option<Hits> {
        let of_key = |of_key: &OfKey| {
            let exact = of_key.exact.values().map(|(_, cost)| *cost);
            let bare = of_key.bare.map(|(_, cost)| cost);
            exact
                .chain(bare)
                .chain(of_key.patterns.nodes().copied())
                .max()
        };
        self.by_key.values().filter_map(of_key).max()
    }

    /// What one hit of a request costs: [`Hits::ONE`] if nothing matches, none if the request is exempt.
    pub fn of(&self, descriptors: &[Descriptor<'_>]) -> Hits {
        if self.by_key.is_empty() {
            return Hits::ONE;
        }
        let entries = descriptors
            .iter()
            .flat_map(|descriptor| &descriptor.entries);
        let found = entries.filter_map(|entry| self.by_key.get(entry.key)?.find(entry.value));
        found
            .min_by_key(|(order, _)| *order)
            .map_or(Hits::ONE, |(_, cost)| cost)
    }
}

impl OfKey {
    fn find(&self, value: &str) -> Option<Placed> {
        let exact = self.exact.get(value).copied();
        let pattern = self
            .patterns
            .find(value)
            .map(|found| (found.order, found.node));
        let found = [exact, pattern, self.bare].into_iter().flatten();
        found.min_by_key(|(order, _)| *order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Entry;

    #[test]
    fn the_first_that_matches_any_entry_counts() {
        let mut costs = Costs::default();
        let exact = |value: &'static str| Matcher::Exact(value);
        costs.add("path", exact("/a"), Hits::whole(2));
        costs.add("path", Matcher::Pattern("/*"), Hits::whole(3));
        costs.add("method", exact("OPTIONS"), Hits::ZERO);
        costs.add("path", exact("/late"), Hits::whole(9));
        let of = |entries: &[(&'static str, &'static str)]| {
            let descriptor = |&(key, value)| Descriptor {
                entries: smallvec::smallvec![Entry { key, value }],
                ..Descriptor::default()
            };
            let descriptors: Vec<_> = entries.iter().map(descriptor).collect();
            costs.of(&descriptors)
        };
        assert_eq!(of(&[("path", "/a")]), Hits::whole(2));
        assert_eq!(of(&[("path", "/late")]), Hits::whole(3));
        assert_eq!(of(&[("method", "OPTIONS"), ("path", "/b")]), Hits::whole(3));
        assert_eq!(of(&[("method", "OPTIONS")]), Hits::ZERO);
        assert_eq!(of(&[("user", "x")]), Hits::ONE);
    }
}
