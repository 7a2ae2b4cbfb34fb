//! What must hold, each under a name; see `docs/reliability.md`.

use std::sync::OnceLock;

use tollgate::engine::{Answer, Code, Reason};
use tollgate::limit::transaction::{Amount, Reading as Said, Role};
use tollgate::limit::{Algorithm, Verdict};

use super::ask::{Ask, Item, Reading};
use super::naive::{Foreseen, Judged};
use super::world::Used;

/// A check that failed, and how.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) check: &'static str,
    pub(super) why: String,
}

pub(super) type Holds = Result<(), Broken>;

pub(super) fn ensure(holds: bool, check: &'static str, why: impl FnOnce() -> String) -> Holds {
    if holds || is_left_out(check) {
        return Ok(());
    }
    Err(Broken { check, why: why() })
}

/// Whether `WITHOUT`, a list of names, has this check: to see what the others find by themselves.
pub(super) fn is_left_out(check: &str) -> bool {
    static WITHOUT: OnceLock<Vec<String>> = OnceLock::new();
    let without = WITHOUT.get_or_init(|| {
        let without = std::env::var("WITHOUT").unwrap_or_default();
        without.split(',').map(str::to_owned).collect()
    });
    without.iter().any(|name| name == check)
}

/// The answer is what a recount of all that was charged says.
pub(super) fn answer_is_as_recounted(
    reading: &Reading,
    foreseen: &Foreseen,
    answer: &Answer<'_>,
) -> Holds {
    const CHECK: &str = "recount";
    let admitted = answer.overall == Code::Ok;
    ensure(admitted == foreseen.admitted, CHECK, || {
        format!("admitted: {admitted}, foreseen: {foreseen:?}")
    })?;
    let alone = matches!(
        answer.reason,
        Reason::FallbackAllow | Reason::FallbackDeny | Reason::FallbackLocal
    );
    ensure(alone != foreseen.by_store, CHECK, || {
        format!("decided for {:?}, foreseen: {foreseen:?}", answer.reason)
    })?;
    let parts = reading.items.iter().zip(&foreseen.items);
    for ((item, judged), status) in parts.zip(&answer.statuses) {
        let Some((item, judged)) = item.as_ref().zip(judged.as_ref()) else {
            continue;
        };
        let refused = !judged.fits && item.role != Role::Shadow;
        ensure((status.code == Code::OverLimit) == refused, CHECK, || {
            format!("{status:?}, foreseen: {judged:?}")
        })?;
        if let Some(wait) = longest_wait(judged).filter(|_| foreseen.by_store && refused) {
            let told = status.reset_secs;
            ensure(told == Some(wait), CHECK, || {
                format!("told to wait {told:?} s, foreseen: {judged:?}")
            })?;
        }
        if let Some(left) = left(item, judged).filter(|_| foreseen.admitted && judged.fits) {
            ensure(u64::from(status.remaining) == left, CHECK, || {
                format!(
                    "{} remaining, foreseen {left}: {judged:?}",
                    status.remaining
                )
            })?;
        }
    }
    Ok(())
}

/// In whole seconds; none if no time is long enough.
fn longest_wait(judged: &Judged) -> Option<u64> {
    let waits = judged.said.iter().map(|said| match said.verdict {
        Verdict::Allowed => Some(0),
        Verdict::Wait(wait) | Verdict::Banned(wait) => Some(wait.get().div_ceil(1_000_000)),
        Verdict::Never => None,
    });
    waits.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The least that is left of any limit once it is charged, in whole hits.
fn left(item: &Item, judged: &Judged) -> Option<u64> {
    let left = |(term, said): (&super::ask::Term, &Said)| {
        let used = match item.amount {
            Amount::Charge(hits) => said.used.plus(hits),
            Amount::Peek(_) => said.used,
            Amount::Refund(hits) => said.used.saturating_sub(hits),
        };
        term.spec.capacity().saturating_sub(used.thousandths())
    };
    let least = item.terms.iter().zip(&judged.said).map(left).min()?;
    Some((least / 1000).min(u64::from(u32::MAX)))
}

/// A request that was decided by the store is charged on all its limits or on none, and nothing else is touched.
pub(super) fn sums_are_all_or_nothing(
    reading: &Reading,
    made: &Foreseen,
    before: &[Used],
    after: &[Used],
) -> Holds {
    for (before, after) in before.iter().zip(after) {
        let (mut wanted, mut check) = (before.hits, "sums");
        let parts = reading.items.iter().zip(&made.items);
        for (item, judged) in parts {
            let Some((item, judged)) = item.as_ref().zip(judged.as_ref()) else {
                continue;
            };
            let name = before.spec.name();
            let of_key = reading.keys[item.key] == before.key;
            let term = item.terms.iter().find(|term| term.spec.name() == name);
            let Some(term) = term.filter(|_| of_key) else {
                continue;
            };
            let is_bucket = matches!(term.spec.algorithm, Algorithm::TokenBucket { .. });
            // Seen with other numbers than it was charged with, a bucket may show less.
            if is_bucket && (term.spec != before.spec || term.spec.always) {
                wanted = after.hits;
                continue;
            }
            let charged = made.admitted && judged.fits || term.spec.always;
            match item.amount {
                Amount::Charge(hits) if charged => wanted += hits.thousandths(),
                Amount::Refund(hits) if charged => {
                    wanted = wanted.saturating_sub(hits.thousandths());
                    check = "refund";
                }
                Amount::Charge(_) | Amount::Refund(_) | Amount::Peek(_) => {}
            }
        }
        ensure(after.hits == wanted, check, || {
            let (key, name) = (before.key.as_str(), before.spec.name());
            let (before, after) = (before.hits, after.hits);
            format!("{name} of {key}: {before} before, {after} after, {wanted} wanted")
        })?;
    }
    Ok(())
}

/// What was made of a request by its answer: one that has passed is charged for every descriptor that could have refused it.
pub(super) fn made(reading: &Reading, foreseen: &Foreseen, answer: &Answer<'_>) -> Foreseen {
    let mut made = foreseen.clone();
    made.admitted = answer.overall == Code::Ok;
    let parts = reading.items.iter().zip(&mut made.items);
    for (item, judged) in parts.filter_map(|(item, judged)| item.as_ref().zip(judged.as_mut())) {
        judged.fits |= made.admitted && item.role == Role::Enforced;
    }
    made
}

/// Nothing that is seen has changed.
pub(super) fn is_unchanged(check: &'static str, before: &[Used], after: &[Used]) -> Holds {
    let changed = before.iter().zip(after).find(|(b, a)| b != a);
    ensure(changed.is_none(), check, || format!("{changed:?}"))
}

/// How long the client is told to wait, in seconds; none if it is told nothing.
pub(super) fn told_to_wait(answer: &Answer<'_>) -> Option<i64> {
    let header = answer
        .headers
        .iter()
        .find(|header| header.name == "retry-after")?;
    header.value.parse().ok()
}

/// Whether the wait that is told holds for the request as a whole: not while a ban lasts, after which the limits speak again, nor
/// where one key is charged twice, nor where what is charged always moves it.
pub(super) fn wait_is_exact(ask: &Ask, reading: &Reading, foreseen: &Foreseen) -> bool {
    let banned = |judged: &Judged| {
        let is_banned = |said: &Said| matches!(said.verdict, Verdict::Banned(_));
        judged.said.iter().any(is_banned)
    };
    let items = || reading.items.iter().flatten();
    let twice = items().count() > reading.keys.len();
    let bans = foreseen.items.iter().flatten().any(banned);
    let always = items().any(|item| item.terms.iter().any(|term| term.spec.always));
    !(bans || twice || always || ask.has_refunds())
}
