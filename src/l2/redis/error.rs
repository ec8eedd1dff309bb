//! Makes errors of the crate from errors of the Redis client.
//!
//! The texts of the server and of the client can quote keys and values: `unknown command 'EVALSHA', with args
//! beginning with: …`. So no text is passed on as it is.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind, make_extension_error};
use deadpool_redis::{PoolError, TimeoutType};

use super::server::tls;
use crate::l2::L2Error;

/// Makes an error of the crate from one of the client.
pub(super) fn l2_error(error: RedisError) -> L2Error {
    if let Some(what) = tls::failure(&error) {
        return L2Error::tls(what, error);
    }
    if error.is_io_error() {
        return L2Error::unreachable(error);
    }
    if let Some(partitions) = partitions_in(&error) {
        return L2Error::other_partitions(partitions);
    }
    let refusal = Refusal(match error.kind() {
        ErrorKind::AuthenticationFailed => advice("WRONGPASS", ""),
        ErrorKind::RESP3NotSupported => unknown("hello"),
        ErrorKind::Server(_) | ErrorKind::Extension => advice(
            error.code().unwrap_or_default(),
            error.detail().unwrap_or_default(),
        ),
        kind => format!("the answer cannot be used ({kind:?})"),
    });
    match error.kind() {
        // Another node has the keys, or none at present.
        ErrorKind::Server(kind) if is_elsewhere(kind) => L2Error::explained(refusal),
        // The server has answered, so in none of these cases does another connection help.
        _ => L2Error::refused(refusal),
    }
}

/// Whether this error means that a node of a cluster has not executed a request, as the slot of its keys is not, or not
/// wholly, with this node.
pub(super) fn is_elsewhere(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    matches!(kind, Moved | Ask | TryAgain | ClusterDown)
}

/// The code of the error of a partition that is not used. The number of partitions that the namespace has follows.
const PARTITIONS: &str = "PARTITIONS";

/// The error of a partition that is not used, with the number of partitions that the namespace has. Scripts raise the same
/// one.
pub(super) fn other_partitions(partitions: u16) -> RedisError {
    make_extension_error(
        PARTITIONS.to_owned(),
        Some(format!("{partitions} partitions")),
    )
}

/// The error of partitions whose number does not stay in their clocks.
pub(super) fn unsettled_partitions() -> RedisError {
    make_extension_error("UNSETTLED".to_owned(), None)
}

/// The number of partitions that the namespace has, if the partition of this answer is not one of them.
fn partitions_in(error: &RedisError) -> Option<u16> {
    let text = error
        .detail()
        .filter(|_| error.code() == Some(PARTITIONS))?;
    text.split(' ').next()?.parse().ok()
}

/// Whether the server has refused a user and a password.
pub(super) fn is_login_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("WRONGPASS")
}

/// As [`l2_error`], for an error that came while a connection was made.
pub(super) fn connect_error(error: RedisError) -> L2Error {
    // A server that has reached its maxclients says so and closes the connection; the client loses the message.
    // A refused connection is not one that has ended: there the server is down.
    let is_ended = error.is_connection_dropped() && !error.is_connection_refusal();
    if is_ended && tls::failure(&error).is_none() {
        return L2Error::explained(EndedAtOnce(error));
    }
    l2_error(error)
}

/// As [`connect_error`], for one of IDENTIFY, which finds out first that a partition without a slot is on a node of a cluster.
pub(super) fn identify_error(error: RedisError, slot: Option<u16>) -> L2Error {
    if slot.is_none() && error.kind() == ErrorKind::Server(ServerErrorKind::Moved) {
        let why = "MOVED: it is a node of a Redis Cluster, and another one has the partition: use RedisL2::cluster";
        return L2Error::explained(Refusal(why.to_owned()));
    }
    connect_error(error)
}

#[derive(Debug, thiserror::Error)]
#[error("the server has ended the connection at once; it may have reached its maxclients")]
struct EndedAtOnce(#[source] RedisError);

/// As [`connect_error`], for one of the pool.
pub(super) fn pool_error(error: PoolError) -> L2Error {
    match error {
        PoolError::Backend(error) => connect_error(error),
        PoolError::Timeout(TimeoutType::Wait) => none_to_spare(),
        error => L2Error::unreachable(error),
    }
}

/// The pool gave no connection in time.
pub(super) fn none_to_spare() -> L2Error {
    let why =
        "all connections of the pool are taken; each cache keeps up to two, so raise its max_size";
    L2Error::explained(Refusal(why.to_owned()))
}

/// Why Redis refused a request, and how to mend that.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

const NEEDED: &str =
    "Redis 7.0 or later, or Valkey, is needed, and all commands under their own names";
const RIGHTS: &str = "give it the rights that larder's guide lists on its page \"redis\"";

/// How to mend an error of the server.
fn advice(code: &str, text: &str) -> String {
    let known = match code {
        "NOPERM" => return missing_right(text),
        "ERR" => return general(text),
        "OOM" => {
            "its memory is full: raise maxmemory, or set a maxmemory-policy of volatile-*; invalidations still work"
        }
        "WRONGTYPE" => {
            "another program has put something of another type under a key of this cache: delete that key"
        }
        "LOADING" => "it is loading its data, and answers when that is done",
        "BUSY" => "a script of another program keeps it busy; SCRIPT KILL may end that",
        "MISCONF" => "it takes no writes, as it could not save its data; its log says why",
        "READONLY" | "MASTERDOWN" => "it is a replica; the URL must lead to the primary",
        "UNSETTLED" => {
            "it loses the number of partitions that it is told: another program deletes the keys of the cache, or nodes fail over"
        }
        "NOREPLICAS" => "it takes no writes, as it has fewer replicas than min-replicas-to-write",
        "NOAUTH" => "it demands a password; put one into the URL",
        "WRONGPASS" => {
            "it does not accept the user name and password of the URL or the pool: the user may be disabled, or a server that demands no password be given one without a user"
        }
        "MOVED" => "another node of the Redis Cluster has the partition",
        "ASK" | "TRYAGAIN" => "the slot of the partition is moving to another node of the cluster",
        "CLUSTERDOWN" => "some slots of the cluster have no primary that answers",
        "CROSSSLOT" => "it is a node of a Redis Cluster: use RedisL2::cluster",
        _ => return format!("{code} {}", unquoted(text)),
    };
    format!("{code}: {known}")
}

/// About an error with the code `ERR`, which many errors share; among them are the errors of scripts without a right.
fn general(text: &str) -> String {
    let of_acl = [
        "executing the script can't",
        "ACL failure",
        "no permissions",
    ];
    if of_acl.iter().any(|part| text.contains(part)) {
        return missing_right(text);
    }
    let quoted = text.strip_prefix("unknown command ");
    if let Some(command) = quoted.and_then(|text| text.split(['\'', '`']).nth(1)) {
        return unknown(command);
    }
    if text.contains("cluster support disabled") {
        return "it is no node of a cluster: use RedisL2::open".to_owned();
    }
    // Of a server before 7.0, for the first line of a script.
    if text.contains("unexpected symbol near '#'") {
        return format!("the server cannot run the scripts: {NEEDED}");
    }
    format!("ERR {}", unquoted(text))
}

fn unknown(command: &str) -> String {
    let command = command.to_lowercase();
    format!("the server does not know {command}: {NEEDED}")
}

/// About an error of the ACL. A script's own commands are named by `script_call::with_command`.
fn missing_right(text: &str) -> String {
    let between = |before, after| {
        let (_, rest) = text.split_once(before)?;
        Some(rest.split_once(after)?.0)
    };
    let command = between("run the '", "'").or_else(|| between("subcommand (", ")"));
    let what = if let Some(command) = command {
        format!("may not run {}", command.to_lowercase())
    } else if text.contains("channel") {
        "may not use the channel of this cache".to_owned()
    } else {
        "may not use a key of this cache".to_owned()
    };
    format!("NOPERM: the Redis user {what}; {RIGHTS}")
}

/// A text up to the first thing that it quotes.
fn unquoted(text: &str) -> &str {
    let quotes = [" '", " `", " \""].into_iter();
    let first = quotes.filter_map(|quote| text.find(quote)).min();
    first.map_or(text, |first| text.split_at(first).0)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    /// A cache that is on a cluster already must not be told to use one.
    #[test]
    fn only_a_partition_without_a_slot_is_sent_to_a_cluster() {
        let moved = |slot| {
            let kind = ErrorKind::Server(ServerErrorKind::Moved);
            let error = identify_error((kind, "7 127.0.0.1:7000").into(), slot);
            error.source().unwrap().to_string()
        };
        assert!(moved(None).contains("use RedisL2::cluster"));
        assert!(!moved(Some(7)).contains("use"), "{}", moved(Some(7)));
    }

    /// Texts of Redis 7.0, of later releases and of Valkey, and some with a quoted key as other servers may send.
    #[test]
    fn an_error_is_explained_and_nothing_of_the_request_is_shown() {
        for (code, text, means) in [
            (
                "NOPERM",
                "this user has no permissions to run the 'xadd' command",
                "NOPERM: the Redis user may not run xadd;",
            ),
            (
                "NOPERM",
                "User app has no permissions to run the 'script|load' command",
                "NOPERM: the Redis user may not run script|load;",
            ),
            (
                "NOPERM",
                "No permissions to access the 'hunter2' key",
                "NOPERM: the Redis user may not use a key",
            ),
            (
                "NOPERM",
                "this user has no permissions to access one of the keys used as arguments",
                "NOPERM: the Redis user may not use a key",
            ),
            (
                "NOPERM",
                "No permissions to access the 'hunter2' channel",
                "NOPERM: the Redis user may not use the channel",
            ),
            (
                "ERR",
                "ACL failure in script: User app has no permissions to run the 'hget' command script: on @user_script:1.",
                "NOPERM: the Redis user may not run hget;",
            ),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand (HGET) script: 61c, on @user_script:9.",
                "NOPERM: the Redis user may not run hget;",
            ),
            (
                "ERR",
                "this user has no permissions to run the 'select' command",
                "NOPERM: the Redis user may not run select;",
            ),
            (
                "ERR",
                "unknown command 'EVALSHA', with args beginning with: '61c' '4' 'hunter2' ",
                "does not know evalsha: Redis 7.0",
            ),
            (
                "ERR",
                "unknown command `EVALSHA_RO`, with args beginning with: `hunter2`, ",
                "does not know evalsha_ro: Redis 7.0",
            ),
            (
                "ERR",
                "Error compiling script (new function): user_script:1: unexpected symbol near '#' ",
                "Redis 7.0",
            ),
            (
                "ERR",
                "wrong kind of thing: 'hunter2'",
                "ERR wrong kind of thing:",
            ),
            (
                "WRONGTYPE",
                "Operation against a key holding the wrong kind of value script: 61c, on @user_script:9.",
                "delete that key",
            ),
            ("NEW", "about \"hunter2\"", "NEW about"),
            (
                "ERR",
                "This instance has cluster support disabled",
                "no node of a cluster",
            ),
            (
                "UNSETTLED",
                "",
                "UNSETTLED: it loses the number of partitions",
            ),
            (
                "WRONGPASS",
                "invalid username-password pair or user is disabled.",
                "user name and password",
            ),
        ] {
            let advice = advice(code, text);
            assert!(advice.contains(means), "{advice}");
            assert!(!advice.contains("hunter2"), "{advice}");
        }
    }
}
