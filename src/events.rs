//! The events of an instance, and their listeners.

use std::mem;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::LoadError;
use crate::util::lock::lock;
use crate::vocabulary::Version;
use crate::wire::message::Kind;

/// How many events wait for a listener. After that it misses the oldest.
const MAX_QUEUED_EVENTS: usize = 1024;

/// Something that has happened in an instance of a cache, see [`Cache::events`](crate::Cache::events).
///
/// Keys, tags and prefixes are texts as Redis shows them after the namespace.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CacheEvent {
    /// A loader has returned values, also as a refresh or for [`Builder::verify`](crate::Builder::verify).
    #[non_exhaustive]
    Loaded {
        /// The keys that were loaded by one call.
        keys: Vec<String>,
        /// How long that took, with the wait for a permit of `max_concurrent_loads`.
        took: Duration,
    },
    /// A loader has failed, panicked or timed out.
    #[non_exhaustive]
    LoadFailed {
        /// The keys of the call.
        keys: Vec<String>,
        /// Why.
        error: LoadError,
    },
    /// A key has a new value in L2, by an insert, `write_through` or `refresh`.
    #[non_exhaustive]
    Inserted {
        /// The key.
        key: String,
        /// Whether this instance has inserted it.
        is_own: bool,
    },
    /// A key was invalidated or made stale, or another instance has given it a shorter lifetime by `touch`.
    #[non_exhaustive]
    Invalidated {
        /// The key.
        key: String,
        /// Whether this instance has invalidated it.
        is_own: bool,
        /// By which call. `None` if another instance or program did it, and its message does not say.
        by: Option<InvalidatedBy>,
    },
    /// All values with a tag were invalidated.
    #[non_exhaustive]
    TagInvalidated {
        /// The tag.
        tag: String,
        /// Whether this instance has done so.
        is_own: bool,
    },
    /// All keys that begin alike were invalidated.
    #[non_exhaustive]
    PrefixInvalidated {
        /// The text that they begin with.
        prefix: String,
        /// Whether this instance has done so.
        is_own: bool,
    },
    /// The cache was cleared.
    #[non_exhaustive]
    Cleared {
        /// Whether this instance has cleared it.
        is_own: bool,
    },
    /// L2 has not answered several requests: none are sent for now, but probes.
    BreakerOpened,
    /// L2 has answered a probe.
    BreakerClosed,
    /// A cached value differs from its source, see [`Builder::verify`](crate::Builder::verify).
    #[non_exhaustive]
    Mismatch {
        /// The key.
        key: String,
        /// The version that the cache has.
        version: Version,
        /// How old it is.
        age: Duration,
    },
    /// L1 had no room for an entry that it could serve. From [`Cache::l1_events`](crate::Cache::l1_events) alone.
    #[non_exhaustive]
    Evicted {
        /// The key.
        key: String,
    },
    /// L1 has removed an entry after its TTL. From [`Cache::l1_events`](crate::Cache::l1_events) alone.
    #[non_exhaustive]
    Expired {
        /// The key.
        key: String,
    },
    /// The listener was too slow, and has missed this number of events.
    Missed(u64),
}

/// The call that has invalidated a key, see [`CacheEvent::Invalidated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidatedBy {
    /// [`Cache::invalidate`](crate::Cache::invalidate) or another call that removes the value.
    Invalidate,
    /// [`Cache::invalidate_and_wait`](crate::Cache::invalidate_and_wait).
    InvalidateAndWait,
    /// [`Cache::expire`](crate::Cache::expire): the value is stale.
    Expire,
}

/// Hands events to listeners. No event is made while there was no listener yet.
///
/// The sender is made for the first listener, as it takes memory for all that may wait.
#[derive(Debug, Default)]
pub(crate) struct Events(OnceLock<EventChannel>);

#[derive(Debug)]
struct EventChannel {
    sender: broadcast::Sender<WaitingEvents>,
    dropped: Dropped,
}

/// Events that nobody waits for any more. The channel drops them under locks of its own, and the error of a loader may
/// do anything when it is dropped.
type Dropped = Arc<Mutex<Vec<CacheEvent>>>;

/// An event in the channel.
#[derive(Clone, Debug)]
struct WaitingEvents {
    event: Option<CacheEvent>,
    dropped: Dropped,
}

impl Drop for WaitingEvents {
    fn drop(&mut self) {
        // Of the others only the memory is given back.
        if let Some(event @ CacheEvent::LoadFailed { .. }) = self.event.take() {
            lock(&self.dropped).push(event);
        }
    }
}

impl CacheEvent {
    /// A change of this key, tag or prefix. `by` is for a key that was invalidated.
    pub(crate) fn of_change(
        kind: Kind,
        name: &str,
        is_own: bool,
        by: Option<InvalidatedBy>,
    ) -> Self {
        let key = name.to_owned();
        match kind {
            Kind::Insert => Self::Inserted { key, is_own },
            Kind::Tags => Self::TagInvalidated { tag: key, is_own },
            Kind::Prefix => Self::PrefixInvalidated {
                prefix: key,
                is_own,
            },
            Kind::Clear => Self::Cleared { is_own },
            // The caller of `invalidate_and_wait` alone has its message sent so.
            Kind::InvalidateAwaited => {
                let by = Some(InvalidatedBy::InvalidateAndWait);
                Self::Invalidated { key, is_own, by }
            }
            Kind::Invalidate | Kind::Unknown(_) => Self::Invalidated { key, is_own, by },
        }
    }
}

impl Events {
    pub(crate) fn emit<E: Into<Option<CacheEvent>>>(&self, event: impl FnOnce() -> E) {
        if let Some(EventChannel { sender, dropped }) = self.0.get()
            && let Some(event) = event().into()
        {
            // There may be no listener any more.
            let _ = sender.send(WaitingEvents {
                event: Some(event),
                dropped: Arc::clone(dropped),
            });
            drop_all(dropped);
        }
    }

    /// The events from now on. Ends with the instance.
    pub(crate) fn stream(&self) -> BoxStream<'static, CacheEvent> {
        let channel = self.0.get_or_init(|| EventChannel {
            sender: broadcast::Sender::new(MAX_QUEUED_EVENTS),
            dropped: Dropped::default(),
        });
        let next =
            async |(mut receiver, dropped): (broadcast::Receiver<WaitingEvents>, Dropped)| {
                let received = receiver.recv().await;
                drop_all(&dropped);
                let event = match received {
                    Ok(mut waiting) => waiting.event.take()?,
                    Err(RecvError::Lagged(missed)) => CacheEvent::Missed(missed),
                    Err(RecvError::Closed) => return None,
                };
                Some((event, (receiver, dropped)))
            };
        let receiver = channel.sender.subscribe();
        unfold((receiver, Arc::clone(&channel.dropped)), next).boxed()
    }
}

fn drop_all(dropped: &Dropped) {
    let all = mem::take(&mut *lock(dropped));
    drop(all);
}
