//! The scripts say what the pure decision says, reading by reading.

use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, MAX_SLOTS, Record, Role, Slot};
use tollgate::limit::{Algorithm, Hits, Limit, Shape, State, Unit, fixed_window, token_bucket};
use tollgate::store::Key;
use tollgate::store::redis::Redis;
use tollgate::time::{Micros, Timestamp};

use super::{Map, key, limit, per_day, used};
use crate::support::redis::{Server, cluster, connected};
use crate::support::workload::{Step, Workload};

const SEEDS: u64 = 60;
const STEPS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_scripts_agree_with_the_pure_decision() {
    let server = Server::start();
    let store = server.store().await;
    let admin = server.admin().await;
    for seed in 0..SEEDS {
        // On the way the script must be loaded again.
        admin.run("SCRIPT FLUSH").await;
        let workload = Workload::new("parity", seed, true);
        let map = compare(&store, seed, workload, |step| step.demands.clone());
        for (key, record) in &map.0 {
            let stored = admin.get(key).await;
            assert!(stored == packed(record), "seed {seed}: {key} {record:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_slots_agree_with_the_pure_decision() {
    let store = connected(&cluster::shared()).await;
    for seed in 0..SEEDS {
        // A charge that is given back leaves the bucket filled up to then, at the rate of then: the same unless that changes.
        let workload = Workload::new("slots", seed, false).steady();
        compare(&store, seed, workload, without_refunds);
    }
    assert_eq!(store.lost_give_backs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refund_beside_other_slots_is_made_only_if_all_admit() {
    let store = connected(&cluster::shared()).await;
    let (refunded, charged) = (key("refunded"), key("charged beside a refund"));
    let limit = per_day(5);
    let keys = [refunded.clone(), charged.clone()];
    let start = Amount::Charge(Hits::whole(4));
    super::ask(&store, &keys, &limit, start)
        .await
        .expect("an outcome");
    for (hits, refunded_after) in [(2, 4), (1, 1)] {
        let amounts = [
            Amount::Refund(Hits::whole(3)),
            Amount::Charge(Hits::whole(hits)),
        ];
        let outcome = super::ask_each(&store, &keys, &limit, &amounts).await;
        assert_eq!(outcome.expect("an outcome").admitted, hits == 1);
        assert_eq!(used(&store, &refunded, &limit).await, refunded_after);
    }
    assert_eq!(used(&store, &charged, &limit).await, 5);
}

/// Of a charge that is given back a moment later a bucket keeps what has flowed in since, rounded up; a sliding window and a
/// bucket that were used before keep that.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_given_back_is_what_was_charged_and_no_more() {
    let store = connected(&cluster::shared()).await;
    let full = key("full beside");
    let burst = Hits::whole(10);
    let bucket = limit(1, Unit::Year, Algorithm::TokenBucket { burst });
    let sliding = limit(10, Unit::Year, Algorithm::SlidingWindow);
    let thousandth = Hits::from_thousandths(1);
    for (place, (limit, before, after)) in [
        (&bucket, 0, thousandth),
        (&bucket, 3, Hits::whole(3)),
        (&sliding, 0, Hits::ZERO),
        (&sliding, 3, Hits::whole(3)),
    ]
    .into_iter()
    .enumerate()
    {
        let keys = [key(&format!("given back {place}")), full.clone()];
        let peek = Amount::Peek(Hits::ZERO);
        let start = [Amount::Charge(Hits::whole(before)), peek];
        let outcome = super::ask_each(&store, &keys, limit, &start).await;
        assert!(outcome.expect("an outcome").admitted);
        // The other part can never have so many.
        let amounts = [
            Amount::Charge(Hits::whole(2)),
            Amount::Charge(Hits::whole(11)),
        ];
        let outcome = super::ask_each(&store, &keys, limit, &amounts).await;
        assert!(!outcome.expect("an outcome").admitted);
        let look = super::ask(&store, &keys[..1], limit, peek).await;
        let used = super::reading(&look.expect("an outcome")).used;
        assert_eq!(used, after, "case {place}");
    }
    assert_eq!(store.lost_give_backs(), 0);
}

/// What no call of now writes may stand there since a limit was higher, or counts without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_stands_there_of_other_limits_is_read_as_the_pure_decision_reads_it() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let burst = Hits::from_thousandths(5_000);
    let bucket = limit(7, Unit::Minute, Algorithm::TokenBucket { burst });
    let Shape::TokenBucket(rate) = bucket.shape() else {
        unreachable!("a bucket")
    };
    let meter = Limit::meter(Unit::Hour, &Zone::utc());
    let seen = Timestamp::from_secs(1_774_700_000);
    let mut cases: Vec<(&Limit, State)> = Vec::new();
    for used in [4_999, 5_000, 5_001, 9_000, 10_000, 10_001, 20_000] {
        for grains in [0, 1, rate.cost() - 1, rate.cost(), rate.cost() + 5] {
            let (used, at) = (Hits::from_thousandths(used), seen);
            let state = token_bucket::State { used, grains, at };
            cases.push((&bucket, State::TokenBucket(state)));
        }
    }
    let Shape::FixedWindow(windows) = meter.shape() else {
        unreachable!("windows")
    };
    // As many as may be, and as many as four bytes hold.
    let below_most = [2_000, 1_000, 999, 1, 0].map(|below| Hits::MAX_USED.thousandths() - below);
    let about_few = [2_001, 2_000, 1_001, 1_000, 1, 0].map(|below| (1 << 32) - below);
    for used in below_most.into_iter().chain(about_few) {
        let used = Hits::from_thousandths(used);
        let end = windows.end(seen);
        cases.push((
            &meter,
            State::FixedWindow(fixed_window::State { end, used }),
        ));
    }
    // What is charged always does not go the usual way.
    let cases = cases.iter().flat_map(|case| [(case, false), (case, true)]);
    for (place, ((limit, state), always)) in cases.enumerate() {
        let key = key(&format!("stands {place}"));
        let expires = seen + Micros::from_secs(3600);
        let slot = Slot {
            tag: limit.tag(),
            expires,
            state: state.clone(),
        };
        let slots = std::iter::once(slot).collect();
        let record = Record { seen, slots };
        admin.set(key.as_str(), &packed(&record)).await;
        let mut map = Map::default();
        map.0.insert(key.as_str().to_owned(), record);
        // The grains that there were are felt by when the next whole hit has flowed in.
        for (after, hits) in [(0, 1), (1, 1), (30_000_000, 1), (60_000_000, 2)] {
            let now = seen + Micros::new(after);
            let step = step(&key, limit, always, Hits::whole(hits), now);
            let wanted = map.transact(&step.transaction());
            let found = store.transact(&step.transaction()).await;
            let found = found.expect("an outcome");
            assert!(
                wanted == found,
                "{state:?} after {after}: {}",
                step.explain(&wanted, &found)
            );
            let left = &map.0[key.as_str()];
            let stored = admin.get(key.as_str()).await;
            let same = stored == packed(left);
            assert!(same, "{state:?} after {after} leaves {left:?}");
        }
    }
}

/// More limits than a record holds, one after the other: the one that is soonest fresh makes way.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_holds_no_more_limits_than_may_be() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let key = key("many limits");
    let mut map = Map::default();
    let mut now = Timestamp::from_secs(1_774_700_000);
    for n in 0..3 * MAX_SLOTS {
        // Longer and shorter ones in turn, of which some are fresh again meanwhile.
        let multiplier = 1 + (n as u32 * 17) % 40;
        let limit = Limit::new(
            9,
            Unit::Minute,
            multiplier,
            Algorithm::FixedWindow,
            &Zone::utc(),
        );
        let limit = limit.expect("a limit");
        let step = step(&key, &limit, false, Hits::ONE, now);
        let wanted = map.transact(&step.transaction());
        let found = store.transact(&step.transaction()).await;
        let found = found.expect("an outcome");
        assert!(wanted == found, "{n}: {}", step.explain(&wanted, &found));
        let left = &map.0[key.as_str()];
        assert!(left.slots.len() <= MAX_SLOTS);
        let stored = admin.get(key.as_str()).await;
        assert!(stored == packed(left), "{n}: {left:?}");
        now = now + Micros::from_secs(7);
    }
    assert_eq!(map.0[key.as_str()].slots.len(), MAX_SLOTS);
}

/// One charge.
fn step<'l>(key: &Key, limit: &'l Limit, always: bool, hits: Hits, now: Timestamp) -> Step<'l> {
    let bound = Bound { limit, always };
    Step {
        keys: vec![key.clone()],
        demands: vec![Demand {
            key: 0,
            amount: Amount::Charge(hits),
            role: Role::Enforced,
            limits: std::iter::once(bound).collect(),
            ban: None,
            candidates: Vec::new(),
        }],
        now,
    }
}

/// A record as Redis has it.
fn packed(record: &Record) -> Vec<u8> {
    let slots = record.slots.iter().flat_map(packed_slot);
    std::iter::once(3)
        .chain(moment(record.seen))
        .chain(slots)
        .collect()
}

fn packed_slot(slot: &Slot) -> Vec<u8> {
    let tag = slot.tag.get().to_le_bytes().to_vec();
    let expires = moment(slot.expires);
    match &slot.state {
        State::FixedWindow(state) => {
            let (seconds, used) = (
                state.end.as_micros() / 1_000_000,
                seven(state.used.thousandths()),
            );
            // What four bytes do not hold has seven, and the end's highest bit says so.
            let is_few = used[4..] == [0; 3];
            let seconds = if is_few { seconds } else { seconds | 1 << 39 };
            let used = if is_few { &used[..4] } else { &used[..] };
            [&tag, &seconds.to_le_bytes()[..5], used].concat()
        }
        State::TokenBucket(state) => {
            let (used, grains) = (seven(state.used.thousandths()), seven(state.grains));
            [tag, expires, used, grains, moment(state.at)].concat()
        }
        State::SlidingWindow(state) => {
            let counts = state.counts.iter().map(|count| count.thousandths());
            let counts: Vec<u64> = counts.collect();
            let stored = counts
                .iter()
                .rposition(|count| *count > 0)
                .map_or(0, |n| n + 1);
            let largest = counts.iter().max().copied().unwrap_or(0);
            let width = (1..=7)
                .find(|width| largest < 1 << (8 * width))
                .expect("a width");
            let newest = seven(state.newest as u64);
            let counts = counts[..stored].iter();
            let counts = counts.flat_map(|count| count.to_le_bytes()[..width].to_vec());
            let head = vec![stored as u8, width as u8];
            [tag, expires, newest, head, counts.collect()].concat()
        }
        State::Ban(state) => {
            let refusals = state.refusals.to_le_bytes().to_vec();
            let times = vec![u8::try_from(state.times).expect("few")];
            [
                tag,
                expires,
                moment(state.end),
                refusals,
                moment(state.until),
                times,
            ]
            .concat()
        }
    }
}

fn seven(number: u64) -> Vec<u8> {
    number.to_le_bytes()[..7].to_vec()
}

fn moment(moment: Timestamp) -> Vec<u8> {
    seven(moment.as_micros() as u64)
}

/// Runs a workload on `store` and on a map, its demands as `choose` makes them.
fn compare(
    store: &Redis,
    seed: u64,
    mut workload: Workload,
    choose: impl for<'l> Fn(&Step<'l>) -> Vec<Demand<'l>>,
) -> Map {
    let mut map = Map::default();
    for step in 0..STEPS {
        let outcome = workload.next(|this| {
            let keys: Vec<Key> = this.keys.clone();
            let this = Step {
                keys,
                demands: choose(this),
                now: this.now,
            };
            let wanted = map.transact(&this.transaction());
            let found = wait_for(store.transact(&this.transaction())).expect("an outcome");
            assert!(
                wanted == found,
                "seed {seed}, step {step}: {}",
                this.explain(&wanted, &found)
            );
            wanted
        });
        workload.note(&outcome);
    }
    map
}

/// Refunds that are held back read the state before them.
fn without_refunds<'l>(step: &Step<'l>) -> Vec<Demand<'l>> {
    let mut demands = step.demands.clone();
    for demand in &mut demands {
        if let Amount::Refund(hits) = demand.amount {
            demand.amount = Amount::Charge(hits);
        }
    }
    demands
}

/// Waits within a function that is not async.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
