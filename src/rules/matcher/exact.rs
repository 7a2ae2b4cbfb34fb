//! Nodes of exact values: one look each, in which all that is needed stands side by side.
//!
//! The hash of a value says where its node is, or the first of a few in a row: so that can be fetched before it is looked at.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use smallvec::SmallVec;

use super::{Duplicate, Key, Level, Node};

/// Up to how many nodes are thought to be in a core's cache, with their rules: half a kilobyte each.
const AT_HAND: usize = 4096;

/// Of how many places one has a node, at the most. Half a look more than one finds a node then (D. Knuth, The Art of Computer Programming,
/// volume 3, 6.4, algorithm L).
const ROOM: usize = 2;

/// The nodes of exact values, of all levels.
#[derive(Debug, Default)]
pub(super) struct Exacts {
    /// Each node at its hash's place or behind it, with no free one between.
    places: Vec<Exact>,
    count: usize,
    hasher: DefaultHashBuilder,
}

/// The node of one value: what a lookup needs is one line of the cache, unless the value is long.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Exact {
    /// [`Level::NONE`] where a place is free.
    pub(super) level: Level,
    pub(super) key: Key,
    pub(super) value: SmallVec<[u8; 32]>,
    pub(super) node: Node,
}

impl Exacts {
    pub(super) fn find(&self, level: Level, key: Key, value: &str) -> Option<&Node> {
        if self.count == 0 {
            return None;
        }
        let place = &self.places[self.place(level, key, value.as_bytes())];
        (!place.is_free()).then_some(&place.node)
    }

    /// Whether they are so many that a lookup mostly waits for memory.
    pub(super) fn are_many(&self) -> bool {
        self.count > AT_HAND
    }

    /// Begins to bring into the cache what [`Exacts::find`] looks at first, and next.
    pub(super) fn fetch(&self, level: Level, key: Key, value: &str) {
        let first = self.first(level, key, value.as_bytes());
        prefetch_index::prefetch_index(&self.places, first);
        prefetch_index::prefetch_index(&self.places, first + 1);
    }

    pub(super) fn add(
        &mut self,
        level: Level,
        key: Key,
        value: &str,
        node: Node,
    ) -> Result<(), Duplicate> {
        if (self.count + 1) * ROOM > self.places.len() {
            self.resize((self.count + 1) * ROOM * 2);
        }
        let value = value.as_bytes();
        let place = self.place(level, key, value);
        let place = &mut self.places[place];
        if !place.is_free() {
            return Err(place.node.duplicate());
        }
        self.count += 1;
        *place = Exact {
            level,
            key,
            value: value.into(),
            node,
        };
        Ok(())
    }

    /// Gives back the room that is not needed once all have been added.
    pub(super) fn shrink(&mut self) {
        self.resize(self.count * ROOM);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Exact> {
        self.places.iter().filter(|place| !place.is_free())
    }

    /// Makes so many places, which are more than there are nodes unless there are none.
    fn resize(&mut self, places: usize) {
        let free = std::iter::repeat_with(Exact::free).take(places);
        let before = std::mem::replace(&mut self.places, free.collect());
        for one in before.into_iter().filter(|place| !place.is_free()) {
            let place = self.place(one.level, one.key, &one.value);
            self.places[place] = one;
        }
    }

    /// Where a value's node is, or would be. There must be a free place.
    fn place(&self, level: Level, key: Key, value: &[u8]) -> usize {
        let mut at = self.first(level, key, value);
        loop {
            let place = &self.places[at];
            if place.is_free() || place.is(level, key, value) {
                return at;
            }
            at += 1;
            if at == self.places.len() {
                at = 0;
            }
        }
    }

    /// Where a value's node is unless others are there.
    fn first(&self, level: Level, key: Key, value: &[u8]) -> usize {
        let hash = self.hasher.hash_one((level, key, value));
        ((u128::from(hash) * self.places.len() as u128) >> 64) as usize
    }
}

impl Exact {
    fn free() -> Self {
        Self {
            level: Level::NONE,
            key: Key(0),
            value: SmallVec::new(),
            node: Node {
                rule: None,
                below: Level::NONE,
                place: 0,
            },
        }
    }

    fn is_free(&self) -> bool {
        self.level == Level::NONE
    }

    fn is(&self, level: Level, key: Key, value: &[u8]) -> bool {
        self.level == level && self.key == key && *self.value == *value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn node(place: u32) -> Node {
        Node {
            place,
            ..Exact::free().node
        }
    }

    proptest! {
        /// What was added first is found, until others have come and when there is no more room than needed, and nothing else is.
        #[test]
        fn what_was_added_is_found(
            added in proptest::collection::vec((0_u32..3, 0_u32..3, "[ab]{0,4}|.{40}"), 0..200),
            asked in proptest::collection::vec((0_u32..3, 0_u32..3, "[ab]{0,4}"), 0..50),
        ) {
            let mut exacts = Exacts::default();
            let mut naive = HashMap::new();
            for (place, one) in (0..).zip(&added) {
                let (level, key, value) = one;
                let result = exacts.add(Level(*level), Key(*key), value, node(place));
                let first = *naive.entry(one).or_insert(place);
                let wanted = if first == place {
                    Ok(())
                } else {
                    Err(Duplicate { first: first as usize })
                };
                prop_assert_eq!(result, wanted);
            }
            for _ in 0..2 {
                for one in added.iter().chain(&asked) {
                    let (level, key, value) = one;
                    exacts.fetch(Level(*level), Key(*key), value);
                    let found = exacts.find(Level(*level), Key(*key), value);
                    prop_assert_eq!(found.map(|node| node.place), naive.get(one).copied());
                }
                prop_assert_eq!(exacts.iter().count(), naive.len());
                exacts.shrink();
            }
        }
    }

    #[test]
    fn a_node_is_one_line_of_the_cache() {
        assert_eq!(size_of::<Exact>(), 64);
    }
}
