//! What is said, for people. It is made of the same JSON that machines get, whoever was asked.

use std::fmt::Write;

use serde_json::Value;

use crate::rules::diagnostic::printable;

/// The longest text of a request that is shown on a line, in characters.
const MAX_SHOWN: usize = 120;

/// Colours for a terminal, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

const GOOD: &str = "1;32";
const BAD: &str = "1;31";
const BOLD: &str = "1";
const DIM: &str = "2";

/// All of it.
pub(super) fn of(explained: &Value, colour: bool) -> String {
    let paint = Paint(colour);
    let mut text = String::new();
    envoy(&mut text, &explained["envoy"], paint);
    let requests = list(&explained["requests"]);
    // Of calls with nothing to ask there is no request.
    let calls = list(&explained["envoy"]["calls"]).iter();
    let mut calls = calls.filter(|call| call["descriptors"] != 0);
    for (place, one) in requests.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        if calls
            .next()
            .is_some_and(|call| call["on_stream_done"] == Value::Bool(true))
        {
            line(
                &mut text,
                "After the response, and its answer is not looked at:",
            );
        }
        request(&mut text, one, paint);
    }
    if !requests.is_empty() {
        let asked = &explained["asked"];
        let whence = match asked["live"].as_str() {
            Some(url) => format!("asked {url}: as it stands now; nothing was charged"),
            None => format!(
                "as for subjects that have used nothing yet, at {}",
                word(&asked["at"])
            ),
        };
        line(&mut text, "");
        line(&mut text, &paint.of(DIM, &whence));
    }
    text
}

impl Paint {
    fn of(self, code: &str, text: &str) -> String {
        match self.0 {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// What Envoy makes of an HTTP request.
fn envoy(text: &mut String, envoy: &Value, paint: Paint) {
    if envoy.is_null() {
        return;
    }
    let mut way = vec![format!("listener {}", word(&envoy["listener"]))];
    if let Some(host) = envoy["virtual_host"].as_str() {
        way.push(format!("virtual host {host}"));
    }
    if let Some(route) = envoy["route_line"].as_u64() {
        way.push(format!("route in line {route}"));
    }
    line(
        text,
        &format!("{} {}", paint.of(BOLD, "Envoy:"), way.join(", ")),
    );
    if let Some(ends) = envoy["ends"].as_str() {
        line(text, &format!("  {ends}"));
    }
    for call in list(&envoy["calls"]) {
        let after = match call["on_stream_done"].as_bool() {
            Some(true) => ", after the response",
            Some(false) | None => "",
        };
        let sent = call["descriptors"].as_u64().unwrap_or(0);
        let what = if sent == 1 {
            "descriptor"
        } else {
            "descriptors"
        };
        line(
            text,
            &format!(
                "  {} asks for the domain {}: {sent} {what}{after}",
                word(&call["filter"]),
                word(&call["domain"])
            ),
        );
        for left in list(&call["not_sent"]) {
            line(
                text,
                &format!(
                    "    not sent, line {}: {}",
                    left["line"],
                    word(&left["why"])
                ),
            );
        }
        for left in list(&call["not_known"]) {
            let known = format!(
                "    not known, line {}: {}",
                left["line"],
                word(&left["why"])
            );
            line(text, &paint.of(BAD, &known));
        }
    }
    if list(&envoy["calls"]).is_empty() && envoy["ends"].is_null() {
        line(text, "  no filter asks Tollgate for it");
    }
    for note in list(&envoy["notes"]) {
        line(text, &format!("  note: {}", word(note)));
    }
    text.push('\n');
}

fn request(text: &mut String, one: &Value, paint: Paint) {
    let domain = &one["domain"];
    let passes = one["admitted"].as_bool().unwrap_or_default();
    let verdict = match passes {
        true => paint.of(GOOD, "would pass"),
        false => paint.of(BAD, "would be refused"),
    };
    let reason = reason(&word(&one["reason"]));
    line(
        text,
        &format!(
            "{} {verdict}: {reason}",
            paint.of(BOLD, &format!("{}:", word(&domain["name"])))
        ),
    );
    if domain["known"] == Value::Bool(false) {
        let meant = domain["meant"]
            .as_str()
            .map(|meant| format!("; did you mean `{meant}`?"));
        let said = format!(
            "  the rules have no domain `{}`{}",
            word(&domain["name"]),
            meant.unwrap_or_default()
        );
        line(text, &said);
    }
    if one["cost"] != 1 {
        line(text, &format!("  each hit costs {}", one["cost"]));
    }
    let statuses = list(&one["statuses"]);
    for (place, descriptor) in list(&one["descriptors"]).iter().enumerate() {
        text.push('\n');
        let entries: Vec<String> = list(&descriptor["entries"]).iter().map(pair).collect();
        let name = if entries.is_empty() {
            "(no entries)".to_owned()
        } else {
            entries.join(",")
        };
        line(
            text,
            &format!("  {}", paint.of(BOLD, &printable(&name, MAX_SHOWN))),
        );
        if domain["known"] != Value::Bool(false) {
            way(text, descriptor, paint);
            charges(text, descriptor);
            if let Some(status) = statuses.get(place) {
                self::status(text, status, descriptor, paint);
            }
        }
    }
    answer(text, one, paint);
}

/// What the reason of a decision means.
fn reason(reason: &str) -> String {
    let said = match reason {
        "within_limit" => "it is within its limits",
        "over_limit" => "a limit has no room",
        "never_fits" => "it has more hits than a limit can ever hold",
        "no_rule" => "no rule is for it",
        "unlimited" => "it has no limit, and a rule says so",
        "exempt" => "it costs nothing",
        "allowed" => "the list of the allowed has it",
        "denied" => "the list of the denied has it",
        "banned" => "it is banned",
        "shadowed" => "a limit in shadow mode has no room, and does not refuse",
        other => return other.to_owned(),
    };
    format!("{said} ({reason})")
}

/// Entry by entry to the rule, or to where the search ends.
fn way(text: &mut String, descriptor: &Value, paint: Paint) {
    let entries = list(&descriptor["entries"]);
    let width = entries
        .iter()
        .map(|entry| pair(entry).chars().count())
        .max()
        .unwrap_or(0)
        .min(40);
    let ends = word(&descriptor["ends"]);
    let mut has_ended = false;
    for (place, entry) in entries.iter().enumerate() {
        let found = entry["found"] == Value::Bool(true);
        let said = match (found, has_ended) {
            (true, _) => matched(&entry["matches"]),
            (false, true) => "not looked at".to_owned(),
            (false, false) => {
                has_ended = true;
                let why = missed(&ends, entry, entries.get(place.wrapping_sub(1)));
                paint.of(BAD, &why)
            }
        };
        let name = printable(&pair(entry), MAX_SHOWN);
        line(text, &format!("    {name:width$}  {said}"));
        others(text, entry, found, width);
    }
    if descriptor["brought"] == Value::Bool(true) {
        line(
            text,
            "    the request brings a limit of its own, in place of any rule",
        );
        return;
    }
    match ends.as_str() {
        "rule" => rule(text, &descriptor["rule"]),
        "no_limit" => line(
            text,
            "    no rule: what it matches has no limit, and hides what is less specific",
        ),
        "too_short" => line(
            text,
            "    no rule: what it matches has no limit itself, only with more entries",
        ),
        "no_entries" => line(text, "    no rule: a descriptor without entries has none"),
        "other_key" | "other_value" => line(text, "    no rule, so nothing is charged"),
        _ => line(
            text,
            "    no rule: one is only for descriptors of just its depth",
        ),
    }
    if let Some(hint) = descriptor["hint"].as_str() {
        line(text, &format!("    {} {hint}", paint.of(BOLD, "hint:")));
    }
}

fn matched(matches: &Value) -> String {
    match (word(&matches["key"]), word(&matches["value"])) {
        (key, value) if value.is_empty() => format!("matches any {key}"),
        (key, value) => format!("matches {key}={value}"),
    }
}

fn missed(ends: &str, entry: &Value, before: Option<&Value>) -> String {
    let key = word(&entry["key"]);
    match (ends, before) {
        ("too_long", Some(before)) => {
            format!("too deep: nothing stands below {}", word(&before["key"]))
        }
        ("other_value", _) => format!("no match: `{key}` has other values here"),
        (_, None) => format!("no match: the rules have no `{key}` at the first level"),
        (_, Some(before)) => format!(
            "no match: the rules have no `{key}` below {}",
            word(&before["key"])
        ),
    }
}

/// What else stands where an entry is looked for.
fn others(text: &mut String, entry: &Value, found: bool, width: usize) {
    let all = list(&entry["others"]);
    let of = |why: &'static str| all.iter().filter(move |one| one["why"] == why);
    let named = |one: &Value| match word(&one["value"]).as_str() {
        "" => format!("any {}", word(&one["key"])),
        value => format!("{}={value}", word(&one["key"])),
    };
    let mut told: Vec<String> = if found {
        // Beside what matches, only what could have matched says something.
        let less = of("less_specific");
        less.map(|one| format!("not {}, which comes after it", named(one)))
            .collect()
    } else if of("other_value").next().is_some() {
        of("other_value")
            .map(|one| format!("here is {}", named(one)))
            .collect()
    } else {
        let mut keys: Vec<String> = all.iter().map(|one| word(&one["key"])).collect();
        keys.dedup();
        let keys = keys.iter().map(|key| format!("here is {key}"));
        keys.collect()
    };
    let left_out = entry["others_left_out"].as_u64().unwrap_or(0);
    if !found && left_out > 0 {
        told.push(format!("… and {left_out} more"));
    }
    for said in told {
        line(
            text,
            &format!("    {:width$}  {}", "", printable(&said, MAX_SHOWN)),
        );
    }
}

fn rule(text: &mut String, rule: &Value) {
    let place = match rule["line"].as_u64() {
        Some(0) | None => word(&rule["file"]),
        Some(line) => format!("{}:{line}", word(&rule["file"])),
    };
    let mut marks = String::new();
    for (field, said) in [
        ("unlimited", "without a limit"),
        ("shadow_mode", "in shadow mode: it never refuses"),
        ("quota_mode", "a quota"),
    ] {
        if rule[field] == Value::Bool(true) {
            let _ = write!(marks, ", {said}");
        }
    }
    line(
        text,
        &format!(
            "    rule {} at {place} ({}){marks}",
            word(&rule["name"]),
            word(&rule["path"])
        ),
    );
}

/// What is charged, and where.
fn charges(text: &mut String, descriptor: &Value) {
    let limits = list(&descriptor["limits"]);
    if let Some(plan) = descriptor["plan"].as_str() {
        line(text, &format!("    plan {plan}"));
    }
    let hits = &descriptor["hits"];
    let number = &hits["number"];
    let what = if *number == 1 { "hit" } else { "hits" };
    let does = match hits["kind"].as_str() {
        Some("peek") => "only looks at".to_owned(),
        Some("refund") => format!("gives {number} {what} back to"),
        _ => format!("charges {number} {what} to"),
    };
    for limit in limits {
        let always = match limit["always"] == Value::Bool(true) {
            true => ", also when refused",
            false => "",
        };
        line(
            text,
            &format!(
                "    {does} {}: {}{always}",
                word(&limit["name"]),
                size(limit)
            ),
        );
    }
    for name in list(&descriptor["replaced"]) {
        line(
            text,
            &format!(
                "    not {}: another limit of the request replaces it",
                word(name)
            ),
        );
    }
    let key = &descriptor["key"];
    if let (Some(name), false) = (key["text"].as_str(), limits.is_empty()) {
        let server = key["server"].as_str().map(|server| format!(" on {server}"));
        line(
            text,
            &format!(
                "    in the key {name}, slot {}{}",
                key["slot"],
                server.unwrap_or_default()
            ),
        );
    }
}

/// `10 / minute, token_bucket of 15`.
fn size(limit: &Value) -> String {
    let unit = match limit["unit_multiplier"].as_u64() {
        Some(1) | None => word(&limit["unit"]),
        Some(many) => format!("{many} {}s", word(&limit["unit"])),
    };
    let size = format!("{} / {unit}", limit["requests_per_unit"]);
    match limit["algorithm"].as_str() {
        Some("token_bucket") => format!("{size}, token_bucket of {}", limit["capacity"]),
        Some("sliding_window") => format!("{size}, sliding_window"),
        _ => size,
    }
}

fn status(text: &mut String, status: &Value, descriptor: &Value, paint: Paint) {
    if list(&descriptor["limits"]).is_empty() {
        return;
    }
    let said = match status["admitted"] == Value::Bool(true) {
        true => paint.of(GOOD, &format!("ok: {} left now", status["remaining"])),
        false if never_fits(descriptor) => paint.of(
            BAD,
            "refuses: it has more hits than the limit can ever hold",
        ),
        false => {
            let wait = status["reset_seconds"].as_u64();
            let wait = wait.map(|secs| format!(", room in {secs} s"));
            paint.of(BAD, &format!("refuses{}", wait.unwrap_or_default()))
        }
    };
    line(text, &format!("    {said}"));
}

/// Whether one of the limits has never room for it.
fn never_fits(descriptor: &Value) -> bool {
    let hits = descriptor["hits"]["number"].as_f64().unwrap_or(0.0);
    let limits = list(&descriptor["limits"]).iter();
    let mut capacities = limits.filter_map(|limit| limit["capacity"].as_f64());
    capacities.any(|capacity| hits > capacity)
}

/// What the client would get.
fn answer(text: &mut String, one: &Value, paint: Paint) {
    let headers = list(&one["headers"]);
    if headers.is_empty() && one["body"].is_null() {
        return;
    }
    text.push('\n');
    line(text, &format!("  {}", paint.of(BOLD, "the client is told")));
    for header in headers {
        line(
            text,
            &format!("    {}: {}", word(&header["name"]), word(&header["value"])),
        );
    }
    if let Some(body) = one["body"].as_str() {
        line(text, &format!("    {}", printable(body, 600)));
    }
}

fn pair(entry: &Value) -> String {
    format!("{}={}", word(&entry["key"]), word(&entry["value"]))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text, in which nothing moves a terminal's cursor.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text, 600),
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}
