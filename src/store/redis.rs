//! Redis, alone, behind Sentinel or as a cluster.
//!
//! A transaction is one call of a script that reads, decides and writes: the Lua twins of [`limit`](crate::limit). In a
//! cluster it is one call per hash slot, and what was charged is given back if any of them refuses.
//!
//! In reading order:
//! - `script`, `request`, `reply`: the scripts, what is said to the one that decides, what it says; `value`: what it keeps
//! - `part`: a transaction cut into calls
//! - `gather`: many calls as one transaction
//! - [`settings`]: where Redis is; `connect`, `tls`: how to get there
//! - `frames`, `book`, `usage`: what is kept beside the counters
//! - `node`, `cluster`: connections; `pipe`: those that carry nothing but script calls

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use self::cluster::Cluster;
use self::connect::Connector;
use self::node::{Call, NoAnswer, Node};
use self::part::Part;
use self::reply::{Decided, Reply};
use self::settings::{Servers, Settings, SettingsError};
use super::{StoreError, Transaction};
use crate::limit::transaction::{Outcome, Role};
use crate::time::{Clock, Timestamp};

mod book;
mod cluster;
mod connect;
mod frames;
mod gather;
mod node;
mod part;
mod pipe;
mod reply;
mod request;
mod script;
pub mod settings;
mod tls;
mod usage;
mod value;

/// The most calls under way at a time; beyond it a transaction fails at once.
pub const MAX_IN_FLIGHT: usize = 8192;

/// The most keys, demands and limits of one transaction.
pub const MAX_PER_TRANSACTION: usize = 4096;

/// The most limits of one demand.
pub const MAX_LIMITS: usize = 255;

/// How often a call may ask for other calendar borders: once for the store's time, once for a key that has seen a later one.
const MAX_RETIMES: usize = 2;

/// A store in Redis.
#[derive(Debug)]
pub struct Redis {
    link: Arc<Link>,
}

/// What calls go over. Shared with the returns of charges, which may outlive the transaction.
#[derive(Debug)]
struct Link {
    servers: Connected,
    timeout: Duration,
    permits: Semaphore,
    lost_give_backs: AtomicU64,
    /// Only for a guess at the store's time, which says which calendar borders to send.
    clock: Clock,
}

#[derive(Debug)]
enum Connected {
    One(Node),
    Cluster(Cluster),
}

impl Redis {
    /// Begins to connect and returns at once; the connection is kept up for ever. Must be called within a tokio runtime,
    /// which then carries the connections: with a runtime per core, a store per core is fastest.
    pub fn connect(settings: &Settings) -> Result<Self, SettingsError> {
        let connector = Connector::new(settings)?;
        let servers = match &settings.servers {
            Servers::Cluster(seeds) => Connected::Cluster(Cluster::start(connector, seeds)?),
            one @ (Servers::Single(_) | Servers::Unix(_) | Servers::Sentinel { .. }) => {
                Connected::One(connector.single(one)?)
            }
        };
        Ok(Self {
            link: Arc::new(Link {
                servers,
                timeout: settings.timeout,
                permits: Semaphore::new(MAX_IN_FLIGHT),
                lost_give_backs: AtomicU64::new(0),
                clock: Clock::System,
            }),
        })
    }

    /// See [`Store::transact`](super::Store::transact). Ends within the transaction's timeout; fails at once when there is no
    /// connection.
    ///
    /// Dropping the future midway leaves what was charged by then charged, as a lost answer does.
    pub async fn transact(&self, transaction: &Transaction<'_, '_>) -> Result<Outcome, StoreError> {
        check_size(transaction)?;
        let in_cluster = matches!(self.link.servers, Connected::Cluster(_));
        let parts = part::split(transaction, in_cluster);
        match parts.as_slice() {
            [only] => {
                let (now, timeout) = (transaction.now, transaction.timeout);
                let decided = self.link.decide(only, true, now, timeout).await?;
                Ok(Outcome {
                    admitted: decided.admitted,
                    readings: decided
                        .readings
                        .into_iter()
                        .map(|(reading, _)| reading)
                        .collect(),
                })
            }
            parts => gather::transact(&self.link, parts, transaction).await,
        }
    }

    /// See [`Store::ping`](super::Store::ping). In a cluster all masters must answer, and every slot must have one.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.link.servers {
            Connected::One(node) => node.ping(self.link.timeout).await,
            Connected::Cluster(cluster) => cluster.ping(self.link.timeout).await,
        }
    }

    /// How many charges should have been given back and may not have been: those limits are stricter than they should be,
    /// until their windows end.
    pub fn lost_give_backs(&self) -> u64 {
        self.link.lost_give_backs.load(Ordering::Relaxed)
    }
}

impl Link {
    /// Runs the script on one part of a transaction.
    async fn decide(
        &self,
        part: &Part<'_, '_>,
        quotas_decide: bool,
        now: Option<Timestamp>,
        timeout: Duration,
    ) -> Result<Decided, StoreError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut around = now.unwrap_or_else(|| self.clock.now());
        let quotas = || {
            part.demands
                .iter()
                .any(|asked| asked.demand.role == Role::Quota)
        };
        let is_usual = request::is_usual(&part.demands) && (quotas_decide || !quotas());
        for _ in 0..=MAX_RETIMES {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let body = if is_usual {
                request::usual(&part.demands, &[], now, around)
            } else {
                request::transact(&part.demands, quotas_decide, now, around)
            };
            let call = Call {
                script: &script::DECIDE,
                keys: part.keys.clone(),
                body,
            };
            let answer = self.run(part.slot, &call, left).await?;
            match Reply::parse(answer) {
                Some(Reply::Before(at, values)) if values.len() == part.keys.len() => {
                    return part.read(values, at);
                }
                Some(Reply::Done(decided)) if decided.readings.len() == part.limits() => {
                    return Ok(decided);
                }
                Some(Reply::Retime(at)) => around = at,
                Some(Reply::Foreign(place)) => return Err(part.foreign(place)),
                Some(Reply::Done(_) | Reply::Before(..)) | None => {
                    let reason = "an answer of the script cannot be read".to_owned();
                    return Err(StoreError::Corrupt(reason));
                }
            }
        }
        let reason = "the keys of one request have seen times that are too far apart".to_owned();
        Err(StoreError::Refused(reason))
    }

    async fn run(&self, slot: u16, call: &Call, timeout: Duration) -> Result<Bytes, StoreError> {
        let Ok(_permit) = self.permits.try_acquire() else {
            let reason = format!("{MAX_IN_FLIGHT} calls are under way already");
            return Err(StoreError::Unreachable(reason));
        };
        match &self.servers {
            Connected::Cluster(cluster) => cluster.run(slot, call, timeout).await,
            Connected::One(node) => match node.run(call, false, timeout).await {
                Ok(answer) => Ok(answer),
                Err(NoAnswer::Failed(error)) => Err(error),
                Err(NoAnswer::Moved(_) | NoAnswer::Ask(_) | NoAnswer::TryAgain) => {
                    let reason = "the server belongs to a cluster: REDIS_TYPE must be cluster";
                    Err(StoreError::Refused(reason.to_owned()))
                }
            },
        }
    }
}

/// Refuses what the packed form cannot say.
fn check_size(transaction: &Transaction<'_, '_>) -> Result<(), StoreError> {
    let demands = transaction.demands;
    let limits = demands.iter().map(|demand| demand.limits.len());
    let keys_exist = demands
        .iter()
        .all(|demand| demand.key < transaction.keys.len());
    if keys_exist
        && transaction.keys.len() <= MAX_PER_TRANSACTION
        && demands.len() <= MAX_PER_TRANSACTION
        && limits.clone().sum::<usize>() <= MAX_PER_TRANSACTION
        && limits.max().unwrap_or(0) <= MAX_LIMITS
    {
        return Ok(());
    }
    Err(StoreError::Refused(
        "the request has too many parts".to_owned(),
    ))
}
