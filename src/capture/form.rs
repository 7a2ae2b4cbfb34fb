//! A decision as bytes, without its time. Numbers are LEB128, texts have their length before them.
//!
//! ```text
//! domain  reason  rule  flags (1: refused)  hits_addend  descriptors
//!   flags  [hits_addend]  [requests_per_unit unit]  [standing]  [remaining]  entries
//!     key  value
//! ```

use crate::limit::Unit;
use crate::rules::{Entry, Override};
use crate::time::Timestamp;

use super::{Asked, Decision};

/// The most descriptors of a decision, and the most entries of a descriptor.
const MAX_PARTS: u64 = 128;

const REFUSED: u8 = 1;
const HITS: u8 = 2;
const NEGATIVE: u8 = 4;
const LIMIT: u8 = 8;
const STANDING: u8 = 16;
const SAMPLED: u8 = 32;
const REMAINING: u8 = 64;

/// These bytes are no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decision that cannot be read")]
pub struct Malformed;

/// Writes a decision, its time apart.
pub fn write(to: &mut Vec<u8>, decision: &Decision<'_>) {
    text(to, decision.domain);
    text(to, decision.reason);
    text(to, decision.rule);
    to.push(u8::from(decision.refused));
    number(to, u64::from(decision.hits_addend));
    number(to, decision.asked.len() as u64);
    for asked in &decision.asked {
        write_asked(to, asked);
    }
}

fn write_asked(to: &mut Vec<u8>, asked: &Asked<'_>) {
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    to.push(
        flag(asked.refused, REFUSED)
            | flag(asked.hits_addend.is_some(), HITS)
            | flag(asked.is_negative_hits, NEGATIVE)
            | flag(asked.limit.is_some(), LIMIT)
            | flag(!asked.standing.is_empty(), STANDING)
            | flag(asked.sampled, SAMPLED)
            | flag(asked.remaining != 0, REMAINING),
    );
    if let Some(hits) = asked.hits_addend {
        number(to, hits);
    }
    if let Some(limit) = asked.limit {
        number(to, u64::from(limit.requests_per_unit));
        to.push(limit.unit as u8);
    }
    if !asked.standing.is_empty() {
        text(to, asked.standing);
    }
    if asked.remaining != 0 {
        number(to, u64::from(asked.remaining));
    }
    number(to, asked.entries.len() as u64);
    for entry in &asked.entries {
        text(to, entry.key);
        text(to, entry.value);
    }
}

/// Reads the decision that was made at `at`. All of `bytes` is one.
pub fn read(at: Timestamp, bytes: &[u8]) -> Result<Decision<'_>, Malformed> {
    let mut from = Input(bytes);
    let mut decision = Decision {
        at,
        domain: from.text()?,
        reason: from.text()?,
        rule: from.text()?,
        refused: match from.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        },
        hits_addend: from.small()?,
        ..Decision::default()
    };
    for _ in 0..from.parts()? {
        decision.asked.push(read_asked(&mut from)?);
    }
    match from.0 {
        [] => Ok(decision),
        _ => Err(Malformed),
    }
}

fn read_asked<'a>(from: &mut Input<'a>) -> Result<Asked<'a>, Malformed> {
    let flags = from.byte()?;
    let has = |flag: u8| flags & flag != 0;
    let mut asked = Asked {
        refused: has(REFUSED),
        is_negative_hits: has(NEGATIVE),
        sampled: has(SAMPLED),
        ..Asked::default()
    };
    if has(HITS) {
        asked.hits_addend = Some(from.number()?);
    }
    if has(LIMIT) {
        asked.limit = Some(Override {
            requests_per_unit: from.small()?,
            unit: unit(from.byte()?)?,
        });
    }
    if has(STANDING) {
        asked.standing = from.text()?;
    }
    if has(REMAINING) {
        asked.remaining = from.small()?;
    }
    for _ in 0..from.parts()? {
        let (key, value) = (from.text()?, from.text()?);
        asked.entries.push(Entry { key, value });
    }
    Ok(asked)
}

fn unit(number: u8) -> Result<Unit, Malformed> {
    let unit = Unit::ALL.into_iter().find(|unit| *unit as u8 == number);
    unit.ok_or(Malformed)
}

fn text(to: &mut Vec<u8>, text: &str) {
    number(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

/// Writes a number, seven bits a byte, the lowest first.
pub(super) fn number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// A signed number as one without: small ones stay small.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The signed number again.
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Bytes that are still to be read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    fn parts(&mut self) -> Result<u64, Malformed> {
        let parts = self.number()?;
        (parts <= MAX_PARTS).then_some(parts).ok_or(Malformed)
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.number()?;
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            super::number(&mut bytes, number);
            super::number(&mut bytes, zigzag(signed));
            let mut input = Input(&bytes);
            prop_assert_eq!(input.number(), Ok(number));
            prop_assert_eq!(unzigzag(input.number().expect("a number")), signed);
            prop_assert!(input.0.is_empty());
        }

        #[test]
        fn a_decision_comes_back_and_its_beginning_is_none(
            texts in proptest::array::uniform4("[a-z\u{e9}]{0,9}"),
            numbers in any::<(i64, u32, u32, Option<u64>)>(),
            flags in any::<[bool; 4]>(),
            limit in proptest::option::of((any::<u32>(), 0..7_usize)),
            parts in (0..5_usize, 0..5_usize),
        ) {
            let asked = Asked {
                entries: (0..parts.1)
                    .map(|_| Entry { key: &texts[0], value: &texts[1] })
                    .collect(),
                hits_addend: numbers.3,
                is_negative_hits: flags[0],
                limit: limit.map(|(requests_per_unit, unit)| Override {
                    requests_per_unit,
                    unit: Unit::ALL[unit],
                }),
                standing: &texts[2],
                sampled: flags[1],
                refused: flags[2],
                remaining: numbers.2,
            };
            let decision = Decision {
                at: Timestamp::from_micros(numbers.0),
                domain: &texts[0],
                hits_addend: numbers.1,
                refused: flags[3],
                reason: &texts[1],
                rule: &texts[3],
                asked: smallvec::smallvec![asked; parts.0],
            };
            let mut bytes = Vec::new();
            write(&mut bytes, &decision);
            let read_back = read(decision.at, &bytes);
            prop_assert_eq!(format!("{read_back:?}"), format!("Ok({decision:?})"));
            for end in 0..bytes.len() {
                prop_assert!(read(decision.at, &bytes[..end]).is_err());
            }
        }
    }
}
