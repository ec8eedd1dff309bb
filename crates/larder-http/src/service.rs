//! The public service, and the future of a request.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use futures::future::BoxFuture;
use http_body::Body;
use larder::internal::Invariant;
use tower_layer::Layer;
use tower_service::Service;

use super::any_body::Answer;
use super::body::CacheBody;
use super::handle::handle;
use super::layer::CacheLayer;
use super::typed::{TypedUnsent, typed_answer};

/// A service with a cache before it, made by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    rules: Arc<CacheLayer>,
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let rules = Arc::new(self.clone());
        CacheService { inner, rules }
    }
}

/// The future of a [`CacheService`].
///
/// It can be dropped at any time. A request to the inner service for which other requests wait, or whose response is to
/// be stored, goes on.
#[must_use = "nothing is sent until it is polled"]
pub struct ResponseFuture<B, E> {
    answer: BoxFuture<'static, Answer>,
    types: Invariant<(B, E)>,
}

impl<B: Body<Error: Send> + Send + 'static, E: 'static> Future for ResponseFuture<B, E> {
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context).map(typed_answer)
    }
}

impl<B, E> fmt::Debug for ResponseFuture<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, R, B> Service<Request<R>> for CacheService<S>
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    B: Body<Error: Send> + Send + 'static,
{
    type Response = Response<CacheBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<B, S::Error>;

    /// Always: stored responses are handed out while the inner service is busy.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        // Not ready yet: it is waited for before it is called.
        let inner = self.inner.clone();
        let unsent = Box::new(TypedUnsent { inner, body });
        let answer = handle(Arc::clone(&self.rules), head, has_body, unsent);
        ResponseFuture {
            answer,
            types: Invariant::default(),
        }
    }
}
