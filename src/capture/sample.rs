//! Whose decisions are kept: those of some subjects, all of them, and not some decisions of everybody's. A counter of which every
//! tenth request is missing says nothing; a tenth of the counters, whole, say what becomes of a tenth of the subjects.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// A share of the subjects. Which ones hangs on nothing but their names, so instances and restarts choose the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    rate: f64,
}

impl Sample {
    /// Everybody.
    pub const ALL: Sample = Sample { rate: 1.0 };

    /// So large a share; none unless it is above 0 and at most 1.
    pub fn new(rate: f64) -> Option<Self> {
        (rate > 0.0 && rate <= 1.0).then_some(Self { rate })
    }

    /// The share.
    pub fn rate(self) -> f64 {
        self.rate
    }

    /// Whether it is everybody.
    pub fn is_all(self) -> bool {
        self.rate >= 1.0
    }

    /// Whether the subject of this hash tag is among them.
    pub fn has(self, tag: &str) -> bool {
        if self.is_all() {
            return true;
        }
        let mut hasher = SipHasher13::new();
        hasher.write(tag.as_bytes());
        // The upper 53 bits are a number from 0 to 1 that a double holds exactly.
        let place = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_is_in_it_and_a_larger_share_has_the_smaller() {
        let (tenth, half) = (Sample::new(0.1).unwrap(), Sample::new(0.5).unwrap());
        let names: Vec<String> = (0..10_000).map(|n| format!("{{d|user={n}}}")).collect();
        let in_tenth = names.iter().filter(|name| tenth.has(name));
        let in_tenth: Vec<&String> = in_tenth.collect();
        assert!((900..1100).contains(&in_tenth.len()), "{}", in_tenth.len());
        assert!(in_tenth.iter().all(|name| half.has(name)));
        assert!(names.iter().all(|name| Sample::ALL.has(name)));
        for wrong in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(Sample::new(wrong), None, "{wrong}");
        }
    }
}
