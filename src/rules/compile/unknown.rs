//! What is said of fields that are not known, stand elsewhere, or hold another kind of thing.

use super::fields::{Scope, listed};
use super::table::Table;
use crate::rules::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::rules::file::{Key, Node, Span, Value};

/// What to say about a field that is not in its table.
pub(super) fn field(
    scope: &Scope<'_>,
    (text, span): (&str, Span),
    table: Table,
    beside: &[(Key<'_>, Node<'_>)],
) -> Diagnostic {
    let elsewhere = elsewhere(text, table);
    if !elsewhere.is_empty() {
        let message = format!("`{text}` does not belong into {}", table.name());
        let error = scope.error(span, message).coded(Code::MisplacedField);
        return error.with_help(match empty_above(&elsewhere, beside) {
            Some((name, line)) => {
                format!("indent it, so that it stands below `{name}` in line {line}")
            }
            None => {
                let places: Vec<&str> = elsewhere.into_iter().map(Table::place).collect();
                format!("it belongs {}", places.join(", or "))
            }
        });
    }
    let message = format!("unknown field `{text}` in {}", table.name());
    let error = scope.error(span, message).coded(Code::UnknownField);
    error.with_help(match did_you_mean(text, table.names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if table == Table::Domain && is_shelf(text) => {
            "what is only there to be repeated gets its `&anchor` where it is used first".to_owned()
        }
        None => format!("its fields are {}", listed(table.names())),
    })
}

/// Whether a field is one under which other formats let people keep anchors.
fn is_shelf(text: &str) -> bool {
    let names = [
        "defaults",
        "default",
        "common",
        "anchors",
        "templates",
        "definitions",
        "shared",
    ];
    text.starts_with("x-") || text.starts_with('.') || names.contains(&text)
}

/// Whether some table has a field of this name.
pub(super) fn is_elsewhere(text: &str) -> bool {
    Table::ALL.iter().any(|table| table.has(text))
}

/// The tables that have the field: of several those that stand next to the one it was found in.
fn elsewhere(text: &str, table: Table) -> Vec<Table> {
    // What a candidate may have, its limit has too.
    let has = |other: &Table| *other != Table::Candidate && other.has(text);
    let near: &[Table] = match table {
        Table::Limit | Table::PlanChoice | Table::Ban | Table::Domain => &[Table::Descriptor],
        Table::Descriptor => &[Table::Limit],
        Table::Replaces | Table::Candidate => &[Table::Limit],
        Table::Messages => &[Table::Response],
        Table::Response | Table::Cost => &[Table::Domain],
    };
    match near.iter().copied().find(has) {
        Some(near) => vec![near],
        None => Table::ALL.into_iter().filter(has).collect(),
    }
}

/// A field beside it that the table belongs into, and that says nothing: the indentation went wrong.
fn empty_above<'b>(
    tables: &[Table],
    beside: &'b [(Key<'_>, Node<'_>)],
) -> Option<(&'b str, usize)> {
    let of = |name: &str| match name {
        "rate_limit" => Some(Table::Limit),
        "plan" => Some(Table::PlanChoice),
        "ban" => Some(Table::Ban),
        "response" => Some(Table::Response),
        _ => None,
    };
    let mut empty = beside.iter().filter(|(_, node)| node.is_null());
    let (key, _) =
        empty.find(|(key, _)| of(&key.text).is_some_and(|table| tables.contains(&table)))?;
    Some((&*key.text, key.span.line))
}

/// What to write where a mapping belongs.
pub(super) fn no_mapping(table: Table, node: &Node<'_>) -> String {
    let text = match &node.value {
        Value::Scalar { text, .. } => text.to_lowercase(),
        Value::List(_) | Value::Map(_) => String::new(),
    };
    match (table, &node.value) {
        (Table::Limit, Value::List(_)) => "several limits stand under `rate_limits`".to_owned(),
        (Table::Limit, _) if ["unlimited", "none", "off", "false"].contains(&text.as_str()) => {
            "write `{unlimited: true}`".to_owned()
        }
        (_, _) => match table.example() {
            Some(example) => format!("such as `{example}`"),
            None => format!("its fields are {}", listed(table.names())),
        },
    }
}

/// What to write where a list belongs.
pub(super) fn no_list(name: &str, node: &Node<'_>) -> String {
    match &node.value {
        Value::Map(_) if name == "rate_limits" && is_item(name, node) => {
            "a single limit stands under `rate_limit`; of several each begins with `- `".to_owned()
        }
        Value::Map(fields) if is_item(name, node) => {
            let first = fields.first().map_or("", |(key, _)| &key.text);
            format!("put `- ` before the first field of each item: `- {first}: …`")
        }
        Value::Scalar { text, .. } if !text.is_empty() && name == "replaces" => {
            format!("write `[{{name: {text}}}]`")
        }
        Value::Scalar { text, .. }
            if !text.is_empty() && ["partition_by", "sensitive", "headers"].contains(&name) =>
        {
            format!("write `{name}: [{text}]`")
        }
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
            "begin each item with `- `".to_owned()
        }
    }
}

/// Whether what stands in place of a list is one item of it.
pub(super) fn is_item(name: &str, node: &Node<'_>) -> bool {
    let marks: &[&str] = match name {
        "descriptors" | "costs" => &["key", "value"],
        "rate_limits" => &["requests_per_unit", "unit", "unlimited"],
        "replaces" => &["name"],
        _ => &[],
    };
    match &node.value {
        Value::Map(fields) => fields.iter().any(|(key, _)| marks.contains(&&*key.text)),
        Value::Scalar { .. } | Value::List(_) => false,
    }
}

/// What a file is that is no rule file, and what to do with it; none if it may be one.
pub(super) fn foreign(root: &Node<'_>) -> Option<(String, &'static str)> {
    let fields = match &root.value {
        Value::Map(fields) => fields,
        Value::List(items) => match &items.first()?.value {
            Value::Map(fields) => fields,
            Value::Scalar { .. } | Value::List(_) => return None,
        },
        Value::Scalar { .. } => return None,
    };
    let get = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, node)| node)
    };
    let text = |name: &str| match &get(name)?.value {
        Value::Scalar { text, .. } => Some(&**text),
        Value::List(_) | Value::Map(_) => None,
    };
    if get("max_value").is_some() && (get("namespace").is_some() || get("seconds").is_some()) {
        let help = "rewrite it: `namespace` is `domain`, each of `variables` a `key`, `max_value` is `requests_per_unit`, `seconds` is `unit` and `unit_multiplier`";
        return Some(("this file has limits of Limitador".to_owned(), help));
    }
    if get("domain").is_some() || get("descriptors").is_some() {
        return None;
    }
    if let (Some(kind), Some(_)) = (text("kind"), get("apiVersion")) {
        let help = match kind {
            "ConfigMap" => {
                "the rules are the text under its `data`: put that into a file of its own, or mount the ConfigMap and check the directory"
            }
            "BackendTrafficPolicy" => {
                "Envoy Gateway makes rules of it and sends them over xDS, with CONFIG_TYPE=GRPC_XDS_SOTW: docs/xds.md"
            }
            "RateLimitPolicy" | "Limitador" => {
                "rewrite it as rules: docs/rules.md says what they are made of"
            }
            _ => "keep it outside the directory of the rules",
        };
        return Some((
            format!("this is a Kubernetes resource, {kind}, and no rule file"),
            help,
        ));
    }
    let of_envoy = [
        "static_resources",
        "dynamic_resources",
        "admin",
        "layered_runtime",
    ];
    of_envoy.iter().any(|name| get(name).is_some()).then(|| {
        let help = "keep it outside the directory of the rules; its `rate_limits` actions make the descriptors that rules match";
        ("this is a configuration of Envoy, and no rule file".to_owned(), help)
    })
}
