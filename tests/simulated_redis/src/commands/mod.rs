//! The commands that the crate and its tests send, and no others.
//!
//! - [`keys`]: keys of any type; [`texts`], [`hashes`], [`streams`]: those of one type
//! - [`scripts`]: Lua; [`channels`]: messages; [`connections`]: what a connection says of itself
//! - [`about`]: what the server says of itself; [`cluster`]: what a node of a cluster says, and is told

// Each command has one type.
#![allow(clippy::unnecessary_wraps)]

mod about;
mod channels;
mod cluster;
mod connections;
mod hashes;
mod keys;
mod scripts;
mod streams;
mod texts;

use crate::keyspace::{Keyspace, Value};
use crate::reply::Reply;
use crate::server::{Server, SessionId};

/// An execution of a command.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a mut Server,
    pub(crate) session: SessionId,
    /// The name of the command, and its arguments.
    pub(crate) args: &'a [Vec<u8>],
}

/// The error is one of the command.
pub(crate) type Answer = Result<Reply, Reply>;

/// What a command is.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// How many parts it has, its name among them; the least number if it is negative.
    arity: i32,
    /// See [`WRITES`] and the others.
    flags: u8,
    pub(crate) keys: Keys,
    pub(crate) run: fn(&mut Call<'_>) -> Answer,
}

/// It changes keys.
const WRITES: u8 = 1;
/// It is refused when memory is full.
const GROWS: u8 = 1 << 1;
/// A script may not call it.
const NO_SCRIPT: u8 = 1 << 2;
/// It is executed while the server loads, too.
const ALWAYS: u8 = 1 << 3;
/// It is sent to replicas, though it changes no key.
const REPLICATED: u8 = 1 << 4;
/// It is executed before a login.
const NO_LOGIN: u8 = 1 << 5;

/// Which arguments of a command are keys.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keys {
    None,
    /// The first one.
    First,
    FirstTwo,
    All,
    /// A number of them follows the script.
    Counted,
}

impl Command {
    pub(crate) fn writes(&self) -> bool {
        self.flags & WRITES != 0
    }

    pub(crate) fn grows(&self) -> bool {
        self.flags & GROWS != 0
    }

    pub(crate) fn is_for_scripts(&self) -> bool {
        self.flags & NO_SCRIPT == 0
    }

    pub(crate) fn is_always_executed(&self) -> bool {
        self.flags & ALWAYS != 0
    }

    pub(crate) fn is_replicated(&self) -> bool {
        self.flags & (WRITES | REPLICATED) != 0
    }

    pub(crate) fn needs_login(&self) -> bool {
        self.flags & NO_LOGIN == 0
    }

    /// Whether it runs a script that may write.
    pub(crate) fn may_write(&self) -> bool {
        self.keys == Keys::Counted && !self.name.ends_with("_ro")
    }

    /// Whether it is about messages of a shard.
    pub(crate) fn is_of_shard(&self) -> bool {
        ["ssubscribe", "sunsubscribe", "spublish"].contains(&self.name)
    }

    /// Whether it may have so many parts.
    pub(crate) fn takes(&self, parts: usize) -> bool {
        let parts = i32::try_from(parts).unwrap_or(i32::MAX);
        parts == self.arity || (self.arity < 0 && parts >= -self.arity)
    }

    /// The keys among its parts.
    pub(crate) fn keys<'a>(&self, args: &'a [Vec<u8>]) -> &'a [Vec<u8>] {
        let from_to = |from: usize, to: usize| args.get(from..to.min(args.len())).unwrap_or(&[]);
        match self.keys {
            Keys::None => &[],
            Keys::First => from_to(1, 2),
            Keys::FirstTwo => from_to(1, 3),
            Keys::All => from_to(1, args.len()),
            Keys::Counted => {
                let many = args.get(2).and_then(|many| number(many)).unwrap_or(0);
                from_to(3, usize::try_from(many).unwrap_or(0).saturating_add(3))
            }
        }
    }
}

const fn command(
    name: &'static str,
    arity: i32,
    flags: u8,
    keys: Keys,
    run: fn(&mut Call<'_>) -> Answer,
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        run,
    }
}

/// All commands. One that is not here is an error, which the server takes note of.
#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    command("del", -2, WRITES, Keys::All, keys::del),
    command("exists", -2, 0, Keys::All, keys::exists),
    command("type", 2, 0, Keys::First, keys::kind),
    command("pttl", 2, 0, Keys::First, keys::pttl),
    command("pexpire", -3, WRITES, Keys::First, keys::pexpire),
    command("expire", 3, WRITES, Keys::First, keys::expire),
    command("persist", 2, WRITES, Keys::First, keys::persist),
    command("rename", 3, WRITES, Keys::FirstTwo, keys::rename),
    command("copy", -3, WRITES | GROWS, Keys::FirstTwo, keys::copy),
    command("scan", -2, 0, Keys::None, keys::scan),
    command("keys", 2, 0, Keys::None, keys::all),
    command("dbsize", 1, 0, Keys::None, keys::how_many),
    command("flushall", -1, WRITES, Keys::None, keys::flush),
    command("get", 2, 0, Keys::First, texts::get),
    command("set", -3, WRITES | GROWS, Keys::First, texts::set),
    command("mget", -2, 0, Keys::All, texts::mget),
    command("getrange", 4, 0, Keys::First, texts::getrange),
    command("setrange", 4, WRITES | GROWS, Keys::First, texts::setrange),
    command("lpush", -3, WRITES | GROWS, Keys::First, texts::lpush),
    command("rpush", -3, WRITES | GROWS, Keys::First, texts::rpush),
    command("hset", -4, WRITES | GROWS, Keys::First, hashes::hset),
    command("hget", 3, 0, Keys::First, hashes::hget),
    command("hmget", -3, 0, Keys::First, hashes::hmget),
    command("hgetall", 2, 0, Keys::First, hashes::hgetall),
    command("hkeys", 2, 0, Keys::First, hashes::hkeys),
    command("hvals", 2, 0, Keys::First, hashes::hvals),
    command("hlen", 2, 0, Keys::First, hashes::hlen),
    command("hdel", -3, WRITES, Keys::First, hashes::hdel),
    command("xadd", -5, WRITES | GROWS, Keys::First, streams::xadd),
    command("xrange", -4, 0, Keys::First, streams::xrange),
    command("xrevrange", -4, 0, Keys::First, streams::xrevrange),
    command("xlen", 2, 0, Keys::First, streams::xlen),
    command("xdel", -3, WRITES, Keys::First, streams::xdel),
    command("xtrim", -4, WRITES, Keys::First, streams::xtrim),
    command("eval", -3, NO_SCRIPT | ALWAYS, Keys::Counted, scripts::eval),
    command("evalsha", -3, NO_SCRIPT | ALWAYS, Keys::Counted, scripts::evalsha),
    command("evalsha_ro", -3, NO_SCRIPT | ALWAYS, Keys::Counted, scripts::evalsha_ro),
    command("script", -2, NO_SCRIPT, Keys::None, scripts::script),
    command("publish", 3, ALWAYS | REPLICATED, Keys::None, channels::publish),
    command("spublish", 3, ALWAYS | REPLICATED, Keys::First, channels::spublish),
    command("subscribe", -2, NO_SCRIPT | ALWAYS, Keys::None, channels::subscribe),
    command("unsubscribe", -1, NO_SCRIPT | ALWAYS, Keys::None, channels::unsubscribe),
    command("ssubscribe", -2, NO_SCRIPT | ALWAYS, Keys::All, channels::ssubscribe),
    command("sunsubscribe", -1, NO_SCRIPT | ALWAYS, Keys::All, channels::sunsubscribe),
    command("pubsub", -2, ALWAYS, Keys::None, channels::pubsub),
    command("hello", -1, NO_SCRIPT | ALWAYS | NO_LOGIN, Keys::None, connections::hello),
    command("auth", -2, NO_SCRIPT | ALWAYS | NO_LOGIN, Keys::None, connections::auth),
    command("select", 2, ALWAYS, Keys::None, connections::select),
    command("client", -2, NO_SCRIPT | ALWAYS, Keys::None, connections::client),
    command("ping", -1, 0, Keys::None, connections::ping),
    command("acl", -2, NO_SCRIPT | ALWAYS, Keys::None, connections::acl),
    command("time", 1, ALWAYS, Keys::None, about::time),
    command("info", -1, ALWAYS, Keys::None, about::info),
    command("role", 1, NO_SCRIPT | ALWAYS, Keys::None, about::role),
    command("replicaof", 3, NO_SCRIPT, Keys::None, about::replicaof),
    command("sentinel", -2, NO_SCRIPT | ALWAYS, Keys::None, about::sentinel),
    command("cluster", -2, ALWAYS, Keys::None, cluster::cluster),
    command("asking", 1, 0, Keys::None, cluster::asking),
    command("readonly", 1, ALWAYS, Keys::None, cluster::readonly),
    command("readwrite", 1, ALWAYS, Keys::None, cluster::readwrite),
    command("config", -2, NO_SCRIPT | ALWAYS, Keys::None, about::config),
];

/// The command with this name, of any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let is_it = |command: &&Command| command.name.as_bytes().eq_ignore_ascii_case(name);
    COMMANDS.iter().find(is_it)
}

pub(crate) const SYNTAX: &str = "ERR syntax error";
const NO_NUMBER: &str = "ERR value is not an integer or out of range";
const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NO_KEY: &str = "ERR no such key";

fn fail<T>(text: impl Into<String>) -> Result<T, Reply> {
    Err(Reply::error(text))
}

/// Reads a whole number as Redis does: without a plus, leading zeros or spaces.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A name of a command or an option, in lower case: they are compared so.
fn word(text: &[u8]) -> String {
    String::from_utf8_lossy(text).to_ascii_lowercase()
}

impl<'a> Call<'a> {
    /// The argument at a place, where the name of the command is at 0. A command is not run with fewer arguments than it
    /// needs.
    fn arg(&self, at: usize) -> &'a [u8] {
        self.args.get(at).map_or(&[], Vec::as_slice)
    }

    fn from(&self, at: usize) -> &'a [Vec<u8>] {
        self.args.get(at..).unwrap_or(&[])
    }

    fn number(&self, at: usize) -> Result<i64, Reply> {
        number(self.arg(at)).ok_or_else(|| Reply::error(NO_NUMBER))
    }

    /// The database that the connection has selected.
    fn db(&mut self) -> &mut Keyspace {
        self.server.db(self.session)
    }

    /// What a key holds of one type, by a function that is given the value.
    fn held<T>(
        &mut self,
        key: &[u8],
        of: impl FnOnce(&mut Value) -> Option<T>,
    ) -> Result<Option<T>, Reply> {
        match self.db().value(key) {
            None => Ok(None),
            Some(value) => of(value).map_or_else(|| fail(WRONG_TYPE), |held| Ok(Some(held))),
        }
    }
}
