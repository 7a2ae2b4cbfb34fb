//! The servers of a store: one or a cluster, and where among two of these a key lives.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::util::redis_keyslot;

use super::cluster::Cluster;
use super::connect::Connector;
use super::node::{Call, NoAnswer, Node};
use super::refusals::Refusals;
use super::settings::{Servers, Settings, SettingsError};
use super::within::Within;
use crate::store::StoreError;

/// Where a key lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Home {
    /// The hash slot in a cluster, where it is known already: see [`Home::slot_of`].
    pub(super) slot: Option<u16>,
    /// Whether it is among the servers for limits per second.
    pub(super) is_per_second: bool,
}

impl Home {
    /// The hash slot of a cluster in which `key` lives: to find it takes as long as finding the server by it.
    pub(super) fn slot_of(self, key: &[u8]) -> u16 {
        self.slot.unwrap_or_else(|| redis_keyslot(key))
    }
}

/// One server, or those of a cluster.
#[derive(Debug)]
pub(super) enum Connected {
    One(Box<Node>),
    Cluster(Cluster),
}

impl Connected {
    /// Begins to connect.
    pub(super) fn start(
        settings: &Settings,
        refusals: &Arc<Refusals>,
    ) -> Result<Self, SettingsError> {
        let connector = Connector::new(settings, Arc::clone(refusals))?;
        Ok(match &settings.servers {
            Servers::Cluster(seeds) => Connected::Cluster(Cluster::start(connector, seeds)?),
            one @ (Servers::Single(_) | Servers::Unix(_) | Servers::Sentinel { .. }) => {
                Connected::One(Box::new(connector.single(one)?))
            }
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Connected::Cluster(_))
    }

    /// Runs a script where its keys live.
    pub(super) async fn run(
        &self,
        home: Home,
        call: &Call<'_>,
        within: Within,
    ) -> Result<Bytes, StoreError> {
        match self {
            Connected::Cluster(cluster) => {
                let slot = call.keys.first().map_or(0, |key| home.slot_of(key));
                pin!(cluster.run(slot, call, within)).await
            }
            Connected::One(node) => match node.run(call, (None, false), within).await {
                Ok(answer) => Ok(answer),
                Err(NoAnswer::Failed(error)) => Err(error),
                Err(NoAnswer::Moved(_) | NoAnswer::Ask(_) | NoAnswer::TryAgain) => {
                    let reason = "the server belongs to a cluster: REDIS_TYPE must be cluster";
                    Err(StoreError::Refused(reason.to_owned()))
                }
            },
        }
    }

    /// See [`Node::watch`].
    pub(super) async fn watch(&self, home: Home, key: &[u8], timeout: Duration) -> Option<Bytes> {
        match self {
            Connected::Cluster(cluster) => cluster.watch(home.slot_of(key), key, timeout).await,
            Connected::One(node) => node.watch(key, timeout).await,
        }
    }

    /// In a cluster all masters must answer, and every slot must have one.
    pub(super) async fn ping(&self, timeout: Duration) -> Result<(), StoreError> {
        match self {
            Connected::One(node) => node.ping(timeout).await,
            Connected::Cluster(cluster) => cluster.ping(timeout).await,
        }
    }

    /// See [`Node::prepare`].
    pub(super) fn prepare(&self) {
        match self {
            Connected::One(node) => node.prepare(),
            Connected::Cluster(cluster) => cluster.prepare(),
        }
    }

    /// Calls `each` with every server that has keys.
    pub(super) fn each(&self, mut each: impl FnMut(&Node)) {
        match self {
            Connected::One(node) => each(node),
            Connected::Cluster(cluster) => {
                cluster.masters().iter().for_each(|node| each(node));
            }
        }
    }

    /// What the server of a slot is called, if it is known.
    pub(super) fn name_of(&self, slot: u16) -> Option<String> {
        match self {
            Connected::One(node) => Some(node.name().to_owned()),
            Connected::Cluster(cluster) => cluster.name_of(slot),
        }
    }

    /// How often another server took over.
    pub(super) fn failovers(&self) -> u64 {
        match self {
            Connected::One(node) => node.moves(),
            Connected::Cluster(cluster) => cluster.failovers(),
        }
    }
}
