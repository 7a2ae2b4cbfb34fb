//! Texts, items and the log of changes in this process; see [`book`](crate::store::book).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::Key;
use crate::store::book::{Items, MAX_LOG, News, item_change};
use crate::time::{Clock, Micros, Timestamp};

/// The most texts; beyond it the expired ones are forgotten, and then new ones are refused.
pub const MAX_TEXTS: usize = 10_000_000;

/// In so many parts the texts lie, so that whoever goes through all of them holds up few requests, and not for long.
const PARTS: usize = 256;

/// Texts, items and the log.
#[derive(Debug)]
pub struct Book {
    texts: Box<[Mutex<Texts>]>,
    /// Which part a text is in.
    part: RandomState,
    pages: Mutex<Pages>,
    clock: Clock,
}

/// A text and when it ends.
pub(super) type Text = (Bytes, Option<Timestamp>);

/// Some of the texts.
type Texts = HashMap<String, Text>;

#[derive(Debug, Default)]
struct Pages {
    items: BTreeMap<String, Bytes>,
    log: VecDeque<Bytes>,
    number: u64,
}

impl Book {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self {
            texts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part: RandomState::new(),
            pages: Mutex::default(),
            clock,
        }
    }

    pub(in crate::store) fn text(&self, key: &Key) -> Option<Bytes> {
        let texts = self.part(key.as_str()).lock();
        text(&texts, key.as_str(), self.clock.now())
    }

    pub(in crate::store) fn replace_text(
        &self,
        key: &Key,
        before: Option<&Bytes>,
        after: Option<&Bytes>,
        keep: Option<Micros>,
    ) -> bool {
        const MOST: usize = MAX_TEXTS / PARTS;
        let now = self.clock.now();
        let mut texts = self.part(key.as_str()).lock();
        if text(&texts, key.as_str(), now).as_ref() != before {
            return false;
        }
        if texts.len() >= MOST {
            texts.retain(|_, (_, until)| holds(*until, now));
        }
        match after {
            Some(_) if texts.len() >= MOST => return false,
            Some(after) => {
                let until = keep.map(|keep| now + keep);
                texts.insert(key.as_str().to_owned(), (after.clone(), until));
            }
            None => {
                texts.remove(key.as_str());
            }
        }
        true
    }

    pub(in crate::store) fn announce(&self, change: Bytes) {
        self.pages.lock().announce(change);
    }

    pub(in crate::store) fn set_item(&self, id: &str, text: Option<&Bytes>) {
        let mut pages = self.pages.lock();
        match text {
            Some(text) => pages.items.insert(id.to_owned(), text.clone()),
            None => pages.items.remove(id),
        };
        pages.announce(item_change(id, text.map(AsRef::as_ref)));
    }

    pub(in crate::store) fn items(&self) -> (u64, Items) {
        let pages = self.pages.lock();
        let items = pages.items.iter();
        let items = items.map(|(id, text)| (id.clone(), text.clone()));
        (pages.number, items.collect())
    }

    pub(in crate::store) fn changes(&self, after: u64) -> News {
        let pages = self.pages.lock();
        let missed = pages.number.checked_sub(after);
        let missed = missed.and_then(|missed| usize::try_from(missed).ok());
        match missed.filter(|missed| *missed <= pages.log.len()) {
            Some(missed) => {
                let first = pages.log.len() - missed;
                News::Changes(pages.number, pages.log.range(first..).cloned().collect())
            }
            None => News::Lost,
        }
    }

    /// All texts that hold, a part at a time, to be kept elsewhere.
    pub(super) fn texts(&self) -> impl Iterator<Item = Vec<(String, Text)>> {
        let now = self.clock.now();
        self.texts.iter().map(move |texts| {
            let texts = texts.lock();
            let texts = texts.iter().filter(|(_, text)| holds(text.1, now));
            texts
                .map(|(key, text)| (key.clone(), text.clone()))
                .collect()
        })
    }

    /// Takes back a text that was kept elsewhere.
    pub(super) fn restore_text(&self, key: String, text: Text) {
        if holds(text.1, self.clock.now()) {
            self.part(&key).lock().insert(key, text);
        }
    }

    /// Takes back an item that was kept elsewhere.
    pub(super) fn restore_item(&self, id: String, text: Bytes) {
        self.pages.lock().items.insert(id, text);
    }

    fn part(&self, key: &str) -> &Mutex<Texts> {
        &self.texts[self.part.hash_one(key) as usize % PARTS]
    }
}

impl Pages {
    fn announce(&mut self, change: Bytes) {
        self.number += 1;
        self.log.push_back(change);
        if self.log.len() > MAX_LOG {
            self.log.pop_front();
        }
    }
}

fn text(texts: &Texts, key: &str, now: Timestamp) -> Option<Bytes> {
    let (text, until) = texts.get(key)?;
    holds(*until, now).then(|| text.clone())
}

fn holds(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_none_or(|until| now < until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn texts_are_bounded_and_those_that_ended_make_way() {
        let (clock, handle) = Clock::manual(Timestamp::from_secs(1));
        let book = Book::new(clock);
        let (key, text) = (Key::new("", "beyond", ""), Bytes::from_static(b"text"));
        let until = Some(Timestamp::from_secs(2));
        // One part is full when it has its share of them.
        let part = book.part(key.as_str());
        let names = (1..MAX_TEXTS / PARTS).map(|n| (n.to_string(), (text.clone(), None)));
        part.lock().extend(names);
        let last = ("last".to_owned(), (text.clone(), until));
        part.lock().extend([last]);
        let put = || book.replace_text(&key, None, Some(&text), None);
        assert!(!put(), "one beyond");
        assert_eq!(book.text(&key), None);
        handle.advance(Micros::from_secs(1));
        assert!(put(), "the last has ended");
        assert_eq!(part.lock().len(), MAX_TEXTS / PARTS);
        assert!(book.replace_text(&key, Some(&text), None, None));
        assert!(put());
    }
}
