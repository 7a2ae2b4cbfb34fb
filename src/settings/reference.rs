//! Variables of envoyproxy/ratelimit that have no effect here, and what takes their place.
//!
//! All others are settings; `docs/differences.md` has each of them, and tests/it/dropin.rs compares the two.

use clap::{Args, Command};

use super::Settings;

/// Each variable, and why it has no effect or what to use instead: the rest of a sentence that begins with its name.
pub const WITHOUT_EFFECT: [(&str, &str); 27] = [
    ("REDIS_POOL_SIZE", ONE_CONNECTION),
    ("REDIS_PIPELINE_WINDOW", ONE_CONNECTION),
    ("REDIS_PIPELINE_LIMIT", ONE_CONNECTION),
    ("REDIS_CLUSTER_PIPELINE_PARALLELISM", ONE_CONNECTION),
    ("REDIS_POOL_ON_EMPTY_BEHAVIOR", ONE_CONNECTION),
    ("REDIS_POOL_ON_EMPTY_WAIT_DURATION", ONE_CONNECTION),
    (
        "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",
        "an outage of Redis is no reason to leave, since the failure_mode of each limit decides meanwhile; \
         watch tollgate_store_breaker_open, or the servers in /health/ready",
    ),
    ("REDIS_STARTUP_INITIAL_INTERVAL", AT_THE_START),
    ("REDIS_STARTUP_MAX_INTERVAL", AT_THE_START),
    ("REDIS_STARTUP_MAX_ELAPSED_TIME", AT_THE_START),
    ("REDIS_PERSECOND_POOL_SIZE", ONE_CONNECTION),
    ("REDIS_PERSECOND_PIPELINE_WINDOW", ONE_CONNECTION),
    ("REDIS_PERSECOND_PIPELINE_LIMIT", ONE_CONNECTION),
    (
        "REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM",
        ONE_CONNECTION,
    ),
    ("REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", ONE_CONNECTION),
    ("MEMCACHE_HOST_PORT", NO_MEMCACHE),
    ("MEMCACHE_SRV", NO_MEMCACHE),
    ("MEMCACHE_SRV_REFRESH", NO_MEMCACHE),
    ("MEMCACHE_MAX_IDLE_CONNS", NO_MEMCACHE),
    ("MEMCACHE_TLS", NO_MEMCACHE),
    ("MEMCACHE_TLS_CLIENT_CERT", NO_MEMCACHE),
    ("MEMCACHE_TLS_CLIENT_KEY", NO_MEMCACHE),
    ("MEMCACHE_TLS_CACERT", NO_MEMCACHE),
    ("MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", NO_MEMCACHE),
    (
        "EXPIRATION_JITTER_MAX_SECONDS",
        "a key expires when its state is no more than a fresh one would be, and Redis spreads that work itself; \
         there is nothing to set",
    ),
    (
        "PROMETHEUS_MAPPER_YAML",
        "the metrics carry their labels themselves (domain, rule, key1, key2); \
         rename them with metric_relabel_configs of Prometheus",
    ),
    (
        "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
        "ratelimit_service_response_time_seconds is in seconds; multiply by 1000 in the query",
    ),
];

const ONE_CONNECTION: &str = "calls share a connection to each server of Redis and are pipelined on it as they come, \
     to all servers at once; there is nothing to set, and STORE_TIMEOUT bounds how long a call may take";

const AT_THE_START: &str = "the ports are open from the start, and Redis is asked every 200 ms until it answers; \
     /healthcheck fails until then";

const NO_MEMCACHE: &str = "memcached cannot charge several limits in one step; use REDIS_URL with BACKEND_TYPE=redis, \
     or BACKEND_TYPE=embedded for one instance";

/// Why `BACKEND_TYPE=memcache` is refused, and what to do.
pub(super) const MEMCACHE: &str = "BACKEND_TYPE=memcache is not supported, since memcached cannot charge several limits \
     in one step; use REDIS_URL with BACKEND_TYPE=redis, or BACKEND_TYPE=embedded for one instance";

/// A sentence for each variable that is set and has no effect. One that is set to false or 0 asks for what is so anyway.
pub fn without_effect(value: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let asks = |value: &str| !matches!(value, "" | "0" | "f" | "F" | "FALSE" | "false" | "False");
    WITHOUT_EFFECT
        .iter()
        .filter(|(variable, _)| value(variable).as_deref().is_some_and(asks))
        .map(|(variable, instead)| format!("{variable} has no effect: {instead}"))
        .collect()
}

/// The variables of all settings.
pub fn variables() -> Vec<String> {
    let command = Settings::augment_args(Command::new("serve"));
    let names = command.get_arguments().filter_map(clap::Arg::get_env);
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}
