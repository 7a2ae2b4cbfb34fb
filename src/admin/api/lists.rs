//! Who is let through, refused or banned. Items are named like subjects; the value may be a network, `10.0.0.0/8`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::quota::Subject;
use super::{Answer, Api, MAX_NOTE, Problem, Query, answer, as_moment, moment, read};
use crate::directory::follow::LOOK_WITHIN;
use crate::directory::{Item, List};
use crate::engine::subjects;
use crate::limit::{Tag, Unit};
use crate::store::Key;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutItem {
    until: Option<String>,
    #[serde(default)]
    note: String,
}

pub(super) async fn all(State(api): State<Api>, query: Query) -> Answer {
    answer(&json!({"items": api.items(&[List::Allow, List::Deny], &query)}))
}

pub(super) async fn list(State(api): State<Api>, Path(list): Path<String>, query: Query) -> Answer {
    answer(&json!({"items": api.items(&[named(&list)?], &query)}))
}

pub(super) async fn put_item(
    State(api): State<Api>,
    Path((list, entry)): Path<(String, String)>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    api.put(named(&list)?, &entry, &query, &headers, &body)
        .await
}

pub(super) async fn delete_item(
    State(api): State<Api>,
    Path((list, entry)): Path<(String, String)>,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    api.delete(named(&list)?, &entry, &query, &headers).await
}

pub(super) async fn bans(State(api): State<Api>, query: Query) -> Answer {
    answer(&json!({"items": api.items(&[List::Ban], &query)}))
}

pub(super) async fn ban(State(api): State<Api>, Path(entry): Path<String>, query: Query) -> Answer {
    let item = api.item(List::Ban, &entry, &query)?;
    let found = api.same(&item);
    if found.is_empty() {
        return Err(Problem::absent("there is no such ban"));
    }
    let items: Vec<Value> = found.iter().map(shown).collect();
    answer(&json!({"items": items}))
}

pub(super) async fn put_ban(
    State(api): State<Api>,
    Path(entry): Path<String>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    api.put(List::Ban, &entry, &query, &headers, &body).await
}

pub(super) async fn delete_ban(
    State(api): State<Api>,
    Path(entry): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    api.delete(List::Ban, &entry, &query, &headers).await
}

fn named(list: &str) -> Result<List, Problem> {
    match list {
        "allow" => Ok(List::Allow),
        "deny" => Ok(List::Deny),
        _ => Err(Problem::absent("the lists are `allow` and `deny`")),
    }
}

fn shown(item: &Item) -> Value {
    json!({
        "list": item.list,
        "domain": item.domain,
        "entry": format!("{}={}", item.key, item.value),
        "until": item.until.and_then(as_moment),
        "note": item.note,
        "automatic": item.counter.is_some(),
    })
}

impl Api {
    /// The lists that a subject is on.
    pub(super) fn listed(&self, subject: &Subject) -> Vec<Value> {
        let value = self.with_domain(subject, |domain| subjects::value(domain, subject.entry()));
        let value = value.unwrap_or_default();
        let address = subject.value.parse::<std::net::IpAddr>().ok();
        let lists = self.admin.engine.directory().lists();
        let now = self.admin.engine.clock().now();
        let on = lists.items().filter(|item| {
            let network = item.value.parse::<IpNet>().ok();
            let within = network
                .zip(address)
                .is_some_and(|(net, address)| net.contains(&address));
            item.domain == subject.domain
                && item.key == subject.key
                && item.holds(now)
                && (item.value == value || (item.network && within))
        });
        on.map(shown).collect()
    }

    fn items(&self, of: &[List], query: &Query) -> Vec<Value> {
        let lists = self.admin.engine.directory().lists();
        let now = self.admin.engine.clock().now();
        let domain = query.get("domain");
        let wanted = |item: &&Item| {
            of.contains(&item.list)
                && item.holds(now)
                && domain.is_none_or(|domain| *domain == item.domain)
        };
        let mut items: Vec<&Item> = lists.items().filter(wanted).collect();
        items.sort_by_key(|item| item.id());
        items.into_iter().map(shown).collect()
    }

    /// The item that a call names.
    fn item(&self, list: List, entry: &str, query: &Query) -> Result<Item, Problem> {
        let subject = Subject::read(self, entry, query)?;
        let network = subject.value.contains('/');
        let network = network
            .then(|| subject.value.parse::<IpNet>().ok())
            .flatten();
        let value = match network {
            Some(network) => network.trunc().to_string(),
            None => self.with_domain(&subject, |d| subjects::value(d, subject.entry()))?,
        };
        Ok(Item {
            list,
            domain: subject.domain,
            key: subject.key,
            value,
            network: network.is_some(),
            until: None,
            note: String::new(),
            counter: None,
        })
    }

    /// The items that mean the same entry: a person's, and those that limits have begun.
    fn same(&self, wanted: &Item) -> Vec<Item> {
        let lists = self.admin.engine.directory().lists();
        let now = self.admin.engine.clock().now();
        let same = |item: &&Item| {
            item.list == wanted.list
                && item.domain == wanted.domain
                && item.key == wanted.key
                && item.value == wanted.value
                && item.holds(now)
        };
        lists.items().filter(same).cloned().collect()
    }

    async fn put(
        &self,
        list: List,
        entry: &str,
        query: &Query,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Answer {
        let put: PutItem = read(body)?;
        let engine = &self.admin.engine;
        let until = put.until.as_deref();
        let until = until.map(|until| moment(until, engine.clock().now()));
        if put.note.len() > MAX_NOTE {
            return Err(Problem::bad(format!(
                "`note` is longer than {MAX_NOTE} bytes"
            )));
        }
        let item = Item {
            until: until.transpose()?,
            note: put.note,
            ..self.item(list, entry, query)?
        };
        let (id, directory) = (item.id(), engine.directory());
        directory
            .set_item(engine.store(), &id, Some(&item), LOOK_WITHIN)
            .await?;
        let what = shown(&item);
        self.access.audit(headers, "listed", &what);
        answer(&what)
    }

    async fn delete(&self, list: List, entry: &str, query: &Query, headers: &HeaderMap) -> Answer {
        let wanted = self.item(list, entry, query)?;
        let found = self.same(&wanted);
        if found.is_empty() {
            return Err(Problem::absent("there is no such item"));
        }
        let engine = &self.admin.engine;
        let tags: Vec<Tag> = Unit::ALL.map(Tag::of_ban).to_vec();
        for item in &found {
            if let Some(counter) = item.counter.as_deref().and_then(Key::parse) {
                engine.forget(&counter, &tags).await?;
            }
            let (id, directory) = (item.id(), engine.directory());
            directory
                .set_item(engine.store(), &id, None, LOOK_WITHIN)
                .await?;
        }
        let what = json!({"items": found.iter().map(shown).collect::<Vec<_>>()});
        self.access.audit(headers, "unlisted", &what);
        answer(&what)
    }
}
