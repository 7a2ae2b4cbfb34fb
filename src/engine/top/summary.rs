//! What is known of who asks most: a few subjects with their hits, and how far off these may be. Summaries of other times and
//! of other instances add up to one.
//!
//! Agarwal and others, "Mergeable Summaries" (PODS 2012), show that the errors of such summaries add up when they are merged,
//! and do no worse.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A subject and its hits, in thousandths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// As keys have it: `key=value`, of several entries `key=value|key=value`; hashed where keys are.
    pub subject: String,
    /// No fewer than there were.
    pub hits: u64,
    /// By how much that may be too many.
    pub error: u64,
}

/// Those who ask most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The hits of all subjects, in thousandths.
    pub total: u64,
    /// No subject that is not among the rows has more.
    pub floor: u64,
    /// Most hits first, then by name; each subject once.
    pub rows: Vec<Row>,
}

impl Summary {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first `most` rows; the floor rises to what is left out.
    pub fn truncated(mut self, most: usize) -> Self {
        if let Some(first) = self.rows.get(most) {
            self.floor = self.floor.max(first.hits);
            self.rows.truncate(most);
        }
        self
    }

    /// All of them together. A subject that one of them does not name may have had as much there as its floor says.
    pub fn merged<'s>(all: impl IntoIterator<Item = &'s Summary>) -> Self {
        let (mut total, mut floor) = (0_u64, 0_u64);
        // The hits, the error and the floors of those that name a subject.
        let mut found: HashMap<&str, [u64; 3]> = HashMap::new();
        for summary in all {
            total = total.saturating_add(summary.total);
            floor = floor.saturating_add(summary.floor);
            for row in &summary.rows {
                let sums = found.entry(&row.subject).or_default();
                let parts = [row.hits, row.error, summary.floor];
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = sum.saturating_add(part);
                }
            }
        }
        let row = |(subject, [hits, error, floors]): (&str, [u64; 3])| {
            let unnamed = floor.saturating_sub(floors);
            Row {
                subject: subject.to_owned(),
                hits: hits.saturating_add(unnamed),
                error: error.saturating_add(unnamed),
            }
        };
        let mut rows: Vec<Row> = found.into_iter().map(row).collect();
        sort(&mut rows);
        Self { total, floor, rows }
    }
}

/// Most hits first; of equals the surest, then by name.
pub(super) fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| {
        let of = |row: &Row| (Reverse(row.hits), row.error);
        of(a).cmp(&of(b)).then_with(|| a.subject.cmp(&b.subject))
    });
}
