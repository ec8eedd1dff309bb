//! One request to the inner service, on behalf of all requests that wait for its response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_LENGTH, SET_COOKIE};
use ::http::response::Parts;
use ::http::{Response, StatusCode, request};
use bytes::Bytes;
use futures::FutureExt as _;
use larder::internal::OfOneCaller;
use larder::{Entry, Loaded};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::answer::{How, answer};
use super::any_body::{Answer, AnyBody};
use super::conditional::{ask, has_validator, is_not_modified, merge, strip_hop_by_hop, text};
use super::copy::BodyCopy;
use super::layer::CacheLayer;
use super::policy::{terms, vary};
use super::references::leads_to_itself;
use super::stored::{CachedResponse, Content, Scheme, Stored, Varies, own};
use super::untyped::{BoxBody, Unsent, send};
use super::variants::{variant_key, widen};

/// An answer, or the panic of the inner service.
pub(super) type Reply = thread::Result<Answer>;

/// If it fails, there is no value for those that wait: each of them asks for itself.
type ForCache = Result<Loaded<CachedResponse>, OfOneCaller>;

/// A response that is to be stored, with its tags; `None` if it may not be. There is none of a request that has failed.
type AttemptOutcome = Result<Option<(Box<Stored>, Vec<String>)>, OfOneCaller>;

/// The outcome for the cache of a response that its client gets.
enum Later {
    Known(AttemptOutcome),
    /// The client gets the body as it comes.
    Copied(Box<BodyCopy>, Storing),
}

/// A response without its body, which is stored if the body is whole.
struct Storing {
    stored: Box<Stored>,
    tags: Vec<String>,
    /// The length of the body, as the response says it.
    length: Option<u64>,
    /// When the body began to come.
    begun: Instant,
}

impl Storing {
    /// `None` if the body was cut off: RFC 9111, section 3.3.
    fn with(mut self, body: Bytes) -> Option<(Box<Stored>, Vec<String>)> {
        if self
            .length
            .is_some_and(|length| length != body.len() as u64)
        {
            return None;
        }
        // It has become older while its body came.
        let age = &mut self.stored.terms.age;
        *age = age.saturating_add(self.begun.elapsed());
        self.stored.body = body;
        Some((self.stored, self.tags))
    }
}

impl Later {
    async fn outcome(self) -> AttemptOutcome {
        let (copy, storing) = match self {
            Self::Known(outcome) => return outcome,
            Self::Copied(copy, storing) => (copy, storing),
        };
        let has_failed = is_failure(storing.stored.status);
        match copy.read_rest().await?.and_then(|body| storing.with(body)) {
            None if has_failed => Err(OfOneCaller),
            whole => Ok(whole),
        }
    }
}

/// Sends the request in a task of its own. `client` gets the reply as soon as its head is there, and whether it should
/// wait for the cache, so that its next request finds the stored response. The result is for the cache. The request is
/// dropped if neither waits any more, and a body is copied while the cache waits.
///
/// If others wait for the response too (`is_awaited`), they do not wait for as long as a load may take, and learn that
/// it is not stored: a load that fails would say nothing to those that come next.
pub(super) async fn fetch(
    attempt: Attempt,
    unsent: Box<dyn Unsent>,
    mut client: oneshot::Sender<(Reply, bool)>,
    is_awaited: bool,
) -> ForCache {
    // A previous response is kept, as the service may be faster again.
    let has_previous = (attempt.previous.as_ref()).is_some_and(|entry| !entry.is_uncacheable());
    let longest = attempt.rules.cache.load_timeout() / 10 * 9;
    let longest = if is_awaited && !has_previous {
        longest
    } else {
        Duration::MAX
    };
    let slow = attempt.uncacheable();
    // The cache gives up on a load after a time, by dropping this future, and the client does not.
    let (mut cache, waits) = oneshot::channel::<()>();
    let task = async move {
        let are_gone = async {
            cache.closed().await;
            client.closed().await;
        };
        let sent = tokio::select! {
            // A panic belongs to this request. Callers that wait send requests of their own.
            sent = AssertUnwindSafe(attempt.send(unsent)).catch_unwind() => sent,
            () = are_gone => return Err(OfOneCaller),
        };
        let (reply, later) = match sent {
            Ok((answer, later)) => (Ok(answer), later),
            Err(panic) => (Err(panic), Later::Known(Err(OfOneCaller))),
        };
        let is_stored = matches!(later, Later::Known(Ok(Some(_))));
        let _ = client.send((reply, is_stored));
        let outcome = tokio::select! {
            biased;
            outcome = later.outcome() => outcome,
            () = cache.closed() => Err(OfOneCaller),
        };
        attempt.for_cache(outcome).await
    };
    let result = timeout(longest, tokio::spawn(task.in_current_span())).await;
    // Not before: while the load waits, the task goes on though its client is gone.
    drop(waits);
    result.map_or(Ok(slow), |result| result.unwrap_or(Err(OfOneCaller)))
}

/// One request, the keys under which its response is stored, and the previous response that it asks about.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) rules: Arc<CacheLayer>,
    /// As the client has sent it.
    pub(super) request: Arc<request::Parts>,
    /// The key of the resource.
    pub(super) primary: String,
    /// The key of one variant, if the resource has variants.
    pub(super) variant: Option<(String, Varies)>,
    pub(super) scheme: Scheme,
    pub(super) previous: Option<Entry<CachedResponse>>,
    /// Why it is sent if there is no previous response, for `Cache-Status`.
    pub(super) why: &'static str,
}

impl Attempt {
    pub(super) fn key(&self) -> &str {
        self.variant.as_ref().map_or(&self.primary, |(key, _)| key)
    }

    /// The previous response, and for how long it has been stored.
    fn previous(&self) -> Option<(&Stored, Duration)> {
        let entry = self.previous.as_ref()?;
        // A validator of the other scheme could confirm a response that is not for this client.
        Some((entry.stored(self.scheme)?, entry.meta().age()))
    }

    async fn send(&self, unsent: Box<dyn Unsent>) -> (Answer, Later) {
        let (mut request, previous) = ((*self.request).clone(), self.previous());
        let stored = previous.map(|(stored, _)| &stored.headers);
        ask(&mut request.headers, stored);
        let sent = send(unsent, request).await;
        let status = (sent.as_ref().ok()).map(|(response, _)| response.status());
        // RFC 5861, section 4.
        let instead = previous.filter(|(stored, resident)| {
            let age = stored.terms.age.saturating_add(*resident);
            status.is_none_or(is_failure) && stored.terms.answers_for_error(age)
        });
        if let Some((stored, resident)) = instead {
            let mut how = self.how(status);
            how.is_stale = true;
            let response = answer(&self.rules, &self.request, stored, resident, how);
            return (Ok(response), Later::Known(Err(OfOneCaller)));
        }
        let (response, delay) = match sent {
            Ok(sent) => sent,
            Err(error) => return (Err(error), Later::Known(Err(OfOneCaller))),
        };
        let (parts, body) = response.into_parts();
        let (response, later) = match previous {
            Some((stored, resident))
                if parts.status == StatusCode::NOT_MODIFIED && has_validator(&stored.headers) =>
            {
                let (response, outcome) = self.revalidated(stored, resident, parts, delay);
                (response, Later::Known(outcome))
            }
            _ => self.received(parts, body, delay).await,
        };
        (Ok(response), later)
    }

    /// The inner service says that the stored response still holds, or that another one does.
    fn revalidated(
        &self,
        stored: &Stored,
        resident: Duration,
        mut parts: Parts,
        delay: Duration,
    ) -> (Response<AnyBody>, AttemptOutcome) {
        let (rules, mut how) = (&self.rules, self.how(Some(parts.status)));
        let merged = merge(&stored.headers, parts.headers).and_then(|merged| own(&merged));
        let Some(merged) = merged else {
            // The stored one stays as it is, and the next request asks about it again.
            let response = answer(rules, &self.request, stored, resident, how);
            return (response, Err(OfOneCaller));
        };
        (parts.status, parts.headers) = (stored.status, merged);
        let terms = terms(rules, &self.request, &mut parts, delay);
        let tags = (rules.tags)(&self.request, &parts);
        how.is_stored = terms.is_some();
        let mut stored = Stored {
            status: stored.status,
            headers: parts.headers,
            body: stored.body.clone(),
            scheme: stored.scheme,
            terms: terms.unwrap_or(stored.terms),
        };
        let response = answer(rules, &self.request, &stored, Duration::ZERO, how);
        if !how.is_stored {
            return (response, Ok(None));
        }
        stored.headers.remove(SET_COOKIE);
        (response, Ok(Some((Box::new(stored), tags))))
    }

    /// A whole response, which is stored if it may be. It does not wait for its body: the client gets what is there,
    /// and the rest as it comes.
    async fn received(
        &self,
        mut parts: Parts,
        body: BoxBody,
        delay: Duration,
    ) -> (Response<AnyBody>, Later) {
        let rules = &self.rules;
        let terms = terms(rules, &self.request, &mut parts, delay);
        // The lower bound: a body of unknown length shows while it is read whether it fits.
        let fits = body.bounds().lower() <= rules.body_limit as u64;
        // The inner service may know more of the request, such as that it came without TLS. A client that follows
        // the redirect would get it again.
        let is_loop = leads_to_itself(self.scheme, &self.request, &parts);
        let terms = terms.filter(|_| fits && !is_loop);
        let owned = terms.and_then(|terms| Some((terms, own(&parts.headers)?)));
        let Some((terms, mut headers)) = owned else {
            return self.unstored(parts, AnyBody::passed(body));
        };
        // RFC 9111, section 3.1.
        strip_hop_by_hop(&mut headers);
        headers.remove(SET_COOKIE);
        let length = text(&parts.headers, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let mut copy = BodyCopy::of(body, rules.body_limit, rules.body_timeout);
        let begun = Instant::now();
        let mut ready = copy.read_ready().await;
        if let Some(body) = ready.take_if(|body| !body.is_in_memory()) {
            return self.unstored(parts, body);
        }
        let storing = Storing {
            stored: Box::new(Stored {
                status: parts.status,
                headers,
                body: Bytes::new(),
                scheme: self.scheme,
                terms,
            }),
            tags: (rules.tags)(&self.request, &parts),
            length,
            begun,
        };
        let Some(body) = ready else {
            let response = self.answered(parts, &storing.stored, copy.pass_on(), false);
            return (response, Later::Copied(Box::new(copy), storing));
        };
        let Some((stored, tags)) = storing.with(body.read.clone()) else {
            return self.unstored(parts, body);
        };
        let response = self.answered(parts, &stored, body, true);
        (response, Later::Known(Ok(Some((stored, tags)))))
    }

    fn unstored(&self, mut parts: Parts, body: AnyBody) -> (Response<AnyBody>, Later) {
        let failed = is_failure(parts.status) || body.has_failed();
        let outcome = if failed { Err(OfOneCaller) } else { Ok(None) };
        let how = self.how(Some(parts.status));
        how.write(&self.rules.name, &mut parts.headers);
        (Response::from_parts(parts, body), Later::Known(outcome))
    }

    /// For the client whose request it was: also with headers that are not stored, such as `Set-Cookie`.
    fn answered(
        &self,
        mut parts: Parts,
        stored: &Stored,
        body: AnyBody,
        is_stored: bool,
    ) -> Response<AnyBody> {
        let mut how = self.how(Some(parts.status));
        how.is_stored = is_stored;
        let is_conditional = is_not_modified(&self.request.headers, &stored.headers);
        // A cookie goes with the whole response: the stored one has none.
        let has_cookie = parts.headers.contains_key(SET_COOKIE);
        if parts.status == StatusCode::OK && is_conditional && !has_cookie {
            return answer(&self.rules, &self.request, stored, Duration::ZERO, how);
        }
        how.write(&self.rules.name, &mut parts.headers);
        Response::from_parts(parts, body)
    }

    fn how(&self, status: Option<StatusCode>) -> How {
        let why = self.previous().map_or(self.why, |_| "stale");
        How::forwarded(why, status)
    }

    /// Those that wait go on at once, and those that come soon do not wait for each other. From the soft TTL on one of
    /// them at a time refreshes it, and the others still do not wait: a refresh takes no longer than a load may, and
    /// the next request has as long to begin it.
    fn uncacheable(&self) -> Loaded<CachedResponse> {
        let loaded = Loaded::new(CachedResponse(Content::Uncacheable));
        let remembered = self.rules.uncacheable_for;
        if remembered.is_zero() {
            return loaded.no_store();
        }
        let tried = self.rules.cache.load_timeout().saturating_mul(2);
        (loaded.ttl(remembered.saturating_add(tried))).soft_ttl(remembered)
    }

    /// The value for the cache, once all that belongs under another key is stored there.
    async fn for_cache(self, outcome: AttemptOutcome) -> ForCache {
        let cache = &self.rules.cache;
        let Some((stored, tags)) = outcome? else {
            return Ok(self.uncacheable());
        };
        let soft_ttl = stored.terms.fresh_for().max(Duration::from_millis(1));
        let ttl = stored.terms.ttl();
        let names = vary(&stored.headers).unwrap_or_default();
        let response = Loaded::new(CachedResponse(Content::Response(stored)));
        let response = response.ttl(ttl).soft_ttl(soft_ttl).tags(&tags);
        match &self.variant {
            Some((_, known)) if !known.covers(&names) => {
                // It depends on more than was known. The next request finds it by all of that.
                Ok(match widen(cache, &self.primary, names).await {
                    Some(_) => Loaded::new(CachedResponse(Content::Uncacheable)).no_store(),
                    None => self.uncacheable(),
                })
            }
            None if !names.is_empty() => {
                let varies = Varies::on(names);
                // The variant first: the entry of the resource leads others to it.
                let key = variant_key(&self.primary, &varies, self.scheme, &self.request.headers);
                let _ = cache.insert(key.as_str(), response).await;
                // The variant is inserted, and not loaded: only these tags say that one of them was invalidated
                // meanwhile.
                Ok(varies.loaded().tags(&tags))
            }
            _ => Ok(response),
        }
    }
}

/// Whether RFC 5861 counts it as an error.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
