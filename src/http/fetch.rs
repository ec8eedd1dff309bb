//! One request to the inner service, on behalf of all requests that wait for its response.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::http::header::{AGE, DATE, SET_COOKIE};
use ::http::{Request, Response, StatusCode, request, response};
use bytes::Bytes;
use futures::FutureExt as _;
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower_service::Service;

use super::answer::{How, answer};
use super::body::{CacheBody, Partial};
use super::conditional::{ask, content_length, has_validator, is_about, merge, strip_hop_by_hop};
use super::policy::{terms, vary};
use super::references::leads_to_itself;
use super::rules::Rules;
use super::stored::{CachedResponse, Kind, Scheme, Stored, Terms, Varies, own};
use super::variants::{variant_key, widen};
use crate::error::OfOneCaller;
use crate::{Cache, Entry, Loaded};

pub(super) struct Shared {
    pub(super) cache: Cache<String, CachedResponse>,
    pub(super) rules: Rules,
}

/// A request, and the service that it is for.
pub(super) struct Call<S, R> {
    pub(super) inner: S,
    pub(super) request: Request<R>,
}

/// Where a response is stored.
#[derive(Clone)]
pub(super) struct Place {
    /// The key of the resource.
    pub(super) primary: String,
    /// The key of one variant, if it has some.
    pub(super) variant: Option<(String, Varies)>,
    pub(super) scheme: Scheme,
    /// The request does not want what is stored here.
    pub(super) is_refused: bool,
}

impl Place {
    pub(super) fn key(&self) -> &str {
        self.variant.as_ref().map_or(&self.primary, |(key, _)| key)
    }

    /// For `Cache-Status`.
    pub(super) fn why_missing(&self) -> &'static str {
        if self.variant.is_some() {
            "vary-miss"
        } else {
            "uri-miss"
        }
    }
}

/// What the client of the request gets.
pub(super) enum Reply<B: Body, E> {
    Response(Response<CacheBody<B>>),
    Error(E),
    Panic(Box<dyn Any + Send>),
}

/// If it fails, there is no value for those that wait: each of them asks for itself.
type Verdict = Result<Loaded<CachedResponse>, OfOneCaller>;

/// What becomes of a response.
enum Outcome {
    Stored(Box<Stored>, Vec<String>),
    Uncacheable,
    Failed,
}

/// For the client, and whether it should wait for the cache: so that its next request finds what is stored.
pub(super) type ToClient<B, E> = (Reply<B, E>, bool);

/// Sends the request in a task of its own. `client` gets the response as soon as it is there; the result is for the cache.
/// The request is dropped if neither waits any more.
pub(super) async fn fetch<S, R, B>(
    shared: Arc<Shared>,
    call: Call<S, R>,
    place: Place,
    previous: Option<Entry<CachedResponse>>,
    mut client: oneshot::Sender<ToClient<B, S::Error>>,
) -> Verdict
where
    S: Service<Request<R>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
    B: Body + Send + 'static,
    B::Error: Send,
{
    // The cache gives up on a load after a time, by dropping this future, and the client does not.
    let (cache, has_given_up) = oneshot::channel::<()>();
    let task = async move {
        let (parts, body) = call.request.into_parts();
        let attempt = Attempt::new(&shared.rules, &place, parts, previous);
        let sent = attempt.send(call.inner, body);
        let are_gone = async {
            client.closed().await;
            let _ = has_given_up.await;
        };
        let sent = tokio::select! {
            sent = AssertUnwindSafe(sent).catch_unwind() => sent,
            () = are_gone => return Err(OfOneCaller),
        };
        let outcome = match sent {
            Ok((reply, outcome)) => {
                let is_stored = matches!(outcome, Outcome::Stored(..));
                let _ = client.send((reply, is_stored));
                outcome
            }
            Err(panic) => {
                let _ = client.send((Reply::Panic(panic), false));
                Outcome::Failed
            }
        };
        let request = attempt.request;
        verdict(&shared, place, &request, outcome).await
    };
    let span = tracing::Span::current();
    let task = tokio::spawn(tracing::Instrument::instrument(task, span));
    let verdict = task.await.unwrap_or(Err(OfOneCaller));
    drop(cache);
    verdict
}

/// What the cache is told, after it was given what belongs under another key.
async fn verdict(
    shared: &Shared,
    place: Place,
    request: &request::Parts,
    outcome: Outcome,
) -> Verdict {
    let (stored, tags) = match outcome {
        Outcome::Stored(stored, tags) => (stored, tags),
        Outcome::Uncacheable => return Ok(uncacheable(shared.rules.uncacheable_for)),
        Outcome::Failed => return Err(OfOneCaller),
    };
    let names = vary(&stored.headers).unwrap_or_default();
    if let Some((_, known)) = &place.variant {
        if known.covers(&names) {
            return Ok(loaded(stored, tags));
        }
        // It depends on more than was known. The next request finds it by all of that.
        let wider = widen(&shared.cache, &place.primary, names).await;
        let is_known = wider.is_some();
        let remembered = shared.rules.uncacheable_for;
        return Ok(uncacheable(if is_known {
            Duration::ZERO
        } else {
            remembered
        }));
    }
    let response = loaded(stored, tags.clone());
    if names.is_empty() {
        return Ok(response);
    }
    let varies = Varies::on(names);
    let key = variant_key(&place.primary, &varies, place.scheme, &request.headers);
    let _ = shared.cache.insert(key.as_str(), response).await;
    // The variant is inserted, and not loaded: only these tags say that one of them was invalidated meanwhile.
    Ok(with_tags(varies.loaded(), tags))
}

fn loaded(stored: Box<Stored>, tags: Vec<String>) -> Loaded<CachedResponse> {
    let ttl = stored.terms.ttl();
    let soft_ttl = stored.terms.fresh_for().max(Duration::from_millis(1));
    let response = CachedResponse(Kind::Response(stored));
    with_tags(Loaded::new(response).ttl(ttl).soft_ttl(soft_ttl), tags)
}

fn with_tags(loaded: Loaded<CachedResponse>, tags: Vec<String>) -> Loaded<CachedResponse> {
    if tags.is_empty() {
        loaded
    } else {
        loaded.tags(tags)
    }
}

/// Those that wait go on at once, and those that come soon do not wait for each other.
fn uncacheable(remembered: Duration) -> Loaded<CachedResponse> {
    let loaded = Loaded::new(CachedResponse(Kind::Uncacheable));
    if remembered.is_zero() {
        return loaded.no_store();
    }
    loaded.ttl(remembered).soft_ttl(remembered)
}

/// One request, and what is known of its response.
struct Attempt<'a> {
    rules: &'a Rules,
    /// As the client has sent it.
    request: request::Parts,
    scheme: Scheme,
    previous: Option<Entry<CachedResponse>>,
    why: &'static str,
}

impl<'a> Attempt<'a> {
    fn new(
        rules: &'a Rules,
        place: &Place,
        request: request::Parts,
        previous: Option<Entry<CachedResponse>>,
    ) -> Self {
        let is_usable = |entry: &Entry<CachedResponse>| {
            (entry.stored()).is_some_and(|stored| stored.scheme == place.scheme)
        };
        let previous = previous.filter(is_usable);
        let why = match &previous {
            Some(_) => "stale",
            None if place.is_refused => "request",
            None => place.why_missing(),
        };
        Self {
            rules,
            request,
            scheme: place.scheme,
            previous,
            why,
        }
    }

    /// The previous response, if it may be used instead of an error.
    fn instead(&self) -> Option<(&Stored, Duration)> {
        let (stored, resident) = self.previous()?;
        let age = stored.terms.age.saturating_add(resident);
        stored
            .terms
            .answers_for_error(age)
            .then_some((stored, resident))
    }

    fn previous(&self) -> Option<(&Stored, Duration)> {
        let entry = self.previous.as_ref()?;
        Some((entry.stored()?, entry.meta().age()))
    }

    async fn send<S, R, B>(&self, mut inner: S, body: R) -> (Reply<B, S::Error>, Outcome)
    where
        S: Service<Request<R>, Response = Response<B>>,
        B: Body,
    {
        let mut parts = self.request.clone();
        let previous = self.previous();
        ask(
            &mut parts.headers,
            previous.map(|(stored, _)| &stored.headers),
        );
        let ready = poll_fn(|context| inner.poll_ready(context)).await;
        let begun = Instant::now();
        let response = match ready {
            Ok(()) => inner.call(Request::from_parts(parts, body)).await,
            Err(error) => Err(error),
        };
        let delay = begun.elapsed();
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                let instead = self.instead().map(|instead| self.stale(instead, None));
                let reply = instead.map_or(Reply::Error(error), Reply::Response);
                return (reply, Outcome::Failed);
            }
        };
        let status = response.status();
        if let Some(instead) = self.instead().filter(|_| is_failure(status)) {
            let reply = self.stale(instead, Some(status));
            return (Reply::Response(reply), Outcome::Failed);
        }
        let (parts, body) = response.into_parts();
        if let Some((stored, resident)) = previous
            && status == StatusCode::NOT_MODIFIED
            && has_validator(&stored.headers)
        {
            return if is_about(&parts.headers, &stored.headers) {
                self.revalidated(stored, resident, parts, delay)
            } else {
                let reply = self.answer(stored, resident, self.how(status));
                (Reply::Response(reply), Outcome::Uncacheable)
            };
        }
        let (response, outcome) = self.received(parts, body, delay).await;
        (Reply::Response(response), outcome)
    }

    /// What is stored, instead of an error.
    fn stale<B: Body>(
        &self,
        (stored, resident): (&Stored, Duration),
        status: Option<StatusCode>,
    ) -> Response<CacheBody<B>> {
        let how = How {
            fwd_status: status,
            is_stale: true,
            ..How::forwarded(self.why)
        };
        self.answer(stored, resident, how)
    }

    fn answer<B: Body>(
        &self,
        stored: &Stored,
        resident: Duration,
        how: How,
    ) -> Response<CacheBody<B>> {
        let (method, headers) = (&self.request.method, &self.request.headers);
        answer(&self.rules.name, method, headers, stored, resident, how)
    }

    /// The inner service says that what is stored still holds.
    fn revalidated<B: Body, E>(
        &self,
        stored: &Stored,
        resident: Duration,
        parts: response::Parts,
        delay: Duration,
    ) -> (Reply<B, E>, Outcome) {
        let mut merged = parts;
        merged.status = stored.status;
        strip_hop_by_hop(&mut merged.headers);
        let headers = merged.headers;
        let Some(both) = merge(&stored.headers, &headers).and_then(|both| own(&both)) else {
            let reply = self.answer(stored, resident, self.how(StatusCode::NOT_MODIFIED));
            return (Reply::Response(reply), Outcome::Uncacheable);
        };
        merged.headers = both;
        // They say how old the answer is, and not what was stored. Without a date it is of now.
        for name in [AGE, DATE] {
            if !headers.contains_key(&name) {
                merged.headers.remove(name);
            }
        }
        let terms = terms(
            self.rules,
            &self.request,
            &mut merged,
            SystemTime::now(),
            delay,
        );
        let how = How {
            is_stored: terms.is_some(),
            ..self.how(StatusCode::NOT_MODIFIED)
        };
        let tags = self.tags(&merged);
        let mut stored = Stored {
            status: stored.status,
            headers: merged.headers,
            body: stored.body.clone(),
            scheme: self.scheme,
            terms: terms.unwrap_or(stored.terms),
        };
        let reply = self.answer(&stored, Duration::ZERO, how);
        stored.headers.remove(SET_COOKIE);
        let outcome = if how.is_stored {
            Outcome::Stored(Box::new(stored), tags)
        } else {
            Outcome::Uncacheable
        };
        (Reply::Response(reply), outcome)
    }

    /// A whole response, which is stored if it may be.
    async fn received<B: Body>(
        &self,
        mut parts: response::Parts,
        body: B,
        delay: Duration,
    ) -> (Response<CacheBody<B>>, Outcome) {
        let now = SystemTime::now();
        let terms = terms(self.rules, &self.request, &mut parts, now, delay);
        let limit = self.rules.body_limit;
        let fits = body.size_hint().lower() <= limit as u64;
        // The inner service may know more of the request, such as that it came without TLS. A client that follows
        // the redirect would get it again.
        let is_loop = leads_to_itself(self.scheme, &self.request, &parts);
        let headers = terms.filter(|_| fits && !is_loop).and_then(|terms| {
            let mut headers = own(&parts.headers)?;
            strip_hop_by_hop(&mut headers);
            headers.remove(SET_COOKIE);
            Some((terms, headers))
        });
        let Some((terms, headers)) = headers else {
            let outcome = if is_failure(parts.status) {
                Outcome::Failed
            } else {
                Outcome::Uncacheable
            };
            return (self.unstored(parts, CacheBody::passed(body)), outcome);
        };
        let begun = Instant::now();
        let mut partial = Partial::new(body);
        let _ = timeout(self.rules.body_timeout, partial.read_on(limit)).await;
        let bytes = match partial.into_whole() {
            Ok(bytes) if is_complete(&parts, &bytes) => bytes,
            Ok(bytes) => {
                let body = CacheBody::memory(bytes);
                return (self.unstored(parts, body), Outcome::Uncacheable);
            }
            Err(partial) => {
                let outcome = if partial.has_failed() {
                    Outcome::Failed
                } else {
                    Outcome::Uncacheable
                };
                return (self.unstored(parts, CacheBody::partial(partial)), outcome);
            }
        };
        let tags = self.tags(&parts);
        let terms = Terms {
            age: terms.age.saturating_add(begun.elapsed()),
            ..terms
        };
        let stored = Stored {
            status: parts.status,
            headers,
            body: bytes.clone(),
            scheme: self.scheme,
            terms,
        };
        (
            self.stored(parts, &stored, bytes),
            Outcome::Stored(Box::new(stored), tags),
        )
    }

    fn tags(&self, response: &response::Parts) -> Vec<String> {
        let rule = self.rules.tags.as_ref();
        rule.map_or_else(Vec::new, |tags| tags(&self.request, response))
    }

    fn unstored<B: Body>(
        &self,
        mut parts: response::Parts,
        body: CacheBody<B>,
    ) -> Response<CacheBody<B>> {
        self.how(parts.status)
            .write(&self.rules.name, &mut parts.headers);
        Response::from_parts(parts, body)
    }

    fn how(&self, status: StatusCode) -> How {
        How {
            fwd_status: Some(status),
            ..How::forwarded(self.why)
        }
    }

    /// For the client whose request it was: also with what is not stored, such as `Set-Cookie`.
    fn stored<B: Body>(
        &self,
        mut parts: response::Parts,
        stored: &Stored,
        bytes: Bytes,
    ) -> Response<CacheBody<B>> {
        let how = How {
            is_stored: true,
            ..self.how(parts.status)
        };
        let is_conditional =
            super::conditional::is_not_modified(&self.request.headers, &stored.headers);
        // A cookie goes with the whole response: what is stored has none.
        let has_cookie = parts.headers.contains_key(SET_COOKIE);
        if parts.status == StatusCode::OK && is_conditional && !has_cookie {
            return self.answer(stored, Duration::ZERO, how);
        }
        how.write(&self.rules.name, &mut parts.headers);
        Response::from_parts(parts, CacheBody::memory(bytes))
    }
}

/// A response that was cut off is not stored.
fn is_complete(parts: &response::Parts, bytes: &Bytes) -> bool {
    content_length(&parts.headers).is_none_or(|length| length == bytes.len() as u64)
}

/// Those of RFC 5861.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
