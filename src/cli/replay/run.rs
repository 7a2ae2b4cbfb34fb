//! The traffic through an engine: the engine of the service, on the embedded store, whose clock shows the time of each request.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::capture::{Decision, Header, Sample};
use crate::directory::Standing;
use crate::engine::recording::{Told, hashed_value};
use crate::engine::{self, Engine, Reason, Rejection, Request};
use crate::limit::Unit;
use crate::rules::{Descriptor, Domain, Entry, Override, RuleSet};
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::telemetry::metrics::Metrics;
use crate::time::{Clock, ManualClock, Timestamp};

use super::progress::Progress;
use super::tally::Tally;
use super::traffic::{About, Traffic};
use super::{Args, machine};

/// The most standings that are remembered as they were read.
const MAX_STANDINGS: usize = 4096;

/// The same traffic gives the same report, so the place of a key in the store is no secret of the process.
const SECRET: (u64, u64) = (0, 0);

/// A limit that refuses all.
const NOTHING: Override = Override {
    requests_per_unit: 0,
    unit: Unit::Second,
};

/// What came of the traffic.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) about: About,
    /// What the captures were recorded with.
    pub(super) header: Option<Header>,
    /// How many domains and rules decided.
    pub(super) rules: (usize, usize),
    /// How many counters there were at the end.
    pub(super) keys: usize,
}

/// What became of a decision when it was made anew.
pub(super) enum Now<'t, 'r, 'c> {
    /// The rules decided.
    Decided(Told<'t, 'r, 'c>),
    /// A list decided, and lists are no part of the rules: who was on one still is.
    Listed,
    /// A limit refused it of whose counter the sample has not all requests.
    Outside,
    /// It cannot be decided at all.
    Rejected(Rejection),
}

/// Replays all traffic, and compares.
pub(super) fn outcome(args: &Args) -> Result<Outcome, String> {
    let rules = super::rules(args)?;
    let counts = (rules.domains.len(), rules.rules.len());
    let mut differences = match &args.differences {
        Some(path) => {
            let file = File::create(path).map_err(|error| super::failed(path, &error))?;
            Some((path, BufWriter::new(file)))
        }
        None => None,
    };
    let mut problem = None;
    let sensitive = rules.domains.values();
    let sensitive = sensitive.map(|domain| (domain.name.to_string(), domain.sensitive.clone()));
    let sensitive = sensitive.collect();
    let mut run = Run::new(args, rules)?;
    let header = run.header.clone();
    let sample = header
        .as_ref()
        .and_then(|header| Sample::new(header.sample));
    let mut tally = Tally::new(args.warm_up.0, sample, sensitive);
    run.play("replaying", &mut |decision, late, now| {
        let differs = tally.add(decision, late, now);
        if let (Some((path, file)), Some(difference)) = (&mut differences, differs)
            && let Err(error) = writeln!(file, "{}", machine::difference(&difference))
        {
            problem.get_or_insert_with(|| super::failed(path, &error));
        }
    })?;
    if let Some((path, mut file)) = differences {
        file.flush().map_err(|error| super::failed(path, &error))?;
    }
    if tally.seen == 0 {
        let notes = run.traffic.about().notes;
        let notes = notes.iter().map(|note| format!("\n  - {note}"));
        let notes = notes.collect::<String>();
        return Err(format!("there is no decision in the traffic{notes}"));
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(Outcome {
            tally,
            about: run.traffic.about(),
            header,
            rules: counts,
            keys: run.keys(),
        }),
    }
}

/// Traffic on its way through an engine.
pub(super) struct Run {
    traffic: Traffic,
    engine: Engine,
    hand: ManualClock,
    header: Option<Header>,
    standings: Standings,
    /// The values of sensitive keys that rules name, by domain and by what captures have in their place.
    named: HashMap<String, Named>,
}

/// Values by their hashes.
type Named = HashMap<String, String>;

/// Standings as they were read.
#[derive(Default)]
struct Standings(HashMap<String, Arc<Standing>>);

impl Run {
    /// Opens the traffic, and an engine that has not decided anything yet.
    pub(super) fn new(args: &Args, rules: RuleSet) -> Result<Self, String> {
        let domains: Vec<&str> = rules.domains.keys().map(String::as_str).collect();
        let traffic = Traffic::open(&args.traffic, &args.log, &domains)?;
        let header = traffic.header()?;
        let (clock, hand) = Clock::manual(Timestamp::default());
        let keys = usize::try_from(args.keys).unwrap_or(usize::MAX);
        let store = Embedded::with_secret(keys, clock.clone(), SECRET);
        let settings = engine::Settings {
            stop_increment: header.as_ref().and_then(|header| header.stop_increment),
            shadow_mode: header.as_ref().is_some_and(|header| header.shadow_mode),
            quota_mode: header.as_ref().is_some_and(|header| header.quota_mode),
            ..engine::Settings::default()
        };
        let engine = Engine::new(Store::Embedded(store), settings, clock, Metrics::new());
        let named = rules.domains.values();
        let named = named.map(|domain| (domain.name.to_string(), named_values(&rules, domain)));
        let named = named.filter(|(_, named)| !named.is_empty()).collect();
        engine.install(rules);
        Ok(Self {
            traffic,
            engine,
            hand,
            header,
            standings: Standings::default(),
            named,
        })
    }

    /// How many counters there are.
    fn keys(&self) -> usize {
        match self.engine.store() {
            Store::Embedded(store) => store.len(),
            Store::Redis(_) | Store::Faulty(_) => 0,
        }
    }

    /// Decides all of it. Shows each decision, whether it came later than one after it, and what was decided now.
    pub(super) fn play(
        &mut self,
        what: &'static str,
        show: &mut dyn FnMut(&Decision<'_>, bool, &Now<'_, '_, '_>),
    ) -> Result<(), String> {
        // What is known of bans is noted beside the decisions.
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(self.play_all(what, show))
    }

    async fn play_all(
        &mut self,
        what: &'static str,
        show: &mut dyn FnMut(&Decision<'_>, bool, &Now<'_, '_, '_>),
    ) -> Result<(), String> {
        let (bytes, read) = (self.traffic.bytes, Arc::clone(&self.traffic.read));
        let mut progress = Progress::start(what, bytes, read);
        let mut now = Timestamp::default();
        while self.traffic.has_more() {
            let Some(decision) = self.traffic.at_hand() else {
                self.traffic.go_on()?;
                continue;
            };
            // Time does not go back: what comes too late is decided at the time that it is.
            let late = decision.at < now;
            now = now.max(decision.at);
            self.hand.set(now);
            let mut banned = false;
            if is_listed(&decision) {
                show(&decision, late, &Now::Listed);
            } else {
                let request = request(&decision, self.named.get(decision.domain));
                let standings = self.standings.of(&decision)?;
                let tell = |told: Told<'_, '_, '_>| {
                    banned = told.answer.reason == Reason::Banned;
                    match is_outside(&decision) {
                        true => show(&decision, late, &Now::Outside),
                        false => show(&decision, late, &Now::Decided(told)),
                    }
                };
                if let Err(error) = self.engine.replay(&request, &standings, tell).await {
                    show(&decision, late, &Now::Rejected(error));
                }
            }
            drop(decision);
            if banned {
                tokio::task::yield_now().await;
            }
            progress.count();
            self.traffic.go_on()?;
        }
        progress.finish();
        Ok(())
    }
}

/// Whether a list decided.
fn is_listed(decision: &Decision<'_>) -> bool {
    [Reason::Allowed.name(), Reason::Denied.name()].contains(&decision.reason)
}

/// Whether it was refused by what the sample has not whole.
fn is_outside(decision: &Decision<'_>) -> bool {
    let mut asked = decision.asked.iter();
    decision.refused && asked.any(|asked| asked.refused && !asked.sampled)
}

/// The request of a decision, with the values that rules name in place of their hashes. A descriptor of whose counter the sample
/// has not all requests says what it said live, and is charged nothing.
fn request<'a>(decision: &'a Decision<'_>, named: Option<&'a Named>) -> Request<'a> {
    let descriptors = decision.asked.iter().map(|asked| {
        let entries = asked.entries.iter().map(|entry| {
            let value = named.and_then(|named| named.get(entry.value));
            Entry {
                key: entry.key,
                value: value.map_or(entry.value, String::as_str),
            }
        });
        let mut descriptor = Descriptor {
            entries: entries.collect(),
            hits_addend: asked.hits_addend,
            is_negative_hits: asked.is_negative_hits,
            limit: asked.limit,
        };
        match (asked.sampled, asked.refused, decision.refused) {
            (true, _, _) => {}
            // What nobody has used has room.
            (false, false, _) => descriptor.hits_addend = Some(0),
            (false, true, true) => descriptor.limit = Some(NOTHING),
            // A quota that did not count, since another had room.
            (false, true, false) => descriptor.entries.clear(),
        }
        descriptor
    });
    Request {
        domain: decision.domain,
        hits_addend: decision.hits_addend,
        descriptors: descriptors.collect(),
    }
}

impl Standings {
    /// What the directory said of the subjects of a decision.
    fn of(
        &mut self,
        decision: &Decision<'_>,
    ) -> Result<SmallVec<[Option<Arc<Standing>>; 2]>, String> {
        let mut standings = SmallVec::with_capacity(decision.asked.len());
        for asked in &decision.asked {
            standings.push(match asked.standing {
                "" => None,
                text => Some(self.read(text)?),
            });
        }
        Ok(standings)
    }

    fn read(&mut self, text: &str) -> Result<Arc<Standing>, String> {
        if let Some(known) = self.0.get(text) {
            return Ok(Arc::clone(known));
        }
        let standing = serde_json::from_str(text);
        let standing = standing.map_err(|error| format!("a plan that cannot be read: {error}"))?;
        if self.0.len() >= MAX_STANDINGS {
            self.0.clear();
        }
        let standing = Arc::new(standing);
        self.0.insert(text.to_owned(), Arc::clone(&standing));
        Ok(standing)
    }
}

/// The values of sensitive keys that rules of a domain name, by what captures have in their place.
fn named_values(rules: &RuleSet, domain: &Domain) -> Named {
    let own = rules.rules.iter().filter(|rule| rule.domain == domain.name);
    let mut named = Named::new();
    for level in own.flat_map(|rule| &rule.levels) {
        let is_sensitive = domain.sensitive.iter().any(|key| **key == *level.key);
        if is_sensitive && !level.wildcard && !level.value.is_empty() {
            let (key, value) = (&*level.key, &*level.value);
            named.insert(hashed_value(domain, Entry { key, value }), value.to_owned());
        }
    }
    named
}
