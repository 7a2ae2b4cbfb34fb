//! Tags of a line, and for DogStatsD those that are taken out of its name.

use std::str::FromStr;

use regex::{Captures, Regex};

/// How lines are written.
#[derive(Clone, Debug)]
pub struct Form {
    /// DogStatsD's, with tags behind the value; else they are a part of the name.
    pub dog: bool,
    /// On every line.
    pub extra: Tags,
    /// The first that matches a name rewrites it.
    pub mogrifiers: Vec<Mogrifier>,
}

/// Tags, sorted by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

/// Makes tags of parts of a name.
#[derive(Clone, Debug)]
pub struct Mogrifier {
    pattern: Regex,
    name: String,
    tags: Tags,
}

impl Form {
    /// A line of this name and value.
    pub(super) fn line(&self, name: &str, value: &str) -> String {
        if !self.dog {
            let tags = self.extra.0.iter();
            let tags: String = tags
                .map(|(key, value)| format!(".__{key}={value}"))
                .collect();
            return format!("{name}{tags}:{value}");
        }
        let mogrified = self.mogrifiers.iter().find_map(|known| known.mogrify(name));
        let (name, tags) = mogrified.unwrap_or_else(|| (name.to_owned(), Vec::new()));
        let extra = self.extra.0.iter().cloned();
        let tags = extra
            .chain(tags)
            .map(|(key, value)| format!("{key}:{value}"));
        let tags: Vec<String> = tags.collect();
        match tags.is_empty() {
            true => format!("{name}:{value}"),
            false => format!("{name}:{value}|#{}", tags.join(",")),
        }
    }
}

impl FromStr for Tags {
    type Err = String;

    /// Reads `key:value,key:value`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        let read = |pair: &str| match pair.split_once(':') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("{pair} is no pair such as key:value")),
        };
        let mut tags = pairs.map(read).collect::<Result<Vec<_>, _>>()?;
        tags.sort();
        let strange = |(key, value): &&(String, String)| !is_plain(key) || !is_plain(value);
        match tags.iter().find(strange) {
            Some((key, _)) => Err(format!("{key} has what StatsD would take for an end")),
            None => Ok(Self(tags)),
        }
    }
}

impl Mogrifier {
    /// Rewrites what matches `pattern`; `$1` in the name and the tags is what its first group has matched. The error says what is
    /// wrong.
    pub fn new(pattern: &str, name: &str, tags: &str) -> Result<Self, String> {
        if pattern.is_empty() || name.is_empty() {
            return Err("it needs a PATTERN and a NAME".to_owned());
        }
        let pattern = Regex::new(pattern).map_err(|error| format!("PATTERN: {error}"))?;
        let tags: Tags = tags.parse().map_err(|error| format!("TAGS: {error}"))?;
        let texts = tags.0.iter().map(|(_, value)| value.as_str());
        for text in texts.chain([name]) {
            let groups = groups(text);
            if let Some((_, group)) = groups
                .into_iter()
                .find(|(_, n)| *n >= pattern.captures_len())
            {
                return Err(format!("PATTERN has no group ${group}"));
            }
        }
        let name = name.to_owned();
        Ok(Self {
            pattern,
            name,
            tags,
        })
    }

    fn mogrify(&self, name: &str) -> Option<(String, Vec<(String, String)>)> {
        let found = self.pattern.captures(name)?;
        let tags = self.tags.0.iter();
        let tags = tags.map(|(key, value)| (key.clone(), filled(value, &found).replace(',', "_")));
        Some((filled(&self.name, &found), tags.collect()))
    }
}

/// Each `$1` of a text: how it is written, and its number.
fn groups(text: &str) -> Vec<(String, usize)> {
    let behind = text.split('$').skip(1);
    let group = |rest: &str| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse().ok()?;
        Some((format!("${digits}"), number))
    };
    behind.filter_map(group).collect()
}

/// `text` with what each group has matched in the place of its name.
fn filled(text: &str, found: &Captures<'_>) -> String {
    let mut whole = String::new();
    let mut rest = text;
    for (written, number) in groups(text) {
        if let Some((before, after)) = rest.split_once(written.as_str()) {
            whole.push_str(before);
            whole.push_str(found.get(number).map_or("", |group| group.as_str()));
            rest = after;
        }
    }
    whole + rest
}

fn is_plain(text: &str) -> bool {
    !text.contains(['|', '\n', '#', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(dog: bool, extra: &str, mogrifiers: Vec<Mogrifier>) -> Form {
        let extra = extra.parse().expect("tags");
        Form {
            dog,
            extra,
            mogrifiers,
        }
    }

    #[test]
    fn tags_are_where_each_form_has_them() {
        let line = |dog| form(dog, "deploy:7,commit:12ab", Vec::new()).line("a.b", "1|c");
        assert_eq!(line(false), "a.b.__commit=12ab.__deploy=7:1|c");
        assert_eq!(line(true), "a.b:1|c|#commit:12ab,deploy:7");
        assert_eq!(form(true, "", Vec::new()).line("a.b", "1|c"), "a.b:1|c");
    }

    #[test]
    fn a_mogrifier_makes_tags_of_a_name() {
        let pattern = r"^ratelimit\.service\.rate_limit\.(.*)\.(.*)\.(.*)$";
        let name = "ratelimit.service.rate_limit.$3";
        let mogrifier = Mogrifier::new(pattern, name, "domain:$1,descriptor:$2").expect("good");
        let form = form(true, "a:b", vec![mogrifier]);
        assert_eq!(
            form.line(
                "ratelimit.service.rate_limit.edge.user_id.total_hits",
                "3|c"
            ),
            "ratelimit.service.rate_limit.total_hits:3|c|#a:b,descriptor:user_id,domain:edge"
        );
        assert_eq!(form.line("other", "3|c"), "other:3|c|#a:b");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |pattern, name, tags| Mogrifier::new(pattern, name, tags).expect_err("wrong");
        assert_eq!(wrong("", "a", ""), "it needs a PATTERN and a NAME");
        assert!(wrong("(", "a", "").starts_with("PATTERN: "));
        assert_eq!(wrong("(a)", "$2", ""), "PATTERN has no group $2");
        assert!(wrong("a", "b", "c").starts_with("TAGS: c is no pair"));
        assert!("a:b|c".parse::<Tags>().is_err());
    }

    #[test]
    fn groups_are_filled_in_once_each() {
        let pattern = Regex::new("(a+)(b+)").expect("a pattern");
        let found = pattern.captures("aab").expect("a match");
        assert_eq!(filled("$2.$1.$2$", &found), "b.aa.b$");
        assert_eq!(filled("$0", &found), "aab");
        assert_eq!(filled("plain", &found), "plain");
    }
}
