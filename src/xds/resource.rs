//! A resource to the tree that the compiler of the rules reads.
//!
//! Fields have the names that they have in a rule file, so one walk by the descriptors of `proto/` does for all messages but
//! three: the plans, whose names are keys in a file; `google.protobuf.Struct`; and the resource's own name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Field,
};
use tracing::warn;

use super::{Any, TYPE_URL, line};
use crate::grpc::DESCRIPTORS;
use crate::rules::diagnostic::Code;
use crate::rules::file::{
    Key, MAX_DEPTH, MAX_ERRORS, MAX_NODES, Node, Parsed, Span, SyntaxError, Value,
};

static CONFIG: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
    pool.get_message_by_name("ratelimit.config.ratelimit.v3.RateLimitConfig")
});

/// What is found on the way through a resource.
#[derive(Default)]
struct Walk {
    nodes: usize,
    errors: Vec<SyntaxError>,
    unknown: BTreeSet<String>,
}

/// The tree of a resource, and what it is called in messages: its own name, or else `name`.
pub(super) fn read(any: &Any, name: &str) -> (String, Parsed<'static>) {
    let called = |name: &str| format!("resource {name}");
    if any.type_url != TYPE_URL {
        let message = format!(
            "a resource of the type `{}`, not `{TYPE_URL}`",
            any.type_url
        );
        return (called(name), (None, vec![error(message)]));
    }
    let decoded = match CONFIG.as_ref() {
        Some(config) => DynamicMessage::decode(config.clone(), any.value.as_slice()),
        None => {
            return (
                called(name),
                (None, vec![error("there are no descriptors")]),
            );
        }
    };
    let message = match decoded {
        Ok(message) => message,
        Err(problem) => {
            let message = format!("no message of this type: {problem}");
            return (called(name), (None, vec![error(message)]));
        }
    };
    let own = message.get_field_by_name("name");
    let own = own.as_deref().and_then(Field::as_str).unwrap_or_default();
    let name = called(if own.is_empty() { name } else { own });
    let mut walk = Walk::default();
    let root = walk.message(&message, 0);
    if !walk.unknown.is_empty() {
        let fields: Vec<String> = walk.unknown.into_iter().collect();
        let (fields, name) = (fields.join(", "), line(&name));
        warn!("{name} has fields that this version does not know, and leaves out: {fields}");
    }
    (name, (root, walk.errors))
}

impl Walk {
    /// The fields that say something, in the order of the definition; none if it is nested too deep or too large.
    fn message(&mut self, message: &DynamicMessage, depth: usize) -> Option<Node<'static>> {
        let descriptor = message.descriptor();
        match descriptor.full_name() {
            "google.protobuf.Struct" => return self.structure(message, depth),
            "google.protobuf.Value" => return self.any_value(message, depth),
            _ => {}
        }
        for field in message.unknown_fields() {
            let field = format!("{} of {}", field.number(), descriptor.name());
            self.unknown.insert(field);
        }
        let is_config = Some(&descriptor) == CONFIG.as_ref();
        let mut entries = Vec::new();
        for field in descriptor.fields() {
            if !message.has_field(&field) || is_config && field.name() == "name" {
                continue;
            }
            let value = message.get_field(&field);
            let node = match field.name() {
                "plans" if is_config => self.plans(&value, depth + 1)?,
                _ => self.field(&value, &field.kind(), depth + 1)?,
            };
            entries.push((key(field.name()), node));
        }
        self.node(Value::Map(entries), depth)
    }

    fn field(&mut self, value: &Field, kind: &Kind, depth: usize) -> Option<Node<'static>> {
        let value = match value {
            Field::Message(message) => return self.message(message, depth),
            Field::List(items) => {
                let items = items.iter().map(|item| self.field(item, kind, depth + 1));
                Value::List(items.collect::<Option<_>>()?)
            }
            Field::String(text) => quoted(text),
            Field::Bool(flag) => plain(flag),
            Field::U32(number) => plain(number),
            Field::F64(number) => plain(number),
            Field::EnumNumber(number) => {
                let name = kind.as_enum().and_then(|kind| kind.get_value(*number));
                let name = name.map(|value| value.name().to_lowercase());
                quoted(&name.unwrap_or_else(|| number.to_string()))
            }
            // Of no field that is read here.
            Field::I32(_)
            | Field::I64(_)
            | Field::U64(_)
            | Field::F32(_)
            | Field::Bytes(_)
            | Field::Map(_) => plain("null"),
        };
        self.node(value, depth)
    }

    /// `name: [limits]` or `name: unlimited`, as a rule file has it.
    fn plans(&mut self, value: &Field, depth: usize) -> Option<Node<'static>> {
        let mut entries: Vec<(Key<'static>, Node<'static>)> = Vec::new();
        let plans = value.as_list().unwrap_or_default();
        for plan in plans.iter().filter_map(Field::as_message) {
            let get = |name| plan.get_field_by_name(name);
            let name = get("name");
            let name = name.as_deref().and_then(Field::as_str).unwrap_or_default();
            let unlimited = get("unlimited").and_then(|flag| flag.as_bool());
            let limits = get("limits");
            let limits = limits.as_deref().and_then(Field::as_list);
            let limits = limits.unwrap_or_default();
            if name.is_empty() {
                self.report("a plan has no `name`");
            } else if entries.iter().any(|(key, _)| key.text == name) {
                self.report(format!("the plan `{name}` stands here twice"));
            } else if unlimited == Some(true) && !limits.is_empty() {
                self.report(format!("the plan `{name}` is unlimited and has limits"));
            }
            let node = match unlimited {
                Some(true) => self.node(quoted("unlimited"), depth + 1)?,
                _ => {
                    let limits = limits.iter().filter_map(Field::as_message);
                    let limits = limits.map(|limit| self.message(limit, depth + 2));
                    let limits = limits.collect::<Option<_>>()?;
                    self.node(Value::List(limits), depth + 1)?
                }
            };
            entries.push((key(name), node));
        }
        self.node(Value::Map(entries), depth)
    }

    /// A `google.protobuf.Struct`; its keys in their order, since on the wire they have none.
    fn structure(&mut self, message: &DynamicMessage, depth: usize) -> Option<Node<'static>> {
        let fields = message.get_field_by_name("fields");
        let fields = fields.as_deref().and_then(Field::as_map);
        let mut fields: Vec<(&MapKey, &Field)> = fields.into_iter().flatten().collect();
        fields.sort_by_key(|(key, _)| *key);
        let mut entries = Vec::new();
        for (name, value) in fields {
            let node = self.message(value.as_message()?, depth + 1)?;
            entries.push((key(name.as_str().unwrap_or_default()), node));
        }
        self.node(Value::Map(entries), depth)
    }

    /// A `google.protobuf.Value`.
    fn any_value(&mut self, message: &DynamicMessage, depth: usize) -> Option<Node<'static>> {
        let value = match message.fields().next() {
            Some((field, value)) => match (field.name(), value) {
                ("struct_value", Field::Message(value)) => return self.message(value, depth),
                ("list_value", Field::Message(list)) => {
                    let items = list.get_field_by_name("values");
                    let items = items
                        .as_deref()
                        .and_then(Field::as_list)
                        .unwrap_or_default();
                    let items = items.iter().filter_map(Field::as_message);
                    let items = items.map(|item| self.message(item, depth + 1));
                    Value::List(items.collect::<Option<_>>()?)
                }
                ("string_value", Field::String(text)) => quoted(text),
                ("number_value", Field::F64(number)) => plain(number),
                ("bool_value", Field::Bool(flag)) => plain(flag),
                _ => plain("null"),
            },
            None => plain("null"),
        };
        self.node(value, depth)
    }

    fn node(&mut self, value: Value<'static>, depth: usize) -> Option<Node<'static>> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            self.report(format!("nested more than {MAX_DEPTH} deep"));
            return None;
        }
        if self.nodes > MAX_NODES {
            self.report(format!("more than {MAX_NODES} values"));
            return None;
        }
        let span = Span::default();
        Some(Node { value, span })
    }

    fn report(&mut self, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error(message));
        }
    }
}

fn key(name: &str) -> Key<'static> {
    Key {
        text: Cow::Owned(name.to_owned()),
        plain: false,
        span: Span::default(),
    }
}

fn quoted(text: &str) -> Value<'static> {
    let text = Cow::Owned(text.to_owned());
    Value::Scalar { text, plain: false }
}

fn plain(text: impl ToString) -> Value<'static> {
    let text = Cow::Owned(text.to_string());
    Value::Scalar { text, plain: true }
}

fn error(message: impl Into<String>) -> SyntaxError {
    SyntaxError {
        code: Code::InvalidValue,
        message: message.into(),
        span: Span::default(),
        help: None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;
    use crate::rules::compile::{Options, compile_trees};

    fn bytes(json: serde_json::Value) -> Vec<u8> {
        let config = CONFIG.clone().expect("descriptors");
        let message = DynamicMessage::deserialize(config, json);
        message.expect("its JSON").encode_to_vec()
    }

    fn resource(value: Vec<u8>) -> (String, Parsed<'static>) {
        let type_url = TYPE_URL.to_owned();
        read(&Any { type_url, value }, "7")
    }

    #[test]
    fn mutated_resources_never_panic() {
        let whole = bytes(json!({"name": "n", "domain": "d", "timeZone": "UTC",
        "costs": [{"key": "path", "cost": 0.5}],
        "plans": [{"name": "free", "limits": [{"requestsPerUnit": 3, "unit": "DAY"}]}],
        "descriptors": [
            {"key": "user", "plan": {"from": "directory", "default": "free"},
             "ban": {"after": 100, "within": "MINUTE", "for": "1h"}},
            {"key": "a", "value": "b*", "metadata": {"a": [1, null, {"b": true}]}, "descriptors": [
                {"key": "c", "rateLimits": [{"requestsPerUnit": 4, "unit": "WEEK", "burst": 1.5}]},
            ]},
        ]}));
        let mut random = SmallRng::seed_from_u64(7);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..5000 {
            let mut value = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..value.len());
                match random.random_range(0..3) {
                    0 => value[at] = random.random(),
                    1 => value[at] ^= 1 << random.random_range(0..8),
                    _ => value.truncate(at.max(1)),
                }
            }
            match compile_trees(vec![resource(value)], Options::default()) {
                Ok(_) => taken += 1,
                Err(report) => {
                    assert!(report.has_errors() && !report.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        assert!(taken > 10 && refused > 1000, "{taken} {refused}");
    }

    #[test]
    fn a_resource_is_called_by_its_name_and_what_is_unknown_is_left_out() {
        let mut value = bytes(json!({"name": "edge", "domain": "d"}));
        // Field 999, a number.
        value.extend([0xb8, 0x3e, 1]);
        let (name, (root, errors)) = resource(value);
        assert_eq!((name.as_str(), errors), ("resource edge", Vec::new()));
        let Some(Value::Map(fields)) = root.map(|root| root.value) else {
            panic!("no mapping");
        };
        let fields: Vec<_> = fields.iter().map(|(key, _)| &*key.text).collect();
        assert_eq!(fields, ["domain"]);
        let (name, (root, errors)) = resource(vec![0xff]);
        assert_eq!((name.as_str(), errors.len()), ("resource 7", 1));
        assert!(root.is_none());
    }
}
