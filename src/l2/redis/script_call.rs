//! One call of a script: how it is written, sent and answered. Knows no script.

use std::ops::Deref;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ServerErrorKind,
    ToRedisArgs, Value, from_redis_value, make_extension_error,
};
use twox_hash::XxHash3_64;

use super::names::{Joined, Names, STAGED};
use crate::clock::millis;
use crate::l2::{EncodedValue, L2Error, PartitionClock, Stamp, Ttls, WriteAck, random};
use crate::wire::envelope::{self, BODY_AT};

/// Bodies of at least this many bytes bypass Lua (they are staged). For shorter ones staging is slower.
const STAGED_FROM: usize = 1024;

/// A script: parts that it shares with others, and then its own.
pub(super) struct LuaScript {
    parts: &'static [&'static str],
    /// The text with its hash, for EVALSHA.
    script: Script,
}

impl LuaScript {
    pub(super) fn new(parts: &'static [&'static str]) -> Self {
        let script = Script::new(&parts.concat());
        Self { parts, script }
    }
}

/// A script with its keys and then its arguments, written one after the other into the command that is sent.
/// The client's own way to call a script allocates for each of them.
pub(super) struct ScriptCall<'a> {
    lua: &'static LuaScript,
    names: &'a Names,
    command: Cmd,
    /// How many keys the command announces, and how many were added. What follows the announced ones are arguments to the
    /// server, whatever they were meant for.
    announced_keys: usize,
    added_keys: usize,
    /// The SETs of bodies that the script puts in their place, or the script, sent before the command.
    sent_before: Pipeline,
}

impl<'a> ScriptCall<'a> {
    /// A call with this number of keys.
    pub(super) fn new(lua: &'static LuaScript, names: &'a Names, keys: usize) -> Self {
        Self::by("EVALSHA", lua, names, keys)
    }

    /// A call with this number of keys, sent by the command `name`: a script that only reads has another one than
    /// `EVALSHA`.
    pub(super) fn by(name: &str, lua: &'static LuaScript, names: &'a Names, keys: usize) -> Self {
        // A command that grows is copied each time. Besides the keys there are few arguments, or two for each key. A
        // large value comes late, so only the names before it are copied then.
        let parts = 11 + 2 * keys;
        let mut command = Cmd::with_capacity(parts, 32 * parts);
        (command.arg(name).arg(lua.script.get_hash())).arg(keys);
        Self {
            lua,
            names,
            command,
            announced_keys: keys,
            added_keys: 0,
            sent_before: Pipeline::new(),
        }
    }

    /// Adds keys that the partition has once, by their kinds.
    pub(super) fn partition_keys(&mut self, kinds: &[&str]) -> &mut Self {
        self.keys(kinds, &[""])
    }

    /// Adds keys: those of these kinds for each text.
    pub(super) fn keys<'t>(
        &mut self,
        kinds: &[&str],
        texts: impl IntoIterator<Item = &'t (impl Deref<Target = str> + 't)>,
    ) -> &mut Self {
        for text in texts {
            for kind in kinds {
                self.command.arg(self.names.name(kind, text));
                self.added_keys += 1;
            }
        }
        self
    }

    /// Adds a key by its name. Beyond the announced keys it is an argument: the key may be of another slot.
    pub(super) fn key_by_name(&mut self, name: impl ToRedisArgs) -> &mut Self {
        self.added_keys = self.announced_keys.min(self.added_keys + 1);
        self.arg(name)
    }

    /// If a body is large, has it stored under a name of its own before the script runs, which puts it in its place:
    /// with room for its stamp, and for as long as the value will be kept. No other copy of the request has that name.
    pub(super) fn stage(&mut self, value: &EncodedValue) -> &mut Self {
        if is_staged(value) {
            let name = random().to_string();
            let name = self.names.name(STAGED, &name);
            let mut set = Cmd::with_capacity(5, name.len() + value.body.len() + 128);
            // Behind room for its stamp.
            let body = Joined([&[0; BODY_AT][..], &*value.body]);
            set.arg("SET").arg(name).arg(body);
            // A copy whose script never runs leaves the body behind, so it has a TTL from the start.
            set.arg("PX").arg(in_store_ms(value.ttls));
            self.sent_before.add_command(set);
            self.command.arg(name);
            self.added_keys += 1;
        }
        self
    }

    /// Sends the script along, which the server may not know: for one that is seldom run.
    pub(super) fn with_script_text(&mut self) -> &mut Self {
        let (load, script) = (self.sent_before.cmd("SCRIPT"), self.lua.parts.concat());
        load.arg("LOAD").arg(script);
        self
    }

    /// Adds the channel of the partition's messages.
    pub(super) fn channel(&mut self) -> &mut Self {
        self.arg(&self.names.channel)
    }

    /// Adds how a change is published: the channel, a number that names the epoch if one begins, and the payload.
    pub(super) fn message(&mut self, payload: &[u8]) -> &mut Self {
        self.channel().arg(random()).arg(payload)
    }

    /// Adds a deadline; without one, an empty argument.
    pub(super) fn deadline(&mut self, deadline: Option<u64>) -> &mut Self {
        self.arg(deadline.map_or_else(String::new, |at| at.to_string()))
    }

    /// Adds a body, and the time for which the store keeps it. If the body is [staged](Self::stage), adds the number of its
    /// tags instead.
    pub(super) fn value(&mut self, value: &EncodedValue) -> &mut Self {
        if is_staged(value) {
            // The script cannot read the tags in the body, and needs their number to find their versions.
            self.arg(envelope::tags_of(&value.body).len());
        } else {
            self.arg(&value.body);
        }
        self.arg(in_store_ms(value.ttls))
    }

    pub(super) fn arg(&mut self, part: impl ToRedisArgs) -> &mut Self {
        self.command.arg(part);
        self
    }

    /// Runs the script; loads it first if the server does not know it. NOSCRIPT means that nothing was executed,
    /// so sending the same call again is safe.
    pub(super) async fn run<T: FromRedisValue>(
        mut self,
        mut connection: MultiplexedConnection,
    ) -> RedisResult<T> {
        debug_assert_eq!(
            self.added_keys, self.announced_keys,
            "the keys that are announced"
        );
        if !self.sent_before.is_empty() {
            // In one pipeline: the bodies arrive before the script, over the same connection.
            self.sent_before.add_command(self.command.clone());
        }
        let answer = self.send(&mut connection).await;
        if let Err(error) = &answer
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            // Bodies that were staged are stored again, under the same names.
            self.lua.script.load_async(&mut connection).await?;
            return self.send(&mut connection).await;
        }
        answer
    }

    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let answer = if self.sent_before.is_empty() {
            connection.send_packed_command(&self.command).await?
        } else {
            let (all, count) = (&self.sent_before, self.sent_before.len());
            let mut answers = connection.send_packed_commands(all, 0, count).await?;
            let answer = answers.pop().unwrap_or(Value::Nil);
            // Without a body that was refused, the script has changed nothing.
            for staged in answers {
                staged.extract_error()?;
            }
            answer
        };
        let answer = answer.extract_error();
        let answer = answer.map_err(|error| with_command(&self.lua.parts.concat(), error))?;
        Ok(from_redis_value(answer)?)
    }
}

pub(super) fn is_staged(value: &EncodedValue) -> bool {
    value.body.len() >= STAGED_FROM
}

/// The time for which the store keeps a value, in ms: its TTL, and the time for which it may be a fallback.
pub(super) fn in_store_ms(ttls: Ttls) -> u64 {
    millis(ttls.in_store())
}

/// The error with which a script has ended, with the name of the command that it could not call: Redis 7.0 says only in
/// which line it is.
fn with_command(script: &str, error: RedisError) -> RedisError {
    let text = error.detail().unwrap_or_default();
    let (code, before, after) = if text.contains("can't run this command") {
        ("NOPERM", "no permissions to run the", "command")
    } else if text.contains("command called from script") {
        ("ERR", "unknown command", "")
    } else {
        return error;
    };
    // `… script: SHA1, on @user_script:LINE.`, where a line calls one command at most: a test looks after that.
    let command = || {
        let (_, number) = text.rsplit_once("user_script:")?;
        let number: usize = number.trim_end_matches('.').parse().ok()?;
        let line = script.lines().nth(number.checked_sub(1)?)?;
        line.split_once("redis.call('")?.1.split('\'').next()
    };
    let Some(command) = command() else {
        return error;
    };
    let text = format!("{before} '{command}' {after}");
    make_extension_error(code.to_owned(), Some(text))
}

/// The numbers that a script answers, packed into bytes. To parse a list of numbers takes the client several
/// times as long.
pub(super) fn unpack_numbers<const N: usize>(packed: &[u8]) -> Result<[u64; N], L2Error> {
    let numbers = packed.as_chunks().0.try_into();
    let numbers: [[u8; 8]; N] = numbers.map_err(|_| malformed_answer())?;
    Ok(numbers.map(u64::from_be_bytes))
}

/// The clock as a write has left it, which a script answers; and numbers that some scripts answer behind it.
pub(super) fn write_ack(packed: &[u8]) -> Result<(WriteAck, impl Iterator<Item = u64>), L2Error> {
    let (clock, more) = packed.split_at_checked(40).ok_or_else(malformed_answer)?;
    let [epoch, seq, ver, nonce, written_at] = unpack_numbers(clock)?;
    let ack = WriteAck {
        stamp: Stamp::new(epoch, ver, written_at),
        seq,
        nonce,
        ..WriteAck::default()
    };
    let more = more.as_chunks().0.iter().copied();
    Ok((ack, more.map(u64::from_be_bytes)))
}

/// The partition's clock: epoch, seq, ver, nonce, the time and whether all instances are off; and the incarnation that the
/// server names `run_id:master_replid`.
pub(super) fn clock(numbers: [u64; 6], incarnation: &str) -> PartitionClock {
    let [epoch, seq, ver, nonce, now, is_off] = numbers;
    PartitionClock {
        incarnation: XxHash3_64::oneshot(incarnation.as_bytes()),
        epoch,
        seq,
        ver,
        nonce,
        now,
        is_off: is_off == 1,
    }
}

pub(super) fn malformed_answer() -> L2Error {
    L2Error::unexpected("a script's answer makes no sense")
}
