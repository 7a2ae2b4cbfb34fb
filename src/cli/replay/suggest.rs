//! Which limits would refuse so much and no more.
//!
//! Each limit is looked at alone, as if it were the only one: what a counter is asked is charged to several candidates at once,
//! each of which keeps its own state, with the arithmetic that decides live. A first pass over the traffic tries powers of four,
//! each further one divides what is left in eight, until the answer is known to [`notch`]. So it takes about four passes, and
//! memory for as many counters as `--keys` allows, eight candidates each.

use std::hash::Hasher;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use crate::engine::charges::{Charges, Item};
use crate::limit::transaction::Amount;
use crate::limit::{Hits, Limit, State, Verdict};
use crate::time::Timestamp;

use super::Args;
use super::run::{Now, Run};
use super::tally::share;

/// The most limits that are looked at.
const MAX_LIMITS: usize = 1000;

/// The most passes: more are never needed.
const MAX_PASSES: usize = 8;

/// How many candidates there are between the two that are known.
const BETWEEN: u32 = 7;

/// One of so many keys in memory has its candidates kept, each of which is a counter.
const KEYS_PER_CANDIDATES: usize = 8;

/// A limit, what it refuses, and what would refuse less.
#[derive(Clone, Debug)]
pub(super) struct Suggestion {
    pub(super) domain: String,
    pub(super) rule: String,
    pub(super) plan: Option<String>,
    /// As it is.
    pub(super) limit: Limit,
    /// How many requests asked it.
    pub(super) asked: u64,
    /// The share of them that it refuses, alone.
    pub(super) refuses: f64,
    /// The least `requests_per_unit` that refuses no more than the target, to a [`notch`], and what that refuses.
    pub(super) suggested: Option<(u32, f64)>,
}

/// How exact a suggestion is: one, or one in a hundred of what is larger than that.
pub(super) fn notch(requests: u32) -> u32 {
    (requests / 100).max(1)
}

/// The limits that were asked anything, with what is suggested for them.
pub(super) fn limits(args: &Args, target: f64) -> Result<Vec<Suggestion>, String> {
    let mut search = Search::default();
    for _ in 0..MAX_PASSES {
        search.begin_pass(usize::try_from(args.keys).unwrap_or(usize::MAX));
        let mut run = Run::new(args, super::rules(args)?)?;
        run.play("looking for limits", &mut |decision, _, now| {
            if let Now::Decided(told) = now
                && let Some(charges) = told.charges
            {
                search.add(charges, decision.domain, decision.at);
            }
        })?;
        if search.end_pass(target) {
            break;
        }
    }
    Ok(search.limits.into_iter().map(|of| of.suggestion).collect())
}

/// All limits that are looked at.
#[derive(Default)]
struct Search {
    limits: Vec<Sought>,
    /// Their places, by rule and by place within it, with the plan's name for those of plans.
    places: HashMap<(String, String, Option<String>, u32), usize>,
    /// What the candidates of a limit have seen, by limit and key.
    states: HashMap<(usize, u64), Box<[Option<State>]>>,
    most_states: usize,
}

/// A limit that is looked at.
struct Sought {
    suggestion: Suggestion,
    /// The largest number that is known to refuse too much, and the least that is known not to.
    known: (u32, Option<u32>),
    /// In ascending order; the limit as it is comes last, in the first pass.
    candidates: Vec<(u32, Option<Limit>)>,
    refused: Vec<u64>,
    asked: u64,
    done: bool,
}

impl Search {
    fn begin_pass(&mut self, keys: usize) {
        self.states.clear();
        self.most_states = (keys / KEYS_PER_CANDIDATES).max(1);
        for of in &mut self.limits {
            of.begin();
        }
    }

    /// Charges the candidates of each limit that is asked.
    fn add(&mut self, charges: &Charges<'_>, domain: &str, at: Timestamp) {
        for item in &charges.items {
            let Item::Limited(limited) = item else {
                continue;
            };
            let demand = &charges.demands[limited.demand];
            let mut hasher = SipHasher13::new();
            hasher.write(charges.keys[demand.key].as_str().as_bytes());
            let key = hasher.finish();
            let rule = limited.rule.map_or("override", |rule| &rule.name);
            for bound in &demand.limits {
                let tag = bound.limit.tag().get();
                let Some(place) = self.place((domain, rule, limited.plan, tag), bound.limit) else {
                    continue;
                };
                let of = &mut self.limits[place];
                if of.done {
                    continue;
                }
                let full = self.states.len() >= self.most_states;
                let known = self.states.contains_key(&(place, key));
                if full && !known {
                    // Those that are as good as fresh make way.
                    let limits = &self.limits;
                    self.states
                        .retain(|(place, _), states| !is_fresh(&limits[*place], states, at));
                }
                if self.states.len() >= self.most_states && !known {
                    continue;
                }
                let of = &mut self.limits[place];
                let states = self.states.entry((place, key));
                let states = states.or_insert_with(|| vec![None; of.candidates.len()].into());
                of.charge(states, demand.amount, bound.always, at);
            }
        }
    }

    /// The place of a limit; none if there are too many.
    fn place(
        &mut self,
        (domain, rule, plan, tag): (&str, &str, Option<&str>, u32),
        limit: &Limit,
    ) -> Option<usize> {
        let name = (
            domain.to_owned(),
            rule.to_owned(),
            plan.map(str::to_owned),
            tag,
        );
        if let Some(place) = self.places.get(&name) {
            return Some(*place);
        }
        if self.limits.len() >= MAX_LIMITS {
            return None;
        }
        let mut sought = Sought {
            suggestion: Suggestion {
                domain: name.0.clone(),
                rule: name.1.clone(),
                plan: name.2.clone(),
                limit: limit.clone(),
                asked: 0,
                refuses: 0.0,
                suggested: None,
            },
            known: (0, None),
            candidates: Vec::new(),
            refused: Vec::new(),
            asked: 0,
            done: false,
        };
        sought.begin();
        self.limits.push(sought);
        self.places.insert(name, self.limits.len() - 1);
        Some(self.limits.len() - 1)
    }

    /// Tells whether all is known.
    fn end_pass(&mut self, target: f64) -> bool {
        for of in &mut self.limits {
            of.end(target);
        }
        self.limits.iter().all(|of| of.done)
    }
}

impl Sought {
    fn begin(&mut self) {
        let limit = self.suggestion.limit.clone();
        let numbers: Vec<u32> = match self.known {
            (low, Some(high)) => between(low, high),
            (_, None) => (0..16).map(|power| 1 << (2 * power)).collect(),
        };
        let with = |number: u32| (number, limit.with_requests(number).ok());
        self.candidates = numbers.into_iter().map(with).collect();
        if self.known.1.is_none() {
            self.candidates
                .push((limit.requests_per_unit(), Some(limit)));
        }
        self.refused = vec![0; self.candidates.len()];
        self.asked = 0;
    }

    fn charge(
        &mut self,
        states: &mut [Option<State>],
        amount: Amount,
        always: bool,
        at: Timestamp,
    ) {
        self.asked += u64::from(matches!(amount, Amount::Charge(_)));
        for (place, (_, limit)) in self.candidates.iter().enumerate() {
            let Some(limit) = limit else {
                continue;
            };
            let state = states[place].get_or_insert_with(|| limit.fresh(at));
            limit.advance(state, at);
            match amount {
                Amount::Charge(hits) => {
                    let fits = limit.verdict(state, at, hits) == Verdict::Allowed;
                    if fits || always {
                        limit.charge(state, hits);
                    }
                    self.refused[place] += u64::from(!fits);
                }
                Amount::Refund(hits) => limit.refund(state, hits),
                Amount::Peek(_) => {}
            }
        }
    }

    /// Learns from a pass.
    fn end(&mut self, target: f64) {
        if self.done {
            return;
        }
        if self.known.1.is_none() {
            let refused = self.refused.pop().unwrap_or_default();
            self.candidates.pop();
            self.suggestion.asked = self.asked;
            self.suggestion.refuses = share(refused, self.asked);
        }
        let (mut low, mut high) = self.known;
        for ((number, limit), refused) in self.candidates.iter().zip(&self.refused) {
            let refuses = share(*refused, self.asked);
            if limit.is_some() && refuses <= target {
                high = Some(*number);
                self.suggestion.suggested = Some((*number, refuses));
                break;
            }
            low = *number;
        }
        self.known = (low, high);
        self.done = high.is_none_or(|high| high - low <= notch(low));
    }
}

/// The numbers between two, evenly.
fn between(low: u32, high: u32) -> Vec<u32> {
    let step = (high - low).div_ceil(BETWEEN + 1).max(1);
    (1..=BETWEEN)
        .map(|place| low.saturating_add(step.saturating_mul(place)))
        .take_while(|number| *number < high)
        .collect()
}

/// Whether a key is as good as one that was never seen.
fn is_fresh(of: &Sought, states: &mut [Option<State>], at: Timestamp) -> bool {
    let mut candidates = of.candidates.iter().zip(states);
    candidates.all(|((_, limit), state)| match (limit, state) {
        (Some(limit), Some(state)) => {
            limit.advance(state, at);
            limit.used(state) == Hits::ZERO
        }
        _ => true,
    })
}
