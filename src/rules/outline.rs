//! All descriptors of the files, those that limit nothing too, in the order of the files: for who compares rules. A rule set
//! does not keep them, since no request needs more than the matcher has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::Rule;
use super::matcher::Matcher;

/// The first level of each domain, by its name.
pub type Outline = HashMap<String, Vec<Node>>;

/// A descriptor of a file.
#[derive(Debug)]
pub struct Node {
    /// As written.
    pub key: Arc<str>,
    /// Which values it matches.
    pub matches: Matches,
    /// For descriptors that end here.
    pub rule: Option<Arc<Rule>>,
    /// What may follow.
    pub below: Vec<Node>,
}

/// Which values of its key a descriptor matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Matches {
    /// Those that nothing else does.
    Rest,
    /// This one.
    Value(Box<str>),
    /// Addresses in this network.
    Network(IpNet),
    /// Those like this, `*` standing for any text.
    Pattern(Box<str>),
}

impl From<Matcher<'_>> for Matches {
    fn from(matcher: Matcher<'_>) -> Self {
        match matcher {
            Matcher::Bare => Matches::Rest,
            Matcher::Exact(value) => Matches::Value(value.into()),
            Matcher::Cidr(net) => Matches::Network(net.trunc()),
            Matcher::Pattern(pattern) => Matches::Pattern(pattern.into()),
        }
    }
}

impl fmt::Display for Node {
    /// `key`, or `key=value`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.matches {
            Matches::Rest => write!(f, "{key}"),
            Matches::Value(value) | Matches::Pattern(value) => write!(f, "{key}={value}"),
            Matches::Network(net) => write!(f, "{key}={net}"),
        }
    }
}
