//! Request to charges: which rule each descriptor matches, and what is asked of which key.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::{Rejection, Request, Settings, key};
use crate::limit::transaction::{Amount, Bound, Demand, Role};
use crate::limit::{Algorithm, Hits, Limit};
use crate::rules::{Descriptor, Domain, FailureMode, Rule};
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
    pub keys: Vec<Key>,
    /// What is asked of them.
    pub demands: Vec<Demand<'a>>,
    /// One per descriptor, in order.
    pub items: Vec<Item<'a>>,
}

/// What becomes of a descriptor.
#[derive(Debug)]
pub enum Item<'a> {
    /// No rule, or all its limits are replaced.
    Free,
    /// A rule without a limit.
    Unlimited,
    /// Charged.
    Limited(Limited<'a>),
}

/// A descriptor that is charged.
#[derive(Debug)]
pub struct Limited<'a> {
    /// The rule; none for a limit that the request brought.
    pub rule: Option<&'a Rule>,
    /// Its place among the demands.
    pub demand: usize,
    /// More about each of the demand's limits, in the same order.
    pub limits: SmallVec<[Terms<'a>; 2]>,
    /// Never refuses.
    pub shadow: bool,
    /// Refuses only together with all of its kind.
    pub quota: bool,
}

/// What a rule says of a limit beside its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Its name; empty if it has none.
    pub name: &'a str,
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

/// The limits that the request brings, one place per descriptor.
pub fn overrides(domain: &Domain, request: &Request<'_>) -> Result<Vec<Option<Limit>>, Rejection> {
    let build = |(descriptor, brought): (usize, &Descriptor<'_>)| {
        let Some(limit) = brought.limit else {
            return Ok(None);
        };
        let zone = &domain.time_zone;
        Limit::new(
            limit.requests_per_unit,
            limit.unit,
            1,
            Algorithm::FixedWindow,
            zone,
        )
        .map(Some)
        .map_err(|_| Rejection::OverrideUnit { descriptor })
    };
    request.descriptors.iter().enumerate().map(build).collect()
}

impl<'a> Charges<'a> {
    /// Matches every descriptor and collects the charges. `overrides` has one place per descriptor.
    pub fn new(
        settings: &Settings,
        domain: &'a Domain,
        request: &Request<'_>,
        overrides: &'a [Option<Limit>],
    ) -> Result<Self, Rejection> {
        let rules: SmallVec<[Option<&Rule>; 4]> = request
            .descriptors
            .iter()
            .map(|descriptor| match descriptor.limit {
                Some(_) => None,
                None => domain.find(&descriptor.entries).map(|rule| &**rule),
            })
            .collect();
        let replaced = replaced(&rules);
        let mut charges = Charges::default();
        for ((descriptor, rule), brought) in request.descriptors.iter().zip(rules).zip(overrides) {
            let item = match (brought, rule) {
                (Some(limit), _) => {
                    let always = settings.charge_always_by_default();
                    let terms = Terms {
                        name: "",
                        failure_mode: domain.failure_mode,
                    };
                    let limits = std::iter::once((Bound { limit, always }, terms)).collect();
                    charges.limited(settings, domain, request, descriptor, None, limits)
                }
                (None, Some(rule)) if rule.unlimited => Item::Unlimited,
                (None, Some(rule)) => {
                    let limits = bounds(settings, domain, rule, &replaced);
                    if limits.is_empty() {
                        Item::Free
                    } else {
                        charges.limited(settings, domain, request, descriptor, Some(rule), limits)
                    }
                }
                (None, None) => Item::Free,
            };
            charges.items.push(item);
        }
        charges.check_hits()?;
        charges.settle_quotas(settings);
        Ok(charges)
    }

    fn limited(
        &mut self,
        settings: &Settings,
        domain: &Domain,
        request: &Request<'_>,
        descriptor: &Descriptor<'_>,
        rule: Option<&'a Rule>,
        limits: SmallVec<[(Bound<'a>, Terms<'a>); 2]>,
    ) -> Item<'a> {
        let key = key::key(&settings.key_prefix, domain, &descriptor.entries, rule);
        let known = self.keys.iter().position(|other| *other == key);
        let key = known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        let shadow = rule.is_some_and(|rule| rule.shadow_mode);
        let quota = settings.quota_mode || rule.is_some_and(|rule| rule.quota_mode);
        let (bounds, limits) = limits.into_iter().unzip();
        self.demands.push(Demand {
            key,
            amount: amount(request, descriptor),
            role: match (shadow, quota) {
                (true, _) => Role::Shadow,
                (false, true) => Role::Quota,
                (false, false) => Role::Enforced,
            },
            limits: bounds,
        });
        Item::Limited(Limited {
            rule,
            demand: self.demands.len() - 1,
            limits,
            shadow,
            quota,
        })
    }

    /// Identical descriptors are charged with their sum, which must be countable.
    fn check_hits(&self) -> Result<(), Rejection> {
        let mut sums: SmallVec<[u64; 4]> = smallvec::smallvec![0; self.keys.len()];
        for demand in &self.demands {
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
        let free = self.items.iter().any(|item| matches!(item, Item::Free));
        if settings.quota_mode && free {
            self.demands
                .iter_mut()
                .for_each(|demand| demand.role = Role::Shadow);
        }
    }
}

const TOO_MANY_HITS: Rejection = Rejection::TooManyHits {
    most: Hits::MAX.floor(),
};

/// The names that the limits of the request replace.
fn replaced<'a>(rules: &[Option<&'a Rule>]) -> HashSet<&'a str> {
    let lists = rules.iter().flatten().flat_map(|rule| {
        let of_limits = rule.limits.iter().flat_map(|limit| &limit.replaces);
        rule.replaces.iter().chain(of_limits)
    });
    lists.map(String::as_str).collect()
}

/// The limits of a rule but for those that are replaced.
fn bounds<'a>(
    settings: &Settings,
    domain: &Domain,
    rule: &'a Rule,
    replaced: &HashSet<&str>,
) -> SmallVec<[(Bound<'a>, Terms<'a>); 2]> {
    let default = settings.charge_always_by_default();
    let kept = rule.limits.iter().filter(|limit| {
        let name = limit.name.as_deref();
        name.is_none_or(|name| !replaced.contains(name))
    });
    kept.map(|limit| {
        let bound = Bound {
            limit: &limit.limit,
            always: limit.charge_always.unwrap_or(default),
        };
        let terms = Terms {
            name: limit.name.as_deref().unwrap_or_default(),
            failure_mode: limit.failure_mode.unwrap_or(domain.failure_mode),
        };
        (bound, terms)
    })
    .collect()
}

/// The hits of a descriptor: its own, else the request's, else 1.
fn amount(request: &Request<'_>, descriptor: &Descriptor<'_>) -> Amount {
    let of_request = u64::from(request.hits_addend.max(1));
    let hits = descriptor.hits_addend.unwrap_or(of_request);
    if hits == 0 {
        return Amount::Peek(Hits::ONE);
    }
    let hits = Hits::whole(u32::try_from(hits).unwrap_or(u32::MAX));
    if descriptor.is_negative_hits {
        Amount::Refund(hits)
    } else {
        Amount::Charge(hits)
    }
}
