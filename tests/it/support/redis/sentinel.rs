//! A master, a replica, and sentinels that watch them.

use std::fs;

use tempfile::TempDir;
use tollgate::store::redis::settings::{Kind, Settings, Socket};

use super::{Admin, CALL_TIMEOUT, Server, free_port, until};

/// What the sentinels call the master.
pub(crate) const NAME: &str = "tollgate";

const SENTINELS: usize = 3;

#[derive(Debug)]
pub(crate) struct Sentinel {
    pub(crate) master: Server,
    pub(crate) replica: Server,
    sentinels: Vec<Server>,
}

impl Sentinel {
    pub(crate) async fn start() -> Self {
        let master = Server::with(&["--repl-diskless-sync-delay", "0"]);
        let of = master.port.to_string();
        let replica = Server::with(&["--replicaof", &format!("127.0.0.1 {of}")]);
        let copy = replica.admin().await;
        until("the replica is up to date", async || {
            copy.text("INFO replication")
                .await
                .contains("master_link_status:up")
        })
        .await;
        let sentinels = (0..SENTINELS).map(|_| sentinel(master.port)).collect();
        let this = Self {
            master,
            replica,
            sentinels,
        };
        for sentinel in &this.sentinels {
            let admin = Admin::connect(sentinel.port).await;
            until("the sentinels know all", async || {
                let info = admin.text("INFO sentinel").await;
                info.contains("slaves=1") && info.contains(&format!("sentinels={SENTINELS}"))
            })
            .await;
        }
        this
    }

    pub(crate) fn settings(&self) -> Settings {
        let sentinels = self.sentinels.iter();
        let addresses: Vec<String> = sentinels
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
            .collect();
        let url = format!("{NAME},{}", addresses.join(","));
        let mut settings = Settings::parse(Kind::Sentinel, Socket::Tcp, &url).expect("settings");
        settings.timeout = CALL_TIMEOUT;
        settings
    }
}

fn sentinel(master: u16) -> Server {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("sentinel.conf");
    let config = format!(
        "sentinel monitor {NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {NAME} 1000\n\
         sentinel failover-timeout {NAME} 5000\n"
    );
    fs::write(&file, config).expect("a file");
    Server::sentinel(free_port(), &file.display().to_string(), directory)
}
