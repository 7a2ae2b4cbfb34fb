//! When: counts over time, in as many cells as fit on a page. All lines have the same cells; when time goes on they grow longer.

use crate::time::{Micros, Timestamp};

/// The most cells.
pub(super) const MOST_CELLS: usize = 300;

/// How long a cell may be, in seconds; each is a multiple of the one before, so that cells can be put together.
const LENGTHS: [u64; 16] = [
    1, 5, 10, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_419_200,
    31_449_600,
];

/// Which cells there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    /// The beginning of the first; none before there is any.
    pub(super) begin: Option<Timestamp>,
    /// The place of their length.
    length: usize,
}

/// What happened within a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    /// Requests.
    pub(super) asked: u64,
    /// Those that were refused live.
    pub(super) before: u64,
    /// Those that are refused now.
    pub(super) now: u64,
}

/// Counts over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) cells: Vec<Cell>,
}

impl Scale {
    /// How long a cell is.
    pub(super) fn length(self) -> Micros {
        Micros::from_secs(LENGTHS[self.length])
    }

    /// The cell of a moment. `grown` is called with the scale before if the cells must be longer for it.
    pub(super) fn place(&mut self, at: Timestamp, mut grown: impl FnMut(Scale, Scale)) -> usize {
        let begin = *self
            .begin
            .get_or_insert(at.floor_to(Micros::from_secs(LENGTHS[0])));
        loop {
            let place = at.since(begin.floor_to(self.length())).get() / self.length().get();
            match usize::try_from(place) {
                Ok(place) if place < MOST_CELLS => return place,
                Ok(_) | Err(_) if self.length + 1 == LENGTHS.len() => return MOST_CELLS - 1,
                Ok(_) | Err(_) => {
                    let before = *self;
                    self.length += 1;
                    grown(before, *self);
                }
            }
        }
    }

    /// The beginning of the first cell.
    pub(super) fn start(self) -> Timestamp {
        self.begin.unwrap_or_default().floor_to(self.length())
    }
}

impl Line {
    /// Counts in a cell.
    pub(super) fn add(&mut self, place: usize, (before, now): (bool, bool)) {
        if self.cells.len() <= place {
            self.cells.resize(place + 1, Cell::default());
        }
        let cell = &mut self.cells[place];
        cell.asked += 1;
        cell.before += u64::from(before);
        cell.now += u64::from(now);
    }

    /// Puts cells together.
    pub(super) fn grow(&mut self, from: Scale, to: Scale) {
        let mut grown = Line::default();
        for (place, cell) in self.cells.iter().enumerate() {
            let begin = from.start() + Micros::new(from.length().get() * place as u64);
            let place = begin.since(to.start()).get() / to.length().get();
            let place = usize::try_from(place)
                .unwrap_or(usize::MAX)
                .min(MOST_CELLS - 1);
            if grown.cells.len() <= place {
                grown.cells.resize(place + 1, Cell::default());
            }
            let sum = &mut grown.cells[place];
            sum.asked += cell.asked;
            sum.before += cell.before;
            sum.now += cell.now;
        }
        *self = grown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_grow_with_time_and_lose_nothing() {
        for step in [1, 7, 61, 3599, 86_400, 20_000_000] {
            let (mut scale, mut line) = (Scale::default(), Line::default());
            for number in 0..1000 {
                let at = Timestamp::from_secs(1_772_798_471 + number * step);
                let place = scale.place(at, |from, to| line.grow(from, to));
                line.add(place, (number % 2 == 0, number % 5 == 0));
                assert!(place < MOST_CELLS);
            }
            let sum = |count: fn(&Cell) -> u64| line.cells.iter().map(count).sum::<u64>();
            assert_eq!(sum(|cell| cell.asked), 1000, "{step}");
            assert_eq!(sum(|cell| cell.before), 500, "{step}");
            assert_eq!(sum(|cell| cell.now), 200, "{step}");
            assert!(line.cells.len() <= MOST_CELLS, "{step}");
            assert!(line.cells.len() > 30, "{step}: {}", line.cells.len());
        }
    }
}
