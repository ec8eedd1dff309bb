//! The service behind the instances: its responses, at random.

use std::panic::resume_unwind;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use http::{Response, StatusCode, request};
use tokio::time::{Instant, sleep};

use super::{Call, Injected, URLS, VARIES, World, body, etag, header};

/// Responses: their kind, `Cache-Control`, and whether other clients may have them. Most are of the last kind.
const KINDS: [(&str, &str, bool); 14] = [
    ("no-store", "no-store, max-age=10", false),
    ("private", "private, max-age=10", false),
    ("cookie", "max-age=10", false),
    ("cookie for all", "max-age=10", true),
    ("failure", "", false),
    ("panic", "", false),
    ("cut", "max-age=10", false),
    ("short", "max-age=10", false),
    ("not by rule", "max-age=10", false),
    ("no-cache", "no-cache, max-age=10", true),
    ("slow", "max-age=10", true),
    ("stale", STALE, true),
    ("stale", STALE, true),
    ("usual", "max-age=10", true),
];
const STALE: &str = "max-age=1, stale-while-revalidate=3, stale-if-error=9";

impl World {
    pub(super) async fn serve(self: Arc<Self>, request: request::Parts) -> Response<Body> {
        let path = match header(&request.headers, "x-path") {
            "" => request.uri.path(),
            named => named,
        };
        let url = URLS.iter().position(|url| *url == path).unwrap();
        let mut call = Call {
            client: header(&request.headers, "x-client").parse().unwrap(),
            url,
            began: Instant::now(),
            version: self.versions.lock().unwrap()[url],
            ended: None,
            is_for_all: false,
            varies: VARIES[fastrand::usize(..VARIES.len())],
            fresh: 0,
            stale: 0,
            changed: Vec::new(),
        };
        if fastrand::u8(..20) > 0 {
            // Of most responses it changes now and then only.
            call.varies = VARIES[usize::try_from(call.version / 4).unwrap() % VARIES.len()];
        }
        let n = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(call.clone());
            calls.len() - 1
        };
        // Some take longer than a load may.
        let most = if fastrand::u8(..60) == 0 { 400 } else { 8 };
        self.pause(most).await;
        if !request.method.is_safe() {
            return self.change(n, &request).await;
        }
        let place = fastrand::usize(..60).min(KINDS.len() - 1);
        let (kind, directives, is_for_all) = KINDS[place];
        let mut response = Response::builder().header("x-call", n);
        let mut pause = 0;
        (call.fresh, call.stale) = (10, 0);
        match kind {
            "cookie" | "cookie for all" => {
                response = response.header("set-cookie", format!("id={}", call.client));
                response = response.header("x-kind", kind);
            }
            "failure" => response = response.status(StatusCode::SERVICE_UNAVAILABLE),
            "panic" => resume_unwind(Box::new(Injected)),
            "short" => response = response.header("content-length", 1000),
            "not by rule" => response = response.header("x-kind", kind),
            "no-cache" => call.fresh = 0,
            "slow" => pause = fastrand::u32(..80),
            "stale" => (call.fresh, call.stale) = (1, 9),
            _ => {}
        }
        let is_hidden = request.headers.contains_key("authorization");
        call.is_for_all = is_for_all && !is_hidden;
        // In a time that is not real the layer does not see how long a body takes.
        call.ended = Some(Instant::now() + self.unit * pause);
        let text = body(url, call.version, call.varies, &request.headers);
        let etag = etag(&text);
        for name in call.varies {
            response = response.header("vary", *name);
        }
        response = response.header("cache-control", directives);
        self.calls.lock().unwrap()[n] = call;
        if header(&request.headers, "if-none-match").contains(&etag) && is_for_all {
            let response = response.status(StatusCode::NOT_MODIFIED);
            return response.header("etag", etag).body(Body::empty()).unwrap();
        }
        response = response.header("etag", etag);
        let (first, last) = text.split_at(3);
        let (first, last) = (Bytes::from(first.to_owned()), Bytes::from(last.to_owned()));
        let pause = self.unit * pause;
        let rest = stream::once(async move {
            sleep(pause).await;
            if kind == "cut" {
                return Err(std::io::Error::other("cut"));
            }
            Ok(last)
        });
        let whole = stream::iter([Ok(first)]).chain(rest);
        response.body(Body::from_stream(whole)).unwrap()
    }

    /// A request that raises the version of one URL or more.
    async fn change(&self, n: usize, request: &request::Parts) -> Response<Body> {
        let rule = header(&request.headers, "x-rule");
        let own = self.calls.lock().unwrap()[n].url;
        let changed: Vec<_> = {
            let mut versions = self.versions.lock().unwrap();
            let changed = versions.iter_mut().enumerate().filter(|(url, _)| {
                *url == own || rule == "tag" || URLS[*url].starts_with("/p/") && rule == "prefix"
            });
            let raised = changed.map(|(url, version)| {
                *version += 1;
                (url, *version)
            });
            raised.collect()
        };
        self.calls.lock().unwrap()[n].changed = changed;
        self.pause(5).await;
        let status = match fastrand::u8(..10) {
            0 => StatusCode::SERVICE_UNAVAILABLE,
            1 => resume_unwind(Box::new(Injected)),
            2 => StatusCode::SEE_OTHER,
            _ => StatusCode::OK,
        };
        let named = if rule == "location" { URLS[own] } else { "" };
        let response = Response::builder().status(status).header("location", named);
        response.body(Body::empty()).unwrap()
    }
}
