//! What each algorithm promises, checked against the list of everything that it admitted.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tollgate::limit::period::Zone;
use tollgate::limit::{Algorithm, Hits, Limit, Receipt, State, Unit, Verdict, decide};
use tollgate::time::{Micros, Timestamp};

/// A limit, and a sequence of pauses and hits.
#[derive(Debug, Clone)]
struct Traffic {
    limit: Limit,
    steps: Vec<(u64, u64)>,
}

/// The same cases in every run; `PROPTEST_RNG_SEED=n` tries others.
fn config() -> ProptestConfig {
    let config = ProptestConfig::with_cases(300);
    if std::env::var_os("PROPTEST_RNG_SEED").is_some() {
        return config;
    }
    ProptestConfig {
        rng_seed: RngSeed::Fixed(20_261_121),
        ..config
    }
}

fn limits() -> impl Strategy<Value = Limit> {
    let algorithm = prop_oneof![
        Just(Algorithm::FixedWindow),
        Just(Algorithm::SlidingWindow),
        (1000_u64..40_000).prop_map(|burst| Algorithm::TokenBucket {
            burst: Hits::from_thousandths(burst),
        }),
    ];
    let unit = prop_oneof![Just(Unit::Second), Just(Unit::Minute), Just(Unit::Day)];
    (1_u32..30, unit, 1_u32..4, algorithm).prop_map(|(requests, unit, multiplier, algorithm)| {
        Limit::new(requests, unit, multiplier, algorithm, &Zone::utc()).expect("a limit")
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    limits().prop_flat_map(|limit| {
        let window = limit.window().get();
        let pause = prop_oneof![3 => 0..window / 20, 1 => 0..window];
        let steps = prop::collection::vec((pause, 1_u64..4_000), 1..200);
        steps.prop_map(move |steps| Traffic {
            limit: limit.clone(),
            steps,
        })
    })
}

impl Traffic {
    /// Plays the traffic, and returns what was admitted when.
    fn play(
        &self,
        mut each: impl FnMut(&State, Timestamp, Hits, Verdict),
    ) -> Vec<(Timestamp, u64)> {
        let mut now = Timestamp::from_secs(1_700_000_000);
        let mut state = self.limit.fresh(now);
        let mut admitted = Vec::new();
        for (pause, hits) in &self.steps {
            now = now + Micros::new(*pause);
            let hits = Hits::from_thousandths(*hits);
            let verdict = decide(&self.limit, &mut state, now, hits);
            each(&state, now, hits, verdict);
            if verdict == Verdict::Allowed {
                self.limit.charge(&mut state, hits);
                admitted.push((now, hits.thousandths()));
            }
        }
        admitted
    }
}

/// The most that `limit` promises to admit from `first` to `last`, both included, in thousandths.
fn bound(limit: &Limit, first: Timestamp, last: Timestamp) -> Option<u64> {
    let capacity = limit.capacity().thousandths();
    let elapsed = u128::from(last.since(first).get());
    let window = u128::from(limit.window().get());
    match limit.shape() {
        tollgate::limit::Shape::FixedWindow(windows) => {
            (windows.end(first) == windows.end(last)).then_some(capacity)
        }
        tollgate::limit::Shape::SlidingWindow(_) => (elapsed < window).then_some(capacity),
        tollgate::limit::Shape::TokenBucket(_) => {
            let refill = u128::from(limit.requests_per_unit()) * 1000 * elapsed / window;
            Some(capacity + refill as u64)
        }
    }
}

proptest! {
    #![proptest_config(config())]

    /// No window, no interval, is ever over its limit.
    #[test]
    fn no_interval_is_over_its_limit(traffic in traffic()) {
        let admitted = traffic.play(|_, _, _, _| {});
        for (i, (first, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (last, hits) in &admitted[i..] {
                sum += hits;
                if let Some(bound) = bound(&traffic.limit, *first, *last) {
                    prop_assert!(sum <= bound, "{sum} from {first:?} to {last:?}, at most {bound}");
                }
            }
        }
    }

    /// Who is told to wait is admitted after that time, and not a microsecond before.
    #[test]
    fn a_wait_is_exact(traffic in traffic()) {
        traffic.play(|state, now, hits, verdict| {
            if let Verdict::Wait(wait) = verdict {
                let at = |wait: u64| {
                    decide(&traffic.limit, &mut state.clone(), now + Micros::new(wait), hits)
                };
                assert_eq!(at(wait.get()), Verdict::Allowed);
                assert_ne!(at(wait.get() - 1), Verdict::Allowed);
            }
        });
    }

    /// After the time that its key lives, a state is as good as a fresh one; before, it is not.
    #[test]
    fn a_key_lives_until_it_is_as_good_as_fresh(traffic in traffic()) {
        let limit = &traffic.limit;
        traffic.play(|state, now, _, _| {
            let ends = limit.fresh_in(state, now);
            let used_after = |wait: u64| {
                let (mut state, now) = (state.clone(), now + Micros::new(wait));
                limit.advance(&mut state, now);
                limit.used(&state)
            };
            assert_eq!(used_after(ends.get()), Hits::ZERO);
            if limit.used(state) > Hits::ZERO {
                assert_ne!(used_after(ends.get() - 1), Hits::ZERO);
            }
        });
    }

    /// What is given back after a pause leaves no more room than if it had never been charged, and as much, to a thousandth
    /// of a hit, if nothing else was charged meanwhile.
    #[test]
    fn giving_back_never_loosens(
        traffic in traffic(),
        charged in 1_u64..3_000,
        pause in 0_u64..200_000_000,
        between in prop::collection::vec((0_u64..50_000_000, 1_u64..3_000), 0..4),
    ) {
        let limit = &traffic.limit;
        let mut now = Timestamp::from_secs(1_700_000_000);
        let mut state = limit.fresh(now);
        for (pause, hits) in &traffic.steps {
            now = now + Micros::new(*pause);
            let hits = Hits::from_thousandths(*hits);
            if decide(limit, &mut state, now, hits) == Verdict::Allowed {
                limit.charge(&mut state, hits);
            }
        }
        limit.advance(&mut state, now);
        let mut without = state.clone();
        let hits = Hits::from_thousandths(charged);
        prop_assume!(limit.verdict(&state, now, hits) == Verdict::Allowed);
        let receipt = Receipt { at: now, used_before: limit.used(&state), hits };
        limit.charge(&mut state, hits);
        for (pause, hits) in &between {
            now = now + Micros::new(*pause);
            let hits = Hits::from_thousandths(*hits);
            let fits = decide(limit, &mut state, now, hits) == Verdict::Allowed;
            limit.advance(&mut without, now);
            if fits {
                limit.charge(&mut state, hits);
                limit.charge(&mut without, hits);
            }
        }
        now = now + Micros::new(pause);
        limit.advance(&mut state, now);
        limit.advance(&mut without, now);
        limit.give_back(&mut state, now, &receipt);
        prop_assert!(limit.used(&state) >= limit.used(&without));
        if between.is_empty() {
            prop_assert!(limit.used(&state) <= limit.used(&without).plus(Hits::from_thousandths(1)));
        }
    }
}

#[test]
fn a_bucket_of_700_000_a_second_refills_700_000_a_second() {
    let burst = Hits::whole(1_000_000);
    let algorithm = Algorithm::TokenBucket { burst };
    let limit = Limit::new(700_000, Unit::Second, 1, algorithm, &Zone::utc()).expect("a limit");
    let start = Timestamp::from_secs(1_700_000_000);
    let mut state = limit.fresh(start);
    limit.charge(&mut state, burst);
    for micros in 1..=1_000_000 {
        limit.advance(&mut state, start + Micros::new(micros));
    }
    assert_eq!(limit.used(&state), Hits::whole(300_000));
}

#[test]
fn a_bucket_that_cannot_be_exact_is_refused() {
    let algorithm = Algorithm::TokenBucket {
        burst: Hits::whole(u32::MAX),
    };
    let odd = Limit::new(999_983, Unit::Year, 100, algorithm, &Zone::utc());
    assert!(odd.is_err());
}
