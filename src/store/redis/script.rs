//! The scripts: the Lua twins of [`limit`](crate::limit) put together, and what is kept beside the counters.

use std::sync::LazyLock;

/// A script.
#[derive(Debug)]
pub(super) struct Script {
    /// The text.
    pub(super) source: &'static str,
    /// The name that Redis knows the text by once it has seen it.
    pub(super) sha1: LazyLock<String>,
}

/// Decides and charges. The files share one scope, so each may use what those before it define.
pub(super) static DECIDE: Script = Script {
    source: DECIDE_SOURCE,
    sha1: LazyLock::new(|| sha1(DECIDE_SOURCE)),
};

/// Texts, items and the log of changes.
pub(super) static BOOK: Script = Script {
    source: BOOK_SOURCE,
    sha1: LazyLock::new(|| sha1(BOOK_SOURCE)),
};

/// What was used.
pub(super) static USAGE: Script = Script {
    source: USAGE_SOURCE,
    sha1: LazyLock::new(|| sha1(USAGE_SOURCE)),
};

/// What instances tell each other.
pub(super) static POSTS: Script = Script {
    source: POSTS_SOURCE,
    sha1: LazyLock::new(|| sha1(POSTS_SOURCE)),
};

const DECIDE_SOURCE: &str = concat!(
    include_str!("script.lua"),
    include_str!("../../limit.lua"),
    include_str!("../../limit/fixed_window.lua"),
    include_str!("../../limit/token_bucket.lua"),
    include_str!("../../limit/sliding_window.lua"),
    include_str!("../../limit/ban.lua"),
    include_str!("../../limit/candidate.lua"),
    include_str!("../../limit/transaction.lua"),
);

const BOOK_SOURCE: &str = concat!(include_str!("frames.lua"), include_str!("book.lua"));
const USAGE_SOURCE: &str = concat!(include_str!("frames.lua"), include_str!("usage.lua"));
const POSTS_SOURCE: &str = concat!(include_str!("frames.lua"), include_str!("posts.lua"));

fn sha1(source: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.as_ref().iter().map(hex).collect()
}
