//! The actions of a `RateLimit`, each of which makes an entry of a descriptor, or none.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::Setting;
use super::format::Format;
use super::matching::{Header, Parameter};
use super::request::{Known, Seen, Unknown};
use super::tree::{self, Tree, at, field, fields, is_named, scalar};
use crate::rules::file::Node;

/// What makes an entry.
#[derive(Clone, Debug)]
pub(super) struct Action {
    /// Where it stands.
    pub(super) line: usize,
    /// The key of the entry.
    pub(super) key: String,
    /// Without a value there is no entry, and the others are sent nevertheless.
    pub(super) skip: bool,
    pub(super) of: Of,
}

/// Where the value comes from.
#[derive(Clone, Debug)]
pub(super) enum Of {
    SourceCluster(Option<String>),
    DestinationCluster,
    RequestHeader(String),
    RemoteAddress,
    MaskedAddress {
        v4: u8,
        v6: u8,
    },
    AddressMatch {
        nets: Vec<IpNet>,
        invert: bool,
        value: Value,
    },
    Generic(Value),
    HeaderMatch {
        headers: Vec<Header>,
        expected: bool,
        value: Value,
    },
    Query(String),
    QueryMatch {
        parameters: Vec<Parameter>,
        expected: bool,
        value: Value,
    },
    Metadata {
        source: Source,
        way: Way,
        default: Option<String>,
    },
    /// What is not computed here, and why.
    Unknown(String),
}

/// A `descriptor_value`, which may be a format.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) format: Format,
    pub(super) default: Option<String>,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Dynamic,
    Route,
    /// Of the upstream's cluster, or its host: not computed here.
    Upstream,
}

/// A `MetadataKey`.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    pub(super) namespace: String,
    pub(super) path: Vec<String>,
}

/// What an action comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Entry(String, String),
    /// No entry, and the descriptor goes on without it.
    Skipped,
    /// No descriptor, and why.
    Dropped(String),
}

impl Action {
    /// Reads one of the list `actions`.
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let mut known = fields(node).filter_map(|(name, node)| {
            let kind = KINDS.iter().find(|kind| is_named(name, kind))?;
            Some((*kind, node))
        });
        let Some((kind, body)) = known.next() else {
            let name = fields(node).next().map_or("nothing", |(name, _)| name);
            let why = format!("the action `{name}` is not known here");
            return Self {
                line: node.span.line,
                key: String::new(),
                skip: false,
                of: Of::Unknown(why),
            };
        };
        let (default_key, of) = Of::read(tree, kind, body, setting);
        let own_key = match kind {
            "extension" => extension_key(body),
            _ => tree.text(body, "descriptor_key"),
        };
        let own_key = own_key.filter(|key| !key.is_empty());
        if own_key.is_none() && default_key.is_empty() && kind != "extension" {
            tree.error(body, format!("`{kind}` has no `descriptor_key`"));
        }
        Self {
            line: body.span.line,
            key: own_key.unwrap_or_else(|| default_key.to_owned()),
            skip: tree.is_on(body, "skip_if_absent"),
            of,
        }
    }

    /// What it comes to for a request.
    pub(super) fn of(&self, seen: &Seen<'_>) -> Known<Made> {
        let value = match self.of.value(seen)? {
            Ok(value) => value,
            Err(_) if self.skip => return Ok(Made::Skipped),
            Err(why) => return Ok(Made::Dropped(format!("line {}: {why}", self.line))),
        };
        Ok(Made::Entry(self.key.clone(), value))
    }
}

const KINDS: [&str; 13] = [
    "source_cluster",
    "destination_cluster",
    "request_headers",
    "remote_address",
    "masked_remote_address",
    "remote_address_match",
    "generic_key",
    "header_value_match",
    "query_parameters",
    "query_parameter_value_match",
    "metadata",
    "dynamic_metadata",
    "extension",
];

impl Of {
    /// The key without a `descriptor_key`, and where the value comes from.
    fn read(
        tree: &mut Tree<'_>,
        kind: &'static str,
        node: &Node<'_>,
        setting: Setting<'_>,
    ) -> (&'static str, Self) {
        let value = |tree: &mut Tree<'_>| Value::read(tree, node, setting);
        let expected = |tree: &mut Tree<'_>| tree.switch(node, "expect_match").unwrap_or(true);
        match kind {
            "source_cluster" => (kind, Of::SourceCluster(setting.cluster.map(str::to_owned))),
            "destination_cluster" => (kind, Of::DestinationCluster),
            "request_headers" => {
                let name = tree.text(node, "header_name").unwrap_or_default();
                ("", Of::RequestHeader(name.to_ascii_lowercase()))
            }
            "remote_address" => (kind, Of::RemoteAddress),
            "masked_remote_address" => {
                let mut length = |name, most: u8| {
                    let length = tree.number(node, name).map(u8::try_from);
                    length
                        .and_then(Result::ok)
                        .filter(|n| *n <= most)
                        .unwrap_or(most)
                };
                let (v4, v6) = (
                    length("v4_prefix_mask_len", 32),
                    length("v6_prefix_mask_len", 128),
                );
                (kind, Of::MaskedAddress { v4, v6 })
            }
            "remote_address_match" => {
                let matcher = field(node, "address_matcher");
                let nets = matcher.map(|node| networks(tree, node, "ranges"));
                let invert = matcher.is_some_and(|node| tree.is_on(node, "invert_match"));
                let (nets, value) = (nets.unwrap_or_default(), value(tree));
                (
                    kind,
                    Of::AddressMatch {
                        nets,
                        invert,
                        value,
                    },
                )
            }
            "generic_key" => (kind, Of::Generic(value(tree))),
            "header_value_match" => {
                let headers = Header::read_all(tree, node);
                let (expected, value) = (expected(tree), value(tree));
                (
                    "header_match",
                    Of::HeaderMatch {
                        headers,
                        expected,
                        value,
                    },
                )
            }
            "query_parameters" => {
                let name = tree.text(node, "query_parameter_name");
                ("", Of::Query(name.unwrap_or_default()))
            }
            "query_parameter_value_match" => {
                let parameters = Parameter::read_all(tree, node);
                let (expected, value) = (expected(tree), value(tree));
                (
                    "query_match",
                    Of::QueryMatch {
                        parameters,
                        expected,
                        value,
                    },
                )
            }
            "metadata" | "dynamic_metadata" => ("", Of::metadata(tree, node)),
            _ => ("", Of::Unknown(extension_name(node))),
        }
    }

    fn metadata(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let source = match tree.text(node, "source").as_deref() {
            None | Some("DYNAMIC") => Source::Dynamic,
            Some("ROUTE_ENTRY") => Source::Route,
            Some(_) => Source::Upstream,
        };
        Of::Metadata {
            source,
            way: field(node, "metadata_key")
                .map(Way::read)
                .unwrap_or_default(),
            default: tree
                .text(node, "default_value")
                .filter(|text| !text.is_empty()),
        }
    }

    /// The value, or why there is none.
    fn value(&self, seen: &Seen<'_>) -> Known<Result<String, String>> {
        let matched =
            |matched: Known<bool>, expected: bool, value: &Value, what: &str| match matched?
                == expected
            {
                true => value.of(seen),
                false if expected => Ok(Err(format!("{what} do not match"))),
                false => Ok(Err(format!("{what} match, and must not"))),
            };
        match self {
            Of::SourceCluster(Some(name)) => Ok(Ok(name.clone())),
            Of::SourceCluster(None) => Err(Unknown::new(
                "`node.cluster` is not in the file: `--service-cluster` may say it",
            )),
            Of::DestinationCluster => match seen.route {
                Some(route) => route.cluster.name(seen).map(Ok),
                None => Ok(Err("there is no route".to_owned())),
            },
            Of::RequestHeader(name) => {
                let value = seen.headers.first(name)?;
                let value = value.map(str::to_owned);
                Ok(value.ok_or_else(|| format!("the request has no header `{name}`")))
            }
            Of::RemoteAddress => Ok(Ok(seen.remote.clone()?.to_string())),
            Of::MaskedAddress { v4, v6 } => Ok(Ok(masked(seen.remote.clone()?, *v4, *v6))),
            Of::AddressMatch {
                nets,
                invert,
                value,
            } => {
                let address = seen.remote.clone()?;
                let inside = nets.iter().any(|net| net.contains(&address));
                matched(Ok(inside), !invert, value, "the address and the ranges")
            }
            Of::Generic(value) => value.of(seen),
            Of::HeaderMatch {
                headers,
                expected,
                value,
            } => {
                let all = Header::all_match(headers, seen);
                matched(all, *expected, value, "the headers")
            }
            Of::Query(name) => {
                let value = seen.query().get(name);
                Ok(value.ok_or_else(|| format!("the query has no `{name}`")))
            }
            Of::QueryMatch {
                parameters,
                expected,
                value,
            } => {
                let all = Parameter::all_match(parameters, seen);
                matched(all, *expected, value, "the query parameters")
            }
            Of::Metadata {
                source,
                way,
                default,
            } => {
                let value = way.text(*source, seen)?.or_else(|| default.clone());
                Ok(value.ok_or_else(|| format!("the metadata `{way}` has no text")))
            }
            Of::Unknown(why) => Err(Unknown(why.clone())),
        }
    }
}

impl Value {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let text = tree.text(node, "descriptor_value").unwrap_or_default();
        let default = tree
            .text(node, "default_value")
            .filter(|text| !text.is_empty());
        let parsed = Format::parse(&text);
        let has_commands = parsed
            .as_ref()
            .is_none_or(|format| format.known().is_none());
        let value = field(node, "descriptor_value");
        if let (true, false, Some(value)) = (has_commands, setting.formats, value) {
            tree.warn(
                value,
                &format!("`{text}` is sent as it stands here: its `%…%` is not replaced"),
                "put `envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value: true` into a static layer of `layered_runtime`",
            );
        }
        let format = match parsed {
            Some(format) if setting.formats => format,
            Some(_) | None => Format::literal(&text),
        };
        Self { format, default }
    }

    fn of(&self, seen: &Seen<'_>) -> Known<Result<String, String>> {
        let text = self.format.of(seen)?;
        let text = Some(text).filter(|text| !text.is_empty());
        let text = text.or_else(|| self.default.clone());
        Ok(text.ok_or_else(|| "nothing of `descriptor_value` is there".to_owned()))
    }
}

impl Way {
    pub(super) fn read(node: &Node<'_>) -> Self {
        let name = |node: &Node<'_>| field(node, "key").and_then(scalar).map(str::to_owned);
        let path = match field(node, "path").map(|node| &node.value) {
            Some(crate::rules::file::Value::List(items)) => items.as_slice(),
            Some(_) | None => &[],
        };
        Self {
            namespace: name(node).unwrap_or_default(),
            path: path.iter().filter_map(name).collect(),
        }
    }

    /// A text, which is all that may be a value, and not an empty one.
    fn text(&self, source: Source, seen: &Seen<'_>) -> Known<Option<String>> {
        let found = match source {
            Source::Dynamic => seen.metadata(&self.namespace, &self.path)?,
            Source::Route => seen.route.and_then(|route| self.find(&route.metadata)),
            Source::Upstream => {
                return Err(Unknown(format!(
                    "the metadata `{self}` is that of the upstream, which is not computed here"
                )));
            }
        };
        let text = found.and_then(Json::as_str).filter(|text| !text.is_empty());
        Ok(text.map(str::to_owned))
    }

    /// What stands there in `filter_metadata`.
    pub(super) fn find<'m>(&self, metadata: &'m Json) -> Option<&'m Json> {
        let found = metadata.get(&self.namespace);
        self.path
            .iter()
            .try_fold(found?, |value, name| value.get(name))
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.namespace)?;
        self.path.iter().try_for_each(|name| write!(f, ":{name}"))
    }
}

/// A list of `CidrRange`s.
pub(super) fn networks(tree: &mut Tree<'_>, node: &Node<'_>, name: &str) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for range in tree.list(node, name) {
        let address = tree.text(range, "address_prefix").unwrap_or_default();
        let address = address.parse::<IpAddr>().ok();
        let length = tree.number(range, "prefix_len").unwrap_or(0);
        let net = address.zip(u8::try_from(length).ok());
        match net.and_then(|(address, length)| IpNet::new(address, length).ok()) {
            Some(net) => nets.push(net.trunc()),
            None => tree.error(
                range,
                "not a network: an `address_prefix` and a `prefix_len`",
            ),
        }
    }
    nets
}

fn masked(address: IpAddr, v4: u8, v6: u8) -> String {
    let length = if address.is_ipv4() { v4 } else { v6 };
    match IpNet::new(address, length) {
        Ok(net) => net.trunc().to_string(),
        Err(_) => address.to_string(),
    }
}

/// The key that an extension says it makes.
fn extension_key(node: &Node<'_>) -> Option<String> {
    let key = at(node, &["typed_config", "descriptor_key"]).and_then(tree::scalar);
    key.map(str::to_owned)
}

fn extension_name(node: &Node<'_>) -> String {
    let name = field(node, "name")
        .and_then(scalar)
        .unwrap_or("without a name");
    format!("the extension `{name}` is not computed here")
}
