//! The service: looks a request up, and passes it on if what is stored does not answer it.

use std::fmt;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ::http::header::AUTHORIZATION;
use ::http::{Method, Request, Response, StatusCode, request};
use futures::future::BoxFuture;
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::Instrument;

use super::answer::{How, answer, is_plain, without_body};
use super::body::CacheBody;
use super::directives::Directives;
use super::fetch::{Call, Place, Reply, Shared, fetch};
use super::keys::{has_clear_host, key_of};
use super::policy::{Use, Wishes, judge};
use super::rules::Rules;
use super::stored::{CachedResponse, Kind, Scheme};
use super::unsafe_methods::{after, carry_out};
use super::variants::{variant_key, widen};
use crate::error::OfOneCaller;
use crate::lock::lock;
use crate::{Entry, LoadError, Source};

/// A service with a cache before it, made by [`CacheLayer`](super::CacheLayer).
#[derive(Clone)]
pub struct CacheService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> CacheService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S: fmt::Debug> fmt::Debug for CacheService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// The future of a [`CacheService`].
///
/// It can be dropped at any time. A request to the inner service for which other requests wait, or whose response is to be
/// stored, goes on.
pub struct ResponseFuture<B: Body, E>(BoxFuture<'static, Result<Response<CacheBody<B>>, E>>);

impl<B: Body, E> Future for ResponseFuture<B, E> {
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl<B: Body, E> fmt::Debug for ResponseFuture<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

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

    /// Always: what is stored is handed out while the inner service is busy.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // Not ready yet: it is waited for before it is called.
        let inner = self.inner.clone();
        let shared = Arc::clone(&self.shared);
        ResponseFuture(Box::pin(handle(shared, Call { inner, request })))
    }
}

/// The call, until somebody takes it: the load that it begins, or its client.
struct Slot<S, R>(Arc<Mutex<Option<Call<S, R>>>>);

impl<S, R> Slot<S, R> {
    fn new(call: Call<S, R>) -> Self {
        Self(Arc::new(Mutex::new(Some(call))))
    }

    fn take(&self) -> Option<Call<S, R>> {
        lock(&self.0).take()
    }

    fn take_unless(&self, is_left: &AtomicBool) -> Option<Call<S, R>> {
        let mut call = lock(&self.0);
        // Under the lock, as it is set.
        if is_left.load(Ordering::Relaxed) {
            return None;
        }
        call.take()
    }

    /// Whether a load has taken the call. If not, the one with this flag never does.
    fn is_taken_or_leave(&self, is_left: &AtomicBool) -> bool {
        let call = lock(&self.0);
        is_left.store(true, Ordering::Relaxed);
        call.is_none()
    }

    fn is_taken(&self) -> bool {
        lock(&self.0).is_none()
    }

    fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// How a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The inner service has it.
    Bypass,
    /// It is answered from what is stored, and its response is not stored.
    LookUp,
    Load,
}

fn plan(rules: &Rules, request: &request::Parts, has_body: bool, asked: &Directives) -> Plan {
    let is_handled = rules.condition.as_ref().is_none_or(|rule| rule(request));
    let is_hidden = !rules.looks_up_authorized && request.headers.contains_key(AUTHORIZATION);
    if !is_handled || is_hidden || !is_plain(request) || !has_clear_host(request) || has_body {
        return Plan::Bypass;
    }
    if request.method == Method::HEAD || asked.has("no-store") || asked.has("only-if-cached") {
        return Plan::LookUp;
    }
    Plan::Load
}

async fn handle<S, R, B>(
    shared: Arc<Shared>,
    call: Call<S, R>,
) -> Result<Response<CacheBody<B>>, S::Error>
where
    S: Service<Request<R>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
{
    let rules = &shared.rules;
    let (parts, body) = call.request.into_parts();
    let has_body = !body.is_end_stream();
    let call = Call {
        inner: call.inner,
        request: Request::from_parts(parts.clone(), body),
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return other_method(&shared, &parts, call).await;
    }
    let asked = Directives::of(&parts.headers);
    let plan = plan(rules, &parts, has_body, &asked);
    let place = (plan != Plan::Bypass)
        .then(|| Some((key_of(rules, &parts)?, rules.scheme_of(&parts)?)))
        .flatten();
    let Some((primary, scheme)) = place else {
        return if asked.has("only-if-cached") {
            Ok(not_cached(rules))
        } else {
            pass(rules, call, "bypass").await
        };
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
        loads: plan == Plan::Load,
        slot: Slot::new(call),
    };
    match search.run(primary).await {
        Found::Response(response) | Found::Reply(Reply::Response(response)) => Ok(response),
        Found::Reply(Reply::Error(error)) => Err(error),
        Found::Reply(Reply::Panic(panic)) => resume_unwind(panic),
        Found::Nothing if asked.has("only-if-cached") => Ok(not_cached(rules)),
        Found::Nothing => match search.slot.take() {
            Some(call) => pass(rules, call, "miss").await,
            // The runtime of the request is gone.
            None => {
                let how = How::forwarded("miss");
                Ok(without_body(
                    &rules.name,
                    StatusCode::INTERNAL_SERVER_ERROR,
                    how,
                ))
            }
        },
    }
}

/// A request of which nothing is stored.
async fn pass<S, R, B>(
    rules: &Rules,
    mut call: Call<S, R>,
    why: &'static str,
) -> Result<Response<CacheBody<B>>, S::Error>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body,
{
    poll_fn(|context| call.inner.poll_ready(context)).await?;
    let mut response = call.inner.call(call.request).await?;
    let how = How {
        fwd_status: Some(response.status()),
        ..How::forwarded(why)
    };
    how.write(&rules.name, response.headers_mut());
    Ok(response.map(CacheBody::passed))
}

/// A request that is not cached; if it changes something, then so does what is stored.
async fn other_method<S, R, B>(
    shared: &Shared,
    request: &request::Parts,
    call: Call<S, R>,
) -> Result<Response<CacheBody<B>>, S::Error>
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body,
{
    let response = pass(&shared.rules, call, "method").await?;
    let status = response.status();
    let has_changed = status.is_success() || status.is_redirection();
    if request.method.is_safe() || !has_changed {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let found = after(&shared.rules, request, &parts);
    // The change is done: all of what it invalidates is carried out, also if its client goes away meanwhile.
    let carried_out = carry_out(found, shared.cache.clone());
    let _ = tokio::spawn(carried_out.in_current_span()).await;
    Ok(Response::from_parts(parts, body))
}

fn not_cached<B: Body>(rules: &Rules) -> Response<CacheBody<B>> {
    let how = How::forwarded("miss");
    without_body(&rules.name, StatusCode::GATEWAY_TIMEOUT, how)
}

enum Found<B: Body, E> {
    /// From what is stored.
    Response(Response<CacheBody<B>>),
    /// From the inner service, by this very request.
    Reply(Reply<B, E>),
    /// The request has to ask by itself.
    Nothing,
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
    loads: bool,
    slot: Slot<S, R>,
}

impl<S, R, B> Search<'_, S, R>
where
    S: Service<Request<R>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
{
    /// Looks the resource up, and then the variant of it that the request selects.
    async fn run(&self, primary: String) -> Found<B, S::Error> {
        let mut place = Place {
            primary,
            variant: None,
            scheme: self.scheme,
            is_refused: false,
        };
        loop {
            let entry = match self.look_up(&place).await {
                Ok(Some(entry)) => entry,
                Ok(None) => return Found::Nothing,
                Err(reply) => return Found::Reply(reply),
            };
            let varies = match &entry.value().0 {
                Kind::Varies(varies) if place.variant.is_none() => Some(varies.clone()),
                // There are requests by both schemes: each gets a variant.
                Kind::Response(stored)
                    if place.variant.is_none() && stored.scheme != self.scheme && self.loads =>
                {
                    widen(&self.shared.cache, &place.primary, Vec::new()).await
                }
                _ => None,
            };
            let Some(varies) = varies else {
                let answer = self.answer(&place, &entry);
                return answer.map_or(Found::Nothing, Found::Response);
            };
            let headers = &self.request.headers;
            let key = variant_key(&place.primary, &varies, self.scheme, headers);
            place.variant = Some((key, varies));
        }
    }

    fn judge(&self, entry: &Entry<CachedResponse>) -> Use {
        let stored = entry.stored();
        let stored = stored.filter(|stored| stored.scheme == self.scheme);
        stored.map_or(Use::No, |stored| judge(stored, &entry.meta(), &self.wishes))
    }

    fn answer(
        &self,
        place: &Place,
        entry: &Entry<CachedResponse>,
    ) -> Option<Response<CacheBody<B>>> {
        let verdict = self.judge(entry);
        let stored = entry.stored().filter(|_| verdict != Use::No)?;
        let meta = entry.meta();
        let is_collapsed = meta.source() == Source::Loader;
        let how = How {
            fwd: is_collapsed.then(|| place.why_missing()),
            is_collapsed,
            is_stale: verdict == Use::Stale,
            ..How::default()
        };
        let (name, method) = (&self.shared.rules.name, &self.request.method);
        let headers = &self.request.headers;
        Some(answer(name, method, headers, stored, meta.age(), how))
    }

    /// What is stored, or is loaded for the requests that wait for it. An error is the reply to this very request.
    async fn look_up(
        &self,
        place: &Place,
    ) -> Result<Option<Entry<CachedResponse>>, Reply<B, S::Error>> {
        let cache = &self.shared.cache;
        let key = place.key();
        if !self.loads {
            return Ok(cache.get(key).await);
        }
        let mut to = place.clone();
        if self.wishes.anew
            && let Some(entry) = cache.get(key).await
        {
            // Only own responses are wanted anew, and not on which headers they depend, or that they are not stored.
            if (entry.stored()).is_none_or(|stored| stored.scheme != self.scheme) {
                return Ok(Some(entry));
            }
            to.is_refused = true;
        }
        let by = if self.wishes.anew {
            LoadedBy::ThisOne(None)
        } else {
            LoadedBy::Anyone
        };
        let mut found = self.load(&to, by).await?;
        let is_of_use = |entry: &Entry<CachedResponse>| !entry.meta().is_fallback();
        if !found.as_ref().is_ok_and(is_of_use) && !self.slot.is_taken() {
            // The request of another client has failed, which says nothing about this one.
            let previous = found.ok();
            found = self.load(&to, LoadedBy::ThisOne(previous)).await?;
        }
        report(&found);
        Ok(found.ok())
    }

    /// What is stored, or is loaded. An error is the reply to this very request.
    async fn load(
        &self,
        place: &Place,
        by: LoadedBy,
    ) -> Result<Result<Entry<CachedResponse>, LoadError>, Reply<B, S::Error>> {
        let (cache, key) = (&self.shared.cache, place.key());
        let (client, mut reply) = oneshot::channel();
        let (slot, shared, to) = (self.slot.share(), Arc::clone(self.shared), place.clone());
        // Set when this request goes on by itself: a refresh in the background must not take its call then.
        let is_left = Arc::new(AtomicBool::new(false));
        let is_left_by = Arc::clone(&is_left);
        let load = move |previous| async move {
            let call = slot.take_unless(&is_left_by).ok_or(OfOneCaller)?;
            fetch(shared, call, to, previous, client).await
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
                sent = &mut reply, if !is_closed => match sent {
                    Ok((reply, is_stored)) => {
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
        if let Ok((reply, _)) = reply.try_recv() {
            return Err(reply);
        }
        if let Ok(entry) = &found
            && self.judge(entry) != Use::No
        {
            return Ok(found);
        }
        // The load is that of this request, and takes longer than the cache waits for it.
        if self.slot.is_taken_or_leave(&is_left)
            && !is_closed
            && let Ok((reply, _)) = reply.await
        {
            return Err(reply);
        }
        Ok(found)
    }
}

/// Tags of a rule that cannot work. What fails in the inner service or in L2 is told elsewhere.
fn report(found: &Result<Entry<CachedResponse>, LoadError>) {
    if let Err(error) = found
        && error.is_misuse()
    {
        tracing::debug!(%error, "a response is not stored");
    }
}
