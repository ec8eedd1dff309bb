//! Which lines about an outage of a server the log has already: all caches of the process that use the server log it once.
//! `engine/breaker.rs` writes the lines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::util::few_names::few_names;
use crate::util::lock::lock;
use crate::util::random::random;

/// A cause that is seen again within this time is not logged again.
const SAME_FOR: Duration = Duration::from_secs(60);
/// How many causes are remembered. One that was forgotten is logged again.
const MAX_CAUSES: usize = 16;

/// The caches on one server, and the trouble that they have with it.
#[derive(Debug, Default)]
pub struct Outages(Mutex<OutagesState>);

#[derive(Debug, Default)]
struct OutagesState {
    /// The caches, each by a random number.
    caches: BTreeMap<u64, OutageMember>,
    in_trouble: BTreeSet<u64>,
    /// The causes that were logged since the trouble began, and when each was seen last.
    causes: Vec<(String, Instant)>,
    /// The trouble that is over, of the caches that had some in this outage.
    past: Trouble,
}

#[derive(Debug)]
struct OutageMember {
    namespace: String,
    subscribed: Subscribed,
}

/// Whether a cache receives changes, and whether the log has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subscribed {
    NotYet,
    Unsaid,
    Said,
}

/// How long requests failed, and how many.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Trouble {
    /// The time from the first failure to the last one.
    pub failing_for: Duration,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were not sent.
    pub skipped: u64,
}

/// Reports the trouble of one cache, until it is dropped.
#[derive(Debug)]
pub struct Reporter {
    outages: Arc<Outages>,
    number: u64,
}

impl Outages {
    /// Adds a cache.
    pub fn join(self: &Arc<Self>, namespace: &str) -> Reporter {
        let number = random();
        let member = OutageMember {
            namespace: namespace.to_owned(),
            subscribed: Subscribed::NotYet,
        };
        lock(&self.0).caches.insert(number, member);
        let outages = Arc::clone(self);
        Reporter { outages, number }
    }
}

impl Reporter {
    /// This cache is in trouble from now on.
    pub fn begin(&self) {
        let mut state = lock(&self.outages.0);
        debug_assert!(state.caches.contains_key(&self.number));
        state.in_trouble.insert(self.number);
    }

    /// This cache receives changes for the first time. If all caches of the server do now, returns the namespaces of
    /// those whose line in the log is missing, some of them if they are many.
    #[must_use]
    pub fn subscribed(&self) -> Option<String> {
        let mut state = lock(&self.outages.0);
        // Each partition of a cache comes here, and the log has the cache once.
        if let Some(member) = state.caches.get_mut(&self.number)
            && member.subscribed == Subscribed::NotYet
        {
            member.subscribed = Subscribed::Unsaid;
        }
        let mut all = state.caches.values();
        let waits = all.any(|member| member.subscribed == Subscribed::NotYet);
        if waits { None } else { state.say_subscribed() }
    }

    /// As [`subscribed`](Self::subscribed), without the caches of the server that do not receive changes yet.
    #[must_use]
    pub fn subscribed_without_others(&self) -> Option<String> {
        lock(&self.outages.0).say_subscribed()
    }

    /// Takes note of a cause. Returns the namespaces for its line in the log, some of them if they are many, or `None`
    /// if it was logged before. While there is trouble these are the namespaces of all caches of the server, otherwise
    /// the namespace of this cache.
    #[must_use]
    pub fn says(&self, cause: &str) -> Option<String> {
        // One step for all caches: of two that find the same cause at once, one logs it.
        let (mut state, now) = (lock(&self.outages.0), Instant::now());
        let is_it = |(known, _): &mut (String, Instant)| known == cause;
        let known = state.causes.extract_if(.., is_it).last();
        // A single failure is no outage: other caches of the server may be well, and the cause is not kept for later.
        if state.in_trouble.is_empty() {
            let this = state.caches.get(&self.number);
            return this.map(|member| member.namespace.clone());
        }
        // The text of a cause comes from the server, so there is no bound on how many there are.
        if state.causes.len() == MAX_CAUSES {
            state.causes.remove(0);
        }
        state.causes.push((cause.to_owned(), now));
        let is_same = known.is_some_and(|(_, seen)| now.duration_since(seen) < SAME_FOR);
        (!is_same).then(|| state.namespaces())
    }

    /// The trouble of this cache is over. If no other cache of the server is in trouble, returns the trouble of all
    /// caches, with their namespaces, or some of them if they are many.
    #[must_use]
    pub fn end(&self, trouble: Trouble) -> Option<(String, Trouble)> {
        let mut state = lock(&self.outages.0);
        let past = &mut state.past;
        past.failing_for = past.failing_for.max(trouble.failing_for);
        past.failed += trouble.failed;
        past.skipped += trouble.skipped;
        let all = state.leave_trouble(self.number)?;
        Some((state.namespaces(), all))
    }
}

impl OutagesState {
    fn namespaces(&self) -> String {
        few_names(self.caches.values().map(|member| &*member.namespace))
    }

    /// The namespaces of the caches that receive changes and are not in the log yet.
    fn say_subscribed(&mut self) -> Option<String> {
        let unsaid = |member: &&mut OutageMember| member.subscribed == Subscribed::Unsaid;
        let unsaid = self.caches.values_mut().filter(unsaid);
        let namespaces: Vec<&str> = unsaid
            .map(|member| {
                member.subscribed = Subscribed::Said;
                &*member.namespace
            })
            .collect();
        (!namespaces.is_empty()).then(|| few_names(namespaces))
    }

    /// The trouble of all if this cache is the last one that has any.
    fn leave_trouble(&mut self, number: u64) -> Option<Trouble> {
        if !self.in_trouble.remove(&number) || !self.in_trouble.is_empty() {
            return None;
        }
        self.causes.clear();
        Some(std::mem::take(&mut self.past))
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // A cache that is dropped in trouble must not keep the others from reporting the end.
        let mut state = lock(&self.outages.0);
        state.caches.remove(&self.number);
        let _ = state.leave_trouble(self.number);
    }
}
