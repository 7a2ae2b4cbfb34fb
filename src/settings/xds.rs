//! Rules from a management server.

use std::path::PathBuf;

use clap::Args;

use super::values::{Secret, Span, boolean, bytes, duration, factor};

/// Whether rules come from files or from a management server, and from which.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules from a management server")]
pub struct Xds {
    /// FILE, GRPC_XDS_SOTW or GRPC_XDS_DELTA: where the rules come from; from a management server the state of the world, or what changes
    #[arg(long, env, value_name = "TYPE", default_value = "FILE")]
    pub config_type: String,
    /// Who this is to the management server
    #[arg(long, env, value_name = "ID", default_value = "default")]
    pub config_grpc_xds_node_id: String,
    /// What else it is told: key=value,key=value
    #[arg(long, env, value_name = "PAIRS", default_value = "")]
    pub config_grpc_xds_node_metadata: String,
    /// The management server, host:port
    #[arg(long, env, value_name = "ADDRESS", default_value = "localhost:18000")]
    pub config_grpc_xds_server_url: String,
    /// How long to wait after connecting has failed; doubles with each failure
    #[arg(long, env, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub config_grpc_xds_server_connect_retry_interval: Span,
    /// Headers of each stream: name:value,name:value
    #[arg(long, env, value_name = "HEADERS", hide_env_values = true)]
    pub config_grpc_xds_client_additional_headers: Option<Secret>,
    /// Connect with TLS; the files are read again for each connection
    #[arg(long, env, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub config_grpc_xds_server_use_tls: bool,
    /// This client's certificate
    #[arg(long, env, value_name = "FILE")]
    pub config_grpc_xds_client_tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env, value_name = "FILE")]
    pub config_grpc_xds_client_tls_key: Option<PathBuf>,
    /// The authority that the server's certificate may be from, beside those of the system
    #[arg(long, env, value_name = "FILE")]
    pub config_grpc_xds_server_tls_cacert: Option<PathBuf>,
    /// The name that the server's certificate must have; that of the address if empty
    #[arg(long, env, value_name = "NAME", default_value = "")]
    pub config_grpc_xds_server_tls_san: String,
    /// How long to wait after a stream has ended that had answers; doubles with each failure to connect that follows
    #[arg(long, env, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub xds_client_backoff_initial_interval: Span,
    /// The longest wait
    #[arg(long, env, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub xds_client_backoff_max_interval: Span,
    /// The share of a wait by which it is longer or shorter; above 1 is 1
    #[arg(long, env, value_name = "0..1", default_value = "0.5", value_parser = factor)]
    pub xds_client_backoff_random_factor: f64,
    /// Whether waits vary
    #[arg(long, env, value_name = "BOOL", default_value = "true", value_parser = boolean, num_args = 0..=1, default_missing_value = "true")]
    pub xds_client_backoff_jitter: bool,
    /// The largest response, at most 268435456; 0 or nothing for 4194304
    #[arg(long, env, value_name = "BYTES", default_value = "", value_parser = bytes)]
    pub xds_client_max_msg_size_in_bytes: usize,
}

/// Where rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    /// The files of a directory.
    File,
    /// A management server, all at once.
    XdsSotw,
    /// A management server, what changes.
    XdsDelta,
}

impl Xds {
    /// Where rules come from; the error says what is wrong with CONFIG_TYPE.
    pub fn config_type(&self) -> Result<ConfigType, String> {
        match self.config_type.to_ascii_uppercase().as_str() {
            "" | "FILE" => Ok(ConfigType::File),
            "GRPC_XDS_SOTW" => Ok(ConfigType::XdsSotw),
            "GRPC_XDS_DELTA" => Ok(ConfigType::XdsDelta),
            _ => Err(format!(
                "CONFIG_TYPE={} is neither FILE nor GRPC_XDS_SOTW nor GRPC_XDS_DELTA",
                self.config_type
            )),
        }
    }

    /// Whether they come from a management server.
    pub fn is_on(&self) -> bool {
        match self.config_type() {
            Ok(ConfigType::XdsSotw | ConfigType::XdsDelta) => true,
            Ok(ConfigType::File) | Err(_) => false,
        }
    }
}
