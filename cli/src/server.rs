//! Where Redis is.

use std::error::Error;

use clap::Args;
use larder::{L2Error, RedisL2};

#[derive(Args)]
#[group(skip)]
pub(crate) struct Server {
    /// The server: redis://, rediss:// or redis+unix://, with user, password and database. Again for each further
    /// sentinel or node.
    #[arg(
        long,
        global = true,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    url: Vec<String>,
    /// The URLs are those of sentinels, which name the primary so.
    #[arg(long, global = true, value_name = "PRIMARY")]
    sentinel: Option<String>,
    /// The user, password, database and TLS of the primary that sentinels name, as a URL.
    #[arg(long, global = true, value_name = "URL", requires = "sentinel")]
    primary_like: Option<String>,
    /// The URLs are those of nodes of a cluster.
    #[cfg(feature = "cluster")]
    #[arg(long, global = true, conflicts_with = "sentinel")]
    cluster: bool,
}

/// The error for a name that no cache has used. Redis may also have lost the clock of the cache, and then it has no value
/// that an instance uses.
pub(crate) fn unknown(namespace: &str) -> Box<dyn Error> {
    format!("no cache in Redis has the name {namespace}").into()
}

impl Server {
    /// Does not connect yet.
    pub(crate) fn l2(&self) -> Result<RedisL2, L2Error> {
        #[cfg(feature = "cluster")]
        if self.cluster {
            return RedisL2::cluster(&self.url);
        }
        if let Some(primary) = &self.sentinel {
            let l2 = RedisL2::sentinel(primary, &self.url)?;
            return match &self.primary_like {
                Some(like) => l2.primary_like(like),
                None => Ok(l2),
            };
        }
        match &*self.url {
            [url] => RedisL2::open(url),
            _ => Err(L2Error::unexpected(
                "several URLs are for --sentinel or --cluster",
            )),
        }
    }
}
