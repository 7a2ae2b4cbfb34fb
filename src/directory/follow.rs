//! How a change reaches every instance: all look at the store's log of changes several times a second.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};

use super::cache::Directory;
use super::lists::{Item, Lists, MAX_ITEMS};
use crate::store::book::News;
use crate::store::{Store, StoreError};

/// How often the log is looked at: a change is seen after this time at most, and one round trip.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the store may take to show the log.
pub const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// How many looks may fail at the start before it is said.
const STARTING: u32 = 8;

/// After how many looks items that have ended are removed from the store, and how many at most: more in an hour than
/// [`MAX_ITEMS`], so that as many bans of an hour do not heap up.
const TIDY_EVERY: u32 = 60;
const TIDY_AT_ONCE: usize = 1000;

/// How much later a ban may seem to end for it to be the same, in microseconds.
const CLOCKS_APART_US: i64 = 2_000_000;

impl Directory {
    /// Applies what others change, until the future is dropped.
    pub async fn follow(&self, store: &Store) {
        let mut looks = 0_u32;
        let mut well = true;
        loop {
            match self.catch_up(store, LOOK_WITHIN).await {
                Ok(()) => well = true,
                // The connection may still be on its way at the start.
                Err(error) if well && looks >= STARTING => {
                    warn!("changes of plans and lists are not seen for now: {error}");
                    well = false;
                }
                Err(error) => debug!("changes of plans and lists are not seen: {error}"),
            }
            looks = looks.wrapping_add(1);
            if well && looks.is_multiple_of(TIDY_EVERY) {
                self.tidy(store).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Applies what has changed since the last look.
    pub async fn catch_up(&self, store: &Store, timeout: Duration) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().await;
        let news = match *seen {
            Some(number) => store.changes(&self.shelf, number, timeout).await?,
            None => News::Lost,
        };
        match news {
            News::Changes(last, changes) => {
                if !changes.is_empty() {
                    self.apply(changes).await;
                }
                *seen = Some(last);
            }
            News::Lost => {
                let (number, items) = store.items(&self.shelf, timeout).await?;
                let items = items.iter().filter_map(|(_, text)| read_item(text));
                self.replace_lists(items.collect()).await;
                let mut applied = self.applied.lock();
                *applied += 1;
                self.cache.clear();
                drop(applied);
                *seen = Some(number);
            }
        }
        Ok(())
    }

    /// Sets an item on a list, in all instances; or takes it off with `None`.
    pub async fn set_item(
        &self,
        store: &Store,
        id: &str,
        item: Option<&Item>,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        if item.is_some() && self.is_full() && self.lists().get(id).is_none() {
            let reason = format!("the lists have {MAX_ITEMS} items already");
            return Err(StoreError::Refused(reason));
        }
        let text = item.map(|item| serde_json::to_vec(item).unwrap_or_default().into());
        store
            .set_item(&self.shelf, id, text.as_ref(), timeout)
            .await?;
        self.catch_up(store, timeout).await
    }

    fn is_full(&self) -> bool {
        let (lists, now) = (self.lists(), self.clock.now());
        lists.items().filter(|item| item.holds(now)).count() >= MAX_ITEMS
    }

    async fn apply(&self, changes: Vec<Bytes>) {
        let mut items: Option<HashMap<String, Item>> = None;
        let changes = changes
            .iter()
            .filter_map(|change| std::str::from_utf8(change).ok());
        self.forget(changes.clone());
        for change in changes {
            if let Some((id, text)) = change.strip_prefix('i').and_then(|c| c.split_once('\0')) {
                let all = || self.lists().items().map(|i| (i.id(), i.clone())).collect();
                let items = items.get_or_insert_with(all);
                match read_item(text.as_bytes()) {
                    Some(item) => items.insert(id.to_owned(), item),
                    None => items.remove(id),
                };
            }
        }
        if let Some(items) = items {
            self.replace_lists(items.into_values().collect()).await;
        }
    }

    /// Takes the subjects that have changed out of the cache.
    fn forget<'c>(&self, changes: impl Iterator<Item = &'c str>) {
        let mut applied = self.applied.lock();
        *applied += 1;
        for key in changes.filter_map(|change| change.strip_prefix('s')) {
            self.cache.remove(key);
        }
    }

    /// Building large lists takes a while, which must not hold up requests.
    async fn replace_lists(&self, items: Vec<Item>) {
        let now = self.clock.now();
        let built = tokio::task::spawn_blocking(move || Lists::new(items, now)).await;
        if let Ok(lists) = built {
            self.set_lists(lists);
        }
    }

    /// Removes from the store what has ended.
    async fn tidy(&self, store: &Store) {
        let now = self.clock.now();
        let lists = self.lists();
        let ended = lists.items().filter(|item| !item.holds(now));
        for item in ended.take(TIDY_AT_ONCE) {
            let id = item.id();
            let removed = store.set_item(&self.shelf, &id, None, LOOK_WITHIN).await;
            if removed.is_err() {
                return;
            }
        }
    }

    /// Whether all instances know of a ban; clocks may be a little apart.
    pub fn knows(&self, ban: &Item) -> bool {
        let until = |item: &Item| item.until.unwrap_or(i64::MAX);
        let lasts = |known: &Item| until(known).saturating_add(CLOCKS_APART_US) >= until(ban);
        self.with_lists(|lists| lists.get(&ban.id()).is_some_and(lasts))
            .unwrap_or_default()
    }

    /// Tells all instances of a ban that the limits have begun.
    pub async fn note_ban(&self, store: &Store, item: Item) {
        let id = item.id();
        if let Err(error) = self.set_item(store, &id, Some(&item), LOOK_WITHIN).await {
            debug!("a ban is not on the list of bans: {error}");
        }
    }
}

fn read_item(text: &[u8]) -> Option<Item> {
    serde_json::from_slice(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::lists::List;
    use crate::store::embedded::Embedded;
    use crate::time::{Clock, Micros, Timestamp};

    fn item(value: usize) -> Item {
        Item {
            list: List::Deny,
            domain: "d".to_owned(),
            key: "user".to_owned(),
            value: value.to_string(),
            network: false,
            until: None,
            note: String::new(),
            counter: None,
        }
    }

    /// What had ended before the lists changed again, or were read anew, was forgotten here and stayed in the store for good.
    #[tokio::test]
    async fn what_has_ended_leaves_the_store_whatever_has_changed_since() {
        for starts_later in [false, true] {
            let (clock, handle) = Clock::manual(Timestamp::from_secs(100));
            let store = Store::Embedded(Embedded::new(1 << 10, clock.clone()));
            let mut directory = Directory::new("", clock.clone());
            let short = Item {
                until: Some(110_000_000),
                ..item(0)
            };
            for (item, passes) in [(short, 20), (item(1), 0)] {
                let id = item.id();
                let set = directory.set_item(&store, &id, Some(&item), LOOK_WITHIN);
                set.await.expect("set");
                handle.advance(Micros::from_secs(passes));
            }
            if starts_later {
                directory = Directory::new("", clock);
                let caught_up = directory.catch_up(&store, LOOK_WITHIN).await;
                caught_up.expect("the items");
            }
            directory.tidy(&store).await;
            let left = store.items(&directory.shelf, LOOK_WITHIN).await;
            let (_, left) = left.expect("the items");
            let left: Vec<String> = left.into_iter().map(|(id, _)| id).collect();
            assert_eq!(left, [item(1).id()], "starts later: {starts_later}");
        }
    }

    #[tokio::test]
    async fn items_of_lists_are_bounded_and_may_change_at_the_bound() {
        let store = Store::Embedded(Embedded::new(1 << 10, Clock::System));
        let directory = Directory::new("", Clock::System);
        for n in 0..MAX_ITEMS {
            let (id, text) = (item(n).id(), serde_json::to_vec(&item(n)));
            let text = Bytes::from(text.expect("JSON"));
            let set = store.set_item(&directory.shelf, &id, Some(&text), LOOK_WITHIN);
            set.await.expect("set");
        }
        let caught_up = directory.catch_up(&store, LOOK_WITHIN).await;
        caught_up.expect("the items");
        let set = async |n, holds: bool| {
            let item = item(n);
            let id = item.id();
            let set = directory.set_item(&store, &id, holds.then_some(&item), LOOK_WITHIN);
            set.await
        };
        let refused = set(MAX_ITEMS, true).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        set(0, true).await.expect("it is there already");
        set(0, false).await.expect("it is taken off");
        set(MAX_ITEMS, true).await.expect("there is room for one");
        assert_eq!(directory.lists().items().count(), MAX_ITEMS);
    }
}
