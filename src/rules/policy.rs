//! An item of `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers-10 has it: `"per_minute";q=10;w=60`.

use crate::limit::Limit;

/// What clients are told of a limit, whatever they have used of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    text: Box<str>,
    /// Where the name ends, which begins after the first quote.
    name_end: usize,
}

impl Policy {
    /// The item of a limit: under its own name, or that of its rule's last key and its window.
    pub fn new(name: Option<&str>, key: Option<&str>, limit: &Limit) -> Self {
        let mut text = String::with_capacity(USUAL);
        text.push('"');
        match name {
            Some(name) => put_visible(&mut text, name),
            None => {
                put_visible(&mut text, key.unwrap_or("limit"));
                text.push('_');
                if limit.multiplier() > 1 {
                    put_number(&mut text, limit.multiplier());
                }
                text.push_str(limit.unit().name());
            }
        }
        let name_end = text.len();
        text.push_str("\";q=");
        put_number(&mut text, limit.requests_per_unit());
        text.push_str(";w=");
        put_number(&mut text, limit.window().ceil_secs());
        let text = text.into_boxed_str();
        Self { text, name_end }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name, which `RateLimit` has as well.
    pub fn name(&self) -> &str {
        &self.text[1..self.name_end]
    }

    /// What comes after the name: the quote, and the parameters.
    pub fn parameters(&self) -> &str {
        &self.text[self.name_end..]
    }
}

/// What nearly all items have room in, in bytes.
const USUAL: usize = 64;

/// Adds a number in digits.
pub fn put_number(to: &mut String, number: impl itoa::Integer) {
    to.push_str(itoa::Buffer::new().format(number));
}

/// Adds what stays inside the quotes of a structured field (RFC 9651, section 3.3.3); the rest becomes `_`.
pub fn put_visible(to: &mut String, text: &str) {
    let kept = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
    if text.bytes().map(char::from).all(kept) {
        to.push_str(text);
    } else {
        to.extend(text.chars().map(|c| if kept(c) { c } else { '_' }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::{Algorithm, Unit};

    #[test]
    fn an_item_is_a_structured_field_whatever_the_name() {
        let limit = Limit::new(10, Unit::Minute, 5, Algorithm::FixedWindow, &Zone::utc());
        let limit = limit.expect("a limit");
        for (name, key, wanted) in [
            (Some("a\"b\\c\u{e9}"), None, r#""a_b_c_";q=10;w=300"#),
            (None, Some("path"), r#""path_5minute";q=10;w=300"#),
            (None, None, r#""limit_5minute";q=10;w=300"#),
        ] {
            let policy = Policy::new(name, key, &limit);
            assert_eq!(policy.text(), wanted);
            assert_eq!(
                format!("\"{}{}", policy.name(), policy.parameters()),
                wanted
            );
        }
    }
}
