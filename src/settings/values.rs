//! Values as they are written in variables and flags.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration in Go's syntax, such as `1h30m` or `10ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}

/// Reads a share from 0 to 1.
pub fn ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("not a number from 0 to 1".to_owned()),
    }
}

/// Reads a share that is more than nothing.
pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("not a number above 0 and at most 1".to_owned()),
    }
}

/// Reads a number from 0 on.
pub fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor >= 0.0 && factor.is_finite() => Ok(factor),
        _ => Err("not a number from 0 on".to_owned()),
    }
}

/// The largest message, in bytes: what the rules may have together.
const LARGEST_MESSAGE: usize = 256 << 20;

/// The largest message of gRPC by default, in bytes.
const USUAL_MESSAGE: usize = 4 << 20;

/// Reads the largest size of a message, in bytes; nothing and 0 are gRPC's own.
pub fn bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Ok(USUAL_MESSAGE),
        Ok(size) if size <= LARGEST_MESSAGE => Ok(size),
        Err(_) if text.is_empty() => Ok(USUAL_MESSAGE),
        Ok(_) | Err(_) => Err(format!("not a number of bytes up to {LARGEST_MESSAGE}")),
    }
}

/// The longest duration, 100 years: added to any moment it still is one.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads a duration as Go's `time.ParseDuration` does, up to 100 years.
pub fn duration(text: &str) -> Result<Span, String> {
    let wrong = || "not a duration such as 10ms, 5s or 1h30m".to_owned();
    if text == "0" {
        return Ok(Span(Duration::ZERO));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_ends = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, after) = rest.split_at(number_ends);
        let unit_ends = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        if total > LONGEST {
            return Err("longer than 100 years".to_owned());
        }
        rest = after;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(Span(total))
    }
}

/// Reads how often something is done: a duration above none.
pub fn period(text: &str) -> Result<Span, String> {
    match duration(text)? {
        Span(Duration::ZERO) => Err("not longer than no time".to_owned()),
        period => Ok(period),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let millis = |text: &str| duration(text).map(|span| span.0.as_millis());
        assert_eq!(millis("10ms"), Ok(10));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("0"), Ok(0));
        for wrong in [
            "",
            "10",
            "s",
            "-5s",
            "1d",
            "1..5s",
            "99999999999999999999h",
            "876001h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_of_messages_are_bounded() {
        assert_eq!(bytes(""), Ok(4_194_304));
        assert_eq!(bytes("0"), Ok(4_194_304));
        assert_eq!(bytes("268435456"), Ok(268_435_456));
        for wrong in ["268435457", "-1", "4M"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret: Secret = "hunter2".parse().unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
