//! A cluster of three masters.

use std::sync::OnceLock;

use tempfile::TempDir;
use tollgate::store::redis::settings::{Kind, Settings, Socket};

use super::{Admin, CALL_TIMEOUT, Server, free_port, until};

/// How long a server may be silent before the others take it for dead, in milliseconds.
const NODE_TIMEOUT_MS: &str = "2000";

pub(crate) const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

/// The servers: the masters, then the replica of each, if any.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) admins: Vec<Admin>,
}

impl Cluster {
    pub(crate) async fn start(with_replicas: bool) -> Self {
        let count = if with_replicas { 2 * MASTERS } else { MASTERS };
        let (mut servers, mut buses, mut admins) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let bus = free_port();
            buses.push(bus);
            servers.push(Server::on(
                free_port(),
                options(bus),
                TempDir::new().expect("a directory"),
            ));
        }
        for server in &servers {
            admins.push(server.admin().await);
        }
        let cluster = Self { servers, admins };
        cluster.join(&buses).await;
        cluster.assign_slots().await;
        if with_replicas {
            cluster.assign_replicas().await;
        }
        cluster.wait_until_well().await;
        cluster
    }

    pub(crate) fn settings(&self) -> Settings {
        let addresses: Vec<String> = self
            .servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        settings(&addresses.join(","))
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
