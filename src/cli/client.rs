//! `ratelimit_client`: asks a service once, as the program of envoyproxy/ratelimit does, and prints what it prints.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::str::FromStr;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, ReflectMessage, Value};

use super::dial::{self, Tls};
use super::say;
use crate::grpc::DESCRIPTORS;
use crate::grpc::wire::{self, RateLimitResponse};
use crate::settings::values::boolean;

/// Its flags, with one dash or two.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The service, as host:port
    #[arg(
        long = "dial_string",
        value_name = "ADDRESS",
        default_value = "localhost:8081"
    )]
    dial_string: String,
    /// The domain to ask for
    #[arg(long, default_value = "")]
    domain: String,
    /// A descriptor, as key=value,key=value; several make several descriptors
    #[arg(long, value_name = "ENTRIES")]
    descriptors: Vec<Entries>,
    /// Connect with TLS
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    grpc_use_tls: bool,
    #[command(flatten)]
    tls: Tls,
    /// Accepted; no trace is exported
    #[arg(long, value_name = "PROTOCOL", default_value = "")]
    oltp_protocol: String,
}

/// The entries of a descriptor: key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries(pub Vec<(String, String)>);

impl FromStr for Entries {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entry = |pair: &str| match pair.split_once('=') {
            Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
            _ => Err("invalid descriptor list".to_owned()),
        };
        text.split(',')
            .map(entry)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Exit code 0 with an answer, whatever it is; 1 without.
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    print(flags(args).trim_end());
    match runtime.block_on(ask(args)) {
        Ok(response) => {
            print(&format!(
                "response: {}",
                text(&response).unwrap_or_default()
            ));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            print(&problem);
            ExitCode::FAILURE
        }
    }
}

async fn ask(args: &Args) -> Result<RateLimitResponse, String> {
    let address = match args.grpc_use_tls {
        true => format!("https://{}", args.dial_string),
        false => args.dial_string.clone(),
    };
    let mut client = dial::open(&address, &args.tls)
        .await
        .map_err(|error| format!("error connecting: {error}"))?;
    let descriptors = args.descriptors.iter().map(|entries| entries.0.clone());
    let answer = client
        .should_rate_limit(wire::message(&args.domain, 1, descriptors))
        .await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let (code, message) = (status.code(), status.message());
        format!("request error: rpc error: code = {code:?} desc = {message}")
    })
}

/// Every flag with its value, in the order of their names.
fn flags(args: &Args) -> String {
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    };
    let mut descriptors = String::new();
    for Entries(entries) in &args.descriptors {
        let entries = entries
            .iter()
            .map(|(key, value)| format!(" <key={key}, value={value}> "));
        // Writing to a String cannot fail, here and below.
        let _ = write!(descriptors, "[{}] ", entries.collect::<String>());
    }
    let tls = &args.tls;
    let mut text = String::new();
    for (name, value) in [
        ("descriptors", descriptors),
        ("dial_string", args.dial_string.clone()),
        ("domain", args.domain.clone()),
        ("grpc-cert-file", path(&tls.grpc_cert_file)),
        ("grpc-key-file", path(&tls.grpc_key_file)),
        ("grpc-server-ca-file", path(&tls.grpc_server_ca_file)),
        ("grpc-use-tls", args.grpc_use_tls.to_string()),
        ("oltp-protocol", args.oltp_protocol.clone()),
    ] {
        let _ = writeln!(text, "Flag: --{name}={value:?}");
    }
    text
}

/// The text format of an answer, on one line; none if the descriptors are not what `proto/` compiles to.
fn text(response: &RateLimitResponse) -> Option<String> {
    let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
    let kind = pool.get_message_by_name("envoy.service.ratelimit.v3.RateLimitResponse")?;
    let bytes = response.encode_to_vec();
    let message = DynamicMessage::decode(kind, bytes.as_slice()).ok()?;
    Some(fields(&message))
}

fn fields(message: &DynamicMessage) -> String {
    let mut parts = Vec::new();
    let descriptor = message.descriptor();
    for field in descriptor.fields().filter(|field| message.has_field(field)) {
        let (name, kind) = (field.name(), field.kind());
        let value = message.get_field(&field);
        if let Value::List(items) = &*value {
            parts.extend(items.iter().map(|item| named(name, item, &kind)));
        } else if let (Value::Map(items), Kind::Message(entry)) = (&*value, &kind) {
            let mut items: Vec<_> = items.iter().collect();
            items.sort_by(|a, b| a.0.cmp(b.0));
            let kind = entry.map_entry_value_field().kind();
            parts.extend(items.into_iter().map(|(key, item)| {
                let (key, item) = (map_key(key), named("value", item, &kind));
                format!("{name}:{{key:{key} {item}}}")
            }));
        } else {
            parts.push(named(name, &value, &kind));
        }
    }
    parts.join(" ")
}

fn named(name: &str, value: &Value, kind: &Kind) -> String {
    let value = match (value, kind) {
        (Value::Bool(value), _) => value.to_string(),
        (Value::I32(value), _) => value.to_string(),
        (Value::I64(value), _) => value.to_string(),
        (Value::U32(value), _) => value.to_string(),
        (Value::U64(value), _) => value.to_string(),
        (Value::F32(value), _) => value.to_string(),
        (Value::F64(value), _) => value.to_string(),
        (Value::String(value), _) => format!("{value:?}"),
        (Value::Bytes(value), _) => format!("{:?}", String::from_utf8_lossy(value)),
        (Value::EnumNumber(number), Kind::Enum(kind)) => match kind.get_value(*number) {
            Some(value) => value.name().to_owned(),
            None => number.to_string(),
        },
        (Value::EnumNumber(number), _) => number.to_string(),
        (Value::Message(message), _) => format!("{{{}}}", fields(message)),
        // A field of one value is neither.
        (Value::List(_) | Value::Map(_), _) => String::new(),
    };
    format!("{name}:{value}")
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => format!("{key:?}"),
    }
}

fn print(line: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(io::stdout(), "{line}");
}
