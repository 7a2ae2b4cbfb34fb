//! What is left over of a batch goes back to Redis when its time is over.
//!
//! One task sees to it, and lives only while there are batches. Each goes back once, whether or not Redis answers: what may have
//! been given back is not given back again, and what was not leaves the limit stricter until its window ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::super::Link;
use super::super::node::Call;
use super::super::reply::Reply;
use super::super::request::{self, Charged};
use super::super::script;
use super::super::within::Within;
use super::LEASE_FOR;
use super::held::Lease;
use crate::limit::{Durability, Tag};

/// How many go back at the same time when all do.
const AT_ONCE: usize = 256;

/// How long a return may take that nobody waits for.
const PATIENCE: Duration = Duration::from_millis(250);

/// The batches that are out, in the order in which their times are over.
#[derive(Debug, Default)]
pub(in super::super) struct Due {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// When, at which place of [`combine`](super::super::combine), and the number of the batch.
    batches: VecDeque<(Instant, usize, u64)>,
    /// Whether the task lives.
    is_seen_to: bool,
}

/// The task; should its runtime end, another takes over with the next batch.
struct Seeing {
    link: Arc<Link>,
    is_done: bool,
}

/// Remembers to give a batch back that was heard of at `heard`.
pub(in super::super) fn later(link: &Arc<Link>, place: usize, id: u64, heard: Instant) {
    let mut queue = link.due.queue.lock();
    queue.batches.push_back((heard + FOR, place, id));
    if !queue.is_seen_to {
        queue.is_seen_to = true;
        drop(queue);
        let seeing = Seeing {
            link: Arc::clone(link),
            is_done: false,
        };
        tokio::spawn(seeing.see());
    }
}

/// Gives back what is left over of a batch, but for the limits of these tags.
pub(in super::super) async fn give_back(link: &Link, lease: &Lease, but: &[Tag]) {
    let charged = |unused: super::Unused<'_>| (unused.limit.clone(), unused.receipt);
    let unused: SmallVec<[_; 1]> = lease.stock.unused(but).map(charged).collect();
    if unused.is_empty() {
        link.hot.has_arrived(lease.print);
        return;
    }
    let charges: Vec<Charged<'_>> = unused
        .iter()
        .map(|(limit, receipt)| Charged {
            key: 0,
            limit,
            receipt: *receipt,
        })
        .collect();
    let call = Call {
        script: &script::DECIDE,
        keys: &[&lease.key],
        body: &request::give_back(&charges, &[], None),
        durability: Durability::Usual,
    };
    let within = Within::from_now(link.timeout.max(PATIENCE));
    let answer = link.run(lease.home, &call, within).await;
    if !matches!(answer.map(Reply::parse), Ok(Some(Reply::Done(_)))) {
        link.lost_give_backs.fetch_add(1, Ordering::Relaxed);
    }
    link.hot.has_arrived(lease.print);
}

/// Gives back what is left over of all of them.
pub(in super::super) async fn give_back_all(link: &Link, leases: Vec<Lease>) {
    let leases = futures::stream::iter(&leases);
    leases
        .for_each_concurrent(AT_ONCE, |lease| give_back(link, lease, &[]))
        .await;
}

const FOR: Duration = LEASE_FOR.to_duration();

impl Seeing {
    async fn see(mut self) {
        while let Some(when) = self.next() {
            tokio::time::sleep_until(when.into()).await;
            let due = self.due(Instant::now());
            give_back_all(&self.link, due).await;
        }
    }

    /// When the next batch is due; none, and the task is done, if there is none.
    fn next(&mut self) -> Option<Instant> {
        let mut queue = self.link.due.queue.lock();
        let next = queue.batches.front().map(|(when, ..)| *when);
        queue.is_seen_to = next.is_some();
        self.is_done = next.is_none();
        next
    }

    /// Ends the batches that are due by `now`.
    fn due(&self, now: Instant) -> Vec<Lease> {
        let mut due = Vec::new();
        let mut queue = self.link.due.queue.lock();
        while let Some(&(when, place, id)) = queue.batches.front()
            && when <= now
        {
            queue.batches.pop_front();
            due.push((place, id));
        }
        drop(queue);
        let end = |(place, id)| self.link.hot.end(place, id);
        due.into_iter().filter_map(end).collect()
    }
}

impl Drop for Seeing {
    fn drop(&mut self) {
        if !self.is_done {
            self.link.due.queue.lock().is_seen_to = false;
        }
    }
}
