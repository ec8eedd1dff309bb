//! What a user of Redis may not do, though a cache would.

use std::{fmt, iter};

use deadpool_redis::redis::{RedisResult, cmd, pipe};

use super::Namespace;
use super::connections::in_time;
use crate::l2::redis::error::l2_error;
use crate::l2::redis::names::CLOCK;
use crate::l2::{L2Error, PartitionNumber};

/// The rights that a user lacks for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingRights {
    /// The calls that need these rights.
    pub needed_for: RightsFor,
    /// Each is named by a command that the user may not run, or not on a key or the channel of the namespace.
    pub commands: Vec<&'static str>,
}

/// What takes rights, as [`redis`](crate::guide::redis#rights) lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RightsFor {
    /// Every cache.
    EveryCache,
    /// `Loaded::unchanged`, `expire`, `touch`, `sliding`, `insert_if` and `update`.
    StoredValues,
    /// `invalidate_prefix`.
    Prefixes,
    /// A cache that is closed before others that share its connection.
    ClosingFirst,
    /// Write-behind, and its `update`.
    WriteBehind,
}

impl fmt::Display for RightsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EveryCache => "every cache",
            Self::StoredValues => "expire, touch, sliding, insert_if, update, unchanged",
            Self::Prefixes => "invalidate_prefix",
            Self::ClosingFirst => "closing a cache before others",
            Self::WriteBehind => "write-behind",
        })
    }
}

impl Namespace {
    /// The rights that a user lacks, by what they are needed for; nothing for what lacks none. Without a name, of the
    /// user that asks. Needs `+acl|dryrun +acl|whoami`.
    ///
    /// Cost: a connection, and one round trip for the name and one for the rights.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses a request.
    pub async fn missing_rights(&self, user: Option<&str>) -> Result<Vec<MissingRights>, L2Error> {
        // One partition stands for all: the patterns of the guide allow the names of all partitions together.
        let first = PartitionNumber {
            number: 0,
            of: self.partitions,
        };
        let mut at = self.connect(first).await?;
        let user = match user {
            Some(user) => user.to_owned(),
            None => in_time(cmd("ACL").arg("WHOAMI").query_async(&mut at.connection)).await?,
        };
        let is_in_a_cluster = at.names.slot.is_some();
        // In one pipeline: the rights of a user may change between two requests.
        let (mut ask, mut asked) = (pipe(), Vec::new());
        for needed_for in ALL {
            let rights = iter::zip(
                iter::repeat(needed_for),
                rights(needed_for, is_in_a_cluster),
            );
            for (needed_for, right) in rights {
                ask.cmd("ACL").arg("DRYRUN").arg(&user);
                for part in right.split([' ', '|']) {
                    match part {
                        "KEY" => ask.arg(at.names.name(CLOCK, "")),
                        "CHANNEL" => ask.arg(&at.names.channel),
                        part => ask.arg(part),
                    };
                }
                asked.push((needed_for, right));
            }
        }
        // Of a command that the server does not know, the answer is an error.
        ask.ignore_errors();
        let answers: Vec<RedisResult<String>> =
            in_time(ask.query_async(&mut at.connection)).await?;
        let mut missing: Vec<MissingRights> = Vec::new();
        for ((needed_for, right), answer) in iter::zip(asked, answers) {
            match answer {
                Ok(answer) if answer == "OK" => continue,
                Ok(_) => {}
                // Without it the server has no name (rule 32: a server without a name).
                Err(_) if right == "info" => continue,
                Err(error) => return Err(l2_error(error)),
            }
            // Users of Redis are given commands, and the arguments here only make them valid.
            let command = name_of(right);
            match missing.last_mut() {
                Some(last) if last.needed_for == needed_for => last.commands.push(command),
                _ => missing.push(MissingRights {
                    needed_for,
                    commands: vec![command],
                }),
            }
        }
        Ok(missing)
    }
}

const ALL: [RightsFor; 5] = [
    RightsFor::EveryCache,
    RightsFor::StoredValues,
    RightsFor::Prefixes,
    RightsFor::ClosingFirst,
    RightsFor::WriteBehind,
];

/// What is run for this, each with arguments for `ACL DRYRUN`.
fn rights(needed_for: RightsFor, is_in_a_cluster: bool) -> Vec<&'static str> {
    match needed_for {
        RightsFor::EveryCache if is_in_a_cluster => [EVERYWHERE, IN_A_CLUSTER].concat(),
        RightsFor::EveryCache => [EVERYWHERE, ON_A_SERVER].concat(),
        RightsFor::StoredValues => vec![GETRANGE],
        RightsFor::Prefixes => vec![GETRANGE, "scan 0"],
        // In a cluster every cache needs the right to end its subscription.
        RightsFor::ClosingFirst if is_in_a_cluster => Vec::new(),
        RightsFor::ClosingFirst => vec!["unsubscribe CHANNEL"],
        RightsFor::WriteBehind => WRITE_BEHIND.to_vec(),
    }
}

/// What every cache runs.
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
const GETRANGE: &str = "getrange KEY 0 1";
const WRITE_BEHIND: &[&str] = &[
    "xlen KEY",
    "xdel KEY 0-1",
    "xrevrange KEY + -",
    "exists KEY",
    GETRANGE,
];

/// The command of a right.
fn name_of(right: &str) -> &str {
    right.split_once(' ').map_or(right, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn listed<'a>(page: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
        let (_, rest) = page.split_once(from).unwrap();
        let (list, _) = rest.split_once(to).unwrap();
        let words = list.split(|char: char| char.is_whitespace() || char == '`');
        words.filter_map(|right| right.strip_prefix('+')).collect()
    }

    /// The pages list them for those who write the rights of a user.
    #[test]
    fn the_rights_are_those_of_the_guide() {
        let page = include_str!("../../../guide/redis.md");
        let needed = |needed_for, is_in_a_cluster| -> BTreeSet<&str> {
            let rights = rights(needed_for, is_in_a_cluster);
            rights.into_iter().map(name_of).collect()
        };
        let server = listed(page, "needs these for every cache:", "~{");
        assert_eq!(server, needed(RightsFor::EveryCache, false));
        let cluster = listed(page, "In a cluster `", "in the place of");
        let of_server: BTreeSet<_> = ON_A_SERVER.iter().map(|right| name_of(right)).collect();
        let cluster = &(&server - &of_server) | &cluster;
        assert_eq!(cluster, needed(RightsFor::EveryCache, true));
        for (row, needed_for) in [
            ("| `Loaded::unchanged`,", RightsFor::StoredValues),
            ("| `invalidate_prefix` |", RightsFor::Prefixes),
            ("| a cache that is closed", RightsFor::ClosingFirst),
        ] {
            assert_eq!(listed(page, row, "\n"), needed(needed_for, false), "{row}");
        }
        let page = include_str!("../../../write_behind/mod.rs");
        let write_behind = listed(page, "few rights also needs `", ".\n");
        assert_eq!(write_behind, needed(RightsFor::WriteBehind, false));
    }
}
