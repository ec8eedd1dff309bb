//! The commands that change a cache: each by a call of the crate, of an instance for which nobody waits.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use larder::inspect::{Namespace, StoredKey};
use larder::{Cache, L2Error, RedisL2, WriteError};

use crate::Outcome;
use crate::check::is_missing_right;
use crate::ended::ended;
use crate::server::{Server, unknown};
use crate::text::Screen;

#[derive(Subcommand)]
pub(crate) enum Change {
    /// Removes keys from Redis and from all instances.
    Invalidate {
        #[command(flatten)]
        target: Target,
        /// Keys as text, such as tea or eu:42.
        #[arg(required = true)]
        keys: Vec<String>,
        /// Waits until no instance returns an old value.
        #[arg(long)]
        wait: bool,
    },
    /// Makes keys stale: the next look-up refreshes them.
    Expire {
        #[command(flatten)]
        target: Target,
        /// Keys as text, such as tea or eu:42.
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Removes all values that have one of these tags.
    Tag {
        #[command(flatten)]
        target: Target,
        /// Tags as text.
        #[arg(required = true)]
        tags: Vec<String>,
    },
    /// Removes all keys that begin with a text. If that fails half-way, it clears the cache.
    Prefix {
        #[command(flatten)]
        target: Target,
        /// What the keys begin with.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        prefix: String,
    },
    /// Removes all keys.
    Clear {
        #[command(flatten)]
        target: Target,
    },
    /// Switches the cache on or off in all instances: while it is off, the loaders answer.
    Switch {
        #[command(flatten)]
        target: Target,
        /// The state that the cache is to have.
        #[arg(value_enum)]
        state: State,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum State {
    On,
    Off,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

#[derive(Args)]
#[group(skip)]
pub(crate) struct Target {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// Does it. Without this, nothing is changed.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Says what it would do, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Target {
    /// The namespace, which some instance has used: an instance of this command would make one.
    pub(crate) async fn find(&self, l2: &RedisL2) -> Result<Namespace, Box<dyn Error>> {
        let namespace = Namespace::find(l2, &self.namespace).await?;
        if !namespace.is_known() {
            return Err(unknown(&self.namespace));
        }
        Ok(namespace)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.yes
    }

    /// Prints what would be done, and ends.
    pub(crate) fn nothing_changed(&self, screen: &Screen) -> Outcome {
        screen.print()?;
        if self.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Refused::NotConfirmed.into())
    }

    /// Does something as an instance that is no member of the fleet: others would wait for it after the command was
    /// killed. If a signal ends the command, it first sends what is deferred.
    pub(crate) async fn with_instance<T>(
        &self,
        l2: RedisL2,
        namespace: &Namespace,
        carry_out: impl AsyncFnOnce(&Cache<String, ()>) -> T,
    ) -> Result<T, Box<dyn Error>> {
        let cache = Cache::<String, ()>::builder(&self.namespace);
        let cache = cache.l2(l2).unlisted();
        // Those that it has: a larger number would close its partitions.
        let cache = cache.partitions(namespace.number_of_partitions()).build()?;
        let ended = ended()?;
        let done = tokio::select! {
            done = carry_out(&cache) => Ok(done),
            () = ended => Err(Refused::Ended),
        };
        // Takes a second at most.
        cache.close().await;
        Ok(done?)
    }
}

impl Change {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let target = self.target();
        let l2 = server.l2()?;
        let namespace = target.find(&l2).await?;
        if !target.is_confirmed() {
            let mut screen = Screen::default();
            self.show(&namespace, &mut screen).await?;
            return target.nothing_changed(&screen);
        }
        if let Self::Prefix { prefix, .. } = self {
            // Without the right to SCAN it would fail half-way.
            namespace.count(prefix).await?;
        }
        let carry_out = async |cache: &Cache<String, ()>| self.carry_out(&namespace, cache).await;
        let screen = target.with_instance(l2, &namespace, carry_out).await??;
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }

    fn target(&self) -> &Target {
        match self {
            Self::Invalidate { target, .. }
            | Self::Expire { target, .. }
            | Self::Tag { target, .. }
            | Self::Prefix { target, .. }
            | Self::Switch { target, .. }
            | Self::Clear { target } => target,
        }
    }

    /// Says what it would do.
    async fn show(&self, namespace: &Namespace, screen: &mut Screen) -> Result<(), L2Error> {
        let (keys, what) = match self {
            Self::Invalidate { keys, .. } => (keys, "invalidate"),
            Self::Expire { keys, .. } => (keys, "make stale"),
            Self::Tag { tags, .. } => {
                for tag in tags {
                    screen.line(format_args!("would remove all values with tag {tag}"));
                }
                return Ok(());
            }
            Self::Prefix { prefix, .. } => {
                let many = namespace.count(prefix).await?;
                screen.line(format_args!("would remove keys: {many}"));
                return Ok(());
            }
            Self::Clear { .. } => {
                match namespace.count("").await {
                    Ok(many) => screen.line(format_args!("would remove keys: {many}")),
                    // A clear needs no SCAN.
                    Err(error) if is_missing_right(&error) => {
                        screen.line("would remove all keys; to count them needs +scan");
                    }
                    Err(error) => return Err(error),
                }
                return Ok(());
            }
            Self::Switch { state, .. } => {
                screen.line(format_args!("would switch all instances {}", state.name()));
                return Ok(());
            }
        };
        for key in keys {
            let stored = namespace.key(key).await?;
            let values = match self {
                // It leaves all others as they are.
                Self::Expire { .. } => used_values(&stored),
                _ => stored.values.len(),
            };
            screen.line(format_args!("would {what} {key}: values {values}"));
        }
        Ok(())
    }

    /// Does it, and returns what was done.
    async fn carry_out(
        &self,
        namespace: &Namespace,
        cache: &Cache<String, ()>,
    ) -> Result<Screen, Refused> {
        let mut screen = Screen::default();
        match self {
            Self::Invalidate { keys, wait, .. } => {
                if *wait {
                    cache.invalidate_many_and_wait(keys).await?;
                } else {
                    cache.invalidate_many(keys).await?;
                }
                screen.line(format_args!("invalidated: {}", keys.len()));
            }
            Self::Expire { keys, .. } => {
                let mut absent = Vec::new();
                for key in keys {
                    // Before: a service may refresh it as soon as it is stale.
                    if used_values(&namespace.key(key).await?) == 0 {
                        absent.push(key);
                    }
                    // Also without one: a load that has begun is not stored.
                    cache.expire(key).await?;
                }
                screen.line(format_args!("made stale: {}", keys.len() - absent.len()));
                for key in absent {
                    screen.line(format_args!("no value: {key}"));
                }
            }
            Self::Tag { tags, .. } => {
                cache.invalidate_tags(tags).await?;
                screen.line(format_args!("tags invalidated: {}", tags.len()));
            }
            Self::Prefix { prefix, .. } => {
                let removed = cache.invalidate_prefix(prefix).await?;
                screen.line(format_args!("removed: {removed}"));
            }
            Self::Clear { .. } => {
                cache.clear().await?;
                screen.line("cleared");
            }
            Self::Switch { state, .. } => {
                let is_on = matches!(state, State::On);
                cache.set_enabled_everywhere(is_on).await?;
                screen.line(format_args!("switched {}", state.name()));
            }
        }
        Ok(screen)
    }
}

/// How many values of a key instances use.
fn used_values(key: &StoredKey) -> usize {
    let values = key.values.iter().flatten();
    values.filter(|value| key.why_not(value).is_empty()).count()
}

/// Why nothing was changed, or not certainly.
#[derive(Debug)]
enum Refused {
    NotConfirmed,
    /// By a signal.
    Ended,
    Failed(WriteError),
    NotAnswered(L2Error),
}

impl From<WriteError> for Refused {
    fn from(error: WriteError) -> Self {
        Self::Failed(error)
    }
}

impl From<L2Error> for Refused {
    fn from(error: L2Error) -> Self {
        Self::NotAnswered(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfirmed => f.write_str("nothing was changed; give --yes to do it"),
            Self::Ended => f.write_str("ended by a signal, and not certainly done; run it again"),
            Self::Failed(error) if error.is_deferred() => {
                f.write_str("not certainly done; run it again when the cause is gone")
            }
            Self::Failed(error) => error.fmt(f),
            Self::NotAnswered(error) => error.fmt(f),
        }
    }
}

impl Error for Refused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            // Not only its cause: by the error itself the line has the address of the server.
            Self::NotAnswered(error) => Some(error),
            Self::NotConfirmed | Self::Ended => None,
        }
    }
}
