//! What a partition keeps for itself: its clock, its log, its list of members.

use super::connections::in_time;
use super::{Connected, Namespace, PartitionState};
use crate::l2::redis::connections::identify::UNNAMED;
use crate::l2::redis::members;
use crate::l2::redis::names::{CLOCK, LOG, MEMBERS};
use crate::l2::redis::script_call::{LuaScript, ScriptCall};
use crate::l2::redis::scripts::{NO_FLAGS, lua};
use crate::l2::{L2Error, Member, PartitionNumber};

lua! {
    AUDIT: NO_FLAGS [checked clock incarnation] audit;
}

/// What a partition keeps for itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionAudit {
    /// The clock of the partition, and the server that has it.
    pub state: PartitionState,
    /// The `maxmemory-policy` of the server; empty if `INFO` hides it.
    pub policy: String,
    /// How many bytes of memory the server uses for all its data; `None` if `INFO` hides it.
    pub used_memory: Option<u64>,
    /// How many it may use, the `maxmemory` of the server; 0 for no limit, `None` if `INFO` hides it.
    pub maxmemory: Option<u64>,
    /// Whether `INFO` hides the `run_id` of the server: then no failover is proven to have lost nothing (rule 28: a
    /// handover is proven by the old primary).
    pub hides_process: bool,
    /// Whether scripts may not call `INFO`, or it hides the `master_replid` of the server (rule 32: a server without a
    /// name).
    pub is_unnamed: bool,
    /// Whether write-behind has appended writes to its stream.
    pub has_writes: bool,
    /// Whether the log ends where the clock does.
    pub log: LogState,
    /// How many messages the log has, by the number of its first one; 0 unless it is [`Complete`](LogState::Complete).
    pub log_length: u64,
    /// The members of the partition, each with its last note.
    pub members: Vec<Member>,
    /// How many entries of the list of members cannot be read.
    pub damaged_members: usize,
}

/// Whether a log ends with the last message of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogState {
    /// It does, or there is none, as after a clear.
    Complete,
    /// It lacks the last message.
    Behind,
    /// It has later messages: the clock was lost, or set back.
    Ahead,
    /// It is of another type.
    OtherType,
}

/// What AUDIT answers.
type Answer = (
    [u64; 6],
    String,
    u8,
    [String; 3],
    String,
    String,
    Vec<String>,
    Vec<(Vec<u8>, Vec<u8>)>,
    String,
);

impl Namespace {
    /// Reads what each partition keeps for itself, in one step for each.
    ///
    /// Cost: a connection and a round trip for each partition.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request; or if a partition is not used any more, while the number of
    /// partitions changes.
    pub async fn audit(&self) -> Result<Vec<PartitionAudit>, L2Error> {
        let mut partitions = Vec::new();
        // One after the other: an operator waits for the answer, and the server has other work.
        for partition in PartitionNumber::all(self.partitions) {
            partitions.push(self.connect(partition).await?.audit().await?);
        }
        Ok(partitions)
    }
}

impl Connected {
    pub(super) async fn audit(&mut self) -> Result<PartitionAudit, L2Error> {
        let mut call = ScriptCall::by("EVALSHA_RO", &AUDIT, &self.names, 3);
        call.partition_keys(&[CLOCK, LOG, MEMBERS]);
        let answer: Answer = in_time(call.run(self.connection.clone())).await?;
        let (numbers, run, is_run, memory, kind, first, ids, list, writes) = answer;
        let [policy, used_memory, maxmemory] = memory;
        let state = self.state(numbers, &run, is_run);
        let last = format!("{}-0", state.clock.seq);
        // The script has read from the last number of the clock on, so a complete log has that message alone there.
        let log = match (&*kind, &*ids) {
            ("none", _) => LogState::Complete,
            ("stream", [only]) if *only == last => LogState::Complete,
            ("stream", []) => LogState::Behind,
            ("stream", _) => LogState::Ahead,
            _ => LogState::OtherType,
        };
        // The clock has the number of the last message, and each message between the two is there.
        let first = first.strip_suffix("-0").and_then(|seq| seq.parse().ok());
        let first = first.filter(|_| log == LogState::Complete);
        let log_length = first.map_or(0, |first| (state.clock.seq + 1).saturating_sub(first));
        // Beside the members the list has an entry for itself: its generation and its age (rule 16: members).
        let entries = list.iter().filter(|(id, _)| id != b"list");
        let entries = entries.map(|(id, entry)| {
            let text = |bytes| str::from_utf8(bytes).ok();
            members::parse(text(id)?.parse().ok()?, text(entry)?)
        });
        let entries: Vec<_> = entries.collect();
        let members: Vec<_> = entries.iter().copied().flatten().collect();
        Ok(PartitionAudit {
            state,
            policy,
            used_memory: used_memory.parse().ok(),
            maxmemory: maxmemory.parse().ok(),
            // In the place of the `run_id`.
            hides_process: run.starts_with('-'),
            is_unnamed: run == UNNAMED,
            has_writes: !writes.is_empty(),
            log,
            log_length,
            damaged_members: entries.len() - members.len(),
            members,
        })
    }
}
