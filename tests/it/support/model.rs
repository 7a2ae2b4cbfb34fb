//! The naive model: it remembers every hit, and says what each store must answer.
//!
//! It shares no arithmetic with the service: windows are counted by filtering a list, buckets are rational numbers in
//! 128 bits, and all-or-nothing is a copy of everything that is thrown away.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan};
use tollgate::limit::candidate::Trial;
use tollgate::limit::fixed_window::Windows;
use tollgate::limit::transaction::{Amount, Bound, Demand, Outcome, Reading, Role};
use tollgate::limit::{Hits, Limit, Shape, Unit, Verdict};
use tollgate::store::Transaction;
use tollgate::time::Micros;

/// Everything that was ever charged.
#[derive(Clone, Default)]
pub(crate) struct Model {
    seen: HashMap<String, i64>,
    counters: HashMap<(String, u32), Counter>,
    bans: HashMap<String, Bans>,
    /// Where days and months begin; none for the zones of the workload.
    zone: Option<&'static str>,
    /// The keys that the request at hand has charged.
    charged: HashSet<String>,
}

/// The refusals and bans of one key, by what is banned.
#[derive(Clone, Default)]
struct Bans {
    /// When each happened that no ban has come of yet.
    refusals: Vec<i64>,
    /// The end of each ban, and how many in a row it was.
    bans: Vec<(i64, u32)>,
}

/// What one limit on one key has been charged.
#[derive(Clone)]
enum Counter {
    /// Hits by the end of their window.
    Windows(HashMap<i64, u64>),
    /// What is missing from the bucket, in thousandths of a hit times the window's microseconds; `limit` is the number of
    /// the rule at the last charge.
    Bucket { missing: i128, at: i64, limit: u32 },
    /// Hits by slice, oldest first.
    Slices(Vec<(i64, u64)>),
}

impl Model {
    /// Nothing charged yet, and all days begin in `zone`.
    pub(crate) fn in_zone(zone: &'static str) -> Self {
        Self {
            zone: Some(zone),
            ..Self::default()
        }
    }

    /// The latest moment that a key has seen, if any.
    pub(crate) fn seen(&self, key: &str) -> Option<i64> {
        self.seen.get(key).copied()
    }

    /// All that is remembered of a key is as good as nothing.
    pub(crate) fn forget(&mut self, key: &str) {
        self.seen.remove(key);
        self.bans.remove(key);
        self.counters.retain(|(of, _), _| of != key);
    }

    /// What a store must answer.
    pub(crate) fn transact(&mut self, transaction: &Transaction<'_, '_>) -> Outcome {
        let before = self.clone();
        let mut outcome = self.decide(transaction);
        outcome.trials = self.try_candidates(&before, transaction);
        outcome
    }

    /// Each candidate in a world of its own, in which it is the limit: what it is charged there is what it is charged.
    fn try_candidates(&mut self, before: &Model, transaction: &Transaction<'_, '_>) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (place, demand) in transaction.demands.iter().enumerate() {
            for candidate in &demand.candidates {
                let key = transaction.keys[demand.key].as_str();
                let name = candidate.limit.tag();
                let (mut demands, mut own, mut first) = (Vec::new(), 0..0, 0);
                let mut reading = 0;
                for (other, asked) in transaction.demands.iter().enumerate() {
                    let mut world = asked.clone();
                    let tried = std::mem::take(&mut world.candidates);
                    let mut same = tried.iter();
                    let same = same.find(|one| asked.key == demand.key && one.limit.tag() == name);
                    if let Some(one) = same {
                        let bound = Bound {
                            limit: one.limit,
                            always: one.always,
                        };
                        world.role = one.role;
                        let at = one.instead_of.unwrap_or(world.limits.len());
                        world.limits.truncate(at);
                        world.limits.push(bound);
                        let rest = asked.limits.iter().skip(at + 1);
                        world.limits.extend(rest.copied());
                        if other == place {
                            own = first..first + world.limits.len();
                            reading = first + at;
                        }
                    }
                    first += world.limits.len();
                    demands.push(world);
                }
                let mut world = before.clone();
                let outcome = world.decide(&Transaction {
                    demands: &demands,
                    ..*transaction
                });
                let mut all = outcome.readings[own].iter();
                let trial = Trial {
                    reading: outcome.readings[reading],
                    fits: all.all(|reading| reading.verdict == Verdict::Allowed),
                    passes: outcome.admitted,
                };
                trials.push(trial);
                let counter = (key.to_owned(), name.get());
                let is_peek = matches!(demand.amount, Amount::Peek(_));
                if (candidate.always || trial.fits && trial.passes) && !is_peek {
                    self.counters.extend(world.counters.remove_entry(&counter));
                    let seen = world.seen.get(key).copied();
                    let seen = seen.max(self.seen.get(key).copied());
                    self.seen.extend(seen.map(|seen| (key.to_owned(), seen)));
                }
            }
        }
        trials
    }

    fn decide(&mut self, transaction: &Transaction<'_, '_>) -> Outcome {
        let now = transaction.now.expect("the model has no clock").as_micros();
        self.charged.clear();
        let mut tentative = self.clone();
        let mut readings = Vec::new();
        let (mut refused, mut quotas, mut quotas_refused) = (false, 0, 0);
        for demand in transaction.demands {
            let key = transaction.keys[demand.key].as_str();
            let fits = tentative.read(key, demand, now, &mut readings);
            match demand.role {
                Role::Enforced => refused |= !fits,
                Role::Quota => {
                    (quotas, quotas_refused) = (quotas + 1, quotas_refused + i32::from(!fits))
                }
                Role::Shadow => {}
            }
        }
        let admitted = !refused && (quotas == 0 || quotas_refused < quotas);
        if admitted {
            self.take(tentative);
        } else {
            let mut first = 0;
            for demand in transaction.demands {
                let key = transaction.keys[demand.key].as_str();
                for bound in demand.limits.iter().filter(|bound| bound.always) {
                    self.apply(key, bound.limit, demand.amount, now);
                }
                let own = first..first + demand.limits.len();
                first = own.end;
                self.count_refusal(key, demand, now, &mut readings[own]);
            }
        }
        let readings = readings.into_iter().collect();
        Outcome {
            admitted,
            readings,
            trials: Vec::new(),
        }
    }

    fn read(&mut self, key: &str, demand: &Demand<'_>, now: i64, to: &mut Vec<Reading>) -> bool {
        let now = self.time(key, now);
        for bound in &demand.limits {
            self.settle(key, bound.limit, now);
        }
        let wanted = match demand.amount {
            Amount::Charge(hits) | Amount::Peek(hits) => Some(hits.thousandths()),
            Amount::Refund(_) => None,
        };
        let until = self.bans.get(key).map_or(i64::MIN, Bans::until);
        let banned =
            (demand.ban.is_some() && until > now).then(|| Micros::new((until - now) as u64));
        let before: Vec<(u64, Verdict)> = demand
            .limits
            .iter()
            .map(|bound| {
                let verdict = match (wanted, banned) {
                    (None, _) => Verdict::Allowed,
                    (Some(_), Some(wait)) => Verdict::Banned(wait),
                    (Some(hits), None) => self.verdict(key, bound.limit, now, hits),
                };
                (self.used(key, bound.limit, now), verdict)
            })
            .collect();
        let fits = before
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Allowed);
        for (bound, (used, verdict)) in demand.limits.iter().zip(before) {
            if fits || bound.always {
                self.apply(key, bound.limit, demand.amount, now);
            }
            let verdict = match (verdict, wanted) {
                (Verdict::Wait(_), Some(hits)) => self.verdict(key, bound.limit, now, hits),
                (verdict, _) => verdict,
            };
            to.push(Reading {
                verdict,
                used: Hits::from_thousandths(used),
                reset: self.reset(key, bound.limit, now),
            });
        }
        fits
    }

    fn count_refusal(&mut self, key: &str, demand: &Demand<'_>, now: i64, own: &mut [Reading]) {
        let refused = own.iter().any(|own| own.verdict != Verdict::Allowed);
        let banned = own
            .iter()
            .any(|own| matches!(own.verdict, Verdict::Banned(_)));
        let charges = matches!(demand.amount, Amount::Charge(_));
        let Some(ban) = demand.ban else { return };
        if banned || !charges || demand.role != Role::Enforced {
            return;
        }
        let now = self.time(key, now);
        self.seen.insert(key.to_owned(), now);
        let bans = self.bans.entry(key.to_owned()).or_default();
        if bans.until() <= now {
            bans.refusals.push(now);
            let window = |at: i64| at.div_euclid(ban.window().get() as i64);
            let recent = bans
                .refusals
                .iter()
                .filter(|at| window(**at) == window(now));
            if recent.count() >= ban.after() as usize {
                bans.refusals.clear();
                let longest = ban.longest().get() as i64;
                let in_a_row = match bans.bans.last() {
                    Some((until, times)) if until + longest > now => times + 1,
                    _ => 1,
                };
                let lasts = (0..in_a_row - 1).fold(ban.first().get() as i64, |lasts, _| {
                    (lasts * 2).min(longest)
                });
                bans.bans.push((now + lasts.min(longest), in_a_row));
            }
        }
        let until = bans.until();
        if refused && until > now {
            for own in own {
                own.verdict = Verdict::Banned(Micros::new((until - now) as u64));
            }
        }
    }

    /// Keeps what a request that passed has done to the keys that it has charged.
    fn take(&mut self, tentative: Model) {
        let Model {
            mut counters,
            seen,
            charged,
            bans: _,
            zone: _,
        } = tentative;
        counters.retain(|(key, _), _| charged.contains(key));
        self.counters.extend(counters);
        self.seen = seen;
    }

    /// Lets in what has flowed into a bucket, under the rule as it is now.
    fn settle(&mut self, key: &str, limit: &Limit, now: i64) {
        let place = (key.to_owned(), limit.tag().get());
        if let Some(bucket @ Counter::Bucket { .. }) = self.counters.get_mut(&place) {
            let Counter::Bucket { at, .. } = *bucket else {
                unreachable!()
            };
            let missing = (missing(bucket, limit) - inflow(limit, now - at)).max(0);
            let limit = limit.requests_per_unit();
            *bucket = Counter::Bucket {
                missing,
                at: now,
                limit,
            };
        }
    }

    /// Time never goes back for a key that has been written.
    fn time(&self, key: &str, now: i64) -> i64 {
        now.max(self.seen.get(key).copied().unwrap_or(i64::MIN))
    }

    /// Found by asking at every moment at which anything can change, as a client would.
    fn verdict(&self, key: &str, limit: &Limit, now: i64, hits: u64) -> Verdict {
        let capacity = limit.capacity().thousandths();
        let fits = |at: i64| self.used(key, limit, at) + hits <= capacity;
        if fits(now) {
            return Verdict::Allowed;
        }
        if hits > capacity {
            return Verdict::Never;
        }
        let moment = match (limit.shape(), self.counter(key, limit)) {
            (Shape::SlidingWindow(slices), Some(Counter::Slices(counts))) => {
                let slice = slices.length().get() as i64;
                let leaves = counts.iter().map(|(number, _)| (number + 11) * slice);
                leaves.filter(|at| *at > now && fits(*at)).min()
            }
            (Shape::TokenBucket(_), _) => Some(first(now, now + (1 << 52), fits)),
            _ => Some(self.end(limit, now)),
        };
        let moment = moment.expect("an empty counter has room");
        Verdict::Wait(Micros::new((moment - now) as u64))
    }

    fn reset(&self, key: &str, limit: &Limit, now: i64) -> Micros {
        let moment = match (limit.shape(), self.counter(key, limit)) {
            (Shape::FixedWindow(_), _) => self.end(limit, now),
            (Shape::SlidingWindow(slices), Some(Counter::Slices(counts))) => {
                let slice = slices.length().get() as i64;
                let kept = counts.iter().filter(|(_, hits)| *hits > 0);
                kept.map(|(number, _)| (number + 11) * slice)
                    .max()
                    .unwrap_or(now)
            }
            (Shape::TokenBucket(_), Some(bucket @ Counter::Bucket { at, .. })) => {
                let missing = missing(bucket, limit);
                let rate = i128::from(limit.requests_per_unit()) * 1000;
                let empty_after =
                    missing.div_euclid(rate) + i128::from(missing.rem_euclid(rate) != 0);
                at + empty_after as i64
            }
            _ => now,
        };
        Micros::new((moment - now).max(0) as u64)
    }

    /// In thousandths, rounded up.
    fn used(&self, key: &str, limit: &Limit, now: i64) -> u64 {
        match (limit.shape(), self.counter(key, limit)) {
            (_, Some(Counter::Windows(windows))) => {
                windows.get(&self.end(limit, now)).copied().unwrap_or(0)
            }
            (Shape::SlidingWindow(slices), Some(Counter::Slices(counts))) => {
                let newest = now.div_euclid(slices.length().get() as i64);
                let counted = counts.iter().filter(|(number, _)| number + 11 > newest);
                counted.map(|(_, hits)| hits).sum()
            }
            (_, Some(bucket @ Counter::Bucket { at, .. })) => {
                let window = window(limit);
                let missing = (missing(bucket, limit) - inflow(limit, now - at)).max(0);
                (missing.div_euclid(window) + i128::from(missing.rem_euclid(window) != 0)) as u64
            }
            _ => 0,
        }
    }

    /// The end of the fixed window that holds `now`.
    fn end(&self, limit: &Limit, now: i64) -> i64 {
        let Shape::FixedWindow(windows) = limit.shape() else {
            unreachable!("no fixed window")
        };
        match windows {
            Windows::Even(_) => {
                let length = limit.window().get() as i64;
                (now.div_euclid(length) + 1) * length
            }
            Windows::Calendar(_) => {
                let of_workload = super::workload::zone_of(limit.unit());
                let zone = self.zone.unwrap_or(of_workload);
                end_of_period(limit.unit(), limit.multiplier(), zone, now)
            }
        }
    }

    fn counter(&self, key: &str, limit: &Limit) -> Option<&Counter> {
        self.counters.get(&(key.to_owned(), limit.tag().get()))
    }

    fn apply(&mut self, key: &str, limit: &Limit, amount: Amount, now: i64) {
        let (hits, refund) = match amount {
            Amount::Charge(hits) => (hits.thousandths(), false),
            Amount::Refund(hits) => (hits.thousandths(), true),
            Amount::Peek(_) => return,
        };
        let now = self.time(key, now);
        self.seen.insert(key.to_owned(), now);
        self.charged.insert(key.to_owned());
        let capacity = limit.capacity().thousandths();
        let end = match limit.shape() {
            Shape::FixedWindow(_) => self.end(limit, now),
            Shape::TokenBucket(_) | Shape::SlidingWindow(_) => now,
        };
        let place = (key.to_owned(), limit.tag().get());
        let counter = self
            .counters
            .entry(place)
            .or_insert_with(|| match limit.shape() {
                Shape::FixedWindow(_) => Counter::Windows(HashMap::new()),
                Shape::TokenBucket(_) => Counter::Bucket {
                    missing: 0,
                    at: now,
                    limit: limit.requests_per_unit(),
                },
                Shape::SlidingWindow(_) => Counter::Slices(Vec::new()),
            });
        match (counter, limit.shape()) {
            (Counter::Windows(windows), _) => {
                let used = windows.entry(end).or_insert(0);
                *used = if refund {
                    used.saturating_sub(hits)
                } else {
                    *used + hits
                };
            }
            (bucket @ Counter::Bucket { .. }, _) => {
                let Counter::Bucket { at, .. } = *bucket else {
                    unreachable!()
                };
                let window = window(limit);
                let left = (missing(bucket, limit) - inflow(limit, now - at)).max(0);
                let hits = i128::from(hits) * window;
                let whole = left.div_euclid(window) + i128::from(left.rem_euclid(window) != 0);
                let debt = 2 * i128::from(capacity);
                let missing = if refund {
                    (left - hits).max(0)
                } else if whole + hits / window > debt {
                    // Whole thousandths are cut off; what has flowed in towards the next stays.
                    debt * window - (whole * window - left)
                } else {
                    left + hits
                };
                let limit = limit.requests_per_unit();
                *bucket = Counter::Bucket {
                    missing,
                    at: now,
                    limit,
                };
            }
            (Counter::Slices(counts), Shape::SlidingWindow(slices)) => {
                let newest = now.div_euclid(slices.length().get() as i64);
                counts.retain(|(number, _)| number + 11 > newest);
                if refund {
                    let mut left = hits;
                    for (_, count) in counts.iter_mut() {
                        let taken = left.min(*count);
                        (*count, left) = (*count - taken, left - taken);
                    }
                } else {
                    counts.push((newest, hits));
                }
            }
            (Counter::Slices(_), _) => unreachable!("a tag names its algorithm"),
        }
    }
}

impl Bans {
    fn until(&self) -> i64 {
        self.bans.last().map_or(i64::MIN, |(until, _)| *until)
    }
}

fn window(limit: &Limit) -> i128 {
    i128::from(limit.window().get())
}

fn inflow(limit: &Limit, elapsed: i64) -> i128 {
    i128::from(limit.requests_per_unit()) * 1000 * i128::from(elapsed)
}

/// The unit, how many of them, and the zone.
type Kind = (Unit, u32, &'static str);

/// The end of the calendar period that holds `now`: days are counted from Monday, 5 January 1970, months from the year 0.
pub(crate) fn end_of_period(unit: Unit, multiplier: u32, zone: &'static str, now: i64) -> i64 {
    thread_local! {
        /// The last period of each kind.
        static LAST: RefCell<HashMap<Kind, (i64, i64)>> = RefCell::default();
    }
    let last = LAST.with_borrow(|last| last.get(&(unit, multiplier, zone)).copied());
    if let Some((_, end)) = last.filter(|(start, end)| (*start..*end).contains(&now)) {
        return end;
    }
    let period = period(unit, multiplier, zone, now);
    LAST.with_borrow_mut(|last| last.insert((unit, multiplier, zone), period));
    period.1
}

fn period(unit: Unit, multiplier: u32, zone: &str, now: i64) -> (i64, i64) {
    let zone = TimeZone::get(zone).expect("a zone");
    let moment = jiff::Timestamp::from_microsecond(now).expect("a moment");
    let today = zone.to_datetime(moment).date();
    let many = i64::from(multiplier);
    let (first, days, months) = match unit {
        Unit::Week => (date(1970, 1, 5), 7 * many, 0),
        Unit::Month => (date(0, 1, 1), 0, many),
        Unit::Year => (date(0, 1, 1), 0, 12 * many),
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Day => (date(1970, 1, 5), many, 0),
    };
    let begins = |period: i64| -> Date {
        let span: Span = (days * period).days().months(months * period);
        first.checked_add(span).expect("a date")
    };
    // The number of the period by a guess that is too low, and then one by one.
    let elapsed = first.until(today).expect("a span").get_days();
    let mut number = i64::from(elapsed) / (days + 31 * months);
    while begins(number + 1) <= today {
        number += 1;
    }
    let moment = |day: Date| {
        let moment = day.to_zoned(zone.clone()).expect("a moment");
        moment.timestamp().as_microsecond()
    };
    (moment(begins(number)), moment(begins(number + 1)))
}

/// The first moment from `low` to `high` at which `fits`, by halving.
fn first(mut low: i64, mut high: i64, fits: impl Fn(i64) -> bool) -> i64 {
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// What is missing from a bucket under the rule as it is now. What has flowed in towards the next thousandth of a hit is
/// kept in grains, the largest unit in which both refill and cost are whole; when the number of the rule has changed since,
/// as many grains of the new size, fewer than make a thousandth.
fn missing(bucket: &Counter, limit: &Limit) -> i128 {
    let Counter::Bucket {
        missing,
        limit: before,
        ..
    } = bucket
    else {
        unreachable!("not a bucket")
    };
    let window = window(limit);
    let grain = |requests: u32| gcd(i128::from(requests) * 1000, window);
    let whole = missing.div_euclid(window) + i128::from(missing.rem_euclid(window) != 0);
    let grains = (whole * window - missing) / grain(*before);
    let grain = grain(limit.requests_per_unit());
    // A lowered limit lowers the debt.
    let whole = whole.min(2 * i128::from(limit.capacity().thousandths()));
    whole * window - grains.min(window / grain - 1) * grain
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}
