//! Where Redis is.

use std::env;
use std::error::Error;
use std::fmt;
#[cfg(feature = "tls")]
use std::fs;
#[cfg(feature = "tls")]
use std::path::PathBuf;

use clap::Args;
use larder::inspect::Namespace;
use larder::l2::deadpool_redis::redis::IntoConnectionInfo;
#[cfg(feature = "tls")]
use larder::l2::deadpool_redis::redis::{Client, TlsCertificates};
use larder::{L2Error, RedisL2, l2};
use strsim::damerau_levenshtein;

use crate::text::{escaped, with_causes};

/// How many names of caches an error has, at most.
const NEAREST: usize = 3;
/// Among so many names of keys on each server they are looked for, or about as many: an error is to come soon.
const SCANNED: usize = 100_000;

#[derive(Args)]
#[group(skip)]
pub(crate) struct Server {
    // The variable is not read by `env` of clap: the usage in an error would have the option as if it were missing.
    #[arg(
        long,
        global = true,
        default_values_t = [url_by_default()],
        hide_default_value = true,
        help = "The server: redis://, rediss:// or redis+unix://, with user, password and database. Again for each \
                further sentinel or node. Without it the variable REDIS_URL, or redis://127.0.0.1:6379"
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
    /// The text with which the names of all keys begin, as the option `redis_prefix` of the caches has it.
    #[arg(
        long,
        global = true,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    key_prefix: String,
    /// For TLS: trusts the certificate authorities in this PEM file, and not those of the system.
    #[cfg(feature = "tls")]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Where Redis is, if no option says so.
fn url_by_default() -> String {
    let url = env::var_os("REDIS_URL").unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    url.to_string_lossy().into_owned()
}

/// What Redis does not have.
#[derive(Clone, Debug)]
pub(crate) enum Missing {
    /// Any cache.
    All,
    /// A cache with this name. Redis may also have lost its clock, and then it has no value that an instance uses.
    Namespace(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("Redis has no cache"),
            Self::Namespace(name) => write!(f, "no cache in Redis has the name {name}"),
        }
    }
}

impl Error for Missing {}

/// The error for a name that no cache has used.
pub(crate) fn unknown(namespace: &str) -> Box<dyn Error> {
    Missing::Namespace(namespace.to_owned()).into()
}

impl Server {
    /// Prints an error in one line.
    pub(crate) async fn report(&self, error: &(dyn Error + 'static)) {
        let mut text = with_causes(error);
        if let Some(Missing::Namespace(name)) = error.downcast_ref() {
            let nearest = self.nearest(name).await;
            if !nearest.is_empty() {
                text = format!("{text}; the nearest: {}", escaped(&nearest.join(", ")));
            }
        }
        eprintln!("larder: {}", self.explain(error, &text));
    }

    /// The names of caches that are nearest to a name that none has. None if they cannot be looked for: that is not
    /// what has failed.
    async fn nearest(&self, name: &str) -> Vec<String> {
        let Ok(l2) = self.l2() else {
            return Vec::new();
        };
        let found = Namespace::scan(&l2, SCANNED).await;
        let names = found.map(|found| found.names).unwrap_or_default();
        // It may have got its name meanwhile.
        let mut names: Vec<_> = names.into_iter().filter(|other| other != name).collect();
        names.sort_by_cached_key(|other| damerau_levenshtein(name, other));
        names.truncate(NEAREST);
        names
    }

    /// The text of an error. If it is about what the server has said, or has not, it ends with its address: it may not
    /// be the one that is meant, as when a variable is not set.
    fn explain(&self, error: &(dyn Error + 'static), text: &str) -> String {
        // Where the crate names calls, the command has options.
        let text = text.replace("use RedisL2::cluster", "use --cluster");
        let text = text.replace("use RedisL2::open", "leave out --cluster");
        #[cfg(feature = "cluster")]
        let text = if !self.cluster
            && text.ends_with("another node of the Redis Cluster has the partition")
        {
            format!("{text}: use --cluster")
        } else {
            text
        };
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        if !causes.any(|error| error.is::<L2Error>() || error.is::<Missing>()) {
            return text;
        }
        // A URL that cannot be read is the error, which says so.
        match self.addresses() {
            Some(addresses) => format!("{text} (at {addresses})"),
            None => text,
        }
    }

    /// Where the URLs lead, without users and passwords.
    fn addresses(&self) -> Option<String> {
        let addresses = self.url.iter().map(|url| {
            let server = url.as_str().into_connection_info().ok()?;
            let database = server.redis_settings().db();
            let database = (database != 0).then(|| format!(" database {database}"));
            Some(format!("{}{}", server.addr(), database.unwrap_or_default()))
        });
        let addresses = addresses.collect::<Option<Vec<_>>>()?;
        Some(addresses.join(", "))
    }

    /// Does not connect yet.
    pub(crate) fn l2(&self) -> Result<RedisL2, Box<dyn Error>> {
        Ok(self.without_prefix()?.key_prefix(&self.key_prefix)?)
    }

    fn without_prefix(&self) -> Result<RedisL2, Box<dyn Error>> {
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
