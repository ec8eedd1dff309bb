//! The service: looks a request up, and passes it on if no stored response answers it.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ::http::header::AUTHORIZATION;
use ::http::{Method, Request, Response, StatusCode, request};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::Instrument;

use super::answer::{How, answer, is_plain};
use super::body::CacheBody;
use super::directives::Directives;
use super::fetch::{Address, Answer, Inner, Reply, Shared, Unsent, fetch};
use super::keys::{has_clear_host, key_of};
use super::policy::{Use, Wishes, judge};
use super::rules::Rules;
use super::stored::{CachedResponse, Content, Scheme};
use super::unsafe_methods::{after, carry_out};
use super::variants::{variant_key, widen};
use crate::error::OfOneCaller;
use crate::util::lock::lock;
use crate::{Entry, LoadError, Source};

/// A service with a cache before it, made by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

/// The future of a [`CacheService`].
///
/// It can be dropped at any time. A request to the inner service for which other requests wait, or whose response is to
/// be stored, goes on.
pub type ResponseFuture<B, E> = BoxFuture<'static, Result<Response<CacheBody<B>>, E>>;

impl<S, R, B> Service<Request<R>> for CacheService<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
{
    type Response = Response<CacheBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<B, S::Error>;

    /// Always: stored responses are handed out while the inner service is busy.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // Not ready yet: it is waited for before it is called.
        let inner = self.inner.clone();
        let shared = Arc::clone(&self.shared);
        Box::pin(handle(shared, Unsent { inner, request }))
    }
}

/// The request, until it is sent: by the load that it begins, or for its client alone.
struct Held<S, R> {
    unsent: Option<Unsent<S, R>>,
    /// Counts the look-ups that the request has given up. A refresh in the background that one of them has begun must
    /// not send the request later.
    given_up: u32,
}

/// Whether the inner service has a request by itself: no stored response answers it, and its own one is not stored.
fn is_bypassed(rules: &Rules, request: &request::Parts, has_body: bool) -> bool {
    let is_hidden = !rules.looks_up_authorized && request.headers.contains_key(AUTHORIZATION);
    let is_whole = is_plain(request) && has_clear_host(request) && !has_body;
    is_hidden || !is_whole || !(rules.condition)(request)
}

async fn handle<S: Inner<R>, R: Body + Send + 'static>(
    shared: Arc<Shared>,
    unsent: Unsent<S, R>,
) -> Answer<S, R> {
    let rules = &shared.rules;
    let (parts, body) = unsent.request.into_parts();
    let has_body = !body.is_end_stream();
    // The head twice: the request is looked up by one, and may be sent with the other.
    let unsent = Unsent {
        inner: unsent.inner,
        request: Request::from_parts(parts.clone(), body),
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return other_method(&shared, &parts, unsent).await;
    }
    let asked = Directives::of(&parts.headers);
    let is_only_if_cached = asked.has("only-if-cached");
    // RFC 9111, section 5.2.1.7.
    let not_cached = || own_answer(rules, StatusCode::GATEWAY_TIMEOUT);
    let found = (!is_bypassed(rules, &parts, has_body))
        .then(|| Some((key_of(rules, &parts)?, rules.scheme_of(&parts)?)))
        .flatten();
    let Some((primary, scheme)) = found else {
        if is_only_if_cached {
            return Ok(not_cached());
        }
        return pass(rules, unsent, "bypass").await;
    };
    let wishes = if rules.obeys_requests {
        Wishes::of(&parts.headers)
    } else {
        Wishes::default()
    };
    let search = Search {
        shared: &shared,
        request: &parts,
        scheme,
        wishes,
        // RFC 9111, section 5.2.1.5, and a HEAD brings no body to store: these are only answered from stored responses.
        loads: parts.method == Method::GET && !asked.has_any(&["no-store", "only-if-cached"]),
        held: Arc::new(Mutex::new(Held {
            unsent: Some(unsent),
            given_up: 0,
        })),
    };
    match search.run(primary).await {
        Some(Ok(answer)) => return answer,
        Some(Err(panic)) => resume_unwind(panic),
        None if is_only_if_cached => return Ok(not_cached()),
        None => {}
    }
    let unsent = lock(&search.held).unsent.take();
    match unsent {
        Some(unsent) => pass(rules, unsent, "miss").await,
        // The runtime of the request is gone.
        None => Ok(own_answer(rules, StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

/// A request of which nothing is stored.
async fn pass<S: Inner<R>, R>(
    rules: &Rules,
    mut unsent: Unsent<S, R>,
    why: &'static str,
) -> Answer<S, R> {
    poll_fn(|context| unsent.inner.poll_ready(context)).await?;
    let mut response = unsent.inner.call(unsent.request).await?;
    let how = How {
        fwd_status: Some(response.status()),
        ..How::forwarded(why)
    };
    how.write(&rules.name, response.headers_mut());
    Ok(response.map(CacheBody::passed))
}

/// A request that is not cached. If it changes a resource, its stored responses are invalidated.
async fn other_method<S: Inner<R>, R>(
    shared: &Shared,
    request: &request::Parts,
    unsent: Unsent<S, R>,
) -> Answer<S, R> {
    let response = pass(&shared.rules, unsent, "method").await?;
    let status = response.status();
    let has_changed = status.is_success() || status.is_redirection();
    if request.method.is_safe() || !has_changed {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let found = after(&shared.rules, request, &parts);
    // In a task, as the change is done: all that it invalidates is carried out, also if its client goes away meanwhile.
    let carried_out = carry_out(found, shared.cache.clone());
    let _ = tokio::spawn(carried_out.in_current_span()).await;
    Ok(Response::from_parts(parts, body))
}

/// A response of the layer itself.
fn own_answer<B: Body>(rules: &Rules, status: StatusCode) -> Response<CacheBody<B>> {
    let mut response = Response::new(CacheBody::memory(Bytes::new()));
    *response.status_mut() = status;
    How::forwarded("miss").write(&rules.name, response.headers_mut());
    response
}

/// Which requests a response may come from.
enum LoadedBy {
    Anyone,
    /// It is sent with this previous response, if there is one, and joins no other.
    ThisOne(Option<Entry<CachedResponse>>),
}

struct Search<'a, S, R> {
    shared: &'a Arc<Shared>,
    request: &'a request::Parts,
    scheme: Scheme,
    wishes: Wishes,
    /// Whether its response may be stored, and answer other requests.
    loads: bool,
    held: Arc<Mutex<Held<S, R>>>,
}

impl<S: Inner<R>, R: Send + 'static> Search<'_, S, R> {
    /// Looks the resource up, and then the variant of it that the request selects. `None` if the request has to be sent
    /// for its client alone.
    async fn run(&self, primary: String) -> Option<Reply<S, R>> {
        let mut address = Address {
            primary,
            variant: None,
            scheme: self.scheme,
            is_refused: false,
        };
        // Twice at most: the key of a variant leads to no other variants.
        loop {
            let entry = match self.look_up(&address).await {
                Ok(entry) => entry?,
                Err(reply) => return Some(reply),
            };
            let varies = match &entry.value().0 {
                Content::Varies(varies) if address.variant.is_none() => Some(varies.clone()),
                // There are requests by both schemes: each gets a variant.
                Content::Response(stored)
                    if address.variant.is_none() && stored.scheme != self.scheme && self.loads =>
                {
                    widen(&self.shared.cache, &address.primary, Vec::new()).await
                }
                _ => None,
            };
            let Some(varies) = varies else {
                return self.answer(&address, &entry);
            };
            let headers = &self.request.headers;
            let key = variant_key(&address.primary, &varies, self.scheme, headers);
            address.variant = Some((key, varies));
        }
    }

    fn judge(&self, entry: &Entry<CachedResponse>) -> Use {
        let stored = entry.stored();
        let stored = stored.filter(|stored| stored.scheme == self.scheme);
        stored.map_or(Use::No, |stored| judge(stored, &entry.meta(), &self.wishes))
    }

    fn answer(&self, address: &Address, entry: &Entry<CachedResponse>) -> Option<Reply<S, R>> {
        let usable = self.judge(entry);
        let stored = entry.stored().filter(|_| usable != Use::No)?;
        let meta = entry.meta();
        let is_collapsed = meta.source() == Source::Loader;
        let how = How {
            fwd: is_collapsed.then(|| address.why_missing()),
            is_collapsed,
            is_stale: usable == Use::Stale,
            ..How::default()
        };
        let rules = &self.shared.rules;
        let response = answer(rules, self.request, stored, meta.age(), how);
        Some(Ok(Ok(response)))
    }

    /// The entry that is stored, or is loaded for the requests that wait for it. An error is the reply to this very
    /// request.
    async fn look_up(
        &self,
        address: &Address,
    ) -> Result<Option<Entry<CachedResponse>>, Reply<S, R>> {
        let cache = &self.shared.cache;
        let key = address.key();
        if !self.loads {
            return Ok(cache.get(key).await);
        }
        let mut to = address.clone();
        let mut by = LoadedBy::Anyone;
        // RFC 9111, section 5.2.1.4: by no load that began before this request.
        if self.wishes.anew {
            by = LoadedBy::ThisOne(None);
            if let Some(entry) = cache.get(key).await {
                // Only own responses are wanted anew, and not on which headers they depend, or that they are not
                // stored.
                if (entry.stored()).is_none_or(|stored| stored.scheme != self.scheme) {
                    return Ok(Some(entry));
                }
                to.is_refused = true;
            }
        }
        let mut found = self.load(&to, by).await?;
        let is_of_use = |entry: &Entry<CachedResponse>| !entry.meta().is_fallback();
        if !found.as_ref().is_ok_and(is_of_use) && lock(&self.held).unsent.is_some() {
            // The request of another client has failed, which says nothing about this one.
            let previous = found.ok();
            found = self.load(&to, LoadedBy::ThisOne(previous)).await?;
        }
        report(&found);
        Ok(found.ok())
    }

    /// The entry that is stored, or is loaded. An error is the reply to this very request.
    async fn load(
        &self,
        address: &Address,
        by: LoadedBy,
    ) -> Result<Result<Entry<CachedResponse>, LoadError>, Reply<S, R>> {
        let (cache, key) = (&self.shared.cache, address.key());
        let (client, mut reply) = oneshot::channel();
        let (held, shared) = (Arc::clone(&self.held), Arc::clone(self.shared));
        let (to, given_up) = (address.clone(), lock(&self.held).given_up);
        let load = move |previous| async move {
            let unsent = {
                let mut held = lock(&held);
                let is_waited_for = held.given_up == given_up;
                held.unsent.take_if(|_| is_waited_for)
            };
            fetch(shared, unsent.ok_or(OfOneCaller)?, to, previous, client).await
        };
        let lookup = async {
            match by {
                LoadedBy::Anyone => cache.get_or_load_with(key, load).await,
                LoadedBy::ThisOne(previous) => cache.refresh(key, || load(previous)).await,
            }
        };
        tokio::pin!(lookup);
        let mut is_closed = false;
        let found = loop {
            tokio::select! {
                biased;
                // The reply first: if both are there, the client gets the response to its own request.
                sent = &mut reply, if !is_closed => match sent {
                    Ok((reply, is_stored)) => {
                        // So that the next request of the client finds the stored response.
                        if is_stored {
                            report(&lookup.await);
                        }
                        return Err(reply);
                    }
                    // The load is that of another request.
                    Err(_) => is_closed = true,
                },
                found = &mut lookup => break found,
            }
        };
        // It may have come in the same moment as the end of the look-up.
        if let Ok((reply, _)) = reply.try_recv() {
            return Err(reply);
        }
        if let Ok(entry) = &found
            && self.judge(entry) != Use::No
        {
            return Ok(found);
        }
        let is_sent = {
            let mut held = lock(&self.held);
            // Under the lock under which a load takes the request: from here on it is sent for its client alone.
            held.given_up += 1;
            held.unsent.is_none()
        };
        // The load is that of this request, and takes longer than the cache waits for it.
        if is_sent
            && !is_closed
            && let Ok((reply, _)) = reply.await
        {
            return Err(reply);
        }
        Ok(found)
    }
}

/// Tags of a rule that cannot work. Failures of the inner service or of L2 are told elsewhere.
fn report(found: &Result<Entry<CachedResponse>, LoadError>) {
    if let Err(error) = found
        && error.is_misuse()
    {
        tracing::debug!(%error, "a response is not stored");
    }
}
