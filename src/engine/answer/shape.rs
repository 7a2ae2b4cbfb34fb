//! What answers have in common that differ in a few numbers alone, as nearly all do: what is left, and until when.
//!
//! Those of one shape are equal but for the digits of their numbers, each as long as in the others. So one of them, written once,
//! does for all that come after it; see `grpc::wire::templates`.

use smallvec::SmallVec;

use super::draft::Ruled;
use super::headers::reference_choice;
use crate::engine::Settings;
use crate::engine::fold::{Judged, Ruling, Spoken};

/// The most descriptors of a request whose answer has a shape, and the most limits of each.
const MOST: usize = 16;

/// The shape of an answer, and its numbers.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Equal for answers of one shape, and for no others: which rules and limits have spoken, which of them decide, and how long each number is.
    pub key: SmallVec<[u64; 6]>,
    /// Of each limit that has spoken, in order, what is left of it and in how many seconds it is fresh. How often each is told and
    /// where hangs on the shape: see [`Draft::places`](super::draft::Draft::places).
    pub numbers: SmallVec<[u32; 4]>,
}

/// A place in an answer where one of the numbers of its shape stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How it is written there.
    pub form: Form,
    /// Which of them.
    pub number: usize,
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In seven bits a byte, as a field of a message, which is left out if it is zero.
    Varint,
    /// In decimal digits, as part of a text.
    Digits,
    /// In eight bytes of floating point, as a field of a message.
    Double,
}

impl Form {
    /// How many bytes a number takes that is there.
    pub const fn length(self, number: u32) -> usize {
        match self {
            Form::Varint => (number | 1).ilog2() as usize / 7 + 1,
            Form::Digits => match number.checked_ilog10() {
                Some(log) => log as usize + 1,
                None => 1,
            },
            Form::Double => 8,
        }
    }
}

impl Shape {
    /// Whether the answer has a shape, which is added to this empty one. It has none if it is a refusal, whose body is a text of its own, or has
    /// texts of the request or numbers of the directory.
    pub(super) fn fill(&mut self, settings: &Settings, ruled: &Ruled<'_, '_>) -> bool {
        let Ruled {
            rules,
            domain,
            ruling,
            reason,
        } = *ruled;
        let is_usual = ruling.admitted
            && ruling.items.len() <= MOST
            && !domain.response.x_quota
            && !settings.reference_metadata;
        if !is_usual {
            return false;
        }
        let place = |spoken: Option<&Spoken<'_>>| spoken.map_or(0, |spoken| spoken.descriptor + 1);
        let chosen = chosen(settings, ruling);
        self.key.push(rules);
        let said = packed([reason as usize, place(ruling.deciding()), place(chosen)]);
        self.key.push((domain.place as u64) << 32 | said);
        for item in &ruling.items {
            match item {
                Judged::Free => self.key.push(FREE),
                Judged::Unlimited(_) => {
                    self.key.push(UNLIMITED);
                    self.numbers.push(u32::MAX);
                }
                Judged::Limited(spoken) if self.limits(spoken) => {}
                Judged::Limited(_) | Judged::Refused(_) => return false,
            }
        }
        true
    }

    /// Adds the limits of a descriptor, unless the answer has something of them that others have not.
    fn limits(&mut self, spoken: &Spoken<'_>) -> bool {
        let rule = spoken.rule.filter(|rule| !rule.named_by_values);
        let limits = &spoken.limits;
        let (Some(rule), false) = (rule, spoken.refused || limits.len() > MOST) else {
            return false;
        };
        self.key
            .push(LIMITED | packed([limits.len(), spoken.deciding, spoken.shadow.into()]));
        for said in limits {
            // Those of plans are counted for each rule, so it tells the plan as well.
            let limit = u32::try_from(rule.first + said.place);
            let reset = u32::try_from(said.reset.ceil_secs());
            let (Ok(limit), Ok(reset), false) = (limit, reset, said.own) else {
                return false;
            };
            let remaining = said.whole_remaining();
            self.key
                .push(u64::from(limit) << 32 | class(remaining) << 16 | class(reset));
            self.numbers.push(remaining);
            self.numbers.push(reset);
        }
        true
    }
}

/// How long a number is in each form, as one below 2^16; and whether it is zero.
const fn class(number: u32) -> u64 {
    let lengths = Form::Varint.length(number) << 8 | Form::Digits.length(number);
    lengths as u64 | ((number == 0) as u64) << 15
}

/// Which descriptor the reference's headers tell of.
fn chosen<'s, 'r>(settings: &Settings, ruling: &'s Ruling<'r>) -> Option<&'s Spoken<'r>> {
    settings.reference_headers.as_ref()?;
    reference_choice(ruling)
}

/// Where the numbers of an answer's shape stand in it, in order.
pub(super) fn places(settings: &Settings, ruled: &Ruled<'_, '_>) -> Vec<Place> {
    let Ruled { domain, ruling, .. } = ruled;
    let counts = ruling.items.iter().map(|item| match item {
        Judged::Free | Judged::Refused(_) => 0,
        Judged::Unlimited(_) => 1,
        Judged::Limited(spoken) => 2 * spoken.limits.len(),
    });
    let firsts: Vec<usize> = counts
        .scan(0, |next, count| {
            *next += count;
            Some(*next - count)
        })
        .collect();
    let of_limit = |spoken: &Spoken<'_>, limit: usize| firsts[spoken.descriptor] + 2 * limit;
    let decisive = |spoken: &Spoken<'_>| of_limit(spoken, spoken.deciding);
    let mut places = Vec::new();
    let mut tell = |form, number| places.push(Place { form, number });
    for (item, first) in ruling.items.iter().zip(&firsts) {
        match item {
            Judged::Free | Judged::Refused(_) => {}
            Judged::Unlimited(_) => tell(Form::Varint, *first),
            Judged::Limited(spoken) => {
                tell(Form::Varint, decisive(spoken));
                tell(Form::Varint, decisive(spoken) + 1);
            }
        }
    }
    let mut headers: Vec<usize> = chosen(settings, ruling).map(decisive).into_iter().collect();
    if domain.response.ratelimit {
        for spoken in ruling.spoken().filter(|spoken| !spoken.shadow) {
            headers.extend((0..spoken.limits.len()).map(|limit| of_limit(spoken, limit)));
        }
    }
    let deciding = ruling.deciding().map(decisive);
    if domain.response.x_ratelimit {
        headers.extend(deciding);
    }
    for remaining in headers {
        tell(Form::Digits, remaining);
        tell(Form::Digits, remaining + 1);
    }
    if let Some(remaining) = deciding {
        tell(Form::Double, remaining);
    }
    places
}

const FREE: u64 = 0;
const UNLIMITED: u64 = 1;
const LIMITED: u64 = 2;

/// Three numbers below 256 as one below 2^32, above the lowest byte.
const fn packed([a, b, c]: [usize; 3]) -> u64 {
    (a as u64) << 8 | (b as u64) << 16 | (c as u64) << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_as_long_as_it_is_written() {
        let powers = (0..10).map(|digits| 10_u32.pow(digits));
        let values = powers.chain((0..32).map(|bits| 1 << bits));
        for value in values.flat_map(|value| [value - 1, value, value + 1]) {
            assert_eq!(Form::Digits.length(value), value.to_string().len());
            let varint = prost::encoding::encoded_len_varint(value.into());
            assert_eq!(Form::Varint.length(value), varint, "{value}");
        }
        for value in [0, 1, u32::MAX] {
            assert_eq!(
                Form::Double.length(value),
                f64::from(value).to_le_bytes().len()
            );
        }
    }
}
