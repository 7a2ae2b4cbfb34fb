//! Several instances with leases on one key of a naive store, on a clock that is moved by hand. `SEED=n` plays that one alone.
//!
//! Beside what the store has used stands the truth: what it would have if each hit were charged when it is admitted.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::smallvec;

use super::*;
use crate::limit::period::Zone;
use crate::limit::{Algorithm, State, Unit, lease::Lease, transaction};

const SEEDS: u64 = 400;
const STEPS: usize = 1_500;

/// How long anything may take on its way.
const LONGEST_WAY_US: u64 = 20_000;

struct World {
    random: SmallRng,
    now: Timestamp,
    terms: Terms,
    /// What the store has.
    record: Record,
    /// What it would have without leases.
    truth: Vec<State>,
    instances: Vec<Instance>,
    /// When it arrives, and whose it was.
    returning: Vec<(Timestamp, usize, Stock)>,
    /// The most that was out at one time.
    most_out: Hits,
    /// Whether something was charged that will not be given back.
    lost: bool,
    way_us: u64,
    admitted: u64,
    leased: u64,
    refused: u64,
}

#[derive(Default)]
struct Instance {
    pace: Option<Pace>,
    batch: Option<(Stock, u64)>,
}

#[test]
fn no_limit_is_exceeded_and_nobody_is_refused_too_early() {
    let one = std::env::var("SEED")
        .ok()
        .map(|seed| seed.parse().expect("a number"));
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let (mut admitted, mut leased, mut refused) = (0, 0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step(&format!("SEED={seed}, step {step}"));
        }
        admitted += world.admitted;
        leased += world.leased;
        refused += world.refused;
    }
    // Else it would prove nothing.
    if one.is_none() {
        assert!(leased > admitted / 4, "{leased} of {admitted} from leases");
        assert!(
            refused > admitted / 50,
            "{refused} refused, {admitted} admitted"
        );
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut limits: SmallVec<[Limit; 1]> =
            smallvec![limit(&mut random, seed.is_multiple_of(2))];
        if random.random_bool(0.3) {
            limits.push(limit(&mut random, seed % 2 == 1));
        }
        let now =
            Timestamp::from_micros(1_700_000_000_000_000 + random.random_range(0..60_000_000));
        let alone = random.random_bool(0.3);
        let count = if alone { 1 } else { random.random_range(2..5) };
        Self {
            now,
            truth: limits.iter().map(|limit| limit.fresh(now)).collect(),
            terms: Terms {
                limits,
                hits: Hits::from_thousandths(*pick(&mut random, &[1000, 1000, 2000, 700])),
            },
            record: Record::default(),
            instances: (0..count).map(|_| Instance::default()).collect(),
            returning: Vec::new(),
            most_out: Hits::ZERO,
            lost: false,
            way_us: if alone { 1 } else { LONGEST_WAY_US },
            admitted: 0,
            leased: 0,
            refused: 0,
            random,
        }
    }

    fn step(&mut self, place: &str) {
        let pause = match self.random.random_range(0..100) {
            0..60 => 0,
            60..90 => self.random.random_range(0..20_000),
            90..99 => self.random.random_range(0..400_000),
            _ => self.random.random_range(0..3_000_000),
        };
        self.advance(self.now + Micros::new(pause));
        let instance = self.random.random_range(0..self.instances.len());
        match self.random.random_range(0..1000) {
            // It is killed, and another takes its place.
            0 => {
                self.lost |= self.instances[instance].batch.is_some();
                self.instances[instance] = Instance::default();
            }
            _ => self.request(instance, place),
        }
        self.check(place);
    }

    fn request(&mut self, instance: usize, place: &str) {
        let late = self.random.random_range(0..=self.way_us);
        let hits = self.terms.hits;
        let own = &mut self.instances[instance];
        if let Some((stock, asked_before)) = &mut own.batch {
            let latest = self.now + Micros::new(*asked_before);
            if stock.take(latest).is_some() {
                self.leased += 1;
                self.admit(hits, place);
                return;
            }
            if stock.is_used_up() {
                own.pace = own.pace.map(|pace| pace.after(stock));
                own.batch = None;
            }
        }
        let own_pace = own.pace;
        let batch = match (&own.batch, own.pace) {
            (None, Some(pace)) if !self.returning.iter().any(|(_, of, _)| *of == instance) => {
                self.terms.batch(pace)
            }
            (Some(_) | None, _) => 0,
        };
        self.check_batch(own_pace, batch, place);
        let waiting = self.random.random_range(1..4);
        let before = self.record.clone();
        for _ in 0..waiting {
            self.ask(place);
        }
        let got = (0..batch).filter(|_| self.charge(hits)).count();
        let runs: Runs = smallvec![(waiting, hits)];
        let terms = self.terms.clone();
        let (stock, room) = Stock::new(terms, before, self.now, &runs, batch);
        assert_eq!(usize::from(stock.charged), got, "{place}: what a batch got");
        let own = &mut self.instances[instance];
        own.pace = Some(own.pace.map_or(Pace::begin(room), |pace| pace.left(room)));
        if !stock.is_used_up() {
            own.batch = Some((stock, late));
        }
    }

    /// No batch is more than the smallest lease allows, nor than its part of what was left.
    fn check_batch(&self, pace: Option<Pace>, batch: u16, place: &str) {
        let hits = self.terms.hits.thousandths() * u64::from(batch);
        for limit in &self.terms.limits {
            let lease = limit.lease().expect("a lease");
            let most = lease.of(limit.capacity()).thousandths();
            assert!(hits <= most, "{place}: a batch of {batch} of {limit}");
        }
        let left = pace.map_or(0, |pace| pace.room.thousandths());
        assert!(8 * hits <= left, "{place}: a batch of {batch} near the end");
    }

    /// One request that the store decides by itself.
    fn ask(&mut self, place: &str) {
        if self.charge(self.terms.hits) {
            self.admit(self.terms.hits, place);
            return;
        }
        self.refused += 1;
        let (used, truth, out) = (self.used(), self.used_in_truth(), self.out());
        let all = self.terms.limits.iter().zip(used).zip(truth).zip(out);
        let too_early = all.map(|(((limit, used), truth), out)| {
            if used.plus(self.terms.hits) <= limit.capacity() {
                return false;
            }
            // Of a bucket, what has flowed in for those before a batch is not given back with it.
            let short = match limit.shape() {
                Shape::TokenBucket(bucket) => {
                    let time = Micros::new(LEASE_FOR.get() + self.way_us);
                    bucket.refill_in(time).plus(self.terms.hits)
                }
                Shape::FixedWindow(_) | Shape::SlidingWindow(_) => Hits::ZERO,
            };
            used > truth.plus(out).plus(short)
        });
        assert!(
            self.lost || !too_early.into_iter().any(|early| early),
            "{place}: refused too early"
        );
    }

    /// Charges the store as a call does.
    fn charge(&mut self, hits: Hits) -> bool {
        let demand = Demand {
            key: 0,
            amount: Amount::Charge(hits),
            role: Role::Enforced,
            limits: self
                .terms
                .limits
                .iter()
                .map(|limit| Bound {
                    limit,
                    always: false,
                })
                .collect(),
            ban: None,
            candidates: Vec::new(),
        };
        let mut records = [(self.record.clone(), false)];
        let admitted = transact(&mut records, &[demand], self.now).admitted;
        if admitted {
            [(self.record, _)] = records;
        }
        admitted
    }

    /// Whatever is admitted has room in truth.
    fn admit(&mut self, hits: Hits, place: &str) {
        self.admitted += 1;
        let one = self.instances.len() == 1;
        for (limit, state) in self.terms.limits.iter().zip(&mut self.truth) {
            limit.advance(state, self.now);
            let over = match limit.shape() {
                Shape::TokenBucket(_) if !one => self.most_out,
                Shape::TokenBucket(_) | Shape::FixedWindow(_) | Shape::SlidingWindow(_) => {
                    Hits::ZERO
                }
            };
            let used = limit.used(state).plus(hits);
            let most = limit.capacity().plus(over);
            assert!(used <= most, "{place}: {limit}: {used} of at most {most}");
            limit.charge(state, hits);
        }
    }

    /// Lets the time pass, and what is due on the way happen when it is.
    fn advance(&mut self, to: Timestamp) {
        loop {
            let held = self.instances.iter().filter_map(|one| one.batch.as_ref());
            let due = held.map(|(stock, _)| stock.at + LEASE_FOR);
            let arrive = self.returning.iter().map(|(when, ..)| *when);
            let next = due.chain(arrive).min().filter(|next| *next <= to);
            self.now = next.unwrap_or(to);
            self.end_due();
            self.give_back();
            if next.is_none() {
                return;
            }
        }
    }

    fn end_due(&mut self) {
        for (instance, own) in self.instances.iter_mut().enumerate() {
            let due = |(stock, _): &mut (Stock, u64)| self.now >= stock.at + LEASE_FOR;
            if let Some((stock, _)) = own.batch.take_if(due) {
                own.pace = own.pace.map(|pace| pace.after(&stock));
                let way = Micros::new(self.random.random_range(0..=self.way_us));
                self.returning.push((self.now + way, instance, stock));
            }
        }
    }

    fn give_back(&mut self) {
        let now = self.now;
        let arrived = self.returning.extract_if(.., |(when, ..)| *when <= now);
        for (_, _, stock) in arrived.collect::<Vec<_>>() {
            for unused in stock.unused(&[]) {
                transaction::give_back(&mut self.record, unused.limit, now, &unused.receipt);
            }
        }
    }

    fn check(&mut self, place: &str) {
        let (used, truth, out) = (self.used(), self.used_in_truth(), self.out());
        let all = self.terms.limits.iter().zip(used).zip(truth).zip(&out);
        for (((limit, used), truth), out) in all {
            match limit.shape() {
                Shape::TokenBucket(_) if self.instances.len() == 1 => {
                    assert!(used >= truth, "{place}: {limit} has {used} of {truth}");
                }
                Shape::FixedWindow(_) if !self.lost => {
                    let wanted = truth.plus(*out);
                    assert_eq!(
                        used, wanted,
                        "{place}: {limit} has all that is admitted or out"
                    );
                }
                Shape::TokenBucket(_) | Shape::FixedWindow(_) | Shape::SlidingWindow(_) => {}
            }
        }
        self.most_out = out.into_iter().fold(self.most_out, Hits::max);
    }

    fn used(&self) -> Vec<Hits> {
        let record = self.record.clone();
        self.terms.read(record, self.now).0.into_vec()
    }

    fn used_in_truth(&self) -> Vec<Hits> {
        let states = self.terms.limits.iter().zip(&self.truth);
        let used = states.map(|(limit, state)| {
            let mut state = state.clone();
            limit.advance(&mut state, self.now);
            limit.used(&state)
        });
        used.collect()
    }

    /// What of each limit is charged, and neither admitted nor given back; of a window what belongs to it still.
    fn out(&self) -> Vec<Hits> {
        let held = self.instances.iter().filter_map(|one| one.batch.as_ref());
        let stocks = held.map(|(stock, _)| stock);
        let stocks: Vec<&Stock> = stocks
            .chain(self.returning.iter().map(|(.., s)| s))
            .collect();
        let of_limit = |limit: &Limit| {
            let unused = stocks.iter().flat_map(|stock| stock.unused(&[]));
            let own = unused.filter(|unused| unused.limit.tag() == limit.tag());
            let felt = own.filter(|unused| match limit.shape() {
                Shape::FixedWindow(windows) => windows.end(unused.receipt.at) > self.now,
                Shape::TokenBucket(_) | Shape::SlidingWindow(_) => true,
            });
            felt.fold(Hits::ZERO, |sum, unused| sum.plus(unused.receipt.hits))
        };
        self.terms.limits.iter().map(of_limit).collect()
    }
}

fn limit(random: &mut SmallRng, bucket: bool) -> Limit {
    let requests = random.random_range(20..3_000);
    let (unit, algorithm) = if bucket {
        let burst = Hits::whole(random.random_range(20..3_000));
        let unit = *pick(
            random,
            &[Unit::Second, Unit::Minute, Unit::Minute, Unit::Hour],
        );
        (unit, Algorithm::TokenBucket { burst })
    } else {
        (
            *pick(random, &[Unit::Second, Unit::Minute]),
            Algorithm::FixedWindow,
        )
    };
    let lease = Lease::parse(pick::<&str>(random, &["10%", "5%", "1%"]));
    let limit = Limit::new(requests, unit, 1, algorithm, &Zone::utc()).expect("a limit");
    limit.leased(lease)
}

fn pick<'t, T>(random: &mut SmallRng, from: &'t [T]) -> &'t T {
    &from[random.random_range(0..from.len())]
}
