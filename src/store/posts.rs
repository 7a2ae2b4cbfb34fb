//! What instances tell each other: of each one text, which it writes anew now and then and which is forgotten if it does not.

use std::time::Duration;

use bytes::Bytes;

use super::{Key, Store, StoreError};
use crate::time::Micros;

/// The longest text of an instance, in bytes.
pub const MAX_POST: usize = 128 * 1024;

/// How many texts are read: those that were written last.
pub const MAX_POSTS: usize = 64;

/// The keys of the moments until which the texts hold, and of the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// In the order in which the script takes them.
    pub keys: [Key; 2],
}

impl Board {
    /// The keys, in one slot, with the service's prefix.
    pub fn new(prefix: &str) -> Self {
        Self::named(prefix, "posts")
    }

    /// The same under another name.
    pub fn named(prefix: &str, name: &str) -> Self {
        let names = [format!("{name}:until"), name.to_owned()];
        Self {
            keys: names.map(|name| Key::new(prefix, "tollgate", &name)),
        }
    }
}

impl Store {
    /// Writes the text of an instance, of at most [`MAX_POST`] bytes, for `keep`. A store that only one instance has keeps
    /// none.
    pub async fn post(
        &self,
        board: &Board,
        instance: &str,
        text: &Bytes,
        keep: Micros,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(_) => Ok(()),
            Store::Redis(store) => store.post(board, instance, text, keep, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().post(board, instance, text, keep, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// The names of instances and what they have written, at most [`MAX_POSTS`].
    pub async fn posts(
        &self,
        board: &Board,
        timeout: Duration,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        match self {
            Store::Embedded(_) => Ok(Vec::new()),
            Store::Redis(store) => store.posts(board, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().posts(board, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }
}
