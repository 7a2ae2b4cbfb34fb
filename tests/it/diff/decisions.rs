//! What nobody says anything of changes nothing: of random rules and random changes of them, those of which `tollgate diff` has
//! nothing to say are decided alike, request by request, with all headers, before and after the change.
//!
//! `SEED=n` plays one seed, `SEEDS=n` plays so many.

use std::fmt::Write;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::support::rules::compile;
use crate::support::service::Service;

const SEEDS: u64 = 800;

/// What is sent before the rules change, and after.
const REQUESTS: usize = 30;

const KEYS: [&str; 5] = ["a", "b", "a_b", "a*", "*x"];
const SENT_KEYS: [&str; 4] = ["a", "b", "a_b", "ax"];
const VALUES: [&str; 16] = [
    "",
    "",
    "x",
    "xy",
    "x*",
    "*x",
    "x*x",
    "*",
    "x*y*x",
    "*y*",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "10.1.*",
    "::/0",
    "b_x",
];
const SENT: [&str; 12] = [
    "", "x", "xy", "xx", "xyx", "yx", "y", "10.1.2.3", "10.1.9.9", "10.9.9.9", "::1", "b_x",
];

/// What stands in a descriptor beside its key and value.
const SAYS: [&str; 22] = [
    "",
    "",
    "rate_limit: {requests_per_unit: 2, unit: day}",
    "rate_limit: {requests_per_unit: 2, unit: day}",
    "rate_limit: {requests_per_unit: 3, unit: day}",
    "rate_limit: {requests_per_unit: 2, unit: day, name: named}",
    "rate_limit: {requests_per_unit: 2, unit: day, algorithm: sliding_window}",
    "rate_limit: {requests_per_unit: 2, unit: day, algorithm: token_bucket, burst: 3}",
    "rate_limit: {requests_per_unit: 2, unit: day, charge: always}",
    "rate_limit: {requests_per_unit: 2, unit: day, failure_mode: deny}",
    "rate_limit: {requests_per_unit: 2, unit: day, replaces: [{name: named}]}",
    "rate_limit: {unlimited: true}",
    "rate_limit: {unlimited: true, replaces: [{name: named}]}",
    "rate_limits: [{requests_per_unit: 2, unit: day}, {requests_per_unit: 1, unit: second}]",
    "rate_limits: [{requests_per_unit: 1, unit: second}, {requests_per_unit: 2, unit: day}]",
    "shadow_mode: true, rate_limit: {requests_per_unit: 2, unit: day}",
    "quota_mode: true, rate_limit: {requests_per_unit: 2, unit: day}",
    "detailed_metric: true, rate_limit: {requests_per_unit: 2, unit: day}",
    "plan: {from: directory, default: free}",
    "plan: {from: directory, default: pro}",
    "ban: {after: 1, within: hour, for: 1h}, rate_limit: {requests_per_unit: 2, unit: day}",
    "value_to_metric: true, rate_limit: {requests_per_unit: 2, unit: day}",
];

/// What stands beside the descriptors.
const TOPS: [&str; 13] = [
    "",
    "",
    "",
    "partition_by: [a]\n",
    "partition_by: [b, a]\n",
    "sensitive: [a]\n",
    "time_zone: Asia/Tokyo\n",
    "failure_mode: deny\n",
    "response: {headers: [x-ratelimit, x-quota], body: problem}\n",
    "response: {messages: {rate_limit_exceeded: No.}}\n",
    "costs: [{key: a, value: x, cost: 2}, {key: b, cost: 0}]\n",
    "costs: [{key: b, cost: 0}, {key: a, value: x, cost: 2}]\n",
    "costs: [{key: a, value: x, cost: 2}, {key: a, value: 'x*', cost: 0.5}]\n",
];

const PLANS: [&str; 4] = [
    "plans: {free: [{requests_per_unit: 1, unit: day}], pro: [{requests_per_unit: 2, unit: day, name: p}]}\n",
    "plans: {pro: [{requests_per_unit: 2, unit: day, name: p}], free: [{requests_per_unit: 1, unit: day}]}\n",
    "plans: {free: [{requests_per_unit: 2, unit: day, name: p}], pro: [{requests_per_unit: 2, unit: day, name: p}]}\n",
    "plans: {free: [{requests_per_unit: 1, unit: day}], pro: unlimited}\n",
];

#[derive(Clone, Debug)]
struct Rules {
    top: &'static str,
    plans: &'static str,
    level: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    key: &'static str,
    value: &'static str,
    says: &'static str,
    shared: bool,
    below: Vec<Node>,
}

impl Rules {
    fn random(random: &mut SmallRng) -> Self {
        Self {
            top: pick(&TOPS, random),
            plans: PLANS[0],
            level: level(random, 2),
        }
    }

    /// A change, which may come to nothing.
    fn changed(&self, random: &mut SmallRng) -> Self {
        let mut next = self.clone();
        for _ in 0..random.random_range(1..3) {
            match random.random_range(0..20) {
                0 => next.top = pick(&TOPS, random),
                1 => next.plans = pick(&PLANS, random),
                _ => change(&mut next.level, random, 2),
            }
        }
        tidy(&mut next.level);
        next
    }

    fn yaml(&self) -> String {
        let mut text = format!("domain: d\n{}{}", self.top, self.plans);
        write(&self.level, 0, &mut text);
        text
    }
}

fn pick<T: Copy>(from: &[T], random: &mut SmallRng) -> T {
    *from.choose(random).expect("some")
}

fn node(random: &mut SmallRng, depth: u32) -> Node {
    let value = pick(&VALUES, random);
    Node {
        key: pick(&KEYS, random),
        value,
        says: pick(&SAYS, random),
        shared: value.contains('*') && random.random_bool(0.2),
        below: match depth {
            0 => Vec::new(),
            depth if random.random_bool(0.4) => level(random, depth - 1),
            _ => Vec::new(),
        },
    }
}

fn level(random: &mut SmallRng, depth: u32) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..random.random_range(1..7))
        .map(|_| node(random, depth))
        .collect();
    tidy(&mut nodes);
    nodes
}

/// Takes out what the compiler would refuse.
fn tidy(nodes: &mut Vec<Node>) {
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|node| {
        let is_network = node.value.contains('/');
        !(node.key.contains('*') && is_network) && seen.insert((node.key, node.value))
    });
    nodes.iter_mut().for_each(|node| {
        node.shared &= node.value.contains('*');
        // Of one counter for many there is no one subject.
        if node.shared && node.says.starts_with("plan") {
            node.shared = false;
        }
        tidy(&mut node.below);
    });
}

/// Many of these change nothing: what is never reached, or stands in another place.
fn change(nodes: &mut Vec<Node>, random: &mut SmallRng, depth: u32) {
    let below: Vec<usize> = (0..nodes.len())
        .filter(|at| !nodes[*at].below.is_empty())
        .collect();
    if depth > 0
        && random.random_bool(0.4)
        && let Some(at) = below.choose(random)
    {
        return change(&mut nodes[*at].below, random, depth - 1);
    }
    let at = random.random_range(0..nodes.len().max(1));
    match random.random_range(0..9) {
        0..3 => nodes.shuffle(random),
        3 => nodes.insert(at.min(nodes.len()), node(random, depth)),
        4 => nodes.push(node(random, 0)),
        5 if !nodes.is_empty() => drop(nodes.remove(at)),
        6 if !nodes.is_empty() => nodes[at].says = pick(&SAYS, random),
        7 if !nodes.is_empty() => nodes[at].value = pick(&VALUES, random),
        8 if !nodes.is_empty() => nodes[at].shared = !nodes[at].shared,
        _ => {}
    }
}

fn write(nodes: &[Node], indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let _ = writeln!(text, "{pad}descriptors:");
    for node in nodes {
        let field = if node.value.contains('/') {
            "cidr"
        } else {
            "value"
        };
        let _ = write!(
            text,
            "{pad}  - {{key: '{}', {field}: '{}'",
            node.key, node.value
        );
        if node.shared {
            text.push_str(", share_threshold: true");
        }
        if !node.says.is_empty() {
            let _ = write!(text, ", {}", node.says);
        }
        if !node.below.is_empty() {
            text.push_str(", descriptors: [");
            inner(&node.below, text);
            text.push(']');
        }
        text.push_str("}\n");
    }
}

/// The same in one line.
fn inner(nodes: &[Node], text: &mut String) {
    let mut lines = String::new();
    write(nodes, 0, &mut lines);
    for line in lines.lines().skip(1) {
        let _ = write!(text, "{}, ", line.trim_start_matches("  - "));
    }
}

fn descriptor(random: &mut SmallRng) -> String {
    let entries = (0..random.random_range(1..4))
        .map(|_| format!("{}={}", pick(&SENT_KEYS, random), pick(&SENT, random)));
    entries.collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn what_nothing_is_said_of_changes_nothing() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let (mut silent, mut told) = (0, 0);
    for seed in seeds.clone() {
        let mut random = SmallRng::seed_from_u64(seed);
        let old = Rules::random(&mut random);
        let new = old.changed(&mut random);
        let (old, new) = (old.yaml(), new.yaml());
        let is_good = |text: &String| compile(&[(String::new(), text.clone())], false).is_ok();
        if !is_good(&old) || !is_good(&new) {
            // What is sensitive may not be in the name of a metric.
            continue;
        }
        assert!(super::changes(&old, &old).is_empty(), "seed {seed}\n{old}");
        if !super::changes(&old, &new).is_empty() {
            told += 1;
            continue;
        }
        silent += 1;
        let (stays, moves) = (Service::new(&old), Service::new(&old));
        for at in 0..2 * REQUESTS {
            if at == REQUESTS {
                moves.install(&new);
            }
            let request: Vec<String> = (0..random.random_range(1..3))
                .map(|_| descriptor(&mut random))
                .collect();
            let request: Vec<&str> = request.iter().map(String::as_str).collect();
            let (before, after) = (stays.ask(&request).await, moves.ask(&request).await);
            assert_eq!(before, after, "seed {seed}, {request:?}\n{old}\n{new}");
        }
    }
    // Both happen often enough for this to say something.
    if seeds.count() as u64 >= SEEDS {
        assert!(silent > 100 && told > 100, "{silent} silent, {told} told");
    }
}
