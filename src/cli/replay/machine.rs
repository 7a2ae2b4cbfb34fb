//! The report as JSON, and differences as lines of it.

use serde_json::{Value, json};

use super::Args;
use super::line::{Line, Scale};
use super::run::Outcome;
use super::suggest::Suggestion;
use super::tally::{Counts, Difference, OfRule};
use crate::time::Timestamp;

/// The report, one object.
pub(super) fn report(args: &Args, outcome: &Outcome, suggested: Option<&[Suggestion]>) -> String {
    let tally = &outcome.tally;
    let top = usize::from(args.top);
    let header = outcome.header.as_ref();
    let subjects = tally.subjects.summary(top);
    let subject = |row: &crate::engine::top::summary::Row| {
        json!({
            "subject": row.subject,
            "newly_refused": row.hits / 1000,
            "at_most_too_many": row.error / 1000,
        })
    };
    let apart = &tally.apart;
    let report = json!({
        "rules": {"dir": args.rules, "domains": outcome.rules.0, "rules": outcome.rules.1},
        "traffic": {
            "files": args.traffic,
            "from": tally.span.map(|(first, _)| moment(first)),
            "to": tally.span.map(|(_, last)| moment(last)),
            "sample": header.map_or(1.0, |header| header.sample),
            "store": header.map(|header| header.store.clone()),
            "decisions": tally.seen,
            "missing": outcome.about.missing,
            "notes": outcome.about.notes,
        },
        "compared": counts(&tally.total),
        "not_compared": {
            "warm_up": apart.warm_up,
            "listed": apart.listed,
            "refused_outside_the_sample": apart.outside,
            "rejected": apart.rejected,
        },
        "may_differ": {
            "late": apart.late,
            "decided_without_the_store": apart.fallback,
            "counters_not_whole_in_the_sample": apart.misplaced,
        },
        "counters": outcome.keys,
        "by_rule": tally.rules.iter().map(|of| rule(of, tally.scale)).collect::<Value>(),
        "time_line": line(&tally.line, tally.scale),
        "most_affected": subjects.rows.iter().map(subject).collect::<Value>(),
        "examples": tally.examples.iter().map(difference).collect::<Value>(),
        "suggested": suggested.map(|all| all.iter().map(suggestion).collect::<Value>()),
    });
    format!("{report:#}\n")
}

/// A decision that is another now, as a line.
pub(super) fn difference(difference: &Difference) -> Value {
    let word = |refused: bool| if refused { "refused" } else { "admitted" };
    json!({
        "at": moment(difference.at),
        "domain": difference.domain,
        "descriptors": difference.asked,
        "was": word(!difference.refused),
        "is": word(difference.refused),
        "rule": difference.rule,
        "limit": difference.limit,
    })
}

fn counts(counts: &Counts) -> Value {
    json!({
        "requests": counts.asked,
        "agree": counts.agree(),
        "refused_before": counts.before,
        "refused_now": counts.now,
        "newly_refused": counts.newly_refused,
        "newly_admitted": counts.newly_admitted,
        "newly_refused_ratio": counts.newly_refused_share(),
        "agree_and_told_otherwise": counts.told_otherwise,
    })
}

fn rule(of: &OfRule, scale: Scale) -> Value {
    json!({
        "domain": of.domain,
        "rule": of.name,
        "source": of.source,
        "requests": of.counts.asked,
        "refused_before": of.counts.before,
        "refused_now": of.counts.now,
        "newly_refused": of.counts.newly_refused,
        "newly_admitted": of.counts.newly_admitted,
        "first_newly_refused": of.refused.map(|(first, _)| moment(first)),
        "last_newly_refused": of.refused.map(|(_, last)| moment(last)),
        "time_line": of.line.as_ref().map(|of| line(of, scale)),
    })
}

fn line(line: &Line, scale: Scale) -> Value {
    let column =
        |count: fn(&super::line::Cell) -> u64| line.cells.iter().map(count).collect::<Vec<_>>();
    json!({
        "from": moment(scale.start()),
        "seconds": scale.length().get() / 1_000_000,
        "requests": column(|cell| cell.asked),
        "refused_before": column(|cell| cell.before),
        "refused_now": column(|cell| cell.now),
    })
}

fn suggestion(of: &Suggestion) -> Value {
    json!({
        "domain": of.domain,
        "rule": of.rule,
        "plan": of.plan,
        "limit": of.limit.to_string(),
        "requests_per_unit": of.limit.requests_per_unit(),
        "refuses": of.refuses,
        "requests": of.asked,
        "suggested_requests_per_unit": of.suggested.map(|(requests, _)| requests),
        "suggested_refuses": of.suggested.map(|(_, refuses)| refuses),
    })
}

/// As RFC 3339 has it.
fn moment(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros())
        .map_or_else(|_| at.as_micros().to_string(), |at| at.to_string())
}
