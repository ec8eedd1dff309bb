//! Responses that depend on headers of their requests.

use larder::http::CacheLayer;
use larder::{Clock, MemoryL2};
use tower::Layer;

use crate::origin::{Origin, builder, get, layered, numbered, request, send, with};

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
    let (clock, origin, l2) = (Clock::manual(), Origin::default(), MemoryL2::new());
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
