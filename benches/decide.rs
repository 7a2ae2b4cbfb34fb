//! What each step of a decision takes, and a script call to Redis. Finding the rule is in `matching`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::{Kind, Settings, Socket};
use tollgate::store::{Key, Transaction};

mod parts;
mod support;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long Redis may take when something else is busy.
const PATIENCE: Duration = Duration::from_secs(1);

fn steps(criterion: &mut Criterion) {
    for mut part in parts::deciding().into_iter().chain(parts::whole()) {
        let mut place = 0;
        criterion.bench_function(part.name, |bencher| {
            bencher.iter(|| {
                place += 1;
                (part.run)(place);
            });
        });
    }
}

/// One call after the other over a socket of this machine, so it is latency and not throughput, which `benches/run` measures.
fn script(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let server = Server::start();
    let store = server.connect(&runtime);
    let minute = |multiplier, algorithm| {
        Limit::new(
            4_000_000_000,
            Unit::Minute,
            multiplier,
            algorithm,
            &Zone::utc(),
        )
    };
    let burst = Hits::whole(1_000_000);
    let windows: Vec<Limit> = (1..=4)
        .map(|multiplier| minute(multiplier, Algorithm::FixedWindow).expect("a limit"))
        .collect();
    let bucket = Limit::new(
        1_000_000,
        Unit::Second,
        1,
        Algorithm::TokenBucket { burst },
        &Zone::utc(),
    );
    let sliding = minute(1, Algorithm::SlidingWindow);
    let cases = [
        ("script/fixed_window", windows[..1].to_vec()),
        ("script/four_windows", windows),
        ("script/token_bucket", vec![bucket.expect("a limit")]),
        ("script/sliding_window", vec![sliding.expect("a limit")]),
    ];
    criterion.bench_function("script/ping", |bencher| {
        bencher.iter(|| runtime.block_on(store.ping()).expect("an answer"));
    });
    for (name, limits) in cases {
        let bound = |limit| Bound {
            limit,
            always: false,
        };
        let demand = Demand {
            key: 0,
            amount: Amount::Charge(Hits::ONE),
            role: Role::Enforced,
            limits: limits.iter().map(bound).collect(),
            ban: None,
            candidates: Vec::new(),
        };
        let transaction = Transaction {
            keys: &[Key::new("", name, "")],
            demands: &[demand],
            now: None,
            timeout: PATIENCE,
        };
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let outcome = runtime.block_on(store.transact(&transaction));
                // Refusals are decided from memory.
                assert!(outcome.expect("an outcome").admitted);
            });
        });
    }
}

/// A Redis on a socket; it ends with this.
struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .args(["--unixsocket", "redis.sock"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which tests/tools/install installs");
        Self { child, dir }
    }

    fn connect(&self, runtime: &Runtime) -> Redis {
        let socket = self.dir.path().join("redis.sock");
        let path = socket.to_str().expect("text");
        let settings = Settings::parse(Kind::Single, Socket::Unix, path);
        let settings = Settings {
            timeout: PATIENCE,
            ..settings.expect("settings")
        };
        runtime.block_on(async {
            let store = Redis::connect(&settings).expect("settings");
            while store.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let prepared = tokio::time::timeout(Duration::from_secs(1), store.prepare());
            assert!(prepared.await.is_err(), "it goes on for ever");
            store
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

criterion_group!(benches, steps, script);
criterion_main!(benches);
