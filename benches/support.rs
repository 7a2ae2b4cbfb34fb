//! Rules by the number, and what finds them.
//!
//! Values are random, so that neither their order nor their length helps. Whatever is measured is asked for all rules in random
//! order, so that it pays for what the caches do not hold.

#![allow(dead_code, reason = "each bench uses a part of this")]

use std::collections::HashSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tollgate::engine::{Engine, Settings};
use tollgate::rules::compile::{self, Options};
use tollgate::rules::file::SourceFile;
use tollgate::rules::{Entry, RuleSet};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::Clock;

/// The only domain.
pub(crate) const DOMAIN: &str = "d";

/// How many lookups there are, whatever the number of rules: going through them costs the same for all.
pub(crate) const LOOKUPS: usize = 1 << 17;

/// What the rules are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Values of one key.
    Exact,
    /// Ten paths below each tenant.
    Nested,
    /// Networks of one key, from /8 to /28 and from /24 to /64.
    Cidr,
    /// Values of one key that begin with a text.
    Prefix,
    /// Values of one key, none of which is sent, and the key without a value.
    Bare,
    /// Any user below each tenant.
    Users,
}

/// One descriptor of a rule file.
struct Written {
    yaml: String,
    /// Descriptors that find its rules.
    found_by: Vec<Vec<(&'static str, String)>>,
}

/// Rules as text, and descriptors that find them.
pub(crate) struct Generated {
    /// The items of `descriptors`.
    written: Vec<Written>,
    rng: SmallRng,
}

/// Descriptors of one or two entries in one text, so that reading them one after the other misses no cache.
pub(crate) struct Lookups {
    text: String,
    descriptors: Vec<Vec<(&'static str, Range<usize>)>>,
}

/// `count` rules; the same for the same arguments.
pub(crate) fn generate(shape: Shape, count: usize) -> Generated {
    let mut rng = SmallRng::seed_from_u64(0x70_11);
    let mut seen = HashSet::new();
    let per_descriptor = if shape == Shape::Nested { 10 } else { 1 };
    let mut written = Vec::new();
    while written.len() * per_descriptor < count {
        let item = one(shape, written.is_empty(), &mut rng);
        if seen.insert(item.yaml.clone()) {
            written.push(item);
        }
    }
    Generated { written, rng }
}

/// A limit that is never reached.
const LIMIT: &str = "rate_limit: {unit: minute, requests_per_unit: 4000000000}";

/// A descriptor of the first level as most files have it, one field a line.
fn item(key: &str, matcher: &str) -> String {
    format!(
        "  - key: {key}\n{matcher}    rate_limit:\n      unit: minute\n      requests_per_unit: 4000000000\n"
    )
}

fn one(shape: Shape, first: bool, rng: &mut SmallRng) -> Written {
    match shape {
        Shape::Exact => {
            let value = format!("user-{}", word(rng));
            Written {
                yaml: item("user_id", &format!("    value: {value}\n")),
                found_by: vec![vec![("user_id", value)]],
            }
        }
        Shape::Nested => {
            let tenant = format!("tenant-{}", word(rng));
            let mut yaml = format!("  - key: tenant\n    value: {tenant}\n    descriptors:\n");
            let mut found_by = Vec::new();
            for _ in 0..10 {
                let path = format!("/{}", word(rng));
                let _ = writeln!(yaml, "    - key: path\n      value: {path}\n      {LIMIT}");
                found_by.push(vec![("tenant", tenant.clone()), ("path", path)]);
            }
            Written { yaml, found_by }
        }
        Shape::Cidr => {
            let (net, address) = network(rng);
            Written {
                yaml: item("remote_address", &format!("    cidr: '{net}'\n")),
                found_by: vec![vec![("remote_address", address.to_string())]],
            }
        }
        Shape::Prefix => {
            let length = rng.random_range(1..8);
            let start = format!("/{}/{}", word(rng), &word(rng)[..length]);
            Written {
                yaml: item("path", &format!("    value: {start}/*\n")),
                found_by: vec![vec![("path", format!("{start}/{}", word(rng)))]],
            }
        }
        Shape::Bare => {
            let value = format!("    value: user-{}\n", word(rng));
            Written {
                yaml: item("user_id", if first { "" } else { &value }),
                found_by: vec![vec![("user_id", format!("other-{}", word(rng)))]],
            }
        }
        Shape::Users => {
            let tenant = format!("tenant-{}", word(rng));
            Written {
                yaml: format!(
                    "  - key: tenant\n    value: {tenant}\n    descriptors:\n    - key: user_id\n      {LIMIT}\n"
                ),
                found_by: vec![vec![("tenant", tenant), ("user_id", String::new())]],
            }
        }
    }
}

/// Ten random letters and digits.
fn word(rng: &mut SmallRng) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let letter = |_| char::from(LETTERS[rng.random_range(0..32)]);
    (0..10).map(letter).collect()
}

/// A network, four of five of IPv4, and an address in it.
fn network(rng: &mut SmallRng) -> (IpNet, IpAddr) {
    let (address, length) = if rng.random_ratio(4, 5) {
        let address = IpAddr::from(Ipv4Addr::from_bits(rng.random()));
        (address, rng.random_range(8..=28))
    } else {
        let random: u128 = rng.random();
        let bits = random >> 4 | 0x2 << 124;
        (
            IpAddr::from(Ipv6Addr::from_bits(bits)),
            rng.random_range(24..=64),
        )
    };
    let net = IpNet::new(address, length).expect("a length within the address");
    (net.trunc(), address)
}

impl Generated {
    /// The rules in `count` files of as many rules each, all of one domain.
    pub(crate) fn files(&self, count: usize) -> Vec<SourceFile> {
        let each = self.written.len().div_ceil(count);
        let file = |(index, items): (usize, &[Written])| {
            let items: String = items.iter().map(|item| item.yaml.as_str()).collect();
            SourceFile {
                name: format!("rules-{index:03}.yaml"),
                text: format!("domain: {DOMAIN}\ndescriptors:\n{items}"),
            }
        };
        self.written.chunks(each).enumerate().map(file).collect()
    }

    /// The rules, compiled.
    pub(crate) fn compile(&self) -> RuleSet {
        let options = Options::default();
        let rules = compile::compile(&self.files(1), options);
        rules.unwrap_or_else(|report| panic!("{report}"))
    }

    /// Each rule as often as any other, in random order. An empty value stands for one that differs in all lookups.
    pub(crate) fn lookups(&mut self) -> Lookups {
        self.some_lookups(LOOKUPS)
    }

    /// The same, not so many of them; no place may be further.
    pub(crate) fn some_lookups(&mut self, count: usize) -> Lookups {
        let all: Vec<_> = self
            .written
            .iter()
            .flat_map(|item| &item.found_by)
            .collect();
        let mut order: Vec<_> = all.iter().cycle().take(count).collect();
        order.shuffle(&mut self.rng);
        let mut lookups = Lookups {
            text: String::new(),
            descriptors: Vec::new(),
        };
        for (number, entries) in order.into_iter().enumerate() {
            let mut descriptor = Vec::new();
            for (key, value) in *entries {
                let start = lookups.text.len();
                lookups.text.push_str(value);
                if value.is_empty() {
                    let _ = write!(lookups.text, "user-{number:06}");
                }
                descriptor.push((*key, start..lookups.text.len()));
            }
            lookups.descriptors.push(descriptor);
        }
        lookups
    }
}

impl Lookups {
    /// The descriptor at a place; after the last comes the first.
    pub(crate) fn entries(&self, place: usize) -> ([Entry<'_>; 2], usize) {
        let descriptor = &self.descriptors[place % LOOKUPS];
        let mut entries = [Entry { key: "", value: "" }; 2];
        for (entry, (key, range)) in entries.iter_mut().zip(descriptor) {
            let value = &self.text[range.clone()];
            *entry = Entry { key, value };
        }
        (entries, descriptor.len())
    }
}

/// An engine without rules that counts in memory.
pub(crate) fn engine() -> (Arc<Engine>, Arc<Metrics>) {
    let (clock, metrics) = (Clock::default(), Metrics::new());
    let store = Store::Embedded(Embedded::new(1 << 20, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Arc::clone(&metrics));
    (Arc::new(engine), metrics)
}
