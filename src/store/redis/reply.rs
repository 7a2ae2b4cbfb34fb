//! What the script says: see the end of `transaction.lua`.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::limit::candidate::Trial;
use crate::limit::transaction::{Outcome, Reading};
use crate::limit::{Hits, Verdict};
use crate::time::{Micros, Timestamp};

/// The answer to one call.
#[derive(Debug)]
pub(super) enum Reply {
    /// It was decided.
    Done(Decided),
    /// It was decided: what stood under the keys before, empty for nothing, and the time.
    Before(Timestamp, SmallVec<[Bytes; 1]>),
    /// Nothing was written: calendar windows are needed around this moment.
    Retime(Timestamp),
    /// Nothing was written: the value under the key at this place is not ours.
    Foreign(usize),
}

/// What the demands of one call came to.
#[derive(Debug)]
pub(super) struct Decided {
    /// Whether these demands do not refuse the request.
    pub(super) admitted: bool,
    /// What each limit said, and the time it said it at.
    pub(super) readings: SmallVec<[ReadingAt; 2]>,
    /// What came of each candidate, and the time of that.
    pub(super) trials: Vec<(Trial, Timestamp)>,
}

/// What a limit said, and when.
pub(super) type ReadingAt = (Reading, Timestamp);

/// The bytes of one reading.
const READING: usize = 1 + 4 * NUMBER;
const NUMBER: usize = 7;

/// What stands in the first byte of a reading beside the verdict: it is a candidate's, and what came of that.
const FITS: u8 = 4;
const PASSES: u8 = 8;
const TRIAL: u8 = 16;

impl Reply {
    /// Reads an answer; none if it is not one of the script's.
    pub(super) fn parse(mut answer: Bytes) -> Option<Self> {
        match take_u8(&mut answer)? {
            0 => Decided::parse(answer).map(Reply::Done),
            1 => take(&mut answer).map(|at| Reply::Retime(moment(at))),
            2 => {
                let place = usize::try_from(take(&mut answer)?).ok()?;
                place.checked_sub(1).map(Reply::Foreign)
            }
            3 => {
                let at = moment(take(&mut answer)?);
                let mut values = SmallVec::new();
                while answer.has_remaining() {
                    let size = answer.try_get_u16_le().ok()?.into();
                    if size > answer.remaining() {
                        return None;
                    }
                    values.push(answer.split_to(size));
                }
                Some(Reply::Before(at, values))
            }
            _ => None,
        }
    }
}

impl Decided {
    /// What it says, without when.
    pub(super) fn outcome(self) -> Outcome {
        let (readings, trials) = (self.readings.into_iter(), self.trials.into_iter());
        Outcome {
            admitted: self.admitted,
            readings: readings.map(|(reading, _)| reading).collect(),
            trials: trials.map(|(trial, _)| trial).collect(),
        }
    }

    fn parse(mut answer: Bytes) -> Option<Self> {
        let mut decided = Self {
            admitted: take_u8(&mut answer)? == 1,
            readings: SmallVec::new(),
            trials: Vec::new(),
        };
        while answer.remaining() >= READING {
            let said = take_u8(&mut answer)?;
            let (reading, at) = reading(said % FITS, &mut answer)?;
            if said & TRIAL == 0 {
                decided.readings.push((reading, at));
                continue;
            }
            let trial = Trial {
                reading,
                fits: said & FITS != 0,
                passes: said & PASSES != 0,
            };
            decided.trials.push((trial, at));
        }
        (answer.remaining() == 0).then_some(decided)
    }

    /// Whether it is of so many limits and candidates.
    pub(super) fn is_of(&self, limits: usize, candidates: usize) -> bool {
        self.readings.len() == limits && self.trials.len() == candidates
    }
}

fn reading(verdict: u8, answer: &mut Bytes) -> Option<ReadingAt> {
    let wait = Micros::new(take(answer)?);
    let reading = Reading {
        verdict: match verdict {
            0 => Verdict::Allowed,
            1 => Verdict::Wait(wait),
            2 => Verdict::Never,
            3 => Verdict::Banned(wait),
            _ => return None,
        },
        used: Hits::from_thousandths(take(answer)?),
        reset: Micros::new(take(answer)?),
    };
    Some((reading, moment(take(answer)?)))
}

fn moment(micros: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

fn take(answer: &mut Bytes) -> Option<u64> {
    (answer.remaining() >= NUMBER).then(|| answer.get_uint_le(NUMBER))
}

fn take_u8(answer: &mut Bytes) -> Option<u8> {
    answer.has_remaining().then(|| answer.get_u8())
}
