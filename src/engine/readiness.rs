//! Whether requests should be sent here.

/// What readiness is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Rules have been loaded, with so many domains.
    pub domains: Option<usize>,
    /// The store has answered once. That it goes on to answer is not asked: an outage is decided by the failure modes, and
    /// instances that all leave would make it worse.
    pub store_answered: bool,
    /// The process is about to end.
    pub draining: bool,
}

impl Readiness {
    /// Whether all is well; with `needed_domains` rules must have been loaded, with at least so many.
    pub fn is_ready(&self, needed_domains: Option<usize>) -> bool {
        let rules = match needed_domains {
            Some(least) => self.domains.is_some_and(|domains| domains >= least),
            None => true,
        };
        rules && self.store_answered && !self.draining
    }
}
