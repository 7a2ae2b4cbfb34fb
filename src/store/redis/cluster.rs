//! A Redis Cluster: which master has which slot, and the way to it when slots move.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use fred::types::Value;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::connect::Connector;
use super::node::{Call, NoAnswer, Node};
use super::settings::{Address, SettingsError};
use super::within::Within;
use crate::store::StoreError;

/// How many times a call may be sent on before it is given up; it is given up at its timeout in any case.
const MAX_REDIRECTIONS: usize = 16;

/// The most servers that are connected to.
const MAX_NODES: usize = 1024;

/// Between looks at the cluster: when all is well, when a master is missing, and at least.
const REFRESH: Duration = Duration::from_secs(30);
const REFRESH_IN_TROUBLE: Duration = Duration::from_millis(200);
const REFRESH_PAUSE: Duration = Duration::from_millis(20);

/// How long one server may take to describe the cluster.
const DESCRIBE: Duration = Duration::from_millis(500);

/// Between two attempts on keys that are on their way, or at a server that is being connected to.
const PAUSE: Duration = Duration::from_millis(1);

/// A cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    shared: Arc<Shared>,
    _refreshing: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    seeds: Vec<Arc<Node>>,
    map: ArcSwap<Map>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    outdated: Notify,
    /// How many masters there have been beyond those of the first map.
    failovers: AtomicU64,
}

/// Ranges of slots in ascending order, each with its first, its last and its master.
#[derive(Debug, Default)]
struct Map(Vec<(u16, u16, Arc<Node>)>);

impl Cluster {
    /// Begins to connect to the cluster that `seeds` belong to.
    pub(super) fn start(connector: Connector, seeds: &[Address]) -> Result<Self, SettingsError> {
        let mut nodes = HashMap::new();
        for seed in seeds {
            nodes.insert(seed.clone(), Arc::new(connector.node(seed)?));
        }
        let shared = Arc::new(Shared {
            connector,
            seeds: nodes.values().cloned().collect(),
            map: ArcSwap::default(),
            nodes: Mutex::new(nodes),
            outdated: Notify::new(),
            failovers: AtomicU64::new(0),
        });
        let refreshing = tokio::spawn(refresh(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _refreshing: AbortOnDropHandle::new(refreshing),
        })
    }

    /// Runs the script at the master of `slot`, wherever it is.
    pub(super) async fn run(
        &self,
        slot: u16,
        call: &Call<'_>,
        mut within: Within,
    ) -> Result<Bytes, StoreError> {
        let Some(mut node) = self.shared.map.load().master(slot) else {
            self.shared.outdated.notify_one();
            return Err(self.no_master(slot));
        };
        let mut asking = false;
        for _ in 0..MAX_REDIRECTIONS {
            if within.length().is_zero() {
                break;
            }
            let answer = pin!(node.run(call, (Some(slot), asking), within)).await;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Failed(error)) => {
                    if !node.is_connected() {
                        self.shared.outdated.notify_one();
                    }
                    return Err(error);
                }
                Err(NoAnswer::TryAgain) => tokio::time::sleep(PAUSE).await,
                Err(NoAnswer::Moved(address)) => {
                    self.shared.outdated.notify_one();
                    (node, asking) = (self.follow(&address, &node, within.deadline).await?, false);
                }
                Err(NoAnswer::Ask(address)) => {
                    (node, asking) = (self.follow(&address, &node, within.deadline).await?, true);
                }
            }
            within = within.rest();
        }
        // Each answer said that nothing was executed.
        let reason = format!("slot {slot} is being moved");
        Err(StoreError::Unreachable(reason))
    }

    /// How often a server came to have slots that had none.
    pub(super) fn failovers(&self) -> u64 {
        self.shared.failovers.load(Ordering::Relaxed)
    }

    /// The masters, each once.
    pub(super) fn masters(&self) -> Vec<Arc<Node>> {
        self.shared.map.load().masters()
    }

    /// What the master of a slot is called, if it is known.
    pub(super) fn name_of(&self, slot: u16) -> Option<String> {
        let node = self.shared.map.load().master(slot)?;
        Some(node.name().to_owned())
    }

    /// See [`Node::prepare`].
    pub(super) fn prepare(&self) {
        self.shared
            .map
            .load()
            .0
            .iter()
            .for_each(|(_, _, node)| node.prepare());
    }

    /// See [`Node::watch`].
    pub(super) async fn watch(&self, slot: u16, key: &[u8], timeout: Duration) -> Option<Bytes> {
        let node = self.shared.map.load().master(slot)?;
        node.watch(key, timeout).await
    }

    /// Asks every master for a sign of life.
    pub(super) async fn ping(&self, timeout: Duration) -> Result<(), StoreError> {
        let map = self.shared.map.load_full();
        let Some(first) = map.first_gap() else {
            let masters = map.masters();
            let pings = masters.iter().map(|node| node.ping(timeout));
            let answers = futures::future::join_all(pings).await;
            return answers.into_iter().collect();
        };
        match self.shared.seeds.first() {
            Some(seed) if map.0.is_empty() => {
                seed.ping(timeout).await?;
                Err(self.no_master(first))
            }
            _ => Err(self.no_master(first)),
        }
    }

    /// The server that an answer of `from` points to, once it is connected.
    async fn follow(
        &self,
        address: &str,
        from: &Arc<Node>,
        deadline: Instant,
    ) -> Result<Arc<Node>, StoreError> {
        let unusable = || StoreError::Unreachable(format!("{} redirects nowhere", from.name()));
        // A server that does not know its own host names none.
        let address = match address.strip_prefix(':') {
            Some(port) => {
                let host = Address::from_str(from.name()).map_err(|_| unusable())?.host;
                let port = port.parse().map_err(|_| unusable())?;
                Address { host, port }
            }
            None => Address::from_str(address).map_err(|_| unusable())?,
        };
        let node = self.shared.node(&address).ok_or_else(unusable)?;
        while !node.is_connected() {
            if Instant::now() >= deadline {
                let reason = format!("{} is not connected yet", node.name());
                return Err(StoreError::Unreachable(reason));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(node)
    }

    fn no_master(&self, slot: u16) -> StoreError {
        StoreError::Unreachable(format!("no master is known for slot {slot} of the cluster"))
    }
}

impl Shared {
    /// The connection to `address`, begun if need be; none beyond the bound.
    fn node(&self, address: &Address) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(address) {
            return Some(Arc::clone(node));
        }
        if nodes.len() >= MAX_NODES {
            return None;
        }
        let node = Arc::new(self.connector.node(address).ok()?);
        nodes.insert(address.clone(), Arc::clone(&node));
        Some(node)
    }

    /// Asks the connected servers one after the other, masters first.
    async fn describe(&self) -> Option<Map> {
        let masters = self.map.load().masters();
        for node in masters.iter().chain(&self.seeds) {
            if !node.is_connected() {
                continue;
            }
            let Some(description) = node.cluster_slots(DESCRIBE).await else {
                continue;
            };
            if let Some(map) = self.read_map(description, node) {
                return Some(map);
            }
        }
        None
    }

    fn read_map(&self, description: Value, from: &Node) -> Option<Map> {
        let mut ranges = Vec::new();
        for range in description.into_array() {
            let mut range = range.into_array().into_iter();
            let first = u16::try_from(range.next()?.as_i64()?).ok()?;
            let last = u16::try_from(range.next()?.as_i64()?).ok()?;
            if first > last || last >= SLOTS {
                return None;
            }
            let mut master = range.next()?.into_array().into_iter();
            let host = master.next()?.into_string().filter(|host| !host.is_empty());
            let port = u16::try_from(master.next()?.as_i64()?).ok()?;
            let host = match host {
                Some(host) if host != "?" => host,
                _ => Address::from_str(from.name()).ok()?.host,
            };
            ranges.push((first, last, self.node(&Address { host, port })?));
        }
        ranges.sort_by_key(|(first, _, _)| *first);
        (!ranges.is_empty()).then_some(Map(ranges))
    }

    /// Leaves the servers that are neither a seed nor a master.
    fn forget_strangers(&self, map: &Map) {
        let names: HashSet<&str> = map.0.iter().map(|(_, _, node)| node.name()).collect();
        let known = |node: &Arc<Node>| {
            names.contains(node.name()) || self.seeds.iter().any(|seed| Arc::ptr_eq(seed, node))
        };
        self.nodes.lock().retain(|_, node| known(node));
    }
}

impl Map {
    fn master(&self, slot: u16) -> Option<Arc<Node>> {
        let after = self.0.partition_point(|(first, _, _)| *first <= slot);
        let (_, last, node) = self.0.get(after.checked_sub(1)?)?;
        (slot <= *last).then(|| Arc::clone(node))
    }

    fn masters(&self) -> Vec<Arc<Node>> {
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for (_, _, node) in &self.0 {
            if !masters.iter().any(|other| Arc::ptr_eq(other, node)) {
                masters.push(Arc::clone(node));
            }
        }
        masters
    }

    /// How many masters `next` has that are none here; none if nothing was known before.
    fn new_masters(&self, next: &Self) -> u64 {
        let known = self.masters();
        let is_new = |node: &&Arc<Node>| !known.iter().any(|other| other.name() == node.name());
        match known.is_empty() {
            true => 0,
            false => next.masters().iter().filter(is_new).count() as u64,
        }
    }

    /// The first slot that no master has.
    fn first_gap(&self) -> Option<u16> {
        let mut next = 0;
        for (first, last, _) in &self.0 {
            if *first > next {
                return Some(next);
            }
            next = last + 1;
        }
        (next < SLOTS).then_some(next)
    }
}

/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// Keeps the map as it is: looks again when a redirection has shown it to be outdated, and often while a master is missing.
async fn refresh(shared: Arc<Shared>) {
    loop {
        let described = shared.describe().await;
        let well = described.as_ref().is_some_and(|map| {
            map.first_gap().is_none() && map.masters().iter().all(|node| node.is_connected())
        });
        if let Some(map) = described {
            shared.forget_strangers(&map);
            let new = shared.map.load().new_masters(&map);
            shared.failovers.fetch_add(new, Ordering::Relaxed);
            shared.map.store(Arc::new(map));
        }
        tokio::time::sleep(REFRESH_PAUSE).await;
        let pause = if well { REFRESH } else { REFRESH_IN_TROUBLE };
        // Either way it is time to look again.
        let _ = tokio::time::timeout(pause, shared.outdated.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusals::Refusals;
    use super::super::settings::{Kind, Settings, Socket};
    use super::*;

    fn address(port: u16) -> Address {
        let host = "127.0.0.1".to_owned();
        Address { host, port }
    }

    /// A cluster of which nothing is known but a seed.
    fn cluster() -> Cluster {
        let settings = Settings::parse(Kind::Cluster, Socket::Tcp, "127.0.0.1:1");
        let settings = settings.expect("settings");
        let connector = Connector::new(&settings, Arc::new(Refusals::new()));
        Cluster::start(connector.expect("a connector"), &[address(1)]).expect("a cluster")
    }

    fn described(ranges: &[(i64, i64, u16)]) -> Value {
        let range = |(first, last, port): &(i64, i64, u16)| {
            let master = vec![Value::from("127.0.0.1"), Value::from(i64::from(*port))];
            Value::Array(vec![
                Value::from(*first),
                Value::from(*last),
                Value::Array(master),
            ])
        };
        Value::Array(ranges.iter().map(range).collect())
    }

    #[tokio::test]
    async fn no_more_servers_are_connected_to_than_may_be() {
        let cluster = cluster();
        let known = |port| cluster.shared.node(&address(port)).is_some();
        for port in 2..=MAX_NODES as u16 {
            assert!(known(port), "{port}");
        }
        assert!(!known(MAX_NODES as u16 + 1), "one beyond");
        assert!(known(1), "one of them");
    }

    #[tokio::test]
    async fn a_map_has_the_slots_that_there_are() {
        let shared = cluster().shared;
        let read = |ranges: &[_]| shared.read_map(described(ranges), &shared.seeds[0]);
        let map = read(&[(9000, 16_383, 2), (0, 8000, 1)]).expect("a map");
        assert_eq!(map.first_gap(), Some(8001));
        assert!(map.master(8000).is_some() && map.master(8001).is_none());
        assert_eq!(map.masters().len(), 2);
        let all = read(&[(0, 16_383, 1)]).expect("a map");
        assert_eq!(all.first_gap(), None);
        for nonsense in [(0, 16_384), (0, 65_535), (5, 4), (-1, 5)] {
            let (first, last) = nonsense;
            assert!(read(&[(first, last, 1)]).is_none(), "{nonsense:?}");
        }
    }
}
