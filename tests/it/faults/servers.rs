//! One server that does not do what it should.

use std::time::Duration;

use super::Trial;
use crate::support::redis::{Server, until};

const LASTS: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server() {
    let server = Server::start();
    let trial = Trial::on_port("paused clients", server.port).await;
    let admin = server.admin().await;
    admin.run("CLIENT PAUSE 3000 ALL").await;
    trial.until_open().await;
    trial.endure(LASTS / 3).await;
    trial.conclude().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process() {
    let server = Server::start();
    let trial = Trial::on_port("a stopped process", server.port).await;
    server.signal("-STOP");
    trial.until_open().await;
    trial.endure(LASTS * 2).await;
    server.signal("-CONT");
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_memory() {
    let server = Server::start();
    let trial = Trial::on_port("no memory", server.port).await;
    let admin = server.admin().await;
    admin.run("CONFIG SET maxmemory-policy noeviction").await;
    admin.run("CONFIG SET maxmemory 1").await;
    trial.endure(LASTS).await;
    admin.run("CONFIG SET maxmemory 0").await;
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
    assert!(tally.because("fallback_deny") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_become_a_replica() {
    let (server, master) = (Server::start(), Server::start());
    let trial = Trial::on_port("a replica", server.port).await;
    let (admin, other) = (server.admin().await, master.admin().await);
    // It stays one, with its keys, without a master to copy from.
    master.signal("-STOP");
    admin
        .run(&format!("REPLICAOF 127.0.0.1 {}", master.port))
        .await;
    trial.endure(LASTS).await;
    admin.run("REPLICAOF NO ONE").await;
    master.signal("-CONT");
    until("the other is well", async || {
        other.try_run("PING").await.is_ok()
    })
    .await;
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_its_scripts() {
    let server = Server::start();
    let trial = Trial::on_port("forgotten scripts", server.port).await;
    let admin = server.admin().await;
    for _ in 0..20 {
        admin.run("SCRIPT FLUSH").await;
        trial.endure(Duration::from_millis(50)).await;
    }
    let tally = trial.conclude().await;
    // It is loaded anew each time: without that nearly all were denied. On a busy machine some calls are late.
    let (by_store, denied) = (
        tally.because("within_limit"),
        tally.because("fallback_deny"),
    );
    assert!(denied * 10 < by_store, "{denied}, {by_store}");
}
