//! Virtual hosts and routes, and which of them a request takes.

use serde_json::Value as Json;

use super::filters::PerFilter;
use super::limits::{Place, RateLimit};
use super::matching::{Header, Parameter, Text, all_of};
use super::request::{Known, Seen, Unknown};
use super::tree::{Tree, at, field, fields, json};
use super::{Setting, tree};
use crate::rules::file::Node;

/// A `RouteConfiguration`.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) virtual_hosts: Vec<VirtualHost>,
    pub(super) per_filter: PerFilter,
    ignore_port: bool,
    /// Virtual hosts come from elsewhere as well.
    has_vhds: bool,
}

#[derive(Clone, Debug)]
pub(super) struct VirtualHost {
    pub(super) name: String,
    domains: Vec<String>,
    pub(super) routes: Vec<Route>,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) per_filter: PerFilter,
    redirects_to_tls: bool,
    /// Routes are found in a way that is not computed here.
    has_matcher: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) line: usize,
    matches: Match,
    /// What becomes of the request, if it goes to no upstream.
    pub(super) to: Result<Entry, String>,
}

/// A route to an upstream.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Option<String>,
    pub(super) line: usize,
    pub(super) cluster: Cluster,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) includes_virtual_host: bool,
    pub(super) per_filter: PerFilter,
    /// Each of the weighted clusters may have its own.
    pub(super) per_cluster: PerFilter,
    /// `filter_metadata`.
    pub(super) metadata: Json,
}

/// Where a route goes.
#[derive(Clone, Debug)]
pub(super) enum Cluster {
    Named(String),
    Header(String),
    /// One of several, or one that an extension names.
    Unknown,
}

#[derive(Clone, Debug)]
struct Match {
    path: Path,
    ignore_case: bool,
    headers: Vec<Header>,
    parameters: Vec<Parameter>,
    grpc: bool,
    /// What else there is that is not computed here.
    unknown: Option<String>,
}

#[derive(Clone, Debug)]
enum Path {
    Prefix(String),
    Exact(String),
    Separated(String),
    Regex(Text),
    Connect,
    Unknown(String),
}

/// What becomes of a request.
pub(super) enum Found<'t> {
    Route(&'t VirtualHost, &'t Entry),
    /// It goes to no upstream.
    Nowhere(String),
}

impl Table {
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let hosts = tree.list(node, "virtual_hosts").iter();
        Self {
            name: tree.text(node, "name").unwrap_or_default(),
            virtual_hosts: hosts
                .map(|node| VirtualHost::read(tree, node, setting))
                .collect(),
            per_filter: PerFilter::read(tree, node, setting),
            ignore_port: tree.is_on(node, "ignore_port_in_host_matching"),
            has_vhds: field(node, "vhds").is_some(),
        }
    }

    /// The route of a request, or why it has none.
    pub(super) fn find(&self, seen: &Seen<'_>) -> Known<Found<'_>> {
        let authority = seen.headers.first(":authority")?.unwrap_or_default();
        let host = authority.to_ascii_lowercase();
        let host = match self.ignore_port {
            true => super::paths::without_port(&host).to_owned(),
            false => host,
        };
        let Some(virtual_host) = self.virtual_host(&host) else {
            if self.has_vhds {
                let why = "virtual hosts come from a management server (vhds), too";
                return Err(Unknown::new(why));
            }
            let why = format!("no virtual host is for `{host}`: Envoy answers 404");
            return Ok(Found::Nowhere(why));
        };
        virtual_host.find(seen)
    }

    /// Exact, then the longest that ends so, then the longest that begins so, then any.
    fn virtual_host(&self, host: &str) -> Option<&VirtualHost> {
        let all = || {
            let hosts = self.virtual_hosts.iter();
            hosts.flat_map(|host| host.domains.iter().map(move |domain| (domain, host)))
        };
        let exact = all().find(|(domain, _)| domain.as_str() == host);
        let longer = |part: &str| host.len() > part.len();
        let suffix = all().filter(|(domain, _)| {
            let part = domain.strip_prefix('*').filter(|part| !part.is_empty());
            part.is_some_and(|part| host.ends_with(part) && longer(part))
        });
        let prefix = all().filter(|(domain, _)| {
            let part = domain.strip_suffix('*').filter(|part| !part.is_empty());
            part.is_some_and(|part| host.starts_with(part) && longer(part))
        });
        let found = exact
            .or_else(|| suffix.max_by_key(|(domain, _)| domain.len()))
            .or_else(|| prefix.max_by_key(|(domain, _)| domain.len()))
            .or_else(|| all().find(|(domain, _)| domain.as_str() == "*"));
        found.map(|(_, host)| host)
    }
}

impl VirtualHost {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let domains = tree.list(node, "domains").iter().filter_map(tree::scalar);
        let domains = domains.map(str::to_ascii_lowercase).collect();
        let routes = tree.list(node, "routes").iter();
        let tls = tree.text(node, "require_tls");
        Self {
            name: tree.text(node, "name").unwrap_or_default(),
            domains,
            routes: routes
                .map(|node| Route::read(tree, node, setting))
                .collect(),
            rate_limits: RateLimit::read_all(tree, node, Place::Classic, setting),
            per_filter: PerFilter::read(tree, node, setting),
            redirects_to_tls: matches!(tls.as_deref(), Some("ALL" | "EXTERNAL_ONLY")),
            has_matcher: field(node, "matcher").is_some(),
        }
    }

    fn find(&self, seen: &Seen<'_>) -> Known<Found<'_>> {
        if self.redirects_to_tls && seen.headers.first(":scheme")? != Some("https") {
            let why = format!(
                "the virtual host `{}` sends what comes without TLS to https",
                self.name
            );
            return Ok(Found::Nowhere(why));
        }
        if self.has_matcher {
            let why = format!(
                "the virtual host `{}` finds routes by a `matcher`",
                self.name
            );
            return Err(Unknown(format!("{why}, which is not computed here")));
        }
        for route in &self.routes {
            let matches = route.matches.holds(seen);
            let place = |why: Unknown| {
                Unknown(format!(
                    "whether the route in line {} takes it: {why}",
                    route.line
                ))
            };
            if matches.map_err(place)? {
                return Ok(match &route.to {
                    Ok(entry) => Found::Route(self, entry),
                    Err(why) => Found::Nowhere(format!("the route in line {} {why}", route.line)),
                });
            }
        }
        let why = format!(
            "no route of the virtual host `{}` takes it: Envoy answers 404",
            self.name
        );
        Ok(Found::Nowhere(why))
    }
}

impl Route {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, setting: Setting<'_>) -> Self {
        let line = node.span.line;
        let matches = field(node, "match").map(|node| Match::read(tree, node));
        let matches = matches.unwrap_or_else(|| {
            tree.error(node, "a route without `match`");
            Match::nothing()
        });
        let to = match field(node, "route") {
            Some(action) => Ok(Entry::read(tree, node, action, setting)),
            None if field(node, "redirect").is_some() => {
                Err("redirects, so nobody is asked".to_owned())
            }
            None if field(node, "direct_response").is_some() => {
                Err("answers itself (direct_response), so nobody is asked".to_owned())
            }
            None => Err("goes to no upstream, so nobody is asked".to_owned()),
        };
        Self { line, matches, to }
    }
}

impl Entry {
    fn read(
        tree: &mut Tree<'_>,
        route: &Node<'_>,
        action: &Node<'_>,
        setting: Setting<'_>,
    ) -> Self {
        let mut per_cluster = PerFilter::default();
        if let Some(weighted) = field(action, "weighted_clusters") {
            for cluster in tree.list(weighted, "clusters") {
                per_cluster.extend(PerFilter::read(tree, cluster, setting));
            }
        }
        let cluster = match (
            tree.text(action, "cluster"),
            tree.text(action, "cluster_header"),
        ) {
            (Some(name), _) => Cluster::Named(name),
            (None, Some(header)) => Cluster::Header(header.to_ascii_lowercase()),
            (None, None) => Cluster::Unknown,
        };
        let metadata = at(route, &["metadata", "filter_metadata"]);
        Self {
            name: tree.text(route, "name").filter(|name| !name.is_empty()),
            line: route.span.line,
            cluster,
            rate_limits: RateLimit::read_all(tree, action, Place::Classic, setting),
            includes_virtual_host: tree.is_on(action, "include_vh_rate_limits"),
            per_filter: PerFilter::read(tree, route, setting),
            per_cluster,
            metadata: metadata.map(json).unwrap_or_default(),
        }
    }
}

impl Cluster {
    pub(super) fn name(&self, seen: &Seen<'_>) -> Known<String> {
        match self {
            Cluster::Named(name) => Ok(name.clone()),
            Cluster::Header(header) => {
                let name = seen.headers.first(header)?.map(str::to_owned);
                name.ok_or_else(|| {
                    Unknown(format!("the cluster is named by the header `{header}`"))
                })
            }
            Cluster::Unknown => Err(Unknown::new(
                "the route has several clusters, and Envoy takes one of them",
            )),
        }
    }
}

impl Match {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let text = |tree: &mut Tree<'_>, name| tree.text(node, name);
        let path = if let Some(regex) = field(node, "safe_regex") {
            Path::Regex(Text::regex(tree, regex))
        } else if let Some(prefix) = text(tree, "prefix") {
            Path::Prefix(prefix)
        } else if let Some(path) = text(tree, "path") {
            Path::Exact(path)
        } else if let Some(prefix) = text(tree, "path_separated_prefix") {
            Path::Separated(prefix)
        } else if field(node, "connect_matcher").is_some() {
            Path::Connect
        } else {
            Path::Unknown("`path_match_policy` is not computed here".to_owned())
        };
        let known = [
            "prefix",
            "path",
            "safe_regex",
            "path_separated_prefix",
            "connect_matcher",
            "path_match_policy",
            "case_sensitive",
            "headers",
            "query_parameters",
            "grpc",
        ];
        let mut others = fields(node).map(|(name, _)| name);
        let unknown = others.find(|name| !known.iter().any(|known| tree::is_named(name, known)));
        let unknown = unknown.map(|name| format!("`{name}` is not computed here"));
        Self {
            path,
            ignore_case: tree.switch(node, "case_sensitive") == Some(false),
            headers: Header::read_all(tree, node),
            parameters: Parameter::read_all(tree, node),
            grpc: field(node, "grpc").is_some(),
            unknown,
        }
    }

    fn nothing() -> Self {
        Self {
            path: Path::Unknown("it has no `match`".to_owned()),
            ignore_case: false,
            headers: Vec::new(),
            parameters: Vec::new(),
            grpc: false,
            unknown: None,
        }
    }

    /// Whether a request takes this route: one part that does not match decides.
    fn holds(&self, seen: &Seen<'_>) -> Known<bool> {
        let parts: [&dyn Fn() -> Known<bool>; 5] = [
            &|| self.path.holds(self.ignore_case, seen),
            &|| Header::all_match(&self.headers, seen),
            &|| Parameter::all_match_raw(&self.parameters, seen),
            &|| Ok(!self.grpc || is_grpc(seen)?),
            &|| {
                self.unknown
                    .clone()
                    .map_or(Ok(true), |why| Err(Unknown(why)))
            },
        ];
        all_of(&parts, |part| part())
    }
}

fn is_grpc(seen: &Seen<'_>) -> Known<bool> {
    let kind = seen.headers.first("content-type")?.unwrap_or_default();
    let rest = kind.strip_prefix("application/grpc");
    Ok(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+')))
}

impl Path {
    fn holds(&self, ignore_case: bool, seen: &Seen<'_>) -> Known<bool> {
        let fold = |text: &str| match ignore_case {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        };
        let whole = seen.path();
        let path = whole.split(['?', '#']).next().unwrap_or_default();
        Ok(match self {
            Path::Prefix(prefix) => fold(path).starts_with(&fold(prefix)),
            Path::Exact(wanted) => fold(path) == fold(wanted),
            Path::Separated(prefix) => {
                let (path, prefix) = (fold(path), fold(prefix));
                let rest = path.strip_prefix(&prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Path::Regex(regex) => regex.matches(path)?,
            Path::Connect => seen.headers.first(":method")? == Some("CONNECT"),
            Path::Unknown(why) => return Err(Unknown(why.clone())),
        })
    }
}
