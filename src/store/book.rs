//! What a store keeps beside the counters: small texts under keys, one set of items, and a log of what has changed.
//!
//! - A *text* lies in the slot of its key. It is replaced only by whoever knows what it was.
//! - The *items* are few, and every instance holds them all. Setting one and logging it is one step.
//! - The *log* numbers the changes without gaps and keeps the last [`MAX_LOG`]: whoever has seen all up to a number is told
//!   what came after, or that it must begin anew.

use std::time::Duration;

use bytes::Bytes;

use super::{Key, Store, StoreError};
use crate::limit::Tag;
use crate::time::Micros;

/// How many changes the log keeps.
pub const MAX_LOG: usize = 4096;

/// The keys of the items, of the number of the last change, and of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// The items by name.
    pub items: Key,
    /// The number of the last change.
    pub number: Key,
    /// The last changes, newest first.
    pub log: Key,
}

/// What came after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// These changes in order, and the number of the last; maybe none.
    Changes(u64, Vec<Bytes>),
    /// It cannot be told: too much has changed, or the store has forgotten.
    Lost,
}

/// All items, by name.
pub type Items = Vec<(String, Bytes)>;

impl Shelf {
    /// The keys, in one slot, with the service's prefix.
    pub fn new(prefix: &str) -> Self {
        let key = |name| Key::new(prefix, "tollgate", name);
        Self {
            items: key("items"),
            number: key("number"),
            log: key("log"),
        }
    }
}

/// The change that sets or removes an item, as it stands in the log: its name, a zero byte, its text if it has one.
pub fn item_change(id: &str, text: Option<&[u8]>) -> Bytes {
    [b"i", id.as_bytes(), b"\0", text.unwrap_or_default()]
        .concat()
        .into()
}

impl Store {
    /// The text under a key.
    pub async fn text(&self, key: &Key, timeout: Duration) -> Result<Option<Bytes>, StoreError> {
        match self {
            Store::Embedded(store) => Ok(store.book().text(key)),
            Store::Redis(store) => store.text(key, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().text(key, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Replaces the text under a key if it is still `before`, and tells whether it was. It is forgotten after `keep`.
    pub async fn replace_text(
        &self,
        key: &Key,
        before: Option<&Bytes>,
        text: Option<&Bytes>,
        keep: Option<Micros>,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        match self {
            Store::Embedded(store) => Ok(store.book().replace_text(key, before, text, keep)),
            Store::Redis(store) => store.replace_text(key, before, text, keep, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().replace_text(key, before, text, keep, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Adds a change to the log.
    pub async fn announce(
        &self,
        shelf: &Shelf,
        change: Bytes,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => {
                store.book().announce(change);
                Ok(())
            }
            Store::Redis(store) => store.announce(shelf, change, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().announce(shelf, change, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Sets or removes an item, and adds that to the log.
    pub async fn set_item(
        &self,
        shelf: &Shelf,
        id: &str,
        text: Option<&Bytes>,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => {
                store.book().set_item(id, text);
                Ok(())
            }
            Store::Redis(store) => store.set_item(shelf, id, text, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().set_item(shelf, id, text, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// All items, and the number of the last change that is in them.
    pub async fn items(
        &self,
        shelf: &Shelf,
        timeout: Duration,
    ) -> Result<(u64, Items), StoreError> {
        match self {
            Store::Embedded(store) => Ok(store.book().items()),
            Store::Redis(store) => store.items(shelf, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().items(shelf, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// What came after the change of this number.
    pub async fn changes(
        &self,
        shelf: &Shelf,
        after: u64,
        timeout: Duration,
    ) -> Result<News, StoreError> {
        match self {
            Store::Embedded(store) => Ok(store.book().changes(after)),
            Store::Redis(store) => store.changes(shelf, after, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().changes(shelf, after, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Tells the others under `key` that this instance is here for so long, or with no time at all that it leaves. Returns how
    /// many are here.
    pub async fn present(
        &self,
        key: &Key,
        instance: &str,
        keep: Micros,
        timeout: Duration,
    ) -> Result<u32, StoreError> {
        match self {
            // Nobody else has this store.
            Store::Embedded(_) => Ok(u32::from(keep > Micros::ZERO)),
            Store::Redis(store) => store.present(key, instance, keep, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().present(key, instance, keep, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Forgets what a key remembers of these limits or bans.
    pub async fn forget(
        &self,
        key: &Key,
        tags: &[Tag],
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => {
                store.forget(key, tags);
                Ok(())
            }
            Store::Redis(store) => store.forget(key, tags, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().forget(key, tags, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }
}
