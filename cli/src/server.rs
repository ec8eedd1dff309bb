//! Where Redis is.

use std::error::Error;
#[cfg(feature = "tls")]
use std::path::PathBuf;
#[cfg(feature = "tls")]
use std::{fmt, fs};

use clap::Args;
#[cfg(feature = "tls")]
use larder::l2::deadpool_redis::redis::{Client, TlsCertificates};
use larder::{RedisL2, l2};

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
    /// For TLS: trusts the certificate authorities in this PEM file, and not those of the system.
    #[cfg(feature = "tls")]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// The error for a name that no cache has used. Redis may also have lost the clock of the cache, and then it has no
/// value that an instance uses.
pub(crate) fn unknown(namespace: &str) -> Box<dyn Error> {
    format!("no cache in Redis has the name {namespace}").into()
}

impl Server {
    /// Does not connect yet.
    pub(crate) fn l2(&self) -> Result<RedisL2, Box<dyn Error>> {
        let urls = self.url.iter().map(|url| self.server(url));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        #[cfg(feature = "cluster")]
        if self.cluster {
            return Ok(RedisL2::cluster(urls)?);
        }
        if let Some(primary) = &self.sentinel {
            let l2 = RedisL2::sentinel(primary, urls)?;
            return Ok(match &self.primary_like {
                Some(like) => l2.primary_like(self.server(like)?)?,
                None => l2,
            });
        }
        match <[_; 1]>::try_from(urls) {
            Ok([url]) => Ok(RedisL2::open(url)?),
            Err(_) => Err("several URLs are for --sentinel or --cluster".into()),
        }
    }

    /// A server with this URL, and the authorities by which it is trusted.
    #[cfg_attr(
        not(feature = "tls"),
        expect(
            clippy::unnecessary_wraps,
            clippy::unused_self,
            reason = "there is no file to read"
        )
    )]
    fn server(&self, url: &str) -> Result<l2::Server, Box<dyn Error>> {
        #[cfg(feature = "tls")]
        if let Some(file) = &self.ca {
            // First as without a file: the errors of the crate say what is wrong with a URL, and do not quote it.
            RedisL2::open(url)?;
            let unusable = |why: &dyn fmt::Display| format!("--ca {}: {why}", file.display());
            let root_cert = fs::read(file).map_err(|error| unusable(&error))?;
            // Of a file without one, the client makes an empty list of authorities.
            if !String::from_utf8_lossy(&root_cert).contains("BEGIN CERTIFICATE") {
                return Err(unusable(&"it has no certificate in PEM").into());
            }
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(root_cert),
            };
            // The error of the client may quote the URL.
            let client = Client::build_with_tls(url, certificates).map_err(|_| {
                unusable(&"its certificates cannot be read, or the URL is not rediss://")
            })?;
            return Ok(client.into());
        }
        Ok(url.into())
    }
}
