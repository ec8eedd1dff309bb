//! Switches that turn one rule of the protocol off, to show what it is for.
//!
//! They exist only in builds with `--cfg larder_ablation`, where a test turns off one rule after the other
//! and sees which promise breaks. In all other builds the compiler removes the switches.

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// A rule of the protocol, or a part of one, that can be turned off. Each says what takes its place then.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(
            not(larder_ablation),
            expect(dead_code, unreachable_pub, reason = "nothing is turned off here")
        )]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        #[cfg(larder_ablation)]
        impl Rule {
            /// All of them, in the order of the protocol.
            pub const ALL: &[Self] = &[$(Self::$rule),*];
        }
    };
}

rules! {
    /// 3: a value that was read is stored in L1, whatever messages of its key came meanwhile.
    Floors,
    /// 4: a caller that comes after an invalidation joins the load that began before it.
    Detach,
    /// 5: a caller of an instance without a proof joins loads of any age.
    NoUnprovenJoins,
    /// 5: a caller without a proof joins reads and loads that rely on a former one.
    NoProvenFlights,
    /// 6: a refresh loads and stores without a lease.
    RefreshLease,
    /// 7: an instance that subscribes again goes on with what it holds.
    CatchUp,
    /// 8: L1 is used for as long as the connection gives no error.
    Heartbeat,
    /// 8: a look-up finds an entry first, and looks at the proof last.
    ProofFirst,
    /// 9: a heartbeat that names a message that was not received is taken for a proof all the same.
    LostMessages,
    /// 10: a message that a full queue has dropped leaves no hole in the numbers.
    Overflow,
    /// 11: the instance that writes drops its own copy first, and ignores its own messages and replies.
    OwnMessages,
    /// 11: a value of another epoch counts like any other.
    Epochs,
    /// 12: the load runs in the future of the caller that came first.
    OwnTask,
    /// 13: requests go on over connections that lead to another incarnation of the store.
    ConnectionIncarnation,
    /// 14: a write that L2 has not accepted is an error, and no invalidation follows.
    Deferred,
    /// 18: a fallback comes from L1 whether or not there is a freshness proof.
    FallbackProof,
    /// 19: an extension stores what was read.
    ExtendOnly,
    /// 20: the state of a tag is not told of its invalidations.
    TagFloors,
    /// 20: a tag whose version is lost counts as one that was never invalidated.
    TagVersions,
    /// 21: a message with a number that was received before is ignored.
    SeenNumbers,
    /// 22: a look-up with a token is answered by L1 like any other.
    Tokens,
    /// 22: a caller with a token takes part in loads like any other.
    TokenLoads,
    /// 23: a warm-up reads its source first, and asks for the leases afterwards.
    LeaseFirst,
    /// 26: a primary is believed for as long as it answers.
    Witnesses,
    /// 30: a local value gets the highest version that is known when its load ends.
    LocalVersions,
    /// 30: the tags that were invalidated while a local value was loaded are forgotten.
    LocalTags,
    /// 31: an instance that finds another history than the one it knows empties L1, and the epoch goes on.
    Histories,
    /// 31: messages with one number are taken for one message.
    Nonces,
    /// 31: an epoch that an instance has left is taken for a new one.
    FormerEpochs,
    /// 31: answers to writes are not compared with messages and clocks.
    Answers,
}

/// Whether a rule is turned off.
#[cfg(not(larder_ablation))]
pub(crate) const fn without(_: Rule) -> bool {
    false
}

#[cfg(larder_ablation)]
thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// Turns a rule off for everything that runs on this thread, and the others on.
#[cfg(larder_ablation)]
pub fn switch_off(rule: Option<Rule>) {
    OFF.set(rule);
}

/// Whether a rule is turned off.
#[cfg(larder_ablation)]
pub fn without(rule: Rule) -> bool {
    OFF.get() == Some(rule)
}
