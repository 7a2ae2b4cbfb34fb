//! Where keys live, and the contract that every store meets.
//!
//! A store takes a [`Transaction`] and answers with an [`Outcome`], as [`transact`](crate::limit::transaction::transact)
//! defines it, so that:
//!
//! 1. *One step.* Of the transactions on one key, each sees those before it whole and those after it not at all.
//! 2. *All or nothing.* A transaction that is refused leaves every key as it was, but for the limits that are charged
//!    always. Over several hash slots of a Redis Cluster the keys of one [`Key::tag`] are one step; keys under other tags are
//!    charged beside it and given back if any refuses. So for about one round trip a refusal may make others stricter, never
//!    looser: no limit is exceeded at any moment. A refund in such a transaction is made last, once all have admitted.
//! 3. *A lost answer counts as charged.* A store never repeats a charge whose answer it did not get.
//! 4. *The store's time*, except when the transaction brings its own ([`Transaction::now`]). A key's time never goes back.
//! 5. *Expiry.* A key is forgotten when all it remembers is as good as fresh, not before; a store that must bound its size
//!    says what it forgets early.
//! 6. *Same answers.* The same transactions in the same order at the same times have the same outcomes on every store. The
//!    conformance suite (`tests/it/conformance.rs`) is what says so. Where a limit has a [lease](crate::limit::lease) and the time is
//!    the store's, Redis may refuse earlier, by what its instances have taken in advance.
//!
//! - [`book`]: what is kept beside the counters
//! - [`embedded`]: in this process
//! - [`usage`]: what was used, for billing
//! - [`posts`]: what instances tell each other
//! - [`redis`]: Redis, Sentinel or Redis Cluster, through scripts
//! - [`footprint`]: what a key takes in memory
//! - [`faulty`]: any of them behind a link that fails when told to, for simulations

use std::sync::Arc;
use std::time::Duration;

use fred::util::redis_keyslot;

use crate::limit::transaction::{Demand, Outcome};
use crate::time::Timestamp;

pub mod book;
pub mod embedded;
pub mod faulty;
pub mod footprint;
pub mod posts;
pub mod redis;
pub mod usage;

/// All that one request asks of the store.
#[derive(Debug)]
pub struct Transaction<'a, 'l> {
    /// The keys, each once.
    pub keys: &'a [Key],
    /// What is asked of them, in the request's order.
    pub demands: &'a [Demand<'l>],
    /// The time to decide at; none for the store's own.
    pub now: Option<Timestamp>,
    /// How long the store may take; a store that needs no waiting ignores it.
    pub timeout: Duration,
}

/// The text of a key: never shared by two descriptors, and free of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    text: String,
    tag_end: usize,
}

/// What nearly all keys have room in, in bytes.
const USUAL_KEY: usize = 96;

/// Where the counters are.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Store {
    /// In this process.
    Embedded(embedded::Embedded),
    /// In Redis.
    Redis(redis::Redis),
    /// One of these, behind a link with faults to order; never in service.
    Faulty(Arc<faulty::Faulty>),
}

/// Why a transaction has no outcome. Whether it was charged is then unknown, unless the kind says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection; nothing was sent.
    #[error("the store is unreachable: {0}")]
    Unreachable(String),
    /// Sent, and not answered in time.
    #[error("the store did not answer in time")]
    Timeout,
    /// Charged, and not known to have reached as many replicas as the limit asks: by which server, and what it says of them.
    #[error("what was charged is not confirmed by enough replicas: {0}")]
    Unconfirmed(String),
    /// Not sent: the server of this name has not answered lately.
    #[error("the store has not answered lately: {0}")]
    Open(String),
    /// The store refused: out of memory, read-only, no permission.
    #[error("the store refused: {0}")]
    Refused(String),
    /// The value under a key is not one of ours, or an answer cannot be read.
    #[error("the store holds something unexpected: {0}")]
    Corrupt(String),
}

impl Key {
    /// The key `{tag}rest`. Neither part may contain `{` or `}`.
    pub fn new(prefix: &str, tag: &str, rest: &str) -> Self {
        Self::build(prefix, |to| to.push_str(tag), |to| to.push_str(rest))
    }

    /// The same, with parts that are written in their place.
    pub fn build(
        prefix: &str,
        tag: impl FnOnce(&mut String),
        rest: impl FnOnce(&mut String),
    ) -> Self {
        let mut text = String::with_capacity(prefix.len() + USUAL_KEY);
        text.push_str(prefix);
        text.push('{');
        tag(&mut text);
        text.push('}');
        let tag_end = text.len();
        rest(&mut text);
        Self { text, tag_end }
    }

    /// The key of this text; none if it has no hash tag.
    pub fn parse(text: &str) -> Option<Self> {
        let (begin, end) = (text.find('{')?, text.find('}')?);
        (begin < end).then(|| Self {
            text: text.to_owned(),
            tag_end: end + 1,
        })
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash slot of a cluster that it lies in.
    pub fn slot(&self) -> u16 {
        redis_keyslot(self.text.as_bytes())
    }

    /// The text up to the end of the hash tag: keys for which it is equal lie in one slot.
    pub fn tag(&self) -> &str {
        &self.text[..self.tag_end]
    }
}

impl StoreError {
    /// Whether it was sent, and thus has been charged or may be yet.
    pub fn was_sent(&self) -> bool {
        matches!(self, StoreError::Timeout | StoreError::Unconfirmed(_))
    }

    /// A short word for metrics; one of a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            StoreError::Unreachable(_) => "unreachable",
            StoreError::Timeout => "timeout",
            StoreError::Unconfirmed(_) => "unconfirmed",
            StoreError::Open(_) => "breaker_open",
            StoreError::Refused(_) => "refused",
            StoreError::Corrupt(_) => "corrupt",
        }
    }
}

impl Store {
    /// Decides and charges in one step.
    pub async fn transact(&self, transaction: &Transaction<'_, '_>) -> Result<Outcome, StoreError> {
        match self {
            Store::Embedded(store) => Ok(store.transact(transaction)),
            Store::Redis(store) => store.transact(transaction).await,
            Store::Faulty(link) => {
                let call = Box::pin(link.store().transact(transaction));
                link.send(call).await
            }
        }
    }

    /// Asks the store for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Store::Embedded(_) => Ok(()),
            Store::Redis(store) => store.ping().await,
            Store::Faulty(link) => link.send(Box::pin(link.store().ping())).await,
        }
    }

    /// What the server that has a slot is called, where there are servers and it is known.
    pub fn server_of(&self, slot: u16) -> Option<String> {
        match self {
            Store::Redis(store) => store.server_of(slot),
            Store::Embedded(_) | Store::Faulty(_) => None,
        }
    }

    /// What the store is called in logs and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Store::Embedded(_) => "embedded",
            Store::Redis(_) => "redis",
            Store::Faulty(link) => link.store().name(),
        }
    }
}
