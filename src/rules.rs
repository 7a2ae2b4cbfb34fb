//! The rules: compiled, immutable, and found by descriptor.
//!
//! - [`diagnostic`]: what is wrong with a file, and where
//! - [`mod@file`]: the YAML as written, with positions
//! - [`compile`]: files to a [`RuleSet`], or to every diagnostic
//! - [`matcher`]: descriptor to [`Rule`]
//! - [`glob`]: patterns held against each other
//! - [`costs`]: what a request costs
//! - [`name`]: what a rule is called in metrics
//! - [`policy`]: what clients are told of a limit
//! - [`outline`]: all descriptors as they were written, for who compares rules
//! - [`written`]: descriptors as people write them

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::limit::ban::Ban;
use crate::limit::period::Zone;
use crate::limit::{Limit, Unit};

use self::policy::Policy;

pub mod compile;
pub mod costs;
pub mod diagnostic;
pub mod file;
pub mod glob;
pub mod matcher;
pub mod name;
pub mod outline;
pub mod policy;
pub mod written;

/// All domains, as one request sees them.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// By name.
    pub domains: Domains,
    /// Every rule of every domain; a [`RuleId`] is a place in here.
    pub rules: Vec<Arc<Rule>>,
    /// How many limits they have, those of plans once for each rule that takes them from there.
    pub limits: usize,
    /// What is doubtful in the files, though not wrong.
    pub warnings: diagnostic::Report,
}

/// Domains by name. The hash is fast and no defence against floods, which need none: see [`matcher`]. If there is but one, nothing is hashed.
pub type Domains = IndexMap<String, Domain, hashbrown::DefaultHashBuilder>;

/// The place of a rule in [`RuleSet::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(pub u32);

/// The rules of one domain.
#[derive(Debug)]
pub struct Domain {
    /// Its name, never empty.
    pub name: Arc<str>,
    /// Its place among all domains.
    pub place: usize,
    /// Where days and longer windows begin.
    pub time_zone: Zone,
    /// The entry keys whose value places a descriptor's key, first present first.
    pub partition_by: Vec<String>,
    /// The entry keys whose values are hashed wherever they would be seen.
    pub sensitive: Vec<String>,
    /// What to answer when the store does not, for limits that do not say.
    pub failure_mode: FailureMode,
    /// What clients are told.
    pub response: Response,
    /// What requests cost.
    pub costs: costs::Costs,
    /// The plans by name, in the order of the file.
    pub plans: IndexMap<String, Plan>,
    /// The descriptors.
    pub tree: matcher::Tree,
}

/// What the answers of a domain tell its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// `RateLimit-Policy` and `RateLimit`.
    pub ratelimit: bool,
    /// `Retry-After`.
    pub retry_after: bool,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub x_ratelimit: bool,
    /// `X-Quota-Tier` and `X-Quota-Monthly-Remaining`.
    pub x_quota: bool,
    /// The body of a refusal.
    pub body: Body,
    /// The texts of its message.
    pub messages: Messages,
}

/// Templates of the message of a refusal, each with `{limit}`, `{window}`, `{plan}`, `{retry_after}` and `{reset_at}`; none
/// for Tollgate's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Of a limit that is no quota.
    pub rate_limit_exceeded: Option<String>,
    /// Of a limit per month.
    pub monthly_quota_exceeded: Option<String>,
    /// Of a ban, or an entry of a list of the denied.
    pub banned: Option<String>,
}

/// A tier: limits under a name.
#[derive(Debug)]
pub struct Plan {
    /// No limit at all.
    pub unlimited: bool,
    /// The limits, charged together.
    pub limits: Vec<RuleLimit>,
    /// What is tried beside them.
    pub candidates: Vec<RuleCandidate>,
    /// How many limits the plans before it have: where the counters of its own begin.
    pub first: usize,
    /// The same of candidates.
    pub first_candidate: usize,
}

/// How a descriptor comes by its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanChoice {
    /// Who knows it.
    pub from: PlanSource,
    /// The plan of whoever has none, or one that is not there.
    pub default: String,
}

/// Who knows the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// The entry at this level of the descriptor. Its value is not part of the key, so a subject that moves keeps what it has
    /// used.
    Entry(usize),
    /// The directory, by the last entry of the descriptor.
    Directory,
}

/// The body of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// An object with `error`, `message`, `limit`, `reset_at`, `retry_after`.
    #[default]
    Json,
    /// RFC 9457 problem details.
    Problem,
    /// None.
    None,
}

/// What to answer when the store does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureMode {
    /// Admit.
    Allow,
    /// Refuse.
    Deny,
    /// Enforce in this instance's memory, with its share of the limit.
    #[default]
    Local,
}

/// A node of the descriptor tree that says something about requests: it has limits, or is unlimited.
///
/// Of many rules none is in a cache, so what a decision looks at stands together at the beginning, in the order given, and all
/// that people look at behind it; what few rules have stands elsewhere.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Rule {
    /// Its place in the rule set.
    pub id: RuleId,
    /// No limit at all, and said so.
    pub unlimited: bool,
    /// Computed and counted, never refuses.
    pub shadow_mode: bool,
    /// Refuses only when all such descriptors of a request do.
    pub quota_mode: bool,
    /// Whether the name in metrics has values of the request in it; see [`Rule::metric_name`].
    pub named_by_values: bool,
    /// How many limits the rules before it have: where the counters of its own begin.
    pub first: usize,
    /// The rule's name in metrics, but for the values of `detailed_metric` and `value_to_metric`.
    pub name: Arc<str>,
    /// The limits are those of a plan.
    pub plan: Option<Box<PlanChoice>>,
    /// Who is refused by these limits too often is refused for a while.
    pub ban: Option<Box<Ban>>,
    /// Counts what each subject uses, for billing.
    pub meter: Option<Box<Limit>>,
    /// The limits, charged together; empty when unlimited, or when a plan has them.
    pub limits: SmallVec<[RuleLimit; 1]>,
    /// What is tried beside them; a plan has its own.
    pub candidates: Vec<RuleCandidate>,
    /// What an unlimited rule replaces; limits have their own lists.
    pub replaces: Vec<String>,
    /// Keys have something else than the request's value at some level: see [`Segment::share_threshold`] and
    /// [`PlanSource::Entry`].
    pub alters_keys: bool,
    /// The metric's name has the request's values at all levels.
    pub detailed_metric: bool,
    /// The keys and values from the first level down to this rule, as written.
    pub levels: SmallVec<[Segment; 2]>,
    /// The name of its domain.
    pub domain: Arc<str>,
    /// Where it stands, for people: file and line.
    pub source: Source,
    /// Its place in the YAML, such as `descriptors[0].descriptors[2]`.
    pub path: String,
    /// Answered in the dynamic metadata of requests that pass.
    pub metadata: Option<serde_json::Value>,
}

/// Where a rule stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file's name, relative to the directory of the rules.
    pub file: Arc<str>,
    /// Counted from 1; 0 where there are no lines.
    pub line: usize,
}

/// One level on the way to a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The key as written.
    pub key: Arc<str>,
    /// The value as written: exact, a pattern or a CIDR; empty for the bare key.
    pub value: Arc<str>,
    /// Whether `value` is a pattern with `*`.
    pub wildcard: bool,
    /// All values that match the pattern share one counter.
    pub share_threshold: bool,
    /// The metric's name has the request's value at this level.
    pub value_to_metric: bool,
}

/// A limit as its rule has it.
#[derive(Debug)]
pub struct RuleLimit {
    /// The limit.
    pub limit: Limit,
    /// Answered as `current_limit.name`; what others may replace.
    pub name: Option<Arc<str>>,
    /// The names of the limits that this one replaces.
    pub replaces: Vec<String>,
    /// `charge: always` or `charge: admitted`; none for the service's default.
    pub charge_always: Option<bool>,
    /// None for the domain's.
    pub failure_mode: Option<FailureMode>,
    /// What clients are told of it; none if that hangs on the rule that it is used by.
    pub policy: Option<Arc<Policy>>,
}

/// A limit on trial: charged and reported, and never refuses.
#[derive(Debug)]
pub struct RuleCandidate {
    /// The place of the limit that it would replace; none where nothing limits.
    pub instead_of: Option<usize>,
    /// The limit, [on trial](Limit::on_trial).
    pub limit: Limit,
    /// It is no limit at all: its counter only tells what is used.
    pub unlimited: bool,
    /// `charge: always` or `charge: admitted`; none for the service's default.
    pub charge_always: Option<bool>,
}

/// One entry of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Never checked against anything but equality and patterns.
    pub key: &'a str,
    /// May be empty.
    pub value: &'a str,
}

/// The entries of a descriptor; most have few.
pub type Entries<'a> = SmallVec<[Entry<'a>; 3]>;

/// A descriptor as the request brings it.
#[derive(Clone, Debug, Default)]
pub struct Descriptor<'a> {
    /// In the request's order; may be empty.
    pub entries: Entries<'a>,
    /// Its own hits: `Some(0)` is a peek, none takes the request's.
    pub hits_addend: Option<u64>,
    /// The hits are given back instead.
    pub is_negative_hits: bool,
    /// A limit that the request brings, in place of any rule.
    pub limit: Option<Override>,
}

/// A limit that the request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Hits per unit.
    pub requests_per_unit: u32,
    /// The unit.
    pub unit: Unit,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            ratelimit: true,
            retry_after: true,
            x_ratelimit: false,
            x_quota: false,
            body: Body::Json,
            messages: Messages::default(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

impl FailureMode {
    /// As it stands in a rule file.
    pub const fn name(self) -> &'static str {
        match self {
            FailureMode::Allow => "allow",
            FailureMode::Deny => "deny",
            FailureMode::Local => "local",
        }
    }
}

impl Segment {
    /// `key`, or `key_value`.
    pub fn as_written(&self) -> String {
        if self.value.is_empty() {
            self.key.to_string()
        } else {
            format!("{}_{}", self.key, self.value)
        }
    }
}

impl Domain {
    /// A domain that says nothing yet.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            place: 0,
            time_zone: Zone::utc(),
            partition_by: Vec::new(),
            sensitive: Vec::new(),
            failure_mode: FailureMode::default(),
            response: Response::default(),
            costs: costs::Costs::default(),
            plans: IndexMap::new(),
            tree: matcher::Tree::default(),
        }
    }
}

impl Rule {
    /// Begins to bring into the cache what a decision looks at.
    pub fn fetch(&self) {
        const LINE: usize = 64;
        let lines = std::mem::offset_of!(Self, levels).div_ceil(LINE);
        let beginning = std::slice::from_ref(&self.id);
        for line in 0..lines {
            prefetch_index::prefetch_index(beginning, line * LINE / size_of::<RuleId>());
        }
    }
}

impl RuleLimit {
    /// What people call it: its name, or its unit.
    pub fn label(&self) -> &str {
        let name = self.name.as_deref();
        name.unwrap_or(self.limit.unit().name())
    }
}

impl RuleSet {
    /// The rule at `id`.
    pub fn rule(&self, id: RuleId) -> &Arc<Rule> {
        &self.rules[id.0 as usize]
    }
}
