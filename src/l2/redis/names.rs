//! The names of one lane's keys: the lane's hash tag, a mark, and a text for all but the keys that a lane has once. And
//! those of its channel and its connections.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisWrite, ToRedisArgs, cmd};
use tracing::warn;

/// The mark of a user's key.
pub(crate) const VALUE: &str = ":";
pub(crate) const LEASE: &str = "!lease:";
pub(crate) const HOLD: &str = "!hold:";
/// Of a tag: its marker says when it was last invalidated.
pub(crate) const MARKER: &str = "!tag:";
/// Of one request, named by a random number: its answer.
pub(crate) const DONE: &str = "!done:";
/// Of a body that waits for a script, named by a random number.
pub(super) const STAGED: &str = "!staged:";
pub(crate) const CLOCK: &str = "!clock";
pub(crate) const LOG: &str = "!log";
pub(crate) const LIVE: &str = "!live";
pub(super) const STATS: &str = "!stats";
pub(super) const WRITES: &str = "!writes";

pub(crate) struct Names {
    pub(super) namespace: String,
    tag: String,
    /// The channel of the lane's messages.
    pub(crate) events: String,
    /// That of the connections in `CLIENT LIST`.
    client: String,
    /// Whether the user may not give connections a name, and a warning said so.
    is_client_refused: AtomicBool,
}

/// The parts of one argument, which are written into a command one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Joined<P, const N: usize>(pub(crate) [P; N]);

/// The hash tag, the mark and the text of a key.
pub(crate) type Name<'a> = Joined<&'a str, 3>;

impl Names {
    pub(crate) fn new(namespace: &str, db: i64) -> Self {
        // A hash tag keeps all keys of a lane in one slot. The number leaves room for several lanes of a namespace.
        let tag = format!("{{{namespace}.0}}");
        let mut events = format!("{tag}!events");
        // Channels are not part of a database: without its number, two databases would receive each other's messages.
        if db != 0 {
            events = format!("{events}@{db}");
        }
        // Redis takes printable ASCII without spaces.
        let printable = namespace.replace(|char: char| !char.is_ascii_graphic(), "_");
        Self {
            namespace: namespace.to_owned(),
            events,
            client: format!("larder:{printable}"),
            is_client_refused: AtomicBool::new(false),
            tag,
        }
    }

    /// The name of a key with one of the marks above.
    pub(crate) fn name<'a>(&'a self, mark: &'a str, text: &'a str) -> Name<'a> {
        Joined([&self.tag, mark, text])
    }

    /// Gives a connection its name, if it is new. Without one it works as well.
    pub(super) async fn give_name(&self, is_new: bool, mut connection: MultiplexedConnection) {
        if !is_new {
            return;
        }
        let mut command = cmd("CLIENT");
        command.arg("SETNAME").arg(&self.client);
        let named: Result<(), _> = command.query_async(&mut connection).await;
        if let Err(error) = named
            && error.code() == Some("NOPERM")
            && !self.is_client_refused.swap(true, Ordering::Relaxed)
        {
            warn!(
                name = self.client,
                "connections have no name in CLIENT LIST: the Redis user may not run client|setname; add +client|setname to its rights"
            );
        }
    }

    /// A pattern of `SCAN` that matches the values whose key begins with `prefix`, and nothing else.
    pub(crate) fn values_under(&self, prefix: &str) -> String {
        let mut pattern = String::new();
        // A namespace may contain these characters, too.
        for char in (self.name(VALUE, prefix).0.into_iter()).flat_map(str::chars) {
            if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern.push('*');
        pattern
    }
}

impl Name<'_> {
    pub(super) fn len(self) -> usize {
        self.0.map(str::len).iter().sum()
    }
}

impl<P: AsRef<[u8]>, const N: usize> ToRedisArgs for Joined<P, N> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut arg = out.writer_for_next_arg();
        for part in &self.0 {
            // Into memory, so it does not fail.
            let _ = arg.write_all(part.as_ref());
        }
    }
}
