//! The standings that this instance has asked for, and the lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::lists::Lists;
use super::standing::Standing;
use crate::store::book::Shelf;
use crate::store::{Key, Store, StoreError};
use crate::time::{Clock, Timestamp};

/// The most standings in memory; who is asked for least is forgotten first.
pub const MAX_CACHED: usize = 1 << 18;

/// After so long a standing is asked for again, though every change of it is announced: an instance may have died between a
/// change and its announcement.
pub const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What is known of subjects.
#[derive(Debug)]
pub struct Directory {
    pub(super) shelf: Shelf,
    pub(super) cache: Cache<String, Known>,
    lists: ArcSwap<Lists>,
    /// Whether there is anything on them: nearly always there is not, and that is seen at a glance.
    any_listed: AtomicBool,
    /// The number of the last change that is in the cache and the lists; none before the first look.
    pub(super) seen: Mutex<Option<u64>>,
    /// Grows with every change that is applied, so that what was asked for meanwhile is not kept. Held while the cache is
    /// changed: else what was asked for before a change could be kept just after it was applied.
    pub(super) applied: parking_lot::Mutex<u64>,
    pub(super) clock: Clock,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the store said of a subject, and when.
#[derive(Clone, Debug)]
pub(super) struct Known {
    standing: Option<Arc<Standing>>,
    at: Instant,
}

impl Directory {
    /// Knows nothing yet. All keys begin with `prefix`.
    pub fn new(prefix: &str, clock: Clock) -> Self {
        Self {
            shelf: Shelf::new(prefix),
            cache: Cache::new(MAX_CACHED),
            lists: ArcSwap::default(),
            any_listed: AtomicBool::default(),
            seen: Mutex::default(),
            applied: parking_lot::Mutex::default(),
            clock,
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
        }
    }

    /// What is known of the subject whose standing lies under `key`, without asking the store; none if it must be asked.
    pub fn cached(&self, key: &Key) -> Option<Option<Arc<Standing>>> {
        self.cached_at(key, Instant::now())
    }

    fn cached_at(&self, key: &Key, now: Instant) -> Option<Option<Arc<Standing>>> {
        let known = self.cache.get(key.as_str());
        let known = known.filter(|known| now.saturating_duration_since(known.at) < ASK_AGAIN);
        let count = if known.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        count.fetch_add(1, Ordering::Relaxed);
        known.map(|known| known.standing)
    }

    /// What was known of a subject, however long ago.
    pub fn last_known(&self, key: &Key) -> Option<Arc<Standing>> {
        self.cache.get(key.as_str())?.standing
    }

    /// Asks the store for a standing, and keeps it.
    pub async fn ask(
        &self,
        store: &Store,
        key: &Key,
        timeout: Duration,
    ) -> Result<Option<Arc<Standing>>, StoreError> {
        let before = *self.applied.lock();
        let text = store.text(key, timeout).await?;
        let standing = text.map(|text| parse(&text)).transpose()?.map(Arc::new);
        // What has changed since may be this one; it is then asked for again.
        let applied = self.applied.lock();
        if *applied == before {
            let known = Known {
                standing: standing.clone(),
                at: Instant::now(),
            };
            self.cache.insert(key.as_str().to_owned(), known);
        }
        Ok(standing)
    }

    /// Changes a standing in the store, whoever else is changing it, and announces that. Returns what it was changed to.
    pub async fn change(
        &self,
        store: &Store,
        key: &Key,
        timeout: Duration,
        change: impl Fn(Standing) -> Standing,
    ) -> Result<Standing, StoreError> {
        for _ in 0..MAX_RACES {
            let before = store.text(key, timeout).await?;
            let now = self.clock.now();
            let standing = before.as_ref().map(parse).transpose()?.unwrap_or_default();
            let standing = change(standing.pruned(now)).pruned(now);
            let text = (!standing.is_empty())
                .then(|| serde_json::to_vec(&standing).unwrap_or_default().into());
            let keep = ends(&standing).map(|end| end.since(now));
            let replaced = store.replace_text(key, before.as_ref(), text.as_ref(), keep, timeout);
            if replaced.await? {
                let change = [b"s", key.as_str().as_bytes()].concat();
                store.announce(&self.shelf, change.into(), timeout).await?;
                self.catch_up(store, timeout).await?;
                return Ok(standing);
            }
        }
        let reason = "others change the same subject all the time".to_owned();
        Err(StoreError::Refused(reason))
    }

    /// Calls `look` with the lists as they are now, if there is anything on them.
    pub(crate) fn with_lists<T>(&self, look: impl FnOnce(&Lists) -> T) -> Option<T> {
        let any_listed = self.any_listed.load(Ordering::Acquire);
        any_listed.then(|| look(&self.lists.load()))
    }

    pub(super) fn set_lists(&self, lists: Lists) {
        let any_listed = lists.items().next().is_some();
        self.lists.store(Arc::new(lists));
        self.any_listed.store(any_listed, Ordering::Release);
    }

    /// The lists as they are now.
    pub fn lists(&self) -> Arc<Lists> {
        self.lists.load_full()
    }

    /// How often a standing was known, and how often the store had to be asked.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.hits), read(&self.misses))
    }
}

/// How often a change is tried that others get ahead of.
const MAX_RACES: usize = 100;

fn parse(text: &Bytes) -> Result<Standing, StoreError> {
    serde_json::from_slice(text)
        .map_err(|error| StoreError::Corrupt(format!("a standing that cannot be read: {error}")))
}

/// When nothing of a standing holds any longer; none if something holds for ever.
fn ends(standing: &Standing) -> Option<Timestamp> {
    let grants = standing.grants.iter().map(|grant| grant.until).max();
    let lasting =
        standing.plan.is_some() || !standing.limits.is_empty() || !standing.note.is_empty();
    let end = match (lasting, standing.until) {
        (true, None) => return None,
        (true, Some(until)) => Some(until).max(grants),
        (false, _) => grants,
    };
    end.map(Timestamp::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;
    use crate::store::faulty::Faulty;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_changes_while_it_is_asked_for_is_not_kept() {
        let store = Arc::new(Store::Embedded(Embedded::new(1 << 10, Clock::System)));
        let link = Arc::new(Faulty::new(Arc::clone(&store)));
        let asked = Store::Faulty(Arc::clone(&link));
        let (directory, another) = (
            Directory::new("", Clock::System),
            Directory::new("", Clock::System),
        );
        let key = Key::new("", "user=a", "@");
        let caught_up = directory.catch_up(&store, TIMEOUT).await;
        caught_up.expect("an answer");
        for changes in [false, true] {
            directory.cache.clear();
            link.hold(true);
            let mut asking = std::pin::pin!(directory.ask(&asked, &key, TIMEOUT));
            assert!(futures::poll!(asking.as_mut()).is_pending());
            if changes {
                let to_pro = |standing| Standing {
                    plan: Some("pro".to_owned()),
                    ..standing
                };
                let changed = another.change(&store, &key, TIMEOUT, to_pro).await;
                changed.expect("changed");
                let caught_up = directory.catch_up(&store, TIMEOUT).await;
                caught_up.expect("an answer");
            }
            link.hold(false);
            asking.await.expect("an answer");
            assert_eq!(directory.cached(&key).is_none(), changes);
        }
    }

    #[tokio::test]
    async fn a_standing_is_asked_for_again_after_a_while() {
        let store = Store::Embedded(Embedded::new(1 << 10, Clock::System));
        let (directory, key) = (
            Directory::new("", Clock::System),
            Key::new("", "user=a", "@"),
        );
        let begun = Instant::now();
        directory.ask(&store, &key, TIMEOUT).await.expect("asked");
        assert_eq!(directory.cached_at(&key, begun), Some(None));
        let later = Instant::now() + ASK_AGAIN;
        assert_eq!(directory.cached_at(&key, later), None);
    }

    #[test]
    fn standings_in_memory_are_bounded() {
        let directory = Directory::new("", Clock::System);
        for n in 0..MAX_CACHED + MAX_CACHED / 8 {
            let known = Known {
                standing: None,
                at: Instant::now(),
            };
            directory.cache.insert(n.to_string(), known);
        }
        let kept = directory.cache.len();
        assert!(kept <= MAX_CACHED, "{kept}");
        assert!(kept > MAX_CACHED / 2, "{kept}");
    }
}
