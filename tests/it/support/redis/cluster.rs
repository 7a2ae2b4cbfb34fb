//! A cluster of three masters.

use std::sync::OnceLock;

use tempfile::TempDir;
use tollgate::store::redis::settings::{Kind, Settings, Socket};

use super::{Admin, CALL_TIMEOUT, Server, free_port, until};
use crate::support::poll::pause;
use crate::support::proxy::Proxy;

/// How long a server may be silent before the others take it for dead, in milliseconds.
const NODE_TIMEOUT_MS: &str = "2000";

pub(crate) const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

/// The servers: the masters, then the replica of each, if any.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) admins: Vec<Admin>,
    /// What clients are led through to each server, if anything.
    pub(crate) proxies: Vec<Proxy>,
}

impl Cluster {
    pub(crate) async fn start(with_replicas: bool) -> Self {
        Self::build(with_replicas, None).await
    }

    /// A cluster that tells its clients to come through a proxy to each server.
    pub(crate) async fn behind_proxies(with_replicas: bool, seed: u64) -> Self {
        Self::build(with_replicas, Some(seed)).await
    }

    async fn build(with_replicas: bool, proxies_by: Option<u64>) -> Self {
        let count = if with_replicas { 2 * MASTERS } else { MASTERS };
        let (mut servers, mut buses, mut admins) = (Vec::new(), Vec::new(), Vec::new());
        let mut proxies = Vec::new();
        for n in 0..count {
            let (port, bus) = (free_port(), free_port());
            let mut options = options(bus);
            if let Some(seed) = proxies_by {
                let proxy = Proxy::to(port, seed + n as u64);
                let announced = [
                    ("--cluster-announce-ip", "127.0.0.1".to_owned()),
                    ("--cluster-announce-port", proxy.port.to_string()),
                    ("--cluster-announce-bus-port", bus.to_string()),
                ];
                let announced = announced.into_iter();
                options.extend(announced.flat_map(|(name, value)| [name.to_owned(), value]));
                proxies.push(proxy);
            }
            buses.push(bus);
            let directory = TempDir::new().expect("a directory");
            servers.push(Server::on(port, options, directory));
        }
        for server in &servers {
            admins.push(server.admin().await);
        }
        let cluster = Self {
            servers,
            admins,
            proxies,
        };
        cluster.join(&buses).await;
        cluster.assign_slots().await;
        if with_replicas {
            cluster.assign_replicas().await;
        }
        cluster.wait_until_well().await;
        cluster
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(&self.addresses())
    }

    /// Where its clients come to.
    pub(crate) fn addresses(&self) -> String {
        let servers = self.servers.iter().map(|server| server.port);
        let proxies: Vec<u16> = self.proxies.iter().map(|proxy| proxy.port).collect();
        let ports = if proxies.is_empty() {
            servers.collect()
        } else {
            proxies
        };
        let addresses: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        addresses.join(",")
    }

    /// Moves the keys of a slot one by one, as an operator's tool does; then all of them have moved and the slot has not.
    pub(crate) async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (from_id, to_id) = (self.id(from).await, self.id(to).await);
        let (source, target) = (&self.admins[from], &self.admins[to]);
        target
            .run(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"))
            .await;
        source
            .run(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"))
            .await;
        let port = self.servers[to].port;
        loop {
            let keys = source.run(&format!("CLUSTER GETKEYSINSLOT {slot} 1")).await;
            let Some(key) = keys.into_array().into_iter().next() else {
                break;
            };
            let key = key.into_string().expect("a key");
            source
                .send(&["MIGRATE", "127.0.0.1", &port.to_string(), &key, "0", "5000"])
                .await
                .expect("it moves");
            pause().await;
        }
    }

    /// Ends the move of a slot.
    pub(crate) async fn settle_slot(&self, slot: u16, from: usize, to: usize) {
        let id = self.id(to).await;
        for server in [to, from] {
            let settle = format!("CLUSTER SETSLOT {slot} NODE {id}");
            self.admins[server].run(&settle).await;
        }
    }

    /// The name that the cluster has for a server.
    pub(crate) async fn id(&self, server: usize) -> String {
        self.admins[server].text("CLUSTER MYID").await
    }

    /// The place of the master that `slot` is first given to.
    pub(crate) fn first_master(slot: u16) -> usize {
        (0..MASTERS)
            .find(|&master| usize::from(slot) < end(master))
            .expect("a master")
    }

    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        let slot = self.admins[MASTERS - 1]
            .send(&["CLUSTER", "KEYSLOT", key])
            .await;
        let slot = slot.expect("a slot").as_i64().expect("a number");
        u16::try_from(slot).expect("a slot")
    }

    async fn join(&self, buses: &[u16]) {
        for (server, bus) in self.servers.iter().zip(buses) {
            let port = server.port;
            let meet = format!("CLUSTER MEET 127.0.0.1 {port} {bus}");
            self.admins[0].run(&meet).await;
        }
        for admin in &self.admins {
            let all = format!("cluster_known_nodes:{}", self.servers.len());
            until("the servers know each other", async || {
                admin.text("CLUSTER INFO").await.contains(&all)
            })
            .await;
        }
    }

    async fn assign_slots(&self) {
        for master in 0..MASTERS {
            let first = if master == 0 { 0 } else { end(master - 1) };
            let last = end(master) - 1;
            let add = format!("CLUSTER ADDSLOTSRANGE {first} {last}");
            self.admins[master].run(&add).await;
        }
    }

    async fn assign_replicas(&self) {
        for master in 0..MASTERS {
            let replicate = format!("CLUSTER REPLICATE {}", self.id(master).await);
            let replica = &self.admins[MASTERS + master];
            until("the replica knows its master", async || {
                replica.try_run(&replicate).await.is_ok()
            })
            .await;
            until("the replica is up to date", async || {
                replica
                    .text("INFO replication")
                    .await
                    .contains("master_link_status:up")
            })
            .await;
        }
    }

    async fn wait_until_well(&self) {
        for admin in &self.admins {
            until("the cluster is well", async || {
                admin
                    .text("CLUSTER INFO")
                    .await
                    .contains("cluster_state:ok")
            })
            .await;
        }
    }
}

/// The settings for a cluster that all tests share. It lives as long as the process, and dies with it.
pub(crate) fn shared() -> Settings {
    static ADDRESSES: OnceLock<String> = OnceLock::new();
    let addresses = ADDRESSES.get_or_init(|| {
        let (told, hear) = std::sync::mpsc::channel();
        // The servers are told to end when the thread that started them ends, so this one must not be a test's.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let cluster = runtime.block_on(Cluster::start(true));
            let addresses = cluster.servers.iter().take(MASTERS);
            let addresses: Vec<String> = addresses
                .map(|server| format!("127.0.0.1:{}", server.port))
                .collect();
            told.send(addresses.join(",")).expect("somebody waits");
            loop {
                std::thread::park();
            }
        });
        hear.recv().expect("a cluster")
    });
    settings(addresses)
}

fn settings(addresses: &str) -> Settings {
    let mut settings = Settings::parse(Kind::Cluster, Socket::Tcp, addresses).expect("settings");
    settings.timeout = CALL_TIMEOUT;
    settings
}

fn options(bus: u16) -> Vec<String> {
    [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus.to_string(),
        "--cluster-node-timeout",
        NODE_TIMEOUT_MS,
        "--repl-diskless-sync-delay",
        "0",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The first slot after those of `master`.
fn end(master: usize) -> usize {
    SLOTS * (master + 1) / MASTERS
}
