//! Values by fingerprint, each also at an index: what a shard of the embedded store is.
//!
//! Values lie dense in chunks of [`CHUNK`], so that growth neither moves one nor reserves for others that may never come. Where
//! one is looked for is linear hashing: there are as many buckets as values, each a chain through them. A value that comes brings
//! one bucket, which takes its part of one other; a value that goes takes one along. So a key costs the same at any fill, and
//! no write ever waits for all keys to be hashed anew, as it would under an index that doubles.
//!
//! Of many keys each is in no cache, and to wait for memory takes longer than all else that is done for it. So a value lies in one
//! line of the cache with its fingerprint and its place in the chain; and the first of a bucket lies at the bucket's own index,
//! whoever was there makes way, as in R. Ierusalimschy et al., "The Implementation of Lua 5.0", section 4. Two of three values
//! are found at the first look.

/// How many values come in one allocation: few, as the last chunk is half empty on average; many, as each has an address, which should be in the
/// cache. With the line that an allocator may add to begin at one, it fills a power of two.
const CHUNK: usize = 255;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// How many values more should find room at any time. A chunk beyond that is one that is spared when values go.
const AHEAD: usize = CHUNK / 2;

/// Values by fingerprint; fewer than 2^32 - 1.
#[derive(Debug)]
pub(super) struct Table<V> {
    chunks: Vec<Chunk<V>>,
    /// Where in a chunk its first value lies.
    turn: u32,
    /// How many values there are, at the indices below, and how many buckets. If a bucket has values, one is at its index, and
    /// is the first of its chain.
    len: u32,
}

/// Room for some values, to which a table comes or which is made for it beforehand.
#[derive(Debug)]
pub(super) struct Chunk<V>(Box<[Entry<V>; CHUNK]>);

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

/// What each value takes, with its fingerprint.
pub(super) const fn bytes_each<V>() -> usize {
    size_of::<Entry<V>>()
}

impl<V: Default> Table<V> {
    /// The table at `place` of many. Each begins at another place of its chunks: these begin where pages of memory do, and of what lies
    /// at the same place of many pages a cache holds little.
    pub(super) fn at_place(place: usize) -> Self {
        Self {
            chunks: Vec::new(),
            turn: (place % CHUNK) as u32,
            len: 0,
        }
    }

    /// Whether a chunk should be added before the next values come, if there are to be `most`.
    pub(super) fn is_short(&self, most: usize) -> bool {
        self.chunks.len() * CHUNK < most.min(self.len() + AHEAD)
    }

    /// Adds room for those that come.
    pub(super) fn add_chunk(&mut self, chunk: Chunk<V>) {
        self.chunks.push(chunk);
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Where the value of `print` is, until one comes or goes.
    pub(super) fn find(&self, print: u128) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let print = halves(print);
        // Where the bucket has no values this is another's chain, and finds nothing either.
        let mut index = bucket(print, self.len());
        loop {
            let entry = self.entry(index);
            if entry.print == print {
                return Some(index);
            }
            index = place(entry.next)?;
        }
    }

    /// Begins to bring into the cache what is looked at first for `print`.
    pub(super) fn fetch(&self, print: u128) {
        if self.len > 0 {
            let index = bucket(halves(print), self.len());
            let chunk = &*self.chunks[index / CHUNK].0;
            prefetch_index::prefetch_index(chunk, (index + self.turn as usize) % CHUNK);
        }
    }

    /// The value at `index`, which is below [`Table::len`].
    pub(super) fn at(&self, index: usize) -> &V {
        &self.entry(index).value
    }

    /// The value at `index`, which is below [`Table::len`].
    pub(super) fn at_mut(&mut self, index: usize) -> &mut V {
        &mut self.entry_mut(index).value
    }

    /// Puts `value` in the place of the one of `print`, or anywhere if there is none, and tells whether there was one. `lowered`
    /// is told of each value that makes way towards the beginning.
    pub(super) fn insert(&mut self, print: u128, value: V, lowered: impl FnMut(&V)) -> bool {
        if let Some(index) = self.find(print) {
            *self.at_mut(index) = value;
            return true;
        }
        let mut lowered = lowered;
        let print = halves(print);
        let free = self.add_bucket(&mut lowered);
        let home = bucket(print, self.len());
        let (index, next) = if home == free {
            (free, NONE)
        } else if self.is_first(home) {
            let first = self.entry_mut(home);
            let next = std::mem::replace(&mut first.next, free as u32);
            (free, next)
        } else {
            self.make_way(home, free, &mut lowered);
            (home, NONE)
        };
        *self.entry_mut(index) = Entry { print, value, next };
        false
    }

    /// Removes the value at `index`, which is below [`Table::len`]; others move. `lowered` is told of each that moves towards the
    /// beginning.
    pub(super) fn remove(&mut self, index: usize, lowered: impl FnMut(&V)) -> V {
        let mut lowered = lowered;
        let removed = std::mem::take(&mut self.entry_mut(index).value);
        let next = self.entry(index).next;
        let free = match (self.is_first(index), place(next)) {
            (true, Some(next)) => {
                self.shift(next, index, &mut lowered);
                next
            }
            (true, None) => index,
            (false, _) => {
                let before = self.before(index);
                self.entry_mut(before).next = next;
                index
            }
        };
        self.remove_bucket(free, &mut lowered);
        removed
    }

    /// All values and their fingerprints.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        let entries = (0..self.len()).map(|index| self.entry(index));
        entries.map(|entry| {
            let [low, high] = entry.print.map(u128::from);
            (high << 64 | low, &entry.value)
        })
    }

    /// Makes room for one more value, and splits the bucket whose upper half the new one is. Tells which index is free then.
    fn add_bucket(&mut self, lowered: &mut impl FnMut(&V)) -> usize {
        let new = self.len();
        if new == self.chunks.len() * CHUNK {
            self.add_chunk(Chunk::default());
        }
        let split = parent(new).filter(|parent| self.is_first(*parent));
        self.len += 1;
        let Some(parent) = split else {
            return new;
        };
        // First and last of those that stay, and of those that go.
        let mut halves = [None::<(usize, usize)>; 2];
        let mut at = Some(parent);
        while let Some(index) = at {
            let entry = self.entry_mut(index);
            let goes = bucket(entry.print, new + 1) == new;
            at = place(std::mem::replace(&mut entry.next, NONE));
            let half = &mut halves[usize::from(goes)];
            *half = Some(match *half {
                Some((first, last)) => {
                    self.entry_mut(last).next = index as u32;
                    (first, index)
                }
                None => (index, index),
            });
        }
        let [stay, go] = halves;
        let mut free = new;
        if let Some((first, _)) = go {
            self.shift(first, new, lowered);
            free = first;
        }
        // Who was at the parent's index is the first of those that go, if of those that stay it is not.
        if let Some((first, _)) = stay.filter(|(first, _)| *first != parent) {
            self.shift(first, parent, lowered);
            free = first;
        }
        free
    }

    /// Gives the chain of the last bucket to the one it was split from, and the room back; `free` is the index that holds nothing.
    fn remove_bucket(&mut self, mut free: usize, lowered: &mut impl FnMut(&V)) {
        let last = self.len() - 1;
        if let Some(parent) = parent(last)
            && free != last
            && self.is_first(last)
        {
            if free != parent && self.is_first(parent) {
                let mut end = parent;
                while let Some(next) = place(self.entry(end).next) {
                    end = next;
                }
                self.entry_mut(end).next = last as u32;
            } else {
                if free != parent {
                    self.make_way(parent, free, lowered);
                }
                self.shift(last, parent, lowered);
                free = last;
            }
        }
        self.len = last as u32;
        if free != last {
            self.make_way(last, free, lowered);
        }
        // One is spared, so that keys that come and go at a border do not allocate each time.
        if self.len().div_ceil(CHUNK) + 1 < self.chunks.len() {
            self.chunks.pop();
        }
    }

    /// Whether the value at `index` is of the bucket there, and so its first.
    fn is_first(&self, index: usize) -> bool {
        bucket(self.entry(index).print, self.len()) == index
    }

    /// Moves the value at `from`, which is not the first of its chain, to `to`, which is free.
    fn make_way(&mut self, from: usize, to: usize, lowered: &mut impl FnMut(&V)) {
        let before = self.before(from);
        self.entry_mut(before).next = to as u32;
        self.shift(from, to, lowered);
    }

    /// Moves the value at `from` to `to`, which is free; what pointed to it still does.
    fn shift(&mut self, from: usize, to: usize, lowered: &mut impl FnMut(&V)) {
        let moved = std::mem::take(self.entry_mut(from));
        if to < from {
            lowered(&moved.value);
        }
        *self.entry_mut(to) = moved;
    }

    /// The index before `index` in its chain, of which it is not the first.
    fn before(&self, index: usize) -> usize {
        let mut before = bucket(self.entry(index).print, self.len());
        while let Some(next) = place(self.entry(before).next).filter(|next| *next != index) {
            before = next;
        }
        before
    }

    fn entry(&self, index: usize) -> &Entry<V> {
        &self.chunks[index / CHUNK].0[(index + self.turn as usize) % CHUNK]
    }

    fn entry_mut(&mut self, index: usize) -> &mut Entry<V> {
        &mut self.chunks[index / CHUNK].0[(index + self.turn as usize) % CHUNK]
    }
}

impl<V: Default> Default for Chunk<V> {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Entry::default())))
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
        assert_eq!(table.remove(index, |_| {}), value);
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
            let home = bucket(halves(print), table.len());
            assert!(
                table.is_first(home),
                "{print:x} is not at its bucket's index"
            );
        }
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(steps in vec(step(), 0..1000), place in 0..2 * CHUNK) {
            let (mut table, mut model) = (Table::at_place(place), HashMap::new());
            for step in steps {
                match step {
                    Step::Insert(print, value) => {
                        let known = model.insert(print, value).is_some();
                        assert_eq!(table.insert(print, value, |_| {}), known);
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
    fn values_take_the_room_that_was_made_and_leave_it() {
        const MOST: usize = 4 * CHUNK + 1;
        let mut table = Table::at_place(0);
        for print in 0..MOST as u128 {
            if table.is_short(MOST) {
                table.add_chunk(Chunk::default());
            }
            let chunks = table.chunks.len();
            table.insert(print, 1_u32, |_| {});
            assert_eq!(table.chunks.len(), chunks, "no value asks for room");
        }
        assert!(!table.is_short(MOST), "no more are to come");
        assert_eq!(table.chunks.len(), 5);
        while table.len() > 0 {
            table.remove(0, |_| {});
            assert!(
                !table.is_short(MOST),
                "room is given back and asked for in turn"
            );
        }
        assert_eq!(table.chunks.len(), 1);
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let mut table = Table::at_place(0);
        for print in 0..10 * CHUNK as u128 {
            table.insert(print, 1_u32, |_| {});
        }
        assert_eq!(table.chunks.len(), 10);
        while table.len() > CHUNK {
            table.remove(0, |_| {});
        }
        assert_eq!(table.chunks.len(), 2, "one to spare");
    }
}
