//! The types of the inner service: clients get its errors and its bodies as it has made them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use larder::Clock;
use larder_http::{CacheBody, CacheLayer};
use tower::{Layer, ServiceExt, service_fn};

use crate::origin::builder;

#[derive(Debug, PartialEq)]
struct Gone(u8);

/// A body with an error of its own at its end.
struct Parts(VecDeque<Bytes>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Gone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        let part = self.0.pop_front().map(Frame::data);
        Poll::Ready(Some(part.ok_or(Gone(2))))
    }
}

fn ask(method: &str) -> Request<String> {
    let request = Request::builder()
        .method(method)
        .header("host", "a.example");
    request.body(String::new()).unwrap()
}

#[tokio::test]
async fn an_error_of_the_inner_service_keeps_its_type() {
    let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
    let failing = |_: Request<String>| async { Err::<Response<String>, _>(Gone(1)) };
    let service = layer.layer(service_fn(failing));
    // One is looked up, and the other is passed on.
    for method in ["GET", "POST"] {
        let sent = service.clone().oneshot(ask(method)).await;
        assert_eq!(sent.unwrap_err(), Gone(1), "{method}");
    }
}

#[tokio::test]
async fn a_body_of_the_inner_service_keeps_its_type_and_its_buffers() {
    fn is_shared_by_threads(_: &impl Sync) {}

    let parts = [&b"1"[..], b"23", b"4"].map(Bytes::from_static);
    // One body is read for the cache and fails, one does not fit, one is passed on unread.
    for (limit, control, unread) in [
        (100, "max-age=60", 0),
        (2, "max-age=60", 2),
        (100, "no-store", 3),
    ] {
        let layer = CacheLayer::new(builder(&Clock::manual())).unwrap();
        let body = parts.clone();
        let service = layer
            .body_limit(limit)
            .layer(service_fn(move |_: Request<String>| {
                let response = Response::builder().header("cache-control", control);
                let response = response.body(Parts(body.clone().into())).unwrap();
                async move { Ok::<_, Gone>(response) }
            }));
        let response = service.oneshot(ask("GET")).await.unwrap();
        let mut body: CacheBody<Parts> = response.into_body();
        is_shared_by_threads(&body);
        let mut got = Vec::new();
        let error = loop {
            match poll_fn(|context| Pin::new(&mut body).poll_frame(context))
                .await
                .unwrap()
            {
                Ok(frame) => got.push(frame.into_data().unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!((got.concat().as_slice(), error), (&b"1234"[..], Gone(2)));
        // Those that were not read for the cache are not copied.
        for (part, sent) in got.iter().rev().zip(parts.iter().rev()).take(unread) {
            assert_eq!(part.as_ptr(), sent.as_ptr(), "{control}, at most {limit}");
        }
    }
}
