//! Which subject each request is for, and the message that asks for it.

use std::fmt::Write;
use std::str::FromStr;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use rand::Rng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

use super::{Args, Subjects};
use crate::grpc::wire;

/// How often each subject is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same one.
    One,
    /// Each as often as any other.
    Uniform,
    /// The nth in proportion to 1/n^exponent.
    Zipf(f64),
}

/// Makes messages.
#[derive(Debug)]
pub struct Requests {
    message: wire::RateLimitRequest,
    distribution: Distribution,
    zipf: Option<Zipf<f64>>,
    keys: u64,
    subjects: Subjects,
    /// Where the subject is among the entries of each descriptor.
    subject_entry: usize,
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "one" => Ok(Distribution::One),
            None if text == "uniform" => Ok(Distribution::Uniform),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if exponent > 0.0 => Ok(Distribution::Zipf(exponent)),
                _ => Err("the exponent of zipf is a number above 0".to_owned()),
            },
            _ => Err("one, uniform or zipf:EXPONENT".to_owned()),
        }
    }
}

impl Requests {
    /// Messages as the arguments say.
    pub fn new(args: &Args) -> Self {
        let descriptor = |number: u32| {
            let mut entries: Vec<(String, String)> = args
                .key
                .iter()
                .map(|key| (key.clone(), String::new()))
                .collect();
            let last = entries.len().saturating_sub(1);
            for (_, value) in &mut entries[..last] {
                value.push_str("bench");
            }
            if args.subjects == Subjects::One && args.descriptors > 1 {
                entries.push(("part".to_owned(), number.to_string()));
            }
            entries
        };
        let zipf = match args.distribution {
            Distribution::Zipf(exponent) => Zipf::new(args.keys as f64, exponent).ok(),
            Distribution::One | Distribution::Uniform => None,
        };
        Self {
            message: wire::message(
                &args.domain,
                args.hits,
                (0..args.descriptors).map(descriptor),
            ),
            distribution: args.distribution,
            zipf,
            keys: args.keys,
            subjects: args.subjects,
            subject_entry: args.key.len().saturating_sub(1),
        }
    }

    /// The next message with its gRPC prefix.
    pub fn next(&mut self, random: &mut SmallRng, buffer: &mut BytesMut) -> Bytes {
        let first = self.subject(random);
        for index in 0..self.message.descriptors.len() {
            let subject = match self.subjects {
                Subjects::Many if index > 0 => self.subject(random),
                Subjects::One | Subjects::Many => first,
            };
            let entries = &mut self.message.descriptors[index].entries;
            if let Some(entry) = entries.get_mut(self.subject_entry) {
                entry.value.clear();
                // Writing to a String cannot fail.
                let _ = write!(entry.value, "u{subject}");
            }
        }
        let length = self.message.encoded_len();
        buffer.reserve(length + 5);
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // There is room: it was reserved.
        let _ = self.message.encode(buffer);
        buffer.split().freeze()
    }

    fn subject(&self, random: &mut SmallRng) -> u64 {
        match (self.distribution, &self.zipf) {
            (Distribution::One, _) => 0,
            (Distribution::Zipf(_), Some(zipf)) => zipf.sample(random) as u64,
            (Distribution::Uniform | Distribution::Zipf(_), _) => random.random_range(0..self.keys),
        }
    }
}
