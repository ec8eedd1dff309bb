//! `larder tail`: the changes of a cache as they happen, or the last ones that there were.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::FutureExt;
use futures::future::join_all;
use larder::inspect::{FleetState, Kind, LoggedChange, Message, Namespace, PartitionNumber, Watch};
use serde_json::json;
use tokio::time::Instant;

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::{Screen, date, escaped};

/// How many changes are asked about at once, at most.
const TOGETHER: usize = 100;
/// How long the names of instances are believed to be all.
const NAMES: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Tail {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// Prints this many of the last changes in the log, the newest at the end, and ends.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// With --last: only changes that may concern this key.
    #[arg(long, requires = "last", allow_hyphen_values = true)]
    key: Option<String>,
    /// Prints each change as JSON, in a line.
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let l2 = server.l2()?;
        let namespace = Namespace::find(&l2, &self.namespace).await?;
        if !namespace.is_known() {
            // It may have several partitions.
            return Err(unknown(&self.namespace));
        }
        let mut instances = Instances::new(Watch::new(&l2));
        match self.last {
            Some(most) => self.show_last(&namespace, most, &mut instances).await,
            None => self.follow(&namespace, &mut instances).await,
        }
    }

    async fn show_last(
        &self,
        namespace: &Namespace,
        most: usize,
        instances: &mut Instances,
    ) -> Outcome {
        let changes = namespace.last_changes(most, self.key.as_deref()).await?;
        let mut screen = Screen::default();
        for logged in &changes {
            let change = Change {
                partition: logged.partition,
                message: &logged.message,
                logged: Some(logged),
                missed: None,
            };
            self.show(&change, instances, &mut screen).await;
        }
        screen.print()?;
        if changes.len() < most {
            // On stderr, so that stdout has nothing but changes.
            eprintln!("the log has no others; a clear empties it");
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn follow(&self, namespace: &Namespace, instances: &mut Instances) -> Outcome {
        let mut changes = namespace.changes().await?;
        eprintln!("subscribed to {}", escaped(&self.namespace));
        // By partition, the number of the last message.
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
                .map(|(partition, message)| changes.logged(*partition, message));
            // A change whose log cannot be read is shown by its message alone.
            let asked = asked.map(|asked| asked.map(Result::unwrap_or_default));
            let logged = join_all(asked).await;
            let mut screen = Screen::default();
            for ((partition, message), logged) in some.iter().zip(&logged) {
                let before = last.insert(partition.number, message.seq);
                let change = Change {
                    partition: *partition,
                    message,
                    logged: logged.as_ref(),
                    missed: before.and_then(|before| message.seq.checked_sub(before + 1)),
                };
                self.show(&change, instances, &mut screen).await;
            }
            screen.print()?;
        }
        Err("the connection has ended".into())
    }

    async fn show(&self, change: &Change<'_>, instances: &mut Instances, screen: &mut Screen) {
        let Change { message, .. } = change;
        let at = change.logged.and_then(|logged| logged.at);
        let instance = instances.name(&self.namespace, message.origin).await;
        if self.json {
            screen.line(json!({
                "partition": change.partition.number,
                "epoch": message.epoch,
                "version": message.ver,
                "at": at,
                "origin": format!("{:016x}", message.origin),
                "instance": instance,
                "change": change.name(),
                "keys": message.keys.iter().map(|key| &**key).collect::<Vec<&str>>(),
                "missed": change.missed.unwrap_or(0),
            }));
            return;
        }
        if let Some(missed) = change.missed.filter(|missed| *missed > 0) {
            screen.line(format_args!("missed: {missed}"));
        }
        let instance = match (instance, message.origin) {
            (Some(name), _) => name.to_owned(),
            (None, OTHER_LANGUAGE) => "script".to_owned(),
            (None, id) => format!("{id:x}"),
        };
        let keys = message.keys.iter().map(|key| format!(" {key}"));
        let (ver, at, name, keys) = (
            message.ver,
            date(at),
            change.name(),
            keys.collect::<String>(),
        );
        screen.line(format_args!("{ver} {at} {instance} {name}{keys}"));
    }
}

/// The origin of a change by the script for other languages.
const OTHER_LANGUAGE: u64 = 0;

/// A change that is shown.
struct Change<'a> {
    partition: PartitionNumber,
    message: &'a Message,
    logged: Option<&'a LoggedChange>,
    /// How many messages did not arrive before it, if that is known.
    missed: Option<u64>,
}

impl Change<'_> {
    fn name(&self) -> &'static str {
        match self.message.kind {
            Kind::Insert => "insert",
            Kind::Invalidate if self.logged.is_some_and(|logged| logged.is_expire) => "expire",
            Kind::Invalidate => "invalidate",
            Kind::InvalidateAwaited => "invalidate-and-wait",
            Kind::Clear => "clear",
            Kind::Tags => "tag",
            Kind::Prefix => "prefix",
            _ => "unknown",
        }
    }
}

/// The names of the instances, as they have stored them with their counters.
struct Instances {
    watch: Watch,
    fleet: Option<FleetState>,
    looked: Option<Instant>,
}

impl Instances {
    fn new(watch: Watch) -> Self {
        Self {
            watch,
            fleet: None,
            looked: None,
        }
    }

    /// `None` if it is not known, as of an instance that has not stored it yet.
    async fn name(&mut self, namespace: &str, id: u64) -> Option<&str> {
        let is_due = self.looked.is_none_or(|at| at.elapsed() >= NAMES);
        let is_known = |fleet: &FleetState| fleet.name(id).is_some();
        if is_due && id != OTHER_LANGUAGE && !self.fleet.as_ref().is_some_and(is_known) {
            // Without the right to read them, changes are shown all the same.
            let fleet = self.watch.look(namespace).await.ok().flatten();
            self.fleet = fleet.or_else(|| self.fleet.take());
            self.looked = Some(Instant::now());
        }
        self.fleet.as_ref()?.name(id)
    }
}
