//! Values by fingerprint, each also at an index: what a shard of the embedded store is.
//!
//! Values lie dense in chunks of [`CHUNK`], so that growth neither moves one nor reserves for others that may never come. The
//! index over them is linear hashing: there are as many buckets as values, each a chain through them. A value that comes brings
//! one bucket, which takes its part of one other; a value that goes takes one along. So a key costs the same at any fill, and
//! no write ever waits for all keys to be hashed anew, as it would under an index that doubles.
//!
//! Of many keys each is in no cache, and to wait for memory takes longer than all else that is done for it. So a value lies in one
//! line of the cache with its fingerprint and its place in the chain, and the buckets by themselves, where they are few pages.

/// How many values come in one allocation: few, as the last chunk is half empty on average; many, as each has an address.
const CHUNK: usize = 64;

/// How many buckets come in one allocation.
const BUCKETS: usize = 256;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// Values by fingerprint; fewer than 2^32 - 1.
#[derive(Debug)]
#[expect(
    clippy::vec_box,
    reason = "growth is to move addresses, and not what they point to"
)]
pub(super) struct Table<V> {
    chunks: Vec<Box<[Entry<V>; CHUNK]>>,
    /// Of each bucket, the index of the first in its chain.
    heads: Vec<Box<[u32; BUCKETS]>>,
    /// How many values there are, at the indices below, and how many buckets.
    len: usize,
}

/// A value, in as few lines of the cache as it needs.
#[derive(Debug)]
#[repr(align(64))]
struct Entry<V> {
    /// In halves: a whole one would align what comes after it to 16 bytes.
    print: [u64; 2],
    value: V,
    /// The index of the next in its bucket's chain.
    next: u32,
}

/// What each value takes, with its fingerprint and its bucket.
pub(super) const fn bytes_each<V>() -> usize {
    size_of::<Entry<V>>() + size_of::<u32>()
}

/// What points to a value.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// The bucket, as the first in its chain.
    Head(usize),
    /// The value before it in its chain.
    Next(usize),
}

impl<V: Default> Table<V> {
    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where the value of `print` is, until a value is removed.
    pub(super) fn find(&self, print: u128) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let print = halves(print);
        let mut at = self.follow(Link::Head(bucket(print, self.len)));
        while let Some(index) = at {
            let entry = self.entry(index);
            if entry.print == print {
                break;
            }
            at = place(entry.next);
        }
        at
    }

    /// The value at `index`, which is below [`Table::len`].
    pub(super) fn at(&self, index: usize) -> &V {
        &self.entry(index).value
    }

    /// The value at `index`, which is below [`Table::len`].
    pub(super) fn at_mut(&mut self, index: usize) -> &mut V {
        &mut self.entry_mut(index).value
    }

    /// Puts `value` in the place of the one of `print`, or behind all others if there is none. Tells whether there was one.
    pub(super) fn insert(&mut self, print: u128, value: V) -> bool {
        if let Some(index) = self.find(print) {
            *self.at_mut(index) = value;
            return true;
        }
        let print = halves(print);
        let index = self.len;
        self.add_bucket();
        let bucket = Link::Head(bucket(print, self.len));
        let next = self.follow(bucket).map_or(NONE, |next| next as u32);
        *self.entry_mut(index) = Entry { print, value, next };
        self.point(bucket, Some(index));
        false
    }

    /// Removes the value at `index`, which is below [`Table::len`]; the last value takes its place.
    pub(super) fn swap_remove(&mut self, index: usize) -> V {
        self.unlink(index);
        let last = self.len - 1;
        let mut removed = std::mem::take(self.entry_mut(last));
        if index != last {
            let link = self.link_to(last, removed.print);
            self.point(link, Some(index));
            std::mem::swap(&mut removed, self.entry_mut(index));
        }
        self.remove_bucket();
        removed.value
    }

    /// All values and their fingerprints.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        let entries = self.chunks.iter().flat_map(|chunk| &**chunk);
        entries.take(self.len).map(|entry| {
            let [low, high] = entry.print.map(u128::from);
            (high << 64 | low, &entry.value)
        })
    }

    /// Makes room for one more value, and splits the bucket whose upper half the new one is.
    fn add_bucket(&mut self) {
        let new = self.len;
        self.len += 1;
        if self.len > self.chunks.len() * CHUNK {
            let chunk = std::array::from_fn(|_| Entry::default());
            self.chunks.push(Box::new(chunk));
        }
        if self.len > self.heads.len() * BUCKETS {
            self.heads.push(Box::new([NONE; BUCKETS]));
        }
        let Some(parent) = parent(new) else {
            return;
        };
        let (mut kept, mut moved) = (Link::Head(parent), Link::Head(new));
        let mut at = self.follow(kept);
        while let Some(index) = at {
            at = self.follow(Link::Next(index));
            let tail = if bucket(self.entry(index).print, self.len) == new {
                &mut moved
            } else {
                &mut kept
            };
            self.point(*tail, Some(index));
            *tail = Link::Next(index);
        }
        self.point(kept, None);
        self.point(moved, None);
    }

    /// Gives the chain of the last bucket to the one it was split from, and the room back.
    fn remove_bucket(&mut self) {
        let last = self.len - 1;
        if let Some(parent) = parent(last) {
            let mut end = Link::Head(parent);
            while let Some(index) = self.follow(end) {
                end = Link::Next(index);
            }
            self.point(end, self.follow(Link::Head(last)));
            self.point(Link::Head(last), None);
        }
        self.len = last;
        // One of each is spared, so that keys that come and go at a border do not allocate each time.
        if self.len.div_ceil(CHUNK) + 1 < self.chunks.len() {
            self.chunks.pop();
        }
        if self.len.div_ceil(BUCKETS) + 1 < self.heads.len() {
            self.heads.pop();
        }
    }

    /// Takes the value at `index` out of its chain.
    fn unlink(&mut self, index: usize) {
        let link = self.link_to(index, self.entry(index).print);
        self.point(link, self.follow(Link::Next(index)));
    }

    /// What points to the value of `print` at `index`.
    fn link_to(&self, index: usize, print: [u64; 2]) -> Link {
        let mut link = Link::Head(bucket(print, self.len));
        while let Some(at) = self.follow(link).filter(|at| *at != index) {
            link = Link::Next(at);
        }
        link
    }

    /// The index that `link` points to.
    fn follow(&self, link: Link) -> Option<usize> {
        place(match link {
            Link::Head(bucket) => self.heads[bucket / BUCKETS][bucket % BUCKETS],
            Link::Next(index) => self.entry(index).next,
        })
    }

    fn point(&mut self, link: Link, to: Option<usize>) {
        let from = match link {
            Link::Head(bucket) => &mut self.heads[bucket / BUCKETS][bucket % BUCKETS],
            Link::Next(index) => &mut self.entry_mut(index).next,
        };
        *from = to.map_or(NONE, |index| index as u32);
    }

    fn entry(&self, index: usize) -> &Entry<V> {
        &self.chunks[index / CHUNK][index % CHUNK]
    }

    fn entry_mut(&mut self, index: usize) -> &mut Entry<V> {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            heads: Vec::new(),
            len: 0,
        }
    }
}

impl<V: Default> Default for Entry<V> {
    fn default() -> Self {
        Self {
            print: [0; 2],
            value: V::default(),
            next: NONE,
        }
    }
}

/// The index that a link holds.
fn place(link: u32) -> Option<usize> {
    (link != NONE).then_some(link as usize)
}

/// The lower half comes first.
fn halves(print: u128) -> [u64; 2] {
    [print as u64, (print >> 64) as u64]
}

/// Which of `count` buckets holds `print`; the upper half is the same for many keys of a shard. Of the buckets of the last
/// doubling those that are not there yet are still part of their parents.
fn bucket(print: [u64; 2], count: usize) -> usize {
    let mask = count.next_power_of_two() - 1;
    let bucket = print[0] as usize & mask;
    if bucket < count {
        bucket
    } else {
        bucket & (mask >> 1)
    }
}

/// The bucket that `bucket` is split from: it without its highest bit. The first has none.
fn parent(bucket: usize) -> Option<usize> {
    bucket.checked_ilog2().map(|bit| bucket ^ (1 << bit))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u128, u32),
        /// At this index, modulo how many there are.
        Remove(usize),
    }

    /// Few enough fingerprints that some come twice, and close enough that chains are long.
    fn print() -> impl Strategy<Value = u128> {
        (0..400_u128, 0..3_u128).prop_map(|(low, high)| high << 64 | (low << 2 | low >> 7))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (print(), any::<u32>()).prop_map(|(print, value)| Step::Insert(print, value)),
            1 => any::<usize>().prop_map(Step::Remove),
        ]
    }

    fn remove(table: &mut Table<u32>, model: &mut HashMap<u128, u32>, index: usize) {
        let (print, value) = table.iter().nth(index).expect("an entry");
        let value = *value;
        assert_eq!(table.swap_remove(index), value);
        assert_eq!(model.remove(&print), Some(value));
        assert_eq!(table.find(print), None);
    }

    fn check(table: &Table<u32>, model: &HashMap<u128, u32>) {
        assert_eq!(table.len(), model.len());
        assert_eq!(
            table.iter().collect::<HashMap<_, _>>(),
            model.iter().map(|(print, value)| (*print, value)).collect()
        );
        for (index, (print, value)) in table.iter().enumerate() {
            assert_eq!(table.find(print), Some(index));
            assert_eq!(table.at(index), value);
        }
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(steps in vec(step(), 0..1000)) {
            let (mut table, mut model) = (Table::default(), HashMap::new());
            for step in steps {
                match step {
                    Step::Insert(print, value) => {
                        let known = model.insert(print, value).is_some();
                        assert_eq!(table.insert(print, value), known);
                    }
                    Step::Remove(index) if table.len() > 0 => {
                        let index = index % table.len();
                        remove(&mut table, &mut model, index);
                    }
                    Step::Remove(_) => {}
                }
            }
            check(&table, &model);
            while table.len() > 0 {
                let index = table.len() / 2;
                remove(&mut table, &mut model, index);
            }
            check(&table, &model);
        }
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let mut table = Table::default();
        for print in 0..10 * CHUNK as u128 {
            table.insert(print, 1_u32);
        }
        assert_eq!(table.chunks.len(), 10);
        assert_eq!(table.heads.len(), 3);
        while table.len() > CHUNK {
            table.swap_remove(0);
        }
        assert_eq!(table.chunks.len(), 2, "one to spare");
        assert_eq!(table.heads.len(), 2, "one to spare");
    }
}
