//! What is counted, by the names that the reference sends to StatsD.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::kinds::BUCKETS;
use super::labels::{DomainLabel, ErrorLabel, MethodLabel};
use super::rule::RULE_STATS;
use super::{LATENCY_BUCKETS, Metrics, OTHER_DOMAIN};

/// The timer of `ShouldRateLimit`.
pub const RESPONSE_TIME: &str = "ratelimit_server.ShouldRateLimit.response_time";

/// The end of each bucket of [`RESPONSE_TIME`] in milliseconds, the last for all that is beyond, and how many calls were in it.
pub type Times = [(f64, u64); BUCKETS];

impl Metrics {
    /// Every counter that is not at none: its name, and what it has come to in whole hits, calls or loads.
    pub fn stats(&self) -> Vec<(String, u64)> {
        let mut stats = Vec::new();
        let mut add = |name: String, total: u64| {
            if total > 0 {
                stats.push((name, total));
            }
        };
        let series = &self.series;
        for (name, counter) in [
            ("config_load_success", &series.config_load_success),
            ("config_load_error", &series.config_load_error),
            ("global_shadow_mode", &series.global_shadow_mode),
        ] {
            add(format!("ratelimit.service.{name}"), counter.get());
        }
        for err_type in ["redis_error", "service_error"] {
            let counter = series.errors.get(&ErrorLabel { err_type });
            let total = counter.map_or(0, |counter| counter.get());
            let call = "ratelimit.service.call.should_rate_limit";
            add(format!("{call}.{err_type}"), total);
        }
        let grpc_method = "ShouldRateLimit";
        let calls = series.requests.get(&MethodLabel { grpc_method });
        let total = calls.map_or(0, |calls| calls.get());
        let name = "ratelimit_server.ShouldRateLimit.total_requests";
        add(name.to_owned(), total);
        let mut unknown: Vec<String> = self.known_unknowns.lock().iter().cloned().collect();
        unknown.push(OTHER_DOMAIN.to_owned());
        for domain in unknown {
            let prefix = name_of(&[&domain]);
            let counter = series.unknown_domains.get(&DomainLabel { domain });
            let total = counter.map_or(0, |counter| counter.get());
            add(format!("{prefix}.domain_not_found"), total);
        }
        self.rules.each(|domain, rule, thousandths| {
            let prefix = name_of(&[domain, rule]);
            for (stat, total) in RULE_STATS.into_iter().zip(thousandths) {
                add(format!("{prefix}.{stat}"), total / 1000);
            }
        });
        stats
    }

    /// How long calls took.
    pub fn times(&self) -> Times {
        let grpc_method = "ShouldRateLimit";
        let times = self.series.response_time.get(&MethodLabel { grpc_method });
        let counts = times.map_or([0; BUCKETS], |times| times.counts());
        let mut ends = LATENCY_BUCKETS.iter();
        let mut last = 0.0;
        counts.map(|count| {
            // What lies beyond the last end is told as that.
            last = ends.next().map_or(last, |end| end.as_secs_f64() * 1e3);
            (last, count)
        })
    }
}

/// `ratelimit.service.rate_limit` and these, as StatsD can read them.
fn name_of(parts: &[&str]) -> String {
    let mut name = "ratelimit.service.rate_limit".to_owned();
    for part in parts {
        name.push('.');
        clean(part, &mut name);
    }
    name
}

/// Writes `text` without what StatsD takes for the end of a name, or for the next line; the dots of an IPv4 address would look
/// like levels of the name.
fn clean(text: &str, name: &mut String) {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_number(c)).unwrap_or(rest.len());
        let (numbers, after) = rest.split_at(end);
        match numbers.parse::<Ipv4Addr>() {
            Ok(_) => name.push_str(&numbers.replace('.', "_")),
            Err(_) => name.push_str(numbers),
        }
        let end = after.find(is_number).unwrap_or(after.len());
        let (others, after) = after.split_at(end);
        let forbidden = |c: char| matches!(c, ':' | '|' | '#' | '@') || c.is_control();
        // Writing to a String cannot fail.
        let _ = write!(name, "{}", others.replace(forbidden, "_"));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_by_statsd() {
        let cleaned = |text: &str| {
            let mut name = String::new();
            clean(text, &mut name);
            name
        };
        for (text, wanted) in [
            ("user_id.path_/x", "user_id.path_/x"),
            ("a:b|c", "a_b_c"),
            ("remote_address_10.0.0.1", "remote_address_10_0_0_1"),
            ("10.0.0.1.path_1.2.3", "10.0.0.1.path_1.2.3"),
            ("net_10.0.0.0/8", "net_10_0_0_0/8"),
            ("v1.2", "v1.2"),
            ("a\nb:1|c", "a_b_1_c"),
            ("", ""),
        ] {
            assert_eq!(cleaned(text), wanted, "{text}");
        }
    }
}
