//! A slot moves to another master, with its keys, under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;
use tollgate::limit::transaction::Amount;
use tollgate::limit::{Hits, Limit};
use tollgate::store::redis::Redis;
use tollgate::store::{Key, StoreError};

use super::{ask, charge, per_day, used};
use crate::support::poll::pause;
use crate::support::redis::cluster::{Cluster, MASTERS};
use crate::support::redis::connected;

const KEYS: usize = 20;

/// What became of the charges of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    made: u64,
    unknown: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moving_slot_loses_and_doubles_nothing() {
    let cluster = Cluster::start(false).await;
    let store = Arc::new(connected(&cluster.settings()).await);
    let keys: Vec<Key> = (0..KEYS).map(moving).collect();
    let limit = per_day(1_000_000);
    for key in &keys[..KEYS / 2] {
        charge(&store, key, &limit).await.expect("an outcome");
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut traffic = JoinSet::new();
    for task in 0..4 {
        traffic.spawn(keep_charging(Arc::clone(&store), task, Arc::clone(&done)));
    }
    move_slot(&cluster, &store).await;
    done.store(true, Ordering::Relaxed);
    let mut tallies = [Tally::default(); KEYS];
    for tally in &mut tallies[..KEYS / 2] {
        tally.made = 1;
    }
    for (n, tally) in traffic.join_all().await.into_iter().flatten() {
        tallies[n].made += tally.made;
        tallies[n].unknown += tally.unknown;
    }
    for (key, tally) in keys.iter().zip(tallies) {
        let found = used(&store, key, &limit).await;
        let most = tally.made + tally.unknown;
        assert!(
            (tally.made..=most).contains(&found),
            "{key:?}: {found} of {tally:?}"
        );
    }
}

/// Two masters that take each other for the owner of a slot.
#[tokio::test]
async fn redirections_in_a_circle_end() {
    let cluster = Cluster::start(false).await;
    let store = connected(&cluster.settings()).await;
    let slot = cluster.slot_of(moving(0).as_str()).await;
    let one = Cluster::first_master(slot);
    let other = (one + 1) % MASTERS;
    for (of, owner) in [(other, one), (one, other)] {
        let owner = cluster.id(owner).await;
        let set = format!("CLUSTER SETSLOT {slot} NODE {owner}");
        cluster.admins[of].run(&set).await;
    }
    let limit = per_day(5);
    let lost = charge(&store, &moving(0), &limit).await;
    let lost = lost.expect_err("it has no owner");
    assert!(lost.to_string().contains("is being moved"), "{lost}");
    let elsewhere = Key::new("", "elsewhere", "");
    let outcome = charge(&store, &elsewhere, &limit).await;
    outcome.expect("other slots are where they were");
}

/// Keys of one slot.
fn moving(n: usize) -> Key {
    Key::new("", "moving", &format!("{n}"))
}

/// Charges single keys and pairs until it is told to stop.
async fn keep_charging(
    store: Arc<Redis>,
    task: usize,
    done: Arc<AtomicBool>,
) -> Vec<(usize, Tally)> {
    let mut tallies = vec![Tally::default(); KEYS];
    let limit: Limit = per_day(1_000_000);
    let mut turn = task;
    while !done.load(Ordering::Relaxed) {
        turn += 1;
        let mut places = vec![turn * 7 % KEYS];
        if turn.is_multiple_of(3) {
            places.push((places[0] + 1) % KEYS);
        }
        let keys: Vec<Key> = places.iter().map(|&n| moving(n)).collect();
        match ask(&store, &keys, &limit, Amount::Charge(Hits::ONE)).await {
            Ok(_) => places.iter().for_each(|&n| tallies[n].made += 1),
            Err(StoreError::Timeout) => places.iter().for_each(|&n| tallies[n].unknown += 1),
            // Half of a pair has moved: nothing was executed.
            Err(StoreError::Unreachable(_)) if places.len() > 1 => pause().await,
            Err(other) => panic!("{other}"),
        }
    }
    tallies.into_iter().enumerate().collect()
}

/// Moves the slot key by key, as an operator's tool does.
async fn move_slot(cluster: &Cluster, store: &Redis) {
    let slot = cluster.slot_of(moving(0).as_str()).await;
    let from = Cluster::first_master(slot);
    let to = (from + 1) % MASTERS;
    cluster.move_keys(slot, from, to).await;
    // All keys have moved and the slot has not: only a question with ASKING is answered.
    let asked = charge(store, &Key::new("", "moving", "asked"), &per_day(5)).await;
    asked.expect("an outcome");
    cluster.settle_slot(slot, from, to).await;
    let moved = charge(store, &Key::new("", "moving", "asked"), &per_day(5)).await;
    assert_eq!(super::reading(&moved.expect("an outcome")).used, Hits::ONE);
}
