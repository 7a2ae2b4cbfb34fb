//! What an operator sees.
//!
//! - [`metrics`]: the only place that names metrics
//! - [`statsd`]: the same for StatsD and DogStatsD
//! - [`tracing`]: spans, and their export
//! - [`logs`]: lines on standard error

use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub mod logs;
pub mod metrics;
pub mod statsd;
pub mod tracing;

pub use self::tracing::Tracing;

/// How long the last spans may take to leave when the process ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// How logs and traces are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A level as the reference names them, or a filter.
    pub log_level: String,
    /// One JSON object a line.
    pub log_json: bool,
    /// Where spans go.
    pub tracing: tracing::Settings,
}

/// What must be ended with the process.
#[derive(Debug)]
pub struct Guard {
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// Why telemetry cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// LOG_LEVEL is neither a level nor a filter.
    #[error("LOG_LEVEL={0} is neither a level (error, warn, info, debug, trace) nor a filter")]
    Level(String),
    /// The exporter's settings are wrong.
    #[error("traces cannot be exported: {0}")]
    Exporter(String),
    /// Something else in this process has done it before.
    #[error("logs are installed already")]
    Twice,
}

/// Installs logs and traces, once in a process and within its runtime.
pub fn install(settings: &Settings) -> Result<(Guard, Tracing), Error> {
    let provider = tracing::export::provider(&settings.tracing)?;
    let spans = provider.as_ref().map(tracing::layer);
    let tracing = Tracing::new(&settings.tracing, provider.as_ref());
    tracing_subscriber::registry()
        .with(logs::layer(&settings.log_level, settings.log_json)?)
        .with(spans)
        .try_init()
        .map_err(|_| Error::Twice)?;
    Ok((Guard { provider }, tracing))
}

impl Guard {
    /// Sends what has not been sent, for a bounded time.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        let flush =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_WITHIN));
        // What cannot be sent in time is lost; the process ends all the same.
        let _ = tokio::time::timeout(FLUSH_WITHIN, flush).await;
    }
}
