//! Responses that depend on headers of their requests.

use axum::body::Body;
use http::Request;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, Clock, MemoryL2};
use larder_http::CacheLayer;
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, request, send, with};
use crate::support::redis_server::RedisServer;

const VARIES: [(&str, &str); 2] = [("cache-control", "max-age=60"), ("vary", "Accept-Language")];

#[tokio::test]
async fn each_variant_is_stored() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(&clock, origin.answering(|n, _| numbered(n, &VARIES)));
    let speaks = |language| with("/", &[("accept-language", language)]);
    for _ in 0..2 {
        assert_eq!(send(&service, speaks("en")).await.body, "1");
        assert_eq!(send(&service, speaks("de")).await.body, "2");
        assert_eq!(send(&service, get("/")).await.body, "3");
    }
    assert_eq!(send(&service, speaks("en")).await.x_cache(), "HIT");
}

#[tokio::test]
async fn an_invalidation_removes_all_variants() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let service = layered(&clock, origin.answering(|n, _| numbered(n, &VARIES)));
    let speaks = |language| with("/", &[("accept-language", language)]);
    send(&service, speaks("en")).await;
    send(&service, speaks("de")).await;
    send(&service, request("POST", "/", &[])).await;
    assert_eq!(send(&service, speaks("en")).await.body, "4");
    assert_eq!(send(&service, speaks("de")).await.body, "5");
}

#[tokio::test]
async fn a_resource_that_begins_to_depend_on_more_is_not_mixed_up() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, _| {
        let names = if n == 1 { "a" } else { "a, b" };
        numbered(n, &[("cache-control", "max-age=60"), ("vary", names)])
    });
    let service = layered(&clock, inner);
    send(&service, with("/", &[("a", "1")])).await;
    send(&service, with("/", &[("a", "2"), ("b", "1")])).await;
    let other = send(&service, with("/", &[("a", "2"), ("b", "2")])).await;
    assert_eq!(other.x_cache(), "MISS");
    for (b, expected) in [("2", other.body.as_str()), ("1", "4"), ("1", "4")] {
        let got = send(&service, with("/", &[("a", "2"), ("b", b)])).await;
        assert_eq!(got.body, expected);
    }
}

#[tokio::test]
async fn a_request_for_a_new_variant_replaces_that_one_alone() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let inner = origin.answering(|n, _| numbered(n, &VARIES));
    let instance = || {
        let layer = CacheLayer::new(builder(&clock).l2(l2.clone())).unwrap();
        layer.obey_requests(true).layer(inner.clone())
    };
    let speaks = |language| with("/", &[("accept-language", language)]);
    let anew = |language| {
        let no_cache = ("cache-control", "no-cache");
        with("/", &[("accept-language", language), no_cache])
    };
    let first = instance();
    assert_eq!(send(&first, speaks("en")).await.body, "1");
    assert_eq!(send(&first, speaks("de")).await.body, "2");
    // The first instance knows on what the response depends, and the second one has to read it.
    for (service, n) in [(first, "3"), (instance(), "4")] {
        let got = send(&service, anew("en")).await;
        assert_eq!(got.body, n);
        let expected = "larder; fwd=request; fwd-status=200; stored";
        assert_eq!(got.header("cache-status"), expected);
        for (language, n) in [("en", n), ("de", "2")] {
            let got = send(&service, speaks(language)).await;
            assert_eq!((got.body.as_str(), got.x_cache()), (n, "HIT"), "{language}");
        }
    }
}

/// HTTP/2 may send the cookies of one request in several lines: section 8.2.3 of RFC 9113.
#[tokio::test]
async fn cookies_in_several_lines_are_those_in_one() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let varies = [("cache-control", "max-age=60"), ("vary", "Cookie")];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &varies)));
    let one = with("/", &[("cookie", "a=1; b=2")]);
    assert_eq!(send(&service, one).await.body, "1");
    let several = with("/", &[("cookie", "a=1"), ("cookie", "b=2")]);
    assert_eq!(send(&service, several).await.body, "1");
    let others = with("/", &[("cookie", "a=1, b=2")]);
    assert_eq!(send(&service, others).await.body, "2");
}

/// The two values have the same XXH3.
#[tokio::test]
async fn a_request_that_is_made_for_it_does_not_take_the_place_of_a_variant() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let varies = [("cache-control", "max-age=60"), ("vary", "accept-encoding")];
    let service = layered(&clock, origin.answering(move |n, _| numbered(n, &varies)));
    let made = b"gzip, d\xce\xe6\xe5mNP\x84\xa0\xc9\xf2\xa5,@F\xdc\xe4";
    let encoded = |value: &[u8]| {
        let request = Request::get("/").header("host", "shop.example");
        let request = request.header("accept-encoding", value);
        request.body(Body::empty()).unwrap()
    };
    for _ in 0..3 {
        assert_eq!(
            send(&service, encoded(b"gzip, deflate, br, zstd"))
                .await
                .body,
            "1"
        );
        assert_eq!(send(&service, encoded(made)).await.body, "2");
    }
}

#[tokio::test]
async fn what_requests_had_is_not_in_redis() {
    let redis = RedisServer::start_with(&["--rdbcompression", "no"]).await;
    let origin = Origin::default();
    let varies = [
        ("cache-control", "max-age=60, public"),
        ("vary", "cookie, authorization"),
    ];
    let inner = origin.answering(move |n, _| numbered(n, &varies));
    let layer = CacheLayer::new(Cache::builder("test:http").redis(redis.url())).unwrap();
    let service = layer.authorized(true).layer(inner);
    let login = || {
        with(
            "/",
            &[("cookie", "id=COOKIE"), ("authorization", "Basic SECRET")],
        )
    };
    send(&service, login()).await;
    assert_eq!(send(&service, login()).await.x_cache(), "HIT");
    let mut connection = redis.connection().await;
    let keys: Vec<Vec<u8>> = cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut variants = 0;
    for key in keys {
        let dump: Vec<u8> = cmd("DUMP")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        let text = format!(
            "{} {}",
            String::from_utf8_lossy(&key),
            String::from_utf8_lossy(&dump)
        );
        variants += usize::from(text.contains("max-age=60"));
        for secret in ["COOKIE", "SECRET"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert_eq!(variants, 1);
}

/// What the response to one request depends on may be more than that of another.
#[tokio::test]
async fn a_client_whose_requests_add_a_name_does_not_drop_the_variants_again_and_again() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let inner = origin.answering(|n, request| {
        let named = request
            .headers
            .get("adds")
            .map(|name| name.to_str().unwrap());
        let vary = format!("accept-language, {}", named.unwrap_or_default());
        numbered(n, &[("cache-control", "max-age=60"), ("vary", &vary)])
    });
    let instance = || {
        let layer = CacheLayer::new(builder(&clock).l2(l2.clone())).unwrap();
        (layer.cache().clone(), layer.layer(inner.clone()))
    };
    let instances = [instance(), instance()];
    for round in 0..100 {
        for language in ["en", "de", "fr"] {
            let (_, service) = &instances[round % 2];
            let got = send(service, with("/", &[("accept-language", language)])).await;
            if round > 4 {
                assert_eq!(got.x_cache(), "HIT", "{round}");
            }
            let added = ["x-a", "x-b", "x-a, x-c", "cookie"][round % 4];
            let (cache, service) = &instances[(round + 1) % 2];
            let value = round.to_string();
            let attack = [
                ("adds", added),
                ("x-a", value.as_str()),
                ("x-c", value.as_str()),
            ];
            send(service, with("/", &attack)).await;
            // Both instances have heard of it.
            cache.invalidate_and_wait("other").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_resource_depends_on_a_bounded_number_of_names() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let inner = origin.answering(|n, request| {
        let vary = request.headers["names"].to_str().unwrap().to_owned();
        numbered(n, &[("cache-control", "max-age=60"), ("vary", &vary)])
    });
    let service = layered(&clock, inner);
    let names = |from: usize, to| {
        let names: Vec<_> = (from..to).map(|n| format!("x-{n}")).collect();
        with(
            "/",
            &[
                ("names", names.join(",").as_str()),
                ("x-0", &from.to_string()),
            ],
        )
    };
    assert_eq!(send(&service, names(0, 33)).await.x_cache(), "MISS");
    assert_eq!(
        send(&service, names(0, 33)).await.x_cache(),
        "MISS",
        "too many"
    );
    clock.advance(std::time::Duration::from_secs(6));
    for (from, to, is_stored) in [(0, 32, true), (1, 34, false), (1, 33, false), (1, 9, true)] {
        // The first one may find that it depends on more.
        send(&service, names(from, to)).await;
        clock.advance(std::time::Duration::from_secs(6));
        send(&service, names(from, to)).await;
        let is_hit = send(&service, names(from, to)).await.x_cache() == "HIT";
        assert_eq!(is_hit, is_stored, "{from} {to}");
    }
    assert_eq!(send(&service, names(0, 32)).await.x_cache(), "HIT");
}
