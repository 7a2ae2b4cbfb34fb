//! The file to listeners with their filters, and to tables of routes.

use ipnet::IpNet;

use super::actions::networks;
use super::filters::Filter;
use super::mutations::Mutations;
use super::paths::Paths;
use super::routes::Table;
use super::tree::{Tree, at, field, fields, is_type, json, scalar};
use super::{Configuration, Runtime, Setting};
use crate::rules::diagnostic::{Diagnostic, Report};
use crate::rules::file::{self, Node, SourceFile, Span, Value};

/// The flag without which formats stand as they are.
const FORMATS: &str =
    "envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const EARLY: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

/// An HTTP connection manager.
#[derive(Debug)]
pub(super) struct Manager {
    /// The listener's.
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) has_tls: bool,
    /// Before all filters; none for what is not computed here.
    pub(super) early: Vec<Option<Mutations>>,
    pub(super) filters: Vec<Filter>,
    pub(super) routes: Routes,
    pub(super) paths: Paths,
    pub(super) addresses: Addresses,
    pub(super) strips_port: Strip,
    /// Of headers with an underscore in their names.
    pub(super) underscores: Underscores,
}

/// Where a manager's routes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routes {
    /// The place among the tables.
    Table(usize),
    /// Not in the file.
    Elsewhere,
}

/// How the client's address is found.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) use_remote_address: bool,
    pub(super) trusted_hops: usize,
    pub(super) skips_append: bool,
    /// An extension finds it.
    pub(super) has_detection: bool,
    pub(super) internal: Vec<IpNet>,
}

/// What becomes of the port in a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strip {
    Never,
    IfMatching,
    Always,
}

/// What becomes of headers with an underscore in their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Underscores {
    Stay,
    Drop,
    Reject,
}

/// Reads a file.
pub(super) fn read(source: &SourceFile) -> Result<Configuration, Report> {
    let (root, errors) = file::parse(&source.text);
    let report = |found| Report::new(found, std::slice::from_ref(source));
    let syntax = errors.into_iter().map(|error| {
        let found = Diagnostic::error(source, error.span, "", error.message);
        match error.help.filter(|help| !help.contains("domain")) {
            Some(help) => found.with_help(help),
            None => found,
        }
    });
    let mut found: Vec<Diagnostic> = syntax.collect();
    let root = match root {
        Some(root) if found.is_empty() => root,
        Some(_) | None => {
            if found.is_empty() {
                found.push(Diagnostic::error(
                    source,
                    Span::default(),
                    "",
                    "the file is empty",
                ));
            }
            return Err(report(found));
        }
    };
    let mut tree = Tree::of(source);
    let configuration = of_root(&mut tree, &root);
    if configuration.managers.is_empty() && tree.found.is_empty() {
        let message = "no listener with an HTTP connection manager is in the file";
        let what = "give Envoy's bootstrap with its listeners, or what `curl 127.0.0.1:9901/config_dump` says of a running Envoy";
        tree.found
            .push(Diagnostic::error(source, Span::default(), "", message).with_help(what));
    }
    // One listener that stands twice, or an alias, says the same twice.
    let mut found = tree.found;
    let mut seen = Vec::new();
    found.retain(|one| {
        let place = (one.span.line, one.span.column, one.message.clone());
        let is_new = !seen.contains(&place);
        seen.push(place);
        is_new
    });
    let report = report(found);
    match report.has_errors() {
        true => Err(report),
        false => Ok(Configuration {
            warnings: report,
            ..configuration
        }),
    }
}

fn of_root(tree: &mut Tree<'_>, root: &Node<'_>) -> Configuration {
    let mut all = Parts::default();
    all.collect(root);
    let runtime = Runtime::read(&all.bootstraps);
    let cluster = all
        .bootstraps
        .iter()
        .find_map(|node| scalar(at(node, &["node", "cluster"])?));
    let setting = Setting {
        formats: runtime.is_on(FORMATS),
        cluster: cluster.filter(|name| !name.is_empty()),
        runtime: &runtime,
    };
    let mut tables = Vec::new();
    for node in &all.tables {
        let table = Table::read(tree, node, setting);
        let is_new = |other: &Table| other.name != table.name;
        if tables.iter().all(is_new) {
            tables.push(table);
        }
    }
    let mut managers: Vec<Manager> = Vec::new();
    let mut names = Vec::new();
    for node in &all.listeners {
        // A dump has static listeners twice: in the bootstrap, and in its list.
        let name = tree.text(node, "name").unwrap_or_default();
        if !name.is_empty() && names.contains(&name) {
            continue;
        }
        names.push(name);
        listener(tree, node, setting, &mut tables, &mut managers);
    }
    Configuration {
        warnings: Report::default(),
        managers,
        tables,
        runtime,
    }
}

/// The parts of a file that say something here.
#[derive(Default)]
struct Parts<'n, 't> {
    bootstraps: Vec<&'n Node<'t>>,
    listeners: Vec<&'n Node<'t>>,
    tables: Vec<&'n Node<'t>>,
}

impl<'n, 't> Parts<'n, 't> {
    /// Of a node and all below: a dump has them at many places, each with its type.
    fn collect(&mut self, node: &'n Node<'t>) {
        match &node.value {
            Value::Scalar { .. } => {}
            Value::List(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Map(entries) => {
                if is_type(node, LISTENER) {
                    return self.listeners.push(node);
                }
                if is_type(node, ROUTES) {
                    return self.tables.push(node);
                }
                if let Some(own) = field(node, "static_resources") {
                    self.bootstraps.push(node);
                    if let Some(Value::List(items)) =
                        field(own, "listeners").map(|node| &node.value)
                    {
                        self.listeners.extend(items);
                    }
                    return;
                }
                entries.iter().for_each(|(_, node)| self.collect(node));
            }
        }
    }
}

impl Runtime {
    /// Of the static layers; a later one wins.
    fn read(bootstraps: &[&Node<'_>]) -> Self {
        let mut runtime = Self::default();
        for node in bootstraps {
            let Some(Value::List(layers)) =
                at(node, &["layered_runtime", "layers"]).map(|n| &n.value)
            else {
                continue;
            };
            for layer in layers {
                let layer = field(layer, "static_layer").into_iter().flat_map(fields);
                layer.for_each(|(name, node)| runtime.add(name, node));
            }
        }
        runtime
    }

    fn add(&mut self, name: &str, node: &Node<'_>) {
        match &node.value {
            Value::Map(_) => {
                fields(node).for_each(|(below, node)| self.add(&format!("{name}.{below}"), node))
            }
            Value::Scalar { .. } | Value::List(_) => {
                self.0.insert(name.to_owned(), json(node));
            }
        }
    }
}

fn listener(
    tree: &mut Tree<'_>,
    node: &Node<'_>,
    setting: Setting<'_>,
    tables: &mut Vec<Table>,
    managers: &mut Vec<Manager>,
) {
    let name = tree.text(node, "name").unwrap_or_default();
    let port = at(node, &["address", "socket_address", "port_value"]).and_then(scalar);
    let port = port.and_then(|port| port.parse().ok());
    let chains = tree.list(node, "filter_chains").iter();
    for chain in chains.chain(field(node, "default_filter_chain")) {
        let has_tls = field(chain, "transport_socket").is_some();
        for filter in tree.list(chain, "filters") {
            let Some(body) = field(filter, "typed_config") else {
                continue;
            };
            if is_type(body, MANAGER) {
                let manager = Manager::read(tree, body, setting, tables);
                managers.push(Manager {
                    name: name.clone(),
                    port,
                    has_tls,
                    ..manager
                });
            }
        }
    }
}

impl Manager {
    fn read(
        tree: &mut Tree<'_>,
        node: &Node<'_>,
        setting: Setting<'_>,
        tables: &mut Vec<Table>,
    ) -> Self {
        let routes = match field(node, "route_config") {
            Some(own) => {
                tables.push(Table::read(tree, own, setting));
                Routes::Table(tables.len() - 1)
            }
            None => {
                let name = at(node, &["rds", "route_config_name"]).and_then(scalar);
                let found = tables
                    .iter()
                    .position(|table| Some(table.name.as_str()) == name);
                found.map_or(Routes::Elsewhere, Routes::Table)
            }
        };
        let early = tree.list(node, "early_header_mutation_extensions").iter();
        let early = early.map(|node| {
            let body = field(node, "typed_config").filter(|body| is_type(body, EARLY));
            body.map(|body| Mutations::early(tree, body))
        });
        let early = early.collect();
        let filters = tree.list(node, "http_filters").iter();
        let filters = filters
            .map(|node| Filter::read(tree, node, setting))
            .collect();
        let underscores = at(
            node,
            &[
                "common_http_protocol_options",
                "headers_with_underscores_action",
            ],
        );
        Self {
            name: String::new(),
            port: None,
            has_tls: false,
            early,
            filters,
            routes,
            paths: Paths::read(tree, node),
            addresses: Addresses::read(tree, node),
            strips_port: match (
                tree.is_on(node, "strip_any_host_port"),
                tree.is_on(node, "strip_matching_host_port"),
            ) {
                (true, _) => Strip::Always,
                (false, true) => Strip::IfMatching,
                (false, false) => Strip::Never,
            },
            underscores: match underscores.and_then(scalar) {
                Some("DROP_HEADER") => Underscores::Drop,
                Some("REJECT_REQUEST") => Underscores::Reject,
                Some(_) | None => Underscores::Stay,
            },
        }
    }
}

impl Addresses {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let hops = tree.number(node, "xff_num_trusted_hops").unwrap_or(0);
        let internal = field(node, "internal_address_config");
        Self {
            use_remote_address: tree.is_on(node, "use_remote_address"),
            trusted_hops: usize::try_from(hops).unwrap_or(usize::MAX),
            skips_append: tree.is_on(node, "skip_xff_append"),
            has_detection: !tree
                .list(node, "original_ip_detection_extensions")
                .is_empty(),
            internal: internal
                .map(|node| networks(tree, node, "cidr_ranges"))
                .unwrap_or_default(),
        }
    }
}
