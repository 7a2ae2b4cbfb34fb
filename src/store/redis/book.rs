//! Texts, items and the log of changes in Redis; see [`book`](crate::store::book).

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::connected::Home;
use super::frames::unreadable;
use super::lease::returns;
use super::node::Call;
use super::within::Within;
use super::{Redis, request, script};
use crate::limit::{Durability, Tag};
use crate::store::book::{Items, News, Shelf};
use crate::store::{Key, StoreError};
use crate::time::Micros;

impl Redis {
    pub(in crate::store) async fn text(
        &self,
        key: &Key,
        timeout: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut reply = self
            .ask(&script::BOOK, &[key], &[b"text"], timeout)
            .await?
            .into_iter();
        Ok(reply.next().and_then(known))
    }

    pub(in crate::store) async fn replace_text(
        &self,
        key: &Key,
        before: Option<&Bytes>,
        text: Option<&Bytes>,
        keep: Option<Micros>,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        let keep = keep.map_or(0, |keep| keep.get().div_ceil(1000).max(1));
        let (keep, before, text) = (keep.to_string(), maybe(before), maybe(text));
        let arguments: [&[u8]; 4] = [b"replace", &before, &text, keep.as_bytes()];
        let reply = self.ask(&script::BOOK, &[key], &arguments, timeout).await?;
        Ok(reply.first().is_some_and(|word| word.as_ref() == b"1"))
    }

    pub(in crate::store) async fn announce(
        &self,
        shelf: &Shelf,
        change: Bytes,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let arguments: [&[u8]; 2] = [b"announce", &change];
        let reply = self.ask_shelf(shelf, &arguments, timeout).await;
        reply.map(|_| ())
    }

    pub(in crate::store) async fn set_item(
        &self,
        shelf: &Shelf,
        id: &str,
        text: Option<&Bytes>,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let text = maybe(text);
        let arguments: [&[u8]; 3] = [b"item", id.as_bytes(), &text];
        let reply = self.ask_shelf(shelf, &arguments, timeout).await;
        reply.map(|_| ())
    }

    pub(in crate::store) async fn items(
        &self,
        shelf: &Shelf,
        timeout: Duration,
    ) -> Result<(u64, Items), StoreError> {
        let reply = self.ask_shelf(shelf, &[b"items"], timeout).await?;
        let mut reply = reply.into_iter();
        let number = reply.next().and_then(|text| number(&text));
        let number = number.ok_or_else(unreadable)?;
        let mut items = Items::new();
        while let (Some(id), Some(text)) = (reply.next(), reply.next()) {
            items.push((String::from_utf8_lossy(&id).into_owned(), text));
        }
        Ok((number, items))
    }

    pub(in crate::store) async fn present(
        &self,
        key: &Key,
        instance: &str,
        keep: Micros,
        timeout: Duration,
    ) -> Result<u32, StoreError> {
        let keep = keep.get().div_ceil(1000).to_string();
        let arguments: [&[u8]; 3] = [b"present", instance.as_bytes(), keep.as_bytes()];
        let reply = self.ask(&script::BOOK, &[key], &arguments, timeout).await?;
        let count = reply.first().and_then(number).ok_or_else(unreadable)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(in crate::store) async fn changes(
        &self,
        shelf: &Shelf,
        after: u64,
        timeout: Duration,
    ) -> Result<News, StoreError> {
        let after = after.to_string();
        let arguments: [&[u8]; 2] = [b"changes", after.as_bytes()];
        let reply = self.ask_shelf(shelf, &arguments, timeout).await?;
        let mut reply = reply.into_iter();
        let Some(last) = reply.next() else {
            return Ok(News::Lost);
        };
        let last = number(&last).ok_or_else(unreadable)?;
        Ok(News::Changes(last, reply.collect()))
    }

    pub(in crate::store) async fn forget(
        &self,
        key: &Key,
        tags: &[Tag],
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let key = key.as_str().as_bytes();
        let call = Call {
            script: &script::DECIDE,
            keys: &[key],
            body: &request::forget(tags),
            durability: Durability::Usual,
        };
        for is_per_second in [false, true] {
            // Which limits the key has is not known here; where it is not there is nothing to forget.
            if is_per_second && self.link.per_second.is_none() {
                continue;
            }
            let home = Home {
                slot: None,
                is_per_second,
            };
            self.link
                .run(home, &call, Within::from_now(timeout))
                .await?;
        }
        // What this instance has charged in advance is forgotten as well.
        if let Some(lease) = self.link.hot.end_of(key) {
            returns::give_back(&self.link, &lease, tags).await;
        }
        Ok(())
    }

    async fn ask_shelf(
        &self,
        shelf: &Shelf,
        arguments: &[&[u8]],
        timeout: Duration,
    ) -> Result<Vec<Bytes>, StoreError> {
        let keys = [&shelf.items, &shelf.number, &shelf.log];
        self.ask(&script::BOOK, &keys, arguments, timeout).await
    }
}

fn maybe(text: Option<&Bytes>) -> Vec<u8> {
    match text {
        Some(text) => [b"1", text.as_ref()].concat(),
        None => b"0".to_vec(),
    }
}

fn known(mut text: Bytes) -> Option<Bytes> {
    (text.try_get_u8().ok()? == b'1').then_some(text)
}

fn number(text: &Bytes) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
