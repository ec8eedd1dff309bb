//! A Redis that is reached by TLS.

use std::error::Error;

use larder::l2::deadpool_redis::redis::{Client, TlsCertificates};
use larder::{Cache, RedisL2};

type Names = Cache<u64, String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // Without the feature `tls-ring`, or `tls` and a provider of cryptography, this is an error. The authorities of the system are trusted.
    let names: Names = Cache::builder("crm:name")
        .redis("rediss://:secret@127.0.0.1:1")
        .build()?;
    // Nobody is there, which is a miss as with any other Redis.
    assert!(names.get(&7).await.is_none());

    // A certificate that is not checked is refused.
    let insecure = RedisL2::open("rediss://127.0.0.1:1#insecure");
    assert!(insecure.is_err());
    Ok(())
}

/// With certificate authorities of your own; not called here, as it needs one.
#[expect(dead_code, reason = "it shows how to write it")]
fn with_own_authority(pem: Vec<u8>) -> Result<Names, Box<dyn Error>> {
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(pem),
    };
    let client = Client::build_with_tls("rediss://redis.internal:6380", certificates)?;
    let l2 = RedisL2::open(client)?;
    Ok(Cache::builder("crm:name").l2(l2).build()?)
}
