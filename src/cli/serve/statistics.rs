//! From the settings to where statistics go beside `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::settings::Statistics;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::statsd::tags::{Form, Mogrifier};
use crate::telemetry::statsd::{Exporter, Protocol, Settings};

/// Where statistics go.
#[derive(Debug)]
pub(super) enum Sink {
    /// To StatsD or DogStatsD.
    Statsd(Settings),
    /// Nowhere: they are fetched from a port of their own, under a path.
    Prometheus(SocketAddr, String),
}

impl Sink {
    /// What sends them, if they are sent.
    pub(super) fn exporter(self, metrics: &Arc<Metrics>) -> Option<Arc<Exporter>> {
        match self {
            Sink::Statsd(settings) => Some(Arc::new(Exporter::new(settings, Arc::clone(metrics)))),
            Sink::Prometheus(..) => None,
        }
    }
}

/// The one that is set, if any; the error names the variable that is wrong.
pub(super) async fn sink(settings: &Statistics) -> Result<Option<Sink>, String> {
    let host = settings.statsd_host.as_deref();
    let host = host.filter(|host| !host.is_empty());
    let others = settings.use_dog_statsd || settings.use_prometheus;
    let statsd = settings.use_statsd.unwrap_or(host.is_some() && !others);
    if settings.disable_stats {
        return Ok(None);
    }
    match (statsd, settings.use_dog_statsd, settings.use_prometheus) {
        (false, false, false) => Ok(None),
        (false, false, true) => {
            let path = settings.prometheus_path.clone();
            if !path.starts_with('/') || path.contains(['{', '*']) {
                return Err(format!("PROMETHEUS_PATH={path} is no path"));
            }
            let address = address(&settings.prometheus_addr).await?;
            Ok(Some(Sink::Prometheus(address, path)))
        }
        (true, false, false) | (false, true, false) => {
            let tags = settings.extra_tags.parse();
            let said = |error| format!("STATSD_PROTOCOL: {error}");
            let protocol = settings.statsd_protocol.parse().map_err(said)?;
            Ok(Some(Sink::Statsd(Settings {
                host: host.unwrap_or("localhost").to_owned(),
                port: settings.statsd_port,
                protocol: match settings.use_dog_statsd {
                    true => Protocol::Udp,
                    false => protocol,
                },
                form: Form {
                    dog: settings.use_dog_statsd,
                    extra: tags.map_err(|error| format!("EXTRA_TAGS: {error}"))?,
                    mogrifiers: mogrifiers(&settings.use_dog_statsd_mogrifiers)?,
                },
                every: settings.stats_flush_interval.0.max(SHORTEST),
            })))
        }
        _ => {
            Err("only one of USE_STATSD, USE_DOG_STATSD and USE_PROMETHEUS may be true".to_owned())
        }
    }
}

/// Statistics are not sent more often.
const SHORTEST: Duration = Duration::from_millis(10);

/// An address as Go writes it: `:9090` is every address of this host.
async fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    let found = tokio::net::lookup_host(full).await.ok();
    let found = found.and_then(|mut found| found.next());
    found.ok_or_else(|| format!("PROMETHEUS_ADDR={text} is no address"))
}

fn mogrifiers(names: &str) -> Result<Vec<Mogrifier>, String> {
    let names = names.split(',').map(str::trim);
    let read = |name: &str| {
        let prefix = format!("DOG_STATSD_MOGRIFIER_{name}");
        // The reference reads the first and documents the second.
        let documented = format!("DOG_STATSD_MOGRIFIERS_{name}");
        let value = |what: &str| {
            let read = |prefix: &str| std::env::var(format!("{prefix}_{what}"));
            read(&prefix)
                .or_else(|_| read(&documented))
                .unwrap_or_default()
        };
        Mogrifier::new(&value("PATTERN"), &value("NAME"), &value("TAGS"))
            .map_err(|error| format!("{prefix}: {error}"))
    };
    names.filter(|name| !name.is_empty()).map(read).collect()
}
