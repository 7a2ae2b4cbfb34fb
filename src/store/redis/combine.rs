//! Hot keys: while a call for a key is under way, those that come after it wait together and go as one.
//!
//! The one call charges as many of them as there is room for, in the order in which they came, and answers with what stood under the
//! key before; each of them reads its own outcome off that. Requests for keys that nobody waits for go at once, and pay only for
//! the look. Keys share a place by their hash: two that meet there wait for each other, no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Link;
use super::node::Call;
use super::refusals::Heard;
use super::reply::Reply;
use super::{request, script};
use crate::limit::Hits;
use crate::store::StoreError;

/// How many places there are; a power of two.
const PLACES: usize = 4096;

/// How many may wait at one place.
const MOST_WAITING: usize = 4096;

/// Equal requests in a row: how many, and the hits of each.
pub(super) type Runs = SmallVec<[(u16, Hits); 1]>;

/// The keys with a call under way.
#[derive(Debug)]
pub(super) struct Hot {
    places: Box<[Mutex<Place>]>,
    combined: AtomicU64,
}

#[derive(Debug, Default)]
struct Place {
    is_busy: bool,
    waiting: Vec<Waiting>,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    asked: Asking,
    turn: oneshot::Sender<Result<Turn, StoreError>>,
}

/// One demand on one key.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) slot: u16,
    pub(super) key: Bytes,
    /// The packed demand, its hits left out: those that are equal can go together.
    pub(super) demand: Bytes,
    pub(super) hits: Hits,
}

/// What a request that waited reads its outcome off.
#[derive(Debug)]
pub(super) enum Turn {
    /// What stood under the key, and who came before.
    Read {
        value: Bytes,
        heard: Heard,
        before: Runs,
    },
    /// It must ask for itself.
    Alone,
}

/// How a request may go on.
pub(super) enum Entered {
    /// At once, alone.
    Alone(Leading),
    /// It waits for its turn.
    Waits(oneshot::Receiver<Result<Turn, StoreError>>),
    /// Too many wait already.
    Full,
}

/// The call under way at a place: when it ends, however it does, those that wait go.
pub(super) struct Leading {
    link: Arc<Link>,
    place: usize,
    /// It sends those that wait; should it be dropped midway, its runtime is ending.
    is_sending: bool,
}

impl Hot {
    pub(super) fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
            combined: AtomicU64::new(0),
        }
    }

    /// How many requests have gone together with others.
    pub(super) fn combined(&self) -> u64 {
        self.combined.load(Ordering::Relaxed)
    }

    fn place(&self, key: &[u8]) -> usize {
        // Spread well enough, and fast: whoever aims at one place only makes their own requests go together.
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ hash >> 32) as usize % PLACES
    }
}

/// Lets a request go, or wait; `ask` makes of it what waits.
pub(super) fn enter(link: &Arc<Link>, key: &[u8], ask: impl FnOnce() -> Asking) -> Entered {
    let index = link.hot.place(key);
    let mut place = link.hot.places[index].lock();
    if !place.is_busy {
        place.is_busy = true;
        return Entered::Alone(Leading {
            link: Arc::clone(link),
            place: index,
            is_sending: false,
        });
    }
    if place.waiting.len() >= MOST_WAITING {
        return Entered::Full;
    }
    let (turn, turns) = oneshot::channel();
    let asked = ask();
    place.waiting.push(Waiting { asked, turn });
    Entered::Waits(turns)
}

impl Drop for Leading {
    fn drop(&mut self) {
        let mut place = self.link.hot.places[self.place].lock();
        match tokio::runtime::Handle::try_current() {
            _ if place.waiting.is_empty() => place.is_busy = false,
            Ok(runtime) if !self.is_sending => {
                drop(place);
                let next = Leading {
                    link: Arc::clone(&self.link),
                    place: self.place,
                    is_sending: true,
                };
                runtime.spawn(next.send_all());
            }
            // The runtime is ending, and those that wait may be on others.
            Ok(_) | Err(_) => {
                for waiting in std::mem::take(&mut *place).waiting {
                    let _ = waiting.turn.send(Ok(Turn::Alone));
                }
            }
        }
    }
}

impl Leading {
    /// Sends those that wait, and those that come meanwhile after them, until nobody waits.
    async fn send_all(mut self) {
        loop {
            let waiting = std::mem::take(&mut self.link.hot.places[self.place].lock().waiting);
            if waiting.is_empty() {
                // Whoever has come since is found when this is dropped.
                self.is_sending = false;
                return;
            }
            let sending = groups(waiting).into_iter();
            join_all(sending.map(|group| send(&self.link, group))).await;
        }
    }
}

/// Those that can go together. Who has given up is left out, and not charged.
fn groups(waiting: Vec<Waiting>) -> SmallVec<[Vec<Waiting>; 1]> {
    let mut groups: SmallVec<[Vec<Waiting>; 1]> = SmallVec::new();
    for one in waiting.into_iter().filter(|one| !one.turn.is_closed()) {
        let same = |group: &&mut Vec<Waiting>| {
            let first = group.first().map(|first| &first.asked);
            first
                .is_some_and(|first| first.key == one.asked.key && first.demand == one.asked.demand)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// Sends requests for one key that differ only in their hits, and tells each what it needs.
async fn send(link: &Link, group: Vec<Waiting>) {
    let mut runs = Runs::new();
    for waiting in &group {
        extend(&mut runs, waiting.asked.hits);
    }
    let Some(Asking {
        slot, key, demand, ..
    }) = group.first().map(|first| &first.asked)
    else {
        return;
    };
    let call = Call {
        script: &script::DECIDE,
        keys: vec![key.clone()],
        body: request::together(demand, &runs),
    };
    let asked = Instant::now();
    let answer = link.run(*slot, &call, link.timeout).await;
    let read = answer.map(|answer| match Reply::parse(answer) {
        Some(Reply::Before(at, values)) => values.into_iter().next().map(|value| (at, value)),
        // Calendar borders that have been passed, or a value of somebody else's: nothing was written.
        Some(Reply::Retime(_) | Reply::Foreign(_) | Reply::Done(_)) | None => None,
    });
    let heard = Instant::now();
    let count = group.len() as u64;
    link.hot.combined.fetch_add(count, Ordering::Relaxed);
    let mut before = Runs::new();
    for waiting in group {
        let turn = match &read {
            Ok(Some((at, value))) => Ok(Turn::Read {
                value: value.clone(),
                heard: Heard {
                    at: *at,
                    asked,
                    heard,
                },
                before: before.clone(),
            }),
            Ok(None) => Ok(Turn::Alone),
            Err(error) => Err(error.clone()),
        };
        extend(&mut before, waiting.asked.hits);
        // Who has given up meanwhile has been charged.
        let _ = waiting.turn.send(turn);
    }
}

fn extend(runs: &mut Runs, hits: Hits) {
    match runs.last_mut() {
        Some((many, of)) if *of == hits && *many < u16::MAX => *many += 1,
        _ => runs.push((1, hits)),
    }
}
