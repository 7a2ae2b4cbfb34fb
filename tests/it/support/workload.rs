//! Random transactions, the same for every store.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::SmallVec;
use tollgate::limit::ban::Ban;
use tollgate::limit::candidate::Candidate;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Outcome, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit, Verdict};
use tollgate::store::{Key, Transaction};
use tollgate::time::{Micros, Timestamp};

/// Where the time of every workload begins: a Saturday afternoon in spring, before the clocks change.
const START: i64 = 1_774_700_000_000_000;

/// A seeded sequence of transactions.
pub(crate) struct Workload {
    random: SmallRng,
    name: String,
    rules: Vec<Rule>,
    now: i64,
    forward_only: bool,
    steady: bool,
    refunds: bool,
    /// When what was told last ends.
    edges: Vec<i64>,
}

/// The limits of a key as they are now; their numbers change on the way.
struct Rule {
    limits: Vec<(Limit, bool)>,
    ban: Option<Ban>,
    /// What is tried, and in the place of which limit.
    tried: Vec<(Limit, bool, Option<usize>)>,
}

/// One transaction of a workload, in a form that can be printed and repeated.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) keys: Vec<Key>,
    pub(crate) demands: Vec<Demand<'a>>,
    pub(crate) now: Timestamp,
}

impl Workload {
    /// The sequence of `seed`; its keys begin with `name`. Its time may go `backwards`, which a store that has forgotten an
    /// expired key cannot know.
    pub(crate) fn new(name: &str, seed: u64, backwards: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let rules = (0..6).map(|_| Rule::random(&mut random)).collect();
        Self {
            name: format!("{name}:{seed}:"),
            rules,
            now: START + random.random_range(0..86_400_000_000),
            forward_only: !backwards,
            steady: false,
            refunds: true,
            edges: Vec::new(),
            random,
        }
    }

    /// The same without changes of the rules.
    pub(crate) fn steady(mut self) -> Self {
        self.steady = true;
        self
    }

    /// The same with peeks in place of refunds.
    pub(crate) fn without_refunds(mut self) -> Self {
        self.refunds = false;
        self
    }

    /// Hands the next transaction to `run`.
    pub(crate) fn next<T>(&mut self, run: impl FnOnce(&Step<'_>) -> T) -> T {
        self.pass_time();
        if !self.steady && self.random.random_bool(0.02) {
            let changed = self.random.random_range(0..self.rules.len());
            self.rules[changed].change_numbers(&mut self.random);
        }
        let random = &mut self.random;
        let mut keys: Vec<Key> = Vec::new();
        let mut demands = Vec::new();
        for _ in 0..random.random_range(1..=4) {
            let which = random.random_range(0..self.rules.len());
            let key = Key::new(
                &self.name,
                &format!("subject {}", which / 3),
                &format!("|{which}"),
            );
            let place = keys
                .iter()
                .position(|other| *other == key)
                .unwrap_or_else(|| {
                    keys.push(key);
                    keys.len() - 1
                });
            let mut demand = demand(random, &self.rules[which], place);
            if let (Amount::Refund(hits), false) = (demand.amount, self.refunds) {
                demand.amount = Amount::Peek(hits);
            }
            demands.push(demand);
        }
        run(&Step {
            keys,
            demands,
            now: Timestamp::from_micros(self.now),
        })
    }

    /// Takes note of what became of the last transaction: some of those that follow come at the very end of what it was told to
    /// wait for, or of a window, or a microsecond to either side.
    pub(crate) fn note(&mut self, outcome: &Outcome) {
        let moments = outcome.readings.iter().flat_map(|reading| {
            let wait = match reading.verdict {
                Verdict::Wait(wait) | Verdict::Banned(wait) => Some(wait),
                Verdict::Allowed | Verdict::Never => None,
            };
            [wait, Some(reading.reset)]
        });
        let now = Timestamp::from_micros(self.now);
        let ends = moments.flatten().map(|time| (now + time).as_micros());
        self.edges = ends.filter(|end| *end > self.now).collect();
    }

    fn pass_time(&mut self) {
        let random = &mut self.random;
        if !self.edges.is_empty() && random.random_bool(0.1) {
            let edge = self.edges[random.random_range(0..self.edges.len())];
            self.now = edge + [-1, 0, 0, 1][random.random_range(0..4)];
            return;
        }
        self.now += match random.random_range(0..100) {
            0..40 => 0,
            40..70 => random.random_range(0..1_000),
            70..90 => random.random_range(0..2_000_000),
            90..97 => random.random_range(0..120_000_000),
            97..99 => random.random_range(0..90_000_000_000),
            _ if self.forward_only => 1,
            _ => -random.random_range(0..200_000_000),
        };
    }
}

impl<'l> Step<'l> {
    pub(crate) fn transaction(&self) -> Transaction<'_, 'l> {
        Transaction {
            keys: &self.keys,
            demands: &self.demands,
            now: Some(self.now),
            timeout: std::time::Duration::from_secs(5),
        }
    }

    /// What the step was and what came of it, for a failed comparison.
    pub(crate) fn explain(&self, wanted: &Outcome, found: &Outcome) -> String {
        let limits = self.demands.iter().flat_map(|demand| {
            let of =
                move |bound: &Bound<'_>| (demand.amount, demand.role, format!("{:?}", bound.limit));
            demand.limits.iter().map(of)
        });
        let readings = wanted.readings.iter().zip(&found.readings);
        let differing: Vec<String> = limits
            .zip(readings)
            .filter(|(_, (wanted, found))| wanted != found)
            .map(|(limit, (wanted, found))| {
                format!("{limit:?}\n  wanted {wanted:?}\n  found  {found:?}")
            })
            .collect();
        let trials = format!(
            "trials: wanted {:?}, found {:?}",
            wanted.trials, found.trials
        );
        let (wanted, found) = (wanted.admitted, found.admitted);
        let keys = &self.keys;
        format!(
            "admitted: wanted {wanted}, found {found}; at {:?} {keys:?}\n{trials}\n{}",
            self.now,
            differing.join("\n")
        )
    }
}

impl Rule {
    fn random(random: &mut SmallRng) -> Self {
        let mut limits: Vec<(Limit, bool)> = Vec::new();
        for _ in 0..random.random_range(1..=3) {
            let limit = limit(random);
            if limits.iter().all(|(other, _)| other.tag() != limit.tag()) {
                limits.push((limit, random.random_bool(0.2)));
            }
        }
        let ban = random.random_bool(0.4).then(|| ban(random));
        let mut tried: Vec<(Limit, bool, Option<usize>)> = Vec::new();
        for place in 0..limits.len() {
            let one = limit(random).on_trial();
            let is_new = tried.iter().all(|(other, ..)| other.tag() != one.tag());
            if is_new && random.random_bool(0.3) {
                let instead_of = random.random_bool(0.9).then_some(place);
                tried.push((one, random.random_bool(0.2), instead_of));
            }
        }
        Self { limits, ban, tried }
    }

    /// Other numbers for the same windows and algorithms.
    fn change_numbers(&mut self, random: &mut SmallRng) {
        for (limit, _) in &mut self.limits {
            loop {
                let other = self::limit(random);
                if other.tag() == limit.tag() {
                    *limit = other;
                    break;
                }
            }
        }
    }
}

fn ban(random: &mut SmallRng) -> Ban {
    let within = [Unit::Second, Unit::Minute][random.random_range(0..2)];
    let first = random.random_range(1..20_000_000);
    let longest = first * random.random_range(1..6);
    let (first, longest) = (Micros::new(first), Micros::new(longest));
    Ban::new(random.random_range(1..5), within, first, longest).expect("a ban")
}

/// One zone per unit, since a counter's windows do not move.
pub(crate) fn zone_of(unit: Unit) -> &'static str {
    match unit {
        Unit::Day => "Europe/Berlin",
        Unit::Month => "America/Santiago",
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Week | Unit::Year => "UTC",
    }
}

fn limit(random: &mut SmallRng) -> Limit {
    let unit = match random.random_range(0..10) {
        0..4 => Unit::Second,
        4..7 => Unit::Minute,
        7 => Unit::Hour,
        8 => Unit::Day,
        _ => Unit::Month,
    };
    let zone = Zone::named(zone_of(unit)).expect("a zone");
    let multiplier = if random.random_bool(0.8) { 1 } else { 3 };
    let requests = random.random_range(0..12);
    let algorithm = match random.random_range(0..3) {
        0 => Algorithm::FixedWindow,
        1 => Algorithm::SlidingWindow,
        _ => Algorithm::TokenBucket {
            burst: Hits::from_thousandths(random.random_range(1000..15_000)),
        },
    };
    let requests = match algorithm {
        Algorithm::TokenBucket { .. } => requests.max(1),
        Algorithm::FixedWindow | Algorithm::SlidingWindow => requests,
    };
    Limit::new(requests, unit, multiplier, algorithm, &zone).expect("a limit")
}

fn demand<'a>(random: &mut SmallRng, rule: &'a Rule, key: usize) -> Demand<'a> {
    let hits = match random.random_range(0..10) {
        0..6 => Hits::ONE,
        6..8 => Hits::whole(random.random_range(1..5)),
        8 => Hits::from_thousandths(random.random_range(1..3_000)),
        _ => Hits::whole(20),
    };
    let limits: SmallVec<[Bound<'a>; 2]> = rule
        .limits
        .iter()
        .map(|(limit, always)| Bound {
            limit,
            always: *always,
        })
        .collect();
    let role = match random.random_range(0..10) {
        0..7 => Role::Enforced,
        7..9 => Role::Quota,
        _ => Role::Shadow,
    };
    let candidates = rule.tried.iter();
    let candidates = candidates.map(|(limit, always, instead_of)| Candidate {
        limit,
        instead_of: *instead_of,
        role,
        always: *always,
    });
    let candidates = candidates.collect();
    Demand {
        key,
        amount: match random.random_range(0..10) {
            0..7 => Amount::Charge(hits),
            7 => Amount::Peek(hits),
            _ => Amount::Refund(hits),
        },
        role,
        limits,
        ban: rule.ban.as_ref(),
        candidates,
    }
}
