//! All integration tests, one binary: one link step.

mod admin;
mod cli;
mod compat;
mod conformance;
mod grpc;
mod properties;
mod redis;
mod reload;
mod support;
