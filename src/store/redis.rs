//! Redis, alone, behind Sentinel or as a cluster.
//!
//! A transaction is one call of a script that reads, decides and writes: the Lua twins of [`limit`](crate::limit). In a
//! cluster it is one call per hash slot, and what was charged is given back if any of them refuses.
//!
//! In reading order:
//! - `script`, `request`, `reply`: the scripts, what is said to the one that decides, what it says; `value`: what it keeps
//! - `part`: a transaction cut into calls
//! - `gather`: many calls as one transaction; `combine`: many transactions as one call
//! - `refusals`, `lease`: transactions without a call
//! - [`settings`]: where Redis is; `connect`, `tls`: how to get there
//! - `frames`, `book`, `usage`: what is kept beside the counters
//! - `connected`: the servers, and the other ones for limits per second; `node`, `cluster`: connections; `finding`: where a server is; `way`, `pipe`: those that carry nothing but script calls; `breaker`: when none go
//! - `within`, `permits`: how long a call may take, and how many there may be at once
//! - `untrusted`: what is read of all this, for the fuzzer

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::smallvec;
use tracing::Span;

use self::combine::{Coming, Entered, Hot, Read, Turn};
use self::connected::{Connected, Home};
use self::node::{Call, Node};
use self::part::Part;
use self::permits::Permits;
use self::refusals::{Heard, Refusals};
use self::reply::{Decided, Reply};
use self::request::Asked;
use self::settings::{Settings, SettingsError};
use self::within::Within;
use super::{StoreError, Transaction};
use crate::limit::transaction::{Outcome, Record, Role};
use crate::telemetry::tracing as spans;
use crate::time::{Clock, Timestamp};

mod book;
mod breaker;
mod cluster;
mod combine;
mod connect;
mod connected;
mod finding;
mod frames;
mod gather;
mod lease;
mod node;
mod part;
mod permits;
mod pipe;
mod posts;
mod refusals;
mod reply;
mod request;
mod script;
pub mod settings;
mod tls;
#[doc(hidden)]
pub mod untrusted;
mod usage;
mod value;
mod way;
mod within;

/// The most calls under way at a time; beyond it a transaction fails at once.
pub const MAX_IN_FLIGHT: usize = 8192;

/// The most keys, demands and limits of one transaction.
pub const MAX_PER_TRANSACTION: usize = 4096;

/// The most limits of one demand, candidates included.
pub const MAX_LIMITS: usize = 255;

/// How often a call may ask for other calendar borders: once for the store's time, once for a key that has seen a later one.
const MAX_RETIMES: usize = 2;

/// How often it is looked whether there are servers to connect to.
const PREPARE_EVERY: Duration = Duration::from_millis(100);

/// A store in Redis.
#[derive(Debug)]
pub struct Redis {
    link: Arc<Link>,
}

/// How a server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Its address, or what Sentinel calls it.
    pub name: String,
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Whether calls are kept from it, as it does not answer.
    pub is_open: bool,
    /// Whether calls that its replicas are to confirm are kept from it, as they do not.
    pub is_unconfirmed: bool,
}

/// What calls go over. Shared with the returns of charges, which may outlive the transaction.
#[derive(Debug)]
struct Link {
    servers: Connected,
    /// Those for limits per second, if they are others.
    per_second: Option<Connected>,
    timeout: Duration,
    permits: Permits,
    lost_give_backs: AtomicU64,
    hot: Hot,
    /// The batches that are to go back.
    due: lease::returns::Due,
    refusals: Arc<Refusals>,
    /// Only for a guess at the store's time, which says which calendar borders to send.
    clock: Clock,
}

impl Redis {
    /// Begins to connect and returns at once; the connection is kept up for ever. Must be called within a tokio runtime,
    /// which then carries the connections: with a runtime per core, a store per core is fastest.
    pub fn connect(settings: &Settings) -> Result<Self, SettingsError> {
        let refusals = Arc::new(Refusals::new());
        let servers = Connected::start(settings, &refusals)?;
        let per_second = settings.per_second.as_deref();
        let per_second = per_second.map(|settings| Connected::start(settings, &refusals));
        Ok(Self {
            link: Arc::new(Link {
                servers,
                per_second: per_second.transpose()?,
                timeout: settings.timeout,
                permits: Permits::new(MAX_IN_FLIGHT),
                lost_give_backs: AtomicU64::new(0),
                hot: Hot::new(),
                due: lease::returns::Due::default(),
                refusals,
                clock: Clock::System,
            }),
        })
    }

    /// See [`Store::transact`](super::Store::transact). Ends within the transaction's timeout; fails at once when there is no
    /// connection.
    ///
    /// Dropping the future midway leaves what was charged by then charged, as a lost answer does.
    pub async fn transact(&self, transaction: &Transaction<'_, '_>) -> Result<Outcome, StoreError> {
        let since = (Instant::now(), &spans::current());
        self.transact_since(transaction, since).await
    }

    /// The same for a transaction whose timeout began at `begun`, just now, and whose span is `span`, the current one; none if it is not traced.
    pub async fn transact_since(
        &self,
        transaction: &Transaction<'_, '_>,
        (begun, span): (Instant, &Span),
    ) -> Result<Outcome, StoreError> {
        check_size(transaction)?;
        let within = Within::since(begun, transaction.timeout);
        let in_cluster = self.link.servers.is_cluster();
        let per_second = self.link.per_second.as_ref().map(Connected::is_cluster);
        let parts = part::split(transaction, in_cluster, per_second);
        match parts.as_slice() {
            [only] => {
                // In its place at once, like all that is large on the way of a call.
                let when = (transaction.now, within);
                pin!(self.link.transact(only, when, span)).await
            }
            parts => gather::transact(&self.link, parts, transaction, within).await,
        }
    }

    /// See [`Store::ping`](super::Store::ping). In a cluster all masters must answer, and every slot must have one.
    pub async fn ping(&self) -> Result<(), StoreError> {
        for servers in self.link.all() {
            servers.ping(self.link.timeout).await?;
        }
        Ok(())
    }

    /// Keeps connections for the calls of this runtime, until dropped: so that none of its calls is the first.
    pub async fn prepare(&self) {
        loop {
            self.link.all().for_each(Connected::prepare);
            tokio::time::sleep(PREPARE_EVERY).await;
        }
    }

    /// How many requests were refused from memory, and how many went to Redis together with others.
    pub fn spared(&self) -> (u64, u64) {
        (self.link.refusals.served(), self.link.hot.combined())
    }

    /// The servers that have the keys, as far as they are known.
    pub fn servers(&self) -> Vec<ServerState> {
        let state = |node: &Node| ServerState {
            name: node.name().to_owned(),
            is_connected: node.is_connected(),
            is_open: node.is_open(),
            is_unconfirmed: node.is_unconfirmed(),
        };
        let mut states = Vec::new();
        for servers in self.link.all() {
            servers.each(|node| states.push(state(node)));
        }
        states
    }

    /// What the server that has a slot is called; none if it is not known, or if limits per second have servers of their own.
    pub fn server_of(&self, slot: u16) -> Option<String> {
        let one = self.link.per_second.is_none();
        self.link.servers.name_of(slot).filter(|_| one)
    }

    /// How often another server took over: a master of a cluster that was none, the one that sentinels or a name lead to.
    pub fn failovers(&self) -> u64 {
        self.link.all().map(Connected::failovers).sum()
    }

    /// How many requests were charged in advance, with another.
    pub fn leased(&self) -> u64 {
        self.link.hot.leased()
    }

    /// Gives back all that was charged in advance and is not used: to be called at the end.
    pub async fn give_back_leases(&self) {
        let leases = self.link.hot.end_all();
        lease::returns::give_back_all(&self.link, leases).await;
    }

    /// How many charges should have been given back and may not have been: those limits are stricter than they should be,
    /// until their windows end.
    pub fn lost_give_backs(&self) -> u64 {
        self.link.lost_give_backs.load(Ordering::Relaxed)
    }
}

impl Link {
    /// All servers, those for limits per second last.
    fn all(&self) -> impl Iterator<Item = &Connected> {
        std::iter::once(&self.servers).chain(&self.per_second)
    }

    /// The servers where keys of this home are.
    fn servers_of(&self, home: Home) -> &Connected {
        match &self.per_second {
            Some(servers) if home.is_per_second => servers,
            Some(_) | None => &self.servers,
        }
    }

    /// Decides a transaction that is one call: from memory if it is sure to be refused, together with others if the key is hot.
    async fn transact(
        self: &Arc<Self>,
        part: &Part<'_, '_>,
        (now, within): (Option<Timestamp>, Within),
        span: &Span,
    ) -> Result<Outcome, StoreError> {
        // Who brings a time along is decided at that time, and not together with others.
        if now.is_some() || !request::is_usual(&part.demands) {
            let decided = self.decide(part, true, now, within).await?;
            return Ok(decided.outcome());
        }
        if let Some(refused) = self.refusals.refuse(part, within.begun) {
            spans::served_from(span, "memory");
            return Ok(refused);
        }
        let Some((asked, hits)) = part.only_charge() else {
            let decided = self.decide(part, true, None, within).await?;
            return Ok(decided.outcome());
        };
        let key = part.keys[0];
        let print = combine::print(key);
        let may_lease = lease::may_lease(&asked, hits);
        let coming = Coming {
            home: part.home,
            key,
            durability: part.durability(),
            hits,
            print,
            terms: may_lease.then(|| Box::new(lease::Terms::of(&asked, hits))),
        };
        let pack = || request::demand(asked, || self.clock.now());
        match combine::enter(self, coming, (within, span), pack) {
            Entered::Alone(_leading) => {
                let decided = pin!(self.decide(part, true, None, within)).await?;
                if may_lease {
                    self.hot.note(print, part.room_after(&decided, hits));
                }
                Ok(decided.outcome())
            }
            Entered::Leased(read) => Ok(read_off(part, &read, span)),
            Entered::Waits(waits) => {
                let _permit = self.permits.take().ok_or_else(full)?;
                match waits.turn().await? {
                    Turn::Read(read) => {
                        let outcome = read_off(part, &read, span);
                        if !outcome.admitted {
                            self.remember(part, read.heard);
                        }
                        Ok(outcome)
                    }
                    Turn::Alone => {
                        let deciding = self.decide(part, true, None, within.rest());
                        Ok(Box::pin(deciding).await?.outcome())
                    }
                }
            }
            Entered::Full => Err(full()),
        }
    }

    /// Runs the script on one part of a transaction.
    async fn decide(
        self: &Arc<Self>,
        part: &Part<'_, '_>,
        quotas_decide: bool,
        now: Option<Timestamp>,
        mut within: Within,
    ) -> Result<Decided, StoreError> {
        let mut around = now;
        let is_quota = |asked: &Asked<'_, '_>| asked.demand.role == Role::Quota;
        let is_usual = request::is_usual(&part.demands)
            && (quotas_decide || !part.demands.iter().any(is_quota));
        for _ in 0..=MAX_RETIMES {
            let asked = within.begun;
            let around_when = || around.unwrap_or_else(|| self.clock.now());
            let body = if is_usual {
                request::usual(&part.demands, now, around_when)
            } else {
                request::transact(&part.demands, quotas_decide, now, around_when)
            };
            let call = Call {
                script: &script::DECIDE,
                keys: &part.keys,
                body: &body,
                durability: part.durability(),
            };
            let answer = pin!(self.run(part.home, &call, within)).await?;
            match Reply::parse(answer) {
                Some(Reply::Before(at, values)) if values.len() == part.keys.len() => {
                    let decided = part.decide(part.records(values)?, at);
                    if now.is_none() && !decided.admitted {
                        let heard = Instant::now();
                        self.remember(part, Heard { at, asked, heard });
                    }
                    return Ok(decided);
                }
                Some(Reply::Done(decided)) if decided.is_of(part.limits(), part.candidates()) => {
                    return Ok(decided);
                }
                Some(Reply::Retime(at)) => (around, within) = (Some(at), within.rest()),
                Some(Reply::Foreign(place)) => return Err(part.foreign(place)),
                Some(Reply::Done(_) | Reply::Before(..)) | None => return Err(unreadable()),
            }
        }
        let reason = "the keys of one request have seen times that are too far apart".to_owned();
        Err(StoreError::Refused(reason))
    }

    /// Asks Redis for the records that have refused, and to tell when they change.
    fn remember(self: &Arc<Self>, part: &Part<'_, '_>, heard: Heard) {
        if part.keys.len() > refusals::MOST_KEYS {
            return;
        }
        for key in &part.keys {
            let (link, home) = (Arc::clone(self), part.home);
            let key = Bytes::copy_from_slice(key);
            tokio::spawn(async move {
                let Some(learning) = link.refusals.learn(&key) else {
                    return;
                };
                let servers = link.servers_of(home);
                let value = servers.watch(home, &key, link.timeout).await;
                if let Some(value) = value {
                    learning.learnt(value, heard);
                }
            });
        }
    }

    async fn run(&self, home: Home, call: &Call<'_>, within: Within) -> Result<Bytes, StoreError> {
        // Nothing is charged that nobody waits for.
        if within.length().is_zero() {
            return Err(no_time());
        }
        let _permit = self.permits.take().ok_or_else(full)?;
        let servers = self.servers_of(home);
        pin!(servers.run(home, call, within)).await
    }
}

/// The outcome of the one demand of a part, whose call others made.
fn read_off(part: &Part<'_, '_>, read: &Read, span: &Span) -> Outcome {
    if let Some(what) = read.served_from {
        spans::served_from(span, what);
    }
    let records = smallvec![(Record::clone(&read.record), false)];
    part.outcome_after(&read.before, records, read.heard.at, read.now)
}

/// It has not been sent.
fn no_time() -> StoreError {
    StoreError::Unreachable("no time is left".to_owned())
}

fn unreadable() -> StoreError {
    StoreError::Corrupt("an answer of the script cannot be read".to_owned())
}

fn full() -> StoreError {
    StoreError::Unreachable(format!("{MAX_IN_FLIGHT} calls are under way already"))
}

/// Refuses what the packed form cannot say.
fn check_size(transaction: &Transaction<'_, '_>) -> Result<(), StoreError> {
    let demands = transaction.demands;
    let limits = demands
        .iter()
        .map(|demand| demand.limits.len() + demand.candidates.len());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Amount, Bound, Demand};
    use crate::limit::{Algorithm, Hits, Limit, Unit};
    use crate::store::Key;

    /// Whether a transaction of so many keys and demands, each with so many limits, may be sent.
    fn may_be_sent(keys: usize, demands: usize, limits: usize) -> bool {
        let limit = Limit::new(1, Unit::Hour, 1, Algorithm::FixedWindow, &Zone::utc());
        let limit = limit.expect("a limit");
        let demand = Demand {
            key: keys.saturating_sub(1),
            amount: Amount::Charge(Hits::ONE),
            role: Role::Enforced,
            limits: std::iter::repeat_n(
                Bound {
                    limit: &limit,
                    always: false,
                },
                limits,
            )
            .collect(),
            ban: None,
            candidates: Vec::new(),
        };
        let keys: Vec<Key> = (0..keys)
            .map(|n| Key::new("", &n.to_string(), ""))
            .collect();
        let sized = check_size(&Transaction {
            keys: &keys,
            demands: &vec![demand; demands],
            now: None,
            timeout: Duration::ZERO,
        });
        let is_refused = matches!(sized, Err(StoreError::Refused(_)));
        assert!(sized.is_ok() || is_refused, "{sized:?}");
        !is_refused
    }

    #[test]
    fn a_transaction_is_no_larger_than_its_packed_form() {
        const MOST: usize = MAX_PER_TRANSACTION;
        for (keys, demands, limits, may) in [
            (MOST, 1, 1, true),
            (MOST + 1, 1, 1, false),
            (1, MOST, 1, true),
            (1, MOST + 1, 0, false),
            (1, 1, MAX_LIMITS, true),
            (1, 1, MAX_LIMITS + 1, false),
            (1, MOST / 128, 128, true),
            (1, MOST / 128 + 1, 128, false),
            (0, 1, 1, false),
        ] {
            assert_eq!(
                may_be_sent(keys, demands, limits),
                may,
                "{keys} keys, {demands} demands of {limits} limits"
            );
        }
    }
}
