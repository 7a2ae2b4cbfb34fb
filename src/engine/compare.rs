//! Candidates against live limits: in which requests they differ.
//!
//! Whether a request would pass under a candidate: see [`crate::limit::candidate`]. What a shadowed rule says is compared as if
//! it were enforced.

use smallvec::SmallVec;

use super::charges::{Charges, Tried};
use crate::limit::transaction::{Amount, Outcome};
use crate::limit::{Hits, Verdict};
use crate::time::Micros;

/// A candidate beside its live limit, in one request.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The candidate, and where it stands.
    pub tried: Tried<'a>,
    /// What was asked.
    pub amount: Amount,
    /// Whether the request passes.
    pub live: bool,
    /// Whether it would.
    pub would: bool,
    /// What the candidate itself said.
    pub verdict: Verdict,
    /// What was used of it before.
    pub used: Hits,
    /// When it is as good as fresh.
    pub reset: Micros,
}

/// Where a candidate differs from its live limit, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The request passes or is refused either way.
    Same,
    /// It passes, and would be refused.
    WouldRefuse,
    /// It is refused, and would pass.
    WouldAdmit,
}

impl Compared<'_> {
    /// Where the candidate differs.
    pub fn difference(&self) -> Difference {
        match (self.live, self.would) {
            (true, true) | (false, false) => Difference::Same,
            (true, false) => Difference::WouldRefuse,
            (false, true) => Difference::WouldAdmit,
        }
    }
}

/// All candidates of a request; none if the store did not judge them.
pub(super) fn compared<'a>(charges: &Charges<'a>, outcome: &Outcome) -> Vec<Compared<'a>> {
    if outcome.trials.len() != charges.tried.len() {
        return Vec::new();
    }
    let fits = fits(charges, outcome);
    let all = charges.tried.iter().zip(&outcome.trials);
    all.map(|(tried, trial)| {
        let shadow = tried.rule.shadow_mode;
        let live = fits.get(tried.demand).copied().unwrap_or(true);
        Compared {
            tried: *tried,
            amount: charges.demands[tried.demand].amount,
            live: outcome.admitted && (live || !shadow),
            would: trial.passes && (trial.fits || !shadow),
            verdict: trial.reading.verdict,
            used: trial.reading.used,
            reset: trial.reading.reset,
        }
    })
    .collect()
}

/// Whether each demand has room.
fn fits(charges: &Charges<'_>, outcome: &Outcome) -> SmallVec<[bool; 4]> {
    let mut readings = outcome.readings.iter();
    let fits = charges.demands.iter().map(|demand| {
        let own = readings.by_ref().take(demand.limits.len());
        own.fold(true, |fits, one| fits & (one.verdict == Verdict::Allowed))
    });
    fits.collect()
}
