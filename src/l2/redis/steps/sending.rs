//! How a step is sent: a script or a command, again when its connection is lost, and a write not after its deadline.

use std::time::Duration;

use deadpool_redis::redis::{Cmd, FromRedisValue};
use futures::FutureExt;
use tokio::time::{Instant, sleep};

use super::partition::RedisPartition;
use crate::key::Key;
use crate::l2::redis::connections::connect::Failure;
use crate::l2::redis::script_call::{LuaScript, ScriptCall, malformed_answer};
use crate::l2::{L2Error, Reply};
use crate::wire::envelope::{self, MAX_TAGS, MAX_VALUES};

/// For how many timeouts a caller waits for a write whose first copy may still arrive; after that it is an error.
const LONGEST_DOUBT: u32 = 2;
/// The attempts of a script that needs the tags of the stored value, if the tags change between the attempts.
const MAX_TAG_ATTEMPTS: usize = 4;
impl RedisPartition {
    /// A step that runs a script with this number of keys. `write` adds the keys and the arguments, anew for each copy
    /// that is sent: a random number must not repeat.
    pub(super) fn step<'a, A: FromRedisValue + Send, T>(
        &'a self,
        lua: &'static LuaScript,
        keys: usize,
        read: impl FnOnce(A) -> Result<T, L2Error> + Send + 'a,
        write: impl Fn(&mut ScriptCall<'a>) + Send + Sync + 'a,
    ) -> Reply<'a, T> {
        let send = move |connection| {
            let mut call = ScriptCall::new(lua, &self.names, keys);
            write(&mut call);
            call.run(connection)
        };
        async move { read(self.connections.send(send).await?) }.boxed()
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, L2Error> {
        let send = |mut connection| async move { command.query_async(&mut connection).await };
        self.connections.send(send).await
    }

    /// Sends a write that must not arrive late: the script refuses it after the deadline, and until then this does not
    /// return while a copy may be on its way. `read` reads the answer, and when the store has given it.
    pub(super) async fn send_before_deadline<'a, T: Send>(
        &self,
        deadline: Option<u64>,
        call: impl Fn() -> ScriptCall<'a> + Sync,
        read: impl Fn(&[u8]) -> Result<(T, u64), L2Error> + Sync,
    ) -> Result<T, L2Error> {
        let late = || L2Error::unexpected("the write came after its deadline");
        let limit = self.connections.limit();
        let once = || async {
            let send = |connection| call().run::<Option<Vec<u8>>>(connection);
            let answer = self
                .connections
                .send_copy(Instant::now() + limit, &send)
                .await?;
            let answer = answer.ok_or_else(late).and_then(|answer| read(&answer));
            // A late copy was refused, and an answer that cannot be read is one: neither is sent again.
            answer.map_err(Failure::Final)
        };
        self.connections.leave_ended();
        let answer = match (once().await, deadline) {
            // No copy is on its way, so the second one is like a first.
            (Err(Failure::NotExecuted(_)), _) => once().await,
            (Err(Failure::InDoubt(error)), Some(deadline)) => {
                // Whatever becomes of the second copy, the first may have been executed or not.
                let Ok((answer, at)) = once().await else {
                    return Err(error);
                };
                // The first copy may still be on its way. It must not arrive after the caller was answered: it could
                // undo an invalidation that follows (rule 14: deferred writes).
                // `at` is the store's time, as the deadline is: no clock of this process takes part.
                let in_doubt = deadline.saturating_sub(at).saturating_add(1);
                let in_doubt = Duration::from_millis(in_doubt);
                if in_doubt > limit * LONGEST_DOUBT {
                    return Err(error);
                }
                sleep(in_doubt).await;
                return Ok(answer);
            }
            (answer, _) => answer,
        };
        let (answer, _) = answer.map_err(Failure::into_error)?;
        Ok(answer)
    }

    /// Sends a write as [`send_before_deadline`](Self::send_before_deadline) does, whose script has to be told the tags
    /// of the stored value, or of all values of the key: if the script answers with other tags, the write is sent again
    /// with these. `call` is given the tags as they are stored, and their names.
    pub(super) async fn send_with_tags<'a, T: Send>(
        &self,
        deadline: Option<u64>,
        call: impl Fn(&[u8], &[Key]) -> ScriptCall<'a> + Sync,
        read: impl Fn(&[u8]) -> Result<(T, u64), L2Error> + Sync,
    ) -> Result<T, L2Error> {
        let read = |answer: &[u8]| match answer.split_first() {
            // Any other answer begins with a time, which is not that late.
            Some((b'T', tags)) => {
                let (at, tags) = tags.split_first_chunk().ok_or_else(malformed_answer)?;
                Ok((Err(tags.to_vec()), u64::from_be_bytes(*at)))
            }
            _ => read(answer).map(|(answer, at)| (Ok(answer), at)),
        };
        // First as for a value without tags, which most have: an attempt that guesses wrong costs one round trip, and
        // a request that asks for the tags first would cost it each time.
        let mut stored = Vec::new();
        for _ in 0..MAX_TAG_ATTEMPTS {
            // Of a damaged value the tags cannot be read.
            let tags = envelope::parse_tags(&stored, MAX_VALUES * MAX_TAGS);
            let tags = tags.ok_or_else(malformed_answer)?;
            let call = || call(&stored, &tags);
            match self.send_before_deadline(deadline, call, read).await? {
                Ok(answer) => return Ok(answer),
                Err(tags) => stored = tags,
            }
        }
        Err(L2Error::unexpected("the tags of a value changed each time"))
    }
}
