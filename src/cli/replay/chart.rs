//! Numbers as blocks of a terminal's characters, and as people read them.

use crate::time::{Micros, Timestamp};

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Numbers as blocks: nothing is a space, and anything is at least the lowest block. There are at most `width`.
pub(super) fn blocks(numbers: &[u64], width: usize) -> String {
    let per_block = numbers.len().div_ceil(width.max(1)).max(1);
    let sums: Vec<u64> = numbers
        .chunks(per_block)
        .map(|chunk| chunk.iter().sum())
        .collect();
    let most = sums.iter().copied().max().unwrap_or_default();
    let block = |sum: &u64| match (*sum, most) {
        (0, _) | (_, 0) => ' ',
        (sum, most) => {
            let place = sum.saturating_mul(BLOCKS.len() as u64).div_ceil(most);
            let place = usize::try_from(place).unwrap_or(1).clamp(1, BLOCKS.len());
            BLOCKS[place - 1]
        }
    };
    sums.iter().map(block).collect()
}

/// `1,234,567`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.37 %`: as many places as tell something.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let places = match percent {
        percent if percent == 0.0 || percent >= 99.995 && share == 1.0 => 0,
        percent if percent >= 1.0 => 2,
        percent if percent >= 0.01 => 3,
        _ => 5,
    };
    format!("{percent:.places$} %")
}

/// `2026-03-06 12:00:00`, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(at.as_micros()) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => at.as_micros().to_string(),
    }
}

/// `90 s`, `5 min`, `3 h`, `2 d`: the largest unit that there is one of, and one more.
pub(super) fn span(span: Micros) -> String {
    let secs = span.get() / 1_000_000;
    let (large, small, of, names) = match secs {
        0 => return format!("{} ms", span.get() / 1000),
        1..60 => return format!("{secs} s"),
        60..3600 => (secs / 60, secs % 60, "s", "min"),
        3600..86_400 => (secs / 3600, secs % 3600 / 60, "min", "h"),
        _ => (secs / 86_400, secs % 86_400 / 3600, "h", "d"),
    };
    match small {
        0 => format!("{large} {names}"),
        small => format!("{large} {names} {small} {of}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(blocks(&[0, 1, 4, 8, 80], 10), " ▁▁▁█");
        assert_eq!(blocks(&[1, 1, 2, 2], 2), "▄█");
        assert_eq!(blocks(&[], 10), "");
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.001_23), "0.123 %");
        assert_eq!(percent(0.000_01), "0.00100 %");
        assert_eq!(
            moment(Timestamp::from_secs(1_772_798_400)),
            "2026-03-06 12:00:00"
        );
        assert_eq!(span(Micros::from_secs(90)), "1 min 30 s");
        assert_eq!(span(Micros::from_secs(86_400)), "1 d");
        assert_eq!(span(Micros::from_millis(12)), "12 ms");
    }
}
