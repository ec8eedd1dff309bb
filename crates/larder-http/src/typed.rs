//! Where the types of the inner service end: its calls, bodies and errors become calls, bodies and errors of the
//! layer's engine, and the engine's answers become typed again.
//!
//! Each function here is compiled for each inner service of a user, so it is short.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::{Request, Response, request};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use larder::internal::downcast;
use tower_service::Service;

use super::any_body::Answer;
use super::body::{CacheBody, in_memory};
use super::untyped::{AnyError, Sending, ServiceBody, Unsent};

/// The inner service, and the body of a request for it.
pub(super) struct TypedUnsent<S, R> {
    pub(super) inner: S,
    pub(super) body: R,
}

impl<S, R, B> Unsent for TypedUnsent<S, R>
where
    S: Service<Request<R>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
    B: Body<Error: Send> + Send + 'static,
{
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.inner.poll_ready(context).map_err(any_error)
    }

    fn send(self: Box<Self>, head: request::Parts) -> Sending {
        let Self { mut inner, body } = *self;
        Box::pin(async move {
            match inner.call(Request::from_parts(head, body)).await {
                Ok(response) => Ok(response.map(|body| Box::pin(body) as _)),
                Err(error) => Err(any_error(error)),
            }
        })
    }
}

impl<B: Body<Error: Send> + Send + 'static> ServiceBody for B {
    fn poll_bytes(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnyError>>> {
        let frame = self.poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map(in_memory).map_err(any_error)))
    }

    fn bounds(&self) -> SizeHint {
        self.size_hint()
    }

    fn into_any(self: Pin<Box<Self>>) -> Box<dyn Any + Send> {
        Box::new(self)
    }
}

/// The answer for a client of this inner service.
pub(super) fn typed_answer<B, E>(answer: Answer) -> Result<Response<CacheBody<B>>, E>
where
    B: Body<Error: Send> + Send + 'static,
    E: 'static,
{
    match answer {
        Ok(response) => Ok(response.map(CacheBody::of)),
        Err(error) => Err(downcast(error)),
    }
}

fn any_error(error: impl Send + 'static) -> AnyError {
    Box::new(error)
}
