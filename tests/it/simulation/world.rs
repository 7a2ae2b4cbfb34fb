//! A simulated world: instances that share a store on one hand-moved clock, beside what should become of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollgate::directory;
use tollgate::engine::{Answer, Engine, Settings};
use tollgate::limit::transaction::{Amount, Bound, Demand, Outcome, Role};
use tollgate::limit::{Hits, Limit, Unit};
use tollgate::store::faulty::{Fault, Faulty};
use tollgate::store::{Key, Store, Transaction};
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, ManualClock, Timestamp};

use super::ask::{Ask, Part, Standing};
use super::ledger::{Ledger, Mark};
use super::naive::Naive;
use super::rules::{Rules, SHAPES, Spec};
use super::shared::{Copy, Shared};
use super::steps::{INSTANCES, SUBJECTS};
use crate::support::rules::compile;

/// Nothing is waited for in earnest.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// The world.
pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) now: i64,
    pub(super) shared: Shared,
    pub(super) instances: Vec<Instance>,
    pub(super) versions: Vec<Rules>,
    /// The last version that any instance has loaded.
    pub(super) latest: usize,
    /// What is known of each user, as the store has it.
    pub(super) standings: HashMap<String, Standing>,
    /// How often that has changed.
    pub(super) changes: usize,
    /// The last look at all keys, and the version and the changes that it was made for.
    last_look: RefCell<Option<(usize, usize, Arc<Look>)>>,
    pub(super) naive: Naive,
    pub(super) ledger: Ledger,
    /// The replica, as it would take over.
    pub(super) kept: Option<Kept>,
    /// The version under which each key was charged last.
    pub(super) charged_under: HashMap<String, usize>,
    /// The latest the clock has ever shown.
    pub(super) latest_now: i64,
    /// The clock has gone back, and what instances remember alone may have been forgotten before.
    pub(super) local_is_hazy: bool,
    pub(super) subjects: Vec<(usize, Vec<String>)>,
}

/// An instance.
pub(super) struct Instance {
    pub(super) engine: Arc<Engine>,
    pub(super) link: Arc<Faulty>,
    pub(super) version: usize,
    pub(super) cut: Option<Fault>,
    /// What it knows of users; who is not in it is asked for.
    pub(super) known: HashMap<String, Option<Standing>>,
    /// Who has changed while it was cut off.
    pub(super) missed: Vec<String>,
}

/// A copy of the store and of all that should be in it.
pub(super) struct Kept {
    pub(super) copy: Copy,
    pub(super) naive: Naive,
    pub(super) mark: Mark,
    pub(super) charged_under: HashMap<String, usize>,
}

/// What is used of a limit of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Used {
    pub(super) key: Key,
    pub(super) spec: Spec,
    pub(super) hits: u64,
}

/// A look at what is used of some limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) keys: Vec<Key>,
    /// The limits of each.
    pub(super) specs: Vec<Vec<Spec>>,
    limits: Vec<Vec<Limit>>,
}

impl World {
    pub(super) async fn new(versions: Vec<Rules>, start: i64, seed: u64, shared: Shared) -> Self {
        let (clock, handle) = Clock::manual(Timestamp::from_micros(start));
        let shared = shared.begin(seed, &clock).await;
        let zone = versions[0].zone;
        let mut world = Self {
            now: start,
            clock: handle,
            instances: (0..INSTANCES)
                .map(|_| Instance::new(&shared, &clock))
                .collect(),
            shared,
            versions,
            latest: 0,
            standings: HashMap::new(),
            changes: 0,
            last_look: RefCell::default(),
            naive: Naive::new(INSTANCES, zone),
            ledger: Ledger::new(zone),
            kept: None,
            charged_under: HashMap::new(),
            latest_now: start,
            local_is_hazy: false,
            subjects: subjects(),
        };
        world.load(0, 0..INSTANCES);
        for instance in &world.instances {
            instance.catch_up().await;
        }
        world
    }

    /// Makes instances load a version of the rules.
    pub(super) fn load(&mut self, version: usize, instances: impl IntoIterator<Item = usize>) {
        let file = ("rules.yaml".to_owned(), self.versions[version].yaml());
        for instance in instances {
            let files = std::slice::from_ref(&file);
            let rules =
                compile(files, false).unwrap_or_else(|report| panic!("{report}\n{}", file.1));
            self.instances[instance].engine.install(rules);
            self.instances[instance].version = version;
            self.latest = version;
        }
    }

    /// Sets the clock.
    pub(super) fn set(&mut self, now: i64) {
        self.now = now;
        self.latest_now = self.latest_now.max(now);
        self.clock.set(Timestamp::from_micros(now));
    }

    /// What an instance reads a request as.
    pub(super) fn read(&mut self, instance: usize, ask: &Ask) -> super::ask::Reading {
        let reached = self.instances[instance].link_works();
        for user in ask.parts.iter().filter_map(Part::user) {
            let known = &mut self.instances[instance].known;
            if reached && !known.contains_key(user) {
                known.insert(user.to_owned(), self.standings.get(user).cloned());
            }
        }
        let rules = &self.versions[self.instances[instance].version];
        ask.read(rules, &self.instances[instance].known, self.now)
    }

    /// What is used of every limit of every key, as the store says at this moment under the latest rules.
    pub(super) async fn used(&self) -> Vec<Used> {
        let look = self.look_at_all();
        let said = self.peek(&look).await.readings;
        let limits = look.keys.iter().zip(&look.specs);
        let limits = limits.flat_map(|(key, specs)| specs.iter().map(move |spec| (key, spec)));
        let used = limits.zip(said).map(|((key, spec), said)| Used {
            key: key.clone(),
            spec: spec.clone(),
            hits: said.used.thousandths(),
        });
        used.collect()
    }

    /// Leaves nothing to the next seed.
    pub(super) async fn end(&self) {
        let rules = &self.versions[0];
        let mut forgotten = Vec::new();
        for (shape, values) in &self.subjects {
            let rule = &rules.rules[*shape];
            let brought = [Unit::Second, Unit::Minute].map(|unit| Spec::brought(1, unit));
            let specs = rules.plans.iter().flatten().chain(&rule.limits);
            let specs = specs.chain(&brought);
            let tags = specs.flat_map(|spec| {
                let tag = spec.limit(&rules.place).tag();
                [tag, tag.on_trial()]
            });
            let tags = tags.chain(rule.ban().map(|ban| ban.tag())).collect();
            forgotten.push((super::ask::key(*shape, values), tags));
        }
        self.shared.end(&forgotten).await;
    }

    /// Every key that can be charged.
    pub(super) fn keys(&self) -> Vec<Key> {
        let key = |(shape, values): &(usize, Vec<String>)| super::ask::key(*shape, values);
        self.subjects.iter().map(key).collect()
    }

    /// A look at all keys, the same until something changes.
    pub(super) fn look_at_all(&self) -> Arc<Look> {
        let granted = self.standings.values().any(|known| known.grant.is_some());
        let mut last = self.last_look.borrow_mut();
        match &*last {
            Some((version, changes, look))
                if !granted && (*version, *changes) == (self.latest, self.changes) =>
            {
                Arc::clone(look)
            }
            _ => {
                let look = Arc::new(self.look(|_| true));
                *last = Some((self.latest, self.changes, Arc::clone(&look)));
                look
            }
        }
    }

    /// A look at the keys that are `wanted`, under the latest rules.
    pub(super) fn look(&self, wanted: impl Fn(&Key) -> bool) -> Look {
        let rules = &self.versions[self.latest];
        let known: HashMap<String, Option<Standing>> = self
            .standings
            .iter()
            .map(|(user, standing)| (user.clone(), Some(standing.clone())))
            .collect();
        let mut look = Look::default();
        for (shape, values) in &self.subjects {
            let part = Part::peek(*shape, values.clone());
            let key = part.key();
            if !wanted(&key) {
                continue;
            }
            let ask = Ask {
                hits: 0,
                parts: vec![part],
            };
            let reading = ask.read(rules, &known, self.now);
            if let Some(Some(item)) = reading.items.into_iter().next() {
                look.keys.push(key);
                look.limits
                    .push(item.terms.iter().map(|term| term.limit.clone()).collect());
                look.specs
                    .push(item.terms.into_iter().map(|term| term.spec).collect());
            }
        }
        look
    }

    /// Asks the store itself, not over anybody's link.
    pub(super) async fn peek(&self, look: &Look) -> Outcome {
        let demands = look.demands();
        let transaction = look.transaction(&demands, self.now);
        let outcome = self.shared.store().transact(&transaction).await;
        outcome.expect("an outcome")
    }

    /// Charges nothing, which is written all the same.
    pub(super) async fn touch(&self, look: &Look) {
        let mut demands = look.demands();
        for demand in &mut demands {
            demand.amount = Amount::Charge(Hits::ZERO);
            demand
                .limits
                .iter_mut()
                .for_each(|bound| bound.always = true);
        }
        let transaction = look.transaction(&demands, self.now);
        let outcome = self.shared.store().transact(&transaction).await;
        outcome.expect("an outcome");
    }

    /// Asks the naive model.
    pub(super) fn foresee(&mut self, look: &Look) -> Outcome {
        let demands = look.demands();
        let transaction = look.transaction(&demands, self.now);
        self.naive.store.transact(&transaction)
    }
}

impl Look {
    fn demands(&self) -> Vec<Demand<'_>> {
        let bound = |limit| Bound {
            limit,
            always: false,
        };
        let limits = self.limits.iter().enumerate();
        limits
            .map(|(key, limits)| Demand {
                key,
                amount: Amount::Peek(Hits::ZERO),
                role: Role::Enforced,
                limits: limits.iter().map(bound).collect(),
                ban: None,
                candidates: Vec::new(),
            })
            .collect()
    }

    fn transaction<'a, 'l>(&'a self, demands: &'a [Demand<'l>], now: i64) -> Transaction<'a, 'l> {
        Transaction {
            keys: &self.keys,
            demands,
            now: Some(Timestamp::from_micros(now)),
            timeout: TIMEOUT,
        }
    }
}

impl Instance {
    fn new(shared: &Shared, clock: &Clock) -> Self {
        let link = Arc::new(Faulty::new(shared.link()));
        let settings = Settings {
            instances: Some(u32::try_from(INSTANCES).expect("a few")),
            store_timeout: TIMEOUT,
            ..Settings::default()
        };
        let store = Store::Faulty(Arc::clone(&link));
        Self {
            engine: Arc::new(Engine::new(store, settings, clock.clone(), Metrics::new())),
            link,
            version: 0,
            cut: None,
            known: HashMap::new(),
            missed: Vec::new(),
        }
    }

    pub(super) fn link_works(&self) -> bool {
        self.cut.is_none()
    }

    /// Learns what others have changed.
    pub(super) async fn catch_up(&self) {
        let (directory, store) = (self.engine.directory(), self.engine.store());
        directory.catch_up(store, TIMEOUT).await.expect("it looks");
    }

    /// What its candidates have counted: requests, those that would be refused, those that would be admitted.
    pub(super) async fn tallies(&self) -> [u64; 3] {
        let all = self.engine.trials().await.candidates;
        all.iter().fold([0; 3], |[a, b, c], one| {
            [a + one.requests, b + one.would_refuse, c + one.would_admit]
        })
    }

    pub(super) async fn ask(&self, ask: &Ask) -> Answer<'static> {
        let request = ask.request();
        let answer = self
            .engine
            .check(&request, Instant::now(), None, |answer| answer.owned());
        answer.await.expect("an answer")
    }

    /// Changes what is known of a user.
    pub(super) async fn stand(&self, user: &str, standing: &Standing) {
        let grant = standing.grant.as_ref();
        let grant = grant.map(|(limit, hits, until)| directory::Grant {
            limit: limit.clone(),
            hits: *hits,
            until: *until,
        });
        let standing = directory::Standing {
            plan: standing.plan.map(str::to_owned),
            limits: standing.number.iter().cloned().collect(),
            until: None,
            note: String::new(),
            grants: grant.into_iter().collect(),
        };
        let key = Key::new("", &format!("d|user={user}"), "@");
        let (directory, store) = (self.engine.directory(), self.engine.store());
        let change = directory.change(store, &key, TIMEOUT, |_| standing.clone());
        change.await.expect("it is changed");
    }
}

/// Who can be asked for: the shape and the values of each key.
fn subjects() -> Vec<(usize, Vec<String>)> {
    let mut subjects = Vec::new();
    for (shape, keys) in SHAPES.iter().enumerate() {
        let mut all: Vec<Vec<String>> = vec![Vec::new()];
        for key in *keys {
            let (_, values) = SUBJECTS.iter().find(|(of, _)| of == key).expect("a key");
            let longer = all.iter().flat_map(|begun| {
                let with = move |value: &&str| [begun.as_slice(), &[(*value).to_owned()]].concat();
                values.iter().map(with)
            });
            all = longer.collect();
        }
        subjects.extend(all.into_iter().map(|values| (shape, values)));
    }
    subjects
}
