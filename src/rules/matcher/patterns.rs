//! Patterns, found by the literal text that they begin with, and then by that which they end with: of a value, the beginning
//! of each length that patterns have is looked up.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::Duplicate;

/// Patterns, each with what it stands for.
#[derive(Debug)]
pub struct Patterns<T> {
    /// By the text that they begin with.
    starts: ByText<Start<T>>,
    /// Where each stands in the order of the file.
    known: HashMap<Box<str>, usize>,
}

/// A pattern, and what it stands for.
#[derive(Debug)]
pub struct Wildcard<T> {
    /// Its place in the order of the file.
    pub order: usize,
    /// The literal texts between the pattern's first and last, each after a `*`.
    middle: Vec<Box<[u8]>>,
    /// What it stands for.
    pub node: T,
}

/// Things by a text that longer ones have at one end.
#[derive(Debug)]
struct ByText<T> {
    /// How long the texts are, ascending.
    lengths: Vec<usize>,
    things: HashMap<SmallVec<[u8; 32]>, T>,
}

/// The patterns that begin with one text.
#[derive(Debug)]
struct Start<T> {
    /// The one that has no other text; most have none.
    alone: Option<Wildcard<T>>,
    /// The others by the text that they end with, each in the order of the file.
    ends: Option<Box<ByText<Vec<Wildcard<T>>>>>,
}

impl<T> Patterns<T> {
    /// Adds a pattern, which has a `*`, behind those before it.
    pub fn add(&mut self, pattern: &str, order: usize, node: T) -> Result<(), Duplicate> {
        if let Some(first) = self.known.get(pattern) {
            return Err(Duplicate { first: *first });
        }
        let (start, rest) = pattern.split_once('*').unwrap_or((pattern, ""));
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty());
        let wildcard = Wildcard {
            order,
            middle: middle.map(|part| part.as_bytes().into()).collect(),
            node,
        };
        let of_start = self.starts.of(start);
        if end.is_empty() && wildcard.middle.is_empty() && of_start.alone.is_none() {
            of_start.alone = Some(wildcard);
        } else {
            let ends = of_start.ends.get_or_insert_default();
            ends.of(end).push(wildcard);
        }
        self.known.insert(pattern.into(), order);
        Ok(())
    }

    /// What all of them stand for.
    pub fn nodes(&self) -> impl Iterator<Item = &T> {
        self.starts.things.values().flat_map(Start::nodes)
    }

    /// All of them as written, each with what it stands for.
    pub fn written(&self) -> impl Iterator<Item = (&str, &T)> {
        let wildcards = self.starts.things.values().flat_map(Start::wildcards);
        let by_order: HashMap<usize, &T> = wildcards.map(|one| (one.order, &one.node)).collect();
        let known = self.known.iter();
        known.filter_map(move |(text, order)| Some((&**text, *by_order.get(order)?)))
    }

    /// The first in file order that matches.
    pub fn find(&self, value: &str) -> Option<&Wildcard<T>> {
        let value = value.as_bytes();
        let mut first: Option<&Wildcard<T>> = None;
        for length in self.starts.up_to(value.len()) {
            let (start, rest) = value.split_at(*length);
            let Some(of_start) = self.starts.things.get(start) else {
                continue;
            };
            let alone = of_start.alone.as_ref();
            let earlier = |found: &&Wildcard<T>| first.is_none_or(|w| found.order < w.order);
            first = alone.filter(earlier).or(first);
            let Some(ends) = &of_start.ends else { continue };
            for length in ends.up_to(rest.len()) {
                let (middle, end) = rest.split_at(rest.len() - length);
                let of_end = ends.things.get(end).into_iter().flatten();
                let earlier = |found: &&Wildcard<T>| first.is_none_or(|w| found.order < w.order);
                let mut earlier = of_end.take_while(earlier);
                first = earlier.find(|found| found.matches(middle)).or(first);
            }
        }
        first
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self {
            starts: ByText::default(),
            known: HashMap::default(),
        }
    }
}

impl<T> Default for ByText<T> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            things: HashMap::default(),
        }
    }
}

impl<T> Start<T> {
    fn nodes(&self) -> impl Iterator<Item = &T> {
        self.wildcards().map(|wildcard| &wildcard.node)
    }

    fn wildcards(&self) -> impl Iterator<Item = &Wildcard<T>> {
        let ends = self.ends.iter().flat_map(|ends| ends.things.values());
        self.alone.iter().chain(ends.flatten())
    }
}

impl<T> Default for Start<T> {
    fn default() -> Self {
        Self {
            alone: None,
            ends: None,
        }
    }
}

impl<T: Default> ByText<T> {
    /// What there is of a text; it is made if there is nothing.
    fn of(&mut self, text: &str) -> &mut T {
        if let Err(place) = self.lengths.binary_search(&text.len()) {
            self.lengths.insert(place, text.len());
        }
        self.things.entry(text.as_bytes().into()).or_default()
    }
}

impl<T> ByText<T> {
    /// The lengths of texts that a text of `length` may have at its end.
    fn up_to(&self, length: usize) -> impl Iterator<Item = &usize> {
        let lengths = self.lengths.iter();
        lengths.take_while(move |one| **one <= length)
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

/// What follows the first `part` in `text`; a part is not empty.
fn find<'t>(text: &'t [u8], part: &[u8]) -> Option<&'t [u8]> {
    let at = text.windows(part.len()).position(|window| window == part)?;
    text.get(at + part.len()..)
}
