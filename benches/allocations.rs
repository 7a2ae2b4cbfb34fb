//! How many allocations a request costs from the bytes of its message to the frame of its answer.

use prost::Message;
use tollgate::engine::{Caller, Engine, Request, Settings};
use tollgate::grpc::wire;
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::Clock;

const TARGET: u64 = 5;

const RULES: &str = "
domain: bench
descriptors:
  - {key: user_id, rate_limit: {requests_per_unit: 100, unit: minute}}
";

#[expect(
    clippy::print_stdout,
    reason = "a benchmark speaks to the person who runs it"
)]
fn main() {
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text: RULES.to_owned(),
    }];
    let Ok(rules) = compile(&files, Options::default()) else {
        return;
    };
    let store = Store::Embedded(Embedded::new(1 << 20, Clock::System));
    let engine = Engine::new(store, Settings::default(), Clock::System, Metrics::new());
    engine.install(rules);
    let entry = ("user_id".to_owned(), "alice".to_owned());
    let message = wire::message("bench", 1, [vec![entry]]).encode_to_vec();
    let decide = || {
        let mut room = None;
        let mut request = Request::default();
        if wire::read(&message, &mut room, &mut request).is_err() {
            return;
        }
        let told = engine.check_for(&request, Caller::here(), wire::framed_draft);
        if let Some(Ok(framed)) = futures::FutureExt::now_or_never(told) {
            std::hint::black_box(framed);
        }
    };
    // What is made once for all requests, at the second one of its kind.
    decide();
    decide();
    let counted = allocation_counter::measure(decide);
    let mark = if counted.count_total <= TARGET {
        ""
    } else {
        "  FALLS SHORT"
    };
    println!(
        "allocations per request: {} (target: at most {TARGET}){mark}",
        counted.count_total
    );
}
