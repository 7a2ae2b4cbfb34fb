//! `docker-compose.yml`: that its parts agree, and, with the real programs as far as they are here, that they work together.

use std::collections::HashSet;
use std::process::Command;

use serde_yaml::Value as Yaml;

use crate::support::compose::{Play, services, strings};
use crate::support::gateway::edited;
use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::redis::Server as Redis;
use crate::support::redis::free_port;
use crate::support::server::binary;

/// They have no configuration of their own to be wrong, and are not here.
const ABSENT: [&str; 3] = ["pod", "jaeger", "grafana"];

fn yaml(file: &str) -> Yaml {
    serde_yaml::from_str(&edited(file, &[])).expect("YAML")
}

/// All ports that stand behind one of these words in a text.
fn ports_after(text: &str, word: &str) -> HashSet<u16> {
    let after = text.split(word).skip(1);
    let digits = after.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.filter_map(|digits| digits?.parse().ok()).collect()
}

#[test]
fn images_are_pinned_and_everything_that_stays_is_checked() {
    for (name, service) in services() {
        let image = service["image"].as_str().expect("an image");
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "{name}: {image}");
        let shares = service["network_mode"] == "service:pod";
        assert_eq!(shares, name != "pod", "{name}");
        if name == "redis-cluster" {
            continue;
        }
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(service["healthcheck"].is_mapping(), name != "pod", "{name}");
    }
}

#[test]
fn what_is_mounted_is_there() {
    let mut mounts = 0;
    for (name, service) in services() {
        for volume in strings(&service["volumes"]) {
            let source = volume.split(':').next().expect("a source");
            let path = format!("{}/{source}", env!("CARGO_MANIFEST_DIR"));
            assert!(
                std::fs::exists(path).unwrap_or(false),
                "{name} mounts {source}"
            );
            assert!(volume.ends_with(":ro"), "{name}: {volume}");
            mounts += 1;
        }
        let needs = &service["depends_on"];
        let names = needs.as_mapping().into_iter().flatten();
        let names = names.filter_map(|(name, _)| Some(name.as_str()?.to_owned()));
        let names: Vec<String> = names.chain(strings(needs)).collect();
        for needed in names {
            assert!(
                services().iter().any(|(name, _)| *name == needed),
                "{name} needs {needed}"
            );
        }
    }
    assert!(mounts > 10);
}

#[test]
fn variables_are_settings_and_ports_agree() {
    let help = binary().args(["serve", "--help"]).output().expect("help");
    let help = String::from_utf8(help.stdout).expect("text");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut grpc, mut http, mut redis) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut listens: HashSet<u16> = HashSet::new();
    for (name, service) in services() {
        let command = strings(&service["command"]).join(" ");
        if name.starts_with("tollgate") {
            let env = service["environment"].as_mapping().expect("variables");
            for variable in env.keys().filter_map(Yaml::as_str) {
                let shown = ["=", "]"].map(|end| format!("[env: {variable}{end}"));
                let known =
                    variable.starts_with("OTEL_") || shown.iter().any(|shown| help.contains(shown));
                assert!(known, "{variable}");
            }
            let port = |name: &str| {
                env[name]
                    .as_str()
                    .expect(name)
                    .parse::<u16>()
                    .expect("a port")
            };
            assert!(
                grpc.insert(port("GRPC_PORT")) && http.insert(port("PORT")),
                "{name}"
            );
            assert!(listens.insert(port("DEBUG_PORT")), "{name}");
            redis.extend(ports_after(
                env["REDIS_URL"].as_str().expect("addresses"),
                ":",
            ));
            let collector = env["OTEL_EXPORTER_OTLP_ENDPOINT"]
                .as_str()
                .expect("an address");
            assert_eq!(ports_after(collector, ":"), [4317].into());
        } else if name.starts_with("upstream") {
            listens.extend(ports_after(&command, "upstream.py "));
        } else if name == "redis-cluster" {
            assert_eq!(ports_after(&command, ":"), (7001..=7006).collect());
        } else if name.starts_with("redis") {
            assert!(
                ports_after(&command, "--port ").is_subset(&(7001..=7006).collect()),
                "{name}"
            );
        }
    }
    assert_eq!(redis, (7001..=7006).collect());
    let gateway = edited("envoy/gateway.yaml", &[]);
    let named = ports_after(&gateway, "port_value: ");
    for (what, ports) in [
        ("Tollgates", &grpc),
        ("upstreams", &(10080..=10083).collect()),
    ] {
        assert!(ports.is_subset(&named), "{what}: {ports:?}");
    }
    listens.extend(grpc);
    listens.extend(&http);
    // Jaeger's, Prometheus's and Grafana's.
    listens.extend([4317, 16686, 9090, 3000]);
    assert!(
        named.is_subset(
            &listens
                .iter()
                .copied()
                .chain([10000, 10001, 10443, 9901])
                .collect()
        ),
        "{named:?}"
    );
    let scraped = ports_after(
        &edited("config/prometheus/prometheus.yml", &[]),
        "localhost:",
    );
    assert_eq!(scraped, http.iter().copied().chain([9901]).collect());
    let sources = edited("config/grafana/provisioning/datasources/tollgate.yaml", &[]);
    assert_eq!(ports_after(&sources, "localhost:"), [9090, 16686].into());
    for port in strings(&yaml("docker-compose.yml")["services"]["pod"]["ports"]) {
        let parts: Vec<&str> = port.split(':').collect();
        assert!(
            parts[0] == "127.0.0.1" && parts[1] == parts[2],
            "{port}: for this machine only"
        );
        let port = parts[2].parse().expect("a port");
        assert!(
            listens.contains(&port) || [10000, 10001, 10443].contains(&port),
            "{port}"
        );
    }
}

/// Every program that is here, with its command, its files, its variables and its health check as they stand there.
#[test]
fn it_plays() {
    let play = Play::start(&ABSENT);
    let gateway = play.address(10000);
    poll::until("both to be asked", || {
        let reply = send(gateway, "GET", "/hello", &[], "")?;
        assert!([200, 429].contains(&reply.code), "{reply:?}");
        let asked = |port| {
            let metrics = get(play.address(port), "/metrics").body;
            metrics.contains("ratelimit_service_total_requests")
                && !metrics.contains("ratelimit_service_total_requests_total 0")
        };
        (reply.all("ratelimit").len() == 1 && asked(8080) && asked(8082)).then_some(())
    });
    // A plan that one is told, the other knows.
    let admin = [("authorization", "Bearer sample-admin-token")];
    let plan = "/api/v1/rate-limit/quota/user_id=carol/plan";
    let put = send(
        play.address(8080),
        "PUT",
        plan,
        &admin,
        r#"{"plan": "pro"}"#,
    )
    .expect("an answer");
    assert_eq!(put.code, 200, "{put:?}");
    poll::until("the other to know", || {
        let quota = "/api/v1/rate-limit/quota/user_id=carol";
        let reply = send(play.address(8082), "GET", quota, &admin, "")?;
        reply.body.contains("\"pro\"").then_some(())
    });
    assert_eq!(
        send(play.address(10001), "GET", "/", &[], "")
            .expect("an answer")
            .code,
        301
    );
    poll::until("Prometheus to have asked all three", || {
        let reply = send(
            play.address(9090),
            "GET",
            "/api/v1/query?query=sum(up)",
            &[],
            "",
        )?;
        reply.body.contains("\"3\"").then_some(())
    });
}

#[test]
fn a_cluster_is_made_once_and_mended_if_it_was_not_finished() {
    let servers: Vec<Redis> = (0..6)
        .map(|_| {
            let bus = free_port().to_string();
            Redis::with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "2000",
            ])
        })
        .collect();
    let addresses: Vec<String> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    let ask = |words: &[&str]| {
        let port = servers[0].port.to_string();
        let output = Command::new("redis-cli")
            .args(["-c", "-p", &port])
            .args(words)
            .output();
        String::from_utf8(output.expect("redis-cli").stdout)
            .expect("text")
            .trim()
            .to_owned()
    };
    let make = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/config/redis/create-cluster");
        let output = Command::new(script)
            .args(&addresses)
            .output()
            .expect("the script");
        assert!(output.status.success(), "{output:?}");
    };
    // As if it had been ended halfway.
    poll::until("a slot", || {
        (ask(&["CLUSTER", "ADDSLOTS", "5"]) == "OK").then_some(())
    });
    make();
    assert_eq!(ask(&["SET", "key", "value"]), "OK");
    make();
    assert_eq!(ask(&["GET", "key"]), "value");
}
