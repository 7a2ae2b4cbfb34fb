//! What an Envoy of a given configuration asked for the request of a line.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::Value;

use super::{Question, Template, Without, field, text_of};
use crate::cli::replay::chart::number;
use crate::cli::replay::failed;
use crate::envoy::{Client, Configuration, HttpRequest};

/// Where the parts of a request are: the first of each that a line has.
const METHODS: [&str; 3] = ["method", "request_method", ":method"];
const PATHS: [&str; 3] = ["path", "request_path", ":path"];
const AUTHORITIES: [&str; 4] = ["authority", "host", "request_authority", ":authority"];
const ADDRESSES: [&str; 5] = [
    "address",
    "remote_address",
    "client_address",
    "client_ip",
    "downstream_remote_address",
];

/// The largest configuration, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// An Envoy's configuration, and what could not be told with it.
pub(super) struct Gateway {
    configuration: Configuration,
    /// How many descriptors may have been sent that are not known.
    unknown: u64,
    /// Why the first is not.
    why: String,
}

impl Gateway {
    /// Reads the configuration.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let size = std::fs::metadata(path)
            .map_err(|error| failed(path, &error))?
            .len();
        if size > MAX_BYTES {
            return Err(failed(
                path,
                &format!("it is larger than {MAX_BYTES} bytes"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(path, &error))?;
        let name = path.display().to_string();
        let read = Configuration::read(&name, &text);
        let configuration =
            read.map_err(|report| format!("the configuration has errors\n{report}"))?;
        Ok(Self {
            configuration,
            unknown: 0,
            why: String::new(),
        })
    }

    /// What Tollgate was asked.
    pub(super) fn questions(
        &mut self,
        line: &Value,
        headers: &[Template],
    ) -> Result<Vec<Question>, Without> {
        let sent = self.configuration.requests(&request(line, headers)?);
        let sent = sent.map_err(|unknown| Without::Sense(unknown.to_string()))?;
        let mut questions = Vec::with_capacity(sent.calls.len());
        let asked = !sent.calls.is_empty();
        for call in sent.calls {
            if let Some(first) = call.unknown.first() {
                if self.unknown == 0 {
                    self.why.clone_from(&first.why);
                }
                self.unknown += call.unknown.len() as u64;
            }
            if !call.descriptors.is_empty() {
                questions.push(Question {
                    domain: call.domain,
                    hits_addend: call.hits_addend,
                    descriptors: call.descriptors,
                });
            }
        }
        match (questions.is_empty(), asked) {
            (false, _) => Ok(questions),
            (true, true) => Err(Without::Descriptors),
            (true, false) => Err(Without::Question),
        }
    }

    /// What people should know of it.
    pub(super) fn note(&self) -> Option<String> {
        let (count, why) = (number(self.unknown), &self.why);
        (self.unknown > 0).then(|| {
            format!(
                "{count} descriptors may have been sent that are not replayed; the first: {why}"
            )
        })
    }
}

/// The request of a line.
fn request(line: &Value, headers: &[Template]) -> Result<HttpRequest, Without> {
    let first = |names: &[&str]| names.iter().find_map(|name| text_of(field(line, name)?));
    let path = first(&PATHS).ok_or_else(|| {
        let names = PATHS.join(", ");
        Without::Sense(format!("it has no path: none of {names} is there"))
    })?;
    let mut all: Vec<(String, String)> = Vec::new();
    if let Some(Value::Object(logged)) = field(line, "headers") {
        let logged = logged.iter();
        all.extend(logged.filter_map(|(name, value)| Some((name.clone(), text_of(value)?))));
    }
    all.extend(
        headers
            .iter()
            .filter_map(|header| header.of(line))
            .flatten(),
    );
    Ok(HttpRequest {
        method: first(&METHODS).unwrap_or_else(|| "GET".to_owned()),
        scheme: first(&["scheme"]).unwrap_or_else(|| "http".to_owned()),
        authority: first(&AUTHORITIES).unwrap_or_default(),
        path,
        headers: all,
        client: first(&ADDRESSES).map_or(Client::Unknown, |address| client(&address)),
        ..HttpRequest::default()
    })
}

/// An address, with a port or without.
fn client(address: &str) -> Client {
    let with_port = address.parse::<SocketAddr>().map(|address| address.ip());
    let address = address.parse::<IpAddr>().or(with_port);
    address.map_or(Client::Unknown, Client::Trusted)
}
