//! The HTTP filters of a connection manager, and what routes say of them.

use serde_json::Value as Json;

use super::format::Format;
use super::jwt::Jwt;
use super::limits::{Place, RateLimit};
use super::mutations::Mutations;
use super::request::Seen;
use super::tree::{Tree, at, field, fields, is_type, json, scalar};
use super::{Runtime, Setting};
use crate::rules::file::Node;

/// What every one of Envoy's own HTTP filters' types begins with.
const HTTP: &str = "envoy.extensions.filters.http.";
/// The object that is the hits of a request.
const HITS_KEY: &str = "envoy.ratelimit.hits_addend";

/// A filter in its place.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) name: String,
    pub(super) line: usize,
    /// Only routes that configure it have it.
    disabled: bool,
    pub(super) kind: Kind,
}

/// What a filter does to a request before Tollgate is asked.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    RateLimit(Box<RateLimitFilter>),
    Mutations(Mutations),
    Jwt(Jwt),
    SetMetadata(Vec<Metadata>),
    /// Says how many hits a request has.
    Hits(Option<Format>),
    Cors,
    Router,
    /// Neither headers nor metadata that a descriptor may be made of.
    Nothing,
    /// Anything.
    Opaque,
}

/// `envoy.filters.http.ratelimit`.
#[derive(Clone, Debug)]
pub(super) struct RateLimitFilter {
    pub(super) domain: String,
    pub(super) stage: u64,
    pub(super) requests: Requests,
    pub(super) rate_limits: Vec<RateLimit>,
    /// How many of a million requests are asked for.
    pub(super) enabled: u64,
}

/// Which requests a filter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    Both,
    Internal,
    External,
}

/// What is written as dynamic metadata.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) namespace: String,
    pub(super) value: Json,
    pub(super) overwrites: bool,
}

/// `typed_per_filter_config`: what a route, or what holds it, says of filters.
#[derive(Clone, Debug, Default)]
pub(super) struct PerFilter(Vec<(String, Said)>);

#[derive(Clone, Debug)]
pub(super) enum Said {
    Disabled,
    RateLimit(PerRoute),
    Mutations(Mutations),
    Hits(Option<Format>),
    /// What makes no difference here, but that the filter is on.
    Other,
}

/// A `RateLimitPerRoute`.
#[derive(Clone, Debug)]
pub(super) struct PerRoute {
    pub(super) domain: Option<String>,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) virtual_host: Option<VirtualHostLimits>,
}

/// What becomes of the virtual host's limits where a route has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VirtualHostLimits {
    Override,
    Include,
    Ignore,
}

/// Those of Envoy's filters that change nothing of which descriptors are made.
const HARMLESS: [&str; 30] = [
    "adaptive_concurrency",
    "admission_control",
    "alternate_protocols_cache",
    "bandwidth_limit",
    "bandwidth_share",
    "body_size_limit",
    "buffer",
    "cache",
    "cache_v2",
    "cdn_loop",
    "compressor",
    "connect_grpc_bridge",
    "csrf",
    "custom_response",
    "decompressor",
    "dynamic_forward_proxy",
    "fault",
    "file_server",
    "file_system_buffer",
    "grpc_stats",
    "grpc_web",
    "health_check",
    "local_ratelimit",
    "on_demand",
    "original_src",
    "rate_limit_quota",
    "rbac",
    "stateful_session",
    "tap",
    "upstream_codec",
];

impl Filter {
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        Self {
            name: tree.text(node, "name").unwrap_or_default(),
            line: node.span.line,
            disabled: tree.is_on(node, "disabled"),
            kind: match field(node, "typed_config") {
                Some(body) => Kind::read(tree, body, setting),
                None => Kind::Opaque,
            },
        }
    }

    /// What is said of it, the widest first.
    pub(super) fn said<'s>(&'s self, levels: &[&'s PerFilter]) -> Vec<&'s Said> {
        let of_level = |level: &&'s PerFilter| level.0.iter().find(|(name, _)| *name == self.name);
        let found = levels.iter().filter_map(of_level);
        found.map(|(_, said)| said).collect()
    }

    /// Whether it sees a request for which this is said.
    pub(super) fn is_on(&self, said: &[&Said]) -> bool {
        match said.last() {
            None => !self.disabled,
            Some(Said::Disabled) => false,
            Some(Said::RateLimit(_) | Said::Mutations(_) | Said::Hits(_) | Said::Other) => true,
        }
    }

    /// For people: its name and line.
    pub(super) fn place(&self) -> String {
        format!("`{}` (line {})", self.name, self.line)
    }
}

impl Kind {
    fn read(tree: &mut Tree<'_>, body: &Node<'_>, setting: Setting<'_>) -> Self {
        let is = |name: &str| is_type(body, &format!("{HTTP}{name}"));
        if is("ratelimit.v3.RateLimit") {
            return Kind::RateLimit(Box::new(RateLimitFilter::read(tree, body, setting)));
        }
        if is("header_mutation.v3.HeaderMutation") {
            let most_specific = tree.is_on(body, "most_specific_header_mutations_wins");
            let mutations = field(body, "mutations").map(|node| Mutations::read(tree, node));
            return Kind::Mutations(mutations.unwrap_or_default().with_wins(most_specific));
        }
        if is("jwt_authn.v3.JwtAuthentication") {
            return Kind::Jwt(Jwt::read(tree, body));
        }
        if is("set_metadata.v3.Config") {
            return Kind::SetMetadata(Metadata::read_all(tree, body));
        }
        if is("set_filter_state.v3.Config") {
            return Kind::Hits(hits(tree, body));
        }
        if is("cors.v3.Cors") {
            return Kind::Cors;
        }
        if is("router.v3.Router") {
            return Kind::Router;
        }
        let named = field(body, "@type").and_then(scalar).unwrap_or_default();
        let named = named.rsplit('/').next().unwrap_or_default();
        let named = named
            .strip_prefix(HTTP)
            .and_then(|rest| rest.split('.').next());
        match named.is_some_and(|name| HARMLESS.contains(&name)) {
            true => Kind::Nothing,
            false => Kind::Opaque,
        }
    }
}

impl RateLimitFilter {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let domain = tree.text(node, "domain").unwrap_or_default();
        if domain.is_empty() {
            tree.error(node, "the ratelimit filter has no `domain`");
        }
        let requests = tree.text(node, "request_type");
        Self {
            domain,
            stage: tree.number(node, "stage").unwrap_or(0),
            requests: match requests.as_deref() {
                Some("internal") => Requests::Internal,
                Some("external") => Requests::External,
                Some(_) | None => Requests::Both,
            },
            rate_limits: RateLimit::read_all(tree, node, Place::Filter, setting),
            enabled: fraction(tree, field(node, "filter_enabled"), setting.runtime),
        }
    }
}

/// How many of a million; all, if it is not said.
fn fraction(tree: &mut Tree<'_>, node: Option<&Node<'_>>, runtime: &Runtime) -> u64 {
    let Some(node) = node else {
        return MILLION;
    };
    let default = field(node, "default_value");
    let numerator = default.and_then(|node| tree.number(node, "numerator"));
    let denominator = default.and_then(|node| tree.text(node, "denominator"));
    let key = tree.text(node, "runtime_key").unwrap_or_default();
    let of = match denominator.as_deref() {
        Some("TEN_THOUSAND") => 10_000,
        Some("MILLION") => MILLION,
        Some(_) | None => 100,
    };
    let numerator = runtime.number(&key).or(numerator).unwrap_or(0);
    (numerator.min(of)) * (MILLION / of)
}

/// What [`RateLimitFilter::enabled`] is counted in.
pub(super) const MILLION: u64 = 1_000_000;

impl Metadata {
    fn read_all(tree: &mut Tree<'_>, node: &Node<'_>) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |tree: &mut Tree<'_>, node: &Node<'_>, overwrites| {
            let namespace = tree.text(node, "metadata_namespace");
            let value = field(node, "value").map(json);
            if let (Some(namespace), Some(value)) = (namespace, value) {
                all.push(Self {
                    namespace,
                    value,
                    overwrites,
                });
            }
        };
        add(tree, node, true);
        for item in tree.list(node, "metadata") {
            let overwrites = tree.is_on(item, "allow_overwrite");
            add(tree, item, overwrites);
        }
        all
    }

    pub(super) fn write(&self, seen: &mut Seen<'_>) {
        let there = seen.metadata.entry(self.namespace.clone());
        let there = there.or_insert_with(|| Json::Object(serde_json::Map::new()));
        merge(there, &self.value, self.overwrites);
    }
}

fn merge(there: &mut Json, new: &Json, overwrites: bool) {
    let (Json::Object(there), Json::Object(new)) = (&mut *there, new) else {
        if overwrites {
            *there = new.clone();
        }
        return;
    };
    for (name, new) in new {
        match there.get_mut(name) {
            Some(there) => merge(there, new, overwrites),
            None => drop(there.insert(name.clone(), new.clone())),
        }
    }
}

/// The format of a request's hits, if a `set_filter_state` has one.
fn hits(tree: &mut Tree<'_>, node: &Node<'_>) -> Option<Format> {
    let mut objects = tree.list(node, "on_request_headers").iter();
    let is_hits = |node: &&Node<'_>| field(node, "object_key").and_then(scalar) == Some(HITS_KEY);
    let node = objects.rfind(is_hits)?;
    let format = at(
        node,
        &["format_string", "text_format_source", "inline_string"],
    )?;
    Format::parse(scalar(format)?)
}

impl PerFilter {
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let said = field(node, "typed_per_filter_config")
            .into_iter()
            .flat_map(fields);
        let said = said.map(|(name, node)| (name.to_owned(), Said::read(tree, node, setting)));
        Self(said.collect())
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether something is said of a filter.
    pub(super) fn names(&self, filter: &str) -> bool {
        self.0.iter().any(|(name, _)| name == filter)
    }
}

impl Said {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let is = |name: &str| is_type(node, &format!("{HTTP}{name}"));
        if is_type(node, "envoy.config.route.v3.FilterConfig") {
            return match (tree.is_on(node, "disabled"), field(node, "config")) {
                (true, _) => Said::Disabled,
                (false, Some(config)) => Said::read(tree, config, setting),
                (false, None) => Said::Other,
            };
        }
        if is("ratelimit.v3.RateLimitPerRoute") {
            return Said::RateLimit(PerRoute::read(tree, node, setting));
        }
        if is("header_mutation.v3.HeaderMutationPerRoute") {
            let mutations = field(node, "mutations").map(|node| Mutations::read(tree, node));
            return Said::Mutations(mutations.unwrap_or_default());
        }
        if is("set_filter_state.v3.Config") {
            return Said::Hits(hits(tree, node));
        }
        Said::Other
    }
}

impl PerRoute {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let limits = tree.text(node, "vh_rate_limits");
        Self {
            domain: tree
                .text(node, "domain")
                .filter(|domain| !domain.is_empty()),
            rate_limits: RateLimit::read_all(tree, node, Place::Filter, setting),
            virtual_host: limits.map(|limits| match limits.as_str() {
                "INCLUDE" => VirtualHostLimits::Include,
                "IGNORE" => VirtualHostLimits::Ignore,
                _ => VirtualHostLimits::Override,
            }),
        }
    }
}
