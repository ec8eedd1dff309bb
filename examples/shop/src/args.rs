//! The command line.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use larder::RedisL2;

use crate::faults::Faults;
use crate::load::Load;
use crate::plan::{Instance, Name, Plan};
use crate::service::failure::Trouble;
use crate::service::{Level2, Setup, Way};

/// The environment variables in which a service is told of the process that has started it.
pub(crate) const CONTROL: [&str; 2] = ["SHOP_CONTROL_URL", "SHOP_CONTROL_PASSWORD"];

/// A small shop of seven services that share one Redis, and a page that shows their caches at work.
///
/// Without a command: starts Redis, all services and a light load, until Ctrl-C.
#[derive(Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    pub(crate) shop: Shop,
}

#[derive(Subcommand)]
enum Command {
    /// One instance of a service
    Serve {
        name: Name,
        /// Which of its instances
        #[arg(long, default_value_t = 0)]
        instance: u16,
    },
    /// The same load for the shop with the crate, by hand and without a cache
    Load(Load),
    /// One fault after the other under load, and whether the shop keeps its promises
    Faults(Faults),
    /// Runs Redis for as long as standard input is open
    #[command(hide = true)]
    KeepRedis {
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

/// What this process is to run.
pub(crate) enum Which {
    Service(Instance),
    Redis(Vec<String>),
    Load(Load),
    Faults(Faults),
    All,
}

#[derive(Clone, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are flags of the command line"
)]
pub(crate) struct Shop {
    /// Where the first gateway listens; the others follow, 100 ports in all
    #[arg(long, global = true, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65435))]
    pub(crate) port: u16,

    /// How many instances each service has of which several show something, up to 9
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) instances: u16,

    /// The Redis that the services share [default: one that is started]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis: Option<String>,

    /// A Redis Cluster of six nodes instead of one server; with --redis, that is a node of it
    #[arg(long, global = true, conflicts_with = "by_hand")]
    pub(crate) cluster: bool,

    /// All services in this process, over an L2 in memory, as where no Redis is installed
    #[arg(long, conflicts_with_all = ["redis", "cluster"])]
    pub(crate) in_process: bool,

    /// Each service reads its database each time
    #[arg(long, global = true, conflicts_with = "by_hand")]
    pub(crate) without_cache: bool,

    /// Each service caches with moka and a pool, as in a tutorial
    #[arg(long, global = true)]
    pub(crate) by_hand: bool,

    /// Added to each query of a database
    #[arg(long, global = true, value_name = "MS", default_value_t = 5)]
    pub(crate) db_latency_ms: u64,

    /// Where the databases are [default: a temporary folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Ends when its standard input does
    #[arg(long, global = true, hide = true)]
    pub(crate) tied: bool,
}

impl Args {
    pub(crate) fn which(&self) -> Result<Which, Trouble> {
        match &self.command {
            None => Ok(Which::All),
            Some(Command::Load(load)) => Ok(Which::Load(load.clone())),
            Some(Command::Faults(faults)) => Ok(Which::Faults(faults.clone())),
            Some(Command::KeepRedis { arguments }) => Ok(Which::Redis(arguments.clone())),
            Some(Command::Serve { name, instance }) => {
                if *instance >= self.shop.plan().instances(*name) {
                    let text = format!("{name} has no instance {instance}; see --instances");
                    return Err(text.into());
                }
                Ok(Which::Service((*name, *instance)))
            }
        }
    }
}

impl Shop {
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            port: self.port,
            instances: self.instances,
        }
    }

    pub(crate) fn way(&self) -> Way {
        if self.without_cache {
            Way::WithoutCache
        } else if self.by_hand {
            Way::ByHand
        } else {
            Way::Larder
        }
    }

    /// The setup of a service on its own.
    pub(crate) fn setup(&self) -> Result<Setup, Trouble> {
        let url = self.redis.clone();
        let url =
            url.ok_or("give the Redis that the services share: --redis redis://127.0.0.1:6379")?;
        let data = self.data.clone();
        let l2 = if self.cluster {
            RedisL2::cluster([&url])?
        } else {
            RedisL2::open(&url)?
        };
        let [url_of, password_of] = CONTROL.map(|name| env::var(name).ok());
        Ok(Setup {
            plan: self.plan(),
            way: self.way(),
            l2: Level2::Redis(l2, url),
            data: data.ok_or("give the folder of the databases: --data DIR")?,
            db_latency: self.db_latency(),
            control: url_of.zip(password_of),
        })
    }

    pub(crate) fn db_latency(&self) -> Duration {
        Duration::from_millis(self.db_latency_ms)
    }
}
