//! Servers that speak TLS, with a certificate of a private authority.

use std::fs;
use std::path::PathBuf;

use larder::l2::deadpool_redis::redis::{Client, TlsCertificates};
use larder::{Cache, RedisL2};

use super::program::{NAMESPACE, larder};
use super::support::certificates::{Authority, TlsServer};

/// A file with a certificate, which is removed when this is dropped.
struct PemFile(PathBuf);

impl PemFile {
    fn new(text: &str) -> Self {
        let name = format!("larder-ca-{:016x}.pem", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for PemFile {
    fn drop(&mut self) {
        // What stays behind is the system's to clean up.
        _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_private_authority() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.sign("127.0.0.1"), false).await;
    let url = server.url("127.0.0.1");
    let certificates = TlsCertificates {
        root_cert: Some(authority.certificate.clone().into_bytes()),
        client_tls: None,
    };
    let client = Client::build_with_tls(&*url, certificates).unwrap();
    let l2 = RedisL2::open(client).unwrap();
    let cache: Cache<String, String> = Cache::builder(NAMESPACE).l2(l2).build().unwrap();
    cache.ready().await;
    cache.insert("tea", "450".to_owned()).await.unwrap();

    let ca = PemFile::new(&authority.certificate);
    let shown = larder(&url, &["inspect", NAMESPACE, "tea", "--ca", ca.path()]).await;
    assert_eq!(shown.row("  used"), "yes");
    let found = larder(&url, &["check", NAMESPACE, "--ca", ca.path()]).await;
    assert_eq!(
        (found.code, found.row("problems")),
        (Some(0), "0"),
        "{found:?}"
    );
    // Both kinds of connections of an instance.
    let done = larder(
        &url,
        &[
            "invalidate",
            NAMESPACE,
            "tea",
            "--wait",
            "--yes",
            "--ca",
            ca.path(),
        ],
    )
    .await;
    assert_eq!(
        (done.code, &*done.stdout),
        (Some(0), "invalidated: 1\n"),
        "{done:?}"
    );
    assert!(cache.get("tea").await.is_none());

    let inspect = ["inspect", NAMESPACE, "tea"];
    let refused = larder(&url, &inspect).await;
    refused.is_one_clear_line(
        1,
        "no trusted authority has signed the server's certificate",
    );
    let other = PemFile::new(&Authority::new().certificate);
    let refused = larder(&url, &[&inspect[..], &["--ca", other.path()]].concat()).await;
    refused.is_one_clear_line(
        1,
        "no trusted authority has signed the server's certificate",
    );
}

#[tokio::test]
async fn files_that_cannot_be_used() {
    let url = "rediss://user:secret@127.0.0.1:1";
    let inspect = ["inspect", NAMESPACE, "tea", "--ca"];
    let missing = larder(url, &[&inspect[..], &["/nowhere/ca.pem"]].concat()).await;
    missing.is_one_clear_line(1, "--ca /nowhere/ca.pem: No such file");
    let empty = PemFile::new("tea");
    let unusable = larder(url, &[&inspect[..], &[empty.path()]].concat()).await;
    unusable.is_one_clear_line(1, "it has no certificate in PEM");
    let damaged = PemFile::new("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let unusable = larder(url, &[&inspect[..], &[damaged.path()]].concat()).await;
    unusable.is_one_clear_line(1, "its certificates cannot be read");
    let authority = PemFile::new(&Authority::new().certificate);
    let plain = "redis://user:secret@127.0.0.1:1";
    let unusable = larder(plain, &[&inspect[..], &[authority.path()]].concat()).await;
    unusable.is_one_clear_line(1, "the URL is not rediss://");
    for refused in [missing, unusable] {
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
}
