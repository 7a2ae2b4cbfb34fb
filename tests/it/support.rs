//! What the tests share.

pub(crate) mod model;
pub(crate) mod redis;
pub(crate) mod rules;
pub(crate) mod workload;
