//! The public test suite of HTTP caches, `http-tests/cache-tests`, on the layer of larder-http; run by
//! `sh tests/http_suite.sh DIR`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod program;
    pub(crate) mod redis_server;
    mod signal;
}

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::CDN_CACHE_CONTROL;
use larder::{Cache, Clock};
use larder_http::CacheLayer;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::support::eventually::eventually;
use crate::support::program::Dir;
use crate::support::redis_server::RedisServer;

const REQUIRED_PASS: usize = 155;
const REQUIRED_FAIL: usize = 1;
const OPTIMAL_PASS: usize = 79;

/// Judges the results with the suite's own code: a line for each test, with its verdict and what was wrong.
const JUDGE: &str = "
import fs from 'fs'
const [dir, file] = process.argv.slice(-2)
const { determineTestResult, resultTypes } = await import(dir + '/test-engine/lib/results.mjs')
const tests = (await import(dir + '/tests/index.mjs')).default
const results = JSON.parse(fs.readFileSync(file))
const name = v => Object.keys(resultTypes).find(k => resultTypes[k] === v)
for (const suite of tests) for (const test of suite.tests) {
  if (test.browser_only) continue
  const verdict = name(determineTestResult(tests, test.id, results))
  const why = results[test.id] === true ? '' : ((results[test.id] || [])[1] || '')
  console.log([verdict, test.kind || 'required', test.id, why].join('\\t'))
}";

async fn forward(
    State((client, origin)): State<(reqwest::Client, SocketAddr)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut headers = parts.headers;
    headers.remove("connection");
    let answer = client
        .request(parts.method, format!("http://{origin}{}", parts.uri))
        .headers(headers)
        .body(body)
        .send()
        .await;
    let Ok(answer) = answer else {
        return failure();
    };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(bytes) = answer.bytes().await else {
        return failure();
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    for name in ["keep-alive", "transfer-encoding"] {
        response.headers_mut().remove(name);
    }
    // What the origin says of its own connection. Names of headers are for the layer.
    let headers = response.headers_mut();
    if headers
        .get("connection")
        .is_some_and(|value| value == "close" || value == "keep-alive")
    {
        headers.remove("connection");
    }
    response
}

fn failure() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

fn npm(directory: &PathBuf, arguments: &[&str], settings: &[(&str, String)]) -> Command {
    let mut command = Command::new("npm");
    command
        .current_dir(directory)
        .args(["run", "--silent"])
        .args(arguments);
    for (name, value) in settings {
        command.arg(format!("--{name}={value}"));
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn start_origin(directory: &PathBuf, port: u16, files: &Dir) -> Child {
    let mut command = Command::new("node");
    command
        .current_dir(directory)
        .arg("test-engine/server/server.mjs");
    command
        .env("npm_config_protocol", "http")
        .env("npm_config_port", port.to_string());
    command.env("npm_config_pidfile", files.join("origin.pid"));
    let child = command
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the origin listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
    })
    .await;
    child
}

#[tokio::test]
#[ignore = "needs node and a checkout of the suite"]
async fn its_results_are_those_that_are_documented() {
    let directory = PathBuf::from(env::var_os("LARDER_HTTP_SUITE").expect("tests/http_suite.sh"));
    let directory = directory.canonicalize().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = free.local_addr().unwrap();
    drop(free);
    let files = Dir::new();
    let _origin = start_origin(&directory, origin.port(), &files).await;

    let redis = RedisServer::start().await;
    let cache = Cache::builder("test:suite")
        .redis(redis.url())
        .clock(Clock::system())
        .jitter(0.0)
        .stale_if_error(Duration::from_secs(3600));
    let layer = CacheLayer::new(cache)
        .unwrap()
        .uncacheable_for(Duration::ZERO)
        .stale_if_error(Duration::from_secs(3600))
        .targeted([CDN_CACHE_CONTROL])
        .obey_requests(true);
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    // The suite sends requests of which an origin has closed the connection.
    let client = client
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let app = Router::new()
        .fallback(forward)
        .with_state((client, origin))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let results = npm(
        &directory,
        &["cli"],
        &[("base", format!("http://{address}"))],
    );
    let results = { results }.output().await.unwrap();
    assert!(results.status.success(), "{results:?}");
    let file = files.join("results.json");
    std::fs::write(&file, &results.stdout).unwrap();
    let judged = Command::new("node")
        .args(["--input-type=module", "--eval", JUDGE, "--"])
        .args([&directory, &file])
        .output()
        .await
        .unwrap();
    assert!(judged.status.success(), "{judged:?}");
    server.abort();
    let lines = String::from_utf8(judged.stdout).unwrap();
    if let Some(path) = env::var_os("LARDER_HTTP_SUITE_RESULTS") {
        std::fs::write(path, &lines).unwrap();
    }
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    for line in lines.lines() {
        let mut fields = line.split('\t');
        let (verdict, kind) = (fields.next().unwrap(), fields.next().unwrap());
        *counts.entry((kind, verdict)).or_default() += 1;
        if verdict.ends_with("fail") {
            println!("{line}");
        }
    }
    println!("{counts:?}");
    let count = |kind, verdict| counts.get(&(kind, verdict)).copied().unwrap_or_default();
    // As src/http/cache_tests.md says.
    assert!(count("required", "pass") >= REQUIRED_PASS, "{counts:?}");
    assert!(count("required", "fail") <= REQUIRED_FAIL, "{counts:?}");
    assert!(count("optimal", "pass") >= OPTIMAL_PASS, "{counts:?}");
}
