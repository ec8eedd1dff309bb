//! `larder tail`: the changes of a cache as they happen.

use std::collections::HashMap;
use std::fmt;

use clap::Args;
use larder::inspect::Namespace;
use larder::l2::{Key, Kind, Message};
use serde_json::json;

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::{Screen, escaped};

#[derive(Args)]
pub(crate) struct Tail {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// Prints each change as JSON, in a line.
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let namespace = Namespace::find(&server.l2()?, &self.namespace).await?;
        if !namespace.is_known() {
            // It may have several lanes.
            return Err(unknown(&self.namespace));
        }
        let mut changes = namespace.changes().await?;
        // On stderr, so that stdout has nothing but changes.
        eprintln!("subscribed to {}", escaped(&self.namespace));
        // By lane, the number of the last message.
        let mut last = HashMap::new();
        while let Some((lane, message)) = changes.next().await {
            let before = last.insert(lane.number, message.seq);
            let missed = before.and_then(|before| message.seq.checked_sub(before + 1));
            let mut screen = Screen::default();
            if self.json {
                let change = json!({
                    "lane": lane.number,
                    "epoch": message.epoch,
                    "version": message.ver,
                    "origin": format!("{:016x}", message.origin),
                    "change": name(message.kind),
                    "keys": message.keys.iter().map(|key| &**key).collect::<Vec<&str>>(),
                    "missed": missed.unwrap_or(0),
                });
                screen.line(change);
            } else {
                if let Some(missed) = missed.filter(|missed| *missed > 0) {
                    screen.line(format_args!("missed: {missed}"));
                }
                screen.line(Line(&message));
            }
            screen.print()?;
        }
        Err("the connection has ended".into())
    }
}

/// A change as a line: its version, what it is, and its keys.
struct Line<'a>(&'a Message);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(message) = self;
        write!(f, "{} {}", message.ver, name(message.kind))?;
        (message.keys.iter()).try_for_each(|key: &Key| write!(f, " {key}"))
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Insert => "insert",
        Kind::Invalidate => "invalidate",
        Kind::InvalidateAwaited => "invalidate-and-wait",
        Kind::Clear => "clear",
        Kind::Tags => "tag",
        Kind::Prefix => "prefix",
        _ => "unknown",
    }
}
