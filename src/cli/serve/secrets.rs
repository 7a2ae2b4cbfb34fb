//! Files that hold secrets, and who may read them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::settings::Settings;

/// Read or write, for everybody.
const OTHERS: u32 = 0o006;

/// Warns of each that anybody on this machine may read or write.
pub(super) fn warn_of_open_files(settings: &Settings) {
    let Settings {
        store,
        grpc,
        http,
        xds,
        ..
    } = settings;
    let collector = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
    let of_collector = std::env::var_os(collector).map(PathBuf::from);
    let files = [
        ("GRPC_SERVER_TLS_KEY", &grpc.grpc_server_tls_key),
        ("HTTP_SERVER_TLS_KEY", &http.http_server_tls_key),
        ("REDIS_TLS_CLIENT_KEY", &store.redis_tls_client_key),
        (
            "CONFIG_GRPC_XDS_CLIENT_TLS_KEY",
            &xds.config_grpc_xds_client_tls_key,
        ),
        ("API_READ_TOKENS", &http.api_read_tokens),
        ("API_ADMIN_TOKENS", &http.api_admin_tokens),
        (collector, &of_collector),
    ];
    for (variable, path) in files {
        let Some(path) = path.as_deref().filter(|path| is_open(path)) else {
            continue;
        };
        warn!(
            "{variable}={} holds secrets, and anybody on this machine may read or write it",
            path.display()
        );
    }
}

/// One that is not there is told of elsewhere.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & OTHERS != 0)
}
