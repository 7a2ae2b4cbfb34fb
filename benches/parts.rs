//! The steps of a decision, each by itself, on fixed input: what `decide` times and `instructions` counts.

#![allow(dead_code, reason = "each bench uses a part of this")]

use std::hint::black_box;

use futures::FutureExt;
use prost::Message;
use tollgate::engine::{Answer, Caller, Code, Draft, Engine, Request, Settings};
use tollgate::grpc::wire;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Record, Role, transact};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, Timestamp};

use crate::support::{self, DOMAIN, Shape};

/// How many inputs a step is asked for in turn.
pub(crate) const PLACES: usize = 1000;

/// How many rules a step looks among.
const RULES: usize = 1000;

/// When it is.
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A step; it is asked for one input after the other, by their places.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut(usize)>,
}

impl Part {
    fn new(name: &'static str, run: impl FnMut(usize) + 'static) -> Self {
        let run = Box::new(run);
        Self { name, run }
    }
}

/// Descriptor to rule; `matching` times it with more and with fewer rules.
pub(crate) fn matching() -> Vec<Part> {
    let shapes = [
        ("match/exact", Shape::Exact),
        ("match/nested", Shape::Nested),
        ("match/cidr", Shape::Cidr),
        ("match/prefix", Shape::Prefix),
        ("match/bare", Shape::Bare),
    ];
    let part = |(name, shape)| {
        let mut generated = support::generate(shape, RULES);
        let (mut rules, lookups) = (generated.compile(), generated.some_lookups(PLACES));
        let domain = rules.domains.swap_remove(DOMAIN).expect("a domain");
        Part::new(name, move |place| {
            let (entries, length) = lookups.entries(place);
            let found = domain.find(black_box(&entries[..length]));
            assert!(black_box(found).is_some());
        })
    };
    shapes.into_iter().map(part).collect()
}

/// What becomes of a key: its record, one limit, one hit.
pub(crate) fn deciding() -> Vec<Part> {
    let burst = Hits::whole(1500);
    let limits = [
        ("limit/fixed_window", Algorithm::FixedWindow, Unit::Minute),
        ("limit/calendar_month", Algorithm::FixedWindow, Unit::Month),
        (
            "limit/token_bucket",
            Algorithm::TokenBucket { burst },
            Unit::Minute,
        ),
        (
            "limit/sliding_window",
            Algorithm::SlidingWindow,
            Unit::Minute,
        ),
    ];
    let mut parts = Vec::new();
    for (name, algorithm, unit) in limits {
        let limit = Limit::new(1000, unit, 1, algorithm, &Zone::utc()).expect("a limit");
        parts.push(Part::new(name, one_key(limit, Hits::ONE, true)));
    }
    let bucket = Algorithm::TokenBucket { burst };
    let limit = Limit::new(1000, Unit::Minute, 1, bucket, &Zone::utc()).expect("a limit");
    let too_many = Hits::whole(1500);
    parts.push(Part::new("limit/refused", one_key(limit, too_many, false)));
    parts
}

/// Decides on a copy of a record, as a store does.
fn one_key(limit: Limit, hits: Hits, fits: bool) -> impl FnMut(usize) {
    let used = ask(&limit, Record::default(), Hits::ONE).1;
    move |_| {
        let (admitted, record) = ask(&limit, black_box(used.clone()), black_box(hits));
        assert_eq!(admitted, fits);
        black_box(record);
    }
}

fn ask(limit: &Limit, record: Record, hits: Hits) -> (bool, Record) {
    let limits = [Bound {
        limit,
        always: false,
    }];
    let demand = Demand {
        key: 0,
        amount: Amount::Charge(hits),
        role: Role::Enforced,
        limits: limits.into_iter().collect(),
        ban: None,
        candidates: Vec::new(),
    };
    let mut records = [(record, false)];
    let outcome = transact(&mut records, &[demand], NOW);
    let [(record, _)] = records;
    (outcome.admitted, record)
}

/// A message to a request, an answer to its bytes, and whole decisions of the embedded store with both.
pub(crate) fn whole() -> Vec<Part> {
    let answer =
        |engine: &Engine, message: &[u8]| decide(engine, message, |draft| draft.answer().owned());
    let (one, ten) = (messages(1), messages(10));
    let engine = self::engine(1_000_000_000);
    let (short, long) = (answer(&engine, &one[0]), answer(&engine, &ten[0]));
    let over = messages(1);
    let strict = self::engine(0);
    let refusal = answer(&strict, &over[0]);
    assert_eq!(refusal.overall, Code::OverLimit);
    let encode = |name, answer: Answer<'static>| {
        Part::new(name, move |_| {
            black_box(wire::framed(black_box(&answer)));
        })
    };
    let check = |name, engine: Engine, messages: Vec<Vec<u8>>| {
        Part::new(name, move |place| {
            black_box(decide(
                &engine,
                &messages[place % PLACES],
                wire::framed_draft,
            ));
        })
    };
    let decode = one.clone();
    vec![
        Part::new("wire/request", move |place| {
            let mut room = None;
            let message = black_box(&decode[place % PLACES]);
            let mut request = Request::default();
            black_box(wire::read(message, &mut room, &mut request).is_ok());
        }),
        encode("wire/answer_1", short),
        encode("wire/answer_10", long),
        encode("wire/refusal", refusal),
        check("check/1", engine, one),
        check("check/10", self::engine(1_000_000_000), ten),
        check("check/refused", strict, over),
    ]
}

/// An engine whose limits are so high, and its clock at [`NOW`].
fn engine(requests: u32) -> Engine {
    let text = format!(
        "domain: {DOMAIN}\npartition_by: [user_id]\ndescriptors:\n- key: user_id\n  rate_limit: {{requests_per_unit: {requests}, unit: minute}}\n"
    );
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text,
    }];
    let rules = compile(&files, Options::default()).unwrap_or_else(|report| panic!("{report}"));
    let (clock, _) = Clock::manual(NOW);
    let store = Store::Embedded(Embedded::new(1 << 20, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
    engine.install(rules);
    engine
}

/// Messages of `count` descriptors each, all of other users.
fn messages(count: usize) -> Vec<Vec<u8>> {
    let descriptor = |number: usize| vec![("user_id".to_owned(), format!("user-{number:06}"))];
    let message = |place: usize| {
        let numbers = (0..count).map(|n| place * count + n);
        wire::message(DOMAIN, 1, numbers.map(descriptor)).encode_to_vec()
    };
    (0..PLACES).map(message).collect()
}

fn decide<T>(engine: &Engine, message: &[u8], tell: impl FnOnce(&Draft<'_, '_, '_>) -> T) -> T {
    let mut room = None;
    let mut request = Request::default();
    wire::read(message, &mut room, &mut request).expect("a request");
    let told = engine.check_for(&request, Caller::here(), tell);
    told.now_or_never().expect("no waiting").expect("an answer")
}
