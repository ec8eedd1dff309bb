//! The body of a response: from the inner service, or from memory.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut as _, Bytes};
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

/// How many frames of a body are read. A service that sends empty ones has no end otherwise.
const FRAMES: usize = 16_384;

/// A body of which some was read.
pub(super) struct Partial<B: Body> {
    /// Copied together: a frame may have one byte, or be a part of a large buffer that it keeps in memory.
    read: Vec<u8>,
    /// What ended the reading: data that would be over the limit, or trailers.
    last: Option<Box<Frame<Bytes>>>,
    then: Then<B>,
}

enum Then<B: Body> {
    Rest(Pin<Box<B>>),
    Error(B::Error),
    End,
}

impl<B: Body> Partial<B> {
    /// Reads the body to its end, or for as long as it is within `limit` bytes, and so many frames. Takes a small multiple
    /// of the bytes in memory.
    ///
    /// Cancel safe: what was read stays.
    pub(super) async fn read_on(&mut self, limit: usize) {
        for _ in 0..FRAMES {
            let Then::Rest(rest) = &mut self.then else {
                return;
            };
            // A body that is always ready would never let the caller's timeout be looked at.
            tokio::task::consume_budget().await;
            match poll_fn(|context| rest.as_mut().poll_frame(context)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.remaining() <= limit.saturating_sub(self.read.len()) => {
                        self.read.put(data);
                    }
                    Ok(data) => return self.end_with(Frame::data(data)),
                    Err(trailers) => return self.end_with(trailers),
                },
                Some(Err(error)) => self.then = Then::Error(error),
                None => self.then = Then::End,
            }
        }
    }

    fn end_with(&mut self, frame: Frame<B::Data>) {
        self.last = Some(Box::new(in_memory(frame)));
    }

    pub(super) fn new(body: B) -> Self {
        Self {
            read: Vec::new(),
            last: None,
            then: Then::Rest(Box::pin(body)),
        }
    }

    /// All of it, if its end was read, and it has no trailers.
    pub(super) fn into_whole(self) -> Result<Bytes, Self> {
        if self.last.is_some() || !matches!(self.then, Then::End) {
            return Err(self);
        }
        Ok(self.read.into_boxed_slice().into())
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.then, Then::Error(_))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            return Poll::Ready(Some(Ok(Frame::data(read.into()))));
        }
        if let Some(frame) = self.last.take() {
            return Poll::Ready(Some(Ok(*frame)));
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
        let last = self.last.as_deref().and_then(Frame::data_ref);
        let read = (self.read.len() + last.map_or(0, Bytes::len)) as u64;
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
                    && body.last.is_none()
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::{Body, Frame};

    use super::Partial;

    /// A body of frames that are always ready.
    struct Frames {
        left: usize,
        frame: &'static [u8],
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.left.checked_sub(1) else {
                return Poll::Ready(None);
            };
            self.left = left;
            let frame = Frame::data(Bytes::from_static(self.frame));
            Poll::Ready(Some(Ok(frame)))
        }
    }

    #[test]
    fn a_body_takes_a_small_multiple_of_its_bytes_whatever_its_frames() {
        const LIMIT: usize = 1 << 20;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.build().unwrap();
        for (left, frame, is_whole) in [
            (LIMIT, &b"x"[..], false),
            (LIMIT, b"", false),
            (16_000, &[b'x'; 64], true),
        ] {
            let mut read = None;
            let taken = allocation_counter::measure(|| {
                let mut partial = Partial::new(Frames { left, frame });
                runtime.block_on(partial.read_on(LIMIT));
                read = Some(partial.into_whole().is_ok());
            });
            assert!(taken.bytes_max < 4 * LIMIT as u64, "{taken:?}");
            assert_eq!(read, Some(is_whole));
        }
    }
}
