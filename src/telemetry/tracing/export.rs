//! Where spans go: an OTLP exporter behind a bounded queue, which never holds up a decision.

use std::fmt;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::warn;

use super::sampler::Head;
use super::{Protocol, Settings, secured};
use crate::telemetry::Error;
use crate::telemetry::logs::Seldom;

/// The port of OTLP over HTTP.
const HTTP_PORT: &str = "4318";

/// The collector's address, the more special first.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// How to speak to the collector, the more special first.
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];

/// The exporter and its queue, which is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`); none if spans are not exported.
pub(in crate::telemetry) fn provider(
    settings: &Settings,
) -> Result<Option<SdkTracerProvider>, Error> {
    if !is_wanted(settings) {
        return Ok(None);
    }
    let built = if protocol(settings)? == Protocol::Http {
        Otlp::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_http_client(secured::http()?)
            .build()
    } else {
        Otlp::builder()
            .with_tonic()
            .with_tls_config(secured::grpc()?)
            .build()
    };
    let exporter = built.map_err(|error| Error::Exporter(error.to_string()))?;
    let processor = BatchSpanProcessor::builder(Quiet::new(exporter), Tokio).build();
    let builder = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Head::new(settings.sampling_rate))
        .with_resource(resource(settings));
    Ok(Some(builder.build()))
}

fn is_wanted(settings: &Settings) -> bool {
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    !disabled && (settings.enabled || ENDPOINTS.into_iter().any(|name| set(name).is_some()))
}

/// The protocol that is set; else the one that the collector's port is for.
fn protocol(settings: &Settings) -> Result<Protocol, Error> {
    if let Some(protocol) = settings.protocol {
        return Ok(protocol);
    }
    if let Some((name, value)) = first_set(PROTOCOLS) {
        return match value.as_str() {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::Http),
            _ => Err(Error::Exporter(format!(
                "{name}={value} is neither grpc nor http/protobuf"
            ))),
        };
    }
    let endpoint = ENDPOINTS.into_iter().find_map(set);
    Ok(match endpoint {
        Some(endpoint) if has_port(&endpoint, HTTP_PORT) => Protocol::Http,
        _ => Protocol::Grpc,
    })
}

/// Whether a URL names `port`.
fn has_port(url: &str, port: &str) -> bool {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = address.split('/').next().unwrap_or_default();
    host.rsplit_once(':')
        .is_some_and(|(_, found)| found == port)
}

/// The first of these variables that is set to anything, and its value.
pub(super) fn first_set<const N: usize>(
    variables: [&'static str; N],
) -> Option<(&'static str, String)> {
    let mut set = variables
        .into_iter()
        .filter_map(|name| Some((name, set(name)?)));
    set.next()
}

/// The value of a variable, if it is set to anything.
pub(super) fn set(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

fn resource(settings: &Settings) -> Resource {
    let instance = match settings.service_instance_id.as_str() {
        "" => format!("{:032x}", rand::random::<u128>()),
        given => given.to_owned(),
    };
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.instance.id", instance));
    let builder = match settings.service_namespace.as_str() {
        "" => builder,
        namespace => {
            builder.with_attribute(KeyValue::new("service.namespace", namespace.to_owned()))
        }
    };
    if set("OTEL_SERVICE_NAME").is_some() {
        return builder.build();
    }
    builder
        .with_service_name(settings.service_name.clone())
        .build()
}

/// An exporter whose failures are a warning now and then, however many they are.
struct Quiet {
    exporter: Otlp,
    failures: Seldom,
}

impl Quiet {
    fn new(exporter: Otlp) -> Self {
        Self {
            exporter,
            failures: Seldom::new(),
        }
    }

    fn warn(&self, error: &dyn fmt::Display) {
        if self.failures.is_due() {
            warn!("spans cannot be exported and are dropped: {error}");
        }
    }
}

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Quiet")
    }
}

impl SpanExporter for Quiet {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result {
            self.warn(error);
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_off_the_address() {
        for url in [
            "http://c:4318",
            "http://c:4318/v1/traces",
            "c:4318",
            "http://[::1]:4318/",
        ] {
            assert!(has_port(url, HTTP_PORT), "{url}");
        }
        for url in [
            "http://c:4317",
            "http://c",
            "http://c:14318",
            "http://c/:4318",
            "",
        ] {
            assert!(!has_port(url, HTTP_PORT), "{url}");
        }
    }
}
