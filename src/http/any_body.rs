//! The body of a response without its type: the bytes in memory, and the rest of the inner service's body.

use std::future::poll_fn;
use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use http_body::Frame;
use tokio::time::timeout;

use super::untyped::{AnyError, BoxBody};

/// The response or the error that a client gets.
pub(super) type Answer = Result<Response<AnyBody>, AnyError>;

/// The body of a response, before it becomes the [`CacheBody`](super::CacheBody) of its client.
pub(super) struct AnyBody {
    /// The first bytes, if some are in memory.
    pub(super) read: Bytes,
    /// The frame after them that did not fit, or was no data, or the error that has ended the body.
    pub(super) last: Option<Result<Frame<Bytes>, AnyError>>,
    /// The part that is not in memory.
    pub(super) rest: Option<BoxBody>,
}

impl AnyBody {
    pub(super) fn passed(body: BoxBody) -> Self {
        Self {
            rest: Some(body),
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
        matches!(self.last, Some(Err(_)))
    }
}

/// How many frames of a body are read. A service that sends empty ones has no end otherwise.
const FRAMES: usize = 16_384;

/// Reads a body to its end, if it has no trailers and is within `limit` bytes, so many frames and this time. Takes a
/// small multiple of the bytes in memory. Otherwise returns the body as it was.
pub(super) async fn read(body: BoxBody, limit: usize, time: Duration) -> Result<Bytes, AnyBody> {
    // Copied together: a frame may have one byte, or be a part of a large buffer that it keeps in memory.
    let (mut read, mut last, mut rest) = (Vec::new(), None, Some(body));
    let reading = async {
        for _ in 0..FRAMES {
            let Some(body) = &mut rest else {
                return;
            };
            // A body that is always ready would never let the timeout be looked at.
            tokio::task::consume_budget().await;
            let Some(frame) = poll_fn(|context| body.as_mut().poll_bytes(context)).await else {
                return rest = None;
            };
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref)
                && data.len() <= limit.saturating_sub(read.len())
            {
                read.extend_from_slice(data);
                continue;
            }
            // After an error there is nothing more.
            rest.take_if(|_| frame.is_err());
            return last = Some(frame);
        }
    };
    // A timeout drops the future and not the parts of the body, which it only borrows.
    // A frame is copied as soon as it comes, so none is lost if the time ends.
    let _ = timeout(time, reading).await;
    let read = Bytes::from(read.into_boxed_slice());
    if last.is_none() && rest.is_none() {
        return Ok(read);
    }
    Err(AnyBody { read, last, rest })
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
                let reading = read(
                    Box::pin(Frames { left, frame }),
                    LIMIT,
                    Duration::from_secs(3600),
                );
                was_whole = Some(runtime.block_on(reading).is_ok());
            });
            assert!(taken.bytes_max < 4 * LIMIT as u64, "{taken:?}");
            assert_eq!(was_whole, Some(is_whole));
        }
    }
}
