//! Where the rules come from: the files of a directory, or a management server.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{Failed, parts};
use crate::engine::Engine;
use crate::reload::{Failure, Installer, Loaded, Loads, Reloader};
use crate::rules::compile::Options;
use crate::settings::Settings;
use crate::settings::values::Secret;
use crate::settings::xds::{ConfigType, Xds};
use crate::telemetry::metrics::Metrics;
use crate::xds::{self, Variant, backoff, connect};

/// The source of the rules.
pub(super) enum Feed {
    Files(Arc<Reloader>),
    Xds(Box<xds::Client>),
}

impl Feed {
    pub(super) fn new(
        settings: &Settings,
        engine: &Arc<Engine>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Failed> {
        let xds = &settings.xds;
        let variant = match xds.config_type().map_err(Failed::Usage)? {
            ConfigType::File => {
                let reloader = parts::reloader(settings, engine, metrics);
                return Ok(Feed::Files(Arc::new(reloader)));
            }
            ConfigType::XdsSotw => Variant::StateOfTheWorld,
            ConfigType::XdsDelta => Variant::Delta,
        };
        let options = Options {
            merge_domains: settings.rules.merge_domain_config,
            lints: false,
        };
        let installer = Installer::new(options, Arc::clone(engine), Arc::clone(metrics));
        let settings = self::settings(xds, variant).map_err(Failed::Usage)?;
        let client = xds::Client::new(settings, installer);
        let client = client.map_err(|trouble| Failed::Run(format!("xDS: {trouble}")))?;
        Ok(Feed::Xds(Box::new(client)))
    }

    /// What is there at the start; none if the rules are still to come.
    pub(super) fn first(&self) -> Option<Result<Loaded, Failure>> {
        match self {
            Feed::Files(reloader) => Some(reloader.load()),
            Feed::Xds(_) => None,
        }
    }

    /// What came of the loads.
    pub(super) fn loads(&self) -> Arc<Loads> {
        match self {
            Feed::Files(reloader) => reloader.loads(),
            Feed::Xds(client) => client.loads(),
        }
    }

    /// Takes what comes until dropped, and looks again when `asked` to.
    pub(super) async fn follow(self, asked: Arc<Notify>) {
        match self {
            Feed::Files(reloader) => reloader.watch(asked).await,
            Feed::Xds(client) => client.follow(asked).await,
        }
    }
}

/// The error names the variable that is wrong, and shows no header.
fn settings(xds: &Xds, variant: Variant) -> Result<xds::Settings, String> {
    let headers = xds.config_grpc_xds_client_additional_headers.as_ref();
    let headers = connect::headers(headers.map_or("", Secret::expose));
    let headers =
        headers.map_err(|e| format!("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS is {e}"))?;
    let pairs = xds.config_grpc_xds_node_metadata.split(',');
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    let jitter = match xds.xds_client_backoff_jitter {
        true => xds.xds_client_backoff_random_factor,
        false => 0.0,
    };
    Ok(xds::Settings {
        variant,
        server: connect::Settings {
            url: xds.config_grpc_xds_server_url.clone(),
            tls: tls(xds)?,
            headers,
            max_message_size: xds.xds_client_max_msg_size_in_bytes,
        },
        node_id: xds.config_grpc_xds_node_id.clone(),
        node_metadata: pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        backoff: backoff::Settings {
            initial: xds.xds_client_backoff_initial_interval.0,
            connect: xds.config_grpc_xds_server_connect_retry_interval.0,
            max: xds.xds_client_backoff_max_interval.0,
            jitter,
        },
    })
}

fn tls(xds: &Xds) -> Result<Option<connect::Tls>, String> {
    if !xds.config_grpc_xds_server_use_tls {
        return Ok(None);
    }
    let file = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let certificate = file(&xds.config_grpc_xds_client_tls_cert);
    let key = file(&xds.config_grpc_xds_client_tls_key);
    if certificate.is_some() != key.is_some() {
        return Err(
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT and CONFIG_GRPC_XDS_CLIENT_TLS_KEY need each other"
                .to_owned(),
        );
    }
    let name = xds.config_grpc_xds_server_tls_san.trim();
    Ok(Some(connect::Tls {
        ca: file(&xds.config_grpc_xds_server_tls_cacert),
        client: certificate.zip(key),
        server_name: (!name.is_empty()).then(|| name.to_owned()),
    }))
}
