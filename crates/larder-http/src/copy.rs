//! Reads a body so that it can be stored, and passes it on to its client as it comes.

use std::future::poll_fn;
use std::mem::take;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http_body::Frame;
use larder::internal::OfOneCaller;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use super::any_body::{AnyBody, BodyPart, Coming};
use super::untyped::{AnyError, BoxBody};

/// How many frames of a body are read. A service that sends empty ones has no end otherwise.
const FRAMES: usize = 16_384;

/// The copy of a body that is stored if the body is whole: if it ends without trailers, within a number of bytes, of
/// frames, and a time. The bytes take a small multiple of their number in memory.
///
/// Whatever ends the copy, also if it is dropped, the client gets the rest of the body.
pub(super) struct BodyCopy {
    // Copied together: a frame may have one byte, or be a part of a large buffer that it keeps in memory.
    read: Vec<u8>,
    last: Option<Result<Frame<Bytes>, AnyError>>,
    rest: Option<BoxBody>,
    /// How many more are read.
    frames: usize,
    limit: usize,
    begun: Instant,
    time: Duration,
    /// Gets a copy of the parts, once the body is passed on.
    client: Option<UnboundedSender<BodyPart>>,
}

impl BodyCopy {
    pub(super) fn of(body: BoxBody, limit: usize, time: Duration) -> Self {
        Self {
            read: Vec::new(),
            last: None,
            rest: Some(body),
            frames: FRAMES,
            limit,
            begun: Instant::now(),
            time,
            client: None,
        }
    }

    /// Reads the frames that are there already. Returns the body as it was if that has ended the copy: it is whole if
    /// all of it is in memory. `None` if the client would have to wait for the next frame.
    pub(super) async fn read_ready(&mut self) -> Option<AnyBody> {
        let time = self.time;
        let reading = async {
            loop {
                // A body that is always ready would never let the timeout be looked at.
                tokio::task::consume_budget().await;
                match self.next().now_or_never() {
                    Some(true) => {}
                    Some(false) => return true,
                    None => return false,
                }
            }
        };
        let is_over = timeout(time, reading).await.unwrap_or(true);
        is_over.then(|| AnyBody {
            last: self.last.take(),
            rest: self.rest.take(),
            ..AnyBody::memory(self.take_read())
        })
    }

    /// The body for the client: the bytes that were read, and from here on each frame as it comes.
    pub(super) fn pass_on(&mut self) -> AnyBody {
        let left = self.rest.as_ref().map(|body| body.bounds());
        let (client, coming) = Coming::of(&left.unwrap_or_default());
        self.client = Some(client);
        AnyBody {
            coming: Some(coming),
            ..AnyBody::memory(Bytes::copy_from_slice(&self.read))
        }
    }

    /// Reads the rest of the body. Returns its bytes if it is whole; `None` if it may be, but is not stored.
    pub(super) async fn read_rest(mut self) -> Result<Option<Bytes>, OfOneCaller> {
        let left = self.time.saturating_sub(self.begun.elapsed());
        let reading = async {
            while self.next().await {
                tokio::task::consume_budget().await;
            }
        };
        // A timeout drops the future and not the parts of the body, which it only borrows.
        let reading = AssertUnwindSafe(timeout(left, reading)).catch_unwind();
        if let Err(panic) = reading.await {
            self.rest = None;
            self.send(BodyPart::Panic(panic));
            return Err(OfOneCaller);
        }
        match (&self.last, &self.rest) {
            (None, None) => Ok(Some(self.take_read())),
            (Some(Err(_)), _) => Err(OfOneCaller),
            _ => Ok(None),
        }
    }

    /// Reads a frame. Returns whether there may be another one to read. If it is dropped, no frame is lost: each is
    /// copied as soon as it comes.
    async fn next(&mut self) -> bool {
        let (Some(body), Some(frames)) = (&mut self.rest, self.frames.checked_sub(1)) else {
            return false;
        };
        let frame = poll_fn(|context| body.as_mut().poll_bytes(context)).await;
        self.frames = frames;
        let Some(frame) = frame else {
            self.rest = None;
            return false;
        };
        if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref)
            && data.len() <= self.limit.saturating_sub(self.read.len())
        {
            self.read.extend_from_slice(data);
            if self.client.is_some() {
                self.send(BodyPart::Data(Bytes::copy_from_slice(data)));
            }
            return true;
        }
        // After an error there is nothing more.
        self.rest.take_if(|_| frame.is_err());
        self.last = Some(frame);
        false
    }

    /// A client that has gone needs none. Others may wait for the response.
    fn send(&self, part: BodyPart) {
        if let Some(client) = &self.client {
            let _ = client.send(part);
        }
    }

    fn take_read(&mut self) -> Bytes {
        Bytes::from(take(&mut self.read).into_boxed_slice())
    }
}

impl Drop for BodyCopy {
    fn drop(&mut self) {
        let (last, rest) = (self.last.take(), self.rest.take());
        if last.is_some() || rest.is_some() {
            self.send(BodyPart::Rest(Box::new(AnyBody {
                last,
                rest,
                ..AnyBody::memory(Bytes::new())
            })));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use bytes::Bytes;
    use http_body::{Body, Frame};

    use super::BodyCopy;

    /// A body of frames. Before each of them it may have the reader wait.
    struct Frames {
        left: usize,
        frame: &'static [u8],
        waits: bool,
        has_waited: bool,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.waits && !self.has_waited {
                self.has_waited = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.has_waited = false;
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
        for waits in [false, true] {
            for (left, frame, is_whole) in [
                (LIMIT, &b"x"[..], false),
                (LIMIT, b"", false),
                (16_000, &[b'x'; 64], true),
            ] {
                let mut was_whole = false;
                let taken = allocation_counter::measure(|| {
                    let body = Box::pin(Frames {
                        left,
                        frame,
                        waits,
                        has_waited: false,
                    });
                    let mut copy = BodyCopy::of(body, LIMIT, Duration::from_secs(3600));
                    was_whole = runtime.block_on(async {
                        if let Some(read) = copy.read_ready().await {
                            return read.is_in_memory();
                        }
                        // Its client does not read.
                        let _held = copy.pass_on();
                        copy.read_rest().await.unwrap().is_some()
                    });
                });
                assert!(taken.bytes_max < 4 * LIMIT as u64, "{taken:?}");
                assert_eq!(was_whole, is_whole);
            }
        }
    }
}
