//! An answer that is not written yet: whoever tells it needs all of it, or its numbers alone.

use super::shape::{Place, Shape};
use super::{Reason, shape, unruled, write};
use crate::engine::fold::Ruling;
use crate::engine::{Answer, Engine, Request};
use crate::rules::Domain;

/// What an answer is written from.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'d, 'q, 'r> {
    /// Who decided.
    pub(in crate::engine) engine: &'r Engine,
    /// What was asked.
    pub(in crate::engine) request: &'d Request<'q>,
    /// What it came to; none for a domain without rules.
    pub(in crate::engine) ruled: Option<Ruled<'d, 'r>>,
}

/// A decision by rules.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Ruled<'d, 'r> {
    /// The number of the rules that held: no others have the same.
    pub(in crate::engine) rules: u64,
    pub(in crate::engine) domain: &'r Domain,
    pub(in crate::engine) ruling: &'d Ruling<'r>,
    pub(in crate::engine) reason: Reason,
}

impl<'r> Draft<'_, '_, 'r> {
    /// Writes it.
    pub fn answer(&self) -> Answer<'r> {
        let Some(ruled) = &self.ruled else {
            return unruled(self.request);
        };
        let Engine {
            settings, clock, ..
        } = self.engine;
        let Ruled {
            domain,
            ruling,
            reason,
            ..
        } = *ruled;
        // Filled where it stays, as it is large.
        let mut answer = Answer::default();
        let now = || clock.now();
        write(
            &mut answer,
            settings,
            domain,
            self.request,
            ruling,
            reason,
            now,
        );
        answer
    }

    /// Whether the answer has a shape in common with others, which is added to the empty one in `to`.
    pub fn shape(&self, to: &mut Shape) -> bool {
        let fill = |ruled| to.fill(&self.engine.settings, ruled);
        self.ruled.as_ref().is_some_and(fill)
    }

    /// Where the numbers of its shape stand in the answer, in order.
    pub fn places(&self) -> Vec<Place> {
        let places = |ruled| shape::places(&self.engine.settings, ruled);
        self.ruled.as_ref().map(places).unwrap_or_default()
    }
}
