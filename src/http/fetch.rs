//! One request to the inner service, on behalf of all requests that wait for its response.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ::http::header::{AGE, DATE, SET_COOKIE};
use ::http::{HeaderMap, Request, Response, StatusCode, request, response};
use futures::FutureExt as _;
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::Instrument as _;

use super::answer::{How, answer};
use super::body::{CacheBody, read};
use super::conditional::{ask, content_length, has_validator, is_about, is_not_modified};
use super::conditional::{merge, strip_hop_by_hop};
use super::policy::{terms, vary};
use super::references::leads_to_itself;
use super::rules::Rules;
use super::stored::{CachedResponse, Content, Scheme, Stored, Terms, Varies, own};
use super::variants::{variant_key, widen};
use crate::error::OfOneCaller;
use crate::{Cache, Entry, Loaded};

/// A layer: its cache and its rules.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) cache: Cache<String, CachedResponse>,
    pub(super) rules: Rules,
}

/// A service whose responses can be stored: all that the layer needs of it, in one place.
pub(super) trait Inner<R>:
    Service<
        Request<R>,
        Response = Response<<Self as Inner<R>>::Body>,
        Error: Send + 'static,
        Future: Send + 'static,
    > + Send
    + 'static
{
    type Body: Body<Error: Send> + Send + 'static;
}

impl<S, R, B> Inner<R> for S
where
    S: Service<Request<R>, Response = Response<B>, Error: Send + 'static, Future: Send + 'static>
        + Send
        + 'static,
    B: Body<Error: Send> + Send + 'static,
{
    type Body = B;
}

/// The response or the error that a client gets.
pub(super) type Answer<S, R> =
    Result<Response<CacheBody<<S as Inner<R>>::Body>>, <S as Service<Request<R>>>::Error>;

/// An answer, or the panic of the inner service.
pub(super) type Reply<S, R> = thread::Result<Answer<S, R>>;

/// A request that has not been sent, and the service that it is for.
pub(super) struct Unsent<S, R> {
    pub(super) inner: S,
    pub(super) request: Request<R>,
}

/// The keys under which a response is stored.
#[derive(Clone)]
pub(super) struct Address {
    /// The key of the resource.
    pub(super) primary: String,
    /// The key of one variant, if the resource has variants.
    pub(super) variant: Option<(String, Varies)>,
    pub(super) scheme: Scheme,
    /// The request does not want the response that is stored here.
    pub(super) is_refused: bool,
}

impl Address {
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

/// If it fails, there is no value for those that wait: each of them asks for itself.
type ForCache = Result<Loaded<CachedResponse>, OfOneCaller>;

/// Whether a response is stored.
enum Outcome {
    Stored(Box<Stored>, Vec<String>),
    Uncacheable,
    Failed,
}

/// Sends the request in a task of its own. `client` gets the reply as soon as it is there, and whether it should wait
/// for the cache, so that its next request finds the stored response. The result is for the cache. The request is
/// dropped if neither waits any more.
pub(super) async fn fetch<S: Inner<R>, R: Send + 'static>(
    shared: Arc<Shared>,
    unsent: Unsent<S, R>,
    address: Address,
    previous: Option<Entry<CachedResponse>>,
    mut client: oneshot::Sender<(Reply<S, R>, bool)>,
) -> ForCache {
    // The cache gives up on a load after a time, by dropping this future, and the client does not.
    let (cache, has_given_up) = oneshot::channel::<()>();
    let task = async move {
        let (request, body) = unsent.request.into_parts();
        let scheme = address.scheme;
        let is_usable = |stored: &Stored| stored.scheme == scheme;
        // A validator of the other scheme could confirm a response that is not for this client.
        let previous = previous.filter(|entry| entry.stored().is_some_and(is_usable));
        let why = match &previous {
            Some(_) => "stale",
            None if address.is_refused => "request",
            None => address.why_missing(),
        };
        let attempt = Attempt {
            rules: &shared.rules,
            request,
            scheme,
            previous,
            why,
        };
        let sent = attempt.send(unsent.inner, body);
        let are_gone = async {
            client.closed().await;
            let _ = has_given_up.await;
        };
        let sent = tokio::select! {
            // A panic is that of this request. Those that wait send requests of their own.
            sent = AssertUnwindSafe(sent).catch_unwind() => sent,
            () = are_gone => return Err(OfOneCaller),
        };
        let (reply, outcome) = match sent {
            Ok((answer, outcome)) => (Ok(answer), outcome),
            Err(panic) => (Err(panic), Outcome::Failed),
        };
        let is_stored = matches!(outcome, Outcome::Stored(..));
        let _ = client.send((reply, is_stored));
        let headers = attempt.request.headers;
        for_cache(&shared, address, &headers, outcome).await
    };
    let result = tokio::spawn(task.in_current_span()).await;
    // Not before: while the load waits, the task goes on though its client is gone.
    drop(cache);
    result.unwrap_or(Err(OfOneCaller))
}

/// The value for the cache, once all that belongs under another key is stored there.
async fn for_cache(
    shared: &Shared,
    address: Address,
    request: &HeaderMap,
    outcome: Outcome,
) -> ForCache {
    let remembered = shared.rules.uncacheable_for;
    let (stored, tags) = match outcome {
        Outcome::Stored(stored, tags) => (stored, tags),
        Outcome::Uncacheable => return Ok(uncacheable(remembered)),
        Outcome::Failed => return Err(OfOneCaller),
    };
    let (ttl, fresh_for) = (stored.terms.ttl(), stored.terms.fresh_for());
    let names = vary(&stored.headers).unwrap_or_default();
    let response = Loaded::new(CachedResponse(Content::Response(stored)));
    let soft_ttl = fresh_for.max(Duration::from_millis(1));
    let response = response.ttl(ttl).soft_ttl(soft_ttl).tags(&tags);
    if let Some((_, known)) = &address.variant {
        if known.covers(&names) {
            return Ok(response);
        }
        // It depends on more than was known. The next request finds it by all of that.
        let wider = widen(&shared.cache, &address.primary, names).await;
        return Ok(uncacheable(wider.map_or(remembered, |_| Duration::ZERO)));
    }
    if names.is_empty() {
        return Ok(response);
    }
    let varies = Varies::on(names);
    // The variant first: the entry of the resource leads others to it.
    let key = variant_key(&address.primary, &varies, address.scheme, request);
    let _ = shared.cache.insert(key.as_str(), response).await;
    // The variant is inserted, and not loaded: only these tags say that one of them was invalidated meanwhile.
    Ok(varies.loaded().tags(&tags))
}

/// Those that wait go on at once, and those that come soon do not wait for each other.
fn uncacheable(remembered: Duration) -> Loaded<CachedResponse> {
    let loaded = Loaded::new(CachedResponse(Content::Uncacheable));
    if remembered.is_zero() {
        return loaded.no_store();
    }
    loaded.ttl(remembered).soft_ttl(remembered)
}

/// One request, and the previous response that it asks about.
struct Attempt<'a> {
    rules: &'a Rules,
    /// As the client has sent it.
    request: request::Parts,
    scheme: Scheme,
    previous: Option<Entry<CachedResponse>>,
    /// Why it is sent, for `Cache-Status`.
    why: &'static str,
}

impl Attempt<'_> {
    /// The previous response, and for how long it has been stored.
    fn previous(&self) -> Option<(&Stored, Duration)> {
        let entry = self.previous.as_ref()?;
        Some((entry.stored()?, entry.meta().age()))
    }

    async fn send<S: Inner<R>, R>(&self, mut inner: S, body: R) -> (Answer<S, R>, Outcome) {
        let mut parts = self.request.clone();
        let previous = self.previous();
        let stored = previous.map(|(stored, _)| &stored.headers);
        ask(&mut parts.headers, stored);
        let ready = poll_fn(|context| inner.poll_ready(context)).await;
        // From when the service is ready: the delay counts as age (RFC 9111, section 4.2.3).
        let begun = Instant::now();
        let response = match ready {
            Ok(()) => inner.call(Request::from_parts(parts, body)).await,
            Err(error) => Err(error),
        };
        let delay = begun.elapsed();
        let status = response.as_ref().ok().map(Response::status);
        // RFC 5861, section 4. It looks at the age again: the request has taken some time.
        let instead = self.previous().filter(|(stored, resident)| {
            let age = stored.terms.age.saturating_add(*resident);
            status.is_none_or(is_failure) && stored.terms.answers_for_error(age)
        });
        if let Some((stored, resident)) = instead {
            let how = How {
                fwd_status: status,
                is_stale: true,
                ..How::forwarded(self.why)
            };
            return (
                Ok(answer(self.rules, &self.request, stored, resident, how)),
                Outcome::Failed,
            );
        }
        let response = match response {
            Ok(response) => response,
            Err(error) => return (Err(error), Outcome::Failed),
        };
        let (parts, body) = response.into_parts();
        let (response, outcome) = match previous {
            Some((stored, resident))
                if parts.status == StatusCode::NOT_MODIFIED && has_validator(&stored.headers) =>
            {
                self.revalidated(stored, resident, parts, delay)
            }
            _ => self.received(parts, body, delay).await,
        };
        (Ok(response), outcome)
    }

    /// The inner service says that the stored response still holds, or that another one does.
    fn revalidated<B: Body>(
        &self,
        stored: &Stored,
        resident: Duration,
        mut parts: response::Parts,
        delay: Duration,
    ) -> (Response<CacheBody<B>>, Outcome) {
        let how = self.how(parts.status);
        let is_about = is_about(&parts.headers, &stored.headers);
        strip_hop_by_hop(&mut parts.headers);
        let merged = merge(&stored.headers, &parts.headers).and_then(|merged| own(&merged));
        let Some(mut merged) = merged.filter(|_| is_about) else {
            let response = answer(self.rules, &self.request, stored, resident, how);
            return (response, Outcome::Uncacheable);
        };
        // They say how old the 304 is, and not how old the stored response was. Without a date it is of now.
        for name in [AGE, DATE] {
            if !parts.headers.contains_key(&name) {
                merged.remove(name);
            }
        }
        (parts.status, parts.headers) = (stored.status, merged);
        let now = SystemTime::now();
        let terms = terms(self.rules, &self.request, &mut parts, now, delay);
        let tags = (self.rules.tags)(&self.request, &parts);
        let how = How {
            is_stored: terms.is_some(),
            ..how
        };
        let mut stored = Stored {
            status: stored.status,
            headers: parts.headers,
            body: stored.body.clone(),
            scheme: self.scheme,
            terms: terms.unwrap_or(stored.terms),
        };
        let response = answer(self.rules, &self.request, &stored, Duration::ZERO, how);
        stored.headers.remove(SET_COOKIE);
        let outcome = if how.is_stored {
            Outcome::Stored(Box::new(stored), tags)
        } else {
            Outcome::Uncacheable
        };
        (response, outcome)
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
        // The lower bound: a body of unknown length shows while it is read whether it fits.
        let fits = body.size_hint().lower() <= limit as u64;
        // The inner service may know more of the request, such as that it came without TLS. A client that follows
        // the redirect would get it again.
        let is_loop = leads_to_itself(self.scheme, &self.request, &parts);
        let headers = terms.filter(|_| fits && !is_loop).and_then(|terms| {
            let mut headers = own(&parts.headers)?;
            // RFC 9111, section 3.1.
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
        let length = content_length(&parts.headers);
        let bytes = match read(body, limit, self.rules.body_timeout).await {
            Ok(bytes) if length.is_none_or(|length| length == bytes.len() as u64) => bytes,
            // RFC 9111, section 3.3: it was cut off.
            Ok(bytes) => {
                let response = self.unstored(parts, CacheBody::memory(bytes));
                return (response, Outcome::Uncacheable);
            }
            Err(body) => {
                let outcome = if body.has_failed() {
                    Outcome::Failed
                } else {
                    Outcome::Uncacheable
                };
                return (self.unstored(parts, body), outcome);
            }
        };
        let tags = (self.rules.tags)(&self.request, &parts);
        // It has become older while its body was read.
        let terms = Terms {
            age: terms.age.saturating_add(begun.elapsed()),
            ..terms
        };
        let stored = Stored {
            status: parts.status,
            headers,
            body: bytes,
            scheme: self.scheme,
            terms,
        };
        let response = self.stored(parts, &stored);
        (response, Outcome::Stored(Box::new(stored), tags))
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

    /// For the client whose request it was: also with headers that are not stored, such as `Set-Cookie`.
    fn stored<B: Body>(
        &self,
        mut parts: response::Parts,
        stored: &Stored,
    ) -> Response<CacheBody<B>> {
        let how = How {
            is_stored: true,
            ..self.how(parts.status)
        };
        let is_conditional = is_not_modified(&self.request.headers, &stored.headers);
        // A cookie goes with the whole response: the stored one has none.
        let has_cookie = parts.headers.contains_key(SET_COOKIE);
        if parts.status == StatusCode::OK && is_conditional && !has_cookie {
            return answer(self.rules, &self.request, stored, Duration::ZERO, how);
        }
        how.write(&self.rules.name, &mut parts.headers);
        Response::from_parts(parts, CacheBody::memory(stored.body.clone()))
    }
}

/// Those of RFC 5861.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
