//! The subjects with the most hits, in the room of a few: the space-saving sketch.
//!
//! Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams" (ICDT 2005): who is not
//! among the counted takes the place of the one with the fewest hits, and begins with those. So a counter is too high by no
//! more than the lowest one, which is no more than the hits of all divided by [`CAPACITY`]; and whoever has more than that is
//! among the counted.

use super::summary::{self, Row, Summary};

/// How many subjects a sketch counts.
pub const CAPACITY: usize = 64;

/// The subjects with the most hits. Without any it takes next to no memory, and when cleared it keeps its room.
#[derive(Debug, Default)]
pub struct Sketch {
    /// Which subject, by its fingerprint; here and in the next three each has the same place.
    prints: Vec<u64>,
    /// In thousandths.
    hits: Vec<u64>,
    /// How many of the hits may have been others'.
    errors: Vec<u64>,
    /// What lies beyond is there for its room.
    names: Vec<String>,
    total: u64,
}

impl Sketch {
    /// Counts hits, in thousandths, of the subject with this fingerprint; `name` writes down who it is if that is not known.
    pub fn add(&mut self, print: u64, hits: u64, name: impl FnOnce(&mut String)) {
        self.total = self.total.saturating_add(hits);
        if let Some(at) = self.prints.iter().position(|p| *p == print) {
            self.hits[at] = self.hits[at].saturating_add(hits);
            return;
        }
        let at = self.room();
        let before = self.hits[at];
        self.prints[at] = print;
        self.hits[at] = before.saturating_add(hits);
        self.errors[at] = before;
        let text = &mut self.names[at];
        text.clear();
        name(text);
    }

    /// Where somebody new is counted: a free place, else that of whoever has the fewest hits.
    fn room(&mut self) -> usize {
        let used = self.prints.len();
        if used < CAPACITY {
            for column in [&mut self.prints, &mut self.hits, &mut self.errors] {
                column.push(0);
            }
            if self.names.len() == used {
                self.names.push(String::new());
            }
            return used;
        }
        let (mut at, mut least) = (0, u64::MAX);
        for (place, hits) in self.hits.iter().enumerate() {
            if *hits < least {
                (at, least) = (place, *hits);
            }
        }
        at
    }

    /// Those with the most hits, at most `most`.
    pub fn summary(&self, most: usize) -> Summary {
        let row = |at: usize| Row {
            subject: self.names[at].clone(),
            hits: self.hits[at],
            error: self.errors[at],
        };
        let mut rows: Vec<Row> = (0..self.prints.len()).map(row).collect();
        summary::sort(&mut rows);
        let floor = match self.prints.len() {
            CAPACITY => self.hits.iter().copied().min().unwrap_or_default(),
            _ => 0,
        };
        let total = self.total;
        Summary { total, floor, rows }.truncated(most)
    }

    /// Forgets all, and keeps the room.
    pub fn clear(&mut self) {
        for column in [&mut self.prints, &mut self.hits, &mut self.errors] {
            column.clear();
        }
        self.total = 0;
    }

    /// The hits of all subjects, in thousandths.
    pub fn total(&self) -> u64 {
        self.total
    }
}
