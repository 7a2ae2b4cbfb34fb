//! Services of `docker-compose.yml`, as processes: their commands, files, variables and health checks, on free ports.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_yaml::Value as Yaml;
use tempfile::TempDir;

use super::gateway::{edited, envoy_binary};
use super::poll;
use super::redis::free_port;
use super::server::binary;

/// Before a port in a configuration file; in commands and variables each number that is a port is one.
const BEFORE_PORTS: [&str; 3] = ["port_value: ", "port_redirect: ", "localhost:"];

/// All services, by name.
pub(crate) fn services() -> Vec<(String, Yaml)> {
    let mut compose: Yaml = serde_yaml::from_str(&edited("docker-compose.yml", &[])).expect("YAML");
    compose.apply_merge().expect("YAML");
    let services = compose["services"].as_mapping().expect("services").iter();
    let named = services
        .map(|(name, service)| (name.as_str().expect("a name").to_owned(), service.clone()));
    named.collect()
}

/// A list of strings; empty if there is none.
pub(crate) fn strings(list: &Yaml) -> Vec<String> {
    let list = list.as_sequence().into_iter().flatten();
    list.map(|item| item.as_str().expect("a string").to_owned())
        .collect()
}

/// Running services; they end with this.
pub(crate) struct Play {
    processes: HashMap<String, Child>,
    ports: HashMap<u16, u16>,
    dir: TempDir,
}

impl Play {
    /// Starts all but these, each once those it needs are well.
    pub(crate) fn start(absent: &[&str]) -> Self {
        let mut play = Self {
            processes: HashMap::new(),
            ports: all_ports()
                .into_iter()
                .map(|port| (port, free_port()))
                .collect(),
            dir: TempDir::new().expect("a directory"),
        };
        let here = |(name, _): &(String, Yaml)| !absent.contains(&name.as_str());
        let (mut left, mut well): (Vec<_>, HashSet<String>) = (services(), HashSet::new());
        left.retain(here);
        while !left.is_empty() {
            let needs = |service: &Yaml| -> Vec<String> {
                let map = service["depends_on"].as_mapping().into_iter().flatten();
                map.map(|(name, _)| name.as_str().expect("a name").to_owned())
                    .collect()
            };
            let ready = |(_, service): &(String, Yaml)| {
                needs(service).iter().all(|name| well.contains(name))
            };
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
            assert!(!now.is_empty(), "they need each other");
            for (name, service) in &now {
                let child = play.spawn(name, service);
                play.processes.insert(name.clone(), child);
            }
            for (name, service) in now {
                play.wait_until_well(&name, &service);
                well.insert(name);
            }
            left = later;
        }
        play
    }

    /// Where the service is that has this port there.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[&port]))
    }

    fn spawn(&self, name: &str, service: &Yaml) -> Child {
        let root = self.dir.path().join(name);
        std::fs::create_dir_all(root.join("work")).expect("a directory");
        let mut paths = Vec::new();
        for path in strings(&service["tmpfs"]) {
            let path = path.split(':').next().expect("a path");
            paths.push(path.to_owned());
        }
        for volume in strings(&service["volumes"]) {
            let parts: Vec<&str> = volume.split(':').collect();
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(parts[0]);
            self.copy(&from, &inside(&root, parts[1]), &root, &paths);
            paths.push(parts[1].to_owned());
        }
        for path in &paths {
            std::fs::create_dir_all(inside(&root, path)).expect("a directory");
        }
        let mut words = strings(&service["command"]);
        if service["build"].is_string() {
            words.insert(0, "/bin/tollgate".to_owned());
        }
        if words[0].starts_with("--config.file") {
            words.insert(0, "prometheus".to_owned());
            words.push(format!(
                "--storage.tsdb.path={}",
                root.join("data").display()
            ));
        }
        let mut command = self.command(&words, &root, &paths);
        if words[0] == "envoy" {
            command.args(["--use-dynamic-base-id", "--concurrency", "1"]);
        }
        let cwd = service["working_dir"].as_str();
        command.current_dir(cwd.map_or(root.join("work"), |path| inside(&root, path)));
        for (name, value) in service["environment"].as_mapping().into_iter().flatten() {
            let value = self.substituted(value.as_str().expect("a string"), &root, &paths);
            command.env(name.as_str().expect("a name"), value);
        }
        let log = std::fs::File::create(root.join("log")).expect("a file");
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.spawn().expect(name)
    }

    fn wait_until_well(&mut self, name: &str, service: &Yaml) {
        let root = self.dir.path().join(name);
        let test = strings(&service["healthcheck"]["test"]);
        poll::until(&format!("{name} to be well"), || {
            let child = self.processes.get_mut(name).expect(name);
            let ended = child.try_wait().expect("a child");
            if test.is_empty() {
                return ended.filter(ExitStatus::success).map(|_| ());
            }
            assert!(
                ended.is_none(),
                "{name}: {}",
                std::fs::read_to_string(root.join("log")).unwrap_or_default()
            );
            assert_eq!(test[0], "CMD");
            // What the image has, and this machine may not.
            if test[1] == "wget" {
                return Some(());
            }
            let mut check = self.command(&test[1..], &root, &[]);
            for (name, value) in service["environment"].as_mapping().into_iter().flatten() {
                let value = self.substituted(value.as_str().expect("a string"), &root, &[]);
                check.env(name.as_str().expect("a name"), value);
            }
            let checked = check.stdout(Stdio::null()).stderr(Stdio::null()).status();
            checked.is_ok_and(|status| status.success()).then_some(())
        });
    }

    fn command(&self, words: &[String], root: &Path, paths: &[String]) -> Command {
        let mut command = match words[0].as_str() {
            "/bin/tollgate" => {
                let mut command = binary();
                command
                    .env("HOST", "127.0.0.1")
                    .env("GRPC_HOST", "127.0.0.1");
                command
            }
            "envoy" => Command::new(envoy_binary()),
            program => Command::new(self.substituted(program, root, paths)),
        };
        command.args(
            words[1..]
                .iter()
                .map(|word| self.substituted(word, root, paths)),
        );
        command
    }

    /// A command's word or a variable's value, with the ports and the folders that there are here.
    fn substituted(&self, text: &str, root: &Path, paths: &[String]) -> String {
        let mut text = self.with_ports(text, &[""]);
        for path in paths {
            text = text.replace(path.as_str(), &inside(root, path).display().to_string());
        }
        text
    }

    /// A text whose numbers after one of these words are other ports, if they are ports.
    fn with_ports(&self, text: &str, before: &[&str]) -> String {
        let mut done = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            done += &rest[..at];
            rest = &rest[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let number = rest[..end]
                .parse()
                .ok()
                .filter(|_| before.iter().any(|word| done.ends_with(word)));
            match number.and_then(|port: u16| self.ports.get(&port)) {
                Some(port) => done += &port.to_string(),
                None => done += &rest[..end],
            }
            rest = &rest[end..];
        }
        done + rest
    }

    fn copy(&self, from: &Path, to: &Path, root: &Path, paths: &[String]) {
        if from.is_dir() {
            std::fs::create_dir_all(to).expect("a directory");
            for item in std::fs::read_dir(from).expect("a directory") {
                let name = item.expect("an item").file_name();
                self.copy(&from.join(&name), &to.join(&name), root, paths);
            }
            return;
        }
        // Keeps that it may be run.
        std::fs::copy(from, to).expect("a copy");
        let mut text = std::fs::read_to_string(from).expect("text");
        text = self.with_ports(&text, &BEFORE_PORTS);
        for path in paths {
            text = text.replace(path.as_str(), &inside(root, path).display().to_string());
        }
        std::fs::write(to, text).expect("a file");
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// All ports that anything there listens on.
fn all_ports() -> HashSet<u16> {
    let config = edited("envoy/gateway.yaml", &[]);
    let after = config.split("port_value: ").skip(1);
    let named = after.filter_map(|rest| rest.split('}').next()?.parse().ok());
    let mut ports: HashSet<u16> = named.collect();
    ports.extend([8080, 8082, 6070, 6071, 9090]);
    ports.extend(7001..=7006);
    ports.extend(17001..=17006);
    ports
}
