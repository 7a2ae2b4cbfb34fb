//! Leases: which part of a limit an instance may take in advance, to admit requests from memory.
//!
//! Only stores that must be asked over a network have a use for it.

use std::fmt;

use super::Hits;

/// A share of a limit, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(u16);

impl Lease {
    /// A tenth of the limit.
    pub const MAX: Lease = Lease(1000);

    /// Reads `1%` or `0.25%`; none unless it is above 0 % and at most [`Lease::MAX`], with at most two decimals.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
            return None;
        }
        let decimals: u32 = format!("{decimals:0<2}").parse().ok()?;
        let hundredths = whole.parse::<u32>().ok()?.checked_mul(100)? + decimals;
        let lease = Self(u16::try_from(hundredths).ok()?);
        (lease.0 > 0 && lease.0 <= Self::MAX.0).then_some(lease)
    }

    /// This share of `hits`, rounded down.
    pub fn of(self, hits: Hits) -> Hits {
        Hits::from_thousandths(hits.thousandths() / 10_000 * u64::from(self.0)).plus(
            Hits::from_thousandths(hits.thousandths() % 10_000 * u64::from(self.0) / 10_000),
        )
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 100, self.0 % 100);
        let decimals = format!("{decimals:02}");
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            decimals => write!(f, "{whole}.{decimals}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_exactly_and_shown_as_it_was_written() {
        for text in ["1%", "10%", "0.01%", "0.25%", "9.5%"] {
            let lease = Lease::parse(text).expect(text);
            assert_eq!(lease.to_string(), text);
        }
        for text in [
            "",
            "%",
            "1",
            "0%",
            "0.00%",
            "10.01%",
            "11%",
            "1.%",
            ".5%",
            "0.001%",
            "-1%",
            "+1%",
            "1 percent",
            "65537%",
            "99999999999%",
        ] {
            assert_eq!(Lease::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_of_a_limit_is_rounded_down() {
        let lease = Lease::parse("0.25%").expect("a lease");
        assert_eq!(lease.of(Hits::whole(1000)), Hits::from_thousandths(2500));
        assert_eq!(lease.of(Hits::from_thousandths(399)), Hits::ZERO);
        assert_eq!(
            Lease::MAX.of(Hits::MAX_USED).thousandths(),
            Hits::MAX_USED.thousandths() / 10
        );
    }
}
