//! Outcome to ruling: what each descriptor is told, and which limit decides for the request.

use std::borrow::Cow;
use std::cell::OnceCell;

use smallvec::SmallVec;

use super::charges::{Charges, Item, Limited, Terms};
use super::compare::{self, Compared};
use super::{Code, CurrentLimit, Status};
use crate::directory::{List, Listed};
use crate::limit::transaction::{Amount, Bound, Outcome, Reading};
use crate::limit::{Hits, Limit, Verdict};
use crate::rules::Rule;
use crate::rules::policy::Policy;
use crate::time::Micros;

/// A request decided.
#[derive(Debug)]
pub struct Ruling<'a> {
    /// Whether the rules let it pass; the global shadow mode is not in it.
    pub admitted: bool,
    /// One per descriptor, in order.
    pub items: SmallVec<[Judged<'a>; 1]>,
    /// The place of the one that decides.
    deciding: Option<usize>,
    /// It was not decided by limits.
    pub apart: Option<Apart>,
    /// What the candidates said; none while the store does not answer.
    pub compared: Vec<Compared<'a>>,
}

/// A decision that no limit had a part in, and that charges nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Its cost is none.
    Exempt,
    /// It is on a list.
    Listed(Listed),
}

/// A descriptor decided.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and lives for one request"
)]
pub enum Judged<'a> {
    /// Nothing limits it.
    Free,
    /// A rule or a plan says that nothing limits it; the plan's name.
    Unlimited(Option<&'a str>),
    /// It is on a list of those who are refused, for this long if not for ever.
    Refused(Option<Micros>),
    /// Its limits have spoken.
    Limited(Spoken<'a>),
}

/// What the limits of a descriptor said.
#[derive(Debug)]
pub struct Spoken<'a> {
    /// The descriptor's place in the request.
    pub descriptor: usize,
    /// Its place among the demands.
    pub demand: usize,
    /// The rule; none for a limit that the request brought.
    pub rule: Option<&'a Rule>,
    /// The name of the plan that has the limits.
    pub plan: Option<&'a str>,
    /// What was asked.
    pub amount: Amount,
    /// At least one.
    pub limits: SmallVec<[Said<'a>; 2]>,
    /// The place of the limit that decides: of those that refuse the one with the longest wait, else the one with the
    /// least remaining.
    pub deciding: usize,
    /// At least one limit refuses.
    pub refused: bool,
    /// Never refuses the request.
    pub shadow: bool,
    /// Refuses only together with all of its kind.
    pub quota: bool,
}

/// What one limit said.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// What clients are told of it, where the rules have that ready.
    pub policy: Option<&'a Policy>,
    /// Its place among the limits of its rule, or of all plans of the domain.
    pub place: usize,
    /// It has numbers of its own for this subject or request, and not the rule's.
    pub own: bool,
    /// Whether the hits fit.
    pub verdict: Verdict,
    /// What was used before.
    pub used: Hits,
    /// Whether the hits were charged to it.
    pub charged: bool,
    /// What is left; none when it refuses.
    pub remaining: Hits,
    /// When the same request would pass, or when the limit is as good as fresh.
    pub reset: Micros,
    /// When the limit is as good as fresh.
    pub full_reset: Micros,
}

impl<'a> Ruling<'a> {
    /// Reads an outcome back into the descriptors of its charges.
    pub fn new(charges: &Charges<'a>, outcome: &Outcome) -> Self {
        let reader = Reader {
            charges,
            outcome,
            firsts: OnceCell::new(),
        };
        let mut ruling = Self {
            admitted: outcome.admitted,
            items: SmallVec::new(),
            deciding: None,
            apart: None,
            compared: match charges.tried.is_empty() {
                true => Vec::new(),
                false => compare::compared(charges, outcome),
            },
        };
        if charges.items.len() > 1 {
            ruling.items.reserve(charges.items.len());
        }
        for (descriptor, item) in charges.items.iter().enumerate() {
            ruling.items.push(match item {
                Item::Free => Judged::Free,
                Item::Unlimited(plan) => Judged::Unlimited(*plan),
                Item::Limited(limited) => Judged::Limited(reader.silent(descriptor, limited)),
            });
            // It speaks where it stays, as what is said is large.
            if let (Item::Limited(limited), Some(Judged::Limited(spoken))) =
                (item, ruling.items.last_mut())
            {
                reader.speak(limited, spoken);
            }
        }
        ruling.deciding = ruling.who_decides();
        ruling
    }

    /// Lets a request of so many descriptors through, or refuses it for what a list says.
    pub fn apart(descriptors: usize, apart: Apart) -> Self {
        let refused = match apart {
            Apart::Listed(listed) if listed.list != List::Allow => Some(listed),
            Apart::Listed(_) | Apart::Exempt => None,
        };
        let judge = |descriptor: usize| match refused {
            Some(listed) if listed.descriptor == descriptor => Judged::Refused(listed.wait),
            Some(_) | None => Judged::Free,
        };
        Self {
            admitted: refused.is_none(),
            items: (0..descriptors).map(judge).collect(),
            deciding: None,
            apart: Some(apart),
            compared: Vec::new(),
        }
    }

    /// Lets a request of so many descriptors through, of which no rule says anything.
    pub fn free(descriptors: usize) -> Self {
        Self {
            admitted: true,
            items: (0..descriptors).map(|_| Judged::Free).collect(),
            deciding: None,
            apart: None,
            compared: Vec::new(),
        }
    }

    /// What the client is told of the descriptor at `place`.
    pub fn status(&self, place: usize) -> Status<'a> {
        match self.items.get(place) {
            None | Some(Judged::Free) => Status::default(),
            Some(Judged::Refused(wait)) => Status {
                code: Code::OverLimit,
                reset_secs: wait.map(Micros::ceil_secs),
                ..Status::default()
            },
            Some(Judged::Unlimited(_)) => Status {
                remaining: u32::MAX,
                ..Status::default()
            },
            Some(Judged::Limited(spoken)) => spoken.status(),
        }
    }

    /// The list that refuses the request.
    pub fn refused_by(&self) -> Option<Listed> {
        match self.apart {
            Some(Apart::Listed(listed)) if !self.admitted => Some(listed),
            Some(_) | None => None,
        }
    }

    /// The descriptors that are limited.
    pub fn spoken(&self) -> impl Iterator<Item = &Spoken<'a>> {
        self.items.iter().filter_map(|item| match item {
            Judged::Limited(spoken) => Some(spoken),
            Judged::Free | Judged::Unlimited(_) | Judged::Refused(_) => None,
        })
    }

    /// The descriptor that decides: of those that refuse the one with the longest wait, else the one with the least
    /// remaining; the first of equals.
    pub fn deciding(&self) -> Option<&Spoken<'a>> {
        match self.items.get(self.deciding?) {
            Some(Judged::Limited(spoken)) => Some(spoken),
            Some(Judged::Free | Judged::Unlimited(_) | Judged::Refused(_)) | None => None,
        }
    }

    fn who_decides(&self) -> Option<usize> {
        let open = self.spoken().filter(|spoken| !spoken.shadow);
        let decides = if self.admitted {
            open.filter(|spoken| !spoken.refused)
                .min_by_key(|spoken| spoken.decisive().remaining)
                .or_else(|| self.spoken().next())
        } else {
            // `max_by_key` takes the last of equals, hence backwards.
            let refusing: SmallVec<[&Spoken<'_>; 4]> =
                open.filter(|spoken| spoken.refused).collect();
            let refusing = refusing.into_iter().rev();
            refusing.max_by_key(|spoken| spoken.decisive().wait())
        };
        decides.map(|spoken| spoken.descriptor)
    }

    /// When the same request would pass; none if it passes now or never will.
    pub fn retry_after(&self) -> Option<Micros> {
        if self.admitted {
            return None;
        }
        if let Some(listed) = self.refused_by() {
            return listed.wait;
        }
        let waits = |quota: bool| {
            let of_kind = move |spoken: &&Spoken<'_>| !spoken.shadow && spoken.quota == quota;
            let refusing = self
                .spoken()
                .filter(|spoken| spoken.refused)
                .filter(of_kind);
            refusing.map(|spoken| spoken.decisive().wait())
        };
        // All enforced limits must have room, and of the quotas, if they all refuse, one.
        let enforced = waits(false).max().unwrap_or_default();
        let mut quotas = self
            .spoken()
            .filter(|spoken| spoken.quota && !spoken.shadow);
        let all_quotas_refuse = quotas.all(|quota| quota.refused);
        let quota = waits(true)
            .min()
            .filter(|_| all_quotas_refuse)
            .unwrap_or_default();
        match enforced.max(quota) {
            Wait::For(time) => Some(time),
            Wait::Forever => None,
        }
    }
}

impl<'a> Spoken<'a> {
    /// The limit that decides for this descriptor.
    pub fn decisive(&self) -> &Said<'a> {
        &self.limits[self.deciding]
    }

    /// Whether this descriptor answers with a refusal.
    pub fn code(&self) -> Code {
        if self.refused && !self.shadow {
            Code::OverLimit
        } else {
            Code::Ok
        }
    }

    /// What the client is told of this descriptor.
    pub fn status(&self) -> Status<'a> {
        let said = self.decisive();
        Status {
            code: self.code(),
            limit: Some(CurrentLimit {
                requests_per_unit: said.limit.requests_per_unit(),
                unit: said.limit.unit(),
                unit_multiplier: said.limit.multiplier(),
                name: said.name.map(Cow::Borrowed),
            }),
            remaining: said.whole_remaining(),
            reset_secs: Some(said.reset.ceil_secs()),
        }
    }
}

/// How long a request waits for a limit, shortest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// This long; zero if it need not.
    For(Micros),
    /// Waiting does not help.
    Forever,
}

impl Default for Wait {
    fn default() -> Self {
        Wait::For(Micros::ZERO)
    }
}

impl Said<'_> {
    /// Whether this limit refuses.
    pub fn refuses(&self) -> bool {
        self.verdict != Verdict::Allowed
    }

    /// Whether it is a ban that refuses, and not the limit.
    pub fn is_banned(&self) -> bool {
        matches!(self.verdict, Verdict::Banned(_))
    }

    /// How long the request must wait for this limit.
    pub fn wait(&self) -> Wait {
        match self.verdict {
            Verdict::Allowed => Wait::default(),
            Verdict::Wait(time) | Verdict::Banned(time) => Wait::For(time),
            Verdict::Never => Wait::Forever,
        }
    }

    /// What is left, whether or not it is enough.
    pub fn left(&self) -> Hits {
        if self.refuses() && !self.charged {
            return self.limit.capacity().saturating_sub(self.used);
        }
        self.remaining
    }

    /// Whole hits left, as a status has it.
    pub fn whole_remaining(&self) -> u32 {
        u32::try_from(self.remaining.floor()).unwrap_or(u32::MAX)
    }
}

/// Whether any of these refuses.
fn is_refusal(readings: &[Reading]) -> bool {
    readings
        .iter()
        .any(|reading| reading.verdict != Verdict::Allowed)
}

struct Reader<'p, 'a> {
    charges: &'p Charges<'a>,
    outcome: &'p Outcome,
    /// Where the readings of each demand begin, once that is looked for.
    firsts: OnceCell<Vec<usize>>,
}

impl<'a> Reader<'_, 'a> {
    /// A descriptor whose limits have not spoken yet.
    fn silent(&self, descriptor: usize, limited: &Limited<'a>) -> Spoken<'a> {
        Spoken {
            descriptor,
            demand: limited.demand,
            rule: limited.rule,
            plan: limited.plan,
            amount: self.charges.demands[limited.demand].amount,
            limits: SmallVec::new(),
            deciding: 0,
            refused: false,
            shadow: limited.shadow,
            quota: limited.quota,
        }
    }

    fn speak(&self, limited: &Limited<'a>, to: &mut Spoken<'a>) {
        let demand = &self.charges.demands[limited.demand];
        let terms = self.charges.terms_of(limited);
        let readings = &self.outcome.readings[limited.first..limited.first + terms.len()];
        let refused = is_refusal(readings);
        let limits = &mut to.limits;
        for ((bound, terms), reading) in demand.limits.iter().zip(terms).zip(readings) {
            limits.push(self.said(limited.demand, bound, terms, reading, refused));
        }
        let places = 0..limits.len();
        let deciding = if refused {
            places.rev().max_by_key(|place| limits[*place].wait())
        } else {
            places.min_by_key(|place| limits[*place].remaining)
        };
        to.deciding = deciding.unwrap_or_default();
        to.refused = refused;
    }

    fn said(
        &self,
        demand: usize,
        bound: &Bound<'a>,
        terms: &Terms<'a>,
        reading: &Reading,
        refused: bool,
    ) -> Said<'a> {
        let amount = self.charges.demands[demand].amount;
        let charged = bound.always || (self.outcome.admitted && !refused);
        let after = match amount {
            Amount::Charge(hits) if charged => reading.used.plus(hits),
            Amount::Charge(hits) => self.used_without_charge(demand, bound.limit, hits),
            Amount::Refund(hits) if charged => reading.used.saturating_sub(hits),
            Amount::Refund(_) | Amount::Peek(_) => reading.used,
        };
        let (remaining, reset) = match reading.verdict {
            Verdict::Allowed => (bound.limit.capacity().saturating_sub(after), reading.reset),
            Verdict::Wait(wait) | Verdict::Banned(wait) => (Hits::ZERO, wait),
            Verdict::Never => (Hits::ZERO, reading.reset),
        };
        Said {
            limit: bound.limit,
            name: terms.name,
            policy: terms.policy,
            place: terms.place,
            own: terms.own,
            verdict: reading.verdict,
            used: reading.used,
            charged: charged && matches!(amount, Amount::Charge(_)),
            remaining,
            reset,
            full_reset: reading.reset,
        }
    }

    /// What a limit with room reads when the request is refused. If an identical descriptor refused it, the one at hand came
    /// before that and reads as charged; else nothing was charged, and it reads what is there.
    fn used_without_charge(&self, index: usize, limit: &Limit, hits: Hits) -> Hits {
        let key = self.charges.demands[index].key;
        let mut same_key =
            (0..self.charges.demands.len()).filter(|i| self.charges.demands[*i].key == key);
        let first = same_key.clone().next().unwrap_or(index);
        if !self.refuses(index) && same_key.any(|i| self.refuses(i)) {
            return self.used_by(index, limit).plus(hits);
        }
        self.used_by(first, limit)
    }

    fn used_by(&self, index: usize, limit: &Limit) -> Hits {
        let limits = &self.charges.demands[index].limits;
        let place = limits
            .iter()
            .position(|bound| bound.limit.tag() == limit.tag());
        place.map_or(Hits::ZERO, |place| self.readings(index)[place].used)
    }

    fn refuses(&self, index: usize) -> bool {
        is_refusal(self.readings(index))
    }

    fn readings(&self, index: usize) -> &[Reading] {
        let firsts = self.firsts.get_or_init(|| {
            let demands = self.charges.demands.iter();
            let first = demands.scan(0, |next, demand| {
                let first = *next;
                *next += demand.limits.len();
                Some(first)
            });
            first.collect()
        });
        let first = firsts[index];
        &self.outcome.readings[first..first + self.charges.demands[index].limits.len()]
    }
}
