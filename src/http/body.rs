//! The body of a response: from the inner service, or from memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use crate::util::partial_debug::partial_debug;

/// The body of a response of a [`CacheService`](super::CacheService): that of the inner service as it comes, or bytes
/// that are in memory.
pub struct CacheBody<B: Body> {
    /// The first bytes, if some are in memory.
    read: Bytes,
    /// What came after them: a frame that did not fit, or was no data, or the error that has ended the body.
    last: Option<Box<Result<Frame<Bytes>, B::Error>>>,
    /// The part that is not in memory.
    rest: Option<Pin<Box<B>>>,
}

/// How many frames of a body are read. A service that sends empty ones has no end otherwise.
const FRAMES: usize = 16_384;

/// Reads a body to its end, if it has no trailers and is within `limit` bytes, so many frames and this time. Takes a
/// small multiple of the bytes in memory. Otherwise returns the body as it was.
pub(super) async fn read<B: Body>(
    body: B,
    limit: usize,
    time: Duration,
) -> Result<Bytes, CacheBody<B>> {
    // Copied together: a frame may have one byte, or be a part of a large buffer that it keeps in memory.
    let (mut read, mut last, mut rest) = (Vec::new(), None, Some(Box::pin(body)));
    let reading = async {
        for _ in 0..FRAMES {
            let Some(body) = &mut rest else {
                return;
            };
            // A body that is always ready would never let the timeout be looked at.
            tokio::task::consume_budget().await;
            let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await else {
                return rest = None;
            };
            let frame = frame.map(in_memory);
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref)
                && data.len() <= limit.saturating_sub(read.len())
            {
                read.extend_from_slice(data);
                continue;
            }
            // After an error there is nothing more.
            rest.take_if(|_| frame.is_err());
            return last = Some(Box::new(frame));
        }
    };
    // A timeout drops the future and not the parts of the body, which it only borrows.
    // A frame is copied as soon as it comes, so none is lost if the time ends.
    let _ = timeout(time, reading).await;
    let read = Bytes::from(read.into_boxed_slice());
    if last.is_none() && rest.is_none() {
        return Ok(read);
    }
    Err(CacheBody { read, last, rest })
}

impl<B: Body> CacheBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self {
            rest: Some(Box::pin(body)),
            ..Self::memory(Bytes::new())
        }
    }

    pub(super) fn memory(read: Bytes) -> Self {
        Self {
            read,
            last: None,
            rest: None,
        }
    }

    /// Whether reading it ended with an error of the inner service.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.last.as_deref(), Some(Err(_)))
    }
}

/// The rest has a pin of its own, and no other part is pinned.
impl<B: Body> Unpin for CacheBody<B> {}

impl<B: Body> Body for CacheBody<B> {
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
        is_over && self.read.is_empty() && self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_deref().and_then(|last| last.as_ref().ok());
        let last = last.and_then(Frame::data_ref).map_or(0, Bytes::len);
        let read = (self.read.len() + last) as u64;
        let mut hint = match &self.rest {
            Some(body) => body.size_hint(),
            // Of a body that is cut off no length is promised.
            None if self.has_failed() => SizeHint::new(),
            None => SizeHint::with_exact(0),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

partial_debug!([B: Body] CacheBody<B>, "CacheBody", this => in_memory: &this.read.len());

/// Copies nothing if the data is `Bytes` already.
fn in_memory<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use bytes::Bytes;
    use http_body::{Body, Frame};

    use super::read;

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
        let runtime = runtime.enable_time().build().unwrap();
        for (left, frame, is_whole) in [
            (LIMIT, &b"x"[..], false),
            (LIMIT, b"", false),
            (16_000, &[b'x'; 64], true),
        ] {
            let mut was_whole = None;
            let taken = allocation_counter::measure(|| {
                let reading = read(Frames { left, frame }, LIMIT, Duration::from_secs(3600));
                was_whole = Some(runtime.block_on(reading).is_ok());
            });
            assert!(taken.bytes_max < 4 * LIMIT as u64, "{taken:?}");
            assert_eq!(was_whole, Some(is_whole));
        }
    }
}
