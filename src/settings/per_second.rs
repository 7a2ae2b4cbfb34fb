//! A Redis of its own for limits per second, as envoyproxy/ratelimit may have one.

use clap::Args;

use super::values::{Secret, Span, boolean, duration};

/// Where it is. The files of its TLS, `STORE_TIMEOUT` and what else is said of Redis are those of `REDIS_URL`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "A store for limits per second")]
pub struct PerSecond {
    /// Keep limits per second in a Redis of their own
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub redis_persecond: bool,
    /// As REDIS_URL
    #[arg(long, env, value_name = "URL", hide_env_values = true)]
    pub redis_persecond_url: Option<Secret>,
    /// As REDIS_TYPE
    #[arg(long, env, value_name = "TYPE", default_value = "single")]
    pub redis_persecond_type: String,
    /// As REDIS_SOCKET_TYPE
    #[arg(long, env, value_name = "TYPE", default_value = "tcp")]
    pub redis_persecond_socket_type: String,
    /// As REDIS_AUTH
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    pub redis_persecond_auth: Option<Secret>,
    /// As REDIS_SENTINEL_AUTH
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    pub redis_persecond_sentinel_auth: Option<Secret>,
    /// As REDIS_TLS
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub redis_persecond_tls: bool,
    /// As REDIS_TIMEOUT
    #[arg(long, env, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub redis_persecond_timeout: Span,
}
