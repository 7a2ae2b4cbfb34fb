//! Log lines on standard error, as text or JSON. Refusals are not among them.

use std::fmt;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::Error;

/// The levels by the names of the reference's logger, and of ours.
const LEVELS: [(&str, &str); 8] = [
    ("panic", "error"),
    ("fatal", "error"),
    ("error", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];

/// Crates that say more than an operator wants to know; and spans, which are not log lines.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,fred=warn,rustls=warn,opentelemetry=warn,tollgate::spans=off";

/// How often the same trouble is worth a line, however often it comes.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Trouble that may come at any rate, and is told of once a minute.
#[derive(Debug)]
pub struct Seldom {
    begun: Instant,
    /// When the next line is due, in milliseconds since `begun`.
    next_ms: AtomicU64,
}

impl Seldom {
    /// Trouble that has not come yet.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            next_ms: AtomicU64::new(0),
        }
    }

    /// Whether to tell of it now.
    pub fn is_due(&self) -> bool {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.begun.elapsed());
        let next = now.saturating_add(millis(AGAIN_AFTER));
        let order = Ordering::Relaxed;
        let tell = |due| (now >= due).then_some(next);
        self.next_ms.fetch_update(order, order, tell).is_ok()
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

/// The layer that writes the lines.
pub(super) fn layer<S>(level: &str, json: bool) -> Result<impl Layer<S> + use<S>, Error>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    let filter = filter(level).ok_or_else(|| Error::Level(level.to_owned()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.event_format(Json).boxed()
    } else {
        lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    Ok(lines.with_filter(filter))
}

/// A level by its name, or a filter as it is. A word that is no level would be a filter too, one that lets nothing through.
fn filter(level: &str) -> Option<EnvFilter> {
    let known = LEVELS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(level.trim()));
    let text = match known {
        Some((_, level)) => format!("{level},{QUIET}"),
        None if level.contains('=') => level.to_owned(),
        None => return None,
    };
    EnvFilter::try_new(text).ok()
}

/// One JSON object a line, with the reference's names: `@timestamp`, `level`, `@message`.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().to_string().to_lowercase();
        fields.0.insert("@timestamp".to_owned(), time.into());
        fields.0.insert("level".to_owned(), level.into());
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" {
            "@message"
        } else {
            field.name()
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
