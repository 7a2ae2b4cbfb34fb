//! Answers that have been written before, but for their numbers.
//!
//! To write an answer takes a fifth of a decision, and nearly all are as the ones before: what differs is what is left, and until when. So
//! an answer of a [`Shape`] is kept with the places of its numbers, and the next one of that shape is a copy with numbers of its own.

use std::cell::RefCell;

use bytes::Bytes;

use super::answer;
use crate::engine::Draft;
use crate::engine::answer::shape::{self, Form, Shape};

/// The most templates of a thread.
const MOST: usize = 512;

/// The longest answer that is kept, with its shape, in bytes: so a thread keeps at most a megabyte, and the places of the numbers.
const LONGEST: usize = 2048;

thread_local! {
    static TEMPLATES: RefCell<Templates> = const { RefCell::new(Templates::new()) };
}

/// An answer as gRPC sends it: a copy of one that this thread has written before, or as [`answer::framed`] writes it.
pub fn framed(draft: &Draft<'_, '_, '_>) -> Bytes {
    TEMPLATES.with_borrow_mut(|templates| templates.framed(draft))
}

/// The answers that are kept, each at the place that its shape's hash says; what comes later takes the place of what came before.
#[derive(Default)]
pub struct Templates(Vec<Place>);

/// A place for a template.
#[derive(Default)]
struct Place {
    /// The hash of the shape that was last looked for here, and not found.
    missed: u64,
    template: Option<Template>,
}

/// An answer that was written.
struct Template {
    key: Box<[u64]>,
    framed: Box<[u8]>,
    holes: Box<[Hole]>,
}

/// Where a number stands.
struct Hole {
    at: u16,
    length: u8,
    form: Form,
    /// Which of the shape's.
    number: u16,
}

impl Templates {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An answer as gRPC sends it.
    pub fn framed(&mut self, draft: &Draft<'_, '_, '_>) -> Bytes {
        let mut shape = Shape::default();
        if !draft.shape(&mut shape) {
            return answer::framed(&draft.answer());
        }
        let hash = hash(&shape.key);
        let place = self.place(hash);
        let framed = match &place.template {
            Some(template) if *template.key == *shape.key => template.filled(&shape.numbers),
            Some(_) | None => place.write(draft, hash, &shape),
        };
        debug_assert_eq!(framed, answer::framed(&draft.answer()), "{shape:?}");
        framed
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let templates = self.0.iter().filter(|place| place.template.is_some());
        templates.count()
    }

    fn place(&mut self, hash: u64) -> &mut Place {
        if self.0.is_empty() {
            self.0.resize_with(MOST, Place::default);
        }
        // The product's upper bits hang on all of the key.
        &mut self.0[(hash >> 32) as usize % MOST]
    }
}

impl Place {
    /// Writes an answer of which there is no template here. One is made of it if the same was missed before: to make one is dearer than to write, and where
    /// many shapes share a place, none would be found again.
    fn write(&mut self, draft: &Draft<'_, '_, '_>, hash: u64, shape: &Shape) -> Bytes {
        let answer = draft.answer();
        if std::mem::replace(&mut self.missed, hash) != hash {
            return answer::framed(&answer);
        }
        let mut written = Vec::new();
        let framed = answer::framed_with(&answer, &mut written);
        if framed.len() + size_of_val(&*shape.key) > LONGEST {
            return framed;
        }
        let holes = holes(&written, &draft.places(), &shape.numbers);
        debug_assert!(holes.is_some(), "{written:?} {shape:?}");
        self.template = holes.map(|holes| Template {
            key: shape.key.as_slice().into(),
            framed: framed.as_ref().into(),
            holes,
        });
        framed
    }
}

/// What was written, as places of the shape's numbers; none if that is not what the shape says, which would be a mistake.
fn holes(
    written: &[answer::Hole],
    places: &[shape::Place],
    numbers: &[u32],
) -> Option<Box<[Hole]>> {
    let number_at = |place: &shape::Place| numbers.get(place.number).copied().unwrap_or_default();
    let is_there = |place: &&shape::Place| place.form != Form::Varint || number_at(place) != 0;
    let mut places = places.iter().filter(is_there);
    let hole = |hole: &answer::Hole| {
        let place = places.next()?;
        let number = number_at(place);
        let is_same = (place.form, u64::from(number)) == (hole.form, hole.number);
        is_same.then_some(Hole {
            at: u16::try_from(hole.at).ok()?,
            length: place.form.length(number) as u8,
            form: place.form,
            number: u16::try_from(place.number).ok()?,
        })
    };
    let holes = written.iter().map(hole).collect::<Option<_>>()?;
    places.next().is_none().then_some(holes)
}

impl Template {
    /// The same answer with these numbers, which are as long as its own.
    fn filled(&self, numbers: &[u32]) -> Bytes {
        let mut framed = self.framed.to_vec();
        for hole in &self.holes {
            let (at, length) = (usize::from(hole.at), usize::from(hole.length));
            let number = numbers[usize::from(hole.number)];
            put(&mut framed[at..at + length], hole.form, number);
        }
        framed.into()
    }
}

/// Writes a number over another one of its length.
fn put(to: &mut [u8], form: Form, number: u32) {
    let mut rest = number;
    match form {
        Form::Varint => {
            for byte in &mut *to {
                *byte = rest as u8 | 0x80;
                rest >>= 7;
            }
            if let Some(last) = to.last_mut() {
                *last &= 0x7f;
            }
        }
        Form::Digits => {
            for digit in to.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        Form::Double => to.copy_from_slice(&f64::from(number).to_le_bytes()),
    }
}

fn hash(key: &[u64]) -> u64 {
    key.iter().fold(0, |hash: u64, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}
