//! Bans: who is refused too often within a window is refused outright for a while, longer each time.
//!
//! The first ban lasts `first`, each further one twice as long, up to `longest`. How many there were is forgotten when
//! `longest` has passed since the end of the last. While a ban lasts nothing is counted, so nothing is written.

use super::{MAX_WINDOW, Tag, Unit};
use crate::time::{Micros, Timestamp};

/// After so many bans in a row they no longer grow, whatever `longest` is.
const MAX_TIMES: u32 = 32;

/// When to ban, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    after: u32,
    within: Unit,
    first: Micros,
    longest: Micros,
}

/// What is remembered of refusals and bans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The end of the window that `refusals` belongs to.
    pub end: Timestamp,
    /// The refusals counted in it.
    pub refusals: u32,
    /// The end of the last ban.
    pub until: Timestamp,
    /// How many bans there were in a row.
    pub times: u32,
}

/// Why a ban cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// After no refusals.
    #[error("a ban comes after at least one refusal")]
    After,
    /// For no time.
    #[error("a ban lasts longer than no time")]
    First,
    /// The longest is shorter than the first, or longer than [`MAX_WINDOW`].
    #[error("the longest ban is not shorter than the first, and at most 100 years")]
    Longest,
}

impl Ban {
    /// A ban for `first` after `after` refusals in one `within`, at most for `longest`. Windows of a day and more have their
    /// nominal length and are counted from the epoch.
    pub fn new(after: u32, within: Unit, first: Micros, longest: Micros) -> Result<Self, BanError> {
        if after == 0 {
            return Err(BanError::After);
        }
        if first == Micros::ZERO {
            return Err(BanError::First);
        }
        if longest < first || longest > MAX_WINDOW {
            return Err(BanError::Longest);
        }
        Ok(Self {
            after,
            within,
            first,
            longest,
        })
    }

    /// How many refusals it takes.
    pub fn after(&self) -> u32 {
        self.after
    }

    /// The window in which they are counted.
    pub fn window(&self) -> Micros {
        self.within.nominal()
    }

    /// How long the first ban lasts.
    pub fn first(&self) -> Micros {
        self.first
    }

    /// How long the longest lasts.
    pub fn longest(&self) -> Micros {
        self.longest
    }

    /// Its place among the limits of its key.
    pub fn tag(&self) -> Tag {
        Tag::of_ban(self.within)
    }

    fn lasts(&self, times: u32) -> Micros {
        let doublings = times.saturating_sub(1).min(MAX_TIMES);
        Micros::new(self.first.get().saturating_mul(1 << doublings)).min(self.longest)
    }
}

impl State {
    /// No refusals, no bans.
    pub fn fresh(ban: &Ban, now: Timestamp) -> Self {
        Self {
            end: end_of_window(ban, now),
            refusals: 0,
            until: Timestamp::default(),
            times: 0,
        }
    }

    /// Rolls to the window that holds `now`, and forgets bans that are long over.
    pub fn advance(&mut self, ban: &Ban, now: Timestamp) {
        if self.end <= now {
            self.refusals = 0;
            self.end = end_of_window(ban, now);
        }
        if self.until + ban.longest <= now {
            self.times = 0;
        }
    }

    /// How long the ban still lasts, if there is one.
    pub fn banned(&self, now: Timestamp) -> Option<Micros> {
        (self.until > now).then(|| self.until.since(now))
    }

    /// Counts a refusal, which may begin a ban; not while one lasts.
    pub fn refuse(&mut self, ban: &Ban, now: Timestamp) {
        if self.banned(now).is_some() {
            return;
        }
        // What stands in a store may say any number.
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals >= ban.after {
            self.refusals = 0;
            self.times = (self.times + 1).min(MAX_TIMES);
            self.until = now + ban.lasts(self.times);
        }
    }

    /// The time until it is as good as fresh.
    pub fn fresh_in(&self, ban: &Ban, now: Timestamp) -> Micros {
        let counted = if self.refusals > 0 {
            self.end.since(now)
        } else {
            Micros::ZERO
        };
        let remembered = if self.times > 0 {
            (self.until + ban.longest).since(now)
        } else {
            Micros::ZERO
        };
        counted.max(remembered)
    }
}

fn end_of_window(ban: &Ban, now: Timestamp) -> Timestamp {
    now.floor_to(ban.window()) + ban.window()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban() -> Ban {
        let hours = |n: u64| Micros::from_secs(n * 3600);
        Ban::new(2, Unit::Minute, hours(1), hours(3)).expect("a ban")
    }

    fn refuse(state: &mut State, secs: i64) -> Option<u64> {
        let now = Timestamp::from_secs(secs);
        state.advance(&ban(), now);
        state.refuse(&ban(), now);
        state.banned(now).map(Micros::ceil_secs)
    }

    #[test]
    fn bans_grow_up_to_the_longest_and_are_forgotten() {
        let mut state = State::fresh(&ban(), Timestamp::from_secs(0));
        assert_eq!(refuse(&mut state, 59), None);
        assert_eq!(refuse(&mut state, 60), None, "another minute");
        assert_eq!(refuse(&mut state, 61), Some(3600));
        for (at, lasts) in [(4000, 7200), (12_000, 10_800), (23_000, 10_800)] {
            assert_eq!(refuse(&mut state, at), None);
            assert_eq!(refuse(&mut state, at), Some(lasts));
        }
        let forgotten = 23_000 + 2 * 10_800;
        assert_eq!(refuse(&mut state, forgotten), None);
        assert_eq!(refuse(&mut state, forgotten), Some(3600));
    }

    #[test]
    fn a_ban_that_bans_nobody_is_none() {
        let hour = Micros::from_secs(3600);
        assert!(Ban::new(0, Unit::Minute, hour, hour).is_err());
        assert!(Ban::new(1, Unit::Minute, Micros::ZERO, hour).is_err());
        assert!(Ban::new(1, Unit::Minute, hour, Micros::from_secs(1)).is_err());
    }
}
