//! The names of one lane's keys.

use std::sync::Arc;

use super::client_name::ClientName;

#[derive(Clone)]
pub(crate) struct Names {
    pub(super) namespace: String,
    pub(crate) tag: String,
    pub(crate) clock: String,
    pub(crate) log: String,
    pub(crate) live: String,
    pub(super) stats: String,
    pub(super) writes: String,
    #[cfg(feature = "write-behind")]
    pub(super) dead: String,
    #[cfg(feature = "write-behind")]
    pub(super) worker: String,
    pub(crate) events: String,
    pub(super) client: Arc<ClientName>,
}

impl Names {
    pub(crate) fn new(namespace: &str, db: i64) -> Self {
        let tag = format!("{{{namespace}.0}}");
        // Channels are not part of a database: without its number, two databases would receive each other's messages.
        let database = if db == 0 {
            String::new()
        } else {
            format!("@{db}")
        };
        Self {
            namespace: namespace.to_owned(),
            clock: format!("{tag}!clock"),
            log: format!("{tag}!log"),
            live: format!("{tag}!live"),
            stats: format!("{tag}!stats"),
            writes: format!("{tag}!writes"),
            #[cfg(feature = "write-behind")]
            dead: format!("{tag}!dead"),
            #[cfg(feature = "write-behind")]
            worker: format!("{tag}!worker"),
            events: format!("{tag}!events{database}"),
            client: Arc::new(ClientName::new(namespace)),
            tag,
        }
    }

    /// The name of a user's key in Redis, written into `name`.
    pub(crate) fn value<'n>(&self, name: &'n mut String, key: &str) -> &'n str {
        self.write(name, ":", key)
    }

    pub(crate) fn lease<'n>(&self, name: &'n mut String, key: &str) -> &'n str {
        self.write(name, "!lease:", key)
    }

    pub(crate) fn hold<'n>(&self, name: &'n mut String, key: &str) -> &'n str {
        self.write(name, "!hold:", key)
    }

    /// Of a tag: says when it was last invalidated.
    pub(crate) fn marker<'n>(&self, name: &'n mut String, tag: &str) -> &'n str {
        self.write(name, "!tag:", tag)
    }

    /// Of one call, named by a random number.
    pub(crate) fn done<'n>(&self, name: &'n mut String, call: u64) -> &'n str {
        self.write(name, "!done:", &call.to_string())
    }

    /// Of a body that waits for a script, named by a random number.
    pub(crate) fn staged<'n>(&self, name: &'n mut String, body: u64) -> &'n str {
        self.write(name, "!staged:", &body.to_string())
    }

    /// Of an instance: its last report.
    pub(super) fn reported<'n>(&self, name: &'n mut String, instance: u64) -> &'n str {
        self.write(name, "!reported:", &instance.to_string())
    }

    /// A pattern of `SCAN` that matches the values whose key begins with `prefix`, and nothing else.
    pub(crate) fn values_under(&self, prefix: &str) -> String {
        let mut pattern = String::new();
        for char in [&self.tag, ":", prefix].into_iter().flat_map(str::chars) {
            if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern.push('*');
        pattern
    }

    fn write<'n>(&self, name: &'n mut String, mark: &str, key: &str) -> &'n str {
        name.clear();
        for part in [&self.tag, mark, key] {
            name.push_str(part);
        }
        name
    }
}
