//! The commands that change a cache: each by a call of the crate, of an instance that joins the fleet for it.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use larder::inspect::Namespace;
use larder::{BuildError, Cache, L2Error, RedisL2, WriteError};
use tokio::time::timeout;

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::Screen;

/// How long the instance may take to subscribe.
const SUBSCRIBE: Duration = Duration::from_secs(2);

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

    /// Does something as an instance of the fleet, which joins it for that.
    pub(crate) async fn with_instance<T>(
        &self,
        l2: RedisL2,
        namespace: &Namespace,
        carry_out: impl AsyncFnOnce(&Cache<String, ()>) -> T,
    ) -> Result<T, BuildError> {
        let cache = Cache::<String, ()>::builder(&self.namespace).l2(l2);
        // Those that it has: a larger number would close its lanes.
        let cache = cache.lanes(namespace.number_of_lanes()).build()?;
        // A subscription that is still under way at the end would leave a member behind, for which others wait. Without
        // the right to subscribe there is none.
        _ = timeout(SUBSCRIBE, cache.ready()).await;
        let done = carry_out(&cache).await;
        cache.close().await;
        Ok(done)
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
        let carry_out = async |cache: &Cache<String, ()>| self.carry_out(cache).await;
        let done = target.with_instance(l2, &namespace, carry_out).await?;
        let mut screen = Screen::default();
        screen.line(done.map_err(Refused::Failed)?);
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }

    fn target(&self) -> &Target {
        match self {
            Self::Invalidate { target, .. }
            | Self::Expire { target, .. }
            | Self::Tag { target, .. }
            | Self::Prefix { target, .. }
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
                let many = namespace.count("").await?;
                screen.line(format_args!("would remove keys: {many}"));
                return Ok(());
            }
        };
        for key in keys {
            let values = namespace.key(key).await?.values.len();
            screen.line(format_args!("would {what} {key}: values {values}"));
        }
        Ok(())
    }

    /// Does it, and returns what was done.
    async fn carry_out(&self, cache: &Cache<String, ()>) -> Result<String, WriteError> {
        Ok(match self {
            Self::Invalidate { keys, wait, .. } => {
                if *wait {
                    for key in keys {
                        cache.invalidate_and_wait(key).await?;
                    }
                } else {
                    cache.invalidate_many(keys).await?;
                }
                format!("invalidated: {}", keys.len())
            }
            Self::Expire { keys, .. } => {
                for key in keys {
                    cache.expire(key).await?;
                }
                format!("made stale: {}", keys.len())
            }
            Self::Tag { tags, .. } => {
                cache.invalidate_tags(tags).await?;
                format!("tags invalidated: {}", tags.len())
            }
            Self::Prefix { prefix, .. } => {
                format!("removed: {}", cache.invalidate_prefix(prefix).await?)
            }
            Self::Clear { .. } => {
                cache.clear().await?;
                "cleared".to_owned()
            }
        })
    }
}

/// Why nothing was changed, or not certainly.
#[derive(Debug)]
enum Refused {
    NotConfirmed,
    Failed(WriteError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfirmed => f.write_str("nothing was changed; give --yes to do it"),
            Self::Failed(error) if error.is_deferred() => {
                f.write_str("not certainly done; run it again when the cause is gone")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for Refused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::NotConfirmed => None,
        }
    }
}
