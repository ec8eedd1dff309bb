//! The look-up of a stored response, which may send the request.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use ::http::Response;
use larder::internal::{OfOneCaller, lock};
use larder::{Entry, LoadError, Source};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::answer::{How, answer};
use super::any_body::AnyBody;
use super::attempt::{Attempt, Reply, fetch};
use super::directives::Directives;
use super::policy::is_stale;
use super::stored::{CachedResponse, Content, Stored};
use super::untyped::Unsent;
use super::variants::{variant_key, widen};

/// The entry of a key, or why there is none.
type FoundResponse = Result<Entry<CachedResponse>, LoadError>;

/// Which requests a response may come from.
enum LoadedBy {
    Anyone,
    /// It is sent with this previous response, if there is one, and joins no other.
    ThisOne(Option<Entry<CachedResponse>>),
}

/// The look-up of one request.
pub(super) struct Search {
    /// How it is sent if no stored response answers it.
    pub(super) attempt: Attempt,
    /// Whether its response may be stored, and answer other requests.
    pub(super) loads: bool,
    /// The freshness that it asks for.
    pub(super) wishes: Directives,
    /// The request, until it is sent: by the load that it begins, or for its client alone. A look-up holds it
    /// meanwhile.
    pub(super) unsent: Option<Box<dyn Unsent>>,
}

impl Search {
    /// Looks the resource up, and then the variant of it that the request selects. `None` if the request has to be sent
    /// for its client alone. An error is the reply to this very request.
    pub(super) async fn run(&mut self) -> Result<Option<Response<AnyBody>>, Reply> {
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

    async fn load(&mut self, by: LoadedBy) -> Result<FoundResponse, Reply> {
        let (cache, key) = (&self.attempt.rules.cache, self.attempt.key());
        let (client, mut reply) = oneshot::channel();
        let held = Arc::new(Mutex::new(self.unsent.take()));
        let mut attempt = self.attempt.clone();
        let taken = Arc::clone(&held);
        let is_awaited = matches!(by, LoadedBy::Anyone);
        let load = move |previous| async move {
            let unsent = lock(&taken).take().ok_or(OfOneCaller)?;
            attempt.previous = previous;
            fetch(attempt, unsent, client, is_awaited).await
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
            // The reply first: if both are there, the client gets the response to its own request. There is no reply if
            // the load belongs to another request.
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
        // A refresh that the look-up has begun with this request sends it, to see whether its response can be stored by
        // now. Or it drops it at once, if another request is sent for that.
        let is_tried = found.as_ref().is_ok_and(|entry| entry.is_uncacheable());
        let mut unsent = lock(&held).take_if(|_| !is_tried);
        // Otherwise the load belongs to this request, and takes longer than the cache waits for it.
        if unsent.is_none()
            && may_come
            && let Ok((reply, _)) = reply.await
        {
            return Err(reply);
        }
        if is_tried {
            unsent = lock(&held).take();
        }
        // From here on it is sent for its client alone: not by a refresh in the background.
        self.unsent = unsent;
        Ok(found)
    }
}

/// Tags of a rule that cannot work. Failures of the inner service or of L2 are told elsewhere.
fn report(found: &FoundResponse) {
    if let Err(error) = found
        && error.is_misuse()
    {
        tracing::debug!(%error, "a response is not stored");
    }
}
