//! The calls that are made for those who wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::future::join_all;
use smallvec::{SmallVec, smallvec};
use tokio::time::timeout_at;
use tracing::{Instrument, Span};

use super::super::lease::Stock;
use super::super::lease::held::Lease;
use super::super::lease::returns;
use super::super::node::Call;
use super::super::refusals::Heard;
use super::super::reply::Reply;
use super::super::within::Within;
use super::super::{Link, no_time, request, script, value};
use super::{Asking, HEAT, Leading, Read, Runs, Turn, Waiting, extend};
use crate::limit::transaction::Record;
use crate::store::StoreError;

impl Leading {
    /// Sends those that wait, and those that come meanwhile after them, until nobody waits.
    pub(super) async fn send_all(mut self) {
        if self.gathers {
            // Once more round the runtime's loop: what the sockets have brought meanwhile goes along.
            tokio::task::yield_now().await;
        }
        let mut came = 0;
        loop {
            let waiting = {
                let mut place = self.link.hot.places[self.place].lock();
                if place.waiting.is_empty() {
                    let cooler = place.heat.saturating_sub(1);
                    place.heat = if came > 1 { HEAT } else { cooler };
                    // Whoever comes from now on is found when this is dropped.
                    self.is_sending = false;
                    return;
                }
                place.until = last_deadline(&place.waiting);
                place.crowd = place.waiting.len();
                std::mem::take(&mut place.waiting)
            };
            if let Some(print) = self.alone.take() {
                // It counts among those that wait for its key, not among those that only meet it here.
                came = usize::from(waiting.iter().any(|one| one.asked.print == print));
            }
            came += waiting.len();
            let groups = groups(waiting, Instant::now()).into_iter();
            join_all(groups.map(|group| send(&self.link, self.place, group))).await;
        }
    }
}

/// When the last of them gives up.
fn last_deadline(waiting: &[Waiting]) -> Option<Instant> {
    waiting.iter().map(|one| one.deadline).max()
}

/// Those that can go together. Who has given up, or should have by `now`, is left out, and not charged.
fn groups(mut waiting: Vec<Waiting>, now: Instant) -> SmallVec<[Vec<Waiting>; 1]> {
    for late in waiting.iter_mut().filter(|one| one.deadline <= now) {
        late.tell(Err(no_time()));
    }
    waiting.retain(|one| !one.has_given_up());
    // Nearly always they are one, and stay where they are, as they are large.
    if let Some((first, others)) = waiting.split_first()
        && others.iter().all(|one| first.asked.goes_with(&one.asked))
    {
        return smallvec![waiting];
    }
    let mut groups: SmallVec<[Vec<Waiting>; 1]> = SmallVec::new();
    for one in waiting {
        let same = |group: &&mut Vec<Waiting>| {
            let first = group.first().map(|first| &first.asked);
            first.is_some_and(|first| first.goes_with(&one.asked))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// Sends requests for one key that differ only in their hits, and tells each what it needs.
async fn send(link: &Arc<Link>, place: usize, group: Vec<Waiting>) {
    let (mut group, batch) = take_leased(link, place, group);
    let (Some(last), Some(deadline)) = (group.last(), last_deadline(&group)) else {
        return;
    };
    let Asking {
        home,
        durability,
        hits,
        ..
    } = last.asked;
    let (key, demand) = (last.asked.key.clone(), last.asked.demand.clone());
    let mut runs = Runs::new();
    for waiting in &group {
        extend(&mut runs, 1, waiting.asked.hits);
    }
    let waiting = runs.clone();
    extend(&mut runs, batch, hits);
    let call = Call {
        script: &script::DECIDE,
        keys: &[&key],
        body: &request::together(&demand, &runs),
        durability,
    };
    let era = link.refusals.era();
    let begun = Instant::now();
    let mut traced = group.iter().map(|waiting| &waiting.span);
    let span = traced.find(|span| !span.is_none()).cloned();
    let answer = link.run(home, &call, Within { begun, deadline });
    let answer = answer.instrument(span.unwrap_or_else(Span::none));
    let answer = tell_in_time(&mut group, answer).await;
    let heard = Instant::now();
    let read = answer.map(|answer| {
        // Else calendar borders have been passed, or a value is somebody else's: nothing was written.
        let Some(Reply::Before(at, values)) = Reply::parse(answer) else {
            return None;
        };
        let record = value::decode(values.into_iter().next()?)?;
        let asked = begun;
        Some((Heard { at, asked, heard }, Arc::new(record)))
    });
    if let (Ok(Some((heard, record))), Some(last)) = (&read, group.last()) {
        let said = (*heard, record, era);
        hold(link, place, &last.asked, said, (waiting, batch));
    }
    let count = group.len() as u64;
    if count > 1 {
        link.hot.combined.fetch_add(count, Ordering::Relaxed);
    }
    let mut before = Runs::new();
    for mut waiting in group {
        let turn = match &read {
            Ok(Some((heard, record))) => Ok(Turn::Read(Read {
                record: Arc::clone(record),
                heard: *heard,
                before: Runs::from_slice(&before),
                now: heard.at,
                served_from: (count > 1).then_some("combined"),
            })),
            Ok(None) => Ok(Turn::Alone),
            Err(error) => Err(error.clone()),
        };
        extend(&mut before, 1, waiting.asked.hits);
        // Who has given up meanwhile has been charged.
        waiting.tell(turn);
    }
}

/// Waits for the answer, and tells those so meanwhile whose time is over.
async fn tell_in_time<T>(group: &mut [Waiting], answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    loop {
        let waiting = group.iter().filter(|one| one.turn.is_some());
        let Some(first) = waiting.map(|one| one.deadline).min() else {
            return answer.await;
        };
        if let Ok(answer) = timeout_at(first.into(), &mut answer).await {
            return answer;
        }
        let now = Instant::now();
        for late in group.iter_mut().filter(|one| one.deadline <= now) {
            late.tell(Err(StoreError::Timeout));
        }
    }
}

/// Tells those their turn who were charged in advance. The rest, and how many more to charge with them.
fn take_leased(link: &Link, place: usize, group: Vec<Waiting>) -> (Vec<Waiting>, u16) {
    if !group.iter().any(|waiting| waiting.asked.terms.is_some()) {
        return (group, 0);
    }
    let (now, era) = (Instant::now(), link.refusals.era());
    let mut rest = Vec::with_capacity(group.len());
    let held = &mut link.hot.places[place].lock().held;
    for mut waiting in group {
        match held.take(&waiting.asked, era, now) {
            Some(read) => {
                link.hot.leased.fetch_add(1, Ordering::Relaxed);
                waiting.tell(Ok(Turn::Read(read)));
            }
            None => rest.push(waiting),
        }
    }
    let batch = rest.last().map_or(0, |last| held.begin(&last.asked, now));
    (rest, batch)
}

/// Holds what a call has charged beyond those who waited, and remembers what is left.
fn hold(
    link: &Arc<Link>,
    place: usize,
    asked: &Asking,
    (heard, record, era): (Heard, &Arc<Record>, u64),
    (before, batch): (Runs, u16),
) {
    let Some(terms) = asked.terms.as_deref().cloned() else {
        return;
    };
    let own = Record::clone(record);
    let (stock, room) = Stock::new(terms, own, heard.at, &before, batch);
    let is_empty = stock.is_used_up();
    let id = link.hot.batches.fetch_add(1, Ordering::Relaxed);
    let lease = Lease {
        id,
        home: asked.home,
        print: asked.print,
        key: asked.key.clone(),
        demand: asked.demand.clone(),
        durability: asked.durability,
        record: Arc::clone(record),
        heard,
        before,
        stock,
        era,
    };
    let mut place_held = link.hot.places[place].lock();
    place_held.held.note(asked.print, room, heard.heard);
    if is_empty {
        // Unless another batch of the key is under way.
        if batch > 0 {
            place_held.held.has_arrived(asked.print);
        }
        return;
    }
    let homeless = place_held.held.put(lease);
    drop(place_held);
    match homeless {
        None => returns::later(link, place, id, heard.heard),
        Some(lease) => {
            let link = Arc::clone(link);
            tokio::spawn(async move { returns::give_back(&link, &lease, &[]).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::super::super::connected::Home;
    use super::super::{Told, print};
    use super::*;
    use crate::limit::{Durability, Hits};

    const TIMEOUT: Duration = Duration::from_millis(10);

    fn waiting(key: &'static str, demand: &'static str) -> (Waiting, oneshot::Receiver<Told>) {
        let (turn, turns) = oneshot::channel();
        let asked = Asking {
            home: Home::default(),
            key: Bytes::from_static(key.as_bytes()),
            demand: Bytes::from_static(demand.as_bytes()),
            durability: Durability::Usual,
            hits: Hits::ONE,
            print: print(key.as_bytes()),
            terms: None,
        };
        let waiting = Waiting {
            asked,
            turn: Some(turn),
            deadline: Instant::now() + TIMEOUT,
            span: Span::none(),
        };
        (waiting, turns)
    }

    /// Keys share a place, and their requests do not share a call; nor is one sent that nobody waits for.
    #[test]
    fn those_that_ask_the_same_of_a_key_go_together_and_who_has_given_up_does_not() {
        let all = [
            ("a", "x"),
            ("b", "x"),
            ("a", "y"),
            ("a", "x"),
            ("b", "x"),
            ("c", "x"),
        ];
        let (waiting, mut turns): (Vec<_>, Vec<_>) = all
            .map(|(key, demand)| waiting(key, demand))
            .into_iter()
            .unzip();
        turns.truncate(4);
        let groups = groups(waiting, Instant::now());
        let told = |group: &Vec<Waiting>| {
            let keys = group
                .iter()
                .map(|one| (one.asked.key.clone(), one.asked.demand.clone()));
            keys.collect::<Vec<_>>()
        };
        let told: Vec<_> = groups.iter().map(told).collect();
        let pair =
            |key: &'static str, demand: &'static str| (Bytes::from(key), Bytes::from(demand));
        assert_eq!(
            told,
            [
                vec![pair("a", "x"), pair("a", "x")],
                vec![pair("b", "x")],
                vec![pair("a", "y")]
            ]
        );
    }

    #[test]
    fn what_replicas_confirm_goes_by_itself() {
        let (usual, _usual) = waiting("a", "x");
        let (mut replicated, _replicated) = waiting("a", "x");
        replicated.asked.durability = Durability::Replicated;
        assert_eq!(groups(vec![usual, replicated], Instant::now()).len(), 2);
    }

    #[test]
    fn who_is_too_late_is_told_so_and_not_sent() {
        let (mut late, mut told) = waiting("a", "x");
        let (in_time, mut untold) = waiting("a", "x");
        late.deadline = in_time.deadline - TIMEOUT;
        let now = late.deadline;
        let groups = groups(vec![late, in_time], now);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        let told = told.try_recv().expect("it is told");
        assert!(matches!(told, Err(StoreError::Unreachable(_))), "{told:?}");
        assert!(untold.try_recv().is_err());
    }

    /// The answer does not come before the first has given up, and comes before the second does.
    #[tokio::test]
    async fn who_gives_up_before_the_answer_is_told_so_then() {
        let (first, told) = waiting("a", "x");
        let (mut second, mut untold) = waiting("a", "x");
        second.deadline += Duration::from_secs(60);
        let mut group = [first, second];
        let told = tell_in_time(&mut group, told).await.expect("it is told");
        assert!(matches!(told, Err(StoreError::Timeout)), "{told:?}");
        assert!(untold.try_recv().is_err());
        assert!(group[0].turn.is_none() && group[1].turn.is_some());
    }
}
