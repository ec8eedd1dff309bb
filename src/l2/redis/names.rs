//! The names of one lane's keys.

use std::io::Write;

use deadpool_redis::redis::{RedisWrite, ToRedisArgs};

#[derive(Clone)]
pub(super) struct Names {
    pub(super) tag: String,
    pub(super) clock: String,
    pub(super) log: String,
    pub(super) live: String,
    pub(super) events: String,
}

impl Names {
    pub(super) fn new(namespace: &str, db: i64) -> Self {
        let tag = format!("{{{namespace}.0}}");
        // Channels are not part of a database: without its number, two databases would hear each other.
        let database = if db == 0 {
            String::new()
        } else {
            format!("@{db}")
        };
        Self {
            clock: format!("{tag}!clock"),
            log: format!("{tag}!log"),
            live: format!("{tag}!live"),
            events: format!("{tag}!events{database}"),
            tag,
        }
    }

    pub(super) fn value<'a>(&'a self, key: &'a str) -> Name<'a> {
        Name([&self.tag, ":", key])
    }

    pub(super) fn lease<'a>(&'a self, key: &'a str) -> Name<'a> {
        Name([&self.tag, "!lease:", key])
    }

    pub(super) fn hold<'a>(&'a self, key: &'a str) -> Name<'a> {
        Name([&self.tag, "!hold:", key])
    }
}

/// The name that belongs to a key of the user's, in its parts: they are put together in the command that is sent.
pub(super) struct Name<'a>([&'a str; 3]);

impl Name<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }
}

impl ToRedisArgs for Name<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        let mut name = out.writer_for_next_arg();
        for part in self.0 {
            // To memory, which takes all.
            let _ = name.write_all(part.as_bytes());
        }
    }
}
