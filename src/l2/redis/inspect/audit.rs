//! What a lane keeps for itself: its clock, its log, its list of members; and the rights of a user.

use std::iter;

use deadpool_redis::redis::{cmd, pipe};

use super::{Connected, LaneState, Namespace, in_time};
use crate::l2::redis::call::{Call, Lua};
use crate::l2::redis::members;
use crate::l2::redis::names::{CLOCK, LIVE, LOG};
use crate::l2::redis::scripts::{self, CHECKED, INCARNATION, lua};
use crate::l2::{L2Error, LaneNumber, Member};

lua! {
    AUDIT: [CHECKED, scripts::CLOCK, INCARNATION], "../audit.lua";
}

/// What a lane keeps for itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LaneAudit {
    /// Its clock, and where it is.
    pub state: LaneState,
    /// The `maxmemory-policy` of the server; empty if `INFO` hides it.
    pub policy: String,
    /// Whether `INFO` hides the `run_id` of the server: then no failover is proven to have lost nothing (rule 28).
    pub hides_process: bool,
    /// Whether the log ends where the clock does.
    pub log: LogState,
    /// Its members, each with its last note.
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
    [u64; 5],
    String,
    u8,
    String,
    String,
    Vec<String>,
    Vec<(Vec<u8>, Vec<u8>)>,
);

impl Namespace {
    /// Reads what each lane keeps for itself, in one step for each.
    ///
    /// Cost: a connection and a round trip for each lane.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request; or if a lane is not used any more, while the number of
    /// lanes changes.
    pub async fn audit(&self) -> Result<Vec<LaneAudit>, L2Error> {
        let mut lanes = Vec::new();
        // One after the other: an operator waits for the answer, and the server has other work.
        for lane in LaneNumber::all(self.lanes) {
            lanes.push(self.connect(lane).await?.audit().await?);
        }
        Ok(lanes)
    }

    /// The rights that a user lacks, of those that every cache needs: [`redis`](crate::guide::redis#rights) lists them.
    /// Each is named by a command that the user may not run, or not on a key or the channel of the namespace. Without a
    /// name, of the user that asks. Needs `+acl|dryrun +acl|whoami`.
    ///
    /// Cost: a connection, and one round trip for the name and one for the rights.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn missing_rights(&self, user: Option<&str>) -> Result<Vec<&'static str>, L2Error> {
        let first = LaneNumber {
            number: 0,
            of: self.lanes,
        };
        let mut at = self.connect(first).await?;
        let user = match user {
            Some(user) => user.to_owned(),
            None => in_time(cmd("ACL").arg("WHOAMI").query_async(&mut at.connection)).await?,
        };
        let rights = (EVERYWHERE.iter()).chain(if at.names.slot.is_some() {
            IN_A_CLUSTER
        } else {
            ON_A_SERVER
        });
        let rights: Vec<_> = rights.collect();
        // In one pipeline: the rights of a user may change between two requests.
        let mut ask = pipe();
        for right in &rights {
            ask.cmd("ACL").arg("DRYRUN").arg(&user);
            for part in right.split([' ', '|']) {
                match part {
                    "KEY" => ask.arg(at.names.name(CLOCK, "")),
                    "CHANNEL" => ask.arg(&at.names.events),
                    part => ask.arg(part),
                };
            }
        }
        let answers: Vec<String> = in_time(ask.query_async(&mut at.connection)).await?;
        let denied = iter::zip(rights, answers).filter(|(_, answer)| answer != "OK");
        Ok(denied.map(|(right, _)| name_of(right)).collect())
    }
}

/// What every cache runs, each with arguments for `ACL DRYRUN`.
const EVERYWHERE: &[&str] = &[
    "evalsha 0 1 KEY",
    "evalsha_ro 0 1 KEY",
    "script|load x",
    "get KEY",
    "mget KEY",
    "set KEY x",
    "setrange KEY 0 x",
    "rename KEY KEY",
    "exists KEY",
    "del KEY",
    "hmget KEY x",
    "hget KEY x",
    "hgetall KEY",
    "hset KEY x x",
    "hdel KEY x",
    "xadd KEY * x x",
    "xtrim KEY MAXLEN 1",
    "xrange KEY - +",
    "time",
    "type KEY",
    "info",
    "pttl KEY",
    "pexpire KEY 1",
    "client|setname x",
];
const ON_A_SERVER: &[&str] = &["subscribe CHANNEL", "publish CHANNEL x"];
const IN_A_CLUSTER: &[&str] = &[
    "ssubscribe CHANNEL",
    "sunsubscribe CHANNEL",
    "spublish CHANNEL x",
    "cluster|nodes",
    "cluster|info",
];

/// The command of a right.
fn name_of(right: &str) -> &str {
    right.split_once(' ').map_or(right, |(name, _)| name)
}

impl Connected {
    async fn audit(&mut self) -> Result<LaneAudit, L2Error> {
        let mut call = Call::by("EVALSHA_RO", &AUDIT, &self.names, 3);
        call.own(&[CLOCK, LOG, LIVE]);
        let answer: Answer = in_time(call.run(self.connection.clone())).await?;
        let (numbers, run, is_run, policy, kind, ids, list) = answer;
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
        // Beside the members the list has an entry for itself: its generation and its age (rule 16).
        let entries = list.iter().filter(|(id, _)| id != b"list");
        let entries = entries.map(|(id, entry)| {
            let text = |bytes| str::from_utf8(bytes).ok();
            members::parse(text(id)?.parse().ok()?, text(entry)?)
        });
        let entries: Vec<_> = entries.collect();
        let members: Vec<_> = entries.iter().copied().flatten().collect();
        Ok(LaneAudit {
            state,
            policy,
            // In the place of the `run_id`.
            hides_process: run.starts_with('-'),
            log,
            damaged_members: entries.len() - members.len(),
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page lists them for those who write the rights of a user.
    #[test]
    fn the_rights_are_those_of_the_guide() {
        let page = include_str!("../../../guide/redis.md");
        let listed = |from: &str, to: &str| -> BTreeSet<&str> {
            let (_, rest) = page.split_once(from).unwrap();
            let (list, _) = rest.split_once(to).unwrap();
            list.split_whitespace()
                .filter_map(|right| right.strip_prefix('+'))
                .collect()
        };
        let names = |rights: &[&[&'static str]]| -> BTreeSet<&str> {
            rights.concat().into_iter().map(name_of).collect()
        };
        let server = listed("needs these for every cache:", "~{");
        assert_eq!(server, names(&[EVERYWHERE, ON_A_SERVER]));
        let cluster = listed("In a cluster `", "`");
        assert_eq!(cluster, names(&[IN_A_CLUSTER]));
    }
}
