//! Headers that speak to this cache rather than to all: RFC 9213.

use http::header::{CDN_CACHE_CONTROL, HeaderName};
use larder::Clock;
use tower::Layer;

use crate::origin::{Origin, builder, get, numbered, send};
use larder_http::CacheLayer;

const OWN: HeaderName = HeaderName::from_static("shop-cache-control");

/// How often each of two requests reaches a service that answers with these headers.
async fn is_used_again(headers: &'static [(&'static str, &'static str)]) -> bool {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let layer = layer.targeted([OWN, CDN_CACHE_CONTROL]);
    let service = layer.layer(origin.answering(|n, _| numbered(n, headers)));
    send(&service, get("/")).await;
    let again = send(&service, get("/")).await;
    for (name, value) in headers {
        assert!(again.header(name).contains(value), "it is passed on");
    }
    again.body == "1"
}

#[tokio::test]
async fn it_takes_the_place_of_cache_control_and_expires() {
    const LATER: &str = "Fri, 01 Jan 2100 00:00:00 GMT";
    for (is_used, headers) in [
        (
            true,
            &[
                ("cdn-cache-control", "max-age=60"),
                ("cache-control", "no-store"),
            ][..],
        ),
        (
            true,
            &[
                ("cdn-cache-control", "ext;a=1, max-age=60"),
                ("expires", "0"),
            ],
        ),
        (
            false,
            &[
                ("cdn-cache-control", "no-store"),
                ("cache-control", "max-age=60"),
            ],
        ),
        (
            false,
            &[("cdn-cache-control", "private"), ("expires", LATER)],
        ),
        (
            false,
            &[("cdn-cache-control", "max-age=0"), ("expires", LATER)],
        ),
        (
            false,
            &[
                ("cdn-cache-control", "max-age=-1"),
                ("cache-control", "max-age=60"),
            ],
        ),
        (
            false,
            &[
                ("cdn-cache-control", "max-age=\"60\""),
                ("cache-control", "max-age=60"),
            ],
        ),
        // The first field that there is.
        (
            true,
            &[
                ("shop-cache-control", "max-age=60"),
                ("cdn-cache-control", "no-store"),
            ],
        ),
        (
            false,
            &[
                ("shop-cache-control", "no-store"),
                ("cdn-cache-control", "max-age=60"),
            ],
        ),
        // One that cannot be read, or says nothing, counts as absent.
        (
            false,
            &[
                ("cdn-cache-control", "max-age=60, &"),
                ("cache-control", "no-store"),
            ],
        ),
        (
            true,
            &[
                ("cdn-cache-control", "no-store, &"),
                ("cache-control", "max-age=60"),
            ],
        ),
        (
            true,
            &[
                ("cdn-cache-control", "private=?0"),
                ("cache-control", "max-age=60"),
            ],
        ),
    ] {
        assert_eq!(is_used_again(headers).await, is_used, "{headers:?}");
    }
}

#[tokio::test]
async fn it_is_left_to_other_caches_unless_it_is_asked_for() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let headers = [
        ("cdn-cache-control", "max-age=60"),
        ("cache-control", "no-store"),
    ];
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let service = layer.layer(origin.answering(move |n, _| numbered(n, &headers)));
    send(&service, get("/")).await;
    assert_eq!(send(&service, get("/")).await.body, "2");
}
