//! A request of a client: answered from a stored response, or passed on.

use std::panic::resume_unwind;
use std::sync::Arc;

use ::http::header::AUTHORIZATION;
use ::http::request::Parts;
use ::http::{Method, Response, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use tracing::Instrument as _;

use super::answer::{How, is_plain};
use super::any_body::{Answer, AnyBody};
use super::attempt::Attempt;
use super::directives::Directives;
use super::keys::{has_clear_host, key_of};
use super::layer::CacheLayer;
use super::search::Search;
use super::unsafe_methods::{after, carry_out};
use super::untyped::{Unsent, send};

/// Answers a request of a client. The future is boxed in this crate, which therefore compiles it.
pub(super) fn handle(
    rules: Arc<CacheLayer>,
    request: Parts,
    has_body: bool,
    unsent: Box<dyn Unsent>,
) -> BoxFuture<'static, Answer> {
    Box::pin(async move {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return other_method(&rules, request, unsent).await;
        }
        let asked = Directives::of(&request.headers);
        let is_only_if_cached = asked.has("only-if-cached");
        let request = Arc::new(request);
        let (mut unsent, mut why) = (Some(unsent), "bypass");
        if let Some(attempt) = attempt_of(&rules, &request, has_body) {
            let wishes = (rules.obey_requests).then(|| asked.or_pragma(&request.headers));
            let mut search = Search {
                attempt,
                // RFC 9111, section 5.2.1.5, and a HEAD brings no body to store: these are only answered from stored
                // responses.
                loads: request.method == Method::GET
                    && !is_only_if_cached
                    && !asked.has("no-store"),
                wishes: wishes.unwrap_or_default(),
                unsent,
            };
            match search.run().await {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => (unsent, why) = (search.unsent, "miss"),
                Err(reply) => return reply.unwrap_or_else(|panic| resume_unwind(panic)),
            }
        }
        match unsent {
            // RFC 9111, section 5.2.1.7.
            _ if is_only_if_cached => Ok(own_answer(&rules, StatusCode::GATEWAY_TIMEOUT)),
            Some(unsent) => pass(&rules, Arc::unwrap_or_clone(request), unsent, why).await,
            // The runtime of the request is gone.
            None => Ok(own_answer(&rules, StatusCode::INTERNAL_SERVER_ERROR)),
        }
    })
}

/// Under which key a response is looked up; `None` if the inner service has the request by itself: no stored response
/// answers it, and its own one is not stored.
fn attempt_of(rules: &Arc<CacheLayer>, request: &Arc<Parts>, has_body: bool) -> Option<Attempt> {
    let is_hidden = !rules.authorized && request.headers.contains_key(AUTHORIZATION);
    let is_whole = is_plain(request) && has_clear_host(request) && !has_body;
    if is_hidden || !is_whole || !(rules.condition)(request) {
        return None;
    }
    Some(Attempt {
        rules: Arc::clone(rules),
        request: Arc::clone(request),
        primary: key_of(rules, request)?,
        variant: None,
        scheme: rules.scheme_of(request)?,
        previous: None,
        why: "uri-miss",
    })
}

/// A request of which nothing is stored.
async fn pass(
    rules: &CacheLayer,
    request: Parts,
    unsent: Box<dyn Unsent>,
    why: &'static str,
) -> Answer {
    let (mut response, _) = send(unsent, request).await?;
    How::forwarded(why, Some(response.status())).write(&rules.name, response.headers_mut());
    Ok(response.map(AnyBody::passed))
}

/// A request that is not cached. If it changes a resource, its stored responses are invalidated.
async fn other_method(rules: &CacheLayer, request: Parts, unsent: Box<dyn Unsent>) -> Answer {
    let response = pass(rules, request.clone(), unsent, "method").await?;
    let status = response.status();
    let has_changed = status.is_success() || status.is_redirection();
    if request.method.is_safe() || !has_changed {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let found = after(rules, &request, &parts);
    // In a task, as the change is done: all that it invalidates is carried out, also if its client goes away meanwhile.
    let _ = tokio::spawn(carry_out(found, rules.cache.clone()).in_current_span()).await;
    Ok(Response::from_parts(parts, body))
}

/// A response of the layer itself.
fn own_answer(rules: &CacheLayer, status: StatusCode) -> Response<AnyBody> {
    let mut response = Response::new(AnyBody::memory(Bytes::new()));
    *response.status_mut() = status;
    How::forwarded("miss", None).write(&rules.name, response.headers_mut());
    response
}
