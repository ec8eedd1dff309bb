//! The body of a response: from the inner service, or from memory.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response of a [`CacheService`](super::CacheService): that of the inner service as it comes, or bytes
    /// that are in memory.
    pub struct CacheBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    #[project = BodyKindProjection]
    enum BodyKind<B>
    where
        B: Body,
    {
        Passed { #[pin] body: B },
        Memory { bytes: Option<Bytes> },
        Partial { body: Partial<B> },
    }
}

/// A body of which some was read.
pub(super) struct Partial<B: Body> {
    /// Data, and at most one frame of trailers after it.
    read: VecDeque<Frame<Bytes>>,
    then: Then<B>,
}

enum Then<B: Body> {
    Rest(Pin<Box<B>>),
    Error(B::Error),
    End,
}

impl<B: Body> Partial<B> {
    /// Reads the body to its end, or until it is over `limit` bytes.
    ///
    /// Cancel safe: what was read stays.
    pub(super) async fn read_on(&mut self, limit: usize) {
        let mut size = 0;
        while let Then::Rest(rest) = &mut self.then {
            match poll_fn(|context| rest.as_mut().poll_frame(context)).await {
                Some(Ok(frame)) => {
                    let frame = in_memory(frame);
                    size += frame.data_ref().map_or(0, Bytes::len);
                    self.read.push_back(frame);
                    if size > limit {
                        return;
                    }
                }
                Some(Err(error)) => self.then = Then::Error(error),
                None => self.then = Then::End,
            }
        }
    }

    pub(super) fn new(body: B) -> Self {
        Self {
            read: VecDeque::new(),
            then: Then::Rest(Box::pin(body)),
        }
    }

    /// All of it, if its end was read, and it has no trailers.
    pub(super) fn into_whole(self) -> Result<Bytes, Self> {
        let is_whole = matches!(self.then, Then::End) && self.read.iter().all(Frame::is_data);
        if !is_whole {
            return Err(self);
        }
        let mut parts: Vec<Bytes> = (self.read.into_iter())
            .filter_map(|frame| frame.into_data().ok())
            .collect();
        Ok(match parts.len() {
            1 => parts.pop().unwrap_or_default(),
            _ => parts.concat().into(),
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.then, Then::Error(_))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Then::Rest(rest) = &mut self.then {
            let frame = ready!(rest.as_mut().poll_frame(context));
            return Poll::Ready(frame.map(|frame| frame.map(in_memory)));
        }
        match std::mem::replace(&mut self.then, Then::End) {
            Then::Error(error) => Poll::Ready(Some(Err(error))),
            _ => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().filter_map(Frame::data_ref);
        let read = read.map(|data| data.len() as u64).sum::<u64>();
        let mut hint = match &self.then {
            Then::Rest(rest) => rest.size_hint(),
            Then::Error(_) => SizeHint::new(),
            Then::End => SizeHint::with_exact(0),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

impl<B: Body> CacheBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self {
            kind: BodyKind::Passed { body },
        }
    }

    pub(super) fn memory(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self {
            kind: BodyKind::Memory { bytes },
        }
    }

    pub(super) fn partial(body: Partial<B>) -> Self {
        Self {
            kind: BodyKind::Partial { body },
        }
    }
}

impl<B: Body> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            BodyKindProjection::Passed { body } => {
                let frame = ready!(body.poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map(in_memory)))
            }
            BodyKindProjection::Memory { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            BodyKindProjection::Partial { body } => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Passed { body } => body.is_end_stream(),
            BodyKind::Memory { bytes } => bytes.is_none(),
            BodyKind::Partial { body } => {
                body.read.is_empty()
                    && match &body.then {
                        Then::Rest(rest) => rest.is_end_stream(),
                        Then::Error(_) => false,
                        Then::End => true,
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Passed { body } => body.size_hint(),
            BodyKind::Memory { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodyKind::Partial { body } => body.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            BodyKind::Passed { .. } => "passed",
            BodyKind::Memory { .. } => "memory",
            BodyKind::Partial { .. } => "partial",
        };
        f.debug_tuple("CacheBody").field(&name).finish()
    }
}

/// Copies nothing if the data is `Bytes` already.
fn in_memory<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}
