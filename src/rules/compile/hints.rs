//! What a person most likely meant by a value that its field does not take.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::limit::Unit;
use crate::rules::diagnostic::did_you_mean;

/// What to write in place of `text`, which is no number from 0 to the largest.
pub(super) fn number(name: &str, text: &str) -> Option<String> {
    let is_limit = name == "requests_per_unit";
    let write = |number: u64| Some(format!("write `{name}: {number}`"));
    let digits: String = text.chars().filter(|c| !",_' ".contains(*c)).collect();
    if let Some(whole) = whole(text) {
        return write(whole);
    }
    if is_limit && text.starts_with('-') {
        return Some("for no limit at all write `rate_limit: {unlimited: true}`".to_owned());
    }
    if is_limit
        && ["unlimited", "none", "inf", ".inf", "infinite"].contains(&text.to_lowercase().as_str())
    {
        return Some("write `rate_limit: {unlimited: true}`".to_owned());
    }
    if let Some((number, unit)) = text.split_once('/').filter(|_| is_limit) {
        let number = number.trim().parse::<u32>().ok()?;
        let unit = unit_of(unit.trim())?;
        return Some(format!(
            "write `requests_per_unit: {number}` and `unit: {}`",
            unit.name()
        ));
    }
    if text != digits
        && let Ok(number) = digits.parse::<u32>()
    {
        return write(number.into());
    }
    if let Some(octal) = text
        .strip_prefix('0')
        .filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    {
        let meant = octal.trim_start_matches('0');
        let decimal = if meant.is_empty() { "0" } else { meant };
        return Some(match u64::from_str_radix(octal, 8) {
            Ok(octal) => format!("write `{decimal}`, or `{octal}` if it is meant as octal"),
            Err(_) => format!("write `{decimal}`"),
        });
    }
    let scales = [('k', 1000), ('K', 1000), ('m', 1_000_000), ('M', 1_000_000)];
    for (letter, scale) in scales {
        let number = text
            .strip_suffix(letter)
            .and_then(|text| text.parse::<u64>().ok());
        if let Some(number) = number.and_then(|number| number.checked_mul(scale)) {
            return write(number);
        }
    }
    let fraction: f64 = text.parse().ok()?;
    let every = 1.0 / fraction;
    if is_limit && fraction > 0.0 && fraction < 1.0 {
        let every = (every.fract() < 1e-9).then_some(every);
        return Some(match every {
            Some(every) => format!(
                "1 in {every} units is `requests_per_unit: 1` with `unit_multiplier: {every}`"
            ),
            None => "take a longer `unit`, and more requests for it".to_owned(),
        });
    }
    (is_limit && fraction > f64::from(u32::MAX))
        .then(|| "for no limit at all write `rate_limit: {unlimited: true}`".to_owned())
}

/// A whole number that YAML knows and that is not written in digits alone: `1e3`, `1000.0`, `0x10`.
pub(super) fn whole(text: &str) -> Option<u64> {
    let radix = |mark: &str, radix| u64::from_str_radix(text.strip_prefix(mark)?, radix).ok();
    if let Some(number) = radix("0x", 16)
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0o", 8))
    {
        return Some(number);
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(['.', 'e', 'E']);
    let number: f64 = text.parse().ok().filter(|_| numeric)?;
    // Beyond this not every whole number is one.
    let exact = number.fract() == 0.0 && (0.0..1e15).contains(&number);
    exact.then_some(number as u64)
}

/// What to write in place of `text`, which is no unit; `multiplier` says whether several units can be one window here.
pub(super) fn unit(text: &str, multiplier: bool) -> Option<String> {
    if text.eq_ignore_ascii_case("ms") || text.to_lowercase().contains("milli") {
        return Some("the shortest unit is `second`".to_owned());
    }
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(split);
    let rest = rest.trim_start_matches([' ', '-', '_', '*']);
    let (number, unit) = match (number.parse::<u32>(), rest) {
        (Ok(number), "") => (number, Unit::Second),
        (Ok(number), rest) => (number, unit_of(rest)?),
        (Err(_), "quarter" | "quarterly") => (3, Unit::Month),
        (Err(_), "fortnight") => (2, Unit::Week),
        (Err(_), rest) => (1, unit_of(rest)?),
    };
    let larger = [(3600, Unit::Hour), (60, Unit::Minute), (86_400, Unit::Day)];
    let same = larger
        .into_iter()
        .find(|(secs, _)| unit == Unit::Second && *secs == number);
    let (number, unit) = same.map_or((number, unit), |(_, unit)| (1, unit));
    match (number, multiplier) {
        (1, _) => Some(format!("did you mean `{}`?", unit.name())),
        (0, _) | (_, false) => None,
        (number, true) => Some(format!(
            "write `unit: {}` and `unit_multiplier: {number}`",
            unit.name()
        )),
    }
}

/// The unit that people shorten so.
fn unit_of(text: &str) -> Option<Unit> {
    let text = text.to_lowercase();
    let text = text
        .trim_start_matches("per")
        .trim_start_matches(['_', '-', ' ', '/']);
    let known = match text {
        "s" | "sec" | "secs" | "seconds" => Unit::Second,
        "m" | "min" | "mins" | "minutes" | "minutely" => Unit::Minute,
        "h" | "hr" | "hrs" | "hours" | "hourly" => Unit::Hour,
        "d" | "days" | "daily" => Unit::Day,
        "w" | "wk" | "wks" | "weeks" | "weekly" => Unit::Week,
        "mo" | "mon" | "mth" | "months" | "monthly" => Unit::Month,
        "y" | "yr" | "yrs" | "years" | "yearly" | "annual" | "annually" => Unit::Year,
        text => return did_you_mean(text, Unit::ALL.map(Unit::name))?.parse().ok(),
    };
    Some(known)
}

/// What to write in place of `text`, which is no length of time.
pub(super) fn duration(text: &str) -> Option<String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let unit = unit_of(unit.trim())?;
    let secs = number.parse::<f64>().ok()? * unit.nominal().get() as f64 / 1e6;
    let units = [(86_400.0, 'd'), (3600.0, 'h'), (60.0, 'm'), (1.0, 's')];
    let (length, letter) = units.into_iter().find(|(length, _)| secs % length == 0.0)?;
    (secs > 0.0 && secs < 1e10).then(|| format!("write `{}{letter}`", secs / length))
}

/// What to write in place of `text`, which is no network.
pub(super) fn network(text: &str) -> String {
    let trimmed: String = text.split_whitespace().collect();
    let one = |net: &str| net.parse::<IpNet>().is_ok() || net.parse::<IpAddr>().is_ok();
    let usual = "an address and a prefix length, such as `10.0.0.0/8` or `2001:db8::/32`";
    if text.split([',', ' ', ';']).filter(|net| one(net)).count() > 1 {
        return "one network for each descriptor: repeat the descriptor for each".to_owned();
    }
    if trimmed != text && one(&trimmed) {
        return format!("remove the space: `{trimmed}`");
    }
    if text.contains('%') {
        return "leave out the zone, from the `%` on: a network has none".to_owned();
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    if let (Ok(address), Ok(mask)) = (address.parse::<Ipv4Addr>(), prefix.parse::<Ipv4Addr>()) {
        let bits = u32::from(mask);
        let length = bits.leading_ones();
        if length + bits.trailing_zeros().min(32) >= 32 {
            return match IpNet::new(address.into(), length as u8) {
                Ok(net) => format!("a prefix length, and no mask: `{}`", net.trunc()),
                Err(_) => usual.to_owned(),
            };
        }
    }
    if let (Ok(address), Ok(_)) = (address.parse::<IpAddr>(), prefix.parse::<u32>()) {
        let most = if address.is_ipv4() { 32 } else { 128 };
        return format!(
            "the prefix of such an address is at most {most}: `{address}/{most}` is this one alone"
        );
    }
    let parts: Vec<&str> = address.split('.').collect();
    let known = parts
        .iter()
        .take_while(|part| part.parse::<u8>().is_ok())
        .count();
    let rest_is_open = parts[known..]
        .iter()
        .all(|part| matches!(*part, "" | "*" | "x"));
    if (1..4).contains(&known) && rest_is_open && parts.len() <= 4 {
        let mut bytes = [0; 4];
        for (byte, part) in bytes.iter_mut().zip(&parts[..known]) {
            *byte = part.parse().unwrap_or(0);
        }
        let default = known as u8 * 8;
        let length = prefix
            .parse()
            .ok()
            .filter(|length| *length <= 32)
            .unwrap_or(default);
        if let Ok(net) = IpNet::new(Ipv4Addr::from(bytes).into(), length) {
            return format!("did you mean `{}`?", net.trunc());
        }
    }
    if text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains(':') {
        return "a network, and no host name, is compared: such as `10.0.0.0/8`".to_owned();
    }
    usual.to_owned()
}

/// What to write in place of `name`, which is no time zone.
pub(super) fn zone(name: &str) -> String {
    let usual = "a name of the IANA database, such as `UTC` or `Europe/Berlin`";
    let plain = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let sign = plain.chars().next().filter(|c| "+-".contains(*c));
    let hours: String = plain
        .chars()
        .skip(1)
        .take_while(char::is_ascii_digit)
        .take(2)
        .collect();
    if let (Some(sign), Ok(hours)) = (sign, hours.parse::<u8>())
        && hours <= 14
    {
        // The database has these the other way round.
        let other = if sign == '+' { '-' } else { '+' };
        return format!(
            "a place follows its clock changes, such as `Europe/Berlin`; the same offset all year is `Etc/GMT{other}{hours}`, with the sign turned round"
        );
    }
    let database = jiff::tz::db();
    let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
    match did_you_mean(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => usual.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_guessed() {
        for (text, wanted) in [
            ("min", "did you mean `minute`?"),
            ("PER_MINUTE", "did you mean `minute`?"),
            ("hrs", "did you mean `hour`?"),
            ("minutes", "did you mean `minute`?"),
            ("60", "did you mean `minute`?"),
            (
                "10 seconds",
                "write `unit: second` and `unit_multiplier: 10`",
            ),
            ("5m", "write `unit: minute` and `unit_multiplier: 5`"),
            ("ms", "the shortest unit is `second`"),
            ("quarter", "write `unit: month` and `unit_multiplier: 3`"),
        ] {
            assert_eq!(unit(text, true).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(unit("century", true), None);
    }

    #[test]
    fn numbers_are_guessed() {
        for (text, wanted) in [
            ("1,000", "write `requests_per_unit: 1000`"),
            ("10k", "write `requests_per_unit: 10000`"),
            ("10/s", "write `requests_per_unit: 10` and `unit: second`"),
            (
                "0.5",
                "1 in 2 units is `requests_per_unit: 1` with `unit_multiplier: 2`",
            ),
            ("010", "write `10`, or `8` if it is meant as octal"),
            (
                "-1",
                "for no limit at all write `rate_limit: {unlimited: true}`",
            ),
        ] {
            assert_eq!(
                number("requests_per_unit", text).as_deref(),
                Some(wanted),
                "{text}"
            );
        }
        assert_eq!(number("requests_per_unit", "many"), None);
        for (text, wanted) in [
            ("1e3", Some(1000)),
            ("1000.0", Some(1000)),
            ("0x10", Some(16)),
            ("0.5", None),
            ("5", None),
        ] {
            assert_eq!(whole(text), wanted, "{text}");
        }
    }

    #[test]
    fn times_networks_and_zones_are_guessed() {
        for (text, wanted) in [
            ("1 hour", "write `1h`"),
            ("1.5h", "write `90m`"),
            ("1w", "write `7d`"),
        ] {
            assert_eq!(duration(text).as_deref(), Some(wanted), "{text}");
        }
        for (text, wanted) in [
            (
                "10.0.0.0/255.0.0.0",
                "a prefix length, and no mask: `10.0.0.0/8`",
            ),
            ("10.0.*.*", "did you mean `10.0.0.0/16`?"),
            ("10.0.0", "did you mean `10.0.0.0/24`?"),
            ("10.0.0.0 /8", "remove the space: `10.0.0.0/8`"),
            (
                "10.0.0.0/",
                "an address and a prefix length, such as `10.0.0.0/8` or `2001:db8::/32`",
            ),
        ] {
            assert_eq!(network(text), wanted, "{text}");
        }
        assert_eq!(zone("Europe/Berln"), "did you mean `Europe/Berlin`?");
        assert!(zone("+01:00").contains("`Etc/GMT-1`"));
    }
}
