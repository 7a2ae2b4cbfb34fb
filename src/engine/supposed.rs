//! What a request would be charged, and where: for people. Nothing is charged.

use smallvec::SmallVec;

use super::charges::{Charges, Item};
use super::{Caller, Engine, Rejection, Request};
use crate::limit::transaction::Amount;
use crate::limit::{Hits, Limit};
use crate::rules::FailureMode;
use crate::store::Key;

/// What a request would be charged.
#[derive(Debug)]
pub struct Supposed {
    /// What one hit costs.
    pub cost: Hits,
    /// One per descriptor.
    pub descriptors: Vec<Charged>,
}

/// What a descriptor would be charged.
#[derive(Debug)]
pub struct Charged {
    /// Its hits, each at its cost.
    pub amount: Amount,
    /// The plan that has the limits.
    pub plan: Option<String>,
    /// A rule or a plan without a limit.
    pub unlimited: bool,
    /// Where it is charged; none if it is not.
    pub key: Option<Key>,
    /// Charged together.
    pub limits: Vec<ChargedLimit>,
    /// Limits of its rule that the request replaces with others.
    pub replaced: Vec<String>,
    /// Never refuses.
    pub shadow: bool,
    /// Refuses only together with all of its kind.
    pub quota: bool,
}

/// A limit that would be charged.
#[derive(Debug)]
pub struct ChargedLimit {
    /// What people call it: its name, or its unit.
    pub label: String,
    /// The limit.
    pub limit: Limit,
    /// Also when the request is refused.
    pub always: bool,
    /// What is answered when the store does not.
    pub failure_mode: FailureMode,
}

impl Engine {
    /// What a request would be charged now; none if the rules do not have its domain.
    pub async fn suppose(&self, request: &Request<'_>) -> Result<Option<Supposed>, Rejection> {
        super::charges::check_bounds(request)?;
        let live = self.live.load_full();
        let live = live.as_ref().ok_or(Rejection::NoRules)?;
        let Some(domain) = live.rules.domains.get(request.domain) else {
            return Ok(None);
        };
        let call = self.call(Caller::here(), true);
        let mut found = SmallVec::new();
        self.find(domain, request, &call, &mut found).await?;
        let cost = domain.costs.of(&request.descriptors);
        let mut charges = Charges::default();
        charges.collect(&self.settings, domain, request, &found, cost)?;
        let of = |place: usize| -> Result<Charged, Rejection> {
            let mut charged = Charged {
                amount: super::charges::amount_of(request, place, cost)?,
                plan: None,
                unlimited: false,
                key: None,
                limits: Vec::new(),
                replaced: Vec::new(),
                shadow: false,
                quota: false,
            };
            let rule = found.get(place).and_then(|found| found.rule);
            let labels =
                |name: Option<&str>, limit: &Limit| name.unwrap_or(limit.unit().name()).to_owned();
            match charges.items.get(place) {
                None | Some(Item::Free) => {}
                Some(Item::Unlimited(plan)) => {
                    charged.unlimited = true;
                    charged.plan = plan.map(str::to_owned);
                }
                Some(Item::Limited(limited)) => {
                    charged.plan = limited.plan.map(str::to_owned);
                    charged.shadow = limited.shadow;
                    charged.quota = limited.quota;
                    let demand = charges.demands.get(limited.demand);
                    let key: Option<&Key> = demand.and_then(|demand| charges.keys.get(demand.key));
                    charged.key = key.cloned();
                    let bounds = demand.iter().flat_map(|demand| &demand.limits);
                    let limits =
                        bounds
                            .zip(charges.terms_of(limited))
                            .map(|(bound, terms)| ChargedLimit {
                                label: labels(terms.name, bound.limit),
                                limit: bound.limit.clone(),
                                always: bound.always,
                                failure_mode: terms.failure_mode,
                            });
                    charged.limits = limits.collect();
                }
            }
            let kept = |name: &str| charged.limits.iter().any(|limit| limit.label == name);
            let own = rule.iter().flat_map(|rule| &rule.limits);
            let names = own.filter_map(|limit| limit.name.as_deref());
            charged.replaced = names
                .filter(|name| !kept(name))
                .map(str::to_owned)
                .collect();
            Ok(charged)
        };
        let descriptors = (0..request.descriptors.len()).map(of);
        Ok(Some(Supposed {
            cost,
            descriptors: descriptors.collect::<Result<_, _>>()?,
        }))
    }
}
