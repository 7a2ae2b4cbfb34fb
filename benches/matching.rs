//! What finding the rule of a descriptor costs, and a whole decision, with 10 to 100,000 rules.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use smallvec::smallvec;
use support::{DOMAIN, LOOKUPS, Shape};
use tollgate::engine::{Answer, Request};
use tollgate::rules::Descriptor;

mod support;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many rules there are.
const COUNTS: [usize; 3] = [10, 1000, 100_000];

const SHAPES: [(&str, Shape); 5] = [
    ("exact", Shape::Exact),
    ("nested", Shape::Nested),
    ("cidr", Shape::Cidr),
    ("prefix", Shape::Prefix),
    ("bare", Shape::Bare),
];

fn find(criterion: &mut Criterion) {
    for (name, shape) in SHAPES {
        let mut group = criterion.benchmark_group(format!("find/{name}"));
        for count in COUNTS {
            let mut generated = support::generate(shape, count);
            let (rules, lookups) = (generated.compile(), generated.lookups());
            assert_eq!(rules.rules.len(), count);
            let domain = &rules.domains[DOMAIN];
            let finds = |place| {
                let (entries, length) = lookups.entries(place);
                domain.find(&entries[..length]).is_some()
            };
            assert!((0..LOOKUPS).all(finds));
            let mut place = 0;
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    place += 1;
                    let (entries, length) = lookups.entries(place);
                    black_box(domain.find(black_box(&entries[..length])));
                });
            });
        }
        group.finish();
    }
}

/// There are as many counters whatever the number of rules: each lookup has its own.
fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for count in COUNTS {
        let mut generated = support::generate(Shape::Users, count);
        let lookups = generated.lookups();
        let (engine, _) = support::engine();
        engine.install(generated.compile());
        let decide = |place| {
            let (entries, length) = lookups.entries(place);
            let request = Request {
                domain: DOMAIN,
                hits_addend: 1,
                descriptors: smallvec![Descriptor {
                    entries: entries[..length].into(),
                    ..Descriptor::default()
                }],
            };
            let limited = |answer: &Answer<'_>| black_box(answer).statuses[0].limit.is_some();
            let told = engine.check(&request, Instant::now(), None, limited);
            told.now_or_never().expect("no waiting").expect("an answer")
        };
        for place in 0..LOOKUPS {
            assert!(decide(place));
        }
        let mut place = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                place += 1;
                black_box(decide(place));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, find, decide);
criterion_main!(benches);
