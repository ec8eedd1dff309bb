//! What holds for any headers of requests and of responses, as a function from bytes that panics when it does not hold.
//!
//! The fuzz target in `fuzz/` calls it with what libFuzzer makes up; the unit test here calls it with the committed
//! corpus. Not part of a usual build: cargo-fuzz builds with `--cfg fuzzing`.

// A check that fails panics, which the rest of the crate may not.
#![allow(clippy::panic, clippy::expect_used, missing_docs)]

#[cfg(test)]
#[path = "../../../src/fuzzing/corpus.rs"]
mod corpus;
#[path = "../../../src/fuzzing/input.rs"]
#[allow(dead_code, reason = "other checks use the rest")]
mod input;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use http_body::{Body, Frame};
use larder::internal::lock;
use larder::{Cache, Clock};
use tower_layer::Layer as _;
use tower_service::Service;

use self::input::Input;
use crate::CacheLayer;

const REQUEST_HEADERS: [&str; 16] = [
    "cache-control",
    "accept-language",
    "x-user",
    "accept-language",
    "x-user",
    "cookie",
    "authorization",
    "pragma",
    "if-none-match",
    "if-modified-since",
    "range",
    "if-range",
    "if-match",
    "if-unmodified-since",
    "upgrade",
    "host",
];

/// The service answers requests with these for this one request.
const PASSED_BY: [&str; 5] = [
    "range",
    "if-range",
    "if-match",
    "if-unmodified-since",
    "upgrade",
];

const RESPONSE_HEADERS: [&str; 24] = [
    "cache-control",
    "cache-control",
    "cache-control",
    "cache-control",
    "vary",
    "vary",
    "vary",
    "etag",
    "etag",
    "last-modified",
    "set-cookie",
    "expires",
    "age",
    "date",
    "pragma",
    "content-range",
    "content-length",
    "content-type",
    "connection",
    "location",
    "content-location",
    "x-user",
    "accept-language",
    "cache-status",
];

/// What values are made of.
const PIECES: [&[u8]; 48] = [
    b"private",
    b"no-store",
    b"no-cache",
    b"public",
    b"max-age=60",
    b"max-age=0",
    b"max-age=60, ",
    b"s-maxage=60",
    b"must-revalidate",
    b"stale-while-revalidate=60",
    b"stale-if-error=60",
    b"only-if-cached",
    b"PRIVATE",
    b"private=\"x-user\"",
    b"No-Store",
    b"a=\"private\"",
    b"a=\"no-store, \\\"\"",
    b"foo",
    b"foo=bar",
    b",",
    b", ",
    b", ",
    b", ",
    b";",
    b"=",
    b"\"",
    b"\\",
    b" ",
    b"\t",
    b"\xfc",
    b"\xc2\xa0",
    b"*",
    b"accept-language",
    b"X-User",
    b"x-user",
    b"Accept-Language, X-User",
    b"cookie",
    b"de",
    b"en",
    b"\"v1\"",
    b"W/\"v1\"",
    b"Mon, 01 Jan 2001 00:00:00 GMT",
    b"Fri, 01 Jan 2100 00:00:00 GMT",
    b"60",
    b"-1",
    b"bytes 0-1/2",
    b"set-cookie",
    b"/a",
];

const STATUSES: [u16; 20] = [
    200, 200, 200, 200, 200, 200, 200, 200, 200, 203, 204, 206, 301, 302, 304, 304, 404, 500, 503,
    599,
];

/// One request, and what the service answers if it is asked.
struct Exchange {
    method: Method,
    uri: &'static str,
    /// Of the `Host` header, before those that are made up.
    host: &'static [u8],
    has_body: bool,
    asked: HeaderMap,
    status: StatusCode,
    answered: HeaderMap,
    /// How much later the next one comes.
    pause: Duration,
}

struct Rules {
    authorized: bool,
    ttl: bool,
    obeys: bool,
}

/// What happened, so that a test can tell that its inputs show anything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Responses to another request than the request that brought them, and the responses among them that the service
    /// has confirmed.
    pub(super) shared: usize,
    pub(super) revalidated: usize,
    pub(super) own: usize,
}

/// No response that is for one request is shared, whatever the headers; nothing panics.
pub fn http(bytes: &[u8]) {
    seen(bytes);
}

pub(super) fn seen(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let rules = Rules {
        authorized: input.u8().is_multiple_of(4),
        ttl: input.u8().is_multiple_of(4),
        obeys: input.bool(),
    };
    let exchanges: Vec<Exchange> = (0..6).map(|_| exchange(&mut input)).collect();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime");
    runtime.block_on(run(&rules, Arc::new(exchanges)))
}

fn exchange(input: &mut Input<'_>) -> Exchange {
    let method = match input.u8() % 32 {
        0 => Method::HEAD,
        1 => Method::POST,
        2 => Method::DELETE,
        3 => Method::OPTIONS,
        _ => Method::GET,
    };
    let uri = match input.u8() % 32 {
        0 => "/b",
        1 => "/a?x=1&y=2",
        2 => "/a?y=2&x=1",
        3 => "/a?x=1&x=2",
        4 => "http://b.example/a",
        5 => "http://A.example/a",
        6 => "*",
        _ => "/a",
    };
    let host: &[u8] = match input.u8() % 32 {
        0 => b"b.example",
        1 => b"A.example",
        2 => b"a.example/a",
        3 => b"a.example\xfc",
        4 => b"",
        _ => b"a.example",
    };
    let has_body = input.u8().is_multiple_of(32);
    let asked = headers(input, &REQUEST_HEADERS, &[0, 0, 0, 0, 1, 1, 2, 6]);
    let status = pick(input, &STATUSES);
    let is_usual = input.bool();
    let mut answered = headers(input, &RESPONSE_HEADERS, &[0, 0, 1, 1, 2, 3, 6]);
    if is_usual {
        let fresh = HeaderValue::from_static("max-age=60");
        answered.append("cache-control", fresh);
    }
    Exchange {
        method,
        uri,
        host,
        has_body,
        asked,
        status: StatusCode::from_u16(status).unwrap_or_default(),
        answered,
        pause: Duration::from_secs(pick(input, &[0, 0, 0, 0, 0, 1, 40, 70, 100_000])),
    }
}

fn pick<T: Copy>(input: &mut Input<'_>, from: &[T]) -> T {
    let place = usize::from(input.u8()) % from.len();
    *from.get(place).expect("a place within the list")
}

fn headers(input: &mut Input<'_>, names: &[&'static str], counts: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for _ in 0..pick(input, counts) {
        let name = HeaderName::from_static(pick(input, names));
        let mut value = Vec::new();
        for _ in 0..pick(input, &[1, 1, 1, 2, 3, 3, 5, 7]) {
            match input.u8() {
                any @ 0..16 => value.push(any.wrapping_mul(37)),
                piece => {
                    let place = usize::from(piece) % PIECES.len();
                    value.extend_from_slice(PIECES.get(place).copied().unwrap_or_default());
                }
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(name, value);
        }
    }
    headers
}

/// A short body, or none.
struct Short(Option<Bytes>);

impl Body for Short {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// Which of the exchanges a request is of: what the service gets with it.
#[derive(Clone, Copy)]
struct Number(usize);

/// Header and body of its responses say which exchange they are of.
#[derive(Clone)]
struct Origin {
    exchanges: Arc<Vec<Exchange>>,
    calls: Arc<Mutex<BTreeSet<usize>>>,
}

impl Service<Request<Short>> for Origin {
    type Response = Response<Short>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Short>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Short>) -> Self::Future {
        let number = request.extensions().get::<Number>().copied();
        let Number(number) = number.expect("a number");
        lock(&self.calls).insert(number);
        let exchange = self.exchanges.get(number).expect("an exchange");
        let text = Bytes::from(number.to_string());
        let mut response = Response::new(Short(Some(text)));
        *response.status_mut() = exchange.status;
        *response.headers_mut() = exchange.answered.clone();
        response.headers_mut().insert("x-call", number.into());
        ready(Ok(response))
    }
}

async fn run(rules: &Rules, exchanges: Arc<Vec<Exchange>>) -> Seen {
    let clock = Clock::manual();
    let cache = Cache::builder("fuzz:http")
        .clock(clock.clone())
        .jitter(0.0)
        .stale_if_error(Duration::from_secs(3600));
    let has_ttl = rules.ttl;
    let layer = CacheLayer::new(cache).expect("a layer");
    let layer = layer
        .authorized(rules.authorized)
        .obey_requests(rules.obeys)
        .ttl(move |_, _| has_ttl.then_some(Duration::from_secs(60)));
    let calls = Arc::default();
    let mut service = layer.layer(Origin {
        exchanges: Arc::clone(&exchanges),
        calls: Arc::clone(&calls),
    });
    let mut seen = Seen::default();
    for (number, exchange) in exchanges.iter().enumerate() {
        let Some(request) = exchange.request(number) else {
            continue;
        };
        let Ok(response) = service.call(request).await;
        let (parts, body) = response.into_parts();
        let of = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<usize>().ok();
        let header = (parts.headers.get("x-call")).and_then(|value| of(value.as_bytes()));
        let body = whole(body).await;
        let is_asked = lock(&calls).contains(&number);
        let brought: BTreeSet<usize> = header.into_iter().chain(of(&body)).collect();
        assert!(
            is_asked || !brought.is_empty() || parts.status == StatusCode::GATEWAY_TIMEOUT,
            "{parts:?}"
        );
        if brought.contains(&number) {
            seen.own += 1;
        } else if !brought.is_empty() {
            seen.shared += 1;
        }
        for other in brought.iter().filter(|other| **other != number) {
            let from = exchanges.get(*other).expect("an exchange");
            let is_body = of(&body) == Some(*other);
            let is_revalidated = brought.len() > 1 || of(&body) != header;
            seen.revalidated += usize::from(is_revalidated);
            let changed = exchanges.get(*other..number).unwrap_or_default();
            let why = refusal(rules, from, exchange, is_body)
                .or_else(|| {
                    let says = from.says("no-cache") && !rules.ttl;
                    (says && !is_revalidated && !is_asked).then_some("no-cache")
                })
                .or_else(|| {
                    let is_changed = changed.iter().any(|change| change.changes(exchange));
                    (is_changed && is_body).then_some("invalidated")
                });
            assert_eq!(
                why,
                None,
                "{number} got {other}: {:?} {} {:?}, answered {} {:?}; asked {} {:?}, got {} {:?}",
                from.host,
                from.uri,
                from.asked,
                from.status,
                from.answered,
                exchange.uri,
                exchange.asked,
                parts.status,
                parts.headers
            );
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        clock.advance(exchange.pause);
    }
    seen
}

async fn whole<B: Body<Data = Bytes>>(body: B) -> Vec<u8> {
    let mut body = Box::pin(body);
    let mut whole = Vec::new();
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
    {
        whole.extend(frame.into_data().unwrap_or_default());
    }
    whole
}

/// Why a response may not be for this request, if it is that to another one. `is_body`: it has brought the body, and
/// not confirmed it.
fn refusal(rules: &Rules, from: &Exchange, to: &Exchange, is_body: bool) -> Option<&'static str> {
    let has = |headers: &HeaderMap, name: &str| headers.contains_key(name);
    let mentions = |names: &[&str]| {
        let lines = from.answered.get_all("cache-control").iter();
        let mut lines = lines.map(|line| line.as_bytes().to_ascii_lowercase());
        lines.any(|line| names.iter().any(|name| contains(&line, name)))
    };
    let is_hidden = has(&from.asked, "authorization");
    let says_that_it_is_shared = mentions(&["public", "s-maxage", "must-revalidate"]);
    let is_explicit =
        mentions(&["max-age", "s-maxage", "public"]) || has(&from.answered, "expires");
    let wrong = [
        (from.says("private"), "private"),
        (from.says("no-store"), "no-store"),
        (has(&from.answered, "set-cookie"), "set-cookie"),
        (says(&from.asked, "no-store"), "a request with no-store"),
        (
            is_hidden && !(rules.authorized && says_that_it_is_shared),
            "authorization",
        ),
        (
            !rules.authorized && has(&to.asked, "authorization"),
            "to a request with authorization",
        ),
        (
            // A 304 is merged with what was stored, which may say it.
            is_body && !rules.ttl && !is_explicit && has(&from.asked, "cookie"),
            "cookie",
        ),
        (
            is_body && matches!(from.status.as_u16(), 206 | 304),
            "a part of a response",
        ),
        (has(&from.answered, "content-range") && is_body, "a range"),
        (
            PASSED_BY.iter().any(|name| has(&to.asked, name)) || to.has_body,
            "to a request that is passed on",
        ),
        (
            PASSED_BY.iter().any(|name| has(&from.asked, name)) || from.has_body,
            "of a request that is passed on",
        ),
        (from.method != Method::GET, "another method"),
        (
            to.method != Method::GET && to.method != Method::HEAD,
            "to another method",
        ),
        (from.resource() != to.resource(), "another resource"),
        (from.resource().is_none(), "no resource"),
        (!is_variant(from, to), "another variant"),
    ];
    wrong.iter().find(|(is_so, _)| *is_so).map(|(_, why)| *why)
}

/// Whether two requests have the same in all headers that a response depends on.
fn is_variant(from: &Exchange, to: &Exchange) -> bool {
    let is_same = |name: &[u8]| {
        let Ok(name) = HeaderName::from_bytes(name) else {
            return false;
        };
        let joined = |headers: &HeaderMap| {
            let lines = headers.get_all(&name).iter();
            let lines: Vec<_> = lines.map(|line| line.as_bytes().trim_ascii()).collect();
            lines.join(if name == "cookie" { &b"; "[..] } else { b", " })
        };
        joined(&from.asked) == joined(&to.asked)
    };
    from.answered.get_all("vary").iter().all(|line| {
        let mut names = line.as_bytes().split(|byte| *byte == b',');
        names.all(|name| match name.trim_ascii() {
            b"" => true,
            name => name != b"*" && is_same(name),
        })
    })
}

impl Exchange {
    fn request(&self, number: usize) -> Option<Request<Short>> {
        let body = self.has_body.then(|| Bytes::from_static(b"x"));
        let mut request = Request::new(Short(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::try_from(self.uri).ok()?;
        request.extensions_mut().insert(Number(number));
        let headers = request.headers_mut();
        if !self.host.is_empty() {
            headers.insert("host", HeaderValue::from_bytes(self.host).ok()?);
        }
        for (name, value) in &self.asked {
            headers.append(name, value.clone());
        }
        Some(request)
    }

    /// Host, path, and the pairs of the query; `None` if that is not one thing.
    fn resource(&self) -> Option<(Vec<u8>, &str, Vec<&str>)> {
        let rest = self.uri.strip_prefix("http://");
        let (authority, rest) = match rest.and_then(|rest| rest.split_once('/')) {
            Some((host, _)) => (Some(host), self.uri.get("http://".len() + host.len()..)?),
            None => (None, self.uri),
        };
        let own = Some(self.host).filter(|host| !host.is_empty());
        let more = self.asked.get_all("host").iter().map(HeaderValue::as_bytes);
        let hosts = authority
            .map(str::as_bytes)
            .into_iter()
            .chain(own)
            .chain(more);
        let hosts: BTreeSet<_> = hosts.map(<[u8]>::to_ascii_lowercase).collect();
        let host = hosts.first().cloned().unwrap_or_default();
        let is_one = hosts.len() < 2 && host.iter().all(u8::is_ascii_graphic);
        let is_host = is_one && !host.iter().any(|byte| b"/?#".contains(byte));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut pairs: Vec<_> = query.split('&').collect();
        // The order of values with one name may mean something.
        pairs.sort_by_key(|pair| pair.split('=').next());
        (is_host && path.starts_with('/')).then_some((host, path, pairs))
    }

    fn says(&self, name: &str) -> bool {
        says(&self.answered, name)
    }

    /// Whether this request changes what another one asks for.
    fn changes(&self, other: &Self) -> bool {
        let is_unsafe = !self.method.is_safe();
        let is_done = self.status.is_success() || self.status.is_redirection();
        let own = self.resource();
        is_unsafe && is_done && own.is_some() && own == other.resource()
    }
}

/// Whether a line of `Cache-Control` has a directive; or mentions it, and cannot be read.
fn says(headers: &HeaderMap, name: &str) -> bool {
    let mut lines = headers.get_all("cache-control").iter();
    lines.any(|line| {
        let line = line.as_bytes().to_ascii_lowercase();
        match directives(&line) {
            Some(names) => names.contains(&name.as_bytes()),
            None => contains(&line, name),
        }
    })
}

fn contains(line: &[u8], name: &str) -> bool {
    line.windows(name.len()).any(|part| part == name.as_bytes())
}

/// The names of the directives of a line that is well-formed by section 5.2 of RFC 9111. Written anew: it shares
/// nothing with the layer.
fn directives(mut line: &[u8]) -> Option<Vec<&[u8]>> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let mut names = Vec::new();
    loop {
        while line.first().is_some_and(is_space) {
            line = line.get(1..)?;
        }
        let name = token(line);
        if !name.is_empty() {
            names.push(name);
            line = line.get(name.len()..)?;
            if line.first() == Some(&b'=') {
                line = line.get(1..)?;
                let length = match token(line) {
                    b"" => quoted(line)?,
                    value => value.len(),
                };
                line = line.get(length..)?;
            }
        }
        while line.first().is_some_and(is_space) {
            line = line.get(1..)?;
        }
        match line.first() {
            None => return Some(names),
            Some(b',') => line = line.get(1..)?,
            Some(_) => return None,
        }
    }
}

fn token(line: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let length = line.iter().position(|byte| !is_part(byte));
    line.get(..length.unwrap_or(line.len())).unwrap_or_default()
}

/// How long the quoted string is with which a line begins.
fn quoted(line: &[u8]) -> Option<usize> {
    let mut place = 1;
    line.first().filter(|byte| **byte == b'"')?;
    loop {
        match line.get(place)? {
            b'"' => return Some(place + 1),
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::corpus::run;
    use super::{Seen, http, seen};

    /// A run that fails prints its seed: `LARDER_HEADERS_SEEDS=7..8` repeats it. `0..20000` takes a minute.
    #[test]
    fn no_random_headers_share_what_is_for_one_request() {
        let seeds = std::env::var("LARDER_HEADERS_SEEDS").unwrap_or("0..500".to_owned());
        let (first, end) = seeds.split_once("..").expect("FIRST..END");
        let seeds: Range<u64> = first.parse().unwrap()..end.parse().unwrap();
        let mut total = Seen::default();
        for seed in seeds.clone() {
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes: Vec<u8> = (0..400).map(|_| random.u8(..)).collect();
            let run = std::panic::catch_unwind(|| seen(&bytes));
            let run = run.unwrap_or_else(|_| panic!("LARDER_HEADERS_SEEDS={seed}..{}", seed + 1));
            total.shared += run.shared;
            total.revalidated += run.revalidated;
            total.own += run.own;
        }
        // Enough are shared to show anything.
        if seeds.end - seeds.start >= 500 {
            assert!(total.shared > 100 && total.revalidated > 2, "{total:?}");
        }
    }

    #[test]
    fn of_the_corpus() {
        run("http", http);
    }
}
