//! `larder bypass`: switches the cache off for some keys in all instances, for a while.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use larder::L2Error;
use larder::inspect::{BypassList, FleetState, LONGEST_BYPASS, Namespace, Watch};
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::change::Target;
use crate::server::Server;
use crate::text::{self, Screen, age};

/// Between two looks at the instances.
const PAUSE: Duration = Duration::from_millis(200);
/// For the requests.
const SPARE: Duration = Duration::from_secs(2);
/// The command does not wait longer, however long a `max_staleness` is.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Args)]
#[command(group(clap::ArgGroup::new("change").args(["duration", "end"])))]
pub(crate) struct Bypass {
    #[command(flatten)]
    target: Target,
    /// What the keys begin with, such as eu: for all keys of a tenant. Without it, shows what is bypassed.
    #[arg(value_parser = NonEmptyStringValueParser::new(), requires = "change")]
    prefix: Option<String>,
    /// For how long, such as 90s or 1h 30m, by the clock of Redis.
    #[arg(long = "for", value_name = "TIME", value_parser = time, requires = "prefix")]
    duration: Option<Duration>,
    /// Uses the cache for these keys again.
    #[arg(long, requires = "prefix")]
    end: bool,
}

impl Bypass {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let l2 = server.l2()?;
        let namespace = self.target.find(&l2).await?;
        let mut screen = Screen::default();
        let Some(prefix) = &self.prefix else {
            show(&namespace.bypassed().await?, &mut screen);
            screen.print()?;
            return Ok(ExitCode::SUCCESS);
        };
        // Without a time it ends.
        let duration = self.duration.unwrap_or_default();
        if !self.target.is_confirmed() {
            if duration.is_zero() {
                screen.line(format_args!("would end the bypass of {prefix}"));
            } else {
                let keys = namespace.count(prefix).await?;
                screen.line(format_args!("would bypass {prefix}, keys {keys}"));
            }
            return self.target.nothing_changed(&screen);
        }
        namespace.bypass(prefix, duration).await?.ok_or(TooMany)?;
        let (list, instances) = self.followers(&namespace, &Watch::new(&l2)).await?;
        show(&list, &mut screen);
        if !duration.is_zero() && !list.prefixes.contains_key(prefix) {
            screen.line(format_args!("the bypass of {prefix} has ended"));
        }
        let follow = instances.values().filter(|instance| instance.follows);
        screen.row(
            "follow",
            format_args!("{} of {}", follow.count(), instances.len()),
        );
        for instance in instances.values().filter(|instance| !instance.follows) {
            screen.row("  not yet", &instance.name);
        }
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }

    /// The list, and the instances, when all of them follow it, or when those in use should.
    async fn followers(
        &self,
        namespace: &Namespace,
        watch: &Watch,
    ) -> Result<(BypassList, BTreeMap<u64, Instance>), L2Error> {
        let began = Instant::now();
        loop {
            // Each time: another bypass may end meanwhile, or somebody else may change the list.
            let list = namespace.bypassed().await?;
            let fleet = watch.look(self.target.namespace()).await?;
            let (instances, patience) = match fleet {
                Some(fleet) => instances(&fleet, &list, began.elapsed()),
                None => Default::default(),
            };
            let do_all = instances.values().all(|instance| instance.follows);
            if do_all || began.elapsed() > patience.min(LONGEST_WAIT) {
                return Ok((list, instances));
            }
            sleep(PAUSE).await;
        }
    }
}

/// An instance that is subscribed.
struct Instance {
    name: String,
    follows: bool,
}

/// The instances by their ids, and how long one that is in use takes to follow at most. The list was changed so long ago.
fn instances(
    fleet: &FleetState,
    list: &BypassList,
    since: Duration,
) -> (BTreeMap<u64, Instance>, Duration) {
    let (mut instances, mut longest) = (BTreeMap::new(), Duration::ZERO);
    for member in fleet
        .partitions
        .iter()
        .flat_map(|partition| &partition.members)
    {
        let stored = fleet.stored.get(&member.info.id);
        let name = fleet.name(member.info.id);
        let mut name = name.map_or_else(|| format!("{:x}", member.info.id), str::to_owned);
        if let Some(stored) = stored {
            // Into a string, so it does not fail.
            _ = write!(name, ", counted {} ago", age(stored.ago));
        }
        // An instance that follows no list may not have heard of the former one yet.
        let follows = stored.is_some_and(|stored| {
            stored.bypass == list.id && (list.id.is_some() || stored.ago < since)
        });
        instances.insert(member.info.id, Instance { name, follows });
        longest = longest.max(BypassList::followed_within(member.info.max_staleness));
    }
    (instances, longest + SPARE)
}

/// Reads a time such as 1h.
fn time(text: &str) -> Result<Duration, &'static str> {
    let mistakes = [
        "give a time such as 90s or 1h 30m",
        "give a time from 1s to 30days",
    ];
    text::time(text, SHORTEST..=LONGEST_BYPASS, mistakes)
}

fn show(list: &BypassList, screen: &mut Screen) {
    if list.prefixes.is_empty() {
        screen.row("bypassed", "none");
    }
    for (prefix, left) in &list.prefixes {
        screen.row("bypassed", prefix);
        screen.row("  for", format_args!("{} more", age(*left)));
    }
}

#[derive(Debug)]
struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 prefixes are bypassed; end the bypass of another one first")
    }
}

impl Error for TooMany {}
