//! What a key of the embedded store costs in memory: the resident set of a process that holds many, and nothing else.
//!
//! Run it with `cargo bench --bench memory`. Each case is a process of its own, so that none finds memory that an earlier one
//! has left.

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::embedded::Embedded;
use tollgate::store::{Key, Transaction};
use tollgate::time::{Clock, Timestamp};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The most bytes a key.
const TARGET: f64 = 100.0;

/// How many keys.
const FILLS: [usize; 2] = [1_000_000, 10_000_000];

/// What each key is charged under.
const ALGORITHMS: [&str; 2] = ["fixed_window", "token_bucket"];

/// The bytes of a page of memory, the unit of `/proc/self/statm`.
const PAGE: usize = 4096;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--fill"), Some(algorithm)) => fill_here(&algorithm, arguments.next()),
        (_, _) => fill_all(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "memory: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for each case.
fn fill_all() -> io::Result<()> {
    let own = std::env::current_exe()?;
    let mut out = io::stdout();
    writeln!(out, "bytes a key by resident set; the target is {TARGET}")?;
    for keys in FILLS {
        for algorithm in ALGORITHMS {
            let filled = Command::new(&own)
                .args(["--fill", algorithm, &keys.to_string()])
                .output()?;
            let text = String::from_utf8_lossy(&filled.stdout);
            let bytes: usize = text.trim().parse().map_err(io::Error::other)?;
            let each = bytes as f64 / keys as f64;
            let mark = if each > TARGET { "  <-- too many" } else { "" };
            writeln!(out, "{keys:>9} keys  {algorithm:<12}  {each:6.1}{mark}")?;
        }
    }
    Ok(())
}

/// Prints by how many bytes the resident set grows as a store fills with `keys` keys.
fn fill_here(algorithm: &str, keys: Option<String>) -> io::Result<()> {
    let keys: usize = keys.unwrap_or_default().parse().map_err(io::Error::other)?;
    let algorithm = match algorithm {
        "token_bucket" => Algorithm::TokenBucket {
            burst: Hits::whole(10),
        },
        _ => Algorithm::FixedWindow,
    };
    let limit = Limit::new(10, Unit::Minute, 1, algorithm, &Zone::utc());
    let limit = limit.map_err(io::Error::other)?;
    let (clock, _) = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let before = resident()?;
    let store = Embedded::new(usize::MAX, clock);
    for number in 0..keys {
        charge(&store, &limit, &format!("user_id={number}"));
    }
    if store.len() != keys {
        return Err(io::Error::other(format!("{} keys", store.len())));
    }
    writeln!(io::stdout(), "{}", resident()?.saturating_sub(before))
}

/// One hit.
fn charge(store: &Embedded, limit: &Limit, name: &str) {
    let bound = Bound {
        limit,
        always: false,
    };
    let demand = Demand {
        key: 0,
        amount: Amount::Charge(Hits::ONE),
        role: Role::Enforced,
        limits: smallvec::smallvec![bound],
        ban: None,
        candidates: Vec::new(),
    };
    store.transact(&Transaction {
        keys: &[Key::new("edge:", name, "")],
        demands: &[demand],
        now: None,
        timeout: Duration::ZERO,
    });
}

/// The bytes of the resident set of this process.
fn resident() -> io::Result<usize> {
    let sizes = std::fs::read_to_string("/proc/self/statm")?;
    let pages = sizes.split(' ').nth(1).unwrap_or_default();
    let pages: usize = pages.parse().map_err(io::Error::other)?;
    Ok(pages * PAGE)
}
