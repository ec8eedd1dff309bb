//! The body of a response without its type: the bytes in memory, those that a copy of the body passes on, and the rest
//! of the inner service's body.

use std::any::Any;
use std::panic::resume_unwind;
use std::task::{Context, Poll};

use ::http::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::untyped::{AnyError, BoxBody};

/// The response or the error that a client gets.
pub(super) type Answer = Result<Response<AnyBody>, AnyError>;

/// The body of a response, before it becomes the [`CacheBody`](super::CacheBody) of its client.
pub(super) struct AnyBody {
    /// The first bytes, if some are in memory.
    pub(super) read: Bytes,
    /// The bytes after them, if the body is copied while it comes.
    pub(super) coming: Option<Coming>,
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
            coming: None,
            last: None,
            rest: None,
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.coming.is_none() && self.last.is_none() && self.rest.is_none()
    }

    /// Whether reading it ended with an error of the inner service.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.last, Some(Err(_)))
    }
}

/// A part of a body that is copied while it comes.
pub(super) enum BodyPart {
    Data(Bytes),
    /// The copy has ended before the body. The client reads the rest itself.
    Rest(Box<AnyBody>),
    Panic(Box<dyn Any + Send>),
}

/// The parts of a body for its client. They end when the body is whole.
///
/// A client that does not read holds no copy up, or other clients would wait for it: the copy has a bound in bytes and
/// frames, and so have its parts.
pub(super) struct Coming {
    parts: UnboundedReceiver<BodyPart>,
    /// The bytes that are left, at least and at most.
    lower: u64,
    upper: Option<u64>,
}

impl Coming {
    pub(super) fn of(left: &SizeHint) -> (UnboundedSender<BodyPart>, Self) {
        let (sender, parts) = mpsc::unbounded_channel();
        let (lower, upper) = (left.lower(), left.upper());
        let coming = Self {
            parts,
            lower,
            upper,
        };
        (sender, coming)
    }

    /// The next bytes, or the rest of the body, which is not copied.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Box<AnyBody>>>> {
        self.parts.poll_recv(context).map(|part| match part? {
            BodyPart::Data(data) => {
                let bytes = data.len() as u64;
                self.lower = self.lower.saturating_sub(bytes);
                self.upper = self.upper.map(|upper| upper.saturating_sub(bytes));
                Some(Ok(data))
            }
            BodyPart::Rest(rest) => Some(Err(rest)),
            // It goes on in the request that the service has answered.
            BodyPart::Panic(panic) => resume_unwind(panic),
        })
    }

    pub(super) fn left(&self) -> SizeHint {
        let mut left = SizeHint::new();
        left.set_lower(self.lower);
        if let Some(upper) = self.upper {
            left.set_upper(upper);
        }
        left
    }
}
