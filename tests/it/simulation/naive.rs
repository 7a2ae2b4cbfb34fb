//! What the service should say, foreseen without it: the rules read by hand, and the naive model in place of every store.

use tollgate::limit::transaction::{Amount, Bound, Demand, Fold, Outcome, Reading as Said, Role};
use tollgate::limit::{Hits, Limit, Verdict};
use tollgate::rules::FailureMode;
use tollgate::store::Transaction;
use tollgate::time::Timestamp;

use super::ask::{Item, Reading, Term};
use crate::support::model::Model;

/// The store and each instance's memory.
#[derive(Clone)]
pub(super) struct Naive {
    pub(super) store: Model,
    pub(super) local: Vec<Model>,
}

/// What should come of a request.
#[derive(Clone, Debug)]
pub(super) struct Foreseen {
    pub(super) admitted: bool,
    /// By the store, and not by the instance alone.
    pub(super) by_store: bool,
    /// One for each descriptor; none for one without limits.
    pub(super) items: Vec<Option<Judged>>,
    /// What candidates count of it: requests, those that would be refused, those that would be admitted.
    pub(super) tallies: [u64; 3],
}

/// What should come of a descriptor with limits.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) fits: bool,
    /// What each limit of the store says; empty when the instance decides alone.
    pub(super) said: Vec<Said>,
    /// A candidate of it is charged.
    pub(super) tried: bool,
}

impl Naive {
    pub(super) fn new(instances: usize, zone: &'static str) -> Self {
        Self {
            store: Model::in_zone(zone),
            local: vec![Model::in_zone(zone); instances],
        }
    }

    /// The store decides.
    pub(super) fn by_store(&mut self, reading: &Reading, now: i64) -> Foreseen {
        let demands = reading.demands();
        if demands.is_empty() {
            return Foreseen::free(reading);
        }
        let outcome = transact(&mut self.store, reading, &demands, now);
        let mut said = outcome.readings.into_iter();
        let mut trials = outcome.trials.into_iter();
        let mut tallies = [0; 3];
        let judge = |item: &Item| {
            let said: Vec<Said> = said.by_ref().take(item.terms.len()).collect();
            let fits = said.iter().all(|said| said.verdict == Verdict::Allowed);
            let mut tried = false;
            for (candidate, trial) in item.candidates().iter().zip(trials.by_ref()) {
                let is_peek = matches!(item.amount, Amount::Peek(_));
                tried |= !is_peek && (candidate.always || trial.fits && trial.passes);
                let shadow = item.role == Role::Shadow;
                let live = outcome.admitted && (fits || !shadow);
                let would = trial.passes && (trial.fits || !shadow);
                if matches!(item.amount, Amount::Charge(_)) {
                    tallies[0] += 1;
                    tallies[1] += u64::from(live && !would);
                    tallies[2] += u64::from(would && !live);
                }
            }
            Judged { fits, said, tried }
        };
        let mut judge = judge;
        let items = reading.items.iter();
        let items = items.map(|item| item.as_ref().map(&mut judge)).collect();
        Foreseen {
            admitted: outcome.admitted,
            by_store: true,
            items,
            tallies,
        }
    }

    /// The instance decides alone: what allows has room for all, what denies for nothing, and the rest is enforced with the
    /// instance's share. A refused request leaves nothing.
    pub(super) fn alone(&mut self, instance: usize, reading: &Reading, now: i64) -> Foreseen {
        if reading.demands().is_empty() {
            return Foreseen::free(reading);
        }
        let instances = u32::try_from(self.local.len()).expect("a few");
        let items: Vec<&Item> = reading.items.iter().flatten().collect();
        let shares: Vec<Vec<(Limit, bool)>> = items
            .iter()
            .map(|item| {
                let local = item
                    .terms
                    .iter()
                    .filter(|term| term.mode == FailureMode::Local);
                let share = |term: &Term| {
                    let limit = term.spec.share(instances).limit(&reading.zone);
                    (limit, term.spec.always)
                };
                local.map(share).collect()
            })
            .collect();
        let denies = |item: &Item| {
            let takes = !matches!(item.amount, Amount::Refund(_));
            let deny = |term: &Term| term.mode == FailureMode::Deny;
            takes && item.terms.iter().any(deny)
        };
        let denied = !fold(items.iter().map(|item| (*item, !denies(item))));
        let demands: Vec<Demand<'_>> = items
            .iter()
            .zip(&shares)
            .map(|(item, shares)| {
                let bounds = shares.iter().map(|(limit, always)| Bound {
                    limit,
                    always: *always,
                });
                Demand {
                    amount: match item.amount {
                        Amount::Charge(hits) if denied => Amount::Peek(hits),
                        Amount::Refund(_) if denied => Amount::Refund(Hits::ZERO),
                        amount @ (Amount::Charge(_) | Amount::Refund(_) | Amount::Peek(_)) => {
                            amount
                        }
                    },
                    ..item.demand(bounds.collect())
                }
            })
            .collect();
        let mut after = self.local[instance].clone();
        let outcome = transact(&mut after, reading, &demands, now);
        let mut said = outcome.readings.into_iter();
        let fits: Vec<bool> = items
            .iter()
            .zip(&shares)
            .map(|(item, shares)| {
                let fit = |said: Said| said.verdict == Verdict::Allowed;
                let all = said
                    .by_ref()
                    .take(shares.len())
                    .map(fit)
                    .fold(true, |a, b| a & b);
                all && !denies(item)
            })
            .collect();
        let admitted = fold(items.iter().copied().zip(fits.iter().copied()));
        // Were it admitted by its local part and refused by the rest, it would leave what it must not.
        if admitted == outcome.admitted || denied {
            self.local[instance] = after;
        }
        let mut fits = fits.into_iter();
        let judge = |_: &Item| Judged {
            fits: fits.next().expect("one for each"),
            said: Vec::new(),
            tried: false,
        };
        let mut judge = judge;
        Foreseen {
            admitted,
            by_store: false,
            items: reading
                .items
                .iter()
                .map(|item| item.as_ref().map(&mut judge))
                .collect(),
            tallies: [0; 3],
        }
    }
}

impl Foreseen {
    /// Nothing limits the request, and nobody is asked.
    fn free(reading: &Reading) -> Self {
        Self {
            admitted: true,
            by_store: true,
            items: reading.items.iter().map(|_| None).collect(),
            tallies: [0; 3],
        }
    }
}

fn fold<'i>(items: impl Iterator<Item = (&'i Item, bool)>) -> bool {
    let mut fold = Fold::default();
    items.for_each(|(item, fits)| fold.add(item.role, fits));
    fold.admitted()
}

fn transact(model: &mut Model, reading: &Reading, demands: &[Demand<'_>], now: i64) -> Outcome {
    model.transact(&Transaction {
        keys: &reading.keys,
        demands,
        now: Some(Timestamp::from_micros(now)),
        timeout: std::time::Duration::ZERO,
    })
}
