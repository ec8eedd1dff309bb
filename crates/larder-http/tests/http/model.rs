//! Random requests to several instances, and what no response to them may be. A run that fails prints its seed:
//! `LARDER_HTTP_SEEDS=7..8` repeats it.

mod service;

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use futures::FutureExt;
use http::{HeaderMap, StatusCode, response};
use larder::{Builder, Cache, Clock, MemoryL2, RedisL2};
use larder_http::{CacheLayer, CachedResponse};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt};

use crate::origin::{Origin, Service, builder, request, send};
use crate::support::redis_server::RedisServer;

const URLS: [&str; 3] = ["/p/a", "/p/b", "/q"];
const VARIES: [&[&str]; 4] = [&[], &["x-a"], &["x-a", "x-b"], &["x-b"]];
const MAX_STALENESS: Duration = Duration::from_millis(500);

/// A request to the inner service, and its answer.
#[derive(Clone, Debug)]
struct Call {
    client: usize,
    url: usize,
    began: Instant,
    version: u64,
    /// When its response was whole.
    ended: Option<Instant>,
    is_for_all: bool,
    varies: &'static [&'static str],
    fresh: u64,
    stale: u64,
    /// What an unsafe request has changed: the numbers of URLs, and their new versions.
    changed: Vec<(usize, u64)>,
}

struct World {
    /// Longer with a time that is not real.
    unit: Duration,
    versions: Mutex<[u64; URLS.len()]>,
    calls: Mutex<Vec<Call>>,
    /// Instance, URL, version: an unsafe request was answered then.
    answered: Mutex<Vec<(Instant, usize, usize, u64)>>,
}

struct Injected;

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn body(url: usize, version: u64, varies: &[&str], headers: &HeaderMap) -> String {
    let selected: Vec<_> = varies.iter().map(|name| header(headers, name)).collect();
    format!("{url}/{version}/{varies:?}/{selected:?}")
}

fn etag(body: &str) -> String {
    format!("\"{}\"", body.replace(['"', ' ', ','], ""))
}

impl World {
    async fn pause(&self, most: u32) {
        sleep(self.unit * fastrand::u32(0..=most)).await;
    }

    /// The version that a request to this instance may expect now.
    fn expected(&self, instance: usize, url: usize) -> u64 {
        let answered = self.answered.lock().unwrap();
        let now = Instant::now();
        let known = answered
            .iter()
            .filter(|(at, by, of, _)| *of == url && (*by == instance || *at + MAX_STALENESS < now));
        known.map(|(.., version)| *version).max().unwrap_or(0)
    }

    fn instance(self: &Arc<Self>, cache: Builder<String, CachedResponse>) -> Service {
        let cache = cache.max_staleness(MAX_STALENESS);
        let layer = CacheLayer::new(cache)
            .unwrap()
            .obey_requests(true)
            .uncacheable_for(Duration::from_secs(fastrand::u64(0..2)))
            .store_if(|_, response| header(&response.headers, "x-kind") != "not by rule")
            .store_private(|_, response| header(&response.headers, "x-kind") == "cookie for all")
            .tags(|request, _| vec!["all".to_owned(), request.uri.path().to_owned()])
            .invalidate(
                |request, _, found| match header(&request.headers, "x-rule") {
                    "tag" => found.tag("all"),
                    "path" => found.path(header(&request.headers, "x-path")),
                    "one-tag" => found.tag(header(&request.headers, "x-path")),
                    "prefix" => found.prefix("GET shop.example/p/"),
                    _ => {}
                },
            );
        let world = Arc::clone(self);
        let serve = move |_, request| Arc::clone(&world).serve(request).boxed();
        layer.layer(Origin::default().serving(serve))
    }

    async fn write(&self, client: usize, instance: usize, service: &Service) {
        let rules = ["", "tag", "one-tag", "prefix", "path", "location"];
        let rule = rules[fastrand::usize(..rules.len())];
        let url = URLS[fastrand::usize(..URLS.len())];
        // A request to another resource changes this one: a rule or the response names it.
        let to = match rule {
            "one-tag" | "path" | "location" => "/other",
            _ => url,
        };
        let method = fastrand::choice(["PUT", "POST", "DELETE"]).unwrap();
        let headers = [("x-path", url), ("x-rule", rule)];
        let mut sent = request(method, to, &headers);
        sent.headers_mut().insert("x-client", client.into());
        let got = send(service, sent).await;
        if got.status != StatusCode::SERVICE_UNAVAILABLE {
            let calls = self.calls.lock().unwrap();
            let own = calls.iter().find(|call| call.client == client).unwrap();
            let changed = own.changed.iter();
            let now = Instant::now();
            let changed = changed.map(|(url, version)| (now, instance, *url, *version));
            self.answered.lock().unwrap().extend(changed);
        }
    }

    async fn read(&self, client: usize, instance: usize, service: &Service) {
        let url = fastrand::usize(..URLS.len());
        let method = fastrand::choice(["HEAD", "GET", "GET", "GET"]).unwrap();
        let mut sent = request(method, URLS[url], &[]);
        let headers = sent.headers_mut();
        headers.insert("x-client", client.into());
        headers.insert("x-method", method.parse().unwrap());
        for (name, of) in [("x-a", 2), ("x-b", 2)] {
            headers.insert(name, fastrand::u32(..of).into());
        }
        match fastrand::u8(..24) {
            0 => headers.insert("cache-control", "no-cache".parse().unwrap()),
            1 => headers.insert("cache-control", "only-if-cached".parse().unwrap()),
            2 => headers.insert("authorization", "x".parse().unwrap()),
            3 => {
                let version = self.versions.lock().unwrap()[url];
                let varies = VARIES[fastrand::usize(..VARIES.len())];
                let etag = etag(&body(url, version, varies, headers));
                headers.insert("if-none-match", etag.parse().unwrap())
            }
            _ => None,
        };
        let headers = headers.clone();
        let (began, expected) = (Instant::now(), self.expected(instance, url));
        let response = service.clone().oneshot(sent).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await;
        self.check(client, url, began, expected, &headers, &parts, body.ok());
    }

    #[allow(clippy::too_many_arguments, reason = "what was sent, and what came")]
    fn check(
        &self,
        client: usize,
        url: usize,
        began: Instant,
        expected: u64,
        headers: &HeaderMap,
        response: &response::Parts,
        body: Option<Bytes>,
    ) {
        let calls = self.calls.lock().unwrap();
        let mine: Vec<_> = calls.iter().filter(|call| call.client == client).collect();
        let got = |name| header(&response.headers, name);
        let asked = header(headers, "cache-control");
        let number = got("x-call").parse::<usize>();
        let call = number.map(|number| &calls[number]);
        let told =
            format!("{headers:?}, {response:?}, {body:?}, from {call:?}, at least {expected}");
        let is = |holds: bool, what: &str| assert!(holds, "{what}: {told}");
        let Ok(call) = call else {
            is(
                response.status == StatusCode::GATEWAY_TIMEOUT,
                "no response",
            );
            return is(asked == "only-if-cached" && mine.is_empty(), "no response");
        };
        let is_own = call.client == client;
        is(call.url == url && call.version >= expected, "invalidated");
        is(call.is_for_all || is_own, "of another client");
        let cookie = got("set-cookie");
        is(
            cookie.is_empty() || cookie == format!("id={client}"),
            "a cookie of another client",
        );
        let text = self::body(url, call.version, call.varies, headers);
        is(got("etag") == etag(&text), "another variant");
        is(body.is_some() || is_own, "cut off");
        let is_whole = response.status == StatusCode::OK && header(headers, "x-method") == "GET";
        let text = if is_whole { text } else { String::new() };
        let is_text = body.is_none_or(|body| body == text || is_own);
        is(is_text, "another body");
        let condition = header(headers, "if-none-match");
        is(
            response.status != StatusCode::NOT_MODIFIED || condition == got("etag"),
            "304",
        );
        // At least as old as it was when it was asked for.
        let age = call.ended.map_or(Duration::ZERO, |ended| {
            began.saturating_duration_since(ended)
        });
        let fresh = Duration::from_secs(call.fresh);
        let how = got("cache-status");
        match got("x-cache") {
            "HIT" => {
                is(how.contains("; hit") && age < fresh, "HIT");
                // Its own request may be under way still, if that takes longer than a load may.
                is(
                    mine.iter().all(|call| call.ended.is_none()),
                    "HIT, but forwarded",
                );
            }
            "STALE" => is(age < fresh + Duration::from_secs(call.stale), "too stale"),
            _ if how.contains("; collapsed") => is(mine.is_empty() && !is_own, "collapsed"),
            _ => is(
                mine.len() == 1 && is_own && how.contains("; fwd-status="),
                "MISS",
            ),
        }
        if let Ok(shown) = got("age").parse::<u64>() {
            let most = call.began.elapsed().as_secs() + 1;
            is((age.as_secs()..=most).contains(&shown), "Age");
        }
        let is_for_service = asked == "no-cache" || headers.contains_key("authorization");
        is(
            !is_for_service || mine.len() == 1 && is_own,
            "not sent to the service",
        );
    }

    /// Clients come, and some go before they have a response.
    async fn run(self: &Arc<Self>, instances: Vec<Service>, clients: usize) {
        let mut tasks = Vec::new();
        for client in 0..clients {
            let world = Arc::clone(self);
            let instance = fastrand::usize(..instances.len());
            let service = instances[instance].clone();
            let patience = match fastrand::u8(..8) {
                0 => self.unit * fastrand::u32(..20),
                _ => self.unit * 10_000,
            };
            tasks.push(tokio::spawn(async move {
                let act = async {
                    if fastrand::u8(..20) == 0 {
                        world.write(client, instance, &service).await;
                    } else {
                        world.read(client, instance, &service).await;
                    }
                };
                let is_done = timeout(patience, act).await.is_ok();
                assert!(
                    is_done || patience < world.unit * 20,
                    "{client} waits for ever"
                );
            }));
            self.pause(if fastrand::u8(..30) == 0 { 40 } else { 1 })
                .await;
        }
        for task in tasks {
            if let Err(error) = task.await {
                let cause = error.into_panic();
                if !cause.is::<Injected>() {
                    resume_unwind(cause);
                }
            }
        }
    }

    fn new(unit: Duration) -> Arc<Self> {
        Arc::new(Self {
            unit,
            versions: Mutex::default(),
            calls: Mutex::default(),
            answered: Mutex::default(),
        })
    }
}

#[test]
fn no_response_is_old_or_of_another_client() {
    let seeds = std::env::var("LARDER_HTTP_SEEDS").unwrap_or("0..3".to_owned());
    let (first, end) = seeds.split_once("..").expect("FIRST..END");
    for seed in first.parse::<u64>().unwrap()..end.parse().unwrap() {
        println!("LARDER_HTTP_SEEDS={seed}..{}", seed + 1);
        fastrand::seed(seed);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // In one thread, and a time that jumps: a seed gives the same run.
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (world, clock) = (World::new(Duration::from_millis(100)), Clock::tokio());
            let l2 = MemoryL2::with_clock(clock.clone());
            let instances = (0..3).map(|_| world.instance(builder(&clock).l2(l2.clone())));
            let instances = instances.collect();
            world.run(instances, 400).await;
        });
    }
}

/// In several threads: requests meet in ways that no seed repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_on_a_real_redis() {
    let redis = RedisServer::start().await;
    let world = World::new(Duration::from_millis(2));
    let cache = || Cache::builder("test:http").l2(RedisL2::open(redis.url()).unwrap());
    let instances = (0..3).map(|_| world.instance(cache())).collect();
    world.run(instances, 600).await;
}
