//! Decisions in a file: what was asked and what was answered. `serve --record` writes it, `replay` reads it.
//!
//! - [`form`]: a decision as bytes
//! - [`block`]: many of them, packed
//! - [`sample`]: whose are kept
//! - [`recorder`]: takes them from the threads that decide, without holding any up
//! - [`writer`]: the thread that writes them, and the bounds of the file
//! - [`reader`]: reads them back, from a file that may end in the middle
//!
//! A file begins with [`MAGIC`], the [`VERSION`], and a [`Header`] as JSON after its length; then come blocks to the end. Each
//! block stands for itself, so a file that was cut off loses what came after the last whole block, and nothing else.

use serde::{Deserialize, Serialize};

use crate::rules::{Entries, Override};
use crate::time::Timestamp;
use smallvec::SmallVec;

pub mod block;
pub mod form;
pub mod reader;
pub mod recorder;
pub mod sample;
pub mod writer;

pub use reader::{Reader, Trouble};
pub use recorder::Recorder;
pub use sample::Sample;

/// What a capture begins with.
pub const MAGIC: &[u8; 16] = b"tollgate capture";

/// The version of the form; another cannot be read.
pub const VERSION: u8 = 1;

/// The longest header, in bytes.
pub const MAX_HEADER: usize = 64 << 10;

/// What is the same for all decisions of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The version of Tollgate that wrote it.
    pub tollgate: String,
    /// When it began, in microseconds since the epoch.
    pub began: i64,
    /// The share of the subjects that are in it, above 0 and at most 1.
    pub sample: f64,
    /// `embedded` or `redis`.
    pub store: String,
    /// STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT, if it was set.
    pub stop_increment: Option<bool>,
    /// SHADOW_MODE.
    pub shadow_mode: bool,
    /// QUOTA_MODE.
    pub quota_mode: bool,
}

/// A request and its answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision<'a> {
    /// The time that it was decided at. The embedded store gives no two decisions the same, so it is their order too.
    pub at: Timestamp,
    /// The domain.
    pub domain: &'a str,
    /// The hits of descriptors without their own, as they came: 0 means 1.
    pub hits_addend: u32,
    /// Whether it was refused.
    pub refused: bool,
    /// Why, as metrics have it.
    pub reason: &'a str,
    /// The name of the rule that decided, without values of the request; empty if none did.
    pub rule: &'a str,
    /// The descriptors with what became of them, in order.
    pub asked: SmallVec<[Asked<'a>; 2]>,
}

/// A descriptor and what became of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked<'a> {
    /// In the request's order. Values of sensitive keys are hashed.
    pub entries: Entries<'a>,
    /// Its own hits.
    pub hits_addend: Option<u64>,
    /// The hits are given back.
    pub is_negative_hits: bool,
    /// The limit that the request brought.
    pub limit: Option<Override>,
    /// What the directory said of its subject, as JSON; empty for nothing.
    pub standing: &'a str,
    /// All requests of its subject are in the capture.
    pub sampled: bool,
    /// Whether it refused.
    pub refused: bool,
    /// Whole hits left.
    pub remaining: u32,
}
