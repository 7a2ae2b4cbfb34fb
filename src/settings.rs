//! Environment variables and flags: one table, read once.
//!
//! A setting that envoyproxy/ratelimit has too has its name and meaning. Each is a flag and a variable; the flag wins.
//!
//! - [`values`]: durations, booleans and secrets as they are written
//! - [`xds`]: rules from a management server
//! - [`per_second`]: a second Redis
//! - [`record`]: what is asked and answered, kept in a file
//! - [`mod@reference`]: variables of envoyproxy/ratelimit that have no effect

use std::path::{Path, PathBuf};

use clap::Args;

pub mod per_second;
pub mod record;
pub mod reference;
pub mod values;
pub mod xds;

use values::{Secret, Span, boolean, duration, period, ratio};

/// All settings of `tollgate serve`.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub rules: Rules,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub xds: xds::Xds,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub decision: Decision,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub store: Store,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub per_second: per_second::PerSecond,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub grpc: Grpc,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub http: Http,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub telemetry: Telemetry,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub statistics: Statistics,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group says what it is")]
    pub record: record::Record,
}

/// Where the rules are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules")]
pub struct Rules {
    /// The directory of the rules
    #[arg(long, env, value_name = "DIR", default_value = "config/rules")]
    pub rules_dir: PathBuf,
    /// As in envoyproxy/ratelimit: the rules are in RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/RUNTIME_APPDIRECTORY, which go before
    /// RULES_DIR; with one of the other two alone it is /srv/runtime_data/current
    #[arg(long, env, value_name = "DIR")]
    pub runtime_root: Option<PathBuf>,
    /// See RUNTIME_ROOT
    #[arg(long, env, value_name = "DIR", default_value = "")]
    pub runtime_subdirectory: String,
    /// See RUNTIME_ROOT; config if not set
    #[arg(long, env, value_name = "DIR")]
    pub runtime_appdirectory: Option<String>,
    /// Leave out files whose names begin with a dot
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub runtime_ignoredotfiles: bool,
    /// Accepted; every change below the directory of the rules is seen, whether the root is swapped or a file is written
    #[arg(long, env, value_name = "BOOL", default_value = "true", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub runtime_watch_root: bool,
    /// Let several files have the same domain
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub merge_domain_config: bool,
    /// Healthy also before there are rules; the ports are open before in any case
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub force_start_without_initial_config: bool,
    /// Healthy only while there is at least one domain
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub healthy_with_at_least_one_config_loaded: bool,
}

/// How requests are decided and answered.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Decision")]
pub struct Decision {
    /// true: a refused request is charged nowhere; false: everywhere, as envoyproxy/ratelimit does; unset: true for rules from files, false for those from a management server. A limit's `charge` wins
    #[arg(long, env, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub stop_cache_key_increment_when_overlimit: Option<bool>,
    /// Decide and count, but refuse nothing
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub shadow_mode: bool,
    /// Treat every descriptor as a quota: refuse only when all are over
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub quota_mode: bool,
    /// The share of a limit above which hits count as near it
    #[arg(long, env, value_name = "0..1", default_value = "0.8", value_parser = ratio)]
    pub near_limit_ratio: f32,
    /// What every key in the store begins with
    #[arg(long, env, value_name = "TEXT", default_value = "")]
    pub cache_key_prefix: String,
    /// Send the three headers of envoyproxy/ratelimit
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub limit_response_headers_enabled: bool,
    /// The first of them: the limit
    #[arg(long, env, value_name = "NAME", default_value = "RateLimit-Limit")]
    pub limit_limit_header: String,
    /// The second: what is left
    #[arg(long, env, value_name = "NAME", default_value = "RateLimit-Remaining")]
    pub limit_remaining_header: String,
    /// The third: seconds until the limit is whole again
    #[arg(long, env, value_name = "NAME", default_value = "RateLimit-Reset")]
    pub limit_reset_header: String,
    /// Answer with dynamic metadata in the shape of envoyproxy/ratelimit
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub response_dynamic_metadata: bool,
    /// How many instances share a limit while the store does not answer; unset: as many as say in Redis that they are there
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub instance_count: Option<u32>,
    /// How long the usage of a period is kept after it has ended
    #[arg(long, env, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    pub usage_retention: Span,
}

/// Where the counters are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct Store {
    /// embedded or redis; redis when REDIS_URL is set, else embedded
    #[arg(long, env, value_name = "TYPE")]
    pub backend_type: Option<String>,
    /// How long the store may take before the limit's failure_mode decides
    #[arg(long, env, value_name = "DURATION", default_value = "10ms", value_parser = duration)]
    pub store_timeout: Span,
    /// The most keys of the embedded store
    #[arg(long, env, value_name = "N", default_value = "1000000", value_parser = clap::value_parser!(u32).range(1..))]
    pub embedded_max_keys: u32,
    /// A file that the embedded store is written to, and read from at the start
    #[arg(long, env, value_name = "FILE")]
    pub embedded_snapshot: Option<PathBuf>,
    /// How often it is written; it also is at the end
    #[arg(long, env, value_name = "DURATION", default_value = "1m", value_parser = period)]
    pub embedded_snapshot_every: Span,
    /// Accepted; refusals are remembered anyway, of up to 65,536 keys in Redis
    #[arg(long, env, value_name = "BYTES", default_value = "0")]
    pub local_cache_size_in_bytes: u64,
    /// host:port, a socket's path or a redis:// URL; for sentinel master,host:port,…; for cluster host:port,…
    #[arg(long, env, value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<Secret>,
    /// single, sentinel or cluster
    #[arg(long, env, value_name = "TYPE", default_value = "single")]
    pub redis_type: String,
    /// tcp or unix; a path is a socket anyway
    #[arg(long, env, value_name = "TYPE", default_value = "tcp")]
    pub redis_socket_type: String,
    /// PASSWORD or USER:PASSWORD
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    pub redis_auth: Option<Secret>,
    /// PASSWORD or USER:PASSWORD of the sentinels
    #[arg(long, env, value_name = "SECRET", hide_env_values = true)]
    pub redis_sentinel_auth: Option<Secret>,
    /// Connect with TLS
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub redis_tls: bool,
    /// The authority that the server's certificate must be from
    #[arg(long, env, value_name = "FILE")]
    pub redis_tls_cacert: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, env, value_name = "FILE")]
    pub redis_tls_client_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env, value_name = "FILE")]
    pub redis_tls_client_key: Option<PathBuf>,
    /// Do not compare the server's name with its certificate
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub redis_tls_skip_hostname_verification: bool,
    /// How long connecting may take
    #[arg(long, env, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub redis_timeout: Span,
    /// How many replicas must have a charge of a limit with `durability: replicated`
    #[arg(long, env, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..))]
    pub redis_wait_replicas: u8,
}

/// The gRPC port.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "gRPC")]
pub struct Grpc {
    /// The address of the gRPC port
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub grpc_host: String,
    /// The gRPC port
    #[arg(long, env, value_name = "PORT", default_value = "8081")]
    pub grpc_port: u16,
    /// A unix socket in place of the port
    #[arg(long, env, value_name = "PATH")]
    pub grpc_uds: Option<PathBuf>,
    /// How many threads serve the port; 0 for one a core
    #[arg(long, env, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub grpc_threads: u16,
    /// How old a connection may be, ±10 %
    #[arg(long, env, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub grpc_max_connection_age: Span,
    /// How long its calls may then take to finish
    #[arg(long, env, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub grpc_max_connection_age_grace: Span,
    /// How often a silent client is asked for a sign of life
    #[arg(long, env, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub grpc_keepalive_interval: Span,
    /// How long it may take to give one
    #[arg(long, env, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub grpc_keepalive_timeout: Span,
    /// The most connections at once; beyond it new ones are closed
    #[arg(long, env, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    pub grpc_max_connections: u32,
    /// The most calls of all connections at once; beyond it calls are answered RESOURCE_EXHAUSTED unread
    #[arg(long, env, value_name = "N", default_value = "65536", value_parser = clap::value_parser!(u32).range(1..))]
    pub grpc_max_calls: u32,
    /// The most calls of one connection at once
    #[arg(long, env, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..))]
    pub grpc_max_concurrent_streams: u32,
    /// The largest request
    #[arg(long, env, value_name = "BYTES", default_value = "1048576", value_parser = clap::value_parser!(u32).range(1..))]
    pub grpc_max_message_size: u32,
    /// Serve TLS
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub grpc_server_use_tls: bool,
    /// The certificate chain; read again when it changes
    #[arg(long, env, value_name = "FILE")]
    pub grpc_server_tls_cert: Option<PathBuf>,
    /// Its key; read again when it changes
    #[arg(long, env, value_name = "FILE")]
    pub grpc_server_tls_key: Option<PathBuf>,
    /// The authority of client certificates, which are then required
    #[arg(long, env, value_name = "FILE")]
    pub grpc_client_tls_cacert: Option<PathBuf>,
    /// The DNS name that a client's certificate must have
    #[arg(long, env, value_name = "NAME")]
    pub grpc_client_tls_san: Option<String>,
    /// How long to go on serving, not ready, after SIGTERM
    #[arg(long, env, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub drain_delay: Span,
    /// How long calls under way may then take to finish
    #[arg(long, env, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Span,
}

/// The HTTP ports.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub struct Http {
    /// The address of the HTTP port
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub host: String,
    /// The HTTP port
    #[arg(long, env, value_name = "PORT", default_value = "8080")]
    pub port: u16,
    /// The address of the debug port
    #[arg(long, env, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub debug_host: String,
    /// The debug port
    #[arg(long, env, value_name = "PORT", default_value = "6070")]
    pub debug_port: u16,
    /// Serve TLS on both HTTP ports
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub http_server_use_tls: bool,
    /// The certificate chain; read again when it changes
    #[arg(long, env, value_name = "FILE")]
    pub http_server_tls_cert: Option<PathBuf>,
    /// Its key; read again when it changes
    #[arg(long, env, value_name = "FILE")]
    pub http_server_tls_key: Option<PathBuf>,
    /// The authority of client certificates, which are then required, of probes too
    #[arg(long, env, value_name = "FILE")]
    pub http_client_tls_cacert: Option<PathBuf>,
    /// The DNS name that a client's certificate must have
    #[arg(long, env, value_name = "NAME")]
    pub http_client_tls_san: Option<String>,
    /// The tokens of those who may read the management API, one a line; read again at each call
    #[arg(long, env, value_name = "FILE")]
    pub api_read_tokens: Option<PathBuf>,
    /// The tokens of those who may also change plans, lists and bans. Without either file the API answers on loopback only
    #[arg(long, env, value_name = "FILE")]
    pub api_admin_tokens: Option<PathBuf>,
    /// Where each change through the API is written, a line of JSON; by default it is a line of the log
    #[arg(long, env, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
}

/// Logs and traces; the exporter also follows the OTEL_* variables.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct Telemetry {
    /// panic, fatal, error, warn, info, debug, trace (as debug in a release), or a filter such as tollgate=debug,info
    #[arg(long, env, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// text or json
    #[arg(long, env, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"], ignore_case = true)]
    pub log_format: String,
    /// Export traces by OTLP; also on when OTEL_EXPORTER_OTLP_ENDPOINT is set
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub tracing_enabled: bool,
    /// service.name of the traces
    #[arg(long, env, value_name = "NAME", default_value = "RateLimit")]
    pub tracing_service_name: String,
    /// service.namespace of the traces
    #[arg(long, env, value_name = "NAME", default_value = "")]
    pub tracing_service_namespace: String,
    /// service.instance.id of the traces; random if empty
    #[arg(long, env, value_name = "ID", default_value = "")]
    pub tracing_service_instance_id: String,
    /// grpc, or http for OTLP over HTTP; by default what OTEL_EXPORTER_OTLP_PROTOCOL or the collector's port says
    #[arg(long, env, value_name = "PROTOCOL", value_parser = ["grpc", "http"], ignore_case = true)]
    pub tracing_exporter_protocol: Option<String>,
    /// The share of requests that are traced when Envoy has not decided
    #[arg(long, env, value_name = "0..1", default_value = "1", value_parser = ratio)]
    pub tracing_sampling_rate: f32,
    /// Which decisions are traced though they were not sampled: of refused,error,slow
    #[arg(long, env, value_name = "KINDS", default_value = "")]
    pub trace_always: String,
    /// From which time to answer on a decision is slow
    #[arg(long, env, value_name = "DURATION", default_value = "5ms", value_parser = duration)]
    pub trace_slow: Span,
    /// The most decisions a second that are traced for TRACE_ALWAYS; those beyond are counted
    #[arg(long, env, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trace_always_rate: u32,
}

/// Statistics beside `/metrics`, as envoyproxy/ratelimit has them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Statistics")]
pub struct Statistics {
    /// Send and serve none of these; `/metrics` on the HTTP port stays
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub disable_stats: bool,
    /// Send statistics to StatsD; true when STATSD_HOST is set, unless one of the other two is
    #[arg(long, env, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub use_statsd: Option<bool>,
    /// Send statistics to DogStatsD, over UDP
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub use_dog_statsd: bool,
    /// Serve the metrics on PROMETHEUS_ADDR too
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub use_prometheus: bool,
    /// The server of StatsD or DogStatsD; localhost if not set
    #[arg(long, env, value_name = "HOST")]
    pub statsd_host: Option<String>,
    /// Its port
    #[arg(long, env, value_name = "PORT", default_value = "8125")]
    pub statsd_port: u16,
    /// tcp or udp, to StatsD
    #[arg(long, env, value_name = "PROTOCOL", default_value = "tcp")]
    pub statsd_protocol: String,
    /// How often statistics are sent
    #[arg(long, env, value_name = "DURATION", default_value = "10s", value_parser = period)]
    pub stats_flush_interval: Span,
    /// Tags of all statistics that are sent: key:value,key:value
    #[arg(long, env, value_name = "TAGS", default_value = "")]
    pub extra_tags: String,
    /// Names of what makes tags of names for DogStatsD, each with DOG_STATSD_MOGRIFIER_NAME_PATTERN, _NAME and _TAGS
    #[arg(long, env, value_name = "NAMES", default_value = "")]
    pub use_dog_statsd_mogrifiers: String,
    /// Where USE_PROMETHEUS serves the metrics
    #[arg(long, env, value_name = "ADDRESS", default_value = ":9090")]
    pub prometheus_addr: String,
    /// And under which path
    #[arg(long, env, value_name = "PATH", default_value = "/metrics")]
    pub prometheus_path: String,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In this process.
    Embedded,
    /// Redis.
    Redis,
}

/// Where envoyproxy/ratelimit has its rules unless RUNTIME_ROOT says otherwise.
const RUNTIME_ROOT: &str = "/srv/runtime_data/current";

impl Rules {
    /// The directory of the rules.
    pub fn dir(&self) -> PathBuf {
        let app = self.runtime_appdirectory.as_deref();
        let app = app.filter(|app| !app.is_empty());
        let named = !self.runtime_subdirectory.is_empty() || app.is_some();
        let root = match &self.runtime_root {
            Some(root) => root,
            None if named => Path::new(RUNTIME_ROOT),
            None => return self.rules_dir.clone(),
        };
        let inside = |name: &str| name.trim_start_matches('/').to_owned();
        root.join(inside(&self.runtime_subdirectory))
            .join(inside(app.unwrap_or("config")))
    }

    /// How many domains there must be for the service to be healthy; none if it is so also without rules.
    pub fn needed_domains(&self) -> Option<usize> {
        match (
            self.healthy_with_at_least_one_config_loaded,
            self.force_start_without_initial_config,
        ) {
            (true, _) => Some(1),
            (false, false) => Some(0),
            (false, true) => None,
        }
    }
}

impl Store {
    /// The file of the embedded store.
    pub fn snapshot(&self) -> Option<&Path> {
        let path = self.embedded_snapshot.as_deref();
        path.filter(|path| !path.as_os_str().is_empty())
    }

    /// Which store is meant; the error says what is wrong with BACKEND_TYPE.
    pub fn backend(&self) -> Result<Backend, String> {
        let has_url = self
            .redis_url
            .as_ref()
            .is_some_and(|url| !url.expose().is_empty());
        match self
            .backend_type
            .as_deref()
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            None | Some("") if !has_url => Ok(Backend::Embedded),
            Some("embedded") => Ok(Backend::Embedded),
            None | Some("" | "redis") if has_url => Ok(Backend::Redis),
            Some("redis") => Err("BACKEND_TYPE=redis needs a REDIS_URL".to_owned()),
            Some("memcache") => Err(reference::MEMCACHE.to_owned()),
            Some(other) => Err(format!(
                "BACKEND_TYPE={other} is neither embedded nor redis"
            )),
            None => Ok(Backend::Embedded),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn dir(args: &[&str]) -> PathBuf {
        let command = Settings::augment_args(clap::Command::new("serve"));
        let args = ["serve"].iter().chain(args);
        let matches = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let matches = matches.try_get_matches_from(args).expect("settings");
        let settings = Settings::from_arg_matches(&matches).expect("settings");
        settings.rules.dir()
    }

    #[test]
    fn the_rules_are_where_the_reference_has_them() {
        for (args, wanted) in [
            (&[][..], "config/rules"),
            (&["--rules-dir=/r"], "/r"),
            (&["--rules-dir=/r", "--runtime-root=/data"], "/data/config"),
            (
                &["--runtime-root=/data", "--runtime-subdirectory=ratelimit"],
                "/data/ratelimit/config",
            ),
            (
                &["--runtime-root=/data", "--runtime-appdirectory=/rules"],
                "/data/rules",
            ),
            (
                &["--rules-dir=/r", "--runtime-subdirectory=ratelimit"],
                "/srv/runtime_data/current/ratelimit/config",
            ),
        ] {
            assert_eq!(dir(args), Path::new(wanted), "{args:?}");
        }
    }
}
