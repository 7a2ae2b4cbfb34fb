//! The subjects with the most hits, in the room of a few: the space-saving sketch.
//!
//! Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams" (ICDT 2005): who is not
//! among the counted takes the place of the one with the fewest hits, and begins with those. So a counter is too high by no
//! more than the lowest one, which is no more than the hits of all divided by [`CAPACITY`]; and whoever has more than that is
//! among the counted.

use super::summary::{self, Row, Summary};

/// How many subjects a sketch counts.
pub const CAPACITY: usize = 64;

/// The subjects with the most hits.
#[derive(Debug)]
pub struct Sketch {
    /// How many are counted. What lies beyond is there for its room.
    used: usize,
    /// Which subject, by its fingerprint.
    prints: [u64; CAPACITY],
    /// In thousandths.
    hits: [u64; CAPACITY],
    /// How many of the hits may have been others'.
    errors: [u64; CAPACITY],
    names: Vec<String>,
    total: u64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            used: 0,
            prints: [0; CAPACITY],
            hits: [0; CAPACITY],
            errors: [0; CAPACITY],
            names: Vec::new(),
            total: 0,
        }
    }
}

impl Sketch {
    /// Counts hits, in thousandths, of the subject with this fingerprint; `name` writes down who it is if that is not known.
    pub fn add(&mut self, print: u64, hits: u64, name: impl FnOnce(&mut String)) {
        self.total = self.total.saturating_add(hits);
        let counted = self.prints[..self.used].iter().position(|p| *p == print);
        if let Some(at) = counted {
            self.hits[at] = self.hits[at].saturating_add(hits);
            return;
        }
        let (at, before) = self.room();
        self.prints[at] = print;
        self.hits[at] = before.saturating_add(hits);
        self.errors[at] = before;
        let text = &mut self.names[at];
        text.clear();
        name(text);
    }

    /// Where somebody new is counted, and what whoever was there had.
    fn room(&mut self) -> (usize, u64) {
        if self.used < CAPACITY {
            self.used += 1;
            if self.names.len() < self.used {
                self.names.push(String::new());
            }
            return (self.used - 1, 0);
        }
        let (mut at, mut least) = (0, u64::MAX);
        for (place, hits) in self.hits.iter().enumerate() {
            if *hits < least {
                (at, least) = (place, *hits);
            }
        }
        (at, least)
    }

    /// Those with the most hits, at most `most`.
    pub fn summary(&self, most: usize) -> Summary {
        let row = |at: usize| Row {
            subject: self.names[at].clone(),
            hits: self.hits[at],
            error: self.errors[at],
        };
        let mut rows: Vec<Row> = (0..self.used).map(row).collect();
        summary::sort(&mut rows);
        let floor = match self.used {
            CAPACITY => self.hits.iter().copied().min().unwrap_or_default(),
            _ => 0,
        };
        let total = self.total;
        Summary { total, floor, rows }.truncated(most)
    }

    /// Forgets all, and keeps the room.
    pub fn clear(&mut self) {
        self.used = 0;
        self.total = 0;
    }

    /// The hits of all subjects, in thousandths.
    pub fn total(&self) -> u64 {
        self.total
    }
}
