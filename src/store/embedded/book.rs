//! Texts, items and the log of changes in this process; see [`book`](crate::store::book).

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::store::Key;
use crate::store::book::{Items, MAX_LOG, News, item_change};
use crate::time::{Clock, Micros, Timestamp};

/// The most texts; beyond it the expired ones are forgotten, and then new ones are refused.
pub const MAX_TEXTS: usize = 10_000_000;

/// Texts, items and the log.
#[derive(Debug)]
pub struct Book {
    pages: Mutex<Pages>,
    clock: Clock,
}

/// A text and when it ends.
pub(super) type Text = (Bytes, Option<Timestamp>);

#[derive(Debug, Default)]
struct Pages {
    texts: HashMap<String, Text>,
    items: BTreeMap<String, Bytes>,
    log: VecDeque<Bytes>,
    number: u64,
}

impl Book {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self {
            pages: Mutex::default(),
            clock,
        }
    }

    pub(in crate::store) fn text(&self, key: &Key) -> Option<Bytes> {
        self.pages.lock().text(key.as_str(), self.clock.now())
    }

    pub(in crate::store) fn replace_text(
        &self,
        key: &Key,
        before: Option<&Bytes>,
        text: Option<&Bytes>,
        keep: Option<Micros>,
    ) -> bool {
        let now = self.clock.now();
        let mut pages = self.pages.lock();
        if pages.text(key.as_str(), now).as_ref() != before {
            return false;
        }
        if pages.texts.len() >= MAX_TEXTS {
            pages.texts.retain(|_, (_, until)| holds(*until, now));
        }
        match text {
            Some(_) if pages.texts.len() >= MAX_TEXTS => return false,
            Some(text) => {
                let until = keep.map(|keep| now + keep);
                pages
                    .texts
                    .insert(key.as_str().to_owned(), (text.clone(), until));
            }
            None => {
                pages.texts.remove(key.as_str());
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

    /// All texts that hold and all items, to be kept elsewhere.
    pub(super) fn contents(&self) -> (Vec<(String, Text)>, Items) {
        let now = self.clock.now();
        let (_, items) = self.items();
        let pages = self.pages.lock();
        let texts = pages.texts.iter().filter(|(_, text)| holds(text.1, now));
        let texts = texts.map(|(key, text)| (key.clone(), text.clone()));
        (texts.collect(), items)
    }

    /// Takes back what was kept elsewhere.
    pub(super) fn restore(&self, texts: Vec<(String, Text)>, items: Items) {
        let mut pages = self.pages.lock();
        pages.texts.extend(texts);
        pages.items.extend(items);
    }
}

impl Pages {
    fn text(&self, key: &str, now: Timestamp) -> Option<Bytes> {
        let (text, until) = self.texts.get(key)?;
        holds(*until, now).then(|| text.clone())
    }

    fn announce(&mut self, change: Bytes) {
        self.number += 1;
        self.log.push_back(change);
        if self.log.len() > MAX_LOG {
            self.log.pop_front();
        }
    }
}

fn holds(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_none_or(|until| now < until)
}
