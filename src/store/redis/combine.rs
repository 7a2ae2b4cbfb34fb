//! Hot keys: while a call for a key is under way, those that come after it wait together and go as one.
//!
//! The one call charges as many of them as there is room for, in the order in which they came, and answers with what stood under the
//! key before; each of them reads its own outcome off that. Requests for keys that nobody waits for go at once, and pay only for
//! the look. Where several came at a time not long ago, the first one waits as well, until all that have come with it have had
//! their turn of the runtime: they are one call, not two. Keys share a place by their hash: two that meet there wait for each other, no more.
//!
//! Who waits has no timer of its own: whoever goes for it looks at the time. A call ends by the deadline of the last that it is made for,
//! so that of those who come meanwhile only who brings a shorter one must look for itself.
//!
//! Where the limits of a key have a [`lease`](super::lease), and it was asked for shortly before, a call charges more requests than wait, and those that
//! come next take their turns from what is left over, without a call. Such a call is made by a task of its own, so that
//! nothing is lost if nobody waits for it any longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tracing::Span;

use super::Link;
use super::connected::Home;
use super::lease::Terms;
use super::lease::held::{Held, Lease};
use super::refusals::Heard;
use super::request::Packed;
use super::within::Within;
use crate::limit::transaction::Record;
use crate::limit::{Durability, Hits};
use crate::store::StoreError;
use crate::time::Timestamp;

mod sending;

/// How many places there are; a power of two.
const PLACES: usize = 4096;

/// How many times the first one waits for others after several have come for a key at a time. Waiting in vain costs far less than
/// the call that is spared where others come, so that they have come is remembered for longer than once.
const HEAT: u8 = 4;

/// How many may wait at one place.
const MOST_WAITING: usize = 4096;

/// Equal requests in a row: how many, and the hits of each.
pub(super) type Runs = SmallVec<[(u16, Hits); 1]>;

/// The keys with a call under way.
#[derive(Debug)]
pub(super) struct Hot {
    places: Box<[Mutex<Place>]>,
    combined: AtomicU64,
    leased: AtomicU64,
    /// How many batches there have been.
    batches: AtomicU64,
}

#[derive(Debug, Default)]
struct Place {
    is_busy: bool,
    /// So many more times the first one waits for others.
    heat: u8,
    /// When the call under way is over.
    until: Option<Instant>,
    /// Those that wait; nearly always one group.
    groups: Vec<Group>,
    /// How many they are.
    waiting: usize,
    /// How many they were when they were sent the last time.
    crowd: usize,
    held: Held,
}

/// Requests that can go as one call.
#[derive(Debug)]
struct Group {
    /// What they ask, their hits apart.
    asked: Asking,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    hits: Hits,
    /// None once it has been told.
    turn: Option<oneshot::Sender<Told>>,
    /// When it gives up.
    deadline: Instant,
    /// Of its transaction; none if it is not traced.
    span: Span,
}

/// One demand on one key, with whatever hits.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) home: Home,
    pub(super) key: Bytes,
    /// The packed demand, its hits left out: those that are equal can go together.
    pub(super) demand: Bytes,
    pub(super) durability: Durability,
    /// [`print()`] of the key.
    pub(super) print: u64,
    /// What may be taken in advance, if anything.
    pub(super) terms: Option<Box<Terms>>,
}

/// The same of a request that may have to wait, its demand not packed yet.
pub(super) struct Coming<'a> {
    pub(super) home: Home,
    pub(super) key: &'a [u8],
    pub(super) durability: Durability,
    pub(super) hits: Hits,
    /// [`print()`] of the key.
    pub(super) print: u64,
    /// What may be taken in advance, if anything.
    pub(super) terms: Option<Box<Terms>>,
}

/// What a request asks, to compare it with what others did.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) key: &'a [u8],
    pub(super) demand: &'a [u8],
    pub(super) durability: Durability,
    pub(super) hits: Hits,
    /// [`print()`] of the key.
    pub(super) print: u64,
}

impl Asking {
    /// Whether it is the same but for the hits.
    pub(super) fn is(&self, claim: &Claim<'_>) -> bool {
        self.print == claim.print
            && self.key == claim.key
            && self.demand == claim.demand
            && self.durability == claim.durability
    }

    /// The same with these hits.
    pub(super) fn with(&self, hits: Hits) -> Claim<'_> {
        Claim {
            key: &self.key,
            demand: &self.demand,
            durability: self.durability,
            hits,
            print: self.print,
        }
    }
}

impl Coming<'_> {
    fn with<'c>(&'c self, demand: &'c [u8]) -> Claim<'c> {
        Claim {
            key: self.key,
            demand,
            durability: self.durability,
            hits: self.hits,
            print: self.print,
        }
    }
}

/// What a request reads its outcome off that made no call of its own.
#[derive(Debug)]
pub(super) struct Read {
    /// What stood under the key.
    pub(super) record: Arc<Record>,
    pub(super) heard: Heard,
    /// Who came before.
    pub(super) before: Runs,
    /// The time of Redis: that of the call, or later if it was charged in advance.
    pub(super) now: Timestamp,
    /// What a trace says of it, unless the call was made for it alone: see [`served_from`](crate::telemetry::tracing::served_from).
    pub(super) served_from: Option<&'static str>,
}

/// What becomes of a request that waited.
#[derive(Debug)]
pub(super) enum Turn {
    /// It has been charged if there was room.
    Read(Read),
    /// It must ask for itself.
    Alone,
}

/// How a request may go on.
pub(super) enum Entered {
    /// At once, alone.
    Alone(Leading),
    /// It was charged in advance.
    Leased(Read),
    /// It waits for its turn.
    Waits(Waits),
    /// Too many wait already.
    Full,
}

/// What who waits is told.
type Told = Result<Turn, StoreError>;

/// The wait for a turn.
pub(super) struct Waits {
    turn: oneshot::Receiver<Told>,
    /// When to give up, if who goes for it may not look at the time by then.
    gives_up: Option<Instant>,
}

/// The call under way at a place: when it ends, however it does, those that wait go.
pub(super) struct Leading {
    link: Arc<Link>,
    place: usize,
    /// It sends those that wait; should it be dropped midway, its runtime is ending.
    is_sending: bool,
    /// Before that it lets those come that are on their way.
    gathers: bool,
    /// [`print()`] of the key whose request went alone, if one did.
    alone: Option<u64>,
}

impl Hot {
    pub(super) fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
            combined: AtomicU64::new(0),
            leased: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// How many requests have gone together with others.
    pub(super) fn combined(&self) -> u64 {
        self.combined.load(Ordering::Relaxed)
    }

    /// How many requests were charged in advance.
    pub(super) fn leased(&self) -> u64 {
        self.leased.load(Ordering::Relaxed)
    }

    /// Remembers that the key of this print was asked for, and has `room` left.
    pub(super) fn note(&self, print: u64, room: Hits) {
        let mut place = self.places[place(print)].lock();
        place.held.note(print, room, Instant::now());
    }

    /// Ends the batch of this number.
    pub(super) fn end(&self, place: usize, id: u64) -> Option<Lease> {
        self.places[place].lock().held.end(id)
    }

    /// Ends the batch of this key.
    pub(super) fn end_of(&self, key: &[u8]) -> Option<Lease> {
        self.places[place(print(key))].lock().held.end_of(key)
    }

    /// The key's batch is here, or what was left over of it is back.
    pub(super) fn has_arrived(&self, print: u64) {
        self.places[place(print)].lock().held.has_arrived(print);
    }

    /// Ends all batches.
    pub(super) fn end_all(&self) -> Vec<Lease> {
        let places = self.places.iter();
        places
            .flat_map(|place| place.lock().held.end_all())
            .collect()
    }
}

/// A hash of a key, eight bytes at a time. Spread well enough, and fast: whoever aims at one place only makes their own requests go together.
pub(super) fn print(key: &[u8]) -> u64 {
    // The multiplier of MurmurHash64A by A. Appleby; of each product both halves count.
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * 0xc6a4_a793_5bd1_e995;
        (product >> 64) as u64 ^ product as u64
    };
    let (words, rest) = key.as_chunks::<8>();
    let hash = words.iter().fold(key.len() as u64, |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    let mut last = [0xff; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

fn place(print: u64) -> usize {
    (print ^ print >> 32) as usize % PLACES
}

/// Lets a request go, or wait `within` its time; `pack` packs its demand, if it comes to that. `span` is that of its transaction.
pub(super) fn enter(
    link: &Arc<Link>,
    coming: Coming<'_>,
    (within, span): (Within, &Span),
    pack: impl Fn() -> Packed,
) -> Entered {
    let index = place(coming.print);
    let packed = coming.terms.is_some().then(&pack);
    let mut place = link.hot.places[index].lock();
    let mut takes_more = false;
    if let (Some(packed), Some(terms)) = (&packed, &coming.terms) {
        let (now, claim) = (Instant::now(), coming.with(packed));
        if let Some(read) = place.held.take(&claim, link.refusals.era(), now) {
            link.hot.leased.fetch_add(1, Ordering::Relaxed);
            return Entered::Leased(read);
        }
        takes_more = place.held.batch(claim.print, terms, now) > 0;
    }
    let is_first = !std::mem::replace(&mut place.is_busy, true);
    if is_first {
        place.until = Some(within.deadline);
    }
    let is_hot = place.heat > 0;
    let leading = |alone| Leading {
        link: Arc::clone(link),
        place: index,
        is_sending: false,
        gathers: is_hot,
        alone,
    };
    if is_first && !takes_more && !is_hot {
        return Entered::Alone(leading(Some(coming.print)));
    }
    if place.waiting >= MOST_WAITING {
        return Entered::Full;
    }
    let (turn, turns) = oneshot::channel();
    let is_shorter = place.until.is_some_and(|until| within.deadline < until);
    let waiting = Waiting {
        hits: coming.hits,
        turn: Some(turn),
        deadline: within.deadline,
        span: span.clone(),
    };
    place.join(coming, &packed.unwrap_or_else(pack), waiting);
    drop(place);
    if is_first {
        // A call that has ended sends those that wait, in a task that comes after those that are ready.
        drop(leading(None));
    }
    Entered::Waits(Waits {
        turn: turns,
        gives_up: is_shorter.then_some(within.deadline),
    })
}

impl Place {
    /// Lets a request wait with those that ask the same.
    fn join(&mut self, coming: Coming<'_>, demand: &[u8], waiting: Waiting) {
        self.waiting += 1;
        let claim = coming.with(demand);
        if let Some(group) = self.groups.iter_mut().find(|group| group.asked.is(&claim)) {
            group.waiting.push(waiting);
            // What the last one would take in advance counts.
            if coming.terms.is_some() {
                group.asked.terms = coming.terms;
            }
            return;
        }
        // The first group is likely as large as the last time.
        let room = if self.groups.is_empty() {
            self.crowd
        } else {
            1
        };
        let mut together = Vec::with_capacity(room);
        together.push(waiting);
        self.groups.push(Group {
            asked: Asking {
                home: coming.home,
                key: Bytes::copy_from_slice(coming.key),
                demand: Bytes::copy_from_slice(demand),
                durability: coming.durability,
                print: coming.print,
                terms: coming.terms,
            },
            waiting: together,
        });
    }

    /// Those that wait; from now on nobody does.
    fn take(&mut self) -> Vec<Group> {
        self.waiting = 0;
        std::mem::take(&mut self.groups)
    }
}

impl Waits {
    /// What it is told, at its deadline the latest.
    pub(super) async fn turn(self) -> Told {
        let turn = match self.gives_up {
            None => self.turn.await,
            Some(deadline) => {
                let in_time = Box::pin(timeout_at(deadline.into(), self.turn)).await;
                in_time.map_err(|_| StoreError::Timeout)?
            }
        };
        // Who was to tell it has ended with its runtime.
        turn.unwrap_or(Err(StoreError::Timeout))
    }
}

impl Waiting {
    /// Tells it, once. It may have given up.
    fn tell(&mut self, told: Told) {
        if let Some(turn) = self.turn.take() {
            let _ = turn.send(told);
        }
    }

    fn has_given_up(&self) -> bool {
        self.turn.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        let mut place = self.link.hot.places[self.place].lock();
        match tokio::runtime::Handle::try_current() {
            _ if place.waiting == 0 => place.is_busy = false,
            Ok(runtime) if !self.is_sending => {
                drop(place);
                let next = Leading {
                    link: Arc::clone(&self.link),
                    place: self.place,
                    is_sending: true,
                    gathers: self.gathers,
                    alone: self.alone,
                };
                runtime.spawn(next.send_all());
            }
            // The runtime is ending, and those that wait may be on others.
            Ok(_) | Err(_) => {
                place.is_busy = false;
                let waiting = place.take().into_iter().flat_map(|group| group.waiting);
                waiting.for_each(|mut waiting| waiting.tell(Ok(Turn::Alone)));
            }
        }
    }
}

/// Adds `many` requests.
pub(super) fn extend(runs: &mut Runs, many: u16, hits: Hits) {
    match runs.last_mut() {
        Some((before, of)) if *of == hits && *before <= u16::MAX - many => *before += many,
        _ if many == 0 => {}
        _ => runs.push((many, hits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_place() {
        let used: std::collections::HashSet<usize> = (0..20_000_u32)
            .map(|n| place(print(&n.to_le_bytes())))
            .collect();
        assert!(used.iter().all(|place| *place < PLACES));
        assert!(used.len() > PLACES / 2, "{}", used.len());
    }
}
