//! The decision on a request: rules → charges → store → fold → answer.
//!
//! Whoever wants a decision enters at [`Engine::check`]: the gRPC service, `/json`, the command line and the tests. There is
//! no second copy of a step.
//!
//! - [`exchange`]: what goes in and what comes out
//! - `turn`: requests that come together
//! - [`subjects`]: what the directory has a say in: plans, lists and bans
//! - [`charges`]: request to keys, and to what is asked of them
//! - [`key`]: descriptor to key
//! - `made`: what is asked of the store, and what it says
//! - [`fold`]: outcome to ruling
//! - [`compare`]: candidates against live limits; [`trials`]: what came of them
//! - [`fallback`]: what to answer when the store does not
//! - [`answer`]: ruling to statuses, headers, body and metadata
//! - [`supposed`]: what would be charged, for people
//! - [`account`]: what is counted; `told`: what a trace says
//! - [`quota`]: what a subject has used and has left
//! - [`usage`]: what subjects use, for billing
//! - [`readiness`]: whether requests should be sent here
//! - [`instances`]: how many there are
//! - [`owed`]: what the store is told when it answers again
//! - `bulletin`: what instances tell each other
//! - [`recording`]: what a capture keeps, and how that is decided again
//! - [`top`]: who asks most; [`history`]: how many asked in the last minutes

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use answer::draft::Ruled;
use arc_swap::ArcSwapOption;
use made::Made;
use parking_lot::Mutex;
use readiness::Readiness;
use smallvec::SmallVec;
use tokio::sync::watch;
use tracing::Span;

use crate::capture::Recorder;
use crate::directory::{self, Directory};
use crate::limit::Tag;
use crate::rules::{Domain, RuleSet};
use crate::store::embedded::Embedded;
use crate::store::{Key, Store, StoreError};
use crate::telemetry::logs::Seldom;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing as spans;
use crate::telemetry::tracing::always::Unseen;
use crate::time::Clock;

pub mod account;
pub mod answer;
mod bulletin;
pub mod charges;
pub mod compare;
pub mod exchange;
pub mod fallback;
pub mod fold;
pub mod history;
pub mod instances;
pub mod key;
mod made;
pub mod owed;
pub mod quota;
pub mod readiness;
pub mod recording;
pub mod subjects;
pub mod supposed;
mod told;
pub mod top;
pub mod trials;
mod turn;
pub mod usage;

pub use answer::Reason;
pub use answer::draft::Draft;
pub use answer::headers::ReferenceHeaders;
pub use exchange::{Answer, Code, CurrentLimit, Header, Rejection, Request, Status};
pub use turn::{LOOKS, Turn};

/// How long before a caller's deadline the answer is written, so that it arrives in time.
pub const DEADLINE_MARGIN: Duration = Duration::from_millis(1);

/// How late a timer may be, as tokio's count whole milliseconds: they are set so much earlier.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// How many rules have been installed in this process.
static INSTALLED: AtomicU64 = AtomicU64::new(0);

/// How many keys of this instance's memory decide while the store does not.
const LOCAL_KEYS: usize = 1 << 20;

/// Decides requests.
#[derive(Debug)]
pub struct Engine {
    live: ArcSwapOption<Live>,
    /// The rules before, for as long as a request may see them: what a request lets go of is never the last of them.
    replaced: Mutex<Vec<Arc<Live>>>,
    store: Arc<Store>,
    directory: Arc<Directory>,
    meters: usage::Meters,
    /// How many bans are being made known.
    noting: Arc<AtomicUsize>,
    /// Decides the limits of `failure_mode: local` while the store does not.
    local: Embedded,
    /// The store cannot go on under a key, or will not, however often it is asked.
    denials: Seldom,
    /// What it has admitted that the store does not know of.
    owed: owed::Owed,
    instances: instances::Instances,
    top: top::Top,
    trials: trials::Trials,
    history: history::History,
    recorder: OnceLock<Arc<Recorder>>,
    settings: Settings,
    clock: Clock,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
}

/// How requests are decided, beside the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT`: whether a refused request is charged nowhere; none leaves it to the source
    /// of the rules.
    pub stop_increment: Option<bool>,
    /// `SHADOW_MODE`: decide and count, refuse nothing.
    pub shadow_mode: bool,
    /// `QUOTA_MODE`: every descriptor is a quota.
    pub quota_mode: bool,
    /// `NEAR_LIMIT_RATIO`: the share of a limit above which hits are near it.
    pub near_limit_ratio: f32,
    /// `CACHE_KEY_PREFIX`: what every key begins with.
    pub key_prefix: String,
    /// `LIMIT_RESPONSE_HEADERS_ENABLED` and the three names.
    pub reference_headers: Option<ReferenceHeaders>,
    /// `RESPONSE_DYNAMIC_METADATA`: metadata in the reference's shape.
    pub reference_metadata: bool,
    /// `STORE_TIMEOUT`: how long the store may take.
    pub store_timeout: Duration,
    /// `INSTANCE_COUNT`: among how many instances a limit is shared while the store does not answer; none if they count
    /// themselves.
    pub instances: Option<u32>,
    /// `USAGE_RETENTION`: how long what was used is kept after its period.
    pub usage_retention: Duration,
}

/// How a request is decided, beside what it says.
#[derive(Debug)]
struct Call<'c> {
    /// When its answer leaves at the latest.
    answers_by: Instant,
    /// Nothing is charged or counted.
    rehearsal: bool,
    traced: Traced<'c>,
    /// See [`Caller::turn`].
    turn: Option<&'c Turn>,
    /// What the directory says of the subjects, if it need not be asked.
    standings: Option<recording::Standings<'c>>,
}

/// Who asks for a decision.
#[derive(Debug)]
pub struct Caller<'u> {
    /// When the request came.
    pub begun: Instant,
    /// When it is no longer waited for, if that is known: the answer leaves before it, or within the store's timeout, whatever the store does.
    pub deadline: Option<Instant>,
    /// How it is traced.
    pub traced: Traced<'u>,
    /// It is decided in this turn. There are others, then, to decide while memory is waited for: a look at this decision may end before
    /// it, and the next one, which may come at once, goes on.
    pub turn: Option<&'u Turn>,
}

/// How a decision is traced.
#[derive(Debug)]
pub struct Traced<'u> {
    /// Its span; none if it has none.
    pub span: Span,
    /// What is told of it after the fact, if it has none.
    pub unseen: Option<&'u Unseen<'u>>,
}

impl Caller<'_> {
    /// Who asks here and now, and waits.
    pub fn here() -> Self {
        Self {
            begun: Instant::now(),
            deadline: None,
            traced: Traced::here(),
            turn: None,
        }
    }
}

impl Traced<'_> {
    /// By the span that is current here, if any.
    pub fn here() -> Self {
        Self {
            span: spans::current(),
            unseen: None,
        }
    }
}

/// The rules that hold now; a request sees one of them from its beginning to its end.
#[derive(Debug)]
struct Live {
    /// No others in this process have the same, nor had.
    number: u64,
    rules: RuleSet,
    accounts: account::Accounts,
    /// Where it is counted what comes of the candidates.
    trials: trials::Places,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stop_increment: None,
            shadow_mode: false,
            quota_mode: false,
            near_limit_ratio: 0.8,
            key_prefix: String::new(),
            reference_headers: None,
            reference_metadata: false,
            store_timeout: Duration::from_millis(10),
            instances: None,
            usage_retention: usage::RETENTION,
        }
    }
}

impl Settings {
    /// Whether limits from files that do not say are charged even when the request is refused.
    pub fn charge_always_by_default(&self) -> bool {
        self.stop_increment == Some(false)
    }
}

impl Engine {
    /// An engine without rules. A manual `clock` also gives the store its time.
    pub fn new(store: Store, settings: Settings, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            live: ArcSwapOption::empty(),
            replaced: Mutex::default(),
            store: Arc::new(store),
            directory: Arc::new(Directory::new(&settings.key_prefix, clock.clone())),
            meters: usage::Meters::new(&settings.key_prefix, settings.usage_retention),
            noting: Arc::default(),
            local: Embedded::new(LOCAL_KEYS, clock.clone()),
            denials: Seldom::new(),
            owed: owed::Owed::new(clock.clone()),
            instances: instances::Instances::new(&settings.key_prefix, settings.instances),
            top: top::Top::new(&settings.key_prefix),
            trials: trials::Trials::new(&settings.key_prefix),
            history: history::History::default(),
            recorder: OnceLock::new(),
            settings,
            clock,
            metrics,
            readiness: watch::Sender::default(),
        }
    }

    /// Makes `rules` the ones that hold, for requests that begin from now on. With many rules it takes a while, and so does
    /// what it calls: neither is for a thread that serves requests.
    pub fn install(&self, rules: RuleSet) {
        let accounts = account::Accounts::new(&rules, &self.metrics);
        let domains = Some(rules.domains.len());
        let trials = self.trials.places(&rules, &self.metrics, self.clock.now());
        let live = Live {
            number: INSTALLED.fetch_add(1, Ordering::Relaxed),
            rules,
            accounts,
            trials,
        };
        let before = self.live.swap(Some(Arc::new(live)));
        self.replaced.lock().extend(before);
        self.readiness
            .send_modify(|readiness| readiness.domains = domains);
        self.free_replaced();
    }

    /// Frees the rules before that no request sees any more, which takes tens of milliseconds where they are many; to be
    /// called now and then.
    pub fn free_replaced(&self) {
        // Nobody comes by them any more, so what has no other holder now never will.
        let unseen = |live: &mut Arc<Live>| Arc::strong_count(live) == 1;
        let unseen: Vec<_> = self.replaced.lock().extract_if(.., unseen).collect();
        drop(unseen);
    }

    /// Whether requests should be sent here, now and as it changes.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// From here on requests should go elsewhere; those that come are still decided.
    pub fn drain(&self) {
        self.readiness
            .send_modify(|readiness| readiness.draining = true);
    }

    /// Asks the store for a sign of life, and remembers that it gave one.
    pub async fn ping_store(&self) -> Result<(), StoreError> {
        self.store.ping().await?;
        // No request is decided before it is known who is on a list.
        let timeout = directory::follow::LOOK_WITHIN;
        self.directory.catch_up(&self.store, timeout).await?;
        self.readiness
            .send_modify(|readiness| readiness.store_answered = true);
        Ok(())
    }

    /// Calls `show` with the rules that hold, if any.
    pub fn with_rules<T>(&self, show: impl FnOnce(&RuleSet) -> T) -> Option<T> {
        self.live.load_full().map(|live| show(&live.rules))
    }

    /// Counts a request that could not even be read.
    pub fn refuse(&self) {
        self.metrics.service_error();
    }

    /// Where the counters are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether nothing is ever waited for: the first look at a decision is the last, or in a [turn](Caller::turn) one
    /// of the first [`LOOKS`].
    pub fn is_immediate(&self) -> bool {
        matches!(*self.store, Store::Embedded(_))
    }

    /// What is known of subjects beside the rules.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How requests are decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the time is.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Applies what other instances change in the directory, until the future is dropped.
    pub async fn follow_directory(&self) {
        self.directory.follow(&self.store).await;
    }

    /// Forgets what a key remembers of these limits and bans, here and in the store.
    pub async fn forget(&self, key: &Key, tags: &[Tag]) -> Result<(), StoreError> {
        self.local.forget(key, tags);
        let timeout = directory::follow::LOOK_WITHIN;
        self.store.forget(key, tags, timeout).await
    }

    /// Keeps at hand what requests on this runtime need of the store, until the future is dropped.
    pub async fn prepare(&self) {
        if let Store::Redis(store) = &*self.store {
            store.prepare().await;
        }
    }

    /// Gives back what was charged in advance and is not used; to be called at the end.
    pub async fn give_back_leases(&self) {
        if let Store::Redis(store) = &*self.store {
            store.give_back_leases().await;
        }
    }

    /// Asks for the memory of the next keys of a part of this instance's memory before they come, see [`Embedded::make_room`]. Those of a store elsewhere
    /// come here when it stops answering, and requests are late enough then.
    pub fn make_room(&self, part: usize) -> usize {
        match &*self.store {
            Store::Embedded(store) => store.make_room(part),
            Store::Redis(_) | Store::Faulty(_) => {
                self.local.make_room(part) + self.owed.make_room(part)
            }
        }
    }

    /// Removes expired keys from a part of this instance's memory, a few at a time; to be called now and then.
    pub fn sweep(&self, part: usize) {
        self.local.sweep(part);
        if let Store::Embedded(store) = &*self.store {
            store.sweep(part);
        }
    }

    /// Decides a request that came at `begun`, and charges it. `deadline` is the caller's: the answer leaves before it, or
    /// within the store's timeout, whatever the store does. The answer stands for as long as `tell` looks at it.
    pub async fn check<T>(
        &self,
        request: &Request<'_>,
        begun: Instant,
        deadline: Option<Instant>,
        tell: impl FnOnce(&Answer<'_>) -> T,
    ) -> Result<T, Rejection> {
        let caller = Caller {
            begun,
            deadline,
            traced: Traced::here(),
            turn: None,
        };
        let tell = |draft: &Draft<'_, '_, '_>| tell(&draft.answer());
        self.check_for(request, caller, tell).await
    }

    /// The same for who asks so, and may not need the answer written.
    pub async fn check_for<T>(
        &self,
        request: &Request<'_>,
        caller: Caller<'_>,
        tell: impl FnOnce(&Draft<'_, '_, '_>) -> T,
    ) -> Result<T, Rejection> {
        let call = self.call(caller, false);
        // Like all that is waited for on the way of a request: in its place at once, since it would be carried there as a whole.
        let decided = pin!(self.decide(request, &call, |draft, _| tell(draft)));
        decided.await.inspect_err(|_| self.metrics.service_error())
    }

    /// What [`Engine::check`] would answer now. Charges and counts nothing.
    pub async fn rehearse(&self, request: &Request<'_>) -> Result<Answer<'static>, Rejection> {
        let call = self.call(Caller::here(), true);
        self.decide(request, &call, |draft, _| draft.answer().owned())
            .await
    }

    async fn decide<T>(
        &self,
        request: &Request<'_>,
        call: &Call<'_>,
        tell: impl FnOnce(&Draft<'_, '_, '_>, Option<&charges::Charges<'_>>) -> T,
    ) -> Result<T, Rejection> {
        charges::check_bounds(request)?;
        let here = call.turn.is_none().then(|| self.live.load());
        let live = here.as_ref().or(call.turn.map(|turn| &turn.live));
        let live = live.and_then(|live| live.as_ref());
        let live = live.ok_or(Rejection::NoRules)?;
        let Some(domain) = live.rules.domains.get(request.domain) else {
            if !call.rehearsal {
                self.metrics.domain_not_found(request.domain);
                self.trace(call, (false, false), |say| say(told::unruled(request)));
                self.keep_unruled(request);
            }
            let engine = self;
            let draft = Draft {
                engine,
                request,
                ruled: None,
            };
            return Ok(tell(&draft, None));
        };
        let mut found = SmallVec::new();
        pin!(self.find(domain, request, call, &mut found)).await?;
        let cost = domain.costs.of(&request.descriptors);
        if let Some(apart) = self.apart(domain, request, cost) {
            let ruling = fold::Ruling::apart(request.descriptors.len(), apart);
            let reason = self.conclude(live, domain, request, &found, (&ruling, None), call);
            let draft = self.draft(live, domain, request, (&ruling, reason));
            return Ok(tell(&draft, None));
        }
        let mut charges = charges::Charges::default();
        charges.collect(&self.settings, domain, request, &found, cost)?;
        if call.rehearsal {
            charges.only_peek();
        }
        let mut made = Made::default();
        pin!(self.outcome(&charges, call, &mut made)).await;
        let ruling = fold::Ruling::new(&charges, &made.outcome);
        if !ruling.admitted && !call.rehearsal {
            self.note_bans(domain, request, &charges, &ruling);
        }
        if ruling.admitted && made.fallback.is_none() {
            self.meter(domain, request, &charges, &made.outcome);
        }
        let reason = self.conclude(live, domain, request, &found, (&ruling, Some(&made)), call);
        let draft = self.draft(live, domain, request, (&ruling, reason));
        Ok(tell(&draft, Some(&charges)))
    }

    /// Counts, traces and records a ruling, and tells the reason for it: of what was `made`, if the store or the fallback had a part in it.
    fn conclude<'r>(
        &self,
        live: &Live,
        domain: &Domain,
        request: &Request<'_>,
        found: &[charges::Found<'r>],
        (ruling, made): (&fold::Ruling<'r>, Option<&Made>),
        call: &Call<'_>,
    ) -> Reason {
        let settings = &self.settings;
        let fallback = made.and_then(|made| made.fallback);
        let reason = fallback.unwrap_or_else(|| Reason::of(ruling, settings.shadow_mode));
        if !call.rehearsal {
            live.accounts
                .record(&self.metrics, settings, domain, request, ruling, reason);
            self.top
                .note(&live.accounts.places, domain, request, ruling);
            if !ruling.compared.is_empty() {
                self.trials.note(&live.trials, domain, request, ruling);
            }
            let refused = !ruling.admitted && !settings.shadow_mode;
            self.trace(call, (refused, fallback.is_some()), |say| {
                told::decided(domain, request, ruling, reason, say)
            });
            self.keep(|| recording::Made {
                settings,
                domain,
                request,
                found,
                ruling,
                reason,
                at: made.and_then(|made| made.at),
            });
        }
        reason
    }

    fn draft<'d, 'q, 'r>(
        &'r self,
        live: &Live,
        domain: &'r Domain,
        request: &'d Request<'q>,
        (ruling, reason): (&'d fold::Ruling<'r>, Reason),
    ) -> Draft<'d, 'q, 'r> {
        let rules = live.number;
        Draft {
            engine: self,
            request,
            ruled: Some(Ruled {
                rules,
                domain,
                ruling,
                reason,
            }),
        }
    }

    /// How a request of `caller` is decided.
    fn call<'c>(&self, caller: Caller<'c>, rehearsal: bool) -> Call<'c> {
        let Caller {
            begun,
            deadline,
            traced,
            turn,
        } = caller;
        let timeout = self.settings.store_timeout;
        let by = begun + timeout.saturating_sub(TIMER_GRAIN).max(timeout / 2);
        let deadline = deadline.map(|deadline| deadline.checked_sub(DEADLINE_MARGIN));
        Call {
            answers_by: deadline.map_or(by, |deadline| deadline.unwrap_or(begun).min(by)),
            rehearsal,
            traced,
            turn,
            standings: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_rules_are_freed_only_where_rules_are_installed() {
        let clock = Clock::default();
        let store = Store::Embedded(Embedded::new(16, clock.clone()));
        let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
        engine.install(RuleSet::default());
        let seen = engine.live.load();
        engine.install(RuleSet::default());
        assert_eq!(engine.replaced.lock().len(), 1);
        engine.free_replaced();
        assert_eq!(engine.replaced.lock().len(), 1, "a request sees them");
        drop(seen);
        assert_eq!(
            engine.replaced.lock().len(),
            1,
            "the request was not the last"
        );
        engine.free_replaced();
        assert!(engine.replaced.lock().is_empty());
    }
}
