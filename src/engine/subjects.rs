//! What the directory has a say in: the plan of a subject, the lists, and the bans that limits have begun.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use smallvec::SmallVec;

use super::charges::{Charges, Found};
use super::fold::{Apart, Ruling, Spoken};
use super::{Call, Engine, Rejection, Request, key, turn};
use crate::directory::{Item, List, Listed, Standing};
use crate::limit::{Hits, Verdict};
use crate::rules::{Descriptor, Domain, Entry, PlanChoice, PlanSource};
use crate::store::Key;

/// The most bans that are made known at once; those beyond it are with a later request.
const MAX_NOTING: usize = 64;

impl Engine {
    /// Adds to `found`, where it stays, what limits each descriptor. The store is asked for standings that this instance does not know,
    /// until the call is answered; while it does not answer, the last that was known counts, or the rule's default.
    pub(super) async fn find<'r>(
        &self,
        domain: &'r Domain,
        request: &Request<'_>,
        call: &Call<'_>,
        found: &mut SmallVec<[Found<'r>; 2]>,
    ) -> Result<(), Rejection> {
        let descriptors = &request.descriptors;
        if descriptors.len() > 1 {
            found.reserve(descriptors.len());
        }
        let waits = self.waits_for_rules(domain, call);
        if waits {
            turn::fetch_nodes(domain, request).await;
        }
        for (place, descriptor) in descriptors.iter().enumerate() {
            found.push(Found::of(domain, descriptor, place)?);
        }
        if waits {
            turn::fetch_rules(found).await;
        }
        let mut answers = true;
        for (place, (found, descriptor)) in found.iter_mut().zip(descriptors).enumerate() {
            let choice = found.rule.and_then(|rule| rule.plan.as_deref());
            let (Some(choice), Some(subject)) = (choice, descriptor.entries.last()) else {
                continue;
            };
            let standing = match call.standings {
                Some(given) => given.get(place).cloned().flatten(),
                None => {
                    let key = key::standing(&self.settings.key_prefix, domain, *subject);
                    match self.directory.cached(&key) {
                        Some(standing) => standing,
                        // Rarely, so all others have no room for it.
                        None => Box::pin(self.ask(&key, call.answers_by, &mut answers)).await,
                    }
                }
            };
            self.settle(domain, descriptor, choice, standing.as_deref(), found);
            found.standing = standing;
        }
        Ok(())
    }

    /// Asks the store for a standing, unless it has not answered already.
    async fn ask(
        &self,
        key: &Key,
        answers_by: Instant,
        answers: &mut bool,
    ) -> Option<Arc<Standing>> {
        if *answers {
            let timeout = answers_by.saturating_duration_since(Instant::now());
            match self.directory.ask(&self.store, key, timeout).await {
                Ok(standing) => return standing,
                Err(error) => self.metrics.directory_error(error.kind()),
            }
            *answers = false;
        }
        self.directory.last_known(key)
    }

    /// Gives a descriptor the limits of its plan.
    fn settle<'r>(
        &self,
        domain: &'r Domain,
        descriptor: &Descriptor<'_>,
        choice: &'r PlanChoice,
        standing: Option<&Standing>,
        found: &mut Found<'r>,
    ) {
        let now = self.clock.now();
        let named = match choice.from {
            PlanSource::Entry(level) => descriptor.entries.get(level).map(|entry| entry.value),
            PlanSource::Directory => standing.and_then(|standing| standing.plan(now)),
        };
        let plan = named.and_then(|name| domain.plans.get_key_value(name));
        let plan = plan.or_else(|| domain.plans.get_key_value(&choice.default));
        found.plan = plan.map(|(name, plan)| (name.as_str(), plan));
        if let (Some((_, plan)), Some(standing)) = (found.plan, standing) {
            found.own = standing.limits(plan, now);
        }
    }

    /// Whether the request is decided without its limits: a list has a say, or it costs nothing. What only gives hits back is
    /// never in question.
    pub(super) fn apart(
        &self,
        domain: &Domain,
        request: &Request<'_>,
        cost: Hits,
    ) -> Option<Apart> {
        let descriptors = &request.descriptors;
        if descriptors
            .iter()
            .all(|descriptor| descriptor.is_negative_hits)
        {
            return None;
        }
        if let Some(listed) = self.listed(domain, descriptors) {
            return Some(Apart::Listed(listed));
        }
        (cost == Hits::ZERO).then_some(Apart::Exempt)
    }

    fn listed(&self, domain: &Domain, descriptors: &[Descriptor<'_>]) -> Option<Listed> {
        let value = |entry: Entry<'_>| value(domain, entry);
        let now = || self.clock.now();
        self.directory
            .with_lists(|lists| lists.judge(domain, descriptors, now, value))?
    }

    /// Makes known who is banned, unless it is known.
    pub(super) fn note_bans(
        &self,
        domain: &Domain,
        request: &Request<'_>,
        charges: &Charges<'_>,
        ruling: &Ruling<'_>,
    ) {
        for spoken in ruling.spoken().filter(|spoken| !spoken.shadow) {
            let Some(item) = self.ban(domain, request, charges, spoken) else {
                continue;
            };
            if self.directory.knows(&item) {
                continue;
            }
            if self.noting.fetch_add(1, Ordering::Relaxed) >= MAX_NOTING {
                self.noting.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (directory, store) = (Arc::clone(&self.directory), Arc::clone(&self.store));
            let noting = Arc::clone(&self.noting);
            tokio::spawn(async move {
                directory.note_ban(&store, item).await;
                noting.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// The ban that a descriptor has met, as the list of bans has it.
    fn ban(
        &self,
        domain: &Domain,
        request: &Request<'_>,
        charges: &Charges<'_>,
        spoken: &Spoken<'_>,
    ) -> Option<Item> {
        let Verdict::Banned(wait) = spoken.decisive().verdict else {
            return None;
        };
        let subject = request.descriptors[spoken.descriptor].entries.last()?;
        let key = &charges.keys[charges.demands[spoken.demand].key];
        Some(Item {
            list: List::Ban,
            domain: domain.name.to_string(),
            key: subject.key.to_owned(),
            value: value(domain, *subject),
            network: false,
            until: Some((self.clock.now() + wait).as_micros()),
            note: spoken
                .rule
                .map(|rule| rule.name.to_string())
                .unwrap_or_default(),
            counter: Some(key.as_str().to_owned()),
        })
    }
}

/// The value of an entry as keys and lists have it: as it is, or hashed.
pub fn value(domain: &Domain, entry: Entry<'_>) -> String {
    let subject = key::subject(domain, entry);
    match subject.split_once('=') {
        Some((_, value)) => value.to_owned(),
        None => subject,
    }
}
