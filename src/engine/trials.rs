//! What came of the candidates: how many requests would have been decided otherwise, and whose.
//!
//! The counts of a candidate begin when it is first loaded, and begin anew when it or its live limit changes; they outlast a
//! reload that changes neither. They are this instance's own, and added up with those of the others when somebody asks.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Request;
use super::account::name_among;
use super::bulletin::Bulletin;
use super::compare::{Compared, Difference};
use super::fold::Ruling;
use super::top::sketch::Sketch;
use super::top::summary::Summary;
use super::top::{KEPT, Subject};
use crate::limit::transaction::Amount;
use crate::limit::{Hits, Limit};
use crate::rules::{Domain, Rule, RuleCandidate, RuleLimit, RuleSet, Source};
use crate::store::posts::Board;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::candidates::CandidateCounters;
use crate::time::Timestamp;

mod post;

pub use post::{Tallies, Tally};

/// Of how many candidates is told who differs; beyond it only metrics count.
pub const MAX_TRIALS: usize = 256;

/// The candidates that hold now and what came of them.
#[derive(Debug)]
pub(super) struct Trials {
    known: Mutex<BTreeMap<Id, Arc<Trial>>>,
    /// Tells subjects apart, in this process alone.
    secret: (u64, u64),
    bulletin: Bulletin<post::Post>,
}

/// Where the counts of each candidate of a rule set are: by rule, then by the candidate's place.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<(u32, usize), Place>);

#[derive(Debug)]
struct Place {
    counters: CandidateCounters,
    trial: Option<Arc<Trial>>,
}

/// What makes a candidate the same as before: where it stands, its live limit, and its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    domain: String,
    rule: String,
    live: String,
    candidate: String,
}

/// A candidate that holds now.
#[derive(Clone, Debug)]
pub struct Description {
    /// The domain.
    pub domain: Arc<str>,
    /// The rule's name.
    pub rule: Arc<str>,
    /// Where the rule stands.
    pub source: Source,
    /// Its place in the YAML.
    pub path: String,
    /// The plan that has the limit.
    pub plan: Option<String>,
    /// The live limit and what people call it; none where nothing limits.
    pub live: Option<(String, Limit)>,
    /// The candidate.
    pub candidate: Limit,
    /// The candidate refuses nothing.
    pub unlimited: bool,
}

/// What came of a candidate here.
#[derive(Debug)]
struct Trial {
    described: Mutex<Description>,
    since: Timestamp,
    requests: AtomicU64,
    would_refuse: AtomicU64,
    would_admit: AtomicU64,
    /// Of those that would be refused, and of those that would be admitted: requests in thousandths.
    subjects: Mutex<[Sketch; 2]>,
}

impl Trials {
    /// None yet. What is told others is under `prefix`.
    pub(super) fn new(prefix: &str) -> Self {
        let secret = std::hash::RandomState::new();
        Self {
            known: Mutex::default(),
            secret: (secret.hash_one(0), secret.hash_one(1)),
            bulletin: Bulletin::new(Board::named(prefix, "trials")),
        }
    }

    /// The places of the candidates of `rules`, which are the ones that hold from now on. What is no longer tried is forgotten.
    pub(super) fn places(&self, rules: &RuleSet, metrics: &Metrics, now: Timestamp) -> Places {
        let mut known = self.known.lock();
        let mut before = std::mem::take(&mut *known);
        let mut places = HashMap::new();
        for rule in &rules.rules {
            for (place, described, label) in candidates(rules, rule) {
                let counters = metrics.candidate(&rule.domain, &label);
                let id = described.id();
                // A name may come twice, in two rules with the same keys and values.
                let trial = match known.get(&id).cloned().or_else(|| before.remove(&id)) {
                    Some(trial) => {
                        *trial.described.lock() = described;
                        Some(trial)
                    }
                    None => Some(Arc::new(Trial::new(described, now))),
                };
                let trial = trial.filter(|_| known.len() < MAX_TRIALS || known.contains_key(&id));
                if let Some(trial) = &trial {
                    known.insert(id, Arc::clone(trial));
                }
                places.insert((rule.id.0, place), Place { counters, trial });
            }
        }
        Places(places)
    }

    /// Counts what the candidates of a request came to.
    #[inline(never)]
    pub(super) fn note(
        &self,
        places: &Places,
        domain: &Domain,
        request: &Request<'_>,
        ruling: &Ruling<'_>,
    ) {
        for compared in &ruling.compared {
            let tried = &compared.tried;
            let Some(place) = places.0.get(&(tried.rule.id.0, tried.place)) else {
                continue;
            };
            // What only asks, or gives back, is no request that would be refused.
            let Amount::Charge(_) = compared.amount else {
                continue;
            };
            let counters = &place.counters;
            match compared.difference() {
                Difference::Same => counters.same.inc(),
                Difference::WouldRefuse => counters.would_refuse.inc(),
                Difference::WouldAdmit => counters.would_admit.inc(),
            }
            if let Some(trial) = &place.trial {
                let subject = Subject {
                    domain,
                    rule: tried.rule,
                    entries: &request.descriptors[tried.descriptor].entries,
                };
                trial.count(compared, &subject, self.secret);
            }
        }
    }
}

impl Trial {
    fn new(described: Description, now: Timestamp) -> Self {
        Self {
            described: Mutex::new(described),
            since: now,
            requests: AtomicU64::new(0),
            would_refuse: AtomicU64::new(0),
            would_admit: AtomicU64::new(0),
            subjects: Mutex::default(),
        }
    }

    fn count(&self, compared: &Compared<'_>, subject: &Subject<'_>, secret: (u64, u64)) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (counter, which) = match compared.difference() {
            Difference::Same => return,
            Difference::WouldRefuse => (&self.would_refuse, 0),
            Difference::WouldAdmit => (&self.would_admit, 1),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // Rather than wait for others that count the same candidate, the subject is left out.
        if let Some(mut subjects) = self.subjects.try_lock() {
            let one = Hits::ONE.thousandths();
            subjects[which].add(subject.print(secret), one, |name| subject.write(name));
        }
    }

    fn tally(&self) -> post::Counts {
        let subjects = self.subjects.lock();
        let summary = |which: &Sketch| which.summary(KEPT);
        let summaries: [Summary; 2] = subjects.each_ref().map(summary);
        drop(subjects);
        post::Counts {
            since: self.since.as_micros(),
            requests: self.requests.load(Ordering::Relaxed),
            would_refuse: self.would_refuse.load(Ordering::Relaxed),
            would_admit: self.would_admit.load(Ordering::Relaxed),
            subjects: summaries,
        }
    }
}

impl Description {
    fn id(&self) -> Id {
        let live = self.live.as_ref();
        let live = live.map(|(name, limit)| format!("{name} {}", text(limit)));
        Id {
            domain: self.domain.to_string(),
            rule: match &self.plan {
                Some(plan) => format!("{} {plan}", self.rule),
                None => self.rule.to_string(),
            },
            live: live.unwrap_or_default(),
            candidate: text(&self.candidate),
        }
    }
}

/// All that makes a limit what it is.
fn text(limit: &Limit) -> String {
    format!("{limit} {} {}", limit.tag().get(), limit.capacity())
}

/// The candidates of a rule, each with its place and what it is called in metrics.
fn candidates<'r>(
    rules: &'r RuleSet,
    rule: &'r Rule,
) -> impl Iterator<Item = (usize, Description, String)> {
    let own = rule.candidates.iter().enumerate();
    let own = own.map(|(place, candidate)| (place, None, &*rule.limits, candidate));
    let domain = rule
        .plan
        .as_ref()
        .and_then(|_| rules.domains.get(&*rule.domain));
    let plans = domain.into_iter().flat_map(|domain| &domain.plans);
    let of_plans = plans.flat_map(|(name, plan)| {
        let candidates = plan.candidates.iter().enumerate();
        candidates.map(move |(place, candidate)| {
            let place = plan.first_candidate + place;
            (place, Some(name.as_str()), &*plan.limits, candidate)
        })
    });
    own.chain(of_plans)
        .map(|(place, plan, limits, candidate)| describe(rule, place, plan, limits, candidate))
}

fn describe(
    rule: &Rule,
    place: usize,
    plan: Option<&str>,
    limits: &[RuleLimit],
    candidate: &RuleCandidate,
) -> (usize, Description, String) {
    let live = candidate.instead_of.and_then(|place| limits.get(place));
    // Called as its live limit is.
    let label = match live {
        Some(live) if rule.limits.len() != 1 => {
            name_among(&rule.name, plan, live.name.as_deref(), &live.limit)
        }
        Some(_) => rule.name.to_string(),
        None => plan.map_or_else(
            || rule.name.to_string(),
            |plan| format!("{}.{plan}", rule.name),
        ),
    };
    let described = Description {
        domain: Arc::clone(&rule.domain),
        rule: Arc::clone(&rule.name),
        source: rule.source.clone(),
        path: rule.path.clone(),
        plan: plan.map(str::to_owned),
        live: live.map(|live| (live.label().to_owned(), live.limit.clone())),
        candidate: candidate.limit.clone(),
        unlimited: candidate.unlimited,
    };
    (place, described, label)
}
