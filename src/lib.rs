//! Tollgate: a global rate limit service for Envoy.
//!
//! A request walks one way: `grpc/rls → grpc/wire → engine → rules/matcher → store → limit`, and back through `grpc/wire`.
//! In reading order:
//!
//! Core, without I/O, logging or clock:
//! - [`time`]: moments and spans as integers; the one reader of the wall clock
//! - [`limit`]: limits, what a key remembers, the decision
//! - [`rules`]: rule files compiled to a rule set, or to every diagnostic
//! - [`envoy`]: what an Envoy with a given configuration asks, for the command line
//!
//! Shell:
//! - [`settings`]: environment variables and flags, read once
//! - [`telemetry`]: metrics, traces, logs
//! - [`store`]: the contract of the stores; the embedded one, and Redis
//! - [`directory`]: plans, grants, lists and bans of subjects, changed at run time
//! - [`capture`]: decisions in a file, to be replayed
//! - [`engine`]: a request in, an answer out
//! - [`reload`]: rule files to the engine, at start and on every change
//! - [`xds`]: the rules of a management server to the engine, in place of files
//! - [`grpc`]: the rate limit service
//! - [`admin`]: the HTTP and debug ports
//! - [`cli`]: the subcommands
//!
//! Deliberately absent: a plugin interface for stores or algorithms (both are closed enums), and any state that is not in a
//! store.

// Whatever comes in is answered: what cannot be is told by its type, not by a panic.
#![warn(
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_in_result,
    clippy::get_unwrap
)]

pub mod admin;
pub mod capture;
pub mod cli;
pub mod directory;
pub mod engine;
pub mod envoy;
pub mod grpc;
pub mod limit;
pub mod reload;
pub mod rules;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod xds;
