//! The rules of a simulated service: random, changed on the way, and written as a file for the real compiler.

use std::fmt::Write;

use rand::Rng;
use rand::rngs::SmallRng;
use tollgate::limit::ban::Ban;
use tollgate::limit::period::Zone;
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::rules::FailureMode;
use tollgate::time::Micros;

/// What the descriptors of each rule are made of.
pub(super) const SHAPES: [&[&str]; 6] = [
    &["user"],
    &["path"],
    &["user", "path"],
    &["ip"],
    &["team"],
    &["group"],
];

/// The rule whose limits are those of a plan.
pub(super) const PLANNED: usize = 0;
/// The rule that stands below it.
const BELOW: usize = 2;
/// The rule of addresses, which may ban.
const BANNING: usize = 3;
/// The rules that may be quotas.
const QUOTAS: [usize; 2] = [4, 5];

/// The names of the plans; the last has no limit.
pub(super) const PLANS: [&str; 3] = ["free", "pro", "staff"];

/// What some paths cost, in thousandths of a hit.
pub(super) const COSTS: [(&str, u64); 2] = [("p0", 500), ("p1", 2000)];

/// All rules of a domain.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The name of the zone, and the zone.
    pub(super) zone: &'static str,
    pub(super) place: Zone,
    mode: FailureMode,
    /// The limits of the plans that have some.
    pub(super) plans: [Vec<Spec>; 2],
    pub(super) rules: Vec<Rule>,
}

/// What a descriptor of one shape is limited by.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Empty for the one that has those of a plan.
    pub(super) limits: Vec<Spec>,
    pub(super) shadow: bool,
    pub(super) quota: bool,
    /// After how many refusals in which unit, for how many seconds, and at most.
    ban: Option<(u32, Unit, u64, u64)>,
}

/// A limit as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    pub(super) requests: u32,
    pub(super) unit: Unit,
    pub(super) multiplier: u32,
    pub(super) algorithm: Algorithm,
    pub(super) always: bool,
    pub(super) mode: Option<FailureMode>,
    /// Other numbers that are tried in its place.
    pub(super) candidate: Option<Box<Spec>>,
}

impl Rules {
    pub(super) fn random(random: &mut SmallRng, charge_always: bool) -> Self {
        let zone = ["UTC", "Europe/Berlin", "America/Santiago"][random.random_range(0..3)];
        let mut rules: Vec<Rule> = Vec::new();
        for shape in 0..SHAPES.len() {
            let limits = match shape {
                PLANNED => Vec::new(),
                _ => specs(random, charge_always),
            };
            rules.push(Rule {
                limits,
                shadow: shape != PLANNED && random.random_bool(0.08),
                quota: QUOTAS.contains(&shape) && random.random_bool(0.5),
                ban: (shape == BANNING && random.random_bool(0.6)).then(|| ban(random)),
            });
        }
        let free = specs(random, charge_always);
        // The same windows with other numbers, so that a subject that moves keeps what it has used.
        let mut pro = free.clone();
        pro.iter_mut().for_each(|spec| spec.renumber(random));
        Self {
            zone,
            place: Zone::named(zone).expect("a zone"),
            mode: mode(random),
            plans: [free, pro],
            rules,
        }
    }

    /// The next version: other numbers, a limit more or less, other roles.
    pub(super) fn changed(&self, random: &mut SmallRng) -> Self {
        let mut next = self.clone();
        for _ in 0..random.random_range(1..4) {
            let which = random.random_range(1..SHAPES.len());
            let rule = &mut next.rules[which];
            match random.random_range(0..6) {
                0..2 => rule
                    .limits
                    .iter_mut()
                    .for_each(|spec| spec.renumber(random)),
                2 => {
                    let spec = Spec::random(random, false);
                    if rule.limits.iter().all(|other| !other.same_place(&spec)) {
                        rule.limits.push(spec);
                    }
                }
                3 if rule.limits.len() > 1 => {
                    rule.limits.remove(0);
                }
                4 => rule.shadow = random.random_bool(0.2),
                _ => {
                    let plan = &mut next.plans[random.random_range(0..2)];
                    plan.iter_mut().for_each(|spec| spec.renumber(random));
                }
            }
        }
        next
    }

    /// As a rule file.
    pub(super) fn yaml(&self) -> String {
        let mut text = format!(
            "domain: d\ntime_zone: {}\nfailure_mode: {}\npartition_by: [user]\ncosts:\n",
            self.zone,
            word(self.mode)
        );
        for (path, cost) in COSTS {
            let cost = Hits::from_thousandths(cost);
            let _ = writeln!(text, "  - {{key: path, value: {path}, cost: {cost}}}");
        }
        text.push_str("plans:\n");
        for (name, limits) in PLANS.iter().zip(&self.plans) {
            let _ = writeln!(text, "  {name}:");
            text.extend(limits.iter().map(|spec| format!("    - {}\n", spec.yaml())));
        }
        text.push_str("  staff: unlimited\ndescriptors:\n");
        for (shape, rule) in self.rules.iter().enumerate() {
            let [key] = SHAPES[shape] else { continue };
            let _ = writeln!(text, "  - key: {key}");
            if shape == PLANNED {
                text.push_str("    plan: {from: directory, default: free}\n    descriptors:\n");
                text.push_str("    - key: path\n");
                self.rules[BELOW].write(&mut text, "      ");
            } else {
                rule.write(&mut text, "    ");
            }
        }
        text
    }

    /// What the file says of limits that do not say it.
    pub(super) fn mode_of(&self, spec: &Spec) -> FailureMode {
        spec.mode.unwrap_or(self.mode)
    }

    pub(super) fn default_mode(&self) -> FailureMode {
        self.mode
    }
}

impl Rule {
    fn write(&self, text: &mut String, indent: &str) {
        for (name, set) in [("shadow_mode", self.shadow), ("quota_mode", self.quota)] {
            if set {
                let _ = writeln!(text, "{indent}{name}: true");
            }
        }
        if let Some((after, within, first, longest)) = self.ban {
            let within = within.name();
            let _ = writeln!(
                text,
                "{indent}ban: {{after: {after}, within: {within}, for: {first}s, max: {longest}s}}"
            );
        }
        let _ = writeln!(text, "{indent}rate_limits:");
        for spec in &self.limits {
            let _ = writeln!(text, "{indent}  - {}", spec.yaml());
        }
    }

    pub(super) fn ban(&self) -> Option<Ban> {
        let (after, within, first, longest) = self.ban?;
        let secs = Micros::from_secs;
        Some(Ban::new(after, within, secs(first), secs(longest)).expect("a ban"))
    }
}

impl Spec {
    fn random(random: &mut SmallRng, charge_always: bool) -> Self {
        let unit = match random.random_range(0..20) {
            0..7 => Unit::Second,
            7..14 => Unit::Minute,
            14..16 => Unit::Hour,
            16..18 => Unit::Day,
            18 => Unit::Week,
            _ => Unit::Month,
        };
        let algorithm = match random.random_range(0..3) {
            0 => Algorithm::FixedWindow,
            1 => Algorithm::SlidingWindow,
            _ => Algorithm::TokenBucket { burst: Hits::ONE },
        };
        let mut spec = Self {
            requests: 1,
            unit,
            multiplier: [1, 1, 1, 2, 7][random.random_range(0..5)],
            algorithm,
            always: charge_always && random.random_bool(0.15),
            mode: random.random_bool(0.3).then(|| mode(random)),
            candidate: None,
        };
        spec.renumber(random);
        if random.random_bool(0.25) {
            let mut candidate = spec.clone();
            candidate.renumber(random);
            spec.candidate = Some(Box::new(candidate));
        }
        spec
    }

    fn renumber(&mut self, random: &mut SmallRng) {
        self.requests = match random.random_range(0..10) {
            0 => random.random_range(20..90),
            _ => random.random_range(0..12),
        };
        if let Algorithm::TokenBucket { burst } = &mut self.algorithm {
            self.requests = self.requests.max(1);
            *burst = Hits::from_thousandths(random.random_range(1000..15_000));
        }
    }

    fn same_place(&self, other: &Self) -> bool {
        (self.unit, self.multiplier) == (other.unit, other.multiplier)
            && std::mem::discriminant(&self.algorithm) == std::mem::discriminant(&other.algorithm)
    }

    fn yaml(&self) -> String {
        let Self {
            requests,
            unit,
            multiplier,
            ..
        } = self;
        let (name, unit) = (self.name(), unit.name());
        let mut text = format!(
            "{{name: {name}, requests_per_unit: {requests}, unit: {unit}, unit_multiplier: {multiplier}"
        );
        match self.algorithm {
            Algorithm::FixedWindow => {}
            Algorithm::SlidingWindow => text.push_str(", algorithm: sliding_window"),
            Algorithm::TokenBucket { burst } => {
                let _ = write!(text, ", algorithm: token_bucket, burst: {burst}");
            }
        }
        if self.always {
            text.push_str(", charge: always");
        }
        if let Some(mode) = self.mode {
            let _ = write!(text, ", failure_mode: {}", word(mode));
        }
        if let Some(candidate) = &self.candidate {
            let requests = candidate.requests;
            let _ = write!(text, ", candidate: {{requests_per_unit: {requests}");
            if let Algorithm::TokenBucket { burst } = candidate.algorithm {
                let _ = write!(text, ", burst: {burst}");
            }
            text.push('}');
        }
        text + "}"
    }

    /// Names its window, so that it stays when the numbers change.
    pub(super) fn name(&self) -> String {
        let algorithm = match self.algorithm {
            Algorithm::FixedWindow => "f",
            Algorithm::SlidingWindow => "s",
            Algorithm::TokenBucket { .. } => "t",
        };
        format!("{algorithm}{}{}", self.multiplier, self.unit.name())
    }

    /// The same with a number of a subject's own, beside which nothing is tried: a burst grows and shrinks with it.
    pub(super) fn with_requests(&self, requests: u32) -> Self {
        let mut spec = self.clone();
        spec.candidate = None;
        spec.requests = requests;
        if let Algorithm::TokenBucket { burst } = &mut spec.algorithm {
            let scaled = burst.thousandths() * u64::from(requests) / u64::from(self.requests);
            *burst = Hits::from_thousandths(scaled);
        }
        spec
    }

    /// The same with room for more; a bucket refills no faster for it.
    pub(super) fn with_extra(&self, extra: u32) -> Self {
        let mut spec = self.clone();
        spec.candidate = None;
        match &mut spec.algorithm {
            Algorithm::TokenBucket { burst } => *burst = burst.plus(Hits::whole(extra)),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => spec.requests += extra,
        }
        spec
    }

    /// What one of `instances` enforces alone: its part of the hits, at least one if there are any. A bucket fills as many
    /// times slower, so its window is as many times longer.
    pub(super) fn share(&self, instances: u32) -> Self {
        let mut share = self.clone();
        match &mut share.algorithm {
            Algorithm::TokenBucket { burst } => {
                let part = Hits::from_thousandths(burst.thousandths() / u64::from(instances));
                *burst = part.max(Hits::ONE).min(*burst);
                share.multiplier *= instances;
            }
            Algorithm::FixedWindow | Algorithm::SlidingWindow => {
                share.requests = match self.requests {
                    0 => 0,
                    requests => (requests / instances).max(1),
                };
            }
        }
        share
    }

    pub(super) fn limit(&self, zone: &Zone) -> Limit {
        let (unit, multiplier) = (self.unit, self.multiplier);
        let limit = Limit::new(self.requests, unit, multiplier, self.algorithm, zone);
        limit.expect("a limit")
    }

    /// The most hits at once, in thousandths.
    pub(super) fn capacity(&self) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } => burst.thousandths(),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => u64::from(self.requests) * 1000,
        }
    }

    /// The nominal length of the window, in microseconds.
    pub(super) fn window(&self) -> i64 {
        let secs = match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
            Unit::Day => 86_400,
            Unit::Week => 604_800,
            Unit::Month => 30 * 86_400,
            Unit::Year => 365 * 86_400,
        };
        secs * i64::from(self.multiplier) * 1_000_000
    }
}

/// One to three limits with different windows.
fn specs(random: &mut SmallRng, charge_always: bool) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let spec = Spec::random(random, charge_always);
        if specs.iter().all(|other| !other.same_place(&spec)) {
            specs.push(spec);
        }
    }
    specs
}

fn ban(random: &mut SmallRng) -> (u32, Unit, u64, u64) {
    let within = [Unit::Second, Unit::Minute][random.random_range(0..2)];
    let first = random.random_range(1..60);
    let longest = first * random.random_range(1..6);
    (random.random_range(1..4), within, first, longest)
}

fn mode(random: &mut SmallRng) -> FailureMode {
    match random.random_range(0..4) {
        0 => FailureMode::Allow,
        1 => FailureMode::Deny,
        _ => FailureMode::Local,
    }
}

fn word(mode: FailureMode) -> &'static str {
    match mode {
        FailureMode::Allow => "allow",
        FailureMode::Deny => "deny",
        FailureMode::Local => "local",
    }
}
