//! One call of a script: how it is written, sent and answered. Knows no script.

use std::iter;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs,
    from_redis_value,
};

use crate::l2::L2Error;

/// A script with its keys and then its arguments, written one after the other into the command that is sent.
/// The client's own way to call a script allocates for each of them.
pub(super) struct Call<'a> {
    script: &'a Script,
    command: Cmd,
}

impl<'a> Call<'a> {
    /// A call with this number of keys.
    pub(super) fn new(script: &'a Script, keys: usize) -> Self {
        Self::with_values(script, keys, iter::empty())
    }

    /// A call with this number of keys, and with values of these sizes, each followed by its TTLs.
    pub(super) fn with_values(
        script: &'a Script,
        keys: usize,
        values: impl ExactSizeIterator<Item = usize>,
    ) -> Self {
        let parts = 3 + keys + 8;
        let all = parts + 2 * values.len();
        // A command that grows is copied each time.
        let mut command =
            Cmd::with_capacity(all, 32 * parts + values.map(|n| n + 56).sum::<usize>());
        command.arg("EVALSHA").arg(script.get_hash()).arg(keys);
        Self { script, command }
    }

    pub(super) fn arg(&mut self, part: impl ToRedisArgs) -> &mut Self {
        self.command.arg(part);
        self
    }

    /// Runs the script; loads it first if the server does not know it. NOSCRIPT means that nothing was executed,
    /// so sending the same call again is safe.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let answer = self.send(connection).await;
        if let Err(error) = &answer
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            self.script.load_async(connection).await?;
            return self.send(connection).await;
        }
        answer
    }

    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let answer = connection.send_packed_command(&self.command).await?;
        Ok(from_redis_value(answer.extract_error()?)?)
    }
}

/// The numbers that a script answers, packed into bytes. To parse a list of numbers takes the client several
/// times as long.
pub(super) fn numbers<const N: usize>(packed: &[u8]) -> Result<[u64; N], L2Error> {
    let (numbers, _) = packed.as_chunks();
    let numbers: [[u8; 8]; N] = numbers
        .try_into()
        .map_err(|_| L2Error::unexpected("a script's answer makes no sense"))?;
    Ok(numbers.map(u64::from_be_bytes))
}
