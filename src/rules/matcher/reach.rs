//! How far a descriptor comes that finds no rule, for people.

use super::Level;
use crate::rules::{Domain, Entry};

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
}
