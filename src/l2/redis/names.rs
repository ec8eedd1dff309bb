//! The names of one lane's keys.

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

    pub(super) fn value(&self, key: &str) -> String {
        let mut name = String::with_capacity(self.tag.len() + 1 + key.len());
        self.write_value(&mut name, key);
        name
    }

    pub(super) fn write_value(&self, name: &mut String, key: &str) {
        name.push_str(&self.tag);
        name.push(':');
        name.push_str(key);
    }

    pub(super) fn lease(&self, key: &str) -> String {
        format!("{}!lease:{key}", self.tag)
    }

    pub(super) fn hold(&self, key: &str) -> String {
        format!("{}!hold:{key}", self.tag)
    }
}
