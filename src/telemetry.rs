//! What an operator sees.
//!
//! - [`metrics`]: the only place that names metrics

pub mod metrics;
