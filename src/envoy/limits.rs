//! A `RateLimit` of Envoy's: the actions that make one descriptor, and how many hits it has.

use serde_json::Value as Json;

use super::actions::{Action, Made, Way};
use super::format::Format;
use super::request::{Known, Seen};
use super::tree::{Tree, at, field};
use super::{Descriptor, Dropped, Setting};
use crate::limit::Unit;
use crate::rules::Override;
use crate::rules::file::Node;

/// The most hits that Envoy sends.
const MAX_HITS: f64 = 1e9;

/// What makes one descriptor.
#[derive(Clone, Debug)]
pub(super) struct RateLimit {
    pub(super) line: usize,
    pub(super) stage: u64,
    /// The runtime key that switches it off.
    pub(super) disable_key: Option<String>,
    pub(super) actions: Vec<Action>,
    hits: Hits,
    is_negative_hits: bool,
    limit: Limit,
    /// It is sent after the response.
    pub(super) on_stream_done: bool,
}

#[derive(Clone, Debug)]
enum Hits {
    Unsaid,
    Number(u64),
    Format(Format),
}

#[derive(Clone, Debug)]
enum Limit {
    None,
    Static(Override),
    Metadata(Way),
}

/// Where a list of them stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On a route or a virtual host, where Envoy does not look at hits.
    Classic,
    /// In the filter, or its configuration of a route.
    Filter,
}

impl RateLimit {
    /// Reads the list `rate_limits`.
    pub(super) fn read_all(
        tree: &mut Tree<'_>,
        node: &Node<'_>,
        place: Place,
        setting: Setting<'_>,
    ) -> Vec<Self> {
        let all = tree.list(node, "rate_limits").iter();
        all.map(|node| Self::read(tree, node, place, setting))
            .collect()
    }

    fn read(tree: &mut Tree<'_>, node: &Node<'_>, place: Place, setting: Setting<'_>) -> Self {
        let actions = tree.list(node, "actions").iter();
        let actions: Vec<Action> = actions
            .map(|node| Action::read(tree, node, setting))
            .collect();
        if actions.is_empty() {
            tree.error(node, "a rate limit without `actions`");
        }
        let (hits, is_negative_hits) = Hits::read(tree, node, place);
        Self {
            line: node.span.line,
            stage: tree.number(node, "stage").unwrap_or(0),
            disable_key: tree.text(node, "disable_key").filter(|key| !key.is_empty()),
            actions,
            hits,
            is_negative_hits,
            limit: Limit::read(tree, node),
            on_stream_done: tree.is_on(node, "apply_on_stream_done"),
        }
    }

    /// Whether it may send a limit of its own.
    pub(super) fn has_limit(&self) -> bool {
        match self.limit {
            Limit::None => false,
            Limit::Static(_) | Limit::Metadata(_) => true,
        }
    }

    /// The descriptor of a request, or why there is none.
    pub(super) fn of(&self, seen: &Seen<'_>) -> Known<Result<Descriptor, Dropped>> {
        let dropped = |why: String| Dropped {
            line: self.line,
            why,
        };
        let mut entries = Vec::new();
        let mut unknown = None;
        for action in &self.actions {
            match action.of(seen) {
                Ok(Made::Entry(key, value)) => entries.push((key, value)),
                Ok(Made::Skipped) => {}
                // Whatever the others come to.
                Ok(Made::Dropped(why)) => return Ok(Err(dropped(why))),
                Err(why) => unknown = unknown.or(Some(why)),
            }
        }
        if let Some(why) = unknown {
            return Err(why);
        }
        let hits_addend = match self.hits.of(seen)? {
            Ok(hits) => hits,
            Err(why) => return Ok(Err(dropped(why))),
        };
        Ok(Ok(Descriptor {
            entries,
            hits_addend,
            is_negative_hits: self.is_negative_hits,
            limit: self.limit.of(seen)?,
            line: self.line,
        }))
    }
}

impl Hits {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>, place: Place) -> (Self, bool) {
        let Some(node) = field(node, "hits_addend") else {
            return (Hits::Unsaid, false);
        };
        if place == Place::Classic {
            tree.warn(
                node,
                "Envoy does not look at `hits_addend` here: each request counts 1",
                "it works in the filter's own `rate_limits`, and in those of a RateLimitPerRoute under `typed_per_filter_config`",
            );
            return (Hits::Unsaid, false);
        }
        let hits = match (tree.number(node, "number"), tree.text(node, "format")) {
            (Some(number), _) => Hits::Number(number),
            (None, Some(text)) => match Format::parse(&text) {
                Some(format) => Hits::Format(format),
                None => {
                    tree.error(node, format!("`{text}` has a `%` without its end"));
                    Hits::Unsaid
                }
            },
            (None, None) => Hits::Unsaid,
        };
        (hits, tree.is_on(node, "is_negative_hits"))
    }

    fn of(&self, seen: &Seen<'_>) -> Known<Result<Option<u64>, String>> {
        let format = match self {
            Hits::Unsaid => return Ok(Ok(None)),
            Hits::Number(number) => return Ok(Ok(Some(*number))),
            Hits::Format(format) => format,
        };
        let text = format.of(seen)?;
        Ok(number(&text).map(Some).ok_or_else(|| match text.as_str() {
            "" => "`hits_addend` is a format of which nothing is there".to_owned(),
            text => {
                format!("`hits_addend` comes to `{text}`, which is no number from 0 to 1000000000")
            }
        }))
    }
}

/// As Envoy reads it: also `2.9`, `1e3` and `0x10`, of which the whole part counts.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is within bounds"
)]
fn number(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let number = match hex {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(f64::from),
        None => text.parse().ok(),
    };
    let number = number.filter(|number: &f64| (0.0..=MAX_HITS).contains(number))?;
    Some(number.trunc() as u64)
}

impl Limit {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let Some(node) = field(node, "limit") else {
            return Limit::None;
        };
        if let Some(way) = at(node, &["dynamic_metadata", "metadata_key"]) {
            return Limit::Metadata(Way::read(way));
        }
        let Some(limit) = field(node, "rate_limit") else {
            return Limit::None;
        };
        match limit_of(&super::tree::json(limit)) {
            Some(limit) => Limit::Static(limit),
            None => {
                tree.error(
                    limit,
                    "not a limit: `requests_per_unit` and a `unit` such as MINUTE",
                );
                Limit::None
            }
        }
    }

    /// One that makes no sense is not sent.
    fn of(&self, seen: &Seen<'_>) -> Known<Option<Override>> {
        Ok(match self {
            Limit::None => None,
            Limit::Static(limit) => Some(*limit),
            Limit::Metadata(way) => {
                let found = seen.metadata(&way.namespace, &way.path)?;
                found.and_then(limit_of)
            }
        })
    }
}

fn limit_of(value: &Json) -> Option<Override> {
    let named = |snake: &str, camel: &str| value.get(snake).or_else(|| value.get(camel)).cloned();
    let requests = named("requests_per_unit", "requestsPerUnit")?;
    let unit = named("unit", "unit")?;
    Some(Override {
        requests_per_unit: u32::try_from(requests.as_u64()?).ok()?,
        unit: unit.as_str()?.to_lowercase().parse::<Unit>().ok()?,
    })
}
