//! The body of a response: from the inner service, or from memory.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use larder::internal::downcast;

use super::any_body::{AnyBody, Coming};

/// The body of a response of a [`CacheService`](super::CacheService): bytes that are in memory, or the body of the
/// inner service as it comes.
pub struct CacheBody<B: Body> {
    /// The first bytes, if some are in memory.
    read: Bytes,
    /// The bytes after them, if the body is copied while it comes.
    coming: Option<Coming>,
    /// What came after them: a frame that did not fit, or was no data, or the error that has ended the body.
    last: Option<Box<Result<Frame<Bytes>, B::Error>>>,
    /// The part that is not in memory.
    rest: Option<Pin<Box<B>>>,
}

impl<B: Body<Error: Send> + Send + 'static> CacheBody<B> {
    /// The body for a client of the inner service.
    pub(super) fn of(body: AnyBody) -> Self {
        Self {
            read: body.read,
            coming: body.coming,
            last: (body.last).map(|last| Box::new(last.map_err(downcast))),
            rest: body.rest.map(|rest| downcast(rest.into_any())),
        }
    }
}

/// The rest has a pin of its own, and no other part is pinned.
impl<B: Body> Unpin for CacheBody<B> {}

impl<B: Body<Error: Send> + Send + 'static> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(coming) = &mut self.coming {
            match ready!(coming.poll_next(context)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(rest)) => *self = Self::of(*rest),
                None => self.coming = None,
            }
        }
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(*last));
        }
        let Some(body) = &mut self.rest else {
            return Poll::Ready(None);
        };
        body.as_mut().poll_frame(context).map_ok(in_memory)
    }

    fn is_end_stream(&self) -> bool {
        let is_over = (self.rest.as_ref()).is_none_or(Body::is_end_stream);
        is_over && self.read.is_empty() && self.coming.is_none() && self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_deref().and_then(|last| last.as_ref().ok());
        let last = last.and_then(Frame::data_ref).map_or(0, Bytes::len);
        let read = (self.read.len() + last) as u64;
        let mut hint = match (&self.coming, &self.rest) {
            (Some(coming), _) => coming.left(),
            (None, Some(body)) => body.size_hint(),
            // Of a body that is cut off no length is promised.
            (None, None) if matches!(self.last.as_deref(), Some(Err(_))) => SizeHint::new(),
            (None, None) => SizeHint::with_exact(0),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CacheBody");
        debug.field("in_memory", &self.read.len());
        debug.finish_non_exhaustive()
    }
}

/// Copies nothing if the data is `Bytes` already.
pub(super) fn in_memory<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}
