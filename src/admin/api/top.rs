//! Who asks most, and who is refused most.

use std::cmp::Reverse;

use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, Query, answer, as_moment, overview, show};
use crate::engine::top::summary::{Row, Summary};
use crate::engine::top::{By, Instance, KEPT};
use crate::limit::Hits;

/// The windows by their names, in the order of [`crate::engine::top::WINDOWS`].
const WINDOWS: [&str; 3] = ["1m", "5m", "10m"];

/// How many subjects of a rule are told, if the call does not say.
const USUAL: usize = 10;

pub(super) async fn top(State(api): State<Api>, query: Query) -> Answer {
    let asked = |name: &str| query.get(name).map(String::as_str);
    let by = asked("by").unwrap_or(By::Hits.name());
    let by = By::named(by)
        .ok_or_else(|| Problem::bad(format!("`by` is hits or refused, not `{by}`")))?;
    let window = asked("window").unwrap_or(WINDOWS[0]);
    let window = WINDOWS.iter().position(|known| *known == window);
    let window = window.ok_or_else(|| {
        let known = WINDOWS.join(", ");
        Problem::bad(format!("`window` is one of {known}"))
    })?;
    let limit = match asked("limit") {
        None => USUAL,
        Some(text) => {
            let limit = text.parse().ok().filter(|n| (1..=KEPT).contains(n));
            limit.ok_or_else(|| Problem::bad(format!("`limit` is a number from 1 to {KEPT}")))?
        }
    };
    let tops = api.admin.engine.top(by, window).await;
    let mut rules = tops.rules;
    let is = |name: &str, found: &str| asked(name).is_none_or(|wanted| wanted == found);
    rules.retain(|(domain, rule, _)| is("domain", domain) && is("rule", rule));
    rules.sort_by_key(|(.., summary)| Reverse(summary.total));
    let rules = rules.into_iter().map(|(domain, rule, summary)| {
        let Summary { total, rows, .. } = summary.truncated(limit);
        json!({
            "domain": domain,
            "rule": rule,
            "hits": hits(total),
            "subjects": rows.iter().map(row).collect::<Vec<_>>(),
        })
    });
    answer(&json!({
        "by": by.name(),
        "window": WINDOWS[window],
        "since": as_moment(tops.since.as_micros()),
        "rules": rules.collect::<Vec<_>>(),
        "instances": tops.instances.iter().map(instance).collect::<Vec<_>>(),
        "instances_counted": api.admin.engine.instances(),
        "whole": tops.is_whole,
    }))
}

fn row(row: &Row) -> Value {
    json!({
        "subject": row.subject,
        "hits": hits(row.hits),
        "at_least": hits(row.hits.saturating_sub(row.error)),
    })
}

fn instance(instance: &Instance) -> Value {
    json!({
        "name": instance.name,
        "version": instance.version,
        "decided_per_second": overview::round(instance.decided),
        "refused_per_second": overview::round(instance.refused),
    })
}

fn hits(thousandths: u64) -> Value {
    show::hits(Hits::from_thousandths(thousandths))
}
