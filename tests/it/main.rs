//! All integration tests, one binary: one link step.

mod conformance;
mod properties;
mod support;
