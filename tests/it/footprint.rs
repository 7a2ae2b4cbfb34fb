//! What a key is said to take in memory is what it takes: in the embedded store of a process of its own, and in a real Redis.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use smallvec::SmallVec;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::Redis;
use tollgate::store::{Key, Transaction, footprint};
use tollgate::time::{Clock, Timestamp};

use crate::support::redis::{CALL_TIMEOUT, Server};

/// How far the estimate may be off.
const TOLERANCE: f64 = 0.2;

/// What says to a process how it is to fill a store.
const FILL: &str = "TOLLGATE_FILL";

const KINDS: [&str; 5] = ["window", "bucket", "sliding", "two", "four"];

fn limits(kind: &str) -> Vec<Limit> {
    let bucket = Algorithm::TokenBucket {
        burst: Hits::whole(10),
    };
    let of = |unit, algorithm| Limit::new(10, unit, 1, algorithm, &Zone::utc()).expect("a limit");
    let windows = [Unit::Hour, Unit::Day, Unit::Week, Unit::Month];
    let windows = windows.map(|unit| of(unit, Algorithm::FixedWindow));
    match kind {
        "window" => vec![of(Unit::Hour, Algorithm::FixedWindow)],
        "bucket" => vec![of(Unit::Hour, bucket)],
        "sliding" => vec![of(Unit::Hour, Algorithm::SlidingWindow)],
        "two" => vec![
            of(Unit::Hour, bucket),
            of(Unit::Month, Algorithm::FixedWindow),
        ],
        "four" => windows.into(),
        other => panic!("{other}"),
    }
}

fn key(number: usize) -> Key {
    Key::new("", &format!("edge|user_id={number:016}"), "|^")
}

fn demand(limits: &[Limit]) -> Demand<'_> {
    let bounds: SmallVec<[Bound<'_>; 2]> = limits
        .iter()
        .map(|limit| Bound {
            limit,
            always: false,
        })
        .collect();
    Demand {
        key: 0,
        amount: Amount::Charge(Hits::ONE),
        role: Role::Enforced,
        limits: bounds,
        ban: None,
        candidates: Vec::new(),
    }
}

fn holds(kind: &str, said: usize, measured: f64) {
    let off = (measured - said as f64).abs() / measured;
    assert!(
        off < TOLERANCE,
        "{kind}: said {said} bytes, measured {measured:.0}"
    );
}

#[test]
fn the_embedded_store_takes_what_is_said() {
    if let Some(kind) = std::env::var_os(FILL) {
        fill(&kind.to_string_lossy());
        return;
    }
    let own = std::env::current_exe().expect("this program");
    for kind in KINDS {
        let name = "footprint::the_embedded_store_takes_what_is_said";
        let filled = Command::new(&own)
            .args(["--exact", name, "--nocapture"])
            .env(FILL, kind)
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&filled.stdout).into_owned();
        let bytes = said
            .split("bytes=")
            .nth(1)
            .and_then(|rest| rest.split(';').next());
        let bytes: f64 = bytes
            .unwrap_or_else(|| panic!("{said}"))
            .parse()
            .expect("a number");
        holds(kind, footprint::embedded(&limits(kind)), bytes);
    }
}

/// Prints by how much the process grows for each key.
fn fill(kind: &str) {
    const KEYS: usize = 600_000;
    let (clock, _) = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let limits = limits(kind);
    let store = Embedded::new(usize::MAX, clock);
    let before = resident();
    for number in 0..KEYS {
        store.transact(&Transaction {
            keys: &[key(number)],
            demands: &[demand(&limits)],
            now: None,
            timeout: Duration::ZERO,
        });
    }
    let each = (resident() - before) as f64 / KEYS as f64;
    writeln!(std::io::stdout(), "bytes={each};").expect("a reader");
}

/// The bytes of the resident set of this process.
fn resident() -> usize {
    let sizes = std::fs::read_to_string("/proc/self/statm").expect("sizes");
    let pages = sizes.split(' ').nth(1).expect("a number");
    pages.parse::<usize>().expect("a number") * 4096
}

#[tokio::test]
async fn redis_takes_what_is_said() {
    // Well between two sizes of the tables, which take room twice while they grow.
    const KEYS: usize = 6_500;
    for kind in KINDS {
        let server = Server::start();
        let (store, admin) = (server.store().await, server.admin().await);
        let limits = limits(kind);
        let used = async || {
            let info = admin.run("INFO memory").await.as_string().expect("text");
            let of = |name: &str| {
                let line = info.lines().find_map(|line| line.strip_prefix(name));
                line.expect("a line")
                    .trim()
                    .parse::<f64>()
                    .expect("a number")
            };
            of("used_memory:")
        };
        // A sliding window has all its counts when hits have come in each of its parts.
        let times = if kind == "sliding" { 11 } else { 1 };
        charge(&store, &limits, 0..KEYS, times).await;
        let before = used().await;
        // What else a server takes stays.
        admin.run("FLUSHALL SYNC").await;
        let each = (before - used().await) / KEYS as f64;
        let said = footprint::redis(key(0).as_str().len(), &limits);
        holds(kind, said, each);
    }
}

/// Takes a hit of each key so many times, six minutes apart.
async fn charge(store: &Redis, limits: &[Limit], numbers: std::ops::Range<usize>, times: i64) {
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(100) {
        for time in 0..times {
            let calls = some.iter().map(|number| async move {
                let transaction = Transaction {
                    keys: &[key(*number)],
                    demands: &[demand(limits)],
                    now: Some(Timestamp::from_secs(1_900_000_000 + 360 * time)),
                    timeout: CALL_TIMEOUT,
                };
                store.transact(&transaction).await.expect("an outcome");
            });
            join_all(calls).await;
        }
    }
}
