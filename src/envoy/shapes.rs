//! Every descriptor that a configuration can produce: the keys in their order, and the values that are known beforehand.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::Configuration;
use super::actions::{Action, Of, Source};
use super::filters::{Filter, Kind, RateLimitFilter};
use super::limits::RateLimit;
use super::read::{Manager, Routes};
use super::routes::{Cluster, Entry};
use super::send::Way;

/// What a configuration can ask Tollgate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    /// In the order of the file, none twice.
    pub shapes: Vec<Shape>,
    /// The domains that filters and routes name, with the line of the first.
    pub domains: Vec<(String, usize)>,
    /// Why there may be others that are not among these.
    pub open: Vec<String>,
}

/// A descriptor that there can be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Whose rules are asked for.
    pub domain: String,
    /// Its entries.
    pub parts: Vec<Part>,
    /// The line of its `RateLimit`.
    pub line: usize,
    /// It brings a limit of its own, so it needs no rule.
    pub has_limit: bool,
}

/// An entry that there can be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// None for any.
    pub key: Option<String>,
    /// None for any.
    pub value: Option<String>,
    /// It may be missing, and the others are sent nevertheless.
    pub is_optional: bool,
    /// The line of its action.
    pub line: usize,
}

impl Configuration {
    /// All that it can ask Tollgate.
    pub fn shapes(&self) -> Shapes {
        let mut all = Gathered::default();
        for manager in &self.managers {
            for filter in &manager.filters {
                if let Kind::RateLimit(ratelimit) = &filter.kind {
                    self.of_filter(manager, filter, ratelimit, &mut all);
                }
            }
        }
        all.found
    }

    fn of_filter(
        &self,
        manager: &Manager,
        filter: &Filter,
        ratelimit: &RateLimitFilter,
        all: &mut Gathered,
    ) {
        all.domain(&ratelimit.domain, filter.line);
        if ratelimit.enabled == 0 {
            return;
        }
        let table = match manager.routes {
            Routes::Table(table) => self.tables.get(table),
            Routes::Elsewhere => None,
        };
        let Some(table) = table else {
            all.open(format!(
                "the routes of the listener `{}` come from a management server, and may have `rate_limits` of their own",
                manager.name
            ));
            for limit in &ratelimit.rate_limits {
                all.add(&ratelimit.domain, limit, None);
            }
            return;
        };
        for virtual_host in &table.virtual_hosts {
            for route in &virtual_host.routes {
                let Ok(entry) = &route.to else {
                    continue;
                };
                let way = Way {
                    configuration: self,
                    manager,
                    table,
                    virtual_host,
                    entry,
                };
                let said = filter.said(&way.levels());
                if !filter.is_on(&said) {
                    continue;
                }
                let asked = way.asked(ratelimit, &said);
                all.domain(asked.domain, entry.line);
                for limit in asked.rate_limits {
                    all.add(asked.domain, limit, Some(entry));
                }
                if entry.per_cluster.names(&filter.name) {
                    all.open(format!("the route in line {} has weighted clusters with `rate_limits` of their own", entry.line));
                }
            }
        }
    }
}

/// What has been found so far.
#[derive(Default)]
struct Gathered {
    found: Shapes,
    known: HashSet<Shape>,
}

impl Gathered {
    fn domain(&mut self, name: &str, line: usize) {
        let is_new = self.found.domains.iter().all(|(known, _)| known != name);
        if is_new && !name.is_empty() {
            self.found.domains.push((name.to_owned(), line));
        }
    }

    fn open(&mut self, why: String) {
        if !self.found.open.contains(&why) {
            self.found.open.push(why);
        }
    }

    fn add(&mut self, domain: &str, limit: &RateLimit, entry: Option<&Entry>) {
        let parts = limit
            .actions
            .iter()
            .filter_map(|action| action.part(entry).transpose());
        // An action that never gives anything keeps the descriptor from being sent.
        let Ok(parts) = parts.collect::<Result<Vec<Part>, Never>>() else {
            return;
        };
        let shape = Shape {
            domain: domain.to_owned(),
            parts,
            line: limit.line,
            has_limit: limit.has_limit(),
        };
        if self.known.insert(shape.clone()) {
            self.found.shapes.push(shape);
        }
    }
}

/// The action gives nothing on this route, and leaves nothing to send.
struct Never;

impl Action {
    /// The entry that it can make on a route; none if it never makes one.
    fn part(&self, entry: Option<&Entry>) -> Result<Option<Part>, Never> {
        let value = match &self.of {
            Of::SourceCluster(name) => name.clone(),
            Of::DestinationCluster => entry.and_then(|entry| match &entry.cluster {
                Cluster::Named(name) => Some(name.clone()),
                Cluster::Header(_) | Cluster::Unknown => None,
            }),
            Of::AddressMatch { value, .. }
            | Of::Generic(value)
            | Of::HeaderMatch { value, .. }
            | Of::QueryMatch { value, .. } => match value.format.known() {
                Some(text) if text.is_empty() => match &value.default {
                    Some(default) => Some(default.clone()),
                    None => return Err(Never),
                },
                known => known,
            },
            Of::Metadata {
                source: Source::Route,
                way,
                default,
            } => {
                let Some(entry) = entry else {
                    return Ok(Some(self.of_value(None)));
                };
                let text = way.find(&entry.metadata).and_then(Json::as_str);
                let text = text.filter(|text| !text.is_empty()).map(str::to_owned);
                match (text.or_else(|| default.clone()), self.skip) {
                    (Some(text), _) => Some(text),
                    (None, true) => return Ok(None),
                    (None, false) => return Err(Never),
                }
            }
            Of::RequestHeader(_)
            | Of::RemoteAddress
            | Of::MaskedAddress { .. }
            | Of::Query(_)
            | Of::Metadata { .. }
            | Of::Unknown(_) => None,
        };
        Ok(Some(self.of_value(value)))
    }

    fn of_value(&self, value: Option<String>) -> Part {
        Part {
            key: Some(self.key.clone()).filter(|key| !key.is_empty()),
            value,
            is_optional: self.skip,
            line: self.line,
        }
    }
}
