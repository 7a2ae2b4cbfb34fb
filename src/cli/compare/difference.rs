//! What it means that two answers to one request differ.

use crate::grpc::wire::{OVER_LIMIT, RateLimitRequest, RateLimitResponse};
use crate::limit::Unit;

/// What a service came to: an answer, or why there is none.
pub type Asked = Result<RateLimitResponse, String>;

/// The longest request that is shown, in characters.
const LONGEST: usize = 300;

/// In what two answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only one service answers.
    Failure,
    /// One refuses what the other lets pass.
    Code,
    /// The limit that decided has another number or another unit, or is there only once.
    Limit,
    /// What remains, by more than is tolerated.
    Remaining,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Failure, Kind::Code, Kind::Limit, Kind::Remaining];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Failure => "failure",
            Kind::Code => "code",
            Kind::Limit => "limit",
            Kind::Remaining => "remaining",
        }
    }
}

/// Where the answers differ, each with a text for people; nothing if they agree. What remains may differ by `tolerance` hits.
pub fn differences(old: &Asked, new: &Asked, tolerance: u32) -> Vec<(Kind, String)> {
    let (old, new) = match (old, new) {
        (Ok(old), Ok(new)) => (old, new),
        (Ok(_), Err(error)) => return vec![(Kind::Failure, format!("old answers, new {error}"))],
        (Err(error), Ok(_)) => return vec![(Kind::Failure, format!("old {error}, new answers"))],
        (Err(_), Err(_)) => return Vec::new(),
    };
    let mut found = Vec::new();
    let mut compare = |kind, place: &str, old: String, new: String| {
        if old != new {
            found.push((kind, format!("{place}: old {old}, new {new}")));
        }
    };
    let code = |code: i32| match code == OVER_LIMIT {
        true => "OVER_LIMIT".to_owned(),
        false => "OK".to_owned(),
    };
    let overall = (code(old.overall_code), code(new.overall_code));
    compare(Kind::Code, "overall", overall.0, overall.1);
    let count = |response: &RateLimitResponse| format!("{} statuses", response.statuses.len());
    if !tells_the_whole_only(old) {
        compare(Kind::Code, "answer", count(old), count(new));
    }
    let pairs = old.statuses.iter().zip(&new.statuses);
    for (index, (old, new)) in pairs.enumerate() {
        let place = format!("descriptor {index}");
        compare(Kind::Code, &place, code(old.code), code(new.code));
        let limit = |number: u32, unit: i32| format!("{number} per {}", unit_name(unit));
        let of = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
        let limits = [old, new].map(|status| {
            let current = status.current_limit.as_ref();
            of(current.map(|current| limit(current.requests_per_unit, current.unit)))
        });
        let [of_old, of_new] = limits;
        compare(Kind::Limit, &place, of_old, of_new);
        if old.limit_remaining.abs_diff(new.limit_remaining) > tolerance {
            let (old, new) = (old.limit_remaining, new.limit_remaining);
            compare(Kind::Remaining, &place, old.to_string(), new.to_string());
        }
    }
    found
}

/// Whether nothing is said of the descriptors: Envoy needs no more than the whole, and Limitador tells no more.
pub fn tells_the_whole_only(answer: &RateLimitResponse) -> bool {
    answer.statuses.is_empty()
}

/// A request in a line.
pub fn short(request: &RateLimitRequest) -> String {
    let descriptors = request.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        let entries = entries.map(|entry| format!("{}={}", entry.key, entry.value));
        format!("[{}]", entries.collect::<Vec<_>>().join(","))
    });
    let text = format!(
        "{} {}",
        request.domain,
        descriptors.collect::<Vec<_>>().join(" ")
    );
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// As both services number units.
fn unit_name(number: i32) -> String {
    let unit = match number {
        1 => Unit::Second,
        2 => Unit::Minute,
        3 => Unit::Hour,
        4 => Unit::Day,
        5 => Unit::Month,
        6 => Unit::Year,
        7 => Unit::Week,
        _ => return format!("unit {number}"),
    };
    unit.name().to_owned()
}
