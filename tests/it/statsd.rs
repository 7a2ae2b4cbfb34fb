//! Statistics as a StatsD server receives them, by the reference's names.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use crate::metrics::read;
use crate::support::http::get;
use crate::support::poll;
use crate::support::redis::free_port;
use crate::support::server::{Server, Setup, binary, is_over, request};

const RULES: &str = "
domain: edge
descriptors:
  - key: user_id
    rate_limit: {requests_per_unit: 10, unit: day}
  - key: remote_address
    value: 10.0.0.1
    rate_limit: {requests_per_unit: 1, unit: day}
";

/// The longest packet that a network carries whole.
const MAX_PACKET: usize = 1432;

/// A server that only listens.
struct Datagrams(UdpSocket);

impl Datagrams {
    fn bind() -> Self {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("a port");
        let patience = Some(Duration::from_millis(50));
        socket.set_read_timeout(patience).expect("a timeout");
        Self(socket)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("an address").port()
    }

    /// The lines of one packet; none if there is none now.
    fn lines(&self) -> Vec<String> {
        let mut bytes = [0; 65_536];
        let Ok(length) = self.0.recv(&mut bytes) else {
            return Vec::new();
        };
        assert!(length <= MAX_PACKET, "{length}");
        let text = String::from_utf8_lossy(&bytes[..length]);
        assert!(text.ends_with('\n'), "{text}");
        text.lines().map(str::to_owned).collect()
    }
}

/// The sums of all counters, by what stands around their values; and how many times were told.
#[derive(Debug, Default)]
struct Counted {
    counters: BTreeMap<(String, String), u64>,
    times: f64,
}

impl Counted {
    fn add(&mut self, lines: &[String]) {
        for line in lines {
            let (name, rest) = line.split_once(':').expect("a name");
            let (value, kind) = rest.split_once('|').expect("a kind");
            if kind.starts_with('c') {
                let value: u64 = value.parse().expect("a whole number");
                assert!(value > 0, "{line}");
                let key = (name.to_owned(), kind.to_owned());
                *self.counters.entry(key).or_default() += value;
            } else {
                assert!(
                    name.ends_with(".response_time") || name.contains("_time.__"),
                    "{line}"
                );
                assert!(value.parse::<f64>().is_ok_and(|ms| ms > 0.0), "{line}");
                let share = kind.split('|').find_map(|part| part.strip_prefix('@'));
                let share = share.unwrap_or("1");
                self.times += 1.0 / share.parse::<f64>().expect("a share");
            }
        }
    }

    fn of(&self, name: &str, kind: &str) -> u64 {
        let key = (name.to_owned(), kind.to_owned());
        self.counters.get(&key).copied().unwrap_or_default()
    }
}

fn serve(kind: &str, port: u16, more: &[(&str, &str)]) -> Server {
    let setup = Setup::rules(RULES)
        .env(kind, "true")
        .env("STATSD_HOST", "127.0.0.1")
        .env("STATSD_PORT", &port.to_string())
        .env("STATS_FLUSH_INTERVAL", "50ms");
    let with = |setup: Setup, (name, value): &(&str, &str)| setup.env(name, value);
    more.iter().fold(setup, with).start_ready()
}

async fn ask(server: &Server, domain: &str, entry: (&str, &str)) -> bool {
    let asked = request(domain, &[&[entry]]);
    let answer = server.client().await.should_rate_limit(asked).await;
    is_over(answer.expect("an answer").get_ref())
}

const RULE: &str = "ratelimit.service.rate_limit.edge.user_id";

#[tokio::test(flavor = "multi_thread")]
async fn counters_come_as_what_was_added_by_the_references_names() {
    let statsd = Datagrams::bind();
    let udp = [("STATSD_PROTOCOL", "udp"), ("EXTRA_TAGS", "deploy:7")];
    let server = serve("USE_STATSD", statsd.port(), &udp);
    let mut counted = Counted::default();
    let tag = ".__deploy=7";
    for _ in 0..2 {
        for _ in 0..6 {
            ask(&server, "edge", ("user_id", "alice")).await;
        }
        ask(&server, "edge", ("remote_address", "10.0.0.1")).await;
        ask(&server, "nobody", ("user_id", "alice")).await;
        // Some are sent before the next come: what comes then is only those.
        poll::until("a packet", || {
            let lines = statsd.lines();
            counted.add(&lines);
            (!lines.is_empty()).then_some(())
        });
    }
    let total = format!("{RULE}.total_hits{tag}");
    poll::until("all of it", || {
        let lines = statsd.lines();
        counted.add(&lines);
        (counted.of(&total, "c") == 12).then_some(())
    });
    server.signal("TERM");
    assert!(server.wait().success());
    loop {
        let lines = statsd.lines();
        if lines.is_empty() {
            break;
        }
        counted.add(&lines);
    }
    let service = "ratelimit.service";
    for (name, wanted) in [
        (format!("{RULE}.total_hits"), 12),
        (format!("{RULE}.within_limit"), 10),
        (format!("{RULE}.over_limit"), 2),
        (format!("{RULE}.near_limit"), 2),
        (format!("{RULE}.shadow_mode"), 0),
        (
            format!("{service}.rate_limit.edge.remote_address_10_0_0_1.total_hits"),
            2,
        ),
        (
            format!("{service}.rate_limit.edge.remote_address_10_0_0_1.over_limit"),
            1,
        ),
        (format!("{service}.rate_limit.nobody.domain_not_found"), 2),
        (format!("{service}.config_load_success"), 1),
        (format!("{service}.call.should_rate_limit.service_error"), 0),
        (
            "ratelimit_server.ShouldRateLimit.total_requests".to_owned(),
            16,
        ),
    ] {
        assert_eq!(
            counted.of(&format!("{name}{tag}"), "c"),
            wanted,
            "{name} in {counted:?}"
        );
    }
    assert_eq!(counted.times.round(), 16.0, "one time of each call");
}

#[tokio::test(flavor = "multi_thread")]
async fn dog_statsd_has_tags_and_makes_some_of_names() {
    let statsd = Datagrams::bind();
    let mogrifier = "DOG_STATSD_MOGRIFIER_RULES";
    let (pattern, name) = (format!("{mogrifier}_PATTERN"), format!("{mogrifier}_NAME"));
    // The reference reads the name above, and documents this one.
    let tags = "DOG_STATSD_MOGRIFIERS_RULES_TAGS".to_owned();
    let server = serve(
        "USE_DOG_STATSD",
        statsd.port(),
        &[
            ("EXTRA_TAGS", "deploy:7"),
            ("USE_DOG_STATSD_MOGRIFIERS", "RULES"),
            (
                &pattern,
                r"^ratelimit\.service\.rate_limit\.([^.]*)\.(.*)\.([^.]*)$",
            ),
            (&name, "ratelimit.service.rate_limit.$3"),
            (&tags, "domain:$1,descriptor:$2"),
        ],
    );
    ask(&server, "edge", ("user_id", "alice")).await;
    let mut counted = Counted::default();
    let kind = "c|#deploy:7,descriptor:user_id,domain:edge";
    poll::until("the hit and the call", || {
        counted.add(&statsd.lines());
        let hits = counted.of("ratelimit.service.rate_limit.total_hits", kind);
        let calls = "ratelimit_server.ShouldRateLimit.total_requests";
        let calls = counted.of(calls, "c|#deploy:7");
        ((hits, calls) == (1, 1)).then_some(())
    });
}

/// Over TCP, as the reference does where nothing is said; and to a server that comes later, which is told everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_costs_a_warning_and_is_told_later() {
    let port = free_port();
    let server = serve("USE_STATSD", port, &[]);
    let begun = Instant::now();
    for _ in 0..12 {
        ask(&server, "edge", ("user_id", "alice")).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    server.wait_for_log("statistics cannot be sent");
    for _ in 0..5 {
        ask(&server, "edge", ("user_id", "bob")).await;
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    let (mut stream, _) = listener.accept().expect("a connection");
    let patience = Some(Duration::from_millis(50));
    stream.set_read_timeout(patience).expect("a timeout");
    let (mut counted, mut text) = (Counted::default(), String::new());
    poll::until("all of it", || {
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines: Vec<String> = text
            .drain(..whole)
            .as_str()
            .lines()
            .map(str::to_owned)
            .collect();
        counted.add(&lines);
        (counted.of(&format!("{RULE}.total_hits"), "c") == 17).then_some(())
    });
    server.wait_for_log("statistics cannot be sent");
    let log = server.log();
    let warnings = log
        .iter()
        .filter(|line| line.contains("statistics cannot be sent"));
    assert_eq!(warnings.count(), 1, "once a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_has_a_port_of_its_own_where_that_is_asked_for() {
    let (dog, port) = (Datagrams::bind(), free_port());
    let address = format!("127.0.0.1:{port}");
    let server = Setup::rules(RULES)
        .env("USE_PROMETHEUS", "true")
        .env("PROMETHEUS_ADDR", &address)
        .env("PROMETHEUS_PATH", "/stats/prometheus")
        .env("STATSD_HOST", "127.0.0.1")
        .env("STATSD_PORT", &dog.port().to_string())
        .start_ready();
    ask(&server, "edge", ("user_id", "alice")).await;
    let address = address.parse().expect("an address");
    let samples = read(&get(address, "/stats/prometheus").body).samples;
    let hits = "ratelimit_service_rate_limit_total_hits{domain=\"edge\",rule=\"user_id\"";
    assert!(samples.keys().any(|key| key.starts_with(hits)));
    assert_eq!(get(address, "/json").code, 404, "nothing else");
    assert!(dog.lines().is_empty(), "one of them alone");
}

#[test]
fn settings_that_cannot_be_are_errors_of_their_variables() {
    for (variables, wanted) in [
        (
            &[("USE_STATSD", "true"), ("USE_PROMETHEUS", "true")][..],
            "only one of USE_STATSD",
        ),
        (
            &[("USE_STATSD", "true"), ("STATSD_PROTOCOL", "sctp")],
            "STATSD_PROTOCOL: sctp is neither tcp nor udp",
        ),
        (
            &[("USE_STATSD", "true"), ("EXTRA_TAGS", "a")],
            "EXTRA_TAGS: a is no pair",
        ),
        (
            &[
                ("USE_DOG_STATSD", "true"),
                ("USE_DOG_STATSD_MOGRIFIERS", "A"),
            ],
            "DOG_STATSD_MOGRIFIER_A: it needs",
        ),
        (
            &[("USE_PROMETHEUS", "true"), ("PROMETHEUS_ADDR", "nine")],
            "PROMETHEUS_ADDR=nine is no address",
        ),
        (&[("STATS_FLUSH_INTERVAL", "0s")], "STATS_FLUSH_INTERVAL"),
    ] {
        let output = binary().envs(variables.iter().copied()).output();
        let output = output.expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let flag = wanted.to_lowercase().replace('_', "-");
        assert!(
            said.contains(wanted) || said.contains(&flag),
            "{wanted} in {said}"
        );
    }
}
