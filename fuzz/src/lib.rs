//! Each input of Tollgate with what it must stand: any bytes at all. A file each, whose `run` takes them; it panics where
//! something is wrong.
//!
//! `fuzz/run` has a fuzzer look for such bytes. `tests/it/fuzz.rs` shares these files: it runs each of them on what lies under
//! `fuzz/seeds`, where every input that was ever found goes.
//!
//! - [`rules`]: rule files
//! - [`request`]: the messages of the rate limit service; [`mod@json`]: the same as JSON
//! - [`api`]: calls of the management API
//! - [`directory`]: what the directory has kept in a store
//! - [`redis`]: what Redis says; [`value`]: what stands under a key there
//! - [`snapshot`]: the file of the embedded store
//! - [`capture`]: the file of `serve --record`
//! - [`tokens`]: files of tokens
//! - [`values`]: values of settings
//! - [`world`]: a service without ports, and a runtime

pub mod api;
pub mod capture;
pub mod directory;
pub mod json;
pub mod redis;
pub mod request;
pub mod rules;
pub mod snapshot;
pub mod tokens;
pub mod value;
pub mod values;
pub mod world;
