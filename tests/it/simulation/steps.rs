//! What happens in a simulated world, chosen by a seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tollgate::limit::Unit;
use tollgate::store::faulty::Fault;

use super::ask::{Ask, Asked, Part, Standing};
use super::rules::{PLANNED, PLANS, Rules, SHAPES};

/// How many instances there are.
pub(super) const INSTANCES: usize = 3;

/// Who asks, by the entry's key.
pub(super) const SUBJECTS: [(&str, &[&str]); 5] = [
    ("user", &["u0", "u1"]),
    ("path", &["p0", "p1", "p2"]),
    ("ip", &["i0"]),
    ("team", &["t0"]),
    ("group", &["g0"]),
];

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A client asks an instance, and something may befall the call to the store.
    Ask {
        instance: usize,
        ask: Ask,
        fault: Option<Fault>,
    },
    /// A client asks what it would be told.
    Rehearse { instance: usize, ask: Ask },
    /// A call is under way while other things happen.
    Held {
        instance: usize,
        ask: Ask,
        during: Vec<Step>,
    },
    /// Time passes, or the clock goes back.
    Pass(i64),
    /// Some instances load the next version of the rules, the others keep theirs.
    Reload {
        version: usize,
        instances: Vec<usize>,
    },
    /// Somebody changes what is known of a user, at an instance.
    Stand {
        instance: usize,
        user: &'static str,
        standing: Standing,
    },
    /// An instance is cut off from the store, in one way or another.
    Cut { instance: usize, fault: Fault },
    /// It no longer is.
    Mend { instance: usize },
    /// A replica is up to date.
    Keep,
    /// The replica takes over, on a clock of its own, and what came since is lost.
    Failover { jump: i64 },
    /// Expired keys are removed.
    Sweep,
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// Steps of a seed.
    pub(super) steps: usize,
    /// The store can be copied, and goes back to a copy.
    pub(super) copies: bool,
    /// A request is one step even over several keys. What is given back leaves behind how late it was and at which rate a bucket
    /// was filled: so else the clock does not go back, rules stay, and there are no refunds.
    pub(super) one_step: bool,
    /// Keys expire by the simulated clock.
    pub(super) expires: bool,
}

/// A seed's rules and steps.
pub(super) struct Story {
    pub(super) versions: Vec<Rules>,
    pub(super) start: i64,
    pub(super) steps: Vec<Step>,
}

struct Writer {
    random: SmallRng,
    scope: Scope,
    /// The clock may go back.
    jumps_back: bool,
    versions: Vec<Rules>,
    /// Most requests are of this shape, so that limits are met.
    usual: usize,
}

/// A Saturday afternoon in spring, before the clocks change.
const START: i64 = 1_774_700_000_000_000;

impl Story {
    pub(super) fn new(seed: u64, scope: Scope) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let charge_always = random.random_bool(0.2);
        let rules = Rules::random(&mut random, charge_always);
        let start = START + random.random_range(0..86_400_000_000);
        let mut writer = Writer {
            jumps_back: random.random_bool(0.5) && scope.one_step,
            usual: random.random_range(0..SHAPES.len()),
            random,
            scope,
            versions: vec![rules],
        };
        let steps = (0..scope.steps).map(|_| writer.step()).collect();
        Self {
            versions: writer.versions,
            start,
            steps,
        }
    }
}

impl Writer {
    fn step(&mut self) -> Step {
        let instance = self.random.random_range(0..INSTANCES);
        match self.random.random_range(0..100) {
            0..54 => {
                let fault = self.random.random_bool(0.06).then(|| self.fault());
                let ask = self.ask();
                Step::Ask {
                    instance,
                    ask,
                    fault,
                }
            }
            54..57 => Step::Rehearse {
                instance,
                ask: self.ask(),
            },
            57..61 => self.held(instance),
            61..83 => self.pass(),
            83..86 => self.reload(),
            86..90 if self.scope.one_step => self.stand(instance),
            90..93 => Step::Cut {
                instance,
                fault: self.fault(),
            },
            93..96 => Step::Mend { instance },
            96..98 if self.scope.copies => Step::Keep,
            98 if self.scope.copies => {
                let back = self.jumps_back && self.random.random_bool(0.5);
                let jump = if back {
                    -self.random.random_range(0..5_000_000)
                } else {
                    0
                };
                Step::Failover { jump }
            }
            99 if self.scope.expires => Step::Sweep,
            _ => self.pass(),
        }
    }

    fn held(&mut self, instance: usize) -> Step {
        let ask = self.ask();
        let during =
            (0..self.random.random_range(1..4)).map(|_| match self.random.random_range(0..4) {
                0 if self.scope.one_step => Step::Pass(self.random.random_range(0..2_000_000)),
                1 => self.reload(),
                _ => Step::Ask {
                    instance: (instance + 1) % INSTANCES,
                    ask: self.ask(),
                    fault: None,
                },
            });
        Step::Held {
            instance,
            ask,
            during: during.collect(),
        }
    }

    fn pass(&mut self) -> Step {
        let random = &mut self.random;
        Step::Pass(match random.random_range(0..100) {
            0..30 => random.random_range(0..1_000),
            30..60 => random.random_range(0..700_000),
            60..80 => random.random_range(0..6_000_000),
            80..90 => random.random_range(0..90_000_000),
            90..95 => random.random_range(0..4_000_000_000),
            95 => random.random_range(0..90_000_000_000),
            // To the very end of a second, a minute or an hour, or a moment before.
            96..98 if !self.jumps_back => 1,
            _ if self.jumps_back => -random.random_range(0..200_000_000),
            _ => random.random_range(0..300_000_000_000),
        })
    }

    fn reload(&mut self) -> Step {
        let last = self.versions.last().expect("a version");
        if self.scope.one_step {
            let next = last.changed(&mut self.random);
            self.versions.push(next);
        } else {
            self.versions.push(last.clone());
        }
        let random = &mut self.random;
        let loads = (0..INSTANCES).filter(|_| random.random_bool(0.7));
        Step::Reload {
            version: self.versions.len() - 1,
            instances: loads.collect(),
        }
    }

    fn stand(&mut self, instance: usize) -> Step {
        let users = SUBJECTS[0].1;
        let user = users[self.random.random_range(0..users.len())];
        let plans = &self.versions.last().expect("a version").plans;
        let names: Vec<String> = plans.iter().flatten().map(|spec| spec.name()).collect();
        let random = &mut self.random;
        let name = |random: &mut SmallRng| names[random.random_range(0..names.len())].clone();
        let standing = Standing {
            plan: random
                .random_bool(0.6)
                .then(|| PLANS[random.random_range(0..PLANS.len())]),
            number: random
                .random_bool(0.3)
                .then(|| (name(random), random.random_range(1..15))),
            grant: random.random_bool(0.3).then(|| {
                let lasts = random.random_range(1..100_000_000);
                (name(random), random.random_range(1..10), lasts)
            }),
        };
        Step::Stand {
            instance,
            user,
            standing,
        }
    }

    fn fault(&mut self) -> Fault {
        [Fault::Unreachable, Fault::LostCall, Fault::LostAnswer][self.random.random_range(0..3)]
    }

    fn ask(&mut self) -> Ask {
        let many = match self.random.random_range(0..10) {
            0..5 => 1,
            5..8 => 2,
            _ => 3,
        };
        let mut parts: Vec<Part> = (0..many).map(|_| self.part()).collect();
        // The same once more.
        if self.random.random_bool(0.05) {
            parts.push(parts[0].clone());
        }
        Ask {
            hits: match self.random.random_range(0..4) {
                0 => self.random.random_range(1..6),
                _ => 0,
            },
            parts,
        }
    }

    fn part(&mut self) -> Part {
        let random = &mut self.random;
        let shape = match random.random_bool(0.5) {
            true => self.usual,
            false => random.random_range(0..SHAPES.len()),
        };
        let value = |key: &&str| {
            let (_, values) = SUBJECTS
                .iter()
                .find(|(of, _)| of == key)
                .expect("a subject");
            // The first is asked for most.
            let place = random
                .random_range(0..values.len() * 2)
                .saturating_sub(values.len());
            values[place].to_owned()
        };
        let values = SHAPES[shape].iter().map(value).collect();
        let hits = match random.random_range(0..20) {
            0..12 => Asked::OfRequest,
            12..15 => Asked::Own(random.random_range(1..5)),
            15 => Asked::Own(random.random_range(5..30)),
            16..18 if self.scope.one_step => Asked::Refund(random.random_range(1..6)),
            _ => Asked::Peek,
        };
        let brings = (shape != PLANNED && random.random_bool(0.03)).then(|| {
            let unit = [Unit::Second, Unit::Minute][random.random_range(0..2)];
            (random.random_range(0..8), unit)
        });
        Part {
            shape,
            values,
            hits,
            brings,
        }
    }
}
