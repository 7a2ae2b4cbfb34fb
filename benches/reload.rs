//! What reading 100,000 rules costs, and what requests notice of it.

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use hdrhistogram::Histogram;
use smallvec::smallvec;
use support::{DOMAIN, Lookups, Shape};
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::Notify;
use tollgate::engine::{Caller, Engine, Request};
use tollgate::grpc::wire;
use tollgate::reload::{Reloader, Source};
use tollgate::rules::Descriptor;
use tollgate::rules::compile::{self, Options};

mod support;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many rules there are.
const RULES: usize = 100_000;

/// Files of one domain are one.
const OPTIONS: Options = Options {
    merge_domains: true,
    lints: false,
};

/// How long requests are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// From text to rules.
fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for (name, shape, files) in [
        ("exact in 1 file", Shape::Exact, 1),
        ("exact in 100 files", Shape::Exact, 100),
        ("nested in 1 file", Shape::Nested, 1),
        ("cidr in 1 file", Shape::Cidr, 1),
        ("prefix in 1 file", Shape::Prefix, 1),
    ] {
        let files = support::generate(shape, RULES).files(files);
        assert!(compile::compile(&files, OPTIONS).is_ok_and(|rules| rules.rules.len() == RULES));
        group.bench_function(name, |bencher| {
            let compile = || compile::compile(black_box(&files), OPTIONS);
            bencher.iter_with_large_drop(compile);
        });
    }
    group.finish();
}

/// From files to the engine.
fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for files in [1, 100] {
        let (_dir, _, reloader) = reloader(files);
        group.bench_function(format!("exact in {files} files"), |bencher| {
            bencher.iter(|| reloader.load().expect("the rules are good"));
        });
    }
    group.finish();
}

/// How long requests take on a runtime with one thread, which also watches the rules: while these stay, beside a thread that
/// is as busy as one that loads them, and while they are loaded again and again.
#[allow(clippy::print_stdout, reason = "the result")]
fn meanwhile() {
    let (_dir, engine, reloader) = reloader(1);
    reloader.load().expect("the rules are good");
    let lookups = support::generate(Shape::Exact, RULES).lookups();
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for beside in [Beside::Nothing, Beside::Work, Beside::Loading] {
        let took = runtime.block_on(requests(&engine, &lookups, &reloader, beside));
        println!(
            "beside {beside:?}: {} loads, {} requests\n  by the clock      {}\n  with a processor  {}",
            took.loads,
            took.by_clock.len(),
            line(&took.by_clock),
            line(&took.with_processor),
        );
    }
}

fn line(took: &Histogram<u64>) -> String {
    let quantiles = [
        ("median", 0.5),
        ("p99.9", 0.999),
        ("p99.99", 0.9999),
        ("worst", 1.0),
    ];
    let micros = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
    let shown = quantiles.map(|(name, quantile)| format!("{name} {:.1} µs", micros(quantile)));
    shown.join(", ")
}

/// What else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Work,
    Loading,
}

/// How long requests took, in nanoseconds, each with what else the runtime did before the next.
struct Took {
    by_clock: Histogram<u64>,
    /// The same without the time in which the thread could have run and had no processor: on a busy machine that is most of
    /// the tail, and says nothing about what runs.
    with_processor: Histogram<u64>,
    loads: usize,
}

async fn requests(
    engine: &Arc<Engine>,
    lookups: &Lookups,
    reloader: &Arc<Reloader>,
    beside: Beside,
) -> Took {
    let mut took = Took {
        by_clock: Histogram::new(3).expect("a histogram"),
        with_processor: Histogram::new(3).expect("a histogram"),
        loads: 0,
    };
    let ends = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ends);
    let worker = std::thread::spawn(move || {
        while beside == Beside::Work && !end.load(Ordering::Relaxed) {
            black_box(());
        }
    });
    let asked = Arc::new(Notify::new());
    let watch = tokio::spawn(Arc::clone(reloader).watch(Arc::clone(&asked)));
    let schedule = fs::File::open("/proc/thread-self/schedstat").expect("a Linux kernel");
    let mut rules = first_rule(engine);
    if beside == Beside::Loading {
        asked.notify_one();
    }
    let until = Instant::now() + WATCHED;
    for place in 0.. {
        let (waited_before, begun) = (waited(&schedule), Instant::now());
        if begun > until {
            break;
        }
        let (entries, length) = lookups.entries(place);
        let request = Request {
            domain: DOMAIN,
            hits_addend: 1,
            descriptors: smallvec![Descriptor {
                entries: entries[..length].into(),
                ..Descriptor::default()
            }],
        };
        let caller = Caller {
            begun,
            ..Caller::here()
        };
        let told = engine.check_for(&request, caller, wire::framed_draft).await;
        black_box(told.expect("an answer"));
        tokio::task::yield_now().await;
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let with_processor = nanos.saturating_sub(waited(&schedule) - waited_before);
        took.by_clock.record(nanos).expect("it grows");
        took.with_processor
            .record(with_processor)
            .expect("it grows");
        let rules_now = first_rule(engine);
        if rules_now != rules {
            (took.loads, rules) = (took.loads + 1, rules_now);
            asked.notify_one();
        }
    }
    watch.abort();
    ends.store(true, Ordering::Relaxed);
    worker.join().expect("the thread ends");
    took
}

/// For how long a thread has waited for a processor, in nanoseconds: the second number of its `schedstat`.
fn waited(schedule: &fs::File) -> u64 {
    let mut text = [0; 64];
    let length = schedule.read_at(&mut text, 0).expect("its schedule");
    let text = std::str::from_utf8(&text[..length]).expect("numbers");
    let second = text.split_ascii_whitespace().nth(1);
    second.expect("a number").parse().expect("a number")
}

/// Where the first rule is in memory: elsewhere after each load.
fn first_rule(engine: &Engine) -> Option<usize> {
    engine.with_rules(|rules| Arc::as_ptr(&rules.rules[0]).addr())
}

/// A reloader of [`RULES`] rules in so many files, and the engine that they go into.
fn reloader(files: usize) -> (TempDir, Arc<Engine>, Arc<Reloader>) {
    let dir = TempDir::new().expect("a directory");
    for file in support::generate(Shape::Exact, RULES).files(files) {
        fs::write(dir.path().join(file.name), file.text).expect("a file");
    }
    let (engine, metrics) = support::engine();
    let source = Source {
        dir: dir.path().to_owned(),
        ignore_dotfiles: false,
    };
    let reloader = Reloader::new(source, OPTIONS, Arc::clone(&engine), metrics);
    (dir, engine, Arc::new(reloader))
}

criterion_group!(benches, compile, load);

fn main() {
    let asked = |arg: String| arg == "--bench" || arg == "meanwhile";
    benches();
    Criterion::default().configure_from_args().final_summary();
    if std::env::args().skip(1).all(asked) {
        meanwhile();
    }
}
