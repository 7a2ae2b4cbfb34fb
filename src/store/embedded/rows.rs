//! What was used, in this process; see [`usage`](crate::store::usage).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;

use crate::store::usage::{MAX_ROWS, Numbered, Row};
use crate::time::Timestamp;

/// The rows.
#[derive(Debug, Default)]
pub struct Rows(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<String, (u64, Row)>,
    order: BTreeMap<u64, String>,
    ends: BTreeSet<(Timestamp, String)>,
    number: u64,
}

impl Rows {
    pub(in crate::store) fn set(&self, rows: &[Row]) {
        let mut table = self.0.lock();
        for row in rows {
            let known = table.rows.get(&row.id);
            if known.is_none_or(|(_, known)| known.used < row.used) {
                let number = table.number + 1;
                table.put(number, row.clone());
            }
        }
    }

    pub(in crate::store) fn after(&self, after: u64, most: usize) -> Vec<Numbered> {
        let table = self.0.lock();
        let later = table.order.range(after.saturating_add(1)..).take(most);
        let rows = later.filter_map(|(number, id)| {
            let (_, row) = table.rows.get(id)?;
            Some((*number, row.used, row.text.clone()))
        });
        rows.collect()
    }

    pub(in crate::store) fn tidy(&self, before: Timestamp) {
        let mut table = self.0.lock();
        for _ in 0..MAX_ROWS {
            let ended = table.ends.first().filter(|(end, _)| *end < before).cloned();
            let Some((end, id)) = ended else { return };
            if let Some((number, _)) = table.rows.remove(&id) {
                table.order.remove(&number);
            }
            table.ends.remove(&(end, id));
        }
    }

    /// All rows with their numbers, to be kept elsewhere.
    pub(super) fn contents(&self) -> Vec<(u64, Row)> {
        self.0.lock().rows.values().cloned().collect()
    }

    /// Gives numbers from here on that none had before `now`: those given since the rows were kept are not known, and a reader
    /// that has seen them must not miss what comes.
    pub(super) fn begin_after(&self, now: Timestamp) {
        let mut table = self.0.lock();
        table.number = table
            .number
            .max(u64::try_from(now.as_micros()).unwrap_or(0));
    }

    /// Takes back a row that was kept elsewhere.
    pub(super) fn restore(&self, number: u64, row: Row) {
        self.0.lock().put(number, row);
    }
}

impl Table {
    fn put(&mut self, number: u64, row: Row) {
        self.number = self.number.max(number);
        self.order.insert(number, row.id.clone());
        self.ends.insert((row.end, row.id.clone()));
        if let Some((before, _)) = self.rows.insert(row.id.clone(), (number, row)) {
            self.order.remove(&before);
        }
    }
}
