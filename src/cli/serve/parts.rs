//! From the table of settings to what each part wants to know.

use std::path::PathBuf;
use std::sync::Arc;

use crate::admin::Access;
use crate::engine::{self, Engine, ReferenceHeaders};
use crate::grpc;
use crate::grpc::tls::Files;
use crate::reload::{Reloader, Source};
use crate::rules::compile::Options;
use crate::settings::values::{Secret, Span};
use crate::settings::{Grpc, Http, Settings, Store, Telemetry};
use crate::store::redis::settings as redis;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::tracing::{Protocol, always};

/// Logs and traces; the error names the variable that is wrong.
pub(super) fn telemetry(settings: &Telemetry) -> Result<telemetry::Settings, String> {
    let kinds = settings.trace_always.parse();
    let kinds = kinds.map_err(|problem| format!("TRACE_ALWAYS: {problem}"))?;
    Ok(telemetry::Settings {
        log_level: settings.log_level.clone(),
        log_json: settings.log_format.eq_ignore_ascii_case("json"),
        tracing: telemetry::tracing::Settings {
            enabled: settings.tracing_enabled,
            service_name: settings.tracing_service_name.clone(),
            service_namespace: settings.tracing_service_namespace.clone(),
            service_instance_id: settings.tracing_service_instance_id.clone(),
            protocol: settings
                .tracing_exporter_protocol
                .as_deref()
                .map(otlp_protocol),
            sampling_rate: f64::from(settings.tracing_sampling_rate),
            always: always::Settings {
                kinds,
                slow: settings.trace_slow.0,
                per_second: settings.trace_always_rate,
            },
        },
    })
}

fn otlp_protocol(name: &str) -> Protocol {
    if name.eq_ignore_ascii_case("http") {
        Protocol::Http
    } else {
        Protocol::Grpc
    }
}

pub(super) fn engine(settings: &Settings) -> engine::Settings {
    let decision = &settings.decision;
    let names = || ReferenceHeaders {
        limit: decision.limit_limit_header.clone(),
        remaining: decision.limit_remaining_header.clone(),
        reset: decision.limit_reset_header.clone(),
    };
    engine::Settings {
        // What comes from a management server was written for the reference, which charges always.
        stop_increment: decision
            .stop_cache_key_increment_when_overlimit
            .or(settings.xds.is_on().then_some(false)),
        shadow_mode: decision.shadow_mode,
        quota_mode: decision.quota_mode,
        near_limit_ratio: decision.near_limit_ratio,
        key_prefix: decision.cache_key_prefix.clone(),
        reference_headers: decision.limit_response_headers_enabled.then(names),
        reference_metadata: decision.response_dynamic_metadata,
        store_timeout: settings.store.store_timeout.0,
        instances: decision.instance_count,
        usage_retention: decision.usage_retention.0,
    }
}

/// Who may use the management API.
pub(super) fn access(settings: &Http) -> Access {
    let file = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    Access::new(
        file(&settings.api_read_tokens),
        file(&settings.api_admin_tokens),
        file(&settings.audit_log),
    )
}

/// Where Redis is; the error names the variable that is wrong, and never shows a secret.
pub(super) fn redis(settings: &Settings) -> Result<redis::Settings, String> {
    let (store, second) = (&settings.store, &settings.per_second);
    let mut first = Place {
        kind: &store.redis_type,
        socket: &store.redis_socket_type,
        url: &store.redis_url,
        auth: &store.redis_auth,
        sentinel_auth: &store.redis_sentinel_auth,
        has_tls: store.redis_tls,
        connect_timeout: store.redis_timeout,
    }
    .read(store)
    .map_err(|error| error.to_string())?;
    if second.redis_persecond {
        let place = Place {
            kind: &second.redis_persecond_type,
            socket: &second.redis_persecond_socket_type,
            url: &second.redis_persecond_url,
            auth: &second.redis_persecond_auth,
            sentinel_auth: &second.redis_persecond_sentinel_auth,
            has_tls: second.redis_persecond_tls,
            connect_timeout: second.redis_persecond_timeout,
        };
        if text(place.url).is_none() {
            return Err("REDIS_PERSECOND=true needs a REDIS_PERSECOND_URL".to_owned());
        }
        let place = place.read(store).map_err(|error| {
            let said = error.to_string();
            said.replace("REDIS_", "REDIS_PERSECOND_")
        })?;
        first.per_second = Some(Box::new(place));
    }
    Ok(first)
}

/// What the variables say of one of the two.
struct Place<'a> {
    kind: &'a str,
    socket: &'a str,
    url: &'a Option<Secret>,
    auth: &'a Option<Secret>,
    sentinel_auth: &'a Option<Secret>,
    has_tls: bool,
    connect_timeout: Span,
}

impl Place<'_> {
    /// The rest is the same for both.
    fn read(&self, store: &Store) -> Result<redis::Settings, redis::SettingsError> {
        let kind: redis::Kind = self.kind.parse()?;
        let socket: redis::Socket = self.socket.parse()?;
        let url = text(self.url).unwrap_or_default();
        let mut settings = redis::Settings::parse(kind, socket, url)?;
        if let Some(text) = text(self.auth) {
            settings.credentials = redis::Credentials::parse(text);
        }
        if let redis::Servers::Sentinel { credentials, .. } = &mut settings.servers {
            *credentials = redis::Credentials::parse(text(self.sentinel_auth).unwrap_or_default());
        }
        let file =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        if self.has_tls || settings.tls.is_some() {
            settings.tls = Some(redis::Tls {
                ca: file(&store.redis_tls_cacert),
                client: file(&store.redis_tls_client_cert).zip(file(&store.redis_tls_client_key)),
                skip_hostname_verification: store.redis_tls_skip_hostname_verification,
            });
        }
        settings.connect_timeout = self.connect_timeout.0;
        settings.timeout = store.store_timeout.0;
        settings.wait_replicas = store.redis_wait_replicas;
        Ok(settings)
    }
}

/// What is set, and not to nothing.
fn text(secret: &Option<Secret>) -> Option<&str> {
    let text = secret.as_ref().map(Secret::expose);
    text.filter(|text| !text.is_empty())
}

pub(super) fn reloader(
    settings: &Settings,
    engine: &Arc<Engine>,
    metrics: &Arc<Metrics>,
) -> Reloader {
    let source = Source {
        dir: settings.rules.dir(),
        ignore_dotfiles: settings.rules.runtime_ignoredotfiles,
    };
    let options = Options {
        merge_domains: settings.rules.merge_domain_config,
        lints: false,
    };
    Reloader::new(source, options, Arc::clone(engine), Arc::clone(metrics))
}

pub(super) fn grpc(settings: &Settings) -> grpc::Settings {
    let grpc = &settings.grpc;
    grpc::Settings {
        max_connection_age: grpc.grpc_max_connection_age.0,
        max_connection_age_grace: grpc.grpc_max_connection_age_grace.0,
        keepalive_interval: grpc.grpc_keepalive_interval.0,
        keepalive_timeout: grpc.grpc_keepalive_timeout.0,
        max_connections: usize::try_from(grpc.grpc_max_connections).unwrap_or(usize::MAX),
        max_concurrent_streams: grpc.grpc_max_concurrent_streams,
        max_calls: usize::try_from(grpc.grpc_max_calls).unwrap_or(usize::MAX),
        max_message_size: usize::try_from(grpc.grpc_max_message_size).unwrap_or(usize::MAX),
        needed_domains: settings.rules.needed_domains(),
        threads: match usize::from(grpc.grpc_threads) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
    }
}

/// The files of the gRPC port's TLS; none without TLS.
pub(super) fn grpc_tls(grpc: &Grpc) -> Result<Option<Files>, String> {
    if !grpc.grpc_server_use_tls {
        return Ok(None);
    }
    tls_files(
        "GRPC",
        [
            &grpc.grpc_server_tls_cert,
            &grpc.grpc_server_tls_key,
            &grpc.grpc_client_tls_cacert,
        ],
        grpc.grpc_client_tls_san.as_deref(),
    )
    .map(Some)
}

/// The files of the HTTP ports' TLS; none without TLS.
pub(super) fn http_tls(http: &Http) -> Result<Option<Files>, String> {
    if !http.http_server_use_tls {
        return Ok(None);
    }
    tls_files(
        "HTTP",
        [
            &http.http_server_tls_cert,
            &http.http_server_tls_key,
            &http.http_client_tls_cacert,
        ],
        http.http_client_tls_san.as_deref(),
    )
    .map(Some)
}

fn tls_files(
    port: &str,
    [certificate, key, client_ca]: [&Option<PathBuf>; 3],
    client_san: Option<&str>,
) -> Result<Files, String> {
    let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let needed = |path: &Option<PathBuf>, what: &str| {
        let missing = || format!("{port}_SERVER_USE_TLS=true needs {port}_SERVER_TLS_{what}");
        given(path).ok_or_else(missing)
    };
    let files = Files {
        certificate: needed(certificate, "CERT")?,
        key: needed(key, "KEY")?,
        client_ca: given(client_ca),
        client_san: client_san.filter(|san| !san.is_empty()).map(str::to_owned),
    };
    if files.client_san.is_some() && files.client_ca.is_none() {
        return Err(format!(
            "{port}_CLIENT_TLS_SAN needs {port}_CLIENT_TLS_CACERT"
        ));
    }
    Ok(files)
}
