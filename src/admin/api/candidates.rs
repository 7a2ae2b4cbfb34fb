//! What comes of the candidates: who would be refused or admitted if they were the limits.

use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, Query, answer, as_moment, show};
use crate::engine::top::KEPT;
use crate::engine::top::summary::{Row, Summary};
use crate::engine::trials::Tally;
use crate::limit::Hits;

/// How many subjects are told, if the call does not say.
const USUAL: usize = 10;

pub(super) async fn candidates(State(api): State<Api>, query: Query) -> Answer {
    let asked = |name: &str| query.get(name).map(String::as_str);
    let limit = match asked("limit") {
        None => USUAL,
        Some(text) => {
            let limit = text.parse().ok().filter(|n| (1..=KEPT).contains(n));
            limit.ok_or_else(|| Problem::bad(format!("`limit` is a number from 1 to {KEPT}")))?
        }
    };
    let tallies = api.admin.engine.trials().await;
    let mut candidates = tallies.candidates;
    let is = |name: &str, found: &str| asked(name).is_none_or(|wanted| wanted == found);
    candidates.retain(|tally| is("domain", &tally.of.domain) && is("rule", &tally.of.rule));
    candidates.sort_by_key(|tally| std::cmp::Reverse(tally.would_refuse + tally.would_admit));
    let shown: Vec<Value> = candidates.iter().map(|tally| row(tally, limit)).collect();
    answer(&json!({
        "candidates": shown,
        "instances": tallies.instances,
        "instances_counted": api.admin.engine.instances(),
        "whole": tallies.is_whole,
    }))
}

fn row(tally: &Tally, limit: usize) -> Value {
    let of = &tally.of;
    let live = of.live.as_ref();
    let label = live.map_or(of.candidate.unit().name(), |(label, _)| label);
    let subjects = |which: usize| -> Vec<Value> {
        let Summary { rows, .. } = tally.subjects[which].clone().truncated(limit);
        rows.iter().map(subject).collect()
    };
    json!({
        "domain": *of.domain,
        "rule": *of.rule,
        "file": of.source.file,
        "line": of.source.line,
        "path": of.path,
        "plan": of.plan,
        "limit": live.map(|(label, limit)| show::limit(label, limit)),
        "candidate": show::candidate(label, &of.candidate, of.unlimited),
        "since": as_moment(tally.since.as_micros()),
        "requests": tally.requests,
        "would_refuse": tally.would_refuse,
        "would_admit": tally.would_admit,
        "subjects": {"would_refuse": subjects(0), "would_admit": subjects(1)},
    })
}

fn subject(row: &Row) -> Value {
    let requests = |thousandths: u64| show::hits(Hits::from_thousandths(thousandths));
    json!({
        "subject": row.subject,
        "requests": requests(row.hits),
        "at_least": requests(row.hits.saturating_sub(row.error)),
    })
}
