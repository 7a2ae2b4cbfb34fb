//! The command line to requests, each the JSON of a `RateLimitRequest`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Value, json};

use super::{Args, Service, http};
use crate::rules::written;

/// The largest request that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What is to be explained.
pub(super) struct Asked {
    pub(super) requests: Vec<Value>,
    /// What Envoy makes of the HTTP request, if it is one.
    pub(super) envoy: Value,
}

pub(super) fn of(args: &Args, service: &Service) -> Result<Asked, String> {
    if let Some(file) = &args.request {
        let text = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let request: Value = serde_json::from_str(&text)
            .map_err(|error| format!("{}: not JSON: {error}", file.display()))?;
        let requests = vec![request];
        return Ok(Asked {
            requests,
            envoy: Value::Null,
        });
    }
    if args.http.envoy.is_some() {
        return http::asked(&args.http, &args.what, args.hits);
    }
    args.http.without_envoy()?;
    if args.what.is_empty() {
        return Err(
            "say which descriptors, as key=value,key=value, or give a --request".to_owned(),
        );
    }
    let domain = match (&args.domain, service) {
        (Some(domain), _) => domain.clone(),
        (None, Service::Offline(offline)) => offline.only_domain()?,
        (None, Service::Live(_)) => return Err("say which --domain it is".to_owned()),
    };
    let descriptors: Result<Vec<Value>, String> =
        args.what.iter().map(|text| descriptor(text)).collect();
    let request = json!({
        "domain": domain,
        "hitsAddend": args.hits.unwrap_or(1),
        "descriptors": descriptors?,
    });
    let requests = vec![request];
    Ok(Asked {
        requests,
        envoy: Value::Null,
    })
}

fn descriptor(text: &str) -> Result<Value, String> {
    let pairs = written::pairs(text).ok_or_else(|| {
        let url = if text.contains("://") {
            ": an HTTP request needs --envoy FILE"
        } else {
            ""
        };
        format!("`{text}` is not written like key=value,key=value{url}")
    })?;
    Ok(json!({"entries": entries(&pairs)}))
}

/// Entries as they stand in the JSON of a request.
pub(super) fn entries(pairs: &[(String, String)]) -> Value {
    let entries = pairs.iter();
    entries
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect()
}

/// A file, or standard input for `-`.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)?,
        false => File::open(path)?
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)?,
    };
    match read as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("larger than {MAX_BYTES} bytes"))),
        false => Ok(text),
    }
}
