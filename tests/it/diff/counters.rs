//! Which counters start anew, as `tollgate diff` says it and as the engine does it: what is charged under the old rules is
//! looked for under the new ones.

use serde_json::Value;

use crate::support::service::Service;

/// What descriptors of a kind are charged with under the old rules, and what is asked under both.
const DESCRIPTORS: [&str; 6] = [
    "user_id=ann",
    "path=/a,user_id=ann",
    "tier=pro,user_id=ann",
    "token=t",
    "file=f1",
    "path=/a",
];

const TOP: &str = "domain: d
partition_by: [user_id]
plans:
  free: [{name: f, requests_per_unit: 100, unit: day}]
  pro: [{name: p, requests_per_unit: 100, unit: day}]
descriptors:
";

const RULES: &str = "  - {key: user_id, rate_limit: {name: u, requests_per_unit: 100, unit: day}}
  - {key: path, rate_limit: {requests_per_unit: 100, unit: day}, descriptors: [{key: user_id, rate_limit: {requests_per_unit: 100, unit: day}}]}
  - {key: tier, descriptors: [{key: user_id, plan: {from: tier, default: free}}]}
  - {key: token, rate_limit: {requests_per_unit: 100, unit: day}}
  - {key: file, value: f*, rate_limit: {requests_per_unit: 100, unit: day}}
";

/// A change of the rules, and whether it makes the counters of each descriptor start anew.
const CHANGES: [(&str, &str, [bool; 6]); 16] = [
    (
        "unit: day}, descriptors",
        "unit: day}, metadata: {a: b}, descriptors",
        [false; 6],
    ),
    (
        "name: u, requests_per_unit: 100",
        "name: u, requests_per_unit: 50",
        [false; 6],
    ),
    ("name: u,", "name: v,", [false; 6]),
    (
        "name: u, requests_per_unit: 100, unit: day",
        "name: u, requests_per_unit: 100, unit: week",
        [true, false, false, false, false, false],
    ),
    (
        "name: u, requests_per_unit: 100, unit: day",
        "name: u, requests_per_unit: 100, unit: day, unit_multiplier: 2",
        [true, false, false, false, false, false],
    ),
    (
        "name: u, requests_per_unit: 100, unit: day",
        "name: u, requests_per_unit: 100, unit: day, algorithm: token_bucket",
        [true, false, false, false, false, false],
    ),
    (
        "name: u, requests_per_unit: 100, unit: day",
        "name: u, requests_per_unit: 100, unit: day, algorithm: sliding_window",
        [true, false, false, false, false, false],
    ),
    (
        "partition_by: [user_id]",
        "partition_by: [user_id, token]",
        [false, false, false, true, false, false],
    ),
    (
        "partition_by: [user_id]",
        "partition_by: [path, user_id]",
        [false, true, false, false, false, true],
    ),
    (
        "partition_by: [user_id]\n",
        "",
        [true, true, true, false, false, false],
    ),
    (
        "partition_by: [user_id]",
        "partition_by: [user_id]\nsensitive: [token]",
        [false, false, false, true, false, false],
    ),
    (
        "value: f*,",
        "value: f*, share_threshold: true,",
        [false, false, false, false, true, false],
    ),
    (
        "{from: tier, default: free}",
        "{from: directory, default: pro}",
        [false, false, true, false, false, false],
    ),
    (
        "partition_by",
        "time_zone: Asia/Tokyo\npartition_by",
        [false; 6],
    ),
    // Another rule counts on under the same key.
    (
        "  - {key: token",
        "  - {key: user_id, value: ann, rate_limit: {requests_per_unit: 90, unit: day}}\n  - {key: token",
        [false; 6],
    ),
    ("value: f*,", "", [false; 6]),
];

/// How many hits have been charged, by what remains of 1,000,000 that nobody refuses.
async fn used(service: &Service, descriptor: &str) -> u32 {
    let answer = service.ask(&[&format!("{descriptor} ?")]).await;
    let status = &answer.statuses[0];
    let limit = status.limit.as_ref().expect("a limit");
    limit.requests_per_unit - status.remaining
}

#[tokio::test]
async fn counters_start_anew_where_it_is_said_and_nowhere_else() {
    let old = format!("{TOP}{RULES}");
    for (from, to, wanted) in CHANGES {
        assert!(old.contains(from), "{from}");
        let new = old.replacen(from, to, 1);
        let service = Service::new(&old);
        for descriptor in DESCRIPTORS {
            service.ask(&[&format!("{descriptor} +7")]).await;
        }
        service.install(&new);
        let found = super::changes(&old, &new).json();
        let found: Value = serde_json::from_str(&found).expect("JSON");
        let changes = found["changes"].as_array().expect("changes").iter();
        let anew = changes.filter(|change| change["counters_start_anew"] == true);
        let named: Vec<String> = anew
            .flat_map(|change| change["for"].as_array().expect("subjects").clone())
            .map(|subject| subject["name"].as_str().expect("a name").to_owned())
            .collect();
        let names = [
            "user_id",
            "path, user_id",
            "tier, user_id",
            "token",
            "file=f*",
            "path",
        ];
        for ((descriptor, name), wanted) in DESCRIPTORS.into_iter().zip(names).zip(wanted) {
            let used = used(&service, descriptor).await;
            assert_eq!(used, if wanted { 0 } else { 7 }, "{descriptor}: {to}");
            let said = named.iter().any(|one| one == name);
            assert_eq!(said, wanted, "{name}: {to}\n{found:#}");
        }
    }
}

/// A ban is kept under its key and the unit of its `within`: with another one it is forgotten, with other numbers it is not.
#[tokio::test]
async fn bans_are_forgotten_where_it_is_said() {
    let rules = |ban: &str| {
        format!(
            "domain: d\ndescriptors:\n  - {{key: user_id, rate_limit: {{requests_per_unit: 1, unit: second}}{ban}}}\n"
        )
    };
    let old = rules(", ban: {after: 2, within: minute, for: 1h}");
    for (ban, anew, holds) in [
        (", ban: {after: 3, within: minute, for: 2h}", false, true),
        (", ban: {after: 2, within: hour, for: 1h}", true, false),
        ("", false, false),
    ] {
        let service = Service::new(&old);
        for _ in 0..4 {
            service.ask(&["user_id=ann"]).await;
        }
        service.advance(60);
        assert!(service.say(&["user_id=ann"]).await.starts_with("over"));
        let new = rules(ban);
        service.install(&new);
        let now = service.say(&["user_id=ann"]).await;
        assert_eq!(now.starts_with("over"), holds, "{ban}: {now}");
        let said = super::changes(&old, &new).text(false);
        assert_eq!(said.contains("bans begun, are forgotten"), anew, "{said}");
        assert_eq!(said.contains("no longer hold"), ban.is_empty(), "{said}");
    }
}

/// What the API has given to subjects is kept under their names, hashed where they are sensitive.
#[tokio::test]
async fn a_plan_is_lost_with_the_name_of_its_subject() {
    use std::time::Duration;
    use tollgate::directory::Standing;
    use tollgate::rules::Entry;

    let rules = |sensitive: &str| {
        format!(
            "domain: d\n{sensitive}plans:\n  free: [{{requests_per_unit: 1, unit: day}}]\n  pro: [{{requests_per_unit: 2, unit: day}}]\n\
             descriptors:\n  - {{key: user_id, plan: {{from: directory, default: free}}}}\n"
        )
    };
    let (old, new) = (rules(""), rules("sensitive: [user_id]\n"));
    let service = Service::new(&old);
    let place = service.engine.with_rules(|rules| {
        let entry = Entry {
            key: "user_id",
            value: "ann",
        };
        tollgate::engine::key::standing("", &rules.domains["d"], entry)
    });
    let place = place.expect("rules");
    let assigned = |standing| Standing {
        plan: Some("pro".to_owned()),
        ..standing
    };
    let (directory, store) = (service.engine.directory(), service.engine.store());
    let change = directory.change(store, &place, Duration::from_secs(1), assigned);
    change.await.expect("the store answers");
    let limit = async |service: &Service| {
        let answer = service.ask(&["user_id=ann ?"]).await;
        answer.statuses[0]
            .limit
            .as_ref()
            .expect("a limit")
            .requests_per_unit
    };
    assert_eq!(limit(&service).await, 2);
    service.install(&new);
    assert_eq!(limit(&service).await, 1);
    let said = super::changes(&old, &new).text(false);
    assert!(
        said.contains(
            "plans, grants, lists and bans that the API has given them no longer find them"
        ),
        "{said}"
    );
}
