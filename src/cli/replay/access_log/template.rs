//! Descriptors made of the fields of a line: `user_id=%user%,path=%request.path%`.

use serde_json::Value;

use super::{field, text_of};

/// How a descriptor is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Template {
    /// Keys, and what their values are put together from.
    entries: Vec<(String, Vec<Part>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Template {
    /// Reads `key=value,key=value`, in whose values `%NAME%` is a field, and `%%` a percent sign.
    pub(in super::super) fn parse(text: &str) -> Result<Self, String> {
        let entry = |part: &str| -> Result<(String, Vec<Part>), String> {
            let (key, value) = part
                .split_once('=')
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| {
                    format!("`{part}` is not written like key=value, such as user_id=%user%")
                })?;
            Ok((key.trim().to_owned(), parts(value.trim())?))
        };
        let entries = text.split(',').map(entry).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// The descriptor of a line; none if a field is not there.
    pub(super) fn of(&self, line: &Value) -> Option<Vec<(String, String)>> {
        let entry = |(key, parts): &(String, Vec<Part>)| {
            let part = |part: &Part| match part {
                Part::Text(text) => Some(text.clone()),
                Part::Field(name) => text_of(field(line, name)?),
            };
            let value = parts.iter().map(part).collect::<Option<String>>()?;
            Some((key.clone(), value))
        };
        self.entries.iter().map(entry).collect()
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for (place, piece) in text.split('%').enumerate() {
        match place % 2 {
            0 if piece.is_empty() => {}
            0 => parts.push(Part::Text(piece.to_owned())),
            _ if piece.is_empty() => parts.push(Part::Text("%".to_owned())),
            _ => parts.push(Part::Field(piece.to_owned())),
        }
    }
    match text.matches('%').count() % 2 {
        0 => Ok(parts),
        _ => Err(format!(
            "`{text}` has a % without another: a field is written %NAME%, and a percent sign %%"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn descriptors_are_made_of_fields() {
        let line = json!({"user": "alice", "code": 200, "a": {"b": "c"}, "x.y": "z", "none": "-"});
        let made = |text: &str| {
            let made = Template::parse(text).expect("a template").of(&line);
            let pair = |(key, value): (String, String)| format!("{key}={value}");
            made.map(|all| all.into_iter().map(pair).collect::<Vec<_>>().join(","))
        };
        assert_eq!(
            made("user=%user%,path=/x").as_deref(),
            Some("user=alice,path=/x")
        );
        assert_eq!(made("k=<%a.b%/%code%>").as_deref(), Some("k=<c/200>"));
        assert_eq!(made("k=%x.y%,p=100%%").as_deref(), Some("k=z,p=100%"));
        assert_eq!(made("k=%none%"), None);
        assert_eq!(made("k=%nobody%"), None);
        for wrong in ["", "user", "=x", "user=%user", "a=1,b"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
