//! Bodies that are large, slow, or cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode};
use http_body::Body as _;
use larder::Clock;
use larder_http::CacheLayer;
use tower::{Layer, ServiceExt};

use crate::origin::{Origin, builder, get, send};

fn response(body: Body) -> Response<Body> {
    let response = Response::builder().header("cache-control", "max-age=60");
    response.body(body).unwrap()
}

fn chunks(count: usize) -> Body {
    let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 100]));
    Body::from_stream(stream::iter((0..count).map(move |_| chunk())))
}

#[tokio::test]
async fn a_body_over_the_limit_is_passed_on_whole_and_not_stored() {
    for (is_known, chunk_count, is_stored) in [
        (false, 10, true),
        (false, 11, false),
        (true, 10, true),
        (true, 11, false),
    ] {
        let origin = Origin::default();
        let layer = CacheLayer::new(builder(&Clock::manual()))
            .unwrap()
            .body_limit(1000);
        let service = layer.layer(origin.answering(move |_, _| {
            response(if is_known {
                Body::from(vec![b'x'; chunk_count * 100])
            } else {
                chunks(chunk_count)
            })
        }));
        for _ in 0..2 {
            assert_eq!(send(&service, get("/")).await.body.len(), chunk_count * 100);
        }
        assert_eq!(origin.calls() == 1, is_stored, "{chunk_count} {is_known}");
    }
}

#[tokio::test]
async fn a_stream_without_an_end_is_passed_on_as_it_comes() {
    let origin = Origin::default();
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let layer = layer.body_timeout(Duration::from_millis(50));
    let service = layer.layer(origin.answering(|_, _| {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("first"))]);
        response(Body::from_stream(first.chain(stream::pending())))
    }));
    for _ in 0..2 {
        let got = service.clone().oneshot(get("/")).await.unwrap();
        let mut body = Body::new(got.into_body()).into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "first");
    }
    assert_eq!(origin.calls(), 2);
}

/// A response ages while its body comes.
#[tokio::test]
async fn the_time_for_which_a_body_is_read_counts_as_age() {
    let (clock, origin) = (Clock::manual(), Origin::default());
    let layer = CacheLayer::new(builder(&clock)).unwrap();
    let layer = layer.ttl(|_, _| Some(Duration::from_millis(20)));
    let service = layer.layer(origin.answering(|_, _| {
        let slow = stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, std::io::Error>(Bytes::from("x"))
        });
        response(Body::from_stream(slow))
    }));
    for calls in 1..=2 {
        send(&service, get("/")).await;
        assert_eq!(origin.calls(), calls);
        clock.advance(Duration::from_millis(2));
    }
}

#[tokio::test]
async fn no_more_than_the_limit_is_read_before_it_is_passed_on() {
    let origin = Origin::default();
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let layer = layer.body_limit(1000).body_timeout(Duration::from_secs(20));
    let service = layer.layer(origin.answering(|_, _| {
        let stream = chunks(11).into_data_stream();
        response(Body::from_stream(stream.chain(stream::pending())))
    }));
    let sent = tokio::time::timeout(Duration::from_secs(10), service.oneshot(get("/")));
    assert!(sent.await.is_ok());
}

#[tokio::test]
async fn a_body_that_fails_is_passed_on_with_its_error_and_not_stored() {
    let origin = Origin::default();
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let service = layer.layer(origin.answering(|_, _| {
        let parts = [Ok(Bytes::from("first")), Err(std::io::Error::other("gone"))];
        response(Body::from_stream(stream::iter(parts)))
    }));
    for n in 1..3 {
        let got = service.clone().oneshot(get("/")).await.unwrap();
        let mut body = Body::new(got.into_body()).into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "first");
        assert!(body.next().await.unwrap().is_err());
        assert_eq!(origin.calls(), n);
    }
}

#[tokio::test]
async fn a_body_that_is_shorter_than_it_says_is_not_stored() {
    let origin = Origin::default();
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let service = layer.layer(origin.answering(|_, _| {
        let mut response = response(chunks(1));
        response.headers_mut().insert("content-length", 200.into());
        response
    }));
    send(&service, get("/")).await;
    send(&service, get("/")).await;
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_stored_body_knows_its_size() {
    let origin = Origin::default();
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let service = layer.layer(origin.answering(|_, _| response(chunks(2))));
    for _ in 0..2 {
        let got = service.clone().oneshot(get("/")).await.unwrap();
        assert_eq!(got.body().size_hint().exact(), Some(200));
    }
}

/// Its frames are always ready, so nothing but the layer itself lets the time be looked at.
#[tokio::test]
async fn a_body_that_is_always_ready_is_not_read_beyond_its_time() {
    let (origin, polled) = (Origin::default(), Arc::new(AtomicUsize::new(0)));
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let layer = layer.body_timeout(Duration::from_millis(20));
    let count = Arc::clone(&polled);
    let service = layer.layer(origin.answering(move |_, _| {
        let count = Arc::clone(&count);
        let frames = std::iter::repeat_with(move || {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            Ok::<_, std::io::Error>(Bytes::from("x"))
        });
        response(Body::from_stream(stream::iter(frames.take(16_000))))
    }));
    let got = service.clone().oneshot(get("/")).await.unwrap();
    let read = polled.load(Ordering::SeqCst);
    assert!((1..4_000).contains(&read), "{read}");
    let mut body = Body::new(got.into_body()).into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap().len(), read);
    assert_eq!(body.next().await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn a_body_of_too_many_frames_is_passed_on_whole_and_not_stored() {
    for (frame_count, is_stored) in [(16_000, true), (17_000, false)] {
        let origin = Origin::default();
        let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
        // For a machine that is busy.
        let layer = layer.body_timeout(Duration::from_secs(60));
        let service = layer.layer(origin.answering(move |_, _| {
            // Every other one is empty.
            let frame = |n| Ok::<_, std::io::Error>(Bytes::from(if n % 2 == 0 { "" } else { "x" }));
            response(Body::from_stream(stream::iter((0..frame_count).map(frame))))
        }));
        for _ in 0..2 {
            assert_eq!(send(&service, get("/")).await.body.len(), frame_count / 2);
        }
        assert_eq!(origin.calls() == 1, is_stored, "{frame_count}");
    }
}

/// A body and headers as a client of another server gets them: parts of a large buffer.
#[tokio::test]
async fn what_is_stored_keeps_no_buffer_in_memory() {
    struct Buffer(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (origin, freed) = (Origin::default(), Arc::new(AtomicUsize::new(0)));
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let freed_later = Arc::clone(&freed);
    let service = layer.layer(origin.answering(move |_, request| {
        let buffer = Buffer(vec![b'x'; 100_000], Arc::clone(&freed_later));
        let buffer = Bytes::from_owner(buffer);
        let value = HeaderValue::from_maybe_shared(buffer.slice(..10)).unwrap();
        let is_asked = request.headers.contains_key("if-none-match");
        let mut response = if is_asked {
            let mut response = response(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            response(Body::from(buffer.slice(10..20)))
        };
        response.headers_mut().insert("x-part", value);
        let etag = HeaderValue::from_static("\"v\"");
        response.headers_mut().insert("etag", etag);
        let no_cache = HeaderValue::from_static("max-age=60, no-cache");
        response.headers_mut().append("cache-control", no_cache);
        response
    }));
    for calls in 1..4 {
        assert_eq!(send(&service, get("/")).await.body, "xxxxxxxxxx");
        assert_eq!(origin.calls(), calls, "revalidated");
        assert_eq!(freed.load(Ordering::SeqCst), calls);
    }
}
