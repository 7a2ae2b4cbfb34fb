//! Envoy's format strings: `%REQ(X-API-KEY)%` and the like.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::request::{Known, Seen, Unknown};

/// A text with commands in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Format {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Command(Command),
}

/// `%NAME(argument):length%`.
#[derive(Clone, Debug, PartialEq)]
struct Command {
    name: String,
    argument: String,
    length: Option<usize>,
}

impl Format {
    /// A text that is what it says.
    pub(super) fn literal(text: &str) -> Self {
        Self {
            parts: vec![Part::Text(text.to_owned())],
        }
    }

    /// A text with commands; none if a `%` has no end.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let end = command_end(after)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Command(Command::read(after.get(..end)?)));
            rest = after.get(end + 1..)?;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Some(Self { parts })
    }

    /// The text, if it has no commands.
    pub(super) fn known(&self) -> Option<String> {
        let text = self.parts.iter().map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Command(_) => None,
        });
        text.collect()
    }

    /// The text for a request: what is not there is nothing.
    pub(super) fn of(&self, seen: &Seen<'_>) -> Known<String> {
        let part = |part: &Part| match part {
            Part::Text(text) => Ok(text.clone()),
            Part::Command(command) => Ok(command.of(seen)?.unwrap_or_default()),
        };
        self.parts.iter().map(part).collect()
    }
}

/// Where the command that begins here ends: at the `%` that is in no brackets.
fn command_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '%' if depth == 0 => return Some(place),
            _ => {}
        }
    }
    None
}

impl Command {
    fn read(text: &str) -> Self {
        let (name, rest) = match text.find('(') {
            Some(place) => text.split_at(place),
            None => match text.split_once(':') {
                Some((name, _)) => text.split_at(name.len()),
                None => (text, ""),
            },
        };
        let (argument, length) = match rest.rsplit_once(')') {
            Some((argument, length)) => (argument.trim_start_matches('('), length),
            None => ("", rest),
        };
        Self {
            name: name.to_owned(),
            argument: argument.to_owned(),
            length: length.trim_start_matches(':').parse().ok(),
        }
    }

    /// Its value; `None` if it is not there.
    fn of(&self, seen: &Seen<'_>) -> Known<Option<String>> {
        let value = self.whole(seen)?;
        Ok(match (value, self.length) {
            (Some(value), Some(length)) => Some(value.chars().take(length).collect()),
            (value, _) => value,
        })
    }

    fn whole(&self, seen: &Seen<'_>) -> Known<Option<String>> {
        let argument = self.argument.as_str();
        match self.name.as_str() {
            "REQ" => header(seen, argument),
            "REQ_WITHOUT_QUERY" => {
                let value = header(seen, argument)?;
                Ok(value.map(|value| without_query(&value)))
            }
            "PATH" => path(seen, argument),
            "QUERY_PARAM" => Ok(seen.query().get(argument)),
            "DYNAMIC_METADATA" => metadata(seen, argument),
            "METADATA" => match argument.strip_prefix("DYNAMIC:") {
                Some(way) => metadata(seen, way),
                None => Err(self.unknown()),
            },
            "COALESCE" => self.coalesce(seen),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => self.address(&seen.remote),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => self.address(&seen.direct),
            "ROUTE_NAME" => Ok(seen.route.and_then(|route| route.name.clone())),
            "VIRTUAL_CLUSTER_NAME" => Ok(None),
            "BYTES_RECEIVED" | "BYTES_SENT" | "RESPONSE_CODE" if !seen.is_done => {
                Ok(Some("0".to_owned()))
            }
            _ => Err(self.unknown()),
        }
    }

    fn unknown(&self) -> Unknown {
        let Self { name, argument, .. } = self;
        let what = match argument.as_str() {
            "" => name.clone(),
            argument => format!("{name}({argument})"),
        };
        Unknown(format!("`%{what}%` is not computed here"))
    }

    fn address(&self, address: &Known<IpAddr>) -> Known<Option<String>> {
        let address = address.clone()?;
        let network = || {
            let length = self.argument.parse().ok()?;
            Some(IpNet::new(address, length).ok()?.trunc().to_string())
        };
        match self.argument.is_empty() {
            true => Ok(Some(address.to_string())),
            false => network().map(Some).ok_or_else(|| self.unknown()),
        }
    }

    /// The first that is there.
    fn coalesce(&self, seen: &Seen<'_>) -> Known<Option<String>> {
        let argument: Json = serde_json::from_str(&self.argument).map_err(|_| self.unknown())?;
        let operators = argument["operators"]
            .as_array()
            .ok_or_else(|| self.unknown())?;
        for operator in operators {
            let text = |name: &str| operator[name].as_str().unwrap_or_default().to_owned();
            let command = Self {
                name: operator
                    .as_str()
                    .map_or_else(|| text("command"), str::to_owned),
                argument: text("param"),
                length: operator["max_length"]
                    .as_u64()
                    .and_then(|n| usize::try_from(n).ok()),
            };
            if let Some(value) = command.of(seen)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// `NAME`, or `NAME?OTHER`.
fn header(seen: &Seen<'_>, names: &str) -> Known<Option<String>> {
    for name in names.split('?') {
        if let Some(value) = seen.headers.first(&name.to_ascii_lowercase())? {
            return Ok(Some(value.to_owned()));
        }
    }
    Ok(None)
}

/// `PATH`, `PATH(NQ)`, `PATH(WQ:ORIG)`: with the query or not; before or after what the filters make of it.
fn path(seen: &Seen<'_>, argument: &str) -> Known<Option<String>> {
    let (query, which) = argument.split_once(':').unwrap_or((argument, ""));
    let before = seen.headers.first("x-envoy-original-path")?;
    let path = match (which, before) {
        ("ORIG" | "ORIG_OR_PATH" | "", Some(before)) => before.to_owned(),
        ("ORIG", None) => return Ok(None),
        (_, _) => seen.path(),
    };
    Ok(Some(match query {
        "NQ" => without_query(&path),
        _ => path,
    }))
}

fn without_query(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

/// `NAMESPACE:KEY:KEY`.
fn metadata(seen: &Seen<'_>, way: &str) -> Known<Option<String>> {
    let mut way = way.split(':').map(str::to_owned);
    let namespace = way.next().unwrap_or_default();
    let way: Vec<String> = way.collect();
    Ok(match seen.metadata(&namespace, &way)? {
        None | Some(Json::Null) => None,
        Some(Json::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    })
}
