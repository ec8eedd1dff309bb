//! What can go wrong in a world, and how often it did.

use std::collections::BTreeMap;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One kind of trouble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All kinds.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// Every packet of an instance takes long, often longer than it is waited for.
    SlowNetwork,
    /// Requests are held up and arrive all at once, in order, after their senders have timed out.
    Congestion,
    /// Answers are held up, while messages pass.
    AnswersHeldUp,
    /// Messages and answers to heartbeats are held up, while answers to requests pass.
    MessagesHeldUp,
    /// Requests vanish without an error.
    RequestsVanish,
    /// Requests are done, and their replies vanish.
    RepliesVanish,
    /// Both vanish.
    HalfOpen,
    /// The connection for requests is cut.
    Cut,
    /// Nothing comes over the subscriber's connection, and no error.
    SubscriberSilent,
    /// Nothing goes over it either way.
    SubscriberHalfOpen,
    /// The subscriber's connection is cut.
    SubscriberCut,
    /// Some messages are lost, while heartbeats come through.
    MessagesLost,
    /// Another program publishes messages of its own: with the number of the message that comes next, with a number far
    /// ahead, or of an epoch that there is not.
    MessagesMadeUp,
    /// The subscriber is not read from, and what does not fit its queue is dropped.
    SlowSubscriber,
    /// The instance's process stands still.
    Paused,
    /// It stands still for longer than its values may be believed.
    PausedLong,
    /// The instance reaches nothing.
    Unreachable,
    /// The instance is gone for good, and another takes its place.
    Death,
    /// The instance is shut down in good order, with calls under way, and another takes its place.
    Closed,
    /// The store restarts and has forgotten everything.
    StoreEmptied,
    /// The store restarts from an old snapshot.
    StoreRolledBack,
    /// The store's clock is stepped forward.
    ClockStepped,
    /// A replica of the store takes over. The old store becomes a replica of the new one and lags behind it; some
    /// connections for requests stay there.
    FailedOver,
    /// The same in a cluster, where the old store proves that the new one has all that it had; or that lacks the last
    /// writes, and there is no proof.
    HandedOver,
    /// Sentinels make a replica the primary, of which the old one knows nothing: it goes on answering those whose
    /// connections stay there. It takes no writes. In a cluster the old node is cut off from the others.
    Isolated,
    /// The same, but the old one goes on taking the writes of those whose connections stay there.
    SplitBrain,
    /// A cluster is cut in two, and the smaller side gets new primaries: each side has a majority then. An instance
    /// reaches one side.
    CutAndGrown,
    /// What the store held some time ago takes the place of what it holds, while it runs.
    PutBack,
    /// The store evicts what holds loads of a key off.
    HoldEvicted,
    /// The store's clock is stepped back.
    ClockSteppedBack,
    /// The store reads no requests, and goes on with them later.
    StorePaused,
    /// The store is away, and comes back with what it had.
    StoreAway,
    /// A slot of a cluster moves to another node, key by key.
    SlotMoved,
    /// An election of a cluster has no winner.
    NobodyElected,
    /// The store has no memory left, and evicts nothing.
    StoreFull,
    /// The store evicts a key, whichever it is.
    KeyEvicted,
    /// Somebody deletes all keys, of which nobody is told.
    Flushed,
    /// The store forgets all scripts.
    ScriptsForgotten,
    /// An instance clears the namespace.
    Cleared,
    /// A load takes longer than values may be believed.
    SlowLoad,
    /// A loader fails.
    FailedLoad,
    /// A loader panics.
    PanickedLoad,
    /// A loader never comes back.
    HungLoad,
    /// A look-up is cancelled.
    CancelledRead,
    /// An invalidation is cancelled.
    CancelledWrite,
    /// A loader's value must not be stored.
    NotStored,
    /// A key is loaded anew, whatever is there and whoever loads it.
    LoadedAnew,
    /// Seen: the store made a value stale, or ended its leases, on request.
    Expired,
    /// Seen: the store gave a value a new TTL on request.
    Touched,
    /// Seen: the store extended the lifetime of a value that was read.
    Extended,
    /// Several instances store a value at the same time, on the condition that one version is there.
    Competed,
    /// A client has the cache write to the source, and another one at the same time.
    WrittenThrough,
    /// An instance loads keys that nobody has looked up.
    Warmed,
    /// Seen: a write that waited has reached the source.
    Settled,
    /// Seen: a look-up with the token of another instance's write.
    Informed,
    /// Seen: a look-up got an older value, as the load had failed.
    FellBack,
    /// All keys with a prefix are invalidated.
    PrefixInvalidated,
    /// All values with a tag are invalidated.
    TagInvalidated,
    /// The store loses what it knows of a tag.
    TagVersionLost,
    /// Seen: a load was stored beside a value of another type.
    Beside,
    /// Seen: a load found the value unchanged that the store had.
    Revalidated,
    /// Seen: a request reached the store after its sender had stopped waiting.
    LateRequest,
    /// Seen: a lease was granted, and the grant was lost.
    GrantLost,
    /// Seen: a message overtook a reply that the store had given before it.
    Overtaken,
    /// Seen: a read that a lagging replica answered.
    ReplicaRead,
    /// Seen: a read that an old primary answered.
    IsolatedRead,
    /// Seen: the partitions of another number took the place of all former ones.
    PartitionsChanged,
    /// Seen: a wait for another's load took too long.
    WaitedTooLong,
}

/// How often each kind happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    pub(crate) fn bump(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    pub(crate) fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (fault, n) in &other.0 {
            *self.0.entry(*fault).or_default() += n;
        }
    }
}
