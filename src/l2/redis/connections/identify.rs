//! IDENTIFY, the first request of a partition over a connection: which incarnation of the server it leads to, and the
//! partition's clock there (rule 13: a new incarnation is a new epoch), which may continue a former one (rule 28: a
//! handover is proven by the old primary). If the clock is not set up yet, or one of several servers may have lost
//! data, it is settled first how many partitions the namespace has (rule 27: only the partitions of one number are
//! used).

use deadpool_redis::redis::RedisResult;
use deadpool_redis::redis::aio::MultiplexedConnection;

use super::number_of_partitions::agree_on_number;
use super::topology::Topology;
use crate::l2::redis::error::other_partitions;
use crate::l2::redis::members;
use crate::l2::redis::names::{CLOCK, MEMBERS, Names};
use crate::l2::redis::primary::Primary;
use crate::l2::redis::script_call::{ScriptCall, clock};
use crate::l2::redis::scripts;
use crate::l2::{KnownHistory, Member, PartitionClock, random};

/// A subscriber, which adds itself to the members.
#[derive(Clone, Copy)]
pub(crate) struct Joining {
    pub(crate) member: Member,
    pub(crate) history: KnownHistory,
}

/// The answer of IDENTIFY.
pub(crate) struct Identity {
    pub(crate) clock: PartitionClock,
    incarnation: String,
    partitions: u16,
    /// The policy by which the server evicts keys when its memory is full.
    pub(super) policy: String,
    /// The list of members: its generation, and for how many ms it has existed, at least. Zeros for none that was asked
    /// for.
    pub(crate) list: (u64, u64),
}

/// How scripts name the incarnation of a server that does not let them call INFO, or whose INFO names no history. See
/// `parts/incarnation.lua`.
pub(crate) const UNNAMED: &str = "unnamed";

impl Identity {
    /// Whether the server does not say which process it is: then no handover is proven (rule 28: a handover is proven
    /// by the old primary).
    pub(super) fn hides_process(&self) -> bool {
        self.incarnation.starts_with('-')
    }

    /// Whether the server names no incarnation (rule 32: a server without a name).
    pub(crate) fn is_unnamed(&self) -> bool {
        self.incarnation == UNNAMED
    }
}

/// Runs IDENTIFY, as each new connection does before it is used. A subscriber adds itself as a member. If the clock does not
/// say that its partition may be used, or a server of a cluster has lost what it said, that is settled first, by
/// [`agree_on_number`]. The error of a partition that is not used names the number of partitions that the namespace has.
pub(crate) async fn identify(
    names: &Names,
    me: Option<Joining>,
    topology: &Topology,
    primary: &Primary,
    connection: MultiplexedConnection,
) -> RedisResult<Identity> {
    // One server loses the last writes of all partitions together, the number of partitions among them.
    let proof = if names.slot.is_some() { "?" } else { "" };
    let mut found = ask(names, me, proof, connection.clone()).await?;
    if found.partitions == 0 || found.partitions == names.partitions && found.clock.epoch == 0 {
        let proof = match &*found.incarnation {
            "" => String::new(),
            former => primary.handover(former).await,
        };
        if proof.is_empty() {
            agree_on_number(names, topology, &connection).await?;
        }
        found = ask(names, me, &proof, connection).await?;
    }
    if found.partitions != names.partitions {
        return Err(other_partitions(found.partitions));
    }
    Ok(found)
}

/// As `identify.lua` says.
type Answer = (u64, u64, u64, u64, u64, u16, String, String, u64, u64, u64);

async fn ask(
    names: &Names,
    me: Option<Joining>,
    proof: &str,
    connection: MultiplexedConnection,
) -> RedisResult<Identity> {
    let mut call = ScriptCall::new(&scripts::IDENTIFY, names, 2);
    call.partition_keys(&[CLOCK, MEMBERS])
        .arg(names.partitions)
        .arg(random());
    call.arg(proof);
    call.arg(match me.map(|me| me.history) {
        Some(KnownHistory::Contradicted { epoch }) => epoch.to_string(),
        Some(KnownHistory::Unknown) => "?".to_owned(),
        Some(KnownHistory::Fits) | None => String::new(),
    });
    if let Some(Joining { member, .. }) = me {
        call.arg(member.info.id).arg(members::entry(&member));
    }
    let answer: Answer = call.run(connection).await?;
    let (epoch, seq, ver, nonce, now, partitions, incarnation, policy, generation, age, is_off) =
        answer;
    Ok(Identity {
        clock: clock([epoch, seq, ver, nonce, now, is_off], &incarnation),
        incarnation,
        partitions,
        policy,
        list: (generation, age),
    })
}
