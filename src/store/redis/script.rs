//! The one script: the Lua twins of [`limit`](crate::limit), put together.

use std::sync::LazyLock;

/// The text. The files share one scope, so each may use what those before it define.
pub(super) const SOURCE: &str = concat!(
    include_str!("../../limit.lua"),
    include_str!("../../limit/fixed_window.lua"),
    include_str!("../../limit/token_bucket.lua"),
    include_str!("../../limit/sliding_window.lua"),
    include_str!("../../limit/transaction.lua"),
);

/// The name that Redis knows the text by once it has seen it.
pub(super) static SHA1: LazyLock<String> = LazyLock::new(|| {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, SOURCE.as_bytes());
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.as_ref().iter().map(hex).collect()
});
