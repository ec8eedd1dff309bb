//! The names that products have had: whether a page is older than a change that its reader could know of.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::service::watch::held;

/// How old one cache may be: the bound of the crate, `max_staleness`.
pub(crate) const BOUND: Duration = Duration::from_secs(2);

/// The numbers in the names of products, which rise with each change.
#[derive(Default)]
pub(crate) struct Seen(Mutex<State>);

#[derive(Default)]
struct State {
    products: HashMap<u64, Changes>,
    away: Away,
}

/// The changes of a product.
#[derive(Default)]
struct Changes {
    issued: u64,
    /// A change has not ended, or nobody knows whether it has: it may still be carried out, over a later one.
    is_open: bool,
    known: Vec<Change>,
}

/// A change that was acknowledged.
#[derive(Clone, Copy)]
struct Change {
    number: u64,
    at: Instant,
    /// From when on no page may be older.
    counts: Instant,
}

/// Since when Redis accepts nothing, and whether it has come back with what it had.
#[derive(Default)]
struct Away {
    since: Option<Instant>,
    resumed: Option<Instant>,
}

impl Seen {
    /// The number for a change of a product; `None` while another one is open.
    pub(crate) fn begin(&self, id: u64) -> Option<u64> {
        let state = &mut held(&self.0);
        let changes = state.products.entry(id).or_default();
        if changes.is_open {
            return None;
        }
        changes.is_open = true;
        changes.issued += 1;
        Some(changes.issued)
    }

    /// A change has been acknowledged. The product was gone from every instance by then, so a page may be old for the
    /// bound of the pages; but while Redis is away nobody waits, so the bounds of both caches add up.
    pub(crate) fn changed(&self, id: u64, number: u64) {
        let (at, state) = (Instant::now(), &mut *held(&self.0));
        let is_away = state.away.since.is_some();
        let counts = at + if is_away { 2 * BOUND } else { BOUND };
        let changes = state.products.entry(id).or_default();
        changes.is_open = false;
        changes.known.push(Change { number, at, counts });
    }

    /// The newest number that a page may not be older than, if it shows an older one and was asked for then.
    pub(crate) fn missed(&self, id: u64, name: &str, asked: Instant) -> Option<u64> {
        let shown = name
            .rsplit_once('#')
            .and_then(|(_, number)| number.parse().ok());
        let state = held(&self.0);
        // The time between the return of Redis and the delivery of what was deferred meanwhile.
        let is_late = |change: &&Change| {
            let Away { since, resumed } = state.away;
            since.is_some_and(|since| since <= change.at) && resumed.is_some_and(|at| at <= asked)
        };
        let known = state.products.get(&id)?.known.iter();
        let known = known.filter(|change| change.counts < asked && !is_late(change));
        let newest = known.map(|change| change.number).max();
        newest.filter(|newest| Some(*newest) > shown)
    }

    /// Redis stops to accept anything.
    pub(crate) fn redis_goes(&self) {
        held(&self.0).away.since = Some(Instant::now());
    }

    /// It answers again, with what it had: copies of that are used until what was deferred is delivered. (After a start
    /// without data no copy is used.)
    pub(crate) fn redis_resumes(&self) {
        held(&self.0).away.resumed = Some(Instant::now());
    }

    /// All is delivered, and no change is under way any more.
    pub(crate) fn settled(&self) {
        let (now, state) = (Instant::now(), &mut *held(&self.0));
        let away = std::mem::take(&mut state.away);
        for changes in state.products.values_mut() {
            changes.is_open = false;
            let late = changes.known.iter_mut();
            for change in late.filter(|change| away.since.is_some_and(|since| since <= change.at)) {
                if away.resumed.is_some() {
                    change.counts = change.counts.max(now + BOUND);
                }
            }
            // Of the older ones the newest says it all.
            let last = changes.known.iter().rposition(|change| change.counts < now);
            changes.known.drain(..last.unwrap_or(0));
        }
    }

    /// The products that were changed since, and from when on all these changes count.
    pub(crate) fn changed_since(&self, since: Instant) -> (Vec<u64>, Instant) {
        let state = held(&self.0);
        let (mut products, mut counts) = (Vec::new(), since);
        for (id, changes) in &state.products {
            let last = changes.known.last().filter(|change| change.at >= since);
            if let Some(last) = last {
                products.push(*id);
                counts = counts.max(last.counts);
            }
        }
        (products, counts)
    }
}
