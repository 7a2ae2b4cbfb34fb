//! How long to wait before the next attempt.

use std::time::Duration;

/// The shortest wait, whatever is set: what fails at once is not tried without end.
const LEAST: Duration = Duration::from_millis(10);

/// What is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The first wait after a stream that was answered has ended.
    pub initial: Duration,
    /// The first wait after an attempt to connect has failed.
    pub connect: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The share of a wait by which it is longer or shorter, from 0 to 1; 0 for none.
    pub jitter: f64,
}

/// Waits that double from one failure to the next, up to a bound, and vary, so that many instances do not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    settings: Settings,
    /// Without variation.
    next: Duration,
}

impl Backoff {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            next: settings.connect,
        }
    }

    /// The wait after one more failure; `answered` if the server had answered before; `random` from 0 to 1.
    pub(super) fn next(&mut self, answered: bool, random: f64) -> Duration {
        let Settings { max, jitter, .. } = self.settings;
        if answered {
            self.next = self.settings.initial;
        }
        let wait = self.next.max(LEAST).min(max);
        self.next = wait.saturating_mul(2);
        let factor = 1.0 + jitter.clamp(0.0, 1.0) * (2.0 * random - 1.0);
        wait.mul_f64(factor).min(max).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        initial: Duration::from_secs(10),
        connect: Duration::from_secs(3),
        max: Duration::from_secs(60),
        jitter: 0.5,
    };

    fn secs(backoff: &mut Backoff, answered: bool, random: f64) -> f64 {
        backoff.next(answered, random).as_secs_f64()
    }

    #[test]
    fn waits_double_up_to_the_bound_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::new(SETTINGS);
        let waits: Vec<f64> = (0..7).map(|_| secs(&mut backoff, false, 0.5)).collect();
        assert_eq!(waits, [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]);
        assert_eq!(secs(&mut backoff, true, 0.5), 10.0);
        assert_eq!(secs(&mut backoff, false, 0.5), 20.0);
        for _ in 0..100 {
            assert!(secs(&mut backoff, false, 0.5) <= 60.0);
        }
    }

    #[test]
    fn waits_vary_within_their_share_and_are_never_nothing() {
        let wait = |random| Backoff::new(SETTINGS).next(true, random).as_secs_f64();
        assert_eq!([wait(0.0), wait(0.25), wait(1.0)], [5.0, 7.5, 15.0]);
        let none = Settings {
            jitter: 0.0,
            ..SETTINGS
        };
        assert_eq!(Backoff::new(none).next(true, 0.0), SETTINGS.initial);
        let all = Settings {
            jitter: 7.0,
            ..SETTINGS
        };
        assert_eq!(Backoff::new(all).next(true, 0.0), LEAST);
        assert_eq!(Backoff::new(all).next(true, 1.0).as_secs(), 20);
    }
}
