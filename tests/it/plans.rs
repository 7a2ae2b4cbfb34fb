//! What is counted by plan, and how far subjects have come with their month.

use crate::metrics::read;
use crate::support::service::Service;

const RULES: &str = "
domain: d
plans:
  free:
    - {name: free_minute, requests_per_unit: 1000, unit: minute}
    - {name: free_month, requests_per_unit: 10, unit: month}
  partner: unlimited
  pro:
    - {requests_per_unit: 100, unit: month}
descriptors:
  - key: tier
    descriptors:
      - {key: user, plan: {from: tier, default: free}}
  - key: tenant
    rate_limit: {requests_per_unit: 4, unit: month}
  - key: bucket
    rate_limit: {requests_per_unit: 4, unit: month, algorithm: token_bucket}
";

/// The value of a series, which must be there.
fn sample(service: &Service, series: &str) -> f64 {
    let samples = read(&service.metrics.encode()).samples;
    *samples.get(series).expect(series)
}

fn decided(service: &Service, plan: &str) -> [f64; 2] {
    ["admitted", "refused"].map(|outcome| {
        let labels = format!("domain=\"d\",plan=\"{plan}\",outcome=\"{outcome}\"");
        sample(service, &format!("tollgate_plan_decisions{{{labels}}}"))
    })
}

fn reached(service: &Service, rule: &str, plan: &str) -> [f64; 5] {
    ["0", "0.5", "0.8", "0.9", "1"].map(|share| {
        let labels = format!("domain=\"d\",rule=\"{rule}\",plan=\"{plan}\",share=\"{share}\"");
        sample(service, &format!("tollgate_quota_reached{{{labels}}}"))
    })
}

#[tokio::test]
async fn plans_are_counted_and_are_there_before_anybody_asks() {
    let service = Service::new(RULES);
    for plan in ["free", "partner", "pro"] {
        assert_eq!(decided(&service, plan), [0.0, 0.0]);
    }
    service.ask(&["tier=pro,user=a"]).await;
    service.ask(&["tier=partner,user=b"]).await;
    service.ask(&["tier=none,user=c +10"]).await;
    service.ask(&["tier=free,user=c"]).await;
    // Neither a peek nor what is given back is a decision that anybody waits for.
    service.ask(&["tier=free,user=c ?"]).await;
    service.ask(&["tier=free,user=c -1"]).await;
    assert_eq!(decided(&service, "pro"), [1.0, 0.0]);
    assert_eq!(decided(&service, "partner"), [1.0, 0.0]);
    assert_eq!(decided(&service, "free"), [1.0, 1.0]);
    service.install(RULES);
    assert_eq!(decided(&service, "free"), [1.0, 1.0], "after a reload");
}

#[tokio::test]
async fn a_subject_is_counted_once_at_each_share_of_its_month() {
    let service = Service::new(RULES);
    let free = |service: &Service| reached(service, "tier.user.free_month", "free");
    assert_eq!(free(&service), [0.0; 5]);
    for (hits, wanted) in [
        (1, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (3, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (1, [1.0, 1.0, 0.0, 0.0, 0.0]),
        (4, [1.0, 1.0, 1.0, 1.0, 0.0]),
        // Refused, and so not used.
        (2, [1.0, 1.0, 1.0, 1.0, 0.0]),
        (1, [1.0, 1.0, 1.0, 1.0, 1.0]),
        (1, [1.0, 1.0, 1.0, 1.0, 1.0]),
    ] {
        service.ask(&[&format!("tier=free,user=a +{hits}")]).await;
        assert_eq!(free(&service), wanted, "{hits}");
    }
    service.ask(&["tier=free,user=b +10"]).await;
    assert_eq!(free(&service), [2.0; 5], "another, in one step");
    // From the sixth of March to April.
    service.advance(26 * 86_400);
    service.ask(&["tier=free,user=b"]).await;
    assert_eq!(free(&service), [3.0, 2.0, 2.0, 2.0, 2.0], "a new month");

    service.ask(&["tier=pro,user=c +80"]).await;
    let pro = reached(&service, "tier.user.pro.month", "pro");
    assert_eq!(pro, [1.0, 1.0, 1.0, 0.0, 0.0]);
    service.ask(&["tenant=t +4"]).await;
    assert_eq!(reached(&service, "tenant", ""), [1.0; 5], "without a plan");
    service.ask(&["bucket=b +4"]).await;
    let samples = read(&service.metrics.encode()).samples;
    let of_bucket = |key: &String| key.contains("quota_reached") && key.contains("bucket");
    assert!(!samples.keys().any(of_bucket), "a bucket is no quota");
}
