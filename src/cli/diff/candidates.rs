//! Limits on trial: what changes between those of two rules or two plans.

use std::collections::BTreeMap;

use crate::rules::{Rule, RuleCandidate, RuleLimit};

use super::change::{Change, Effect};
use super::limits::counts;

/// What stands there: limits, and what is tried in their place.
pub(super) type There<'r> = (&'r [RuleLimit], &'r [RuleCandidate]);

/// What is tried in a rule, if there is one.
pub(super) fn of(rule: Option<&Rule>) -> There<'_> {
    rule.map_or((&[], &[]), |rule| (&rule.limits, &rule.candidates))
}

/// What changes from `old` to `new`. Nobody is refused more or less for it.
pub(super) fn compare(old: There<'_>, new: There<'_>) -> Vec<Change> {
    let (old, new) = (said(old), said(new));
    let mut changes = Vec::new();
    for (place, after) in &new {
        let change = |what: &str| Change::new(Effect::Neutral, format!("{place}candidate {what}"));
        match old.get(place) {
            None => changes.push(
                change("added")
                    .to(after)
                    .note("it is charged and reported beside the limit, and refuses nobody"),
            ),
            Some(before) if before != after => {
                let note = "what came of it is counted anew";
                changes.push(change("changed").from(before).to(after).note(note));
            }
            Some(_) => {}
        }
    }
    for (place, before) in old.iter().filter(|(place, _)| !new.contains_key(*place)) {
        let removed = Change::new(Effect::Neutral, format!("{place}candidate removed"));
        changes.push(removed.from(before));
    }
    changes
}

/// Each candidate in a few words, by what it stands beside.
fn said((limits, candidates): There<'_>) -> BTreeMap<String, String> {
    let each = candidates.iter().map(|candidate| {
        let live = candidate.instead_of.and_then(|place| limits.get(place));
        let place = live.map(|live| format!("limit {}: ", live.label()));
        let mut text = match candidate.unlimited {
            true => "unlimited".to_owned(),
            false => counts(&candidate.limit),
        };
        if candidate.charge_always == Some(true) {
            text += ", charged always";
        }
        (place.unwrap_or_default(), text)
    });
    each.collect()
}
