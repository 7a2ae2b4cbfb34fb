//! The store that the instances share: in memory, in one Redis, or in a cluster.

use std::sync::Arc;

use tollgate::store::embedded::copy::Contents;
use tollgate::store::embedded::{Embedded, PARTS};
use tollgate::store::redis::Redis;
use tollgate::store::{Key, Store};
use tollgate::time::Clock;

use crate::support::redis::{Admin, CALL_TIMEOUT};

/// A store.
#[derive(Clone)]
pub(super) enum Shared {
    /// Not yet made: each seed has one of its own.
    Memory,
    Made(Arc<Store>),
    /// One server, and a client that knows nothing of the store.
    Redis(Arc<Store>, Admin),
    /// A cluster, which is not looked into.
    Cluster(Arc<Store>),
}

/// How the store was.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Copy {
    Memory(Contents),
    /// The values under the keys.
    Redis(Vec<(Key, Option<Vec<u8>>)>),
}

impl Shared {
    pub(super) fn redis(store: Redis, admin: Admin) -> Self {
        Shared::Redis(Arc::new(Store::Redis(store)), admin)
    }

    pub(super) fn cluster(store: Redis) -> Self {
        Shared::Cluster(Arc::new(Store::Redis(store)))
    }

    /// An empty store for a seed.
    pub(super) async fn begin(self, seed: u64, clock: &Clock) -> Self {
        match self {
            Shared::Memory | Shared::Made(_) => {
                let store = Embedded::with_secret(1 << 20, clock.clone(), (seed, seed));
                Shared::Made(Arc::new(Store::Embedded(store)))
            }
            Shared::Redis(store, admin) => {
                admin.run("FLUSHALL").await;
                Shared::Redis(store, admin)
            }
            Shared::Cluster(store) => Shared::Cluster(store),
        }
    }

    pub(super) fn store(&self) -> &Store {
        match self {
            Shared::Made(store) | Shared::Redis(store, _) | Shared::Cluster(store) => store,
            Shared::Memory => panic!("the seed has not begun"),
        }
    }

    /// The store, for one more link.
    pub(super) fn link(&self) -> Arc<Store> {
        match self {
            Shared::Made(store) | Shared::Redis(store, _) | Shared::Cluster(store) => {
                Arc::clone(store)
            }
            Shared::Memory => panic!("the seed has not begun"),
        }
    }

    fn embedded(&self) -> Option<&Embedded> {
        match self.store() {
            Store::Embedded(store) => Some(store),
            Store::Redis(_) | Store::Faulty(_) => None,
        }
    }

    /// A copy of what is under these keys, if the store can be copied.
    pub(super) async fn copy(&self, keys: &[Key]) -> Option<Copy> {
        if let Some(store) = self.embedded() {
            return Some(Copy::Memory(store.contents()));
        }
        let Shared::Redis(_, admin) = self else {
            return None;
        };
        let mut values = Vec::new();
        for key in keys {
            let value = admin.send(&["GET", key.as_str()]).await.expect("a value");
            values.push((key.clone(), value.as_bytes().map(<[u8]>::to_vec)));
        }
        Some(Copy::Redis(values))
    }

    pub(super) async fn go_back(&self, copy: &Copy) {
        match (self, copy) {
            (_, Copy::Memory(contents)) => {
                self.embedded().expect("a copy of it").go_back(contents);
            }
            (Shared::Redis(_, admin), Copy::Redis(values)) => {
                for (key, value) in values {
                    match value {
                        Some(value) => admin.set(key.as_str(), value).await,
                        None => drop(admin.send(&["DEL", key.as_str()]).await),
                    }
                }
            }
            (Shared::Memory | Shared::Made(_) | Shared::Cluster(_), Copy::Redis(_)) => {
                unreachable!("a copy of another")
            }
        }
    }

    /// Whether the store remembers anything under a key; Redis does for longer than a simulation lasts.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.embedded().is_none_or(|store| store.knows(key))
    }

    pub(super) fn sweep(&self) {
        if let Some(store) = self.embedded() {
            (0..PARTS).for_each(|part| store.sweep(part));
        }
    }

    /// Removes what the seed has left, if others are to find nothing of it.
    pub(super) async fn end(&self, keys: &[(Key, Vec<tollgate::limit::Tag>)]) {
        if let Shared::Cluster(store) = self {
            for (key, tags) in keys {
                let forgotten = store.forget(key, tags, CALL_TIMEOUT).await;
                forgotten.expect("it is forgotten");
            }
        }
    }
}
