//! TLS, with certificates of the test's own: both connections use it, and say why they cannot.

use std::error::Error;

use larder::Cache;
use larder::l2::deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, TlsCertificates,
};
use larder::l2::deadpool_redis::{Manager, Pool, Runtime};
use larder::l2::{Key, RedisL2, Server};

use self::certificates::{Authority, Signed, TlsServer};
use crate::store::*;

#[path = "../../support/certificates.rs"]
mod certificates;

fn trusting(authority: &Authority, own: Option<&Signed>) -> TlsCertificates {
    TlsCertificates {
        root_cert: Some(authority.certificate.clone().into_bytes()),
        client_tls: own.map(|signed| ClientTlsConfig {
            client_cert: signed.certificate.clone().into_bytes(),
            client_key: signed.key.clone().into_bytes(),
        }),
    }
}

fn client(url: &str, certificates: TlsCertificates) -> Client {
    Client::build_with_tls(url, certificates).unwrap()
}

/// Both connections work: one that sends requests, and one that receives messages.
async fn works(l2: &RedisL2) {
    let (a, b) = (partition_of(l2, NAMESPACE), partition_of(l2, NAMESPACE));
    let (_, mut subscription) = subscribe(&*a).await;
    insert(&*b, "k", b"v").await;
    assert_eq!(message(&mut *subscription).await.keys, [Key::from("k")]);
    assert!(a.get("k").await.unwrap().is_some());
}

/// Neither of the two connections can be made, and both say why.
async fn refused(server: impl Into<Server>, what: &str) {
    let partition = partition_of(&RedisL2::open(server).unwrap(), NAMESPACE);
    let got = partition.get("k").await.map(drop);
    let subscribed = partition.subscribe(ME, NEWCOMER).await.map(drop);
    for error in [got.unwrap_err(), subscribed.unwrap_err()] {
        assert!(error.to_string().contains(what), "{error:?}");
        assert!(error.is_unreachable(), "{error:?}");
        assert!(error.source().is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_on_both_connections() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.sign("127.0.0.1"), false).await;
    let client = client(&server.url("127.0.0.1"), trusting(&authority, None));
    works(&RedisL2::open(client.clone()).unwrap()).await;

    let info = client.get_connection_info().clone();
    works(&RedisL2::open(info.clone()).unwrap()).await;

    let manager = Manager::new_with_config(info, AsyncConnectionConfig::new()).unwrap();
    let pool = Pool::builder(manager).runtime(Runtime::Tokio1);
    works(&RedisL2::with_pool(pool.build().unwrap(), client.clone()).unwrap()).await;

    let cache: Cache<String, u32> = Cache::builder("test:tls").redis(client).build().unwrap();
    cache.ready().await;
    assert!(cache.health().is_ok());
}

#[tokio::test]
async fn a_client_certificate_is_given_when_the_server_asks() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.sign("127.0.0.1"), true).await;
    let url = server.url("127.0.0.1");
    let own = authority.sign("catalog");
    let with_one = client(&url, trusting(&authority, Some(&own)));
    works(&RedisL2::open(with_one).unwrap()).await;

    let without = client(&url, trusting(&authority, None));
    refused(without, "asks for a client certificate").await;

    let foreign = Authority::new().sign("catalog");
    let foreign = client(&url, trusting(&authority, Some(&foreign)));
    refused(foreign, "does not accept the client certificate").await;

    let expired = authority.sign_expired("catalog");
    let expired = client(&url, trusting(&authority, Some(&expired)));
    refused(expired, "client certificate has expired").await;
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_refused_and_the_reason_named() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.sign("127.0.0.1"), false).await;

    let by_another = trusting(&Authority::new(), None);
    let by_another = client(&server.url("127.0.0.1"), by_another);
    refused(by_another, "no trusted authority").await;

    // Trusts the authorities of the system.
    refused(server.url("127.0.0.1"), "no trusted authority").await;

    let other_name = client(&server.url("localhost"), trusting(&authority, None));
    refused(other_name, "another host").await;

    let expired = authority.sign_expired("127.0.0.1");
    let expired = TlsServer::start(&authority, &expired, false).await;
    let to_expired = client(&expired.url("127.0.0.1"), trusting(&authority, None));
    refused(to_expired, "has expired").await;
}

#[test]
fn certificates_that_cannot_work_are_refused_before_connecting() {
    let authority = Authority::new();
    let (own, other) = (authority.sign("catalog"), authority.sign("catalog"));
    let mixed = Signed {
        certificate: own.certificate,
        key: other.key,
    };
    let url = "rediss://127.0.0.1:1";
    let client = client(url, trusting(&authority, Some(&mixed)));
    let error = RedisL2::open(client.clone()).map(|_| ()).unwrap_err();
    assert!(error.is_bad_config(), "{error:?}");
    assert!(error.to_string().contains("TLS settings"), "{error}");
    let error = Cache::<u64, u64>::builder("test:tls").redis(client).build();
    assert!(error.map(|_| ()).unwrap_err().is_bad_l2_config());
}

#[cfg(feature = "cluster")]
mod on_a_cluster {
    use larder::Builder;
    use larder::l2::Partition;

    use tokio::time::{sleep, timeout};

    use std::fs;

    use super::super::cluster::{place, resubscribe};
    use super::super::*;
    use super::certificates::arguments;
    use super::*;
    use crate::support::eventually::eventually;
    use crate::support::redis_cluster::{Failover, RedisCluster};

    /// A primary with a replica, whose certificates are for this name.
    async fn cluster_of(authority: &Authority, name: &str, extra: &[&str]) -> RedisCluster {
        let (dir, certificates) = arguments(authority, &authority.sign(name));
        let mut all: Vec<_> = certificates.iter().map(String::as_str).collect();
        all.extend(["--tls-auth-clients", "no"]);
        all.extend("--user app on >pw ~* &* +@all".split(' '));
        all.extend(extra);
        let cluster = RedisCluster::start_with_tls(1, 1, &all).await;
        fs::remove_dir_all(&dir).unwrap();
        // Alone it is believed if its epoch is the newest one.
        let mut raw = cluster.node(0).connection().await;
        let _: String = run(&mut raw, &["CLUSTER", "BUMPEPOCH"]).await;
        cluster
    }

    /// A handshake beside other work may take longer than a witness is waited for, and then begins anew.
    async fn reach(partition: &dyn Partition) {
        let reaching = async {
            while partition.members(&[]).await.is_err() {
                sleep(LIMIT / 1000).await;
            }
        };
        let reached = timeout(6 * LIMIT, reaching).await;
        reached.expect("the partition can be reached");
    }

    /// User, password and authority of the first node are those of all, also for the questions to witnesses and of a
    /// handover.
    #[tokio::test]
    #[ignore = "fails a cluster over: sh tests/proof.sh tests"]
    async fn nodes_are_addressed_as_their_certificates_name_them() {
        let host = ["--cluster-announce-hostname", "localhost"];
        let unknown = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
        for (name, announced) in [
            ("127.0.0.1", vec![]),
            ("localhost", host.to_vec()),
            ("localhost", [host, unknown].concat()),
        ] {
            let authority = Authority::new();
            let cluster = cluster_of(&authority, name, &announced).await;
            let login = format!("app:pw@{name}");
            let node = |url: String| {
                let url = url.replace("127.0.0.1", &login);
                client(&url, trusting(&authority, None))
            };
            // The replica, which names the primary.
            let l2 = RedisL2::cluster(cluster.urls().into_iter().skip(1).map(node)).unwrap();
            let (partition, met) = watched_partition(&l2, LIMIT);
            reach(&*partition).await;
            let (_, mut subscription) = resubscribe(&*partition).await;
            insert(&*partition, "k", b"v").await;
            assert_eq!(message(&mut *subscription).await.keys, [Key::from("k")]);
            let (_, owner) = place(&cluster).await;
            let mut raw = cluster.node(owner).connection().await;
            let clients: String = run(&mut raw, &["CLIENT", "LIST"]).await;
            let lines = clients.lines();
            let named = lines.filter(|line| line.contains(" name=larder:"));
            let users: Vec<_> = named.map(|line| line.contains(" user=app ")).collect();
            assert!(users.len() > 1 && !users.contains(&false), "{clients}");

            // Of four partitions.
            let builder: Builder<String, u32> = Cache::builder("test:tls");
            let cache = builder.l2(l2.clone()).build().unwrap();
            let ready = timeout(LIMIT, cache.ready()).await;
            ready.expect("all partitions subscribe");

            // A slow machine may take longer than the former primary is asked for.
            let mut keeps_epoch = false;
            for _ in 0..5 {
                let before = met.last();
                cluster.wait_until_in_step().await;
                cluster
                    .fail_over(place(&cluster).await.1, Failover::Graceful)
                    .await;
                reach(&*partition).await;
                assert_ne!(met.last().incarnation, before.incarnation);
                keeps_epoch = met.last().epoch == before.epoch;
                if keeps_epoch {
                    break;
                }
            }
            assert!(keeps_epoch, "the former primary is never asked");
        }
    }

    /// The witnesses are asked first.
    #[tokio::test]
    async fn nodes_that_cannot_be_trusted_are_refused_and_the_reason_named() {
        let authority = Authority::new();
        let cluster = cluster_of(&authority, "localhost", &[]).await;
        let node = |url: String| client(&url, trusting(&authority, None));
        let partition = partition(&RedisL2::cluster(cluster.urls().into_iter().map(node)).unwrap());
        eventually("the reason is named", async || {
            let error = shown(&partition.get("k").await.unwrap_err());
            let why = "another host than that of the address";
            error.contains("no majority of the primaries") && error.contains(why)
        })
        .await;
    }
}
