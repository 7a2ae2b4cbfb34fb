//! Requests that come together: what they have in common, and what is done for one while memory is waited for that another needs.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use arc_swap::Guard;

use super::charges::{Charges, Found, Item};
use super::{Call, Engine, Live, Request};
use crate::rules::Domain;
use crate::time::Timestamp;

/// How many looks a decision takes at most that [nothing is waited for](Engine::is_immediate): one ends each time that memory is.
pub const LOOKS: usize = 4;

/// What requests have in common that are decided one right after the other.
#[derive(Debug)]
pub struct Turn {
    /// The rules that hold for them.
    pub(super) live: Guard<Option<Arc<Live>>>,
    /// What the clock showed before the first of them, where they need not look themselves.
    pub(super) at: Option<Timestamp>,
}

impl Turn {
    /// Begins to bring into the cache what is looked at once the store has decided, and differs for each rule.
    pub(super) fn fetch(&self, charges: &Charges<'_>) {
        let Some(live) = &*self.live else { return };
        for item in &charges.items {
            if let Item::Limited(limited) = item
                && let Some(rule) = limited.rule
            {
                live.accounts.fetch(rule);
                prefetch_index::prefetch_index(rule.name.as_bytes(), 0);
            }
        }
    }
}

impl Engine {
    /// Begins a turn. While it lasts, rules that are replaced still hold in it.
    pub fn turn(&self) -> Turn {
        Turn {
            live: self.live.load(),
            at: self.is_immediate().then(|| self.clock.now()),
        }
    }

    /// Whether the rules of a request mostly must be waited for, and there are others to decide meanwhile.
    pub(super) fn waits_for_rules(&self, domain: &Domain, call: &Call<'_>) -> bool {
        call.turn.is_some() && domain.has_many() && self.is_immediate()
    }
}

/// Ends this look while the rules of a request come.
pub(super) async fn fetch_nodes(domain: &Domain, request: &Request<'_>) {
    for descriptor in &request.descriptors {
        domain.fetch(&descriptor.entries);
    }
    step_aside().await;
}

/// Ends this look while what rules say comes.
pub(super) async fn fetch_rules(found: &[Found<'_>]) {
    let rules = found.iter().filter_map(|found| found.rule);
    rules.for_each(crate::rules::Rule::fetch);
    step_aside().await;
}

/// Ends this look, and goes on with the next, which may come at once.
pub(super) async fn step_aside() {
    let mut has = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
