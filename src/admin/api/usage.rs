//! What was used, for billing: JSON lines, one for each subject and period that has changed after a number.
//!
//! A reader goes on after the `id` of the last line that it has dealt with. A subject that uses more is there again with a new
//! `id`; its last line is the truth.

use std::ops::RangeInclusive;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, Query, as_moment, show};
use crate::limit::{Hits, MAX_EXACT};
use crate::store::usage::{MAX_ROWS, Numbered};
use crate::time::Timestamp;

pub(super) async fn usage(State(api): State<Api>, query: Query) -> Answer {
    let number = |name: &str, default: u64, range: RangeInclusive<u64>| {
        let Some(text) = query.get(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = range.into_inner();
            Problem::bad(format!(
                "`{name}` is a whole number from {least} to {most}, not `{text}`"
            ))
        })
    };
    let after = number("after", 0, 0..=MAX_EXACT)?;
    let most = number("limit", MAX_ROWS as u64, 1..=MAX_ROWS as u64)?;
    let most = usize::try_from(most).unwrap_or(MAX_ROWS);
    let engine = &api.admin.engine;
    let rows = engine.usage_after(after, most).await?;
    let now = engine.clock().now();
    let lines: String = rows.iter().filter_map(|row| line(row, now)).collect();
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, lines).into_response())
}

fn line((id, used, text): &Numbered, now: Timestamp) -> Option<String> {
    let row: Value = serde_json::from_slice(text).ok()?;
    let end = row["end"].as_i64()?;
    let line = json!({
        "id": id,
        "domain": row["domain"],
        "subject": row["subject"],
        "rule": row["rule"],
        "period": row["unit"],
        "start": as_moment(row["start"].as_i64()?),
        "end": as_moment(end),
        "ended": end <= now.as_micros(),
        "used": show::hits(Hits::from_thousandths(*used)),
    });
    Some(format!("{line}\n"))
}
