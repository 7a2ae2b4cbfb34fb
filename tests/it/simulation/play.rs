//! Playing a story in a world, and looking after each step whether everything still holds.

use std::collections::HashMap;

use futures::FutureExt;
use tollgate::engine::{Answer, Code};
use tollgate::limit::Verdict;
use tollgate::limit::transaction::Amount;
use tollgate::rules::FailureMode;
use tollgate::store::faulty::Fault;

use super::ask::{Ask, Reading, Standing};
use super::checks::{self, Broken, Holds, ensure};
use super::ledger::Place;
use super::naive::Foreseen;
use super::rules::Spec;
use super::shared::{Copy, Shared};
use super::steps::{INSTANCES, Scope, Step, Story};
use super::world::{Kept, World};

/// Every how many refusals it is tried whether the wait that was told is right.
const TRY_WAITS: usize = 3;

/// After so long, 40 years, everything is as good as fresh: the slowest bucket is filled once in 7 months, and owes 30 hits.
const IDLE: i64 = 40 * 365 * 86_400_000_000;

/// A story as it is played.
pub(super) struct Play<'t> {
    world: World,
    scope: Scope,
    refusals: usize,
    /// What has happened, in words.
    trace: &'t mut Vec<String>,
}

impl<'t> Play<'t> {
    /// Plays all of a story, and tells in `trace` what has happened; the error says which check failed.
    pub(super) async fn run(
        seed: u64,
        scope: Scope,
        shared: Shared,
        trace: &'t mut Vec<String>,
    ) -> Holds {
        let story = Story::new(seed, scope);
        let world = World::new(story.versions, story.start, seed, shared).await;
        let mut play = Self {
            world,
            scope,
            refusals: 0,
            trace,
        };
        play.say(|world| format!("rules\n{}", world.versions[0].yaml()));
        for step in story.steps {
            Box::pin(play.step(step)).await?;
        }
        play.finish().await?;
        play.world.end().await;
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Holds {
        match step {
            Step::Ask {
                instance,
                ask,
                fault,
            } => self.ask(instance, &ask, fault).await,
            Step::Rehearse { instance, ask } => self.rehearse(instance, &ask).await,
            Step::Held {
                instance,
                ask,
                during,
            } => self.hold(instance, ask, during).await,
            Step::Pass(micros) => self.pass(micros).await,
            Step::Reload { version, instances } => self.reload(version, instances).await,
            Step::Stand {
                instance,
                user,
                standing,
            } => self.stand(instance, user, standing).await,
            Step::Cut { instance, fault } => {
                self.say(|_| format!("instance {instance} is cut off: {fault:?}"));
                self.set_fault(instance, Some(fault));
                Ok(())
            }
            Step::Mend { instance } => {
                self.say(|_| format!("instance {instance} reaches the store"));
                self.set_fault(instance, None);
                let instance = &mut self.world.instances[instance];
                instance.catch_up().await;
                for user in instance.missed.drain(..) {
                    instance.known.remove(&user);
                }
                Ok(())
            }
            Step::Keep => {
                self.keep().await;
                Ok(())
            }
            Step::Failover { jump } => self.fail_over(jump).await,
            Step::Sweep => {
                self.say(|_| "expired keys are removed".to_owned());
                self.world.shared.sweep();
                self.learn_forgotten()
            }
        }
    }

    fn say(&mut self, what: impl FnOnce(&World) -> String) {
        let now = self.world.now;
        let secs = now.div_euclid(1_000_000) % 1_000_000;
        let micros = now.rem_euclid(1_000_000);
        let line = format!("{secs}.{micros:06} {}", what(&self.world));
        self.trace.push(line);
    }

    fn say_answer(&mut self, answer: &Answer<'_>) {
        let wait = checks::told_to_wait(answer);
        let said = format!(": {:?}, {:?}, wait {wait:?}", answer.overall, answer.reason);
        if let Some(line) = self.trace.last_mut() {
            line.push_str(&said);
        }
    }

    fn set_fault(&mut self, instance: usize, fault: Option<Fault>) {
        let instance = &mut self.world.instances[instance];
        instance.cut = fault;
        instance.link.order(fault);
    }

    async fn ask(&mut self, instance: usize, ask: &Ask, fault: Option<Fault>) -> Holds {
        let cut = self.world.instances[instance].cut;
        let fault = fault.or(cut);
        self.set_fault(instance, fault);
        let before = self.world.used().await;
        let untouched = match ask.only_peeks() {
            true => self.copy().await,
            false => None,
        };
        let reading = self.world.read(instance, ask);
        let undo = match fault {
            None if self.refusals.is_multiple_of(TRY_WAITS) => self.copy().await,
            _ => None,
        };
        self.say(|_| {
            let fault = fault.map_or(String::new(), |fault| format!(" ({fault:?})"));
            format!("{instance} is asked for {ask}{fault}")
        });
        let tallied = self.world.instances[instance].tallies().await;
        let answer = self.world.instances[instance].ask(ask).await;
        let tallies = self.world.instances[instance].tallies().await;
        self.set_fault(instance, cut);
        self.say_answer(&answer);
        let now = self.world.now;
        let foreseen = self.decide(instance, &reading, now, fault, &answer)?;
        let counted = [0, 1, 2].map(|which| tallies[which] - tallied[which]);
        ensure(counted == foreseen.tallies, "candidates", || {
            let wanted = foreseen.tallies;
            format!("{counted:?} are counted, {wanted:?} are wanted: requests, refused, admitted")
        })?;
        let reached = matches!(fault, None | Some(Fault::LostAnswer));
        self.check_sums(&reading, now, fault, &foreseen, &before)
            .await?;
        if let Some(untouched) = untouched {
            let now = self.copy().await;
            ensure(now.as_ref() == Some(&untouched), "peek", || {
                format!("{ask:?} has written something")
            })?;
        }
        if reached && answer.overall == Code::OverLimit && fault.is_none() {
            self.refusals += 1;
            if let Some(undo) = undo
                && checks::wait_is_exact(ask, &reading, &foreseen)
            {
                self.try_wait(instance, ask, &reading, &answer, &undo)
                    .await?;
            }
        }
        self.learn_forgotten()
    }

    /// Foresees a request, and compares the answer with that.
    fn decide(
        &mut self,
        instance: usize,
        reading: &Reading,
        now: i64,
        fault: Option<Fault>,
        answer: &Answer<'_>,
    ) -> Result<Foreseen, Broken> {
        let naive = &mut self.world.naive;
        if fault == Some(Fault::LostAnswer) {
            let done = naive.by_store(reading, now);
            self.book(Place::Store, reading, now, &done);
        }
        let foreseen = match fault {
            None => self.world.naive.by_store(reading, now),
            Some(_) => self.world.naive.alone(instance, reading, now),
        };
        let place = match fault {
            None => Place::Store,
            Some(_) => Place::Local(instance),
        };
        if place == Place::Store || !self.world.local_is_hazy {
            checks::answer_is_as_recounted(reading, &foreseen, answer)?;
        }
        let made = checks::made(reading, &foreseen, answer);
        self.book(place, reading, now, &made);
        Ok(made)
    }

    /// Remembers what a decision has let through, or would have.
    fn book(&mut self, place: Place, reading: &Reading, now: i64, made: &Foreseen) {
        let version = self.world.latest;
        let ledger = &mut self.world.ledger;
        for (item, judged) in reading.items.iter().zip(&made.items) {
            let Some((item, judged)) = item.as_ref().zip(judged.as_ref()) else {
                continue;
            };
            let key = reading.keys[item.key].as_str();
            let bans = item.ban.is_some() && !made.admitted;
            let charged = made.admitted && judged.fits;
            let always = item.terms.iter().any(|term| term.spec.always);
            let always = always || judged.tried;
            if matches!(item.amount, Amount::Peek(_)) || !(charged || bans || always) {
                continue;
            }
            ledger.write(place, key, now);
            self.world.charged_under.insert(key.to_owned(), version);
            if !charged {
                continue;
            }
            for term in &item.terms {
                let spec = match place {
                    Place::Store => term.spec.clone(),
                    Place::Local(_) if term.mode == FailureMode::Local => {
                        term.spec.share(INSTANCES as u32)
                    }
                    Place::Local(_) => continue,
                };
                match item.amount {
                    Amount::Charge(hits) => {
                        ledger.add(place, key, now, &spec, hits.thousandths() as i64);
                    }
                    Amount::Refund(hits) => {
                        ledger.add(place, key, now, &spec, -(hits.thousandths() as i64));
                    }
                    Amount::Peek(_) => {}
                }
            }
        }
    }

    /// What the store has counted is what was asked of it.
    async fn check_sums(
        &mut self,
        reading: &Reading,
        now: i64,
        fault: Option<Fault>,
        foreseen: &Foreseen,
        before: &[super::world::Used],
    ) -> Holds {
        let after = self.world.used().await;
        match fault {
            // While it was held, windows may have ended and buckets filled.
            None if now != self.world.now => {}
            None => checks::sums_are_all_or_nothing(reading, foreseen, before, &after)?,
            // What was made of it is compared with the recount below.
            Some(Fault::LostAnswer) => {}
            Some(Fault::Unreachable | Fault::LostCall) => {
                checks::is_unchanged("sums", before, &after)?;
            }
        }
        self.recount(|key| reading.keys.contains(key)).await
    }

    /// What the store says is used is what a recount says.
    async fn recount(&mut self, wanted: impl Fn(&tollgate::store::Key) -> bool) -> Holds {
        let look = self.world.look(wanted);
        let found = self.world.peek(&look).await;
        let wanted = self.world.foresee(&look);
        ensure(found == wanted, "recount", || {
            let limits = look.keys.iter().zip(&look.specs);
            let limits = limits.flat_map(|(key, specs)| specs.iter().map(move |spec| (key, spec)));
            let said = wanted.readings.iter().zip(&found.readings);
            let differing = limits
                .zip(said)
                .find(|(_, (wanted, found))| wanted != found);
            format!("{differing:#?}")
        })
    }

    /// Comes again when it was told to, and a moment too early.
    async fn try_wait(
        &mut self,
        instance: usize,
        ask: &Ask,
        reading: &Reading,
        answer: &Answer<'_>,
        undo: &Copy,
    ) -> Holds {
        let Some(wait) = checks::told_to_wait(answer) else {
            return Ok(());
        };
        let now = self.world.now;
        // A key that has seen a later time waits for that to come again.
        let late = |key: &tollgate::store::Key| {
            let seen = self.world.naive.store.seen(key.as_str());
            seen.is_some_and(|seen| seen > now)
        };
        let grants = self.world.instances[instance].known.values().flatten();
        let mut ends = grants
            .filter_map(|known| known.grant.as_ref())
            .map(|grant| grant.2);
        let at = now + wait * 1_000_000;
        if reading.keys.iter().any(late) || ends.any(|end| now < end && end <= at) {
            return Ok(());
        }
        let after = self.copy().await;
        for (at, passes) in [(at - 1_000_000, false), (at, true)] {
            self.world
                .clock
                .set(tollgate::time::Timestamp::from_micros(at));
            let again = self.world.instances[instance].ask(ask).await;
            self.world.shared.go_back(undo).await;
            ensure((again.overall == Code::Ok) == passes, "wait", || {
                let early = at - now - wait * 1_000_000;
                format!("told to wait {wait} s, it comes {early} us after that: {again:?}")
            })?;
        }
        self.world.set(now);
        if let Some(after) = after {
            self.world.shared.go_back(&after).await;
        }
        Ok(())
    }

    async fn rehearse(&mut self, instance: usize, ask: &Ask) -> Holds {
        self.say(|_| format!("{instance} is asked what it would say to {ask}"));
        let before = self.copy().await;
        let used = self.world.used().await;
        self.world.read(instance, ask);
        let request = ask.request();
        let engine = &self.world.instances[instance].engine;
        engine.rehearse(&request).await.expect("an answer");
        ensure(before == self.copy().await, "peek", || {
            format!("{ask:?} has written something")
        })?;
        checks::is_unchanged("peek", &used, &self.world.used().await)
    }

    /// A call is on its way while other things happen. It is decided by the rules that held when it began.
    async fn hold(&mut self, instance: usize, ask: Ask, during: Vec<Step>) -> Holds {
        let at = &self.world.instances[instance];
        let known = |user: &str| at.known.contains_key(user);
        let users = ask.parts.iter().filter_map(|part| part.user());
        if at.cut.is_some() || !users.into_iter().all(known) {
            return Ok(());
        }
        let reading = self.world.read(instance, &ask);
        let began = self.world.now;
        let at = &self.world.instances[instance];
        let (engine, link) = (
            std::sync::Arc::clone(&at.engine),
            std::sync::Arc::clone(&at.link),
        );
        self.say(|_| format!("{instance} is asked for {ask}, and held"));
        link.hold(true);
        let request = ask.request();
        let begun = std::time::Instant::now();
        let mut answer = Box::pin(engine.check(&request, begun, None, |answer| answer.owned()));
        let first = (&mut answer).now_or_never();
        for step in during {
            Box::pin(self.step(step)).await?;
        }
        let before = self.world.used().await;
        link.hold(false);
        let answer = match first {
            Some(answer) => answer,
            None => answer.await,
        };
        let answer = answer.expect("an answer");
        self.say(|_| format!("{instance} goes on"));
        self.say_answer(&answer);
        let foreseen = self.decide(instance, &reading, began, None, &answer)?;
        self.check_sums(&reading, began, None, &foreseen, &before)
            .await?;
        self.learn_forgotten()
    }

    async fn pass(&mut self, micros: i64) -> Holds {
        let began = self.world.now;
        let before = match micros < 0 {
            true => Some(self.world.used().await),
            false => None,
        };
        self.world.set(began + micros);
        self.say(|_| format!("{micros} us pass"));
        let Some(before) = before else {
            return Ok(());
        };
        self.went_back();
        let look = self.world.look_at_all();
        let after = self.world.used().await;
        let sooner = before.iter().zip(&after).find(|(b, a)| a.hits < b.hits);
        let same = before.iter().zip(&after).all(|(b, a)| b.spec == a.spec);
        ensure(sooner.is_none() || !same, "clock", || {
            format!("going back has made room: {sooner:?}")
        })?;
        // Nor do those who write meanwhile.
        let Some(undo) = self.copy().await else {
            return Ok(());
        };
        self.world.touch(&look).await;
        self.world.set(began);
        let again = self.world.used().await;
        self.world.shared.go_back(&undo).await;
        self.world.set(began + micros);
        let same = before.iter().zip(&again).all(|(b, a)| b.spec == a.spec);
        if same {
            checks::is_unchanged("clock", &before, &again)?;
        }
        Ok(())
    }

    /// What instances remember alone, or what was forgotten as fresh, may have been of use.
    fn went_back(&mut self) {
        self.world.local_is_hazy = true;
        self.world.ledger.allow_for_local();
        self.world.ledger.go_back(self.world.now);
    }

    async fn reload(&mut self, version: usize, instances: Vec<usize>) -> Holds {
        self.say(|world| {
            let yaml = world.versions[version].yaml();
            format!("{instances:?} load version {version}\n{yaml}")
        });
        let before = self.world.used().await;
        self.world.load(version, instances);
        let after = self.world.used().await;
        let after: HashMap<(&str, String), (&Spec, u64)> = after
            .iter()
            .map(|used| {
                (
                    (used.key.as_str(), used.spec.name()),
                    (&used.spec, used.hits),
                )
            })
            .collect();
        for used in &before {
            let stays = after.get(&(used.key.as_str(), used.spec.name()));
            let Some((spec, hits)) = stays else { continue };
            let is_bucket = matches!(
                spec.algorithm,
                tollgate::limit::Algorithm::TokenBucket { .. }
            );
            // A lowered bucket has less debt, and what flows in towards the next thousandth differs.
            let fine = used.hits == *hits || (is_bucket && **spec != used.spec);
            ensure(fine, "reload", || {
                let (name, key) = (used.spec.name(), used.key.as_str());
                format!("{name} of {key}: {} before, {hits} after", used.hits)
            })?;
        }
        self.recount(|_| true).await
    }

    async fn stand(&mut self, instance: usize, user: &str, mut standing: Standing) -> Holds {
        if !self.world.instances[instance].link_works() {
            return Ok(());
        }
        if let Some((_, _, until)) = &mut standing.grant {
            *until += self.world.now;
        }
        self.say(|_| format!("{user} is now {standing:?}"));
        self.world.instances[instance].stand(user, &standing).await;
        self.world.standings.insert(user.to_owned(), standing);
        self.world.changes += 1;
        for instance in &mut self.world.instances {
            if instance.link_works() {
                instance.catch_up().await;
                instance.known.remove(user);
            } else {
                instance.missed.push(user.to_owned());
            }
        }
        Ok(())
    }

    async fn copy(&self) -> Option<Copy> {
        if !self.scope.copies {
            return None;
        }
        self.world.shared.copy(&self.world.keys()).await
    }

    async fn keep(&mut self) {
        let Some(copy) = self.copy().await else {
            return;
        };
        self.say(|_| "the replica is up to date".to_owned());
        self.world.kept = Some(Kept {
            copy,
            naive: self.world.naive.clone(),
            mark: self.world.ledger.mark(),
            charged_under: self.world.charged_under.clone(),
        });
    }

    async fn fail_over(&mut self, jump: i64) -> Holds {
        let Some(kept) = self.world.kept.take() else {
            return Ok(());
        };
        self.say(|_| format!("the replica takes over, its clock {jump} us apart"));
        self.world.shared.go_back(&kept.copy).await;
        self.world.naive.store = kept.naive.store;
        self.world.ledger.lose(&kept.mark);
        self.world.charged_under = kept.charged_under;
        if jump < 0 {
            self.world.set(self.world.now + jump);
            self.went_back();
        }
        self.recount(|_| true).await
    }

    /// What the store has forgotten was as good as fresh under the rules that it was charged under.
    fn learn_forgotten(&mut self) -> Holds {
        let remembered: Vec<String> = self.world.charged_under.keys().cloned().collect();
        for text in remembered {
            let key = tollgate::store::Key::parse(&text).expect("a key");
            if self.world.shared.knows(&key) {
                continue;
            }
            let same_rules = self.world.charged_under.remove(&text) == Some(self.world.latest);
            let look = self.world.look(|other| *other == key);
            let said = self.world.foresee(&look);
            let fresh = said.readings.iter().all(|said| {
                said.used == tollgate::limit::Hits::ZERO && said.verdict == Verdict::Allowed
            });
            let known = text.contains("user=");
            ensure(fresh || !same_rules || known, "forgotten", || {
                format!("{text} was forgotten: {said:?}")
            })?;
            self.world.naive.store.forget(&text);
            self.world.ledger.forget(&text, self.world.now);
        }
        Ok(())
    }

    /// Nobody asks for a long time; and then no interval was over its limit.
    async fn finish(&mut self) -> Holds {
        self.recount(|_| true).await?;
        let over = self.world.ledger.check();
        ensure(over.is_ok(), "bound", || over.err().unwrap_or_default())?;
        self.world.set(self.world.latest_now + IDLE);
        self.say(|_| "nobody asks for a long time".to_owned());
        let used = self.world.used().await;
        let left = used.iter().find(|used| used.hits > 0);
        ensure(left.is_none(), "fresh", || format!("{left:?}"))
    }
}
