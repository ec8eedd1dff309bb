//! What the crate keeps in Rust, with a switch that turns it off.

use larder::ablation::Rule;

use crate::history::Invariant::{self, *};

/// The rule's number in the protocol, and the promise that is certain to break without it. `None` if no world shows
/// it, and other tests do.
pub(super) fn expected(rule: Rule) -> Option<(u8, Invariant)> {
    let expected = match rule {
        // In a world a look-up in L1 is one step, and no world has had such a join yet.
        Rule::ProofFirst | Rule::NoProvenFlights => return None,
        // In a world those that have written what is lost live, and their answers show it, too.
        Rule::Nonces => return None,
        Rule::Floors => (3, I1Bound),
        Rule::Detach => (4, I1Bound),
        Rule::NoUnprovenJoins => (5, I1Bound),
        Rule::RefreshLease => (6, I2NoResurrection),
        Rule::CatchUp => (7, I1Bound),
        Rule::Heartbeat => (8, I1Bound),
        Rule::LostMessages => (9, I1Bound),
        Rule::Overflow => (10, I1Bound),
        Rule::OwnMessages => (11, I4ReadYourWrites),
        Rule::Epochs => (11, I1Bound),
        Rule::OwnTask => (12, I7Answered),
        Rule::ConnectionIncarnation => (13, I1Bound),
        Rule::Deferred => (14, I4ReadYourWrites),
        Rule::FallbackProof => (18, I1Bound),
        Rule::ExtendOnly => (19, I2NoResurrection),
        Rule::TagFloors => (20, I1Bound),
        Rule::TagVersions => (20, I1Bound),
        Rule::SeenNumbers => (21, I1Bound),
        Rule::Tokens => (22, I9Tokens),
        Rule::TokenLoads => (22, I9Tokens),
        Rule::LeaseFirst => (23, I2NoResurrection),
        Rule::Witnesses => (26, I1Bound),
        Rule::LocalVersions | Rule::LocalTags => (30, I1Bound),
        Rule::Histories | Rule::FormerEpochs => (31, I1Bound),
        Rule::Answers => (32, I1Bound),
    };
    Some(expected)
}
