//! `larder tail`: the changes of a cache as they happen.

use std::collections::HashMap;

use clap::Args;
use futures::FutureExt;
use futures::future::join_all;
use larder::inspect::Namespace;
use larder::l2::Kind;
use serde_json::json;

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::{Screen, escaped};

/// How many changes are asked about at once, at most.
const TOGETHER: usize = 100;

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
        while let Some(first) = changes.next().await {
            // Those that have come are asked about together: a round trip for each would be slow.
            let mut some = vec![first];
            while some.len() < TOGETHER
                && let Some(next) = changes.next().now_or_never().flatten()
            {
                some.push(next);
            }
            let asked = some
                .iter()
                .map(|(lane, message)| changes.is_expire(*lane, message));
            // A change whose log cannot be read is shown by its message alone.
            let asked = asked.map(|asked| asked.map(Result::unwrap_or_default));
            let are_expires = join_all(asked).await;
            let mut screen = Screen::default();
            for ((lane, message), is_expire) in some.iter().zip(are_expires) {
                let before = last.insert(lane.number, message.seq);
                let missed = before.and_then(|before| message.seq.checked_sub(before + 1));
                let change = if is_expire {
                    "expire"
                } else {
                    name(message.kind)
                };
                if self.json {
                    screen.line(json!({
                        "lane": lane.number,
                        "epoch": message.epoch,
                        "version": message.ver,
                        "origin": format!("{:016x}", message.origin),
                        "change": change,
                        "keys": message.keys.iter().map(|key| &**key).collect::<Vec<&str>>(),
                        "missed": missed.unwrap_or(0),
                    }));
                    continue;
                }
                if let Some(missed) = missed.filter(|missed| *missed > 0) {
                    screen.line(format_args!("missed: {missed}"));
                }
                let keys = message.keys.iter().map(|key| format!(" {key}"));
                let keys: String = keys.collect();
                screen.line(format_args!("{} {change}{keys}", message.ver));
            }
            screen.print()?;
        }
        Err("the connection has ended".into())
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
