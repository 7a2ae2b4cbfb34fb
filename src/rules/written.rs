//! Descriptors as people write them: `key=value,key=value`.

use super::{Entries, Entry};

/// The keys and values of a descriptor.
pub type Pairs = Vec<(String, String)>;

/// Reads `key=value,key=value`; in both, what would be taken for punctuation is percent-encoded, as in the subjects that the API
/// tells. A part without `=` belongs to the value before it. None if it is not written so.
pub fn pairs(text: &str) -> Option<Pairs> {
    let mut parts: Vec<String> = Vec::new();
    for part in text.split(',') {
        match parts.last_mut() {
            Some(last) if !part.contains('=') => *last = format!("{last},{part}"),
            _ => parts.push(part.to_owned()),
        }
    }
    let pair = |part: String| {
        let (key, value) = part.split_once('=')?;
        let key = decoded(key.trim())?;
        (!key.is_empty()).then_some((key, decoded(value.trim())?))
    };
    parts.into_iter().map(pair).collect()
}

/// The same as the entries of a request.
pub fn entries(pairs: &[(String, String)]) -> Entries<'_> {
    let pairs = pairs.iter();
    pairs.map(|(key, value)| Entry { key, value }).collect()
}

/// Percent-encoded bytes as they are meant; none if they are no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_they_are_written() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let two = vec![pair("a", "1"), pair("b", "x,y")];
        assert_eq!(pairs("a=1,b=x,y"), Some(two.clone()));
        assert_eq!(pairs("a=1,b=x%2Cy"), Some(two));
        assert_eq!(pairs("a="), Some(vec![pair("a", "")]));
        assert_eq!(pairs("a=b=c"), Some(vec![pair("a", "b=c")]));
        assert_eq!(pairs("a=100%"), Some(vec![pair("a", "100%")]));
        for wrong in ["", "a", "=1", "a=%FF"] {
            assert_eq!(pairs(wrong), None, "{wrong}");
        }
    }
}
