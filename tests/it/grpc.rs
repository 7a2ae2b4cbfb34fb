//! The gRPC port of the real binary.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use envoy_types::pb::google::protobuf::UInt64Value;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::authority::Authority;
use crate::support::poll;
use crate::support::server::{Server, Setup, is_over, request};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 3, unit: day, name: three}
";

async fn health(server: &Server, service: &str) -> Result<i32, Status> {
    let mut client = HealthClient::new(server.channel().await);
    let service = service.to_owned();
    let response = client.check(HealthCheckRequest { service }).await?;
    Ok(response.into_inner().status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_reached_and_says_so() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    let alice = request("d", &[&[("user", "alice")]]);
    for left in [2, 1, 0] {
        let answer = client
            .should_rate_limit(alice.clone())
            .await
            .expect("an answer")
            .into_inner();
        assert!(!is_over(&answer));
        assert_eq!(answer.statuses[0].limit_remaining, left);
    }
    let answer = client
        .should_rate_limit(alice)
        .await
        .expect("an answer")
        .into_inner();
    assert!(is_over(&answer));
    let limit = answer.statuses[0].current_limit.as_ref().expect("a limit");
    assert_eq!((limit.requests_per_unit, limit.name.as_str()), (3, "three"));
    let body: serde_json::Value = serde_json::from_slice(&answer.raw_body).expect("JSON");
    assert_eq!(body["error"], "rate_limit_exceeded");
    let headers: Vec<&str> = answer
        .response_headers_to_add
        .iter()
        .map(|h| h.key.as_str())
        .collect();
    assert_eq!(
        headers,
        [
            "ratelimit-policy",
            "ratelimit",
            "retry-after",
            "content-type"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_explained_and_charges_nothing() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    let good = request("d", &[&[("user", "alice")]]);
    let mut cases = vec![(
        request("", &[&[("user", "alice")]]),
        "domain must not be empty",
    )];
    cases.push((request("d", &[]), "descriptor list must not be empty"));
    cases.push((
        request("d", &[&[("user", &"x".repeat(20_000))]]),
        "too long",
    ));
    cases.push((request("d", &[&[("user", "a"); 100]]), "too many entries"));
    cases.push((
        request("d", &[&[("user", "a")] as &[_]; 200]),
        "too many descriptors",
    ));
    let mut unknown_unit = good.clone();
    unknown_unit.descriptors[0].limit = Some(RateLimitOverride {
        requests_per_unit: 5,
        unit: 0,
    });
    cases.push((unknown_unit.clone(), "must have a unit"));
    unknown_unit.descriptors[0].limit = Some(RateLimitOverride {
        requests_per_unit: 5,
        unit: 99,
    });
    cases.push((unknown_unit, "must have a unit"));
    let mut many = good.clone();
    many.descriptors[0].hits_addend = Some(UInt64Value { value: u64::MAX });
    cases.push((many, "too many hits"));
    let mut sum = request("d", &[&[("user", "alice")], &[("user", "alice")]]);
    sum.hits_addend = u32::MAX;
    cases.push((sum, "too many hits"));
    for (bad, reason) in cases {
        let status = client.should_rate_limit(bad).await.expect_err(reason);
        assert_eq!(status.code(), Code::InvalidArgument, "{reason}");
        assert!(
            status.message().contains(reason),
            "{reason}: {}",
            status.message()
        );
    }
    let answer = client
        .should_rate_limit(good)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.statuses[0].limit_remaining, 2, "nothing was charged");
    assert_eq!(
        server.metric("ratelimit_service_should_rate_limit_error{err_type=\"service_error\"}"),
        9.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_without_entries_and_empty_values_are_answered() {
    let server = Setup::rules(RULES).start_ready();
    let request = request("d", &[&[], &[("user", "")], &[("user", "\r\n\0{}\"")]]);
    let answer = server
        .client()
        .await
        .should_rate_limit(request)
        .await
        .expect("an answer");
    assert_eq!(answer.into_inner().statuses.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_bound_is_refused() {
    let server = Setup::rules(RULES)
        .env("GRPC_MAX_MESSAGE_SIZE", "1000")
        .start_ready();
    let large = request("d", &[&[("user", &"x".repeat(2000))]]);
    let status = server
        .client()
        .await
        .should_rate_limit(large)
        .await
        .expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_rules_and_signals() {
    let server = Setup::rules("domain: [").env("DRAIN_DELAY", "30s").start();
    for service in [
        "",
        "ratelimit",
        "envoy.service.ratelimit.v3.RateLimitService",
    ] {
        assert_eq!(
            health(&server, service).await.expect("an answer"),
            ServingStatus::NotServing as i32
        );
    }
    let status = server
        .client()
        .await
        .should_rate_limit(request("d", &[&[("user", "a")]]))
        .await;
    let status = status.expect_err("no rules");
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(status.message(), "no rate limit configuration loaded");
    assert_eq!(
        health(&server, "nobody").await.expect_err("unknown").code(),
        Code::NotFound
    );

    std::fs::write(server.rules().join("rules.yaml"), RULES).expect("a file");
    poll::until_async("serving", || async {
        let status = health(&server, "ratelimit").await.ok()?;
        (status == ServingStatus::Serving as i32).then_some(())
    })
    .await;

    server.signal("TERM");
    poll::until_async("not serving", || async {
        let status = health(&server, "ratelimit").await.ok()?;
        (status == ServingStatus::NotServing as i32).then_some(())
    })
    .await;
    let answer = server
        .client()
        .await
        .should_rate_limit(request("d", &[&[("user", "a")]]))
        .await;
    assert!(answer.is_ok(), "requests are still decided while draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_process_well() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    client
        .should_rate_limit(request("d", &[&[("user", "a")]]))
        .await
        .expect("an answer");
    server.signal("TERM");
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_service() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let server = Setup::rules(RULES).start_ready();
    let mut client = ServerReflectionClient::new(server.channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = tokio_stream::iter([ask]);
    let mut answers = client
        .server_reflection_info(asked)
        .await
        .expect("an answer")
        .into_inner();
    let answer = answers
        .message()
        .await
        .expect("an answer")
        .expect("a message");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for wanted in [
        "envoy.service.ratelimit.v3.RateLimitService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&wanted), "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("tollgate.sock");
    let _server = Setup::rules(RULES)
        .env("GRPC_UDS", &path.display().to_string())
        .start_ready();
    let channel = Endpoint::try_from(format!("unix:{}", path.display()))
        .expect("an address")
        .connect()
        .await;
    let mut client = client(channel.expect("a connection"));
    client
        .should_rate_limit(request("d", &[&[("user", "a")]]))
        .await
        .expect("an answer");
}

fn client(
    channel: Channel,
) -> envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient<Channel>{
    envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient::new(channel)
}

async fn ask(server: &Server, tls: ClientTlsConfig) -> Result<(), String> {
    let address = format!("https://localhost:{}", server.grpc.expect("a port").port());
    let endpoint = Endpoint::try_from(address)
        .expect("an address")
        .tls_config(tls)
        .expect("TLS");
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("{error:?}"))?;
    let answer = client(channel)
        .should_rate_limit(request("d", &[&[("user", "a")]]))
        .await;
    answer.map(|_| ()).map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_required_checked_and_read_again() {
    let (first, second, clients) = (Authority::new(), Authority::new(), Authority::new());
    let dir = tempfile::TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (certificate, key) = first.sign("localhost");
    let server = Setup::rules(RULES)
        .env("GRPC_SERVER_USE_TLS", "true")
        .env("GRPC_SERVER_TLS_CERT", &write("cert.pem", &certificate))
        .env("GRPC_SERVER_TLS_KEY", &write("key.pem", &key))
        .env(
            "GRPC_CLIENT_TLS_CACERT",
            &write("clients.pem", &clients.pem()),
        )
        .env("GRPC_CLIENT_TLS_SAN", "envoy.example")
        .start_ready();
    let trust = |authority: &Authority| {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .domain_name("localhost")
    };
    let identity = |authority: &Authority, name: &str| {
        let (certificate, key) = authority.sign(name);
        Identity::from_pem(certificate, key)
    };
    let good = || identity(&clients, "envoy.example");
    ask(&server, trust(&first).identity(good()))
        .await
        .expect("a good client");
    ask(&server, trust(&first))
        .await
        .expect_err("no certificate");
    ask(
        &server,
        trust(&first).identity(identity(&first, "envoy.example")),
    )
    .await
    .expect_err("another authority");
    ask(
        &server,
        trust(&first).identity(identity(&clients, "other.example")),
    )
    .await
    .expect_err("another name");

    let (certificate, key) = second.sign("localhost");
    write("key.pem", &key);
    write("cert.pem", &certificate);
    poll::until_async("the new certificate", || async {
        ask(&server, trust(&second).identity(good())).await.ok()
    })
    .await;
}

/// Speaks just enough HTTP/2 to be told to go away.
#[test]
fn an_old_connection_is_told_to_go_away() {
    use std::io::{Read, Write};

    let server = Setup::rules(RULES)
        .env("GRPC_MAX_CONNECTION_AGE", "300ms")
        .env("GRPC_MAX_CONNECTION_AGE_GRACE", "3s")
        .start_ready();
    let mut stream =
        std::net::TcpStream::connect(server.grpc.expect("a port")).expect("a connection");
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .expect("a timeout");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .expect("a preface");
    stream.write_all(&settings).expect("settings");
    let mut frames = Vec::new();
    stream
        .read_to_end(&mut frames)
        .expect("the server closes the connection");
    let mut kinds = Vec::new();
    let mut rest = frames.as_slice();
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        kinds.push(rest[3]);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    const GOAWAY: u8 = 7;
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}
