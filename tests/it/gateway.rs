//! The whole gateway: each part of `envoy/gateway.yaml` through a real Envoy.

use std::net::SocketAddr;

use serde_yaml::Value as Yaml;
use tempfile::TempDir;

use crate::support::gateway::{Envoy, assert_valid, edited};
use crate::support::http::{self, Reply, send};
use crate::support::poll;
use crate::support::redis::free_port;
use crate::support::server::{Server, Setup};
use crate::support::upstream::Upstream;

mod answers;
mod balancing;
mod breaking;
mod callers;
mod floods;
mod paths;
mod seeing;
mod tollgates;

const RULES: &str = "config/product/product.yaml";

/// Ports of the committed file that upstreams listen on; the last is the new version.
const UPSTREAMS: [u16; 4] = [10080, 10081, 10082, 10083];

/// Ports of the committed file that Tollgates listen on.
const TOLLGATES: [u16; 2] = [8081, 8083];

/// A client may say where it comes from, as a load balancer in front would.
const BEHIND_A_BALANCER: [(&str, &str); 2] = [
    ("xff_num_trusted_hops: 0", "xff_num_trusted_hops: 1"),
    ("              - {remove: x-forwarded-for}\n", ""),
];

/// How often to look for ports that nobody else takes.
const PLACES: usize = 5;

/// For those who send more than the first line lets through.
const NO_FIRST_LINE: (&str, &str) = (
    "max_tokens: 400, tokens_per_fill: 200",
    "max_tokens: 100000, tokens_per_fill: 100000",
);

/// A running gateway, with what it needs; all end with this.
struct Whole {
    envoy: Envoy,
    https: SocketAddr,
    redirect: SocketAddr,
    upstreams: Vec<Upstream>,
    tollgates: Vec<Server>,
}

impl Whole {
    /// With one Tollgate in both places, which has the committed rules.
    fn start(edits: &[(&str, &str)]) -> Self {
        let tollgate = Setup::rules(&edited(RULES, &[])).start_ready();
        Self::before(vec![tollgate], edits)
    }

    /// With no Tollgate at all: what is not limited, since it cannot be.
    fn alone(edits: &[(&str, &str)]) -> Self {
        Self::before(Vec::new(), edits)
    }

    fn before(tollgates: Vec<Server>, edits: &[(&str, &str)]) -> Self {
        // A busy machine takes longer than the committed file has patience, and a test has not the time that it takes.
        let pace = [
            // Envoy waits for a client that has not sent all when it is answered; a test waits for the connection's end.
            (
                "stat_prefix: gateway",
                "delayed_close_timeout: 0.01s\n          stat_prefix: gateway",
            ),
            (
                "\n              timeout: 0.02s",
                "\n              timeout: 5s",
            ),
            ("timeout: 0.5s", "timeout: 5s"),
            (
                "timeout: 1s, interval: 2s, no_traffic_interval: 5s",
                "timeout: 5s, interval: 0.1s, no_traffic_interval: 0.1s",
            ),
            (
                "      interval: 1s\n      max_ejection_percent",
                "      interval: 0.05s\n      max_ejection_percent",
            ),
        ];
        let edits: Vec<(&str, &str)> = edits.iter().copied().chain(pace).collect();
        Self::as_committed(tollgates, &edits)
    }

    /// The committed file, with nothing changed but addresses.
    fn as_committed(tollgates: Vec<Server>, edits: &[(&str, &str)]) -> Self {
        let upstreams: Vec<Upstream> = UPSTREAMS.iter().map(|_| Upstream::start()).collect();
        let config = edited("envoy/gateway.yaml", edits);
        let (envoy, https, redirect) = (0..PLACES)
            .find_map(|_| listening(&config, &upstreams, &tollgates))
            .expect("free ports");
        let whole = Self {
            envoy,
            https,
            redirect,
            upstreams,
            tollgates,
        };
        whole.wait_until_healthy();
        whole
    }

    /// Until their first health checks Envoy has no upstream, and asks no Tollgate.
    fn wait_until_healthy(&self) {
        let mut all = vec![("api", 3), ("docs", 3), ("chat", 3), ("next", 1)];
        if !self.tollgates.is_empty() {
            all.push(("tollgate", TOLLGATES.len() as u64));
        }
        for (cluster, members) in all {
            poll::until(&format!("the members of {cluster}"), || {
                (self.healthy(cluster) == members).then_some(())
            });
        }
    }

    /// How many members of a cluster are well, by Envoy's checks.
    fn healthy(&self, cluster: &str) -> u64 {
        let stat = format!("cluster.{cluster}.membership_healthy");
        self.envoy.stat(&stat)
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send("GET", path, headers)
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.envoy.address, method, path, headers, "").expect("the gateway answers")
    }

    fn code(&self, path: &str) -> u16 {
        self.get(path, &[]).code
    }

    /// How many requests each upstream has had.
    fn asked(&self) -> Vec<usize> {
        self.upstreams.iter().map(Upstream::asked).collect()
    }

    /// How many requests Tollgate has been asked about.
    fn decided(&self) -> f64 {
        let metric = "ratelimit_service_total_requests";
        self.tollgates
            .iter()
            .map(|tollgate| tollgate.metric(metric))
            .sum()
    }
}

/// An Envoy on free ports, and where it speaks TLS and where it sends others there; none if a port is free no longer.
fn listening(
    config: &str,
    upstreams: &[Upstream],
    tollgates: &[Server],
) -> Option<(Envoy, SocketAddr, SocketAddr)> {
    let dir = TempDir::new().expect("a directory");
    let cache = dir.path().join("cache");
    std::fs::create_dir(&cache).expect("a directory");
    let [http, https, redirect, admin, nobody] = [(); 5].map(|()| free_port());
    let mut ports = vec![
        (10000, http),
        (10443, https),
        (10001, redirect),
        (9901, admin),
    ];
    let theirs = upstreams.iter().map(|upstream| upstream.port);
    ports.extend(UPSTREAMS.into_iter().zip(theirs));
    let last = tollgates.last().map_or(nobody, Server::grpc_port);
    for (place, port) in TOLLGATES.into_iter().enumerate() {
        ports.push((port, tollgates.get(place).map_or(last, Server::grpc_port)));
    }
    let mut config = config.replace("/tmp/gateway-cache", &cache.display().to_string());
    config = config.replace("port_redirect: 10443", &format!("port_redirect: {https}"));
    let value = |port: u16| format!("port_value: {port}}}");
    for (from, to) in ports {
        config = config.replace(&value(from), &value(to));
    }
    let mut envoy = Envoy::run(&config, dir, http, admin);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let found = envoy.listens();
    found.then(|| (envoy, address(https), address(redirect)))
}

/// One part of a configuration, by the names on the way to it.
fn part(file: &str, filter: &str) -> Yaml {
    let config: Yaml = serde_yaml::from_str(&edited(file, &[])).expect("YAML");
    let mut chain = config["static_resources"]["listeners"][0]["filter_chains"][0].clone();
    chain.apply_merge().expect("YAML");
    let manager = &chain["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_sequence().expect("filters");
    let found = filters.iter().find(|found| found["name"] == *filter);
    found.expect(filter)["typed_config"].clone()
}

#[test]
fn the_committed_configuration_is_valid() {
    assert_valid("gateway.yaml");
}

/// Tokens and descriptors stand in two files, each of which is to be read by itself.
#[test]
fn who_calls_is_told_as_in_the_smaller_sample() {
    let [here, there] = ["gateway", "product"].map(|file| format!("envoy/{file}.yaml"));
    let tokens = "envoy.filters.http.jwt_authn";
    assert_eq!(part(&here, tokens), part(&there, tokens));
    let limits = "envoy.filters.http.ratelimit";
    assert_eq!(
        part(&here, limits)["rate_limits"],
        part(&there, limits)["rate_limits"]
    );
}

#[test]
fn it_starts_as_it_is_committed() {
    let tollgate = Setup::rules(&edited(RULES, &[])).start_ready();
    let whole = Whole::as_committed(vec![tollgate], &[]);
    poll::until("a decision", || {
        let reply = whole.get("/hello", &[]);
        assert_eq!(reply.code, 200, "{reply:?}");
        (reply.all("ratelimit").len() == 1).then_some(())
    });
    assert_eq!(http::get(whole.envoy.address, "/health").body, "ok\n");
}
