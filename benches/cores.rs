//! How decisions on the embedded store grow with the cores, where all of them decide by one rule: `cargo bench --bench cores`.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use smallvec::smallvec;
use support::DOMAIN;
use tollgate::engine::{Engine, Request};
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::rules::{Descriptor, Entry};

mod support;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RULES: &str = "
domain: d
descriptors:
  - {key: user, rate_limit: {unit: minute, requests_per_unit: 4000000000}}
";

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// How many keys there are.
const KEYS: usize = 10_000;

#[expect(
    clippy::print_stdout,
    reason = "a benchmark speaks to the person who runs it"
)]
fn main() {
    let (engine, _) = support::engine();
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text: RULES.to_owned(),
    }];
    let rules = compile(&files, Options::default());
    engine.install(rules.expect("the rules are good"));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let counts: Vec<usize> = (0..)
        .map(|power| 1 << power)
        .take_while(|count| *count <= cores)
        .collect();
    let mut rates = vec![Vec::new(); counts.len()];
    for _ in 0..ROUNDS {
        for (rates, count) in rates.iter_mut().zip(&counts) {
            rates.push(rate(&engine, *count));
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let rates: Vec<f64> = rates.iter_mut().map(median).collect();
    for (count, rate) in counts.iter().zip(&rates) {
        let grown = rate / rates[0];
        println!(
            "{count} threads: {:.0} thousand decisions/s, {grown:.2} times those of one",
            rate / 1000.0
        );
    }
}

/// How many decisions so many threads make in a second.
fn rate(engine: &Engine, threads: usize) -> f64 {
    let (begin, is_over) = (Barrier::new(threads + 1), AtomicBool::new(false));
    let decide = |thread: usize| {
        let values: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        begin.wait();
        let mut decided = 0;
        while !is_over.load(Ordering::Relaxed) {
            let value = &values[(decided * 7 + thread * 31) % KEYS];
            let request = Request {
                domain: DOMAIN,
                hits_addend: 1,
                descriptors: smallvec![Descriptor {
                    entries: smallvec![Entry { key: "user", value }],
                    ..Descriptor::default()
                }],
            };
            let told = engine.check(&request, Instant::now(), None, |answer| {
                black_box(answer).statuses[0].limit.is_some()
            });
            let told = told.now_or_never().expect("no waiting").expect("an answer");
            assert!(told, "the rule limits it");
            decided += 1;
        }
        decided
    };
    thread::scope(|scope| {
        let deciding: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || decide(thread)))
            .collect();
        begin.wait();
        let begun = Instant::now();
        thread::sleep(ROUND);
        is_over.store(true, Ordering::Relaxed);
        let took = begun.elapsed().as_secs_f64();
        let decided = deciding
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        decided.sum::<usize>() as f64 / took
    })
}
