//! An HTTP request, of which Envoy would make descriptors.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::asked::{Asked, entries, read};
use crate::envoy::{Call, Client, Configuration, Descriptor, Dropped, HttpRequest, Sent};

/// An HTTP request, in flags like those of curl.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct HttpFlags {
    /// An Envoy configuration that makes descriptors of an HTTP request: the bootstrap, or what /config_dump says
    #[arg(long, value_name = "FILE")]
    pub(super) envoy: Option<PathBuf>,
    /// With --envoy: a header of the request, as 'name: value'; again for each
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// With --envoy: where the connection comes from
    #[arg(long, value_name = "ADDRESS")]
    remote_address: Option<IpAddr>,
    /// With --envoy: metadata that filters have set, as namespace:key:key=value; again for each
    #[arg(long, value_name = "WAY=VALUE")]
    metadata: Vec<String>,
    /// With --envoy: the listener that takes it, where there are several
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
}

impl HttpFlags {
    /// The error is a flag that says nothing without an Envoy configuration.
    pub(super) fn without_envoy(&self) -> Result<(), String> {
        let given = [
            ("--header", !self.headers.is_empty()),
            ("--remote-address", self.remote_address.is_some()),
            ("--metadata", !self.metadata.is_empty()),
            ("--listener", self.listener.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(format!(
                "{flag} is of an HTTP request, which needs --envoy FILE"
            )),
            None => Ok(()),
        }
    }
}

/// What Envoy would ask for the request that `what` says.
pub(super) fn asked(
    flags: &HttpFlags,
    what: &[String],
    hits: Option<u32>,
) -> Result<Asked, String> {
    if hits.is_some() {
        return Err("--hits: with --envoy the configuration says how many".to_owned());
    }
    let configuration = configuration(flags)?;
    let request = request(flags, what)?;
    let sent = configuration
        .requests(&request)
        .map_err(|why| format!("what Envoy asks is not known: {why}"))?;
    let mut notes = sent.notes.clone();
    let unknown = sent.calls.iter().flat_map(|call| &call.unknown);
    let unknown: Vec<&str> = unknown.map(|one| one.why.as_str()).collect();
    let is_unknown = |what: &str| unknown.iter().any(|why| why.contains(what));
    if is_unknown("where the request comes from") {
        notes.push("--remote-address says where the request comes from".to_owned());
    }
    if is_unknown("may set the metadata") {
        notes.push("--metadata says what filters have set".to_owned());
    }
    let sent = Sent { notes, ..sent };
    let calls = sent
        .calls
        .iter()
        .filter(|call| !call.descriptors.is_empty());
    Ok(Asked {
        requests: calls.map(message).collect(),
        envoy: shown(&sent),
    })
}

fn configuration(flags: &HttpFlags) -> Result<Configuration, String> {
    let path = flags.envoy.clone().unwrap_or_default();
    let text = read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.display().to_string();
    Configuration::read(&name, &text).map_err(|report| {
        format!("the Envoy configuration cannot be used\n{report}")
            .trim_end()
            .to_owned()
    })
}

/// `GET https://host/path`, as one word or several; without a method it is GET.
fn request(flags: &HttpFlags, what: &[String]) -> Result<HttpRequest, String> {
    let words: Vec<&str> = what
        .iter()
        .flat_map(|word| word.split_whitespace())
        .collect();
    let (method, url) = match words.as_slice() {
        [url] => ("GET", *url),
        [method, url] => (*method, *url),
        _ => {
            return Err(
                "say one HTTP request, such as 'GET https://api.example.com/search'".to_owned(),
            );
        }
    };
    let request = HttpRequest::new(&method.to_uppercase(), url);
    let mut request = request
        .ok_or_else(|| format!("`{url}` is no URL, such as https://api.example.com/search"))?;
    for header in &flags.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("`{header}` is not written like 'name: value'"))?;
        match name.trim().eq_ignore_ascii_case("host") {
            true => request.authority = value.trim().to_owned(),
            false => request
                .headers
                .push((name.trim().to_owned(), value.trim().to_owned())),
        }
    }
    request.client = flags
        .remote_address
        .map_or(Client::Unknown, Client::Connection);
    request.listener = flags.listener.clone();
    for one in &flags.metadata {
        put(&mut request.metadata, one)
            .ok_or_else(|| format!("`{one}` is not written like namespace:key:key=value"))?;
    }
    Ok(request)
}

/// Puts `namespace:key:key=value` in its place.
fn put(metadata: &mut Map<String, Value>, text: &str) -> Option<()> {
    let (way, value) = text.split_once('=')?;
    let mut way = way.split(':').collect::<Vec<_>>();
    let last = way.pop()?;
    if way.is_empty() || last.is_empty() {
        return None;
    }
    let mut place = metadata;
    for name in way {
        let next = place
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
        place = next.as_object_mut()?;
    }
    place.insert(last.to_owned(), value.into());
    Some(())
}

/// A call as the JSON of a `RateLimitRequest`.
fn message(call: &Call) -> Value {
    json!({
        "domain": call.domain,
        "hitsAddend": call.hits_addend,
        "descriptors": call.descriptors.iter().map(descriptor).collect::<Vec<_>>(),
    })
}

fn descriptor(descriptor: &Descriptor) -> Value {
    let mut message = json!({"entries": entries(&descriptor.entries)});
    if let Some(hits) = descriptor.hits_addend {
        message["hitsAddend"] = hits.to_string().into();
    }
    if descriptor.is_negative_hits {
        message["isNegativeHits"] = true.into();
    }
    if let Some(limit) = descriptor.limit {
        message["limit"] = json!({
            "requestsPerUnit": limit.requests_per_unit,
            "unit": limit.unit.name().to_uppercase(),
        });
    }
    message
}

/// What Envoy makes of the request.
fn shown(sent: &Sent) -> Value {
    let left = |left: &[Dropped]| -> Value {
        left.iter()
            .map(|one| json!({"line": one.line, "why": one.why}))
            .collect()
    };
    let call = |call: &Call| {
        json!({
            "filter": call.filter,
            "domain": call.domain,
            "on_stream_done": call.on_stream_done,
            "descriptors": call.descriptors.len(),
            "lines": call.descriptors.iter().map(|one| one.line).collect::<Vec<_>>(),
            "not_sent": left(&call.dropped),
            "not_known": left(&call.unknown),
        })
    };
    json!({
        "listener": sent.listener,
        "virtual_host": sent.virtual_host,
        "route_line": sent.route,
        "calls": sent.calls.iter().map(call).collect::<Vec<_>>(),
        "ends": sent.ends,
        "notes": sent.notes,
    })
}
