//! The JSON Schema of a rule file, for editors: made of the tables that the compiler reads files by.
//!
//! It says what can be said of one field, and of few that stand together. It lets pass some of what the compiler refuses, such
//! as a plan that is not there; it refuses nothing that the compiler takes.

use serde_json::{Map, Value, json};

use super::table::{Field, Holds, Table};

/// The schema, in draft 7, which editors know best.
pub fn schema() -> Value {
    let tables = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Domain);
    let tables = tables.map(|table| (id(table).to_owned(), mapping(table)));
    let mut definitions: Map<String, Value> = tables.collect();
    definitions.extend(words());
    let mut schema = mapping(Table::Domain);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Rules of Tollgate".into();
    schema["definitions"] = definitions.into();
    schema
}

/// The schemas of what many fields hold.
fn words() -> [(String, Value); 4] {
    // YAML 1.1 has more words for them than 1.2, and Tollgate takes all.
    let flag = json!({
        "anyOf": [
            {"type": ["boolean", "null"]},
            {"type": "string", "pattern": one_of(&["true", "false", "yes", "no", "on", "off", "y", "n"])},
        ],
    });
    // What looks like another thing to YAML is text nevertheless, but for numbers with a fraction.
    let text = json!({"type": ["string", "integer", "boolean", "null"]});
    let texts = json!({
        "type": ["array", "null"],
        "items": {"type": ["string", "integer", "number", "boolean"], "minLength": 1},
    });
    [
        ("flag".to_owned(), flag),
        ("text".to_owned(), text),
        ("words".to_owned(), there()),
        ("texts".to_owned(), texts),
    ]
}

/// A text that says something: an empty one is not there.
fn there() -> Value {
    json!({"type": ["string", "integer", "boolean"], "minLength": 1})
}

/// What a table's definition is called.
fn id(table: Table) -> &'static str {
    match table {
        Table::Domain => "domain",
        Table::Response => "response",
        Table::Descriptor => "descriptor",
        Table::Limit => "limit",
        Table::Candidate => "candidate",
        Table::Replaces => "replaces",
        Table::Messages => "messages",
        Table::Cost => "cost",
        Table::PlanChoice => "plan",
        Table::Ban => "ban",
    }
}

fn mapping(table: Table) -> Value {
    let fields = table.fields().iter();
    let properties: Map<String, Value> = fields
        .clone()
        .map(|field| (field.name.to_owned(), property(field)))
        .collect();
    let required = fields.filter(|field| field.required);
    let required: Vec<&str> = required.map(|field| field.name).collect();
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if let Some(together) = together(table) {
        schema["allOf"] = together;
    }
    schema
}

/// What holds for several fields of a mapping.
fn together(table: Table) -> Option<Value> {
    let there = there();
    let number = json!({"type": "number"});
    let unlimited = json!({"required": ["unlimited"], "properties": {"unlimited": {
        "anyOf": [{"const": true}, {"type": "string", "pattern": one_of(&["true", "yes", "on", "y"])}],
    }}});
    let both = |a: &str, b: &str, says: &Value| json!({"not": {"required": [a, b], "properties": {a: says, b: says}}});
    match table {
        Table::Descriptor => {
            let list = json!({"type": ["object", "array"]});
            Some(json!([
                both("value", "cidr", &there),
                both("rate_limit", "rate_limits", &list),
                both("rate_limit", "plan", &list),
                both(
                    "rate_limits",
                    "plan",
                    &json!({"type": ["object", "array"], "minItems": 1})
                ),
            ]))
        }
        Table::Limit => {
            let bucket = json!({"required": ["algorithm"], "properties": {
                "algorithm": {"type": "string", "pattern": one_of(&["token_bucket"])},
            }});
            let has_burst = |name: &str| json!({"required": [name], "properties": {name: number}});
            Some(json!([
                {
                    "if": unlimited,
                    "then": {"properties": {
                        "unit": false, "unit_multiplier": false, "algorithm": false, "burst": false,
                        "burst_multiplier": false, "charge": false, "lease": false, "durability": false,
                    }},
                    "else": {"required": ["unit"], "properties": {"unit": there}},
                },
                {"if": {"anyOf": [has_burst("burst"), has_burst("burst_multiplier")]}, "then": bucket},
                both("burst", "burst_multiplier", &number),
                {"not": {"required": ["lease", "candidate"], "properties": {
                    "lease": there, "candidate": {"type": "object"},
                }}},
            ]))
        }
        Table::Candidate => Some(json!([
            {
                "if": unlimited,
                "then": {"properties": {
                    "unit": false, "unit_multiplier": false, "algorithm": false, "burst": false,
                    "burst_multiplier": false, "charge": false,
                }},
            },
            both("burst", "burst_multiplier", &number),
        ])),
        Table::Domain
        | Table::Response
        | Table::Replaces
        | Table::Messages
        | Table::Cost
        | Table::PlanChoice
        | Table::Ban => None,
    }
}

fn property(field: &Field) -> Value {
    let mut schema = holds(field);
    // Beside `$ref` nothing else is looked at.
    if !schema["$ref"].is_null() {
        schema = json!({"allOf": [schema]});
    }
    schema["description"] = field.about.into();
    schema
}

/// A field that is there and says nothing, `null`, is a field that is not there.
fn holds(field: &Field) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
    let kind = |kind: &str| match field.required {
        true => json!([kind]),
        false => json!([kind, "null"]),
    };
    match field.holds {
        Holds::Text if field.required => reference("words"),
        Holds::Text => reference("text"),
        Holds::Texts => reference("texts"),
        Holds::Flag => reference("flag"),
        Holds::Duration => {
            json!({"type": kind("string"), "pattern": "^[0-9]*[1-9][0-9]*[smhd]$"})
        }
        Holds::Number(least, most) => json!({
            "anyOf": [
                {"type": kind("integer"), "minimum": least, "maximum": most},
                // As YAML 1.1 lets one write it.
                {"type": "string", "pattern": "^[1-9][0-9]*_[0-9_]*$"},
            ],
        }),
        Holds::Decimal(0) => json!({"type": kind("number"), "minimum": 0}),
        Holds::Decimal(_) => json!({"type": kind("number"), "exclusiveMinimum": 0}),
        Holds::Share => {
            json!({"type": kind("string"), "pattern": "^[0-9]+([.][0-9]{1,2})? *%$"})
        }
        Holds::Network => {
            json!({"type": kind("string"), "pattern": "^([0-9A-Fa-f:.]+(/[0-9]+)?)?$"})
        }
        Holds::Word(words) => word(words, !field.required),
        Holds::Words(words) => json!({"type": kind("array"), "items": word(words, false)}),
        Holds::One(table) => json!({"anyOf": [reference(id(table)), {"type": "null"}]}),
        Holds::Several(table) => {
            json!({"type": kind("array"), "items": reference(id(table))})
        }
        Holds::Plans => json!({
            "type": kind("object"),
            "additionalProperties": {"anyOf": [
                {"const": "unlimited"},
                {"type": "array", "minItems": 1, "items": reference(id(Table::Limit))},
            ]},
        }),
        Holds::Anything => json!({"type": kind("object")}),
    }
}

/// One of these, in any case of letters, or nothing; editors offer them as they are written here.
fn word(words: &[&str], or_none: bool) -> Value {
    let words_pattern = one_of(words);
    let offered = words.iter().map(|word| Value::from(*word));
    let offered: Vec<Value> = offered.chain(or_none.then_some(Value::Null)).collect();
    json!({"anyOf": [{"enum": offered}, {"type": "string", "pattern": words_pattern}]})
}

/// A regular expression without flags, which JSON Schema has none of.
fn one_of(words: &[&str]) -> String {
    let letter = |c: char| match c.is_ascii_alphabetic() {
        true => format!("[{}{c}]", c.to_ascii_uppercase()),
        false => c.to_string(),
    };
    let words = words
        .iter()
        .map(|word| word.chars().map(letter).collect::<String>());
    format!("^({})$", words.collect::<Vec<_>>().join("|"))
}
