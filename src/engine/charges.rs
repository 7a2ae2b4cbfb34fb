//! Request to charges: which rule each descriptor matches, and what is asked of which key.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Rejection, Request, Settings, key, usage};
use crate::directory::Standing;
use crate::limit::candidate::Candidate;
use crate::limit::transaction::{Amount, Bound, Demand, Role};
use crate::limit::{Algorithm, Hits, Limit};
use crate::rules::policy::Policy;
use crate::rules::{Descriptor, Domain, FailureMode, Plan, Rule, RuleCandidate, RuleLimit};
use crate::store::Key;

/// The most descriptors of a request.
pub const MAX_DESCRIPTORS: usize = 128;
/// The most entries of a descriptor.
pub const MAX_ENTRIES: usize = 32;
/// The longest domain or key of an entry, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest value of an entry, in bytes.
pub const MAX_VALUE: usize = 16 * 1024;

/// What becomes of a request.
#[derive(Debug, Default)]
pub struct Charges<'a> {
    /// The keys that are charged, each once.
    pub keys: SmallVec<[Key; 2]>,
    /// What is asked of them.
    pub demands: SmallVec<[Demand<'a>; 2]>,
    /// One per descriptor, in order.
    pub items: SmallVec<[Item<'a>; 2]>,
    /// More about each limit of the demands, in their order and in that of the limits within each.
    pub terms: SmallVec<[Terms<'a>; 2]>,
    /// What is counted for billing beside the demands, if the request passes.
    pub meters: Vec<Meter<'a>>,
    /// More about the candidates, in the order of the demands and of those within each.
    pub tried: Vec<Tried<'a>>,
}

/// A candidate within a request.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The name of the plan that has it.
    pub plan: Option<&'a str>,
    /// Its place among the candidates of its rule, or of all plans of the domain.
    pub place: usize,
    /// The candidate.
    pub candidate: &'a RuleCandidate,
    /// The descriptor's place in the request.
    pub descriptor: usize,
    /// Its place among the demands.
    pub demand: usize,
}

/// A charge that is counted for billing, and refuses nothing.
#[derive(Debug)]
pub struct Meter<'a> {
    /// The rule that asks for it.
    pub rule: &'a Rule,
    /// The descriptor's place in the request.
    pub descriptor: usize,
    /// What is asked of the store, behind all other demands.
    pub demand: Demand<'a>,
}

/// What becomes of a descriptor.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// No rule, or all its limits are replaced.
    Free,
    /// A rule or a plan without a limit; the plan's name.
    Unlimited(Option<&'a str>),
    /// Charged.
    Limited(Limited<'a>),
}

/// A descriptor that is charged.
#[derive(Clone, Copy, Debug)]
pub struct Limited<'a> {
    /// The rule; none for a limit that the request brought.
    pub rule: Option<&'a Rule>,
    /// The name of the plan that has the limits.
    pub plan: Option<&'a str>,
    /// Its place among the demands.
    pub demand: usize,
    /// Where those of its limits begin among all terms, and among the readings of an outcome.
    pub first: usize,
    /// Never refuses.
    pub shadow: bool,
    /// Refuses only together with all of its kind.
    pub quota: bool,
}

/// What a rule says of a limit beside its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// What clients are told of it, where the rules have that ready.
    pub policy: Option<&'a Policy>,
    /// Its place among the limits of its rule, or of all plans of the domain.
    pub place: usize,
    /// It has numbers of its own for this subject or request, and not the rule's.
    pub own: bool,
    /// What to answer when the store does not.
    pub failure_mode: FailureMode,
}

/// Refuses what is out of bounds.
pub fn check_bounds(request: &Request<'_>) -> Result<(), Rejection> {
    if request.domain.is_empty() {
        return Err(Rejection::EmptyDomain);
    }
    if request.descriptors.is_empty() {
        return Err(Rejection::NoDescriptors);
    }
    let too_long = |what: &dyn Fn() -> String, found: usize, most: usize| {
        if found <= most {
            return Ok(());
        }
        let what = what();
        Err(Rejection::TooLong { what, found, most })
    };
    let too_many = |what: &dyn Fn() -> String, found: usize, most: usize| {
        if found <= most {
            return Ok(());
        }
        let what = what();
        Err(Rejection::TooMany { what, found, most })
    };
    too_long(&|| "the domain".to_owned(), request.domain.len(), MAX_KEY)?;
    too_many(
        &|| "descriptors".to_owned(),
        request.descriptors.len(),
        MAX_DESCRIPTORS,
    )?;
    for (i, descriptor) in request.descriptors.iter().enumerate() {
        if descriptor
            .hits_addend
            .is_some_and(|hits| hits > Hits::MAX.floor())
        {
            return Err(TOO_MANY_HITS);
        }
        let entries = || format!("entries in descriptor {i}");
        too_many(&entries, descriptor.entries.len(), MAX_ENTRIES)?;
        for (j, entry) in descriptor.entries.iter().enumerate() {
            let of = |part: &str| format!("the {part} of entry {j} of descriptor {i}");
            too_long(&|| of("key"), entry.key.len(), MAX_KEY)?;
            too_long(&|| of("value"), entry.value.len(), MAX_VALUE)?;
        }
    }
    Ok(())
}

/// What limits a descriptor.
#[derive(Debug, Default)]
pub struct Found<'r> {
    /// The rule; none if none matches, or if the request brings a limit.
    pub rule: Option<&'r Rule>,
    /// The plan that has the limits, and its name.
    pub plan: Option<(&'r str, &'r Plan)>,
    /// The limits that stand in place of the rule's or the plan's, by their places there; the one that the request brings.
    pub own: Vec<Option<Limit>>,
    /// What the directory says of the subject, where the rule asks it.
    pub standing: Option<Arc<Standing>>,
}

impl<'r> Found<'r> {
    /// What limits `descriptor`, its plan apart. `place` is the descriptor's in the request.
    pub fn of(
        domain: &'r Domain,
        descriptor: &Descriptor<'_>,
        place: usize,
    ) -> Result<Self, Rejection> {
        let Some(brought) = descriptor.limit else {
            return Ok(Self {
                rule: domain.find(&descriptor.entries).map(|rule| &**rule),
                ..Self::default()
            });
        };
        let limit = Limit::new(
            brought.requests_per_unit,
            brought.unit,
            1,
            Algorithm::FixedWindow,
            &domain.time_zone,
        );
        let limit = limit.map_err(|_| Rejection::OverrideUnit { descriptor: place })?;
        Ok(Self {
            own: vec![Some(limit)],
            ..Self::default()
        })
    }

    /// The limit that stands in place of the one at `place`.
    fn own_limit(&self, place: usize) -> Option<&Limit> {
        self.own.get(place).and_then(Option::as_ref)
    }

    pub(super) fn limits(&self) -> &'r [RuleLimit] {
        match (self.plan, self.rule) {
            (Some((_, plan)), _) => &plan.limits,
            (None, Some(rule)) => &rule.limits,
            (None, None) => &[],
        }
    }

    /// What is tried, and the place of the first among all of the rule or of the plans.
    fn candidates(&self) -> (&'r [RuleCandidate], usize) {
        match (self.plan, self.rule) {
            (Some((_, plan)), _) => (&plan.candidates, plan.first_candidate),
            (None, Some(rule)) => (&rule.candidates, 0),
            (None, None) => (&[], 0),
        }
    }

    fn is_unlimited(&self) -> bool {
        match (self.plan, self.rule) {
            (Some((_, plan)), _) => plan.unlimited,
            (None, Some(rule)) => rule.unlimited,
            (None, None) => false,
        }
    }
}

impl<'a> Charges<'a> {
    /// Collects the charges where they stay, since they are large. `found` has one place per descriptor; a hit costs `cost`.
    pub fn collect(
        &mut self,
        settings: &Settings,
        domain: &'a Domain,
        request: &Request<'_>,
        found: &'a [Found<'a>],
        cost: Hits,
    ) -> Result<(), Rejection> {
        let replaced = replaced(found);
        if found.len() > 1 {
            self.reserve(found.len());
        }
        let descriptors = request.descriptors.iter().enumerate();
        for ((place, descriptor), found) in descriptors.zip(found) {
            let amount = amount(request, descriptor, cost)?;
            self.metered(settings, domain, (place, descriptor), found, amount);
            let key = || {
                let prefix = &settings.key_prefix;
                key::key(prefix, domain, &descriptor.entries, found.rule)
            };
            let (tries, _) = found.candidates();
            let item = if found.is_unlimited() {
                if !tries.is_empty() {
                    self.unlimited(key(), amount);
                    self.tries(settings, found, place);
                }
                Item::Unlimited(found.plan.map(|(name, _)| name))
            } else {
                let limited = self.limited(settings, domain, found, &replaced, amount, key);
                if limited.is_some() && !tries.is_empty() {
                    self.tries(settings, found, place);
                }
                limited.map_or(Item::Free, Item::Limited)
            };
            self.items.push(item);
        }
        self.check_hits()?;
        self.settle_quotas(settings);
        Ok(())
    }

    /// Makes room for so many descriptors with a limit each: what lies in it is not moved then.
    fn reserve(&mut self, descriptors: usize) {
        self.keys.reserve(descriptors);
        self.demands.reserve(descriptors);
        self.items.reserve(descriptors);
        self.terms.reserve(descriptors);
    }

    /// Adds what the descriptor's rule counts for billing.
    fn metered(
        &mut self,
        settings: &Settings,
        domain: &Domain,
        (place, descriptor): (usize, &Descriptor<'_>),
        found: &Found<'a>,
        amount: Amount,
    ) {
        let Some((rule, limit)) = found
            .rule
            .and_then(|rule| Some((rule, rule.meter.as_deref()?)))
        else {
            return;
        };
        let Some(amount) = usage::metered(amount) else {
            return;
        };
        let key = key::key(
            &settings.key_prefix,
            domain,
            &descriptor.entries,
            Some(rule),
        );
        let bound = Bound {
            limit,
            always: false,
        };
        let demand = Demand {
            key: self.place(key),
            amount,
            role: Role::Shadow,
            limits: std::iter::once(bound).collect(),
            ban: None,
            candidates: Vec::new(),
        };
        self.meters.push(Meter {
            rule,
            descriptor: place,
            demand,
        });
    }

    /// The place of a key, which is added if it is new.
    fn place(&mut self, key: Key) -> usize {
        let known = self.keys.iter().position(|other| *other == key);
        known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }

    /// Adds what the limits of a descriptor ask of its key, but for those that are replaced; none if that leaves none.
    fn limited(
        &mut self,
        settings: &Settings,
        domain: &Domain,
        found: &'a Found<'a>,
        replaced: &Option<HashSet<&str>>,
        amount: Amount,
        key: impl FnOnce() -> Key,
    ) -> Option<Limited<'a>> {
        let default = settings.charge_always_by_default();
        let (rule, first) = (found.rule, self.terms.len());
        let mut limits: SmallVec<[Bound<'a>; 2]> = SmallVec::new();
        if rule.is_none()
            && let Some(limit) = found.own_limit(0)
        {
            let always = default;
            limits.push(Bound { limit, always });
            self.terms.push(Terms {
                name: None,
                policy: None,
                place: 0,
                own: true,
                failure_mode: domain.failure_mode,
            });
        }
        let first_place = found.plan.map_or(0, |(_, plan)| plan.first);
        for (place, limit) in found.limits().iter().enumerate() {
            let name = limit.name.as_deref();
            if let (Some(name), Some(replaced)) = (name, replaced)
                && replaced.contains(name)
            {
                continue;
            }
            let own = found.own_limit(place);
            limits.push(Bound {
                limit: own.unwrap_or(&limit.limit),
                always: limit.charge_always.unwrap_or(default),
            });
            self.terms.push(Terms {
                name,
                policy: limit.policy.as_deref().filter(|_| own.is_none()),
                place: first_place + place,
                own: own.is_some(),
                failure_mode: limit.failure_mode.unwrap_or(domain.failure_mode),
            });
        }
        if limits.is_empty() {
            return None;
        }
        let key = self.place(key());
        let shadow = rule.is_some_and(|rule| rule.shadow_mode);
        let quota = settings.quota_mode || rule.is_some_and(|rule| rule.quota_mode);
        self.demands.push(Demand {
            key,
            amount,
            role: role(shadow, quota),
            limits,
            ban: rule.and_then(|rule| rule.ban.as_deref()),
            candidates: Vec::new(),
        });
        Some(Limited {
            rule,
            plan: found.plan.map(|(name, _)| name),
            demand: self.demands.len() - 1,
            first,
            shadow,
            quota,
        })
    }

    /// More about each limit of a descriptor, in the order of those of its demand.
    pub fn terms_of(&self, limited: &Limited<'a>) -> &[Terms<'a>] {
        let count = self.demands[limited.demand].limits.len();
        &self.terms[limited.first..limited.first + count]
    }

    /// A demand without limits, for what is tried where nothing limits. It has no part in the decision.
    #[inline(never)]
    fn unlimited(&mut self, key: Key, amount: Amount) {
        let key = self.place(key);
        self.demands.push(Demand {
            key,
            amount,
            role: Role::Shadow,
            limits: SmallVec::new(),
            ban: None,
            candidates: Vec::new(),
        });
    }

    /// Adds the candidates of a descriptor to its demand, which is the last. Whoever has numbers or grants of its own for a limit
    /// would keep them, and a limit that is replaced would be: nothing is tried there.
    #[inline(never)]
    fn tries(&mut self, settings: &Settings, found: &'a Found<'a>, descriptor: usize) {
        let demand = self.demands.len() - 1;
        let (Some(rule), Some(asked)) = (found.rule, self.demands.last_mut()) else {
            return;
        };
        let terms = &self.terms[self.terms.len() - asked.limits.len()..];
        let first = found.plan.map_or(0, |(_, plan)| plan.first);
        let (candidates, first_candidate) = found.candidates();
        for (place, candidate) in candidates.iter().enumerate() {
            let instead_of = match candidate.instead_of {
                None => None,
                Some(limit) => {
                    let is_own = found.own_limit(limit).is_some();
                    let of_limit = |terms: &Terms<'a>| terms.place == first + limit;
                    match terms.iter().position(of_limit).filter(|_| !is_own) {
                        Some(at) => Some(at),
                        None => continue,
                    }
                }
            };
            let quota = settings.quota_mode || rule.quota_mode;
            asked.candidates.push(Candidate {
                limit: &candidate.limit,
                instead_of,
                role: role(rule.shadow_mode, quota),
                always: candidate
                    .charge_always
                    .unwrap_or(settings.charge_always_by_default()),
            });
            self.tried.push(Tried {
                rule,
                plan: found.plan.map(|(name, _)| name),
                place: first_candidate + place,
                candidate,
                descriptor,
                demand,
            });
        }
    }

    /// Whether anything has a part in the decision.
    pub fn limits_anything(&self) -> bool {
        self.demands.iter().any(|demand| !demand.limits.is_empty())
    }

    /// All demands, with those of the meters behind them; none if there are no meters.
    pub fn with_meters(&self) -> Option<Vec<Demand<'a>>> {
        let meters = self.meters.iter().map(|meter| &meter.demand);
        let all = self.demands.iter().chain(meters);
        (!self.meters.is_empty()).then(|| all.cloned().collect())
    }

    /// Asks what charges would be told, and charges nothing.
    pub fn only_peek(&mut self) {
        self.meters.clear();
        for demand in &mut self.demands {
            demand.amount = match demand.amount {
                Amount::Charge(hits) | Amount::Peek(hits) => Amount::Peek(hits),
                Amount::Refund(_) => Amount::Peek(Hits::ZERO),
            };
        }
    }

    /// Identical descriptors are charged with their sum, which must be countable.
    fn check_hits(&self) -> Result<(), Rejection> {
        // Each for itself is.
        if self.demands.len() < 2 {
            return Ok(());
        }
        let mut sums: SmallVec<[u64; 4]> = smallvec::smallvec![0; self.keys.len()];
        let limited = |demand: &&Demand<'_>| !demand.limits.is_empty();
        for demand in self.demands.iter().filter(limited) {
            let hits = match demand.amount {
                Amount::Charge(hits) | Amount::Refund(hits) => hits,
                Amount::Peek(_) => Hits::ZERO,
            };
            sums[demand.key] += hits.thousandths();
        }
        if sums.iter().any(|sum| *sum > Hits::MAX.thousandths()) {
            return Err(TOO_MANY_HITS);
        }
        Ok(())
    }

    /// With every descriptor a quota, one without a rule is a quota that has passed, and so none can refuse.
    fn settle_quotas(&mut self, settings: &Settings) {
        if settings.quota_mode && self.items.iter().any(|item| matches!(item, Item::Free)) {
            for demand in &mut self.demands {
                demand.role = Role::Shadow;
                for candidate in &mut demand.candidates {
                    candidate.role = Role::Shadow;
                }
            }
        }
    }
}

fn role(shadow: bool, quota: bool) -> Role {
    match (shadow, quota) {
        (true, _) => Role::Shadow,
        (false, true) => Role::Quota,
        (false, false) => Role::Enforced,
    }
}

const TOO_MANY_HITS: Rejection = Rejection::TooManyHits {
    most: Hits::MAX.floor(),
};

/// The names that the limits of the request replace; none if there are none, as nearly always.
fn replaced<'a>(found: &'a [Found<'_>]) -> Option<HashSet<&'a str>> {
    let mut names: Option<HashSet<&str>> = None;
    let mut add = |replaces: &'a [String]| {
        if !replaces.is_empty() {
            let replaces = replaces.iter().map(String::as_str);
            names.get_or_insert_default().extend(replaces);
        }
    };
    for found in found {
        if let Some(rule) = found.rule {
            add(&rule.replaces);
        }
        for limit in found.limits() {
            add(&limit.replaces);
        }
    }
    names
}

/// The hits of the descriptor at `place`; none if there is none there.
pub(super) fn amount_of(
    request: &Request<'_>,
    place: usize,
    cost: Hits,
) -> Result<Amount, Rejection> {
    match request.descriptors.get(place) {
        Some(descriptor) => amount(request, descriptor, cost),
        None => Ok(Amount::Peek(cost)),
    }
}

/// The hits of a descriptor: its own, else the request's, else 1; each at `cost`, rounded up to a thousandth.
fn amount(
    request: &Request<'_>,
    descriptor: &Descriptor<'_>,
    cost: Hits,
) -> Result<Amount, Rejection> {
    let of_request = u64::from(request.hits_addend.max(1));
    let hits = descriptor.hits_addend.unwrap_or(of_request);
    if hits == 0 {
        return Ok(Amount::Peek(cost));
    }
    let hits = u128::from(hits) * u128::from(cost.thousandths());
    let hits = u64::try_from(hits)
        .map(Hits::from_thousandths)
        .ok()
        .filter(|hits| *hits <= Hits::MAX)
        .ok_or(TOO_MANY_HITS)?;
    Ok(if descriptor.is_negative_hits {
        Amount::Refund(hits)
    } else {
        Amount::Charge(hits)
    })
}
