//! Two lists of limits that are charged together: what changes between them.

use crate::limit::{Durability, Hits, Limit, Shape, Unit};
use crate::rules::{FailureMode, RuleLimit};

use super::change::{Change, Effect};

/// What holds for limits that do not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) old_mode: FailureMode,
    pub(super) new_mode: FailureMode,
}

/// A limit of the old list and one of the new, of which either may be missing.
type Pair<'l> = (Option<&'l RuleLimit>, Option<&'l RuleLimit>);

/// What changes from `old` to `new`. A counter is kept under algorithm and window, so that is what makes two limits the same.
pub(super) fn compare(old: &[RuleLimit], new: &[RuleLimit], defaults: Defaults) -> Vec<Change> {
    let mut changes = Vec::new();
    let pairs = pairs(old, new);
    for pair in &pairs {
        match *pair {
            (Some(old), Some(new)) => one(&mut changes, old, new, defaults),
            (None, Some(new)) => {
                let added = Change::new(Effect::Stricter, "limit added");
                changes.push(added.to(said(new)));
            }
            (Some(old), None) => {
                let removed = Change::new(Effect::Looser, "limit removed");
                changes.push(removed.from(said(old)));
            }
            (None, None) => {}
        }
    }
    if changes.is_empty()
        && old
            .iter()
            .zip(new)
            .any(|(old, new)| old.limit.tag() != new.limit.tag())
    {
        let names = |list: &[RuleLimit]| list.iter().map(said).collect::<Vec<_>>().join(", ");
        let change = Change::new(Effect::Neutral, "limits in another order");
        changes.push(
            change
                .from(names(old))
                .to(names(new))
                .note("headers have them in this order"),
        );
    }
    changes
}

/// Whether two limits are one that has changed.
type Alike = fn(&RuleLimit, &RuleLimit) -> bool;

/// By counter, then by name, then in order.
fn pairs<'l>(old: &'l [RuleLimit], new: &'l [RuleLimit]) -> Vec<Pair<'l>> {
    let mut left: Vec<Option<&RuleLimit>> = old.iter().map(Some).collect();
    let mut found: Vec<Option<&RuleLimit>> = vec![None; new.len()];
    let same_counter = |a: &RuleLimit, b: &RuleLimit| a.limit.tag() == b.limit.tag();
    let same_name = |a: &RuleLimit, b: &RuleLimit| a.name.is_some() && a.name == b.name;
    let any = |_: &RuleLimit, _: &RuleLimit| true;
    let rules: [Alike; 3] = [same_counter, same_name, any];
    for alike in rules {
        for (new, found) in new.iter().zip(&mut found) {
            if found.is_none() {
                let mut left = left.iter_mut();
                let old = left.find(|old| old.is_some_and(|old| alike(old, new)));
                *found = old.and_then(Option::take);
            }
        }
    }
    let kept = found
        .into_iter()
        .zip(new)
        .map(|(old, new)| (old, Some(new)));
    kept.chain(left.into_iter().flatten().map(|old| (Some(old), None)))
        .collect()
}

fn one(changes: &mut Vec<Change>, old: &RuleLimit, new: &RuleLimit, defaults: Defaults) {
    let numbers = numbers(old, new);
    changes.extend(numbers);
    let label = called(new);
    if old.name != new.name {
        let name = |limit: &RuleLimit| limit.name.as_deref().unwrap_or("no name").to_owned();
        let renamed = Change::new(Effect::Neutral, "limit renamed");
        let note = "grants and numbers that subjects have by the old name, and `replaces`, no longer find it";
        changes.push(renamed.from(name(old)).to(name(new)).note(note));
    }
    let (before, after) = (defaults.mode_of(old, true), defaults.mode_of(new, false));
    // What the domain changes for all limits that do not say is said of the domain.
    let says = old.failure_mode.is_some() || new.failure_mode.is_some();
    if says && before != after {
        let effect = Effect::of(strictness(before), strictness(after), Effect::Stricter);
        let change = Change::new(effect, format!("{label}while the store does not answer"));
        changes.push(change.from(before.name()).to(after.name()));
    }
    if old.charge_always != new.charge_always {
        let rank = |always: Option<bool>| always == Some(true);
        let effect = Effect::of(
            rank(old.charge_always),
            rank(new.charge_always),
            Effect::Stricter,
        );
        let word = |always: Option<bool>| match always {
            None => "the service's default",
            Some(true) => "always",
            Some(false) => "admitted",
        };
        let change = Change::new(effect, format!("{label}refused requests are charged"));
        changes.push(
            change
                .from(word(old.charge_always))
                .to(word(new.charge_always)),
        );
    }
    if old.replaces != new.replaces {
        let change = Change::new(Effect::Mixed, format!("{label}replaces other limits"));
        changes.push(change.from(list(&old.replaces)).to(list(&new.replaces)));
    }
    let lease = |limit: &RuleLimit| {
        limit
            .limit
            .lease()
            .map_or("none".to_owned(), |lease| lease.to_string())
    };
    if lease(old) != lease(new) {
        let change = Change::new(Effect::Neutral, format!("{label}lease"));
        changes.push(change.from(lease(old)).to(lease(new)));
    }
    let durability = |limit: &RuleLimit| match limit.limit.durability() {
        Durability::Usual => "usual",
        Durability::Replicated => "replicated",
    };
    if durability(old) != durability(new) {
        let change = Change::new(Effect::Neutral, format!("{label}durability"));
        changes.push(change.from(durability(old)).to(durability(new)));
    }
}

/// What the numbers, the window and the algorithm come to.
fn numbers(old: &RuleLimit, new: &RuleLimit) -> Option<Change> {
    let (a, b) = (&old.limit, &new.limit);
    let anew = a.tag() != b.tag();
    let same = a.requests_per_unit() == b.requests_per_unit() && a.capacity() == b.capacity();
    if same && !anew {
        return None;
    }
    let burst = Effect::of(a.capacity(), b.capacity(), Effect::Looser);
    let mut effect = Effect::of(rate(a), rate(b), Effect::Looser).and(burst);
    if effect == Effect::Neutral {
        effect = algorithms(a, b);
    }
    let what = match effect {
        Effect::Stricter => "limit lowered",
        Effect::Looser => "limit raised",
        Effect::Mixed | Effect::Neutral => "limit changed",
    };
    let change = Change::new(effect, what)
        .from(said(old))
        .to(said(new))
        .anew(anew);
    let hits = |limit: &Limit| limit.capacity().thousandths() as f64;
    let (of_rate, of_burst) = (by(rate(a), rate(b)), by(hits(a), hits(b)));
    Some(
        change.note(match of_rate == of_burst && a.window() == b.window() {
            true => format!("rate and burst {of_rate}"),
            false => format!("rate {}, burst {}", rates(a, b), bursts(a, b)),
        }),
    )
}

/// Of limits with the same numbers: only a sliding window never lets through more than its number in any interval.
fn algorithms(old: &Limit, new: &Limit) -> Effect {
    let slides = |limit: &Limit| matches!(limit.shape(), Shape::SlidingWindow(_));
    match (slides(old), slides(new)) {
        (false, true) => Effect::Stricter,
        (true, false) => Effect::Looser,
        _ if old.tag() == new.tag() => Effect::Neutral,
        _ => Effect::Mixed,
    }
}

/// Hits per second.
fn rate(limit: &Limit) -> f64 {
    f64::from(limit.requests_per_unit()) / seconds(limit)
}

fn seconds(limit: &Limit) -> f64 {
    limit.window().get() as f64 / 1e6
}

fn rates(old: &Limit, new: &Limit) -> String {
    let by = by(rate(old), rate(new));
    if old.window() == new.window() {
        return by;
    }
    // Both in the unit in which neither is below one, if there is one.
    let slower = rate(old).min(rate(new));
    let units = Unit::ALL.into_iter();
    let fits = |unit: &Unit| slower * unit.nominal().get() as f64 / 1e6 >= 1.0;
    let unit = units.clone().find(fits).unwrap_or(new.unit());
    let per = |limit: &Limit| number(rate(limit) * unit.nominal().get() as f64 / 1e6);
    format!("{} → {} per {} ({by})", per(old), per(new), unit.name())
}

fn bursts(old: &Limit, new: &Limit) -> String {
    let hits = |hits: Hits| hits.thousandths() as f64 / 1000.0;
    let (before, after) = (hits(old.capacity()), hits(new.capacity()));
    let by = by(before, after);
    let is_plain = |limit: &Limit| limit.capacity() == Hits::whole(limit.requests_per_unit());
    match is_plain(old) && is_plain(new) && old.window() == new.window() {
        true => by,
        false => format!("{} → {} ({by})", old.capacity(), new.capacity()),
    }
}

/// By how much a number changes.
fn by(before: f64, after: f64) -> String {
    if before == after {
        return "unchanged".to_owned();
    }
    if before == 0.0 {
        return "from none".to_owned();
    }
    let ratio = after / before;
    if ratio >= 10.0 {
        return format!("{} times as much", number(ratio));
    }
    let percent = (ratio - 1.0) * 100.0;
    // Half a percent is not nothing, and 99.9 % is not all.
    match percent.abs() {
        small if small < 0.1 => format!(
            "by less than 0.1%, {}",
            if percent < 0.0 { "down" } else { "up" }
        ),
        small if small < 1.0 || (percent < -99.0 && percent > -100.0) => format!("{percent:+.1}%"),
        _ => format!("{percent:+.0}%"),
    }
}

/// With three digits, if it has that many.
fn number(number: f64) -> String {
    let text = match number {
        n if n >= 99.95 => format!("{n:.0}"),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A limit in a few words, such as `per_minute: 100/minute, token bucket, burst 150`.
pub(super) fn said(limit: &RuleLimit) -> String {
    let name = limit.name.as_deref();
    let name = name.map_or_else(String::new, |name| format!("{name}: "));
    format!("{name}{}", counts(&limit.limit))
}

/// What a limit counts, such as `100/minute, token bucket, burst 150`.
pub(super) fn counts(limit: &Limit) -> String {
    let burst = limit.capacity();
    let how = match limit.shape() {
        Shape::FixedWindow(_) => String::new(),
        Shape::SlidingWindow(_) => ", sliding window".to_owned(),
        Shape::TokenBucket(_) if burst == Hits::whole(limit.requests_per_unit()) => {
            ", token bucket".to_owned()
        }
        Shape::TokenBucket(_) => format!(", token bucket, burst {burst}"),
    };
    format!("{limit}{how}")
}

/// The name of a limit, to begin a sentence with.
fn called(limit: &RuleLimit) -> String {
    format!("limit {}: ", limit.label())
}

pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

impl Defaults {
    fn mode_of(self, limit: &RuleLimit, is_old: bool) -> FailureMode {
        let default = if is_old { self.old_mode } else { self.new_mode };
        limit.failure_mode.unwrap_or(default)
    }
}

/// How much passes while the store does not answer, the least last.
pub(super) fn strictness(mode: FailureMode) -> u8 {
    match mode {
        FailureMode::Allow => 0,
        FailureMode::Local => 1,
        FailureMode::Deny => 2,
    }
}
