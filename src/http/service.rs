//! The service: looks a request up, and passes it on if no stored response answers it.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ::http::header::AUTHORIZATION;
use ::http::request::Parts;
use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Body;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;

use super::answer::{How, answer, is_plain};
use super::any_body::AnyBody;
use super::attempt::{Attempt, Reply, fetch};
use super::body::CacheBody;
use super::directives::Directives;
use super::keys::{has_clear_host, key_of};
use super::layer::CacheLayer;
use super::policy::is_stale;
use super::stored::{CachedResponse, Content, Stored};
use super::typed::{TypedUnsent, typed_answer};
use super::unsafe_methods::{after, carry_out};
use super::untyped::{Answer, Unsent, send};
use super::variants::{variant_key, widen};
use crate::error::OfOneCaller;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::vocabulary::Invariant;
use crate::{Entry, LoadError, Source};

/// A service with a cache before it, made by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    rules: Arc<CacheLayer>,
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let rules = Arc::new(self.clone());
        CacheService { inner, rules }
    }
}

/// The future of a [`CacheService`].
///
/// It can be dropped at any time. A request to the inner service for which other requests wait, or whose response is to
/// be stored, goes on.
#[must_use = "nothing is sent until it is polled"]
pub struct ResponseFuture<B, E> {
    answer: BoxFuture<'static, Answer>,
    types: Invariant<(B, E)>,
}

impl<B: Body<Error: Send> + Send + 'static, E: 'static> Future for ResponseFuture<B, E> {
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context).map(typed_answer)
    }
}

partial_debug!([B, E] ResponseFuture<B, E>, "ResponseFuture");

impl<S, R, B> Service<Request<R>> for CacheService<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    B: Body<Error: Send> + Send + 'static,
{
    type Response = Response<CacheBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<B, S::Error>;

    /// Always: stored responses are handed out while the inner service is busy.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        // Not ready yet: it is waited for before it is called.
        let inner = self.inner.clone();
        let unsent = Box::new(TypedUnsent { inner, body });
        let answer = handle(Arc::clone(&self.rules), head, has_body, unsent);
        ResponseFuture {
            answer,
            types: PhantomData,
        }
    }
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

/// The future is boxed in this crate, which therefore compiles it.
fn handle(
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

/// The entry of a key, or why there is none.
type Found = Result<Entry<CachedResponse>, LoadError>;

/// Which requests a response may come from.
enum LoadedBy {
    Anyone,
    /// It is sent with this previous response, if there is one, and joins no other.
    ThisOne(Option<Entry<CachedResponse>>),
}

struct Search {
    /// How it is sent if no stored response answers it.
    attempt: Attempt,
    /// Whether its response may be stored, and answer other requests.
    loads: bool,
    /// The freshness that it asks for.
    wishes: Directives,
    /// The request, until it is sent: by the load that it begins, or for its client alone. A look-up holds it
    /// meanwhile.
    unsent: Option<Box<dyn Unsent>>,
}

impl Search {
    /// Looks the resource up, and then the variant of it that the request selects. `None` if the request has to be sent
    /// for its client alone. An error is the reply to this very request.
    async fn run(&mut self) -> Result<Option<Response<AnyBody>>, Reply> {
        let Some(entry) = self.look_up().await? else {
            return Ok(None);
        };
        let attempt = &mut self.attempt;
        let varies = match &entry.value().0 {
            Content::Varies(varies) => Some(varies.clone()),
            // There are requests by both schemes: each gets a variant.
            Content::Response(stored) if stored.scheme != attempt.scheme && self.loads => {
                widen(&attempt.rules.cache, &attempt.primary, BTreeSet::new()).await
            }
            _ => None,
        };
        let Some(varies) = varies else {
            return Ok(self.answer(&entry));
        };
        let headers = &attempt.request.headers;
        let key = variant_key(&attempt.primary, &varies, attempt.scheme, headers);
        (attempt.variant, attempt.why) = (Some((key, varies)), "vary-miss");
        // The key of a variant leads to no other variants.
        let entry = self.look_up().await?;
        Ok(entry.and_then(|entry| self.answer(&entry)))
    }

    /// The response, if it may be used, and whether it is stale.
    fn usable<'e>(&self, entry: &'e Entry<CachedResponse>) -> Option<(&'e Stored, bool)> {
        let stored = entry.stored(self.attempt.scheme)?;
        Some((stored, is_stale(stored, &entry.meta(), &self.wishes)?))
    }

    fn answer(&self, entry: &Entry<CachedResponse>) -> Option<Response<AnyBody>> {
        let (stored, is_stale) = self.usable(entry)?;
        let (attempt, meta) = (&self.attempt, entry.meta());
        let is_collapsed = meta.source() == Source::Loader;
        let how = How {
            fwd: is_collapsed.then_some(attempt.why),
            is_collapsed,
            is_stale,
            ..How::default()
        };
        let age = meta.age();
        Some(answer(&attempt.rules, &attempt.request, stored, age, how))
    }

    /// The entry that is stored, or is loaded for the requests that wait for it.
    async fn look_up(&mut self) -> Result<Option<Entry<CachedResponse>>, Reply> {
        let (cache, key) = (&self.attempt.rules.cache, self.attempt.key());
        if !self.loads {
            return Ok(cache.get(key).await);
        }
        let mut by = LoadedBy::Anyone;
        // RFC 9111, section 5.2.1.4: by no load that began before this request.
        if self.wishes.has("no-cache") {
            by = LoadedBy::ThisOne(None);
            if let Some(entry) = cache.get(key).await {
                // Only own responses are wanted anew, and not on which headers they depend, or that they are not
                // stored.
                if entry.stored(self.attempt.scheme).is_none() {
                    return Ok(Some(entry));
                }
                self.attempt.why = "request";
            }
        }
        let mut found = self.load(by).await?;
        let is_of_use = |entry: &Entry<CachedResponse>| !entry.meta().is_fallback();
        if !found.as_ref().is_ok_and(is_of_use) && self.unsent.is_some() {
            // The request of another client has failed, which says nothing about this one.
            found = self.load(LoadedBy::ThisOne(found.ok())).await?;
        }
        report(&found);
        Ok(found.ok())
    }

    async fn load(&mut self, by: LoadedBy) -> Result<Found, Reply> {
        let (cache, key) = (&self.attempt.rules.cache, self.attempt.key());
        let (client, mut reply) = oneshot::channel();
        let held = Arc::new(Mutex::new(self.unsent.take()));
        let mut attempt = self.attempt.clone();
        let taken = Arc::clone(&held);
        let load = move |previous| async move {
            let unsent = lock(&taken).take().ok_or(OfOneCaller)?;
            attempt.previous = previous;
            fetch(attempt, unsent, client).await
        };
        let lookup = async {
            match by {
                LoadedBy::Anyone => cache.get_or_load_with(key, load).await,
                LoadedBy::ThisOne(previous) => cache.refresh(key, || load(previous)).await,
            }
        };
        tokio::pin!(lookup);
        let found = tokio::select! {
            biased;
            // The reply first: if both are there, the client gets the response to its own request. There is none if the
            // load is that of another request.
            Ok((reply, is_stored)) = &mut reply => {
                // So that the next request of the client finds the stored response.
                if is_stored {
                    report(&lookup.await);
                }
                return Err(reply);
            }
            found = &mut lookup => found,
        };
        // It may have come in the same moment as the end of the look-up.
        let may_come = match reply.try_recv() {
            Ok((reply, _)) => return Err(reply),
            Err(error) => error == TryRecvError::Empty,
        };
        if let Ok(entry) = &found
            && self.usable(entry).is_some()
        {
            return Ok(found);
        }
        // From here on it is sent for its client alone: not by a refresh in the background that the look-up has begun.
        self.unsent = lock(&held).take();
        // The load is that of this request, and takes longer than the cache waits for it.
        if self.unsent.is_none()
            && may_come
            && let Ok((reply, _)) = reply.await
        {
            return Err(reply);
        }
        Ok(found)
    }
}

/// Tags of a rule that cannot work. Failures of the inner service or of L2 are told elsewhere.
fn report(found: &Found) {
    if let Err(error) = found
        && error.is_misuse()
    {
        tracing::debug!(%error, "a response is not stored");
    }
}
