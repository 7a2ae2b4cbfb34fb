//! The calls that are made for those who wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::future::join_all;
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
use super::{Asking, Group, HEAT, Leading, Read, Runs, Turn, extend};
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
            let groups = {
                let mut place = self.link.hot.places[self.place].lock();
                if place.waiting == 0 {
                    let cooler = place.heat.saturating_sub(1);
                    place.heat = if came > 1 { HEAT } else { cooler };
                    // Whoever comes from now on is found when this is dropped.
                    self.is_sending = false;
                    return;
                }
                place.crowd = place.waiting;
                let groups = place.take();
                place.until = groups.iter().filter_map(Group::last_deadline).max();
                groups
            };
            if let Some(print) = self.alone.take() {
                // It counts among those that wait for its key, not among those that only meet it here.
                came = usize::from(groups.iter().any(|group| group.asked.print == print));
            }
            came += groups
                .iter()
                .map(|group| group.waiting.len())
                .sum::<usize>();
            let now = Instant::now();
            let sending = groups.into_iter().map(|mut group| {
                group.leave_out_late(now);
                send(&self.link, self.place, group)
            });
            join_all(sending).await;
        }
    }
}

impl Group {
    /// When the last of them gives up.
    fn last_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|one| one.deadline).max()
    }

    /// Leaves out who has given up, or should have by `now`: it is not charged.
    fn leave_out_late(&mut self, now: Instant) {
        self.waiting.retain_mut(|one| {
            if one.deadline <= now {
                one.tell(Err(no_time()));
            }
            !one.has_given_up()
        });
    }

    /// Waits for the answer, and tells those so meanwhile whose time is over.
    async fn tell_in_time<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        loop {
            let waiting = self.waiting.iter().filter(|one| one.turn.is_some());
            let Some(first) = waiting.map(|one| one.deadline).min() else {
                return answer.await;
            };
            if let Ok(answer) = timeout_at(first.into(), &mut answer).await {
                return answer;
            }
            let now = Instant::now();
            for late in self.waiting.iter_mut().filter(|one| one.deadline <= now) {
                late.tell(Err(StoreError::Timeout));
            }
        }
    }
}

/// Sends requests for one key that differ only in their hits, and tells each what it needs.
async fn send(link: &Arc<Link>, place: usize, mut group: Group) {
    let batch = take_leased(link, place, &mut group);
    let Some(deadline) = group.last_deadline() else {
        return;
    };
    let mut runs = Runs::new();
    for waiting in &group.waiting {
        extend(&mut runs, 1, waiting.hits);
    }
    let waiting = runs.clone();
    if let Some(terms) = &group.asked.terms {
        extend(&mut runs, batch, terms.hits());
    }
    let (home, key) = (group.asked.home, group.asked.key.clone());
    let call = Call {
        script: &script::DECIDE,
        keys: &[&key],
        body: &request::together(&group.asked.demand, &runs),
        durability: group.asked.durability,
    };
    let era = link.refusals.era();
    let begun = Instant::now();
    let mut traced = group.waiting.iter().map(|waiting| &waiting.span);
    let span = traced.find(|span| !span.is_none()).cloned();
    let answer = link.run(home, &call, Within { begun, deadline });
    let answer = answer.instrument(span.unwrap_or_else(Span::none));
    let answer = group.tell_in_time(answer).await;
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
    let Group {
        asked,
        waiting: group,
    } = group;
    if let Ok(Some((heard, record))) = &read {
        hold(link, place, asked, (*heard, record, era), (waiting, batch));
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
        extend(&mut before, 1, waiting.hits);
        // Who has given up meanwhile has been charged.
        waiting.tell(turn);
    }
}

/// Tells those their turn who were charged in advance. How many more to charge with the rest.
fn take_leased(link: &Link, place: usize, Group { asked, waiting }: &mut Group) -> u16 {
    let Some(terms) = &asked.terms else {
        return 0;
    };
    let (now, era) = (Instant::now(), link.refusals.era());
    let held = &mut link.hot.places[place].lock().held;
    waiting.retain_mut(|waiting| {
        let Some(read) = held.take(&asked.with(waiting.hits), era, now) else {
            return true;
        };
        link.hot.leased.fetch_add(1, Ordering::Relaxed);
        waiting.tell(Ok(Turn::Read(read)));
        false
    });
    match waiting.is_empty() {
        true => 0,
        false => held.begin(asked.print, terms, now),
    }
}

/// Holds what a call has charged beyond those who waited, and remembers what is left.
fn hold(
    link: &Arc<Link>,
    place: usize,
    asked: Asking,
    (heard, record, era): (Heard, &Arc<Record>, u64),
    (before, batch): (Runs, u16),
) {
    let (print, Some(terms)) = (asked.print, asked.terms) else {
        return;
    };
    let own = Record::clone(record);
    let (stock, room) = Stock::new(*terms, own, heard.at, &before, batch);
    let is_empty = stock.is_used_up();
    let id = link.hot.batches.fetch_add(1, Ordering::Relaxed);
    let lease = Lease {
        id,
        home: asked.home,
        print,
        key: asked.key,
        demand: asked.demand,
        durability: asked.durability,
        record: Arc::clone(record),
        heard,
        before,
        stock,
        era,
    };
    let mut place_held = link.hot.places[place].lock();
    place_held.held.note(print, room, heard.heard);
    if is_empty {
        // Unless another batch of the key is under way.
        if batch > 0 {
            place_held.held.has_arrived(print);
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

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::super::super::connected::Home;
    use super::super::{Coming, Place, Told, Waiting, print};
    use super::*;
    use crate::limit::{Durability, Hits};

    const TIMEOUT: Duration = Duration::from_millis(10);

    fn waiting(deadline: Instant) -> (Waiting, oneshot::Receiver<Told>) {
        let (turn, turns) = oneshot::channel();
        let waiting = Waiting {
            hits: Hits::ONE,
            turn: Some(turn),
            deadline,
            span: Span::none(),
        };
        (waiting, turns)
    }

    /// One that asks `demand` of `key`.
    fn join(
        place: &mut Place,
        (key, demand): (&str, &str),
        durability: Durability,
    ) -> oneshot::Receiver<Told> {
        let coming = Coming {
            home: Home::default(),
            key: key.as_bytes(),
            durability,
            hits: Hits::ONE,
            print: print(key.as_bytes()),
            terms: None,
        };
        let (waiting, turn) = waiting(Instant::now() + TIMEOUT);
        place.join(coming, demand.as_bytes(), waiting);
        turn
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
        let mut place = Place::default();
        let turns = all.map(|asked| join(&mut place, asked, Durability::Usual));
        assert_eq!(place.waiting, all.len());
        let [a, b, other, again, given_up, alone] = turns;
        drop((given_up, alone));
        let mut groups = place.take();
        assert_eq!((place.waiting, place.groups.len()), (0, 0));
        for group in &mut groups {
            group.leave_out_late(Instant::now());
        }
        let told = groups.iter().map(|group| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let Asking { key, demand, .. } = &group.asked;
            (text(key), text(demand), group.waiting.len())
        });
        let told: Vec<_> = told.collect();
        let told: Vec<_> = told.iter().map(|(k, d, n)| (&**k, &**d, *n)).collect();
        assert_eq!(
            told,
            [("a", "x", 2), ("b", "x", 1), ("a", "y", 1), ("c", "x", 0)]
        );
        drop((a, b, other, again));
    }

    #[test]
    fn what_replicas_confirm_goes_by_itself() {
        let mut place = Place::default();
        for durability in [Durability::Usual, Durability::Replicated] {
            join(&mut place, ("a", "x"), durability);
        }
        assert_eq!(place.groups.len(), 2);
    }

    fn group(waiting: Vec<Waiting>) -> Group {
        let mut place = Place::default();
        join(&mut place, ("a", "x"), Durability::Usual);
        let mut group = place.take().remove(0);
        group.waiting = waiting;
        group
    }

    #[test]
    fn who_is_too_late_is_told_so_and_not_sent() {
        let now = Instant::now();
        let (late, mut told) = waiting(now);
        let (in_time, mut untold) = waiting(now + TIMEOUT);
        let mut group = group(vec![late, in_time]);
        group.leave_out_late(now);
        assert_eq!(group.waiting.len(), 1);
        let told = told.try_recv().expect("it is told");
        assert!(matches!(told, Err(StoreError::Unreachable(_))), "{told:?}");
        assert!(untold.try_recv().is_err());
    }

    /// The answer does not come before the first has given up, and comes before the second does.
    #[tokio::test]
    async fn who_gives_up_before_the_answer_is_told_so_then() {
        let now = Instant::now();
        let (first, told) = waiting(now + TIMEOUT);
        let (second, mut untold) = waiting(now + Duration::from_secs(60));
        let mut group = group(vec![first, second]);
        let telling = timeout(Duration::from_secs(30), group.tell_in_time(told)).await;
        let told = telling.expect("in time").expect("it is told");
        assert!(matches!(told, Err(StoreError::Timeout)), "{told:?}");
        assert!(untold.try_recv().is_err());
        assert!(group.waiting[0].turn.is_none() && group.waiting[1].turn.is_some());
    }
}
