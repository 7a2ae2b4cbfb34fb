//! Hot keys: while a call for a key is under way, those that come after it wait together and go as one.
//!
//! The one call charges as many of them as there is room for, in the order in which they came, and answers with what stood under the
//! key before; each of them reads its own outcome off that. Requests for keys that nobody waits for go at once, and pay only for
//! the look. Where several came at a time not long ago, the first one waits as well, until all that have come with it have had
//! their turn of the runtime: they are one call, not two. Keys share a place by their hash: two that meet there wait for each other, no more.
//!
//! Where the limits of a key have a [`lease`](super::lease), and it was asked for shortly before, a call charges more requests than wait, and those that
//! come next take their turns from what is left over, without a call. Such a call is made by a task of its own, so that
//! nothing is lost if nobody waits for it any longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use super::Link;
use super::connected::Home;
use super::lease::held::{Held, Lease};
use super::lease::returns;
use super::lease::{Stock, Terms};
use super::node::Call;
use super::refusals::Heard;
use super::reply::Reply;
use super::within::Within;
use super::{request, script, value};
use crate::limit::{Durability, Hits};
use crate::store::StoreError;
use crate::telemetry::tracing as spans;
use crate::time::Timestamp;

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
    waiting: Vec<Waiting>,
    held: Held,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    asked: Asking,
    turn: oneshot::Sender<Result<Turn, StoreError>>,
    /// Of its transaction; none if it is not traced.
    span: Span,
}

/// One demand on one key.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) home: Home,
    pub(super) key: Bytes,
    /// The packed demand, its hits left out: those that are equal can go together.
    pub(super) demand: Bytes,
    pub(super) durability: Durability,
    pub(super) hits: Hits,
    /// [`print()`] of the key.
    pub(super) print: u64,
    /// What may be taken in advance, if anything.
    pub(super) terms: Option<Terms>,
}

impl Asking {
    fn goes_with(&self, other: &Self) -> bool {
        self.key == other.key && self.demand == other.demand && self.durability == other.durability
    }
}

/// What a request reads its outcome off that made no call of its own.
#[derive(Debug)]
pub(super) struct Read {
    /// What stood under the key.
    pub(super) value: Bytes,
    pub(super) heard: Heard,
    /// Who came before.
    pub(super) before: Runs,
    /// The time of Redis: that of the call, or later if it was charged in advance.
    pub(super) now: Timestamp,
    /// What a trace says of it, unless the call was made for it alone: see [`spans::served_from`].
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

/// A hash of a key. Spread well enough, and fast: whoever aims at one place only makes their own requests go together.
pub(super) fn print(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn place(print: u64) -> usize {
    (print ^ print >> 32) as usize % PLACES
}

/// Lets a request go, or wait; `ask` makes of it what waits, given another that does, and `may_lease` tells whether it may be charged in
/// advance.
pub(super) fn enter(
    link: &Arc<Link>,
    print: u64,
    may_lease: bool,
    ask: impl Fn(Option<&Asking>) -> Asking,
) -> Entered {
    let index = place(print);
    let asked = may_lease.then(|| ask(None));
    let mut place = link.hot.places[index].lock();
    let mut takes_more = false;
    if let Some(asked) = &asked {
        let now = Instant::now();
        if let Some(read) = place.held.take(asked, link.refusals.era(), now) {
            link.hot.leased.fetch_add(1, Ordering::Relaxed);
            return Entered::Leased(read);
        }
        takes_more = place.held.batch(asked, now) > 0;
    }
    let is_first = !std::mem::replace(&mut place.is_busy, true);
    let is_hot = place.heat > 0;
    let leading = |alone| Leading {
        link: Arc::clone(link),
        place: index,
        is_sending: false,
        gathers: is_hot,
        alone,
    };
    if is_first && !takes_more && !is_hot {
        return Entered::Alone(leading(Some(print)));
    }
    if place.waiting.len() >= MOST_WAITING {
        return Entered::Full;
    }
    let (turn, turns) = oneshot::channel();
    let asked = asked.unwrap_or_else(|| ask(place.waiting.last().map(|last| &last.asked)));
    let span = spans::current();
    place.waiting.push(Waiting { asked, turn, span });
    drop(place);
    if is_first {
        // A call that has ended sends those that wait, in a task that comes after those that are ready.
        drop(leading(None));
    }
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
                    gathers: self.gathers,
                    alone: self.alone,
                };
                runtime.spawn(next.send_all());
            }
            // The runtime is ending, and those that wait may be on others.
            Ok(_) | Err(_) => {
                place.is_busy = false;
                for waiting in std::mem::take(&mut place.waiting) {
                    let _ = waiting.turn.send(Ok(Turn::Alone));
                }
            }
        }
    }
}

impl Leading {
    /// Sends those that wait, and those that come meanwhile after them, until nobody waits.
    async fn send_all(mut self) {
        if self.gathers {
            // Once more round the runtime's loop: what the sockets have brought meanwhile goes along.
            tokio::task::yield_now().await;
        }
        let mut came = 0;
        loop {
            let waiting = {
                let mut place = self.link.hot.places[self.place].lock();
                if place.waiting.is_empty() {
                    let cooler = place.heat.saturating_sub(1);
                    place.heat = if came > 1 { HEAT } else { cooler };
                }
                std::mem::take(&mut place.waiting)
            };
            if let Some(print) = self.alone.take() {
                // It counts among those that wait for its key, not among those that only meet it here.
                came = usize::from(waiting.iter().any(|one| one.asked.print == print));
            }
            if waiting.is_empty() {
                // Whoever has come since is found when this is dropped.
                self.is_sending = false;
                return;
            }
            came += waiting.len();
            let sending = groups(waiting).into_iter();
            join_all(sending.map(|group| send(&self.link, self.place, group))).await;
        }
    }
}

/// Those that can go together. Who has given up is left out, and not charged.
fn groups(mut waiting: Vec<Waiting>) -> SmallVec<[Vec<Waiting>; 1]> {
    waiting.retain(|one| !one.turn.is_closed());
    // Nearly always they are one, and stay where they are, as they are large.
    if let Some((first, others)) = waiting.split_first()
        && others.iter().all(|one| first.asked.goes_with(&one.asked))
    {
        return smallvec![waiting];
    }
    let mut groups: SmallVec<[Vec<Waiting>; 1]> = SmallVec::new();
    for one in waiting {
        let same = |group: &&mut Vec<Waiting>| {
            let first = group.first().map(|first| &first.asked);
            first.is_some_and(|first| first.goes_with(&one.asked))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// Sends requests for one key that differ only in their hits, and tells each what it needs.
async fn send(link: &Arc<Link>, place: usize, group: Vec<Waiting>) {
    let (group, batch) = take_leased(link, place, group);
    let Some(Asking {
        home,
        key,
        demand,
        durability,
        hits,
        ..
    }) = group.last().map(|last| &last.asked)
    else {
        return;
    };
    let mut runs = Runs::new();
    for waiting in &group {
        extend(&mut runs, 1, waiting.asked.hits);
    }
    let waiting = runs.clone();
    extend(&mut runs, batch, *hits);
    let call = Call {
        script: &script::DECIDE,
        keys: &[key],
        body: &request::together(demand, &runs),
        durability: *durability,
    };
    let era = link.refusals.era();
    let within = Within::from_now(link.timeout);
    let mut traced = group.iter().map(|waiting| &waiting.span);
    let span = traced.find(|span| !span.is_none()).cloned();
    let answer = link.run(*home, &call, within);
    let answer = answer.instrument(span.unwrap_or_else(Span::none)).await;
    let read = answer.map(|answer| match Reply::parse(answer) {
        Some(Reply::Before(at, values)) => values.into_iter().next().map(|value| (at, value)),
        // Calendar borders that have been passed, or a value of somebody else's: nothing was written.
        Some(Reply::Retime(_) | Reply::Foreign(_) | Reply::Done(_)) | None => None,
    });
    let (asked, heard) = (within.begun, Instant::now());
    let read = read.map(|read| read.map(|(at, value)| (Heard { at, asked, heard }, value)));
    if let (Ok(Some((heard, value))), Some(last)) = (&read, group.last()) {
        let said = (*heard, value, era);
        hold(link, place, &last.asked, said, (waiting, batch));
    }
    let count = group.len() as u64;
    if count > 1 {
        link.hot.combined.fetch_add(count, Ordering::Relaxed);
    }
    let mut before = Runs::new();
    for waiting in group {
        let turn = match &read {
            Ok(Some((heard, value))) => Ok(Turn::Read(Read {
                value: value.clone(),
                heard: *heard,
                before: before.clone(),
                now: heard.at,
                served_from: (count > 1).then_some("combined"),
            })),
            Ok(None) => Ok(Turn::Alone),
            Err(error) => Err(error.clone()),
        };
        extend(&mut before, 1, waiting.asked.hits);
        // Who has given up meanwhile has been charged.
        let _ = waiting.turn.send(turn);
    }
}

/// Tells those their turn who were charged in advance. The rest, and how many more to charge with them.
fn take_leased(link: &Link, place: usize, group: Vec<Waiting>) -> (Vec<Waiting>, u16) {
    if !group.iter().any(|waiting| waiting.asked.terms.is_some()) {
        return (group, 0);
    }
    let (now, era) = (Instant::now(), link.refusals.era());
    let mut rest = Vec::with_capacity(group.len());
    let held = &mut link.hot.places[place].lock().held;
    for waiting in group {
        match held.take(&waiting.asked, era, now) {
            Some(read) => {
                link.hot.leased.fetch_add(1, Ordering::Relaxed);
                let _ = waiting.turn.send(Ok(Turn::Read(read)));
            }
            None => rest.push(waiting),
        }
    }
    let batch = rest.last().map_or(0, |last| held.begin(&last.asked, now));
    (rest, batch)
}

/// Holds what a call has charged beyond those who waited, and remembers what is left.
fn hold(
    link: &Arc<Link>,
    place: usize,
    asked: &Asking,
    (heard, value, era): (Heard, &Bytes, u64),
    (before, batch): (Runs, u16),
) {
    let (Some(terms), Some(record)) = (asked.terms.clone(), value::decode(value.clone())) else {
        return;
    };
    let (stock, room) = Stock::new(terms, record, heard.at, &before, batch);
    let is_empty = stock.is_used_up();
    let id = link.hot.batches.fetch_add(1, Ordering::Relaxed);
    let lease = Lease {
        id,
        home: asked.home,
        print: asked.print,
        key: asked.key.clone(),
        demand: asked.demand.clone(),
        durability: asked.durability,
        value: value.clone(),
        heard,
        before,
        stock,
        era,
    };
    let mut place_held = link.hot.places[place].lock();
    place_held.held.note(asked.print, room, heard.heard);
    if is_empty {
        // Unless another batch of the key is under way.
        if batch > 0 {
            place_held.held.has_arrived(asked.print);
        }
        return;
    }
    let homeless = place_held.held.put(lease);
    drop(place_held);
    match homeless {
        None => returns::later(link, place, id, heard.heard),
        Some(lease) => {
            let link = Arc::clone(link);
            tokio::spawn(async move { returns::give_back(&link, &lease, &[]).await });
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

    fn waiting(key: &'static str, demand: &'static str) -> (Waiting, impl Sized) {
        let (turn, turns) = oneshot::channel();
        let asked = Asking {
            home: Home::default(),
            key: Bytes::from_static(key.as_bytes()),
            demand: Bytes::from_static(demand.as_bytes()),
            durability: Durability::Usual,
            hits: Hits::ONE,
            print: print(key.as_bytes()),
            terms: None,
        };
        let span = Span::none();
        (Waiting { asked, turn, span }, turns)
    }

    /// Keys share a place, and their requests do not share a call; nor is one sent that nobody waits for.
    #[test]
    fn those_that_ask_the_same_of_a_key_go_together_and_who_has_given_up_does_not() {
        let all = [
            ("a", "x"),
            ("b", "x"),
            ("a", "y"),
            ("a", "x"),
            ("b", "x"),
            ("c", "x"),
        ];
        let (waiting, mut turns): (Vec<_>, Vec<_>) = all
            .map(|(key, demand)| waiting(key, demand))
            .into_iter()
            .unzip();
        turns.truncate(4);
        let groups = groups(waiting);
        let told = |group: &Vec<Waiting>| {
            let keys = group
                .iter()
                .map(|one| (one.asked.key.clone(), one.asked.demand.clone()));
            keys.collect::<Vec<_>>()
        };
        let told: Vec<_> = groups.iter().map(told).collect();
        let pair =
            |key: &'static str, demand: &'static str| (Bytes::from(key), Bytes::from(demand));
        assert_eq!(
            told,
            [
                vec![pair("a", "x"), pair("a", "x")],
                vec![pair("b", "x")],
                vec![pair("a", "y")]
            ]
        );
    }

    #[test]
    fn what_replicas_confirm_goes_by_itself() {
        let (usual, _usual) = waiting("a", "x");
        let (mut replicated, _replicated) = waiting("a", "x");
        replicated.asked.durability = Durability::Replicated;
        assert_eq!(groups(vec![usual, replicated]).len(), 2);
    }

    #[test]
    fn every_key_has_a_place() {
        let used: std::collections::HashSet<usize> = (0..20_000_u32)
            .map(|n| place(print(&n.to_le_bytes())))
            .collect();
        assert!(used.iter().all(|place| *place < PLACES));
        assert!(used.len() > PLACES / 2, "{}", used.len());
    }
}
