//! Many calls as one transaction: all parts at once, and what they charged is given back if any refuses.
//!
//! - Each part decides for its own demands. A part that refuses, refuses the whole; one that admits has charged, and keeps it
//!   only if all others admit too. So no limit is exceeded at any moment, and others are told for about one round trip that
//!   there is less room than there is.
//! - Quota demands refuse only together. Spread over several parts they decide nowhere: those with room are charged, and the
//!   whole is judged here.
//! - A refund cannot be taken back without risk, since others may have used the room that it made. In the parts it is held
//!   back (a refund of nothing), and it is made once all have admitted.
//! - A candidate is charged in its part if that would admit under it, and given back if the whole would not.
//! - A return that fails is not repeated, since it may have been made; it is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::Link;
use super::node::Call;
use super::part::{Few, Part};
use super::reply::{Decided, ReadingAt, Reply};
use super::request::{self, Asked, Charged};
use super::script;
use super::within::Within;
use crate::limit::ban::Ban;
use crate::limit::candidate::Trial;
use crate::limit::transaction::{Amount, Demand, Fold, Outcome, Readings, Role};
use crate::limit::{Durability, Hits, Receipt, Tag, Verdict};
use crate::store::{StoreError, Transaction};
use crate::time::Timestamp;

/// Decides `parts`, at least two, as the one transaction they were cut from.
pub(super) async fn transact<'l>(
    link: &Arc<Link>,
    parts: &[Part<'_, 'l>],
    transaction: &Transaction<'_, 'l>,
    within: Within,
) -> Result<Outcome, StoreError> {
    let now = transaction.now;
    let held: Vec<Part<'_, 'l>> = parts.iter().map(hold_refunds).collect();
    let mut answers = join_all(held.iter().map(|part| {
        let quotas_decide = has_all_quotas(part, transaction);
        link.decide(part, quotas_decide, now, within)
    }))
    .await;

    let admitted = admits(&held, &answers);
    let mut charged = try_whole(&held, &mut answers, transaction);
    let keeps = matches!(admitted, Ok(true));
    if !keeps || !charged.is_empty() {
        charged.resize_with(held.len(), Vec::new);
        let returned = held.iter().zip(&answers).zip(&mut charged);
        for ((part, answer), charged) in returned.filter(|_| !keeps) {
            charged.extend(answer.iter().flat_map(|decided| charges(part, decided)));
        }
        let refused = matches!(admitted, Ok(false));
        give_back(link, &held, &answers, (refused, charged), now, within).await;
    }
    let admitted = admitted?;
    let mut decided = answers.into_iter().collect::<Result<Vec<Decided>, _>>()?;
    if admitted {
        refund(link, parts, &mut decided, now, within).await?;
    }
    Ok(Outcome {
        admitted,
        readings: in_order(parts, &decided, transaction),
        trials: trials_in_order(parts, decided, transaction),
    })
}

/// Judges the candidates of the parts by the whole, and finds what each part has charged of them and must not keep; nothing
/// at all if there are no candidates. A part knows only its own demands, and those of another may refuse.
fn try_whole<'l>(
    parts: &[Part<'_, 'l>],
    answers: &mut [Result<Decided, StoreError>],
    transaction: &Transaction<'_, 'l>,
) -> Vec<Vec<Charged<'l>>> {
    let has_candidates = |demand: &Demand<'_>| !demand.candidates.is_empty();
    if !transaction.demands.iter().any(has_candidates) {
        return Vec::new();
    }
    // Of each demand of each part, its role and whether it has room; none where there is no answer, under which nothing passes.
    let live: Option<Vec<Vec<(Role, bool)>>> = parts
        .iter()
        .zip(&*answers)
        .map(|(part, answer)| {
            let by_demand = by_demand(part, answer.as_ref().ok()?);
            let live = by_demand.map(|(asked, readings)| (asked.demand.role, fits(readings)));
            Some(live.collect())
        })
        .collect();
    let mut charged: Vec<Vec<Charged<'l>>> = parts.iter().map(|_| Vec::new()).collect();
    for (at, (part, answer)) in parts.iter().zip(answers).enumerate() {
        let Ok(decided) = answer else { continue };
        let quotas_decide = has_all_quotas(part, transaction);
        let tried = part.demands.iter().enumerate().flat_map(|(place, asked)| {
            let candidates = asked.demand.candidates.iter();
            candidates.map(move |candidate| (place, asked, candidate))
        });
        let said = tried.clone().zip(&decided.trials);
        let tries: Vec<Try> = said
            .map(|((place, asked, candidate), (trial, _))| Try {
                demand: place,
                counter: (asked.key, candidate.limit.tag()),
                stands: (candidate.role, trial.fits),
            })
            .collect();
        for ((own, (_, asked, candidate)), (trial, time)) in
            tries.iter().zip(tried).zip(&mut decided.trials)
        {
            let had_passed = std::mem::replace(&mut trial.passes, false);
            if let Some(live) = live.as_deref().filter(|_| had_passed) {
                let same = tries.iter().filter(|other| other.counter == own.counter);
                let same: Vec<&Try> = same.collect();
                trial.passes = others(live, at, &same, quotas_decide).admitted();
            }
            let gives_back = had_passed && !trial.passes && trial.fits && !candidate.always;
            if let Amount::Charge(hits) = asked.amount
                && gives_back
            {
                charged[at].push(Charged {
                    key: asked.key,
                    limit: candidate.limit,
                    receipt: Receipt {
                        at: *time,
                        used_before: trial.reading.used,
                        hits,
                    },
                });
            }
        }
    }
    charged
}

/// A candidate within a part.
struct Try {
    /// The place of its demand.
    demand: usize,
    /// The place of its key, and its name there.
    counter: (usize, Tag),
    /// What its demand would mean for the request, and whether it would have room.
    stands: (Role, bool),
}

/// What the whole comes to under the candidates `tries` of the part `at`, which passes by itself: the demands of the other
/// parts, and all quotas, if the part could not judge those.
fn others(live: &[Vec<(Role, bool)>], at: usize, tries: &[&Try], quotas_decide: bool) -> Fold {
    let mut fold = Fold::default();
    for (part, demands) in live.iter().enumerate() {
        for (place, demand) in demands.iter().enumerate() {
            let is_own = part == at;
            let tried = tries.iter().find(|one| is_own && one.demand == place);
            let (role, fits) = tried.map_or(*demand, |tried| tried.stands);
            if !is_own || (role == Role::Quota && !quotas_decide) {
                fold.add(role, fits);
            }
        }
    }
    fold
}

/// The same part with every refund a refund of nothing.
fn hold_refunds<'a, 'l>(part: &Part<'a, 'l>) -> Part<'a, 'l> {
    let held = |asked: &Asked<'a, 'l>| Asked {
        amount: match asked.amount {
            Amount::Refund(_) => Amount::Refund(Hits::ZERO),
            Amount::Charge(_) | Amount::Peek(_) => asked.amount,
        },
        ..*asked
    };
    Part {
        home: part.home,
        keys: part.keys.clone(),
        demands: part.demands.iter().map(held).collect(),
        places: part.places.clone(),
        whole: None,
    }
}

fn has_all_quotas(part: &Part<'_, '_>, transaction: &Transaction<'_, '_>) -> bool {
    let is_quota = |role: Role| role == Role::Quota;
    let here = part
        .demands
        .iter()
        .filter(|asked| is_quota(asked.demand.role));
    let all = transaction
        .demands
        .iter()
        .filter(|demand| is_quota(demand.role));
    here.count() == all.count()
}

/// Whether the request passes; an error if it is not known.
fn admits(
    parts: &[Part<'_, '_>],
    answers: &[Result<Decided, StoreError>],
) -> Result<bool, StoreError> {
    let mut fold = Fold::default();
    for (part, answer) in parts.iter().zip(answers) {
        let decided = answer.as_ref().map_err(Clone::clone)?;
        for (asked, readings) in by_demand(part, decided) {
            fold.add(asked.demand.role, fits(readings));
        }
    }
    Ok(fold.admitted())
}

/// Gives back what the parts have charged and must not keep, and counts the refusal for bans there if it is one, in parallel, and
/// waits for it no longer than `within`.
async fn give_back(
    link: &Arc<Link>,
    parts: &[Part<'_, '_>],
    answers: &[Result<Decided, StoreError>],
    (refused, charged): (bool, Vec<Vec<Charged<'_>>>),
    now: Option<Timestamp>,
    within: Within,
) {
    let mut returns = Vec::new();
    for ((part, answer), charges) in parts.iter().zip(answers).zip(charged) {
        let Ok(decided) = answer else { continue };
        let bans = if refused {
            bans(part, decided)
        } else {
            Vec::new()
        };
        if charges.is_empty() && bans.is_empty() {
            continue;
        }
        let body = request::give_back(&charges, &bans, now);
        // A task, so that it is made even if nobody waits for it any longer.
        let (link, home, count) = (Arc::clone(link), part.home, charges.len());
        let keys: Vec<Vec<u8>> = part.keys.iter().map(|key| key.to_vec()).collect();
        returns.push(tokio::spawn(async move {
            let keys: Few<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let call = Call {
                script: &script::DECIDE,
                keys: &keys,
                body: &body,
                // One that is lost leaves the limit stricter.
                durability: Durability::Usual,
            };
            let answer = link.run(home, &call, Within::from_now(link.timeout)).await;
            if !matches!(answer.map(Reply::parse), Ok(Some(Reply::Done(_)))) {
                link.lost_give_backs
                    .fetch_add(count as u64, Ordering::Relaxed);
            }
        }));
    }
    // Late ones go on by themselves.
    let _ = tokio::time::timeout_at(within.deadline.into(), join_all(returns)).await;
}

/// The bans that the refusal is counted for in a part that has not refused; one that has, has counted it.
fn bans<'l>(part: &Part<'_, 'l>, decided: &Decided) -> Vec<(usize, &'l Ban)> {
    if !decided.admitted {
        return Vec::new();
    }
    let ban = |asked: &Asked<'_, 'l>| Some((asked.key, asked.demand.counted_ban()?));
    part.demands.iter().filter_map(ban).collect()
}

/// What a part has charged and must not keep. What is charged always stays; a part that refused has charged nothing else.
fn charges<'l>(part: &Part<'_, 'l>, decided: &Decided) -> Vec<Charged<'l>> {
    let mut charges = Vec::new();
    if !decided.admitted {
        return charges;
    }
    for (asked, readings) in by_demand(part, decided) {
        let Amount::Charge(hits) = asked.amount else {
            continue;
        };
        if !fits(readings) {
            continue;
        }
        for (bound, (reading, at)) in asked.demand.limits.iter().zip(readings) {
            if !bound.always {
                charges.push(Charged {
                    key: asked.key,
                    limit: bound.limit,
                    receipt: Receipt {
                        at: *at,
                        used_before: reading.used,
                        hits,
                    },
                });
            }
        }
    }
    charges
}

/// Makes the refunds that were held back, and puts what they read in place of what was read before.
async fn refund(
    link: &Arc<Link>,
    parts: &[Part<'_, '_>],
    decided: &mut [Decided],
    now: Option<Timestamp>,
    within: Within,
) -> Result<(), StoreError> {
    let calls = parts
        .iter()
        .zip(decided.iter_mut())
        .map(|(part, decided)| async move {
            let refunds = only_refunds(part);
            if refunds.demands.is_empty() {
                return Ok(());
            }
            let mut left = within.rest();
            left.deadline = left.deadline.max(left.begun + MIN_LEFT);
            let made = link.decide(&refunds, false, now, left).await?;
            let mut made = made.readings.into_iter();
            let mut readings = decided.readings.iter_mut();
            for asked in &part.demands {
                let is_refund = matches!(asked.amount, Amount::Refund(_));
                for reading in readings.by_ref().take(asked.demand.limits.len()) {
                    if is_refund && let Some(made) = made.next() {
                        *reading = made;
                    }
                }
            }
            Ok(())
        });
    join_all(calls).await.into_iter().collect()
}

/// What a refund is given even if the first round has used all the time up.
const MIN_LEFT: Duration = Duration::from_millis(1);

fn only_refunds<'a, 'l>(part: &Part<'a, 'l>) -> Part<'a, 'l> {
    let refunds = part.demands.iter().zip(&part.places);
    let refunds = refunds.filter(|(asked, _)| matches!(asked.amount, Amount::Refund(_)));
    let (demands, places) = refunds.map(|(asked, place)| (*asked, *place)).unzip();
    Part {
        home: part.home,
        keys: part.keys.clone(),
        demands,
        places,
        whole: None,
    }
}

/// The readings in the order of the transaction's demands.
fn in_order(
    parts: &[Part<'_, '_>],
    decided: &[Decided],
    transaction: &Transaction<'_, '_>,
) -> Readings {
    let mut sorted = vec![Readings::new(); transaction.demands.len()];
    for (part, decided) in parts.iter().zip(decided) {
        for ((_, readings), place) in by_demand(part, decided).zip(&part.places) {
            if let Some(of_demand) = sorted.get_mut(*place) {
                of_demand.extend(readings.iter().map(|(reading, _)| *reading));
            }
        }
    }
    sorted.into_iter().flatten().collect()
}

/// The same of the candidates.
fn trials_in_order(
    parts: &[Part<'_, '_>],
    decided: Vec<Decided>,
    transaction: &Transaction<'_, '_>,
) -> Vec<Trial> {
    let mut sorted: Vec<Vec<Trial>> = vec![Vec::new(); transaction.demands.len()];
    for (part, decided) in parts.iter().zip(decided) {
        let mut trials = decided.trials.into_iter().map(|(trial, _)| trial);
        for (asked, place) in part.demands.iter().zip(&part.places) {
            let own = trials.by_ref().take(asked.demand.candidates.len());
            if let Some(of_demand) = sorted.get_mut(*place) {
                of_demand.extend(own);
            }
        }
    }
    sorted.into_iter().flatten().collect()
}

/// Each demand of a part with its readings.
fn by_demand<'p, 'a, 'l>(
    part: &'p Part<'a, 'l>,
    decided: &'p Decided,
) -> impl Iterator<Item = (&'p Asked<'a, 'l>, &'p [ReadingAt])> {
    let mut left = decided.readings.as_slice();
    part.demands.iter().map(move |asked| {
        let (of_demand, rest) = left.split_at(asked.demand.limits.len().min(left.len()));
        left = rest;
        (asked, of_demand)
    })
}

fn fits(readings: &[ReadingAt]) -> bool {
    let allowed = |(reading, _): &ReadingAt| reading.verdict == Verdict::Allowed;
    readings.iter().all(allowed)
}
