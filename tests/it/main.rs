//! All integration tests, one binary: one link step.

mod compat;
mod conformance;
mod properties;
mod redis;
mod support;
