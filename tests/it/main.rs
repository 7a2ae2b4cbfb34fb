//! All integration tests, one binary: one link step.

mod admin;
mod api;
mod bench;
mod book;
mod cli;
mod compat;
mod conformance;
mod decision;
mod envoy;
mod fallback;
mod golden;
mod grpc;
mod matching;
mod metrics;
mod product;
mod properties;
mod redis;
mod reload;
mod shell;
mod simulation;
mod snapshot;
mod subjects;
mod support;
mod tidy;
mod tracing;
mod usage;
