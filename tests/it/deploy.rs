//! What `deploy/` has for Kubernetes and systemd agrees with what Kubernetes takes, and with the service.

use std::collections::HashSet;
use std::process::Command;

use serde::Deserialize;
use serde_yaml::Value;

use crate::support::gateway::edited;
use crate::support::http::get;
use crate::support::server::{Setup, binary};

const MANIFEST: &str = "deploy/kubernetes/tollgate.yaml";

/// The one object of a kind.
fn object(kind: &str) -> Value {
    let text = edited(MANIFEST, &[]);
    let documents = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    let mut objects = documents.map(|object| object.expect("YAML"));
    let found = objects.find(|object| object["kind"] == *kind);
    found.expect(kind)
}

#[test]
fn manifests_have_the_fields_that_kubernetes_knows() {
    let tools = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tools/kubernetes-31.0.0"
    );
    assert!(
        std::fs::exists(tools).unwrap_or(false),
        "no client at {tools}: run `tests/tools/install`"
    );
    let checked = Command::new("tests/tools/check-manifests")
        .args([MANIFEST, "deploy/kubernetes/kustomization.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONPATH", tools)
        .output()
        .expect("Python");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    assert!(said.starts_with("5 objects"), "{said}");
}

/// Variables, ports and probes are those of the service, and its rules are rules.
#[test]
fn the_deployment_agrees_with_the_service() {
    let container = &object("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let help = binary().args(["serve", "--help"]).output().expect("help");
    let help = String::from_utf8(help.stdout).expect("text");
    // Lines are broken where the terminal ends.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for variable in container["env"].as_sequence().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        // One that holds a secret is shown without its value.
        let shown = ["=", "]"].map(|end| format!("[env: {name}{end}"));
        assert!(shown.iter().any(|shown| help.contains(shown)), "{name}");
    }
    let of_ports = |list: &Value, field: &str| -> HashSet<(String, u64)> {
        let list = list.as_sequence().expect("ports").iter();
        list.map(|port| {
            (
                port["name"].as_str().expect("a name").to_owned(),
                port[field].as_u64().expect("a port"),
            )
        })
        .collect()
    };
    let ports = of_ports(&container["ports"], "containerPort");
    assert_eq!(ports, of_ports(&object("Service")["spec"]["ports"], "port"));
    for (name, default) in [("grpc", 8081), ("http", 8080)] {
        assert!(ports.contains(&(name.to_owned(), default)));
        assert!(help.contains(&format!("[default: {default}]")));
    }
    let rules = object("ConfigMap")["data"]["edge.yaml"].clone();
    let server = Setup::rules(rules.as_str().expect("rules")).start_ready();
    for probe in ["readinessProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"]
            .as_str()
            .expect("a path");
        assert_eq!(get(server.http, path).code, 200, "{path}");
    }
}

#[test]
fn the_unit_starts_what_there_is() {
    let unit = edited("deploy/systemd/tollgate.service", &[]);
    assert!(unit.contains("\nExecStart=/usr/local/bin/tollgate serve\n"));
    assert!(unit.contains("\nEnvironment=RULES_DIR="));
}
