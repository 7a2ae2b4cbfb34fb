//! What stores keep beside the counters: the same calls have the same answers on every store.

use std::time::Duration;

use bytes::Bytes;
use tollgate::store::book::{MAX_LOG, News, Shelf, item_change};
use tollgate::store::embedded::Embedded;
use tollgate::store::usage::{Ledger, Row};
use tollgate::store::{Key, Store};
use tollgate::time::{Clock, Micros, Timestamp};

use crate::support::poll;
use crate::support::redis::{self, cluster, connected};

const TIMEOUT: Duration = Duration::from_secs(5);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn texts(store: &Store) {
    let key = Key::new("", "book|user=a", "@");
    let replace = async |before: Option<&str>, text: Option<&str>, keep: Option<Micros>| {
        let (before, text) = (before.map(bytes), text.map(bytes));
        let replaced = store.replace_text(&key, before.as_ref(), text.as_ref(), keep, TIMEOUT);
        replaced.await.expect("an answer")
    };
    let text = async || store.text(&key, TIMEOUT).await.expect("an answer");
    assert_eq!(text().await, None);
    assert!(!replace(Some("x"), Some("y"), None).await);
    assert!(replace(None, Some("one"), None).await);
    assert!(!replace(None, Some("two"), None).await, "another was first");
    assert_eq!(text().await, Some(bytes("one")));
    assert!(replace(Some("one"), Some(""), None).await);
    assert_eq!(text().await, Some(bytes("")), "empty is not absent");
    assert!(replace(Some(""), None, None).await);
    assert_eq!(text().await, None);
    let soon = Some(Micros::new(30_000));
    assert!(replace(None, Some("short"), soon).await);
    poll::until_async("the text to end", async || {
        text().await.is_none().then_some(())
    })
    .await;
}

async fn items_and_log(store: &Store) {
    let shelf = Shelf::new("book");
    let changes = async |after| {
        store
            .changes(&shelf, after, TIMEOUT)
            .await
            .expect("an answer")
    };
    let set = async |id: &str, text: Option<&str>| {
        let text = text.map(bytes);
        let set = store.set_item(&shelf, id, text.as_ref(), TIMEOUT);
        set.await.expect("an answer");
    };
    assert_eq!(changes(0).await, News::Changes(0, vec![]));
    set("a", Some("1")).await;
    set("b", Some("2")).await;
    let announced = store.announce(&shelf, bytes("skey"), TIMEOUT);
    announced.await.expect("an answer");
    set("a", None).await;
    let all = vec![
        item_change("a", Some(b"1")),
        item_change("b", Some(b"2")),
        bytes("skey"),
        item_change("a", None),
    ];
    assert_eq!(changes(0).await, News::Changes(4, all.clone()));
    assert_eq!(changes(3).await, News::Changes(4, all[3..].to_vec()));
    assert_eq!(changes(4).await, News::Changes(4, vec![]));
    assert_eq!(changes(5).await, News::Lost, "the store has forgotten");
    let items = store.items(&shelf, TIMEOUT).await.expect("an answer");
    assert_eq!(items, (4, vec![("b".to_owned(), bytes("2"))]));
    for _ in 0..MAX_LOG {
        let announced = store.announce(&shelf, bytes("s"), TIMEOUT);
        announced.await.expect("an answer");
    }
    assert_eq!(changes(3).await, News::Lost, "too much has changed");
    let last = MAX_LOG as u64 + 4;
    assert!(
        matches!(changes(4).await, News::Changes(number, list) if number == last && list.len() == MAX_LOG)
    );
}

/// Instances are counted until they leave, or have said nothing for too long.
async fn presence(store: &Store) {
    let key = Key::new("", "book", "instances");
    let present = async |instance: &str, keep: Micros| {
        let count = store.present(&key, instance, keep, TIMEOUT).await;
        count.expect("an answer")
    };
    let (long, soon) = (Micros::from_secs(60), Micros::new(30_000));
    assert_eq!(present("a", long).await, 1);
    assert_eq!(present("b", long).await, 2);
    assert_eq!(present("a", long).await, 2, "it is one");
    assert_eq!(present("b", Micros::ZERO).await, 1, "it has left");
    present("killed", soon).await;
    poll::until_async("the killed one to be forgotten", async || {
        (present("a", long).await == 1).then_some(())
    })
    .await;
    present("last", soon).await;
    assert_eq!(present("a", Micros::ZERO).await, 1);
}

async fn usage(store: &Store) {
    let ledger = Ledger::new("book");
    let row = |id: &str, end: i64, used: u64| Row {
        id: id.to_owned(),
        end: Timestamp::from_secs(end),
        used,
        text: bytes(&format!("about {id}")),
    };
    let set = async |rows: &[Row]| {
        store
            .set_usage(&ledger, rows, TIMEOUT)
            .await
            .expect("an answer")
    };
    let after = async |after, most| {
        let rows = store.usage_after(&ledger, after, most, TIMEOUT).await;
        let rows = rows.expect("an answer").into_iter();
        rows.map(|(number, used, _)| (number, used))
            .collect::<Vec<_>>()
    };
    // Larger than what Lua writes with all its digits.
    let much = 1_000_000_000_000_003;
    set(&[row("a", 10, 900), row("b", 20, 5), row("c", 30, much)]).await;
    assert_eq!(after(0, 10).await, [(1, 900), (2, 5), (3, much)]);
    set(&[row("a", 10, 1000), row("b", 20, 5), row("c", 30, much - 1)]).await;
    assert_eq!(after(0, 10).await, [(2, 5), (3, much), (4, 1000)]);
    assert_eq!(after(2, 1).await, [(3, much)]);
    assert_eq!(after(4, 10).await, []);
    let before = Timestamp::from_secs(20);
    let tidied = store.tidy_usage(&ledger, before, TIMEOUT);
    tidied.await.expect("an answer");
    assert_eq!(after(0, 10).await, [(2, 5), (3, much)]);
}

async fn conforms(store: &Store) {
    texts(store).await;
    items_and_log(store).await;
    usage(store).await;
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    conforms(&Store::Embedded(Embedded::new(1 << 10, Clock::System))).await;
}

#[tokio::test]
async fn redis_conforms() {
    let server = redis::Server::start();
    let store = Store::Redis(server.store().await);
    conforms(&store).await;
    presence(&store).await;
}

#[tokio::test]
async fn a_redis_cluster_conforms() {
    let store = Store::Redis(connected(&cluster::shared()).await);
    conforms(&store).await;
    presence(&store).await;
}
