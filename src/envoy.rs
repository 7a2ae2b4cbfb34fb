//! Envoy's configuration, as far as it says what Tollgate is asked: HTTP requests to descriptors, and the descriptors that there
//! can be. What is not computed here is said to be so, and never guessed.
//!
//! - `read`: the file to listeners, filters and routes
//! - `routes`, `matching`, `paths`: which route a request takes
//! - `filters`, `mutations`, `jwt`: what filters do to a request on its way
//! - `limits`, `actions`, `format`: what makes a descriptor
//! - `request`: a request, and what is seen of it
//! - `send`: a request to what Tollgate is asked
//! - `shapes`: every descriptor that there can be
//! - `against`: rules held against them
//! - `tree`: looks into the YAML

use std::collections::BTreeMap;

use crate::rules::Override;
use crate::rules::diagnostic::Report;
use crate::rules::file::SourceFile;

mod actions;
mod against;
mod filters;
mod format;
mod jwt;
mod limits;
mod matching;
mod mutations;
mod paths;
mod read;
mod request;
mod routes;
mod send;
mod shapes;
mod tree;

pub use against::{Rules, unfed};
pub use request::{Client, HttpRequest, Known, Unknown};
pub use shapes::{Part, Shape, Shapes};

/// An Envoy configuration.
#[derive(Debug)]
pub struct Configuration {
    /// The file's.
    pub name: String,
    /// What is in it that Envoy takes and that does not do what it says.
    pub warnings: Report,
    managers: Vec<read::Manager>,
    networks: Vec<read::Network>,
    tables: Vec<routes::Table>,
    runtime: Runtime,
}

/// What Tollgate is asked for one HTTP request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// The name of the listener that takes it.
    pub listener: String,
    /// The name of the virtual host.
    pub virtual_host: Option<String>,
    /// The line of the route.
    pub route: Option<usize>,
    /// One for each time that Tollgate is asked, in their order.
    pub calls: Vec<Call>,
    /// Why nobody is asked, or not after some filter.
    pub ends: Option<String>,
    /// What is taken for granted, and what may be otherwise.
    pub notes: Vec<String>,
}

/// One request to Tollgate.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The filter that asks, and its line.
    pub filter: String,
    /// Whose rules are asked for.
    pub domain: String,
    /// It is asked when the response has been sent, and its answer is not looked at.
    pub on_stream_done: bool,
    /// The hits of descriptors that do not say; 0 if nothing is said.
    pub hits_addend: u32,
    /// In their order.
    pub descriptors: Vec<Descriptor>,
    /// Those that are not sent, and why.
    pub dropped: Vec<Dropped>,
    /// Those of which it is not known here, and why.
    pub unknown: Vec<Dropped>,
}

/// A descriptor that is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// Keys and values.
    pub entries: Vec<(String, String)>,
    /// Its own hits.
    pub hits_addend: Option<u64>,
    /// They are given back.
    pub is_negative_hits: bool,
    /// A limit in place of any rule.
    pub limit: Option<Override>,
    /// The line of the `RateLimit`.
    pub line: usize,
}

/// A descriptor that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The line of the `RateLimit`.
    pub line: usize,
    /// Why.
    pub why: String,
}

/// What the static layers of Envoy's runtime say, by key.
#[derive(Clone, Debug, Default)]
struct Runtime(BTreeMap<String, serde_json::Value>);

/// What hangs on the whole configuration, and is needed to read its parts.
#[derive(Clone, Copy, Debug)]
struct Setting<'s> {
    /// A `descriptor_value` may be a format.
    formats: bool,
    /// The name of the cluster that this Envoy is of.
    cluster: Option<&'s str>,
    runtime: &'s Runtime,
}

impl Configuration {
    /// Reads a bootstrap, the answer of the admin interface's `/config_dump`, or a list of resources; in YAML or JSON.
    pub fn read(name: &str, text: &str) -> Result<Self, Report> {
        let file = SourceFile {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        read::read(&file)
    }

    /// The names of its listeners with an HTTP connection manager.
    pub fn listeners(&self) -> Vec<&str> {
        let names = self.managers.iter().map(|manager| manager.name.as_str());
        names.collect()
    }
}

impl Runtime {
    fn number(&self, key: &str) -> Option<u64> {
        let value = self.0.get(key)?;
        let text = || value.as_str()?.parse().ok();
        value.as_u64().or_else(text)
    }

    fn is_on(&self, key: &str) -> bool {
        let value = self.0.get(key);
        value.is_some_and(|value| value == &serde_json::Value::Bool(true) || value == "true")
    }
}
