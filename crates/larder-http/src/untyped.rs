//! The inner service, its bodies and its errors without their types. `typed` implements the traits for each of them.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Response, request};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// An error of the inner service or of one of its bodies.
pub(super) type AnyError = Box<dyn Any + Send>;

pub(super) type BoxBody = Pin<Box<dyn ServiceBody>>;

/// A body of the inner service.
pub(super) trait ServiceBody: Send {
    /// Copies nothing if the data is `Bytes` already.
    fn poll_bytes(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnyError>>>;

    /// How many bytes are left.
    fn bounds(&self) -> SizeHint;

    /// Returns a box of the `Pin<Box<Self>>`, as a pinned box cannot be downcast.
    fn into_any(self: Pin<Box<Self>>) -> Box<dyn Any + Send>;
}

/// The inner service with the body of a request, which has not been sent.
pub(super) trait Unsent: Send {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnyError>>;

    /// Sends the body with this head. The inner service is called when the future is polled.
    fn send(self: Box<Self>, head: request::Parts) -> Sending;
}

pub(super) type Sending = BoxFuture<'static, Result<Response<BoxBody>, AnyError>>;

/// Sends a request once the inner service is ready. Returns how long the service took, too.
pub(super) async fn send(
    mut unsent: Box<dyn Unsent>,
    head: request::Parts,
) -> Result<(Response<BoxBody>, Duration), AnyError> {
    poll_fn(|context| unsent.poll_ready(context)).await?;
    // From when the service is ready: the delay counts as age (RFC 9111, section 4.2.3).
    let begun = Instant::now();
    let response = unsent.send(head).await?;
    Ok((response, begun.elapsed()))
}
