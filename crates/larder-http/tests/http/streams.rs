//! Bodies that come in parts: nobody waits for the end of a body, and a body that ends is stored.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get as answer_get;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use larder::{Clock, MemoryL2};
use larder_http::{CacheBody, CacheLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt};

use crate::origin::{Got, Origin, Service, builder, get, send, with};
use crate::support::eventually::eventually;

/// For what comes at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stores all responses for a minute, and would hold a body for an hour.
fn layer(clock: &Clock) -> CacheLayer {
    CacheLayer::new(builder(clock))
        .unwrap()
        .ttl(|_, _| Some(Duration::from_secs(60)))
        .body_timeout(Duration::from_secs(3600))
}

type Part = Result<&'static str, std::io::Error>;

/// Each part comes when there is a permit for it. Those without one come at once.
fn parts(gate: &Arc<Semaphore>, at_once: usize, parts: Vec<Part>) -> Body {
    Body::from_stream(stream_of(gate, at_once, parts))
}

fn stream_of(
    gate: &Arc<Semaphore>,
    at_once: usize,
    parts: Vec<Part>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let gate = Arc::clone(gate);
    stream::iter(parts.into_iter().enumerate()).then(move |(n, part)| {
        let gate = Arc::clone(&gate);
        async move {
            if n >= at_once {
                gate.acquire().await.unwrap().forget();
            }
            part.map(Bytes::from)
        }
    })
}

fn closed() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

/// A response whose head has come, and its body.
struct Coming {
    status: StatusCode,
    headers: HeaderMap,
    body: BodyDataStream,
}

async fn begin(service: &Service, request: Request<Body>) -> Coming {
    let sent = timeout(PATIENCE, service.clone().oneshot(request));
    let (parts, body) = sent.await.expect("the head comes").unwrap().into_parts();
    Coming {
        status: parts.status,
        headers: parts.headers,
        body: Body::new(body).into_data_stream(),
    }
}

impl Coming {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let next = timeout(PATIENCE, self.body.next());
        next.await.expect("the next part comes")
    }

    async fn text(&mut self) -> String {
        let next = self.next().await.expect("there is more").unwrap();
        String::from_utf8(next.to_vec()).unwrap()
    }

    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        while let Some(part) = self.next().await {
            rest.push_str(str::from_utf8(&part.unwrap()).unwrap());
        }
        rest
    }
}

/// Another request, which waits for the response of the first one.
async fn waiting(service: &Service) -> JoinHandle<Got> {
    let service = service.clone();
    let task = tokio::spawn(async move { send(&service, get("/")).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished());
    task
}

/// Reads from a connection until the text is there.
async fn read_until(client: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "{read:?}");
        }
    };
    timeout(PATIENCE, reading).await.expect(text);
    String::from_utf8(read).unwrap()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn ask(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    client.write_all(request).await.unwrap();
    client
}

#[tokio::test]
async fn the_events_of_a_server_come_as_they_are_sent() {
    let sent = closed();
    let opened = Arc::clone(&sent);
    let events = move || {
        let events = stream_of(&opened, 1, vec![Ok("first"), Ok("second")]);
        let events = events.chain(stream::pending());
        let event = |part: Result<Bytes, _>| {
            let text = String::from_utf8(part.unwrap().to_vec()).unwrap();
            Ok::<_, Infallible>(Event::default().data(text))
        };
        async move { Sse::new(events.map(event)) }
    };
    let app = Router::new().route("/", answer_get(events));
    let address = serve(app.layer(layer(&Clock::system()))).await;
    // The second one waits for nobody either.
    for _ in 0..2 {
        let mut client = ask(address).await;
        read_until(&mut client, "data: first").await;
        sent.add_permits(1);
        read_until(&mut client, "data: second").await;
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_comes_in_chunks_and_is_stored() {
    let sent = closed();
    let opened = Arc::clone(&sent);
    let app = Router::new().route(
        "/",
        answer_get(move || async move { parts(&opened, 1, vec![Ok("first"), Ok("second")]) }),
    );
    let address = serve(app.layer(layer(&Clock::system()))).await;
    let mut client = ask(address).await;
    let head = read_until(&mut client, "first").await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    sent.add_permits(1);
    read_until(&mut client, "second\r\n0\r\n\r\n").await;
    let stored = read_until(&mut ask(address).await, "firstsecond").await;
    assert!(stored.contains("x-cache: HIT"), "{stored}");
    assert!(stored.contains("content-length: 11"), "{stored}");
}

/// As that of another server, which a proxy has asked.
#[tokio::test]
async fn a_body_of_known_length_comes_as_it_is_sent_and_keeps_its_length() {
    struct Known(Pin<Box<Body>>, u64);
    impl http_body::Body for Known {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            let frame = ready!(self.0.as_mut().poll_frame(context));
            if let Some(Ok(frame)) = &frame {
                self.1 -= frame.data_ref().unwrap().len() as u64;
            }
            Poll::Ready(frame)
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.1)
        }
    }
    let sent = closed();
    let opened = Arc::clone(&sent);
    let known = move || async move {
        let body = parts(&opened, 1, vec![Ok("first"), Ok("second")]);
        Response::new(Body::new(Known(Box::pin(body), 11)))
    };
    let address = serve(
        Router::new()
            .route("/", answer_get(known))
            .layer(layer(&Clock::system())),
    )
    .await;
    let mut client = ask(address).await;
    let head = read_until(&mut client, "first").await;
    assert!(head.contains("content-length: 11"), "{head}");
    sent.add_permits(1);
    read_until(&mut client, "second").await;
    let stored = read_until(&mut ask(address).await, "firstsecond").await;
    assert!(stored.contains("x-cache: HIT"), "{stored}");
}

#[tokio::test]
async fn those_who_wait_for_a_body_get_it_whole() {
    for reads in [true, false] {
        let (origin, sent) = (Origin::default(), closed());
        let opened = Arc::clone(&sent);
        let service = layer(&Clock::manual()).layer(origin.answering(move |_, _| {
            Response::new(parts(&opened, 1, vec![Ok("first"), Ok("second")]))
        }));
        let mut first = begin(&service, get("/")).await;
        assert_eq!(
            first.headers["cache-status"],
            "larder; fwd=uri-miss; fwd-status=200"
        );
        if reads {
            assert_eq!(first.text().await, "first");
        }
        let second = waiting(&service).await;
        sent.add_permits(1);
        // Also if the first client does not read.
        let got = timeout(PATIENCE, second).await.unwrap().unwrap();
        assert_eq!(got.body, "firstsecond");
        assert_eq!(
            got.header("cache-status"),
            "larder; fwd=uri-miss; ttl=60; collapsed"
        );
        let rest = if reads { "second" } else { "firstsecond" };
        assert_eq!(first.rest().await, rest);
        assert_eq!(send(&service, get("/")).await.x_cache(), "HIT");
        assert_eq!(origin.calls(), 1);
    }
}

/// Also when its client has gone, as others may wait for it.
#[tokio::test]
async fn a_body_is_copied_to_its_end_without_its_client() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service =
        layer(&Clock::manual()).layer(origin.answering(move |_, _| {
            Response::new(parts(&opened, 1, vec![Ok("first"), Ok("second")]))
        }));
    let mut first = begin(&service, get("/")).await;
    assert_eq!(first.text().await, "first");
    drop(first);
    let second = waiting(&service).await;
    sent.add_permits(1);
    assert_eq!(
        timeout(PATIENCE, second).await.unwrap().unwrap().body,
        "firstsecond"
    );
    assert_eq!(origin.calls(), 1);
}

/// A stream that says nothing of what it is.
fn endless(dropped: &Arc<AtomicUsize>) -> Body {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counted = Counted(Arc::clone(dropped));
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from("first"))]);
    let rest = stream::once(async move {
        let _held = counted;
        std::future::pending().await
    });
    Body::from_stream(first.chain(rest))
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit_for_a_body_that_does_not_end() {
    let (origin, dropped) = (Origin::default(), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&dropped);
    let service = layer(&Clock::tokio())
        .body_timeout(Duration::from_secs(5))
        .layer(origin.answering(move |_, _| Response::new(endless(&counts))));
    let begun = Instant::now();
    let mut first = begin(&service, get("/")).await;
    assert_eq!(first.text().await, "first");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let mut second = begin(&service, get("/")).await;
    assert_eq!(second.text().await, "first");
    assert_eq!(begun.elapsed().as_secs(), 5);
    let mut third = begin(&service, get("/")).await;
    assert_eq!(third.text().await, "first");
    assert_eq!(begun.elapsed().as_secs(), 5, "it does not wait");
    // Each client reads its own from here on, and ends it.
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop((first, second, third));
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_goes_soon_after_its_client() {
    let (origin, dropped) = (Origin::default(), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&dropped);
    let service = layer(&Clock::tokio())
        .body_timeout(Duration::from_secs(5))
        .layer(origin.answering(move |_, _| Response::new(endless(&counts))));
    let begun = Instant::now();
    drop(begin(&service, get("/")).await);
    // The lease has gone with the copy.
    let mut next = begin(&service, get("/")).await;
    assert_eq!(next.text().await, "first");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(begun.elapsed().as_secs(), 5);
}

/// No load takes longer, whatever the layer says of bodies.
#[tokio::test(start_paused = true)]
async fn a_copy_ends_with_its_load_and_the_client_goes_on() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let cache = builder(&Clock::tokio()).load_timeout(Duration::from_secs(2));
    let service = CacheLayer::new(cache)
        .unwrap()
        .ttl(|_, _| Some(Duration::from_secs(60)))
        .body_timeout(Duration::from_secs(3600))
        .layer(origin.answering(move |_, _| {
            Response::new(parts(&opened, 1, vec![Ok("first"), Ok("second")]))
        }));
    let begun = Instant::now();
    let mut first = begin(&service, get("/")).await;
    let mut second = begin(&service, get("/")).await;
    assert!(begun.elapsed() <= Duration::from_secs(2));
    sent.add_permits(2);
    for client in [&mut first, &mut second] {
        assert_eq!(client.rest().await, "firstsecond");
    }
}

#[tokio::test]
async fn types_without_an_end_are_not_copied() {
    for content_type in [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "multipart/x-mixed-replace;boundary=frame",
        "application/grpc",
        "application/grpc-web+proto",
    ] {
        let origin = Origin::default();
        let service = layer(&Clock::manual()).layer(origin.answering(move |_, _| {
            let first = stream::iter([Ok::<_, Infallible>(Bytes::from("first"))]);
            let mut response = Response::new(Body::from_stream(first.chain(stream::pending())));
            let content_type = HeaderValue::from_static(content_type);
            response.headers_mut().insert("content-type", content_type);
            response
        }));
        for _ in 0..3 {
            let mut got = begin(&service, get("/")).await;
            assert_eq!(got.text().await, "first", "{content_type}");
        }
        assert_eq!(origin.calls(), 3);
    }
}

#[tokio::test]
async fn a_body_that_fails_after_its_first_part_is_not_stored() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&Clock::manual()).layer(origin.answering(move |_, _| {
        let failing = vec![Ok("first"), Err(std::io::Error::other("gone")), Ok("never")];
        Response::new(parts(&opened, 1, failing))
    }));
    for calls in 1..3 {
        let mut got = begin(&service, get("/")).await;
        assert_eq!(got.text().await, "first");
        sent.add_permits(1);
        assert!(got.next().await.unwrap().is_err());
        assert!(got.next().await.is_none());
        assert_eq!(origin.calls(), calls);
    }
}

#[tokio::test]
async fn a_body_that_panics_after_its_first_part_does_so_for_its_client() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&Clock::manual()).layer(origin.answering(move |n, _| {
        let body = stream_of(&opened, 1, vec![Ok("first"), Ok("second")]);
        Response::new(Body::from_stream(body.map(move |part| {
            let is_second = part.as_ref().is_ok_and(|part| part == "second");
            assert!(n > 1 || !is_second, "the first one panics");
            part
        })))
    }));
    let mut first = begin(&service, get("/")).await;
    assert_eq!(first.text().await, "first");
    let second = {
        let service = service.clone();
        tokio::spawn(async move { send(&service, get("/")).await.body })
    };
    sent.add_permits(2);
    let next = tokio::spawn(async move { first.rest().await });
    let panic = next.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref(), Some(&"the first one panics"));
    assert_eq!(
        timeout(PATIENCE, second).await.unwrap().unwrap(),
        "firstsecond"
    );
}

#[tokio::test]
async fn a_body_with_trailers_is_passed_on_with_them_and_not_stored() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&Clock::manual()).layer(origin.answering(move |_, _| {
        let data = stream_of(&opened, 1, vec![Ok("first"), Ok("second")]);
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
        let frames = data.map(|part| part.map(Frame::data));
        let frames = frames.chain(stream::iter([Ok(Frame::trailers(trailers))]));
        Response::new(Body::new(Frames(Box::pin(frames))))
    }));
    for calls in 1..3 {
        let got = timeout(PATIENCE, service.clone().oneshot(get("/")));
        let mut body: CacheBody<Body> = got.await.unwrap().unwrap().into_body();
        let mut read = String::new();
        sent.add_permits(1);
        let trailers = loop {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let frame = timeout(PATIENCE, frame).await.unwrap().unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => read.push_str(str::from_utf8(&data).unwrap()),
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert_eq!(
            (read.as_str(), &trailers["x-sum"]),
            ("firstsecond", &HeaderValue::from_static("7"))
        );
        assert_eq!(origin.calls(), calls);
    }
}

/// The frames of a stream.
struct Frames<S>(Pin<Box<S>>);

impl<S: Stream<Item = Result<Frame<Bytes>, std::io::Error>>> http_body::Body for Frames<S> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.as_mut().poll_next(context)
    }
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_is_passed_on_whole_and_nobody_waits_for_its_end() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&Clock::manual())
        .body_limit(10)
        .layer(origin.answering(move |_, _| {
            let long = vec![Ok("first"), Ok("second"), Ok("third")];
            Response::new(parts(&opened, 1, long))
        }));
    let mut first = begin(&service, get("/")).await;
    let second = {
        let service = service.clone();
        tokio::spawn(async move { begin(&service, get("/")).await })
    };
    sent.add_permits(1);
    let mut second = timeout(PATIENCE, second)
        .await
        .expect("it goes on")
        .unwrap();
    assert_eq!(origin.calls(), 2);
    sent.add_permits(3);
    for client in [&mut first, &mut second] {
        assert_eq!(client.rest().await, "firstsecondthird");
    }
}

/// Rule 1: a value that was read before an invalidation is not stored after it.
#[tokio::test]
async fn an_invalidation_while_a_body_comes_leaves_nothing_old() {
    for (varies, by_tag) in [(false, false), (false, true), (true, false), (true, true)] {
        let (origin, sent) = (Origin::default(), closed());
        let opened = Arc::clone(&sent);
        let layer = CacheLayer::new(builder(&Clock::system()).l2(MemoryL2::new())).unwrap();
        let cache = layer.cache().clone();
        cache.ready().await;
        let layer = layer
            .ttl(|_, _| Some(Duration::from_secs(60)))
            .tags(|_, _| vec!["all".to_owned()]);
        let service = layer.layer(origin.answering(move |n, _| {
            let first = if n == 1 { "old" } else { "new" };
            let mut response = Response::new(parts(&opened, 1, vec![Ok(first), Ok(" body")]));
            if varies {
                let varies = HeaderValue::from_static("a");
                response.headers_mut().insert("vary", varies);
            }
            response
        }));
        let mut first = begin(&service, get("/")).await;
        assert_eq!(first.text().await, "old");
        if by_tag {
            cache.invalidate_tag("all").await.unwrap();
        } else {
            cache.invalidate("GET shop.example/").await.unwrap();
        }
        sent.add_permits(10);
        assert_eq!(first.rest().await, " body");
        let second = send(&service, get("/")).await.body;
        assert_eq!(second, "new body", "varies: {varies}, by tag: {by_tag}");
    }
}

#[tokio::test]
async fn a_client_that_has_the_response_does_not_wait_for_its_body() {
    let (origin, sent) = (Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&Clock::manual()).layer(origin.answering(move |_, _| {
        let mut response = Response::new(parts(&opened, 1, vec![Ok("first"), Ok("second")]));
        let etag = HeaderValue::from_static("\"v\"");
        response.headers_mut().insert("etag", etag);
        response
    }));
    let mut has_it = begin(&service, with("/", &[("if-none-match", "\"v\"")])).await;
    assert_eq!(has_it.status, StatusCode::NOT_MODIFIED);
    assert_eq!(has_it.rest().await, "");
    sent.add_permits(1);
    eventually("it is stored", async || {
        send(&service, get("/")).await.x_cache() == "HIT"
    })
    .await;
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_refresh_in_the_background_reads_a_body_to_its_end() {
    let (clock, origin, sent) = (Clock::manual(), Origin::default(), closed());
    let opened = Arc::clone(&sent);
    let service = layer(&clock)
        .stale_while_revalidate(Duration::from_secs(60))
        .layer(origin.answering(move |n, _| {
            let first = if n == 1 { "old" } else { "new" };
            Response::new(parts(&opened, 1, vec![Ok(first), Ok(" body")]))
        }));
    sent.add_permits(1);
    assert_eq!(send(&service, get("/")).await.body, "old body");
    clock.advance(Duration::from_secs(61));
    let got = send(&service, get("/")).await;
    assert_eq!((got.x_cache(), got.body.as_str()), ("STALE", "old body"));
    sent.add_permits(1);
    eventually("the new one is there", async || {
        let got = send(&service, get("/")).await;
        (got.x_cache(), got.body.as_str()) == ("HIT", "new body")
    })
    .await;
    assert_eq!(origin.calls(), 2);
}
