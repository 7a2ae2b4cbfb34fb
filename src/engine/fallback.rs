//! What to answer when the store does not: each limit's `failure_mode`.
//!
//! `allow` has room for anything, `deny` for nothing, `local` is enforced in this instance's memory with its share of the
//! limit. The three stand beside each other in one request, and the request is folded as if a store had answered.

use std::time::Duration;

use smallvec::SmallVec;

use super::Reason;
use super::charges::Charges;
use crate::limit::transaction::{Amount, Bound, Demand, Fold, Outcome, Reading, Readings, Role};
use crate::limit::{Hits, Limit, Verdict};
use crate::rules::FailureMode;
use crate::store::Transaction;
use crate::store::embedded::Embedded;
use crate::time::{Micros, Timestamp};

/// What a client that is refused for want of a store is told to wait.
pub const DENY_FOR: Micros = Micros::from_secs(1);

/// Decides `charges` without its store.
pub fn decide(
    charges: &Charges<'_>,
    local: &Embedded,
    instances: u32,
    now: Option<Timestamp>,
) -> (Outcome, Reason) {
    let modes = modes(charges);
    let denied = denied(charges, &modes);
    let shares = shares(charges, &modes, instances);
    let alone = Alone {
        charges,
        local,
        modes: &modes,
        shares: &shares,
        now,
    };
    // Of quotas, some may be denied and the others have no room: then the request is refused, which local memory by itself does
    // not know, so that it is asked first.
    let refused = some_quota_denied(charges, &modes).then(|| alone.decide(true));
    let refused = refused.filter(|(outcome, fits)| *fits && !outcome.admitted);
    let (outcome, _) = refused.unwrap_or_else(|| alone.decide(denied));
    (outcome, reason(&modes, denied))
}

/// What a decision without the store rests on.
struct Alone<'d, 'c> {
    charges: &'d Charges<'c>,
    local: &'d Embedded,
    modes: &'d [FailureMode],
    shares: &'d [Vec<(Limit, bool)>],
    now: Option<Timestamp>,
}

impl Alone<'_, '_> {
    /// What comes of the request, and whether local memory by itself would admit it. One that is `denied` leaves nothing there.
    fn decide(&self, denied: bool) -> (Outcome, bool) {
        let (charges, modes) = (self.charges, self.modes);
        let demands = local_demands(charges, self.shares, denied);
        let transaction = Transaction {
            keys: &charges.keys,
            demands: &demands,
            now: self.now,
            timeout: Duration::ZERO,
        };
        let outcome = self.local.transact(&transaction);
        let local = local_readings(charges, modes, self.shares, outcome.readings);
        let mut local = local.into_iter();
        let takes = charges
            .demands
            .iter()
            .flat_map(|demand| demand.limits.iter().map(|_| takes(demand)));
        let readings = modes.iter().zip(takes).map(|(mode, takes)| match mode {
            FailureMode::Deny if takes => room(Verdict::Wait(DENY_FOR)),
            FailureMode::Allow | FailureMode::Deny => room(Verdict::Allowed),
            FailureMode::Local => local.next().unwrap_or(room(Verdict::Allowed)),
        });
        let readings: Readings = readings.collect();
        let admitted = admitted(charges, &readings);
        let decided = Outcome {
            admitted,
            readings,
            trials: Vec::new(),
        };
        (decided, outcome.admitted)
    }
}

/// What local memory said, with the shares of the other instances taken for used.
fn local_readings(
    charges: &Charges<'_>,
    modes: &[FailureMode],
    shares: &[Vec<(Limit, bool)>],
    readings: Readings,
) -> Readings {
    let limits = charges
        .demands
        .iter()
        .flat_map(|demand| &demand.limits)
        .zip(modes);
    let local = limits.filter(|(_, mode)| **mode == FailureMode::Local);
    let whole = local.map(|(bound, _)| bound.limit.capacity());
    let own = shares.iter().flatten().map(|(share, _)| share.capacity());
    let with_others = |((reading, whole), own): ((Reading, Hits), Hits)| Reading {
        used: reading.used.plus(whole.saturating_sub(own)),
        ..reading
    };
    readings
        .into_iter()
        .zip(whole)
        .zip(own)
        .map(with_others)
        .collect()
}

fn admitted(charges: &Charges<'_>, readings: &[Reading]) -> bool {
    let mut fold = Fold::default();
    let mut readings = readings.iter();
    for demand in &charges.demands {
        let own = readings.by_ref().take(demand.limits.len());
        let fits = own.fold(true, |fits, own| fits & (own.verdict == Verdict::Allowed));
        fold.add(demand.role, fits);
    }
    fold.admitted()
}

/// The failure mode of each limit, in the order of the readings.
fn modes(charges: &Charges<'_>) -> SmallVec<[FailureMode; 4]> {
    let terms = charges.terms.iter();
    terms.map(|terms| terms.failure_mode).collect()
}

/// Whether the limits that deny refuse the request by themselves.
fn denied(charges: &Charges<'_>, modes: &[FailureMode]) -> bool {
    let mut fold = Fold::default();
    let mut modes = modes.iter();
    for demand in &charges.demands {
        let own = modes.by_ref().take(demand.limits.len());
        let denies = own.fold(false, |denies, mode| denies | (*mode == FailureMode::Deny));
        fold.add(demand.role, !(denies && takes(demand)));
    }
    !fold.admitted()
}

/// Whether a quota is denied, which then refuses only with all others.
fn some_quota_denied(charges: &Charges<'_>, modes: &[FailureMode]) -> bool {
    let mut modes = modes.iter();
    let denied = charges.demands.iter().map(|demand| {
        let own = modes.by_ref().take(demand.limits.len());
        let denies = own.fold(false, |denies, mode| denies | (*mode == FailureMode::Deny));
        denies && demand.role == Role::Quota
    });
    denied.fold(false, |some, denied| some | denied)
}

/// Whether it takes hits or asks for some: what gives them back is never refused.
fn takes(demand: &Demand<'_>) -> bool {
    !matches!(demand.amount, Amount::Refund(_))
}

/// This instance's share of each limit that is enforced locally.
fn shares(charges: &Charges<'_>, modes: &[FailureMode], instances: u32) -> Vec<Vec<(Limit, bool)>> {
    let mut modes = modes.iter();
    let of_demand = |demand: &Demand<'_>| {
        let own: Vec<_> = demand.limits.iter().zip(modes.by_ref()).collect();
        let local = own
            .into_iter()
            .filter(|(_, mode)| **mode == FailureMode::Local);
        local
            .map(|(bound, _)| (bound.limit.share(instances), bound.always))
            .collect()
    };
    charges.demands.iter().map(of_demand).collect()
}

/// The demands on local memory. A request that is denied anyway charges nothing there, and gives nothing back.
fn local_demands<'a, 'c: 'a>(
    charges: &Charges<'c>,
    shares: &'a [Vec<(Limit, bool)>],
    denied: bool,
) -> Vec<Demand<'a>> {
    let demand = |(demand, shares): (&Demand<'c>, &'a Vec<(Limit, bool)>)| Demand {
        key: demand.key,
        amount: match demand.amount {
            Amount::Charge(hits) if denied => Amount::Peek(hits),
            Amount::Refund(_) if denied => Amount::Refund(Hits::ZERO),
            amount @ (Amount::Charge(_) | Amount::Peek(_) | Amount::Refund(_)) => amount,
        },
        role: demand.role,
        ban: demand.ban,
        // This instance sees a part of the requests only: nothing is tried on it.
        candidates: Vec::new(),
        limits: shares
            .iter()
            .map(|(limit, always)| Bound {
                limit,
                always: *always,
            })
            .collect(),
    };
    charges.demands.iter().zip(shares).map(demand).collect()
}

fn room(verdict: Verdict) -> Reading {
    Reading {
        verdict,
        used: Hits::ZERO,
        reset: Micros::ZERO,
    }
}

fn reason(modes: &[FailureMode], denied: bool) -> Reason {
    if denied {
        Reason::FallbackDeny
    } else if modes.contains(&FailureMode::Local) {
        Reason::FallbackLocal
    } else {
        Reason::FallbackAllow
    }
}
