//! Who asks most, and who is refused most, by rule: in bounded memory, and never as labels of metrics.
//!
//! Each of the [`MAX_RULES`] busiest rules has a sketch of hits and one of refusals for the [`SLICE`] that goes on, and a summary
//! for each of the [`SLICES`] before. A window is the sum of some of these, and over all instances the sum of theirs.
//!
//! In each slice the first [`EXACT`] charges of a rule are all counted, and of the others one of [`SAMPLED`] at random, as so many. A
//! subject with *n* hits beyond is then off by about `sqrt(SAMPLED · n)`: by 18 % of 1,000, by 6 % of 10,000.
//!
//! - [`sketch`]: subjects with their hits, as they come
//! - [`summary`]: what is kept of them, and added up
//! - `post`: what instances tell each other

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use super::bulletin::Bulletin;
use super::fold::{Ruling, Spoken};
use super::{Code, Request, key};
use crate::limit::transaction::Amount;
use crate::rules::{Domain, Entry, Rule, RuleSet};
use crate::store::posts::Board;
use crate::time::{Micros, Timestamp};
use sketch::Sketch;
use summary::Summary;

mod post;
pub mod sketch;
pub mod summary;

pub use post::{Instance, Tops};

/// How much time goes into one summary.
pub const SLICE: Micros = Micros::from_secs(30);

/// How many summaries are kept.
pub const SLICES: usize = 20;

/// The windows that can be asked for, in slices: one, five and ten minutes.
pub const WINDOWS: [usize; 3] = [2, 10, 20];

/// How many rules have sketches at once. Of more, the least busy make way.
pub const MAX_RULES: usize = 256;

/// How many rules make way at the end of a slice in which others had no room.
const MAKE_WAY: usize = 16;

/// How many subjects a summary keeps.
pub const KEPT: usize = 20;

/// How many observations of a rule are all counted in a slice.
pub const EXACT: u32 = 512;

/// One of how many is counted then.
pub const SAMPLED: u64 = 32;

/// The longest name of a subject, in bytes; of a longer one only its hash is told.
pub const MAX_SUBJECT: usize = 256;

/// By what subjects are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// All that they have asked for.
    Hits,
    /// What they were refused.
    Refused,
}

/// A rule, by its domain and its name.
type Name = (Arc<str>, Arc<str>);

/// Who asks most, of each rule.
#[derive(Debug)]
pub struct Top {
    slots: Box<[Slot]>,
    /// Which slot is whose; whoever changes that holds this.
    owners: Mutex<BTreeMap<Name, u16>>,
    /// A rule has asked for a slot in vain.
    wanted: AtomicBool,
    /// Tells subjects apart, in this process alone.
    secret: (u64, u64),
    bulletin: Bulletin<post::Post>,
}

/// Where the sketches of each rule of a rule set are.
#[derive(Debug)]
pub struct Places(Box<[AtomicU16]>);

/// The sketches of one rule, or of none.
#[derive(Debug, Default)]
struct Slot {
    /// How many observations of this slice were counted one by one.
    seen: AtomicU32,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    owner: Option<Name>,
    /// Which slice goes on, counted from the epoch.
    slice: i64,
    hits: Sketch,
    refused: Sketch,
    /// The slices before, newest last; those without hits are left out.
    past: VecDeque<Past>,
}

#[derive(Debug)]
struct Past {
    slice: i64,
    hits: Summary,
    refused: Summary,
}

/// A rule that has no slot yet.
const NOWHERE: u16 = u16::MAX;

thread_local! {
    /// Which observations are counted: a linear congruential generator, of whose state the upper bits are used.
    static DICE: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) };
}

impl By {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        [By::Hits, By::Refused]
            .into_iter()
            .find(|by| by.name() == name)
    }

    /// As the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            By::Hits => "hits",
            By::Refused => "refused",
        }
    }
}

impl Places {
    /// None has a slot yet.
    pub fn new(rules: &RuleSet) -> Self {
        let rules = rules.rules.iter();
        Self(rules.map(|_| AtomicU16::new(NOWHERE)).collect())
    }

    /// Begins to bring into the cache where the sketches of a rule are.
    pub fn fetch(&self, rule: &Rule) {
        prefetch_index::prefetch_index(&*self.0, rule.id.0 as usize);
    }
}

impl Top {
    /// Nobody has asked yet. What is told others is under `prefix`.
    pub fn new(prefix: &str) -> Self {
        let secret = std::hash::RandomState::new();
        Self {
            slots: (0..MAX_RULES).map(|_| Slot::default()).collect(),
            owners: Mutex::default(),
            wanted: AtomicBool::new(false),
            secret: (secret.hash_one(0), secret.hash_one(1)),
            bulletin: Bulletin::new(Board::new(prefix)),
        }
    }

    /// Counts who has asked, and who was refused.
    #[inline]
    pub(super) fn note(
        &self,
        places: &Places,
        domain: &Domain,
        request: &Request<'_>,
        ruling: &Ruling<'_>,
    ) {
        let is_sampled = is_sampled();
        for spoken in ruling.spoken() {
            let Some(rule) = spoken.rule else {
                continue;
            };
            let Some(place) = places.0.get(rule.id.0 as usize) else {
                continue;
            };
            let at = usize::from(place.load(Ordering::Relaxed));
            let weight = match self.slots.get(at) {
                Some(slot) if slot.seen.load(Ordering::Relaxed) < EXACT => 1,
                Some(_) if is_sampled => SAMPLED,
                Some(_) => continue,
                None if self.wanted.load(Ordering::Relaxed) => continue,
                None => 1,
            };
            self.count(place, weight, domain, rule, request, spoken);
        }
    }

    #[inline(never)]
    fn count(
        &self,
        place: &AtomicU16,
        weight: u64,
        domain: &Domain,
        rule: &Rule,
        request: &Request<'_>,
        spoken: &Spoken<'_>,
    ) {
        let Amount::Charge(hits) = spoken.amount else {
            return;
        };
        let at = match place.load(Ordering::Relaxed) {
            NOWHERE => self.claim(rule, place),
            at => at,
        };
        let Some(slot) = self.slots.get(usize::from(at)) else {
            return;
        };
        // Rather than wait for others that count the same rule, it is left out: as if it had not been sampled.
        let Some(mut tally) = slot.tally.try_lock() else {
            return;
        };
        if !tally.is_of(rule) {
            place.store(NOWHERE, Ordering::Relaxed);
            return;
        }
        if weight == 1 {
            let seen = slot.seen.load(Ordering::Relaxed);
            slot.seen.store(seen.saturating_add(1), Ordering::Relaxed);
        }
        let subject = Subject {
            domain,
            rule,
            entries: &request.descriptors[spoken.descriptor].entries,
        };
        let print = subject.print(self.secret);
        let hits = hits.thousandths().saturating_mul(weight);
        tally.hits.add(print, hits, |name| subject.write(name));
        if spoken.code() == Code::OverLimit {
            tally.refused.add(print, hits, |name| subject.write(name));
        }
    }

    /// A slot for a rule: the one that it has had, else a free one, if any.
    fn claim(&self, rule: &Rule, place: &AtomicU16) -> u16 {
        let Some(mut owners) = self.owners.try_lock() else {
            return NOWHERE;
        };
        let name = (Arc::clone(&rule.domain), Arc::clone(&rule.name));
        let at = match owners.get(&name) {
            Some(at) => *at,
            None => {
                let free = self.slots.iter().position(|slot| {
                    let tally = slot.tally.try_lock();
                    let free = tally.filter(|tally| tally.owner.is_none());
                    free.map(|mut tally| tally.owner = Some(name.clone()))
                        .is_some()
                });
                let at = free.and_then(|at| u16::try_from(at).ok());
                let Some(at) = at else {
                    self.wanted.store(true, Ordering::Relaxed);
                    return NOWHERE;
                };
                owners.insert(name, at);
                at
            }
        };
        place.store(at, Ordering::Relaxed);
        at
    }

    /// Ends the slices that are over; to be called now and then.
    pub fn turn(&self, now: Timestamp) {
        let slice = slice_of(now);
        let mut owners = self.owners.lock();
        let mut busy: Vec<(u64, u16)> = Vec::with_capacity(owners.len());
        let mut turned = false;
        for at in owners.values().copied() {
            let slot = &self.slots[usize::from(at)];
            let mut tally = slot.tally.lock();
            if tally.slice == 0 {
                // It was claimed since the last look.
                tally.slice = slice;
            }
            if tally.slice != slice {
                tally.turn(slice);
                slot.seen.store(0, Ordering::Relaxed);
                turned = true;
            }
            let hits = tally.past.iter().map(|past| past.hits.total).sum();
            busy.push((hits, at));
        }
        if !turned {
            return;
        }
        busy.sort_unstable();
        let idle = busy.iter().filter(|(hits, _)| *hits == 0).count();
        let leaving = match self.wanted.swap(false, Ordering::Relaxed) {
            true => idle.max(MAKE_WAY),
            false => idle,
        };
        for (_, at) in busy.into_iter().take(leaving) {
            // What is there of it is forgotten; whoever comes with its old place finds that it is no longer its own.
            let mut tally = self.slots[usize::from(at)].tally.lock();
            *tally = Tally::default();
            owners.retain(|_, owned| *owned != at);
        }
    }

    /// Of each rule those who ask most, here, in the last slices and the one that goes on.
    pub(super) fn here(&self, now: Timestamp, by: By, slices: usize) -> BTreeMap<Name, Summary> {
        let from = slice_of(now) - i64::try_from(slices).unwrap_or(i64::MAX);
        let owners = self.owners.lock().clone();
        let mut found = BTreeMap::new();
        for (name, at) in owners {
            // Meanwhile nobody counts: no longer than it takes to copy.
            let parts = self.slots[usize::from(at)].tally.lock().parts(by, from);
            let summary = Summary::merged(&parts).truncated(KEPT);
            if !summary.is_empty() {
                found.insert(name, summary);
            }
        }
        found
    }
}

impl Tally {
    fn is_of(&self, rule: &Rule) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|(domain, name)| *domain == rule.domain && *name == rule.name)
    }

    /// Ends the slice that goes on.
    fn turn(&mut self, slice: i64) {
        if self.hits.total() > 0 {
            let (hits, refused) = (self.hits.summary(KEPT), self.refused.summary(KEPT));
            self.past.push_back(Past {
                slice: self.slice,
                hits,
                refused,
            });
        }
        self.hits.clear();
        self.refused.clear();
        self.slice = slice;
        let oldest = slice - i64::try_from(SLICES).unwrap_or(i64::MAX);
        self.past.retain(|past| past.slice >= oldest);
    }

    /// What was counted since the slice `from`.
    fn parts(&self, by: By, from: i64) -> Vec<Summary> {
        let now = match by {
            By::Hits => &self.hits,
            By::Refused => &self.refused,
        };
        let past = self.past.iter().filter(|past| past.slice >= from);
        let past = past.map(|past| match by {
            By::Hits => past.hits.clone(),
            By::Refused => past.refused.clone(),
        });
        past.chain([now.summary(sketch::CAPACITY)]).collect()
    }
}

/// The slice that a moment lies in, counted from the epoch.
fn slice_of(at: Timestamp) -> i64 {
    at.floor_to(SLICE).as_micros() / i64::try_from(SLICE.get()).unwrap_or(i64::MAX)
}

fn is_sampled() -> bool {
    DICE.with(|dice| {
        // Knuth's constants of MMIX.
        let next = dice
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        dice.set(next);
        next >> (u64::BITS - SAMPLED.ilog2()) == 0
    })
}

/// Who asks: the entries of a descriptor that its rule leaves open, or all if it leaves none.
pub(super) struct Subject<'a> {
    pub(super) domain: &'a Domain,
    pub(super) rule: &'a Rule,
    pub(super) entries: &'a [Entry<'a>],
}

impl Subject<'_> {
    fn open(&self) -> impl Iterator<Item = usize> {
        let levels = &self.rule.levels;
        let is_open = move |place: &usize| {
            let level = levels.get(*place);
            level.is_none_or(|level| *level.value != *self.entries[*place].value)
        };
        let all = self.entries.len();
        let none = !(0..all).any(|place| is_open(&place));
        (0..all).filter(move |place| none || is_open(place))
    }

    /// Tells it from others, with a secret so that nobody can choose two that are taken for one.
    pub(super) fn print(&self, (one, other): (u64, u64)) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(one, other);
        for place in self.open() {
            let Entry { key, value } = self.entries[place];
            (place, key, value).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// As keys have it: what is sensitive, or long, is hashed.
    pub(super) fn write(&self, to: &mut String) {
        for place in self.open() {
            key::entry(to, self.domain, self.entries, place, None);
        }
        if to.len() > MAX_SUBJECT {
            let whole = std::mem::take(to);
            key::hashed(to, self.domain, "", &whole);
        } else if !to.is_empty() {
            // Each entry begins with the mark that stands between two.
            to.remove(0);
        }
    }
}
