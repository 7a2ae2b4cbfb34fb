//! Tests as they are written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A test: steps from one moment on, with counters that nobody has used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Test {
    /// For people.
    pub(super) name: String,
    /// Whose rules apply; may be left out where there is one domain.
    pub(super) domain: Option<String>,
    /// When it begins; by default at [`BEGIN`].
    #[serde(default = "begin")]
    pub(super) at: String,
    /// One after the other.
    pub(super) steps: Vec<Step>,
}

/// One of `request`, `advance` and `plan`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// The descriptors, as `key=value,key=value`: one, or a list.
    pub(super) request: Option<Descriptors>,
    /// The hits of a request.
    pub(super) hits: Option<u32>,
    /// How many such requests come one after the other; what is expected holds for each of them.
    pub(super) times: Option<u32>,
    /// What is expected of a request: those fields of [`play`](super::play)'s answer that are named here.
    pub(super) expect: Option<Map<String, Value>>,
    /// How much time passes: `90s`, `15m`, `1h` or `31d`.
    pub(super) advance: Option<String>,
    /// Subjects, as `key=value`, and the plans that they are given.
    pub(super) plan: Option<BTreeMap<String, String>>,
}

/// One descriptor or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Descriptors {
    /// As most requests have.
    One(String),
    /// In the request's order.
    Several(Vec<String>),
}

/// A Thursday.
const BEGIN: &str = "2026-01-01T00:00:00Z";

fn begin() -> String {
    BEGIN.to_owned()
}

impl Descriptors {
    /// In the request's order.
    pub(super) fn all(&self) -> &[String] {
        match self {
            Descriptors::One(one) => std::slice::from_ref(one),
            Descriptors::Several(several) => several,
        }
    }
}
