//! The public service: who may do what, before anything else.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use larder::Caches;
use tower_service::Service;

use super::body::AdminBody;
use super::call::AdminCall;
use super::read::read;
use super::reply::Reply;
use super::routes::{Route, find};

/// What the client of a request may do. Each includes the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Nothing. The answer is 403, without a body, whatever the request asks for.
    Denied,
    /// See states, counters and keys: GET and HEAD.
    Read,
    /// Also change something: PUT and DELETE.
    Change,
}

/// A tower service with the [routes](crate#routes) for operators, for axum and hyper.
///
/// A handle: clones are cheap and share everything. It keeps its caches until the last clone is dropped.
#[derive(Clone)]
pub struct Admin(Arc<AdminState>);

struct AdminState {
    caches: Caches,
    access: Box<dyn Fn(&Parts) -> Access + Send + Sync>,
}

impl Admin {
    /// The routes of these caches, also of those that are built later. `access` says what the client of a request may
    /// do. It is called for each request, before its path is looked at and its body is read.
    pub fn new(caches: &Caches, access: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Self {
        Self(Arc::new(AdminState {
            caches: caches.clone(),
            access: Box::new(access),
        }))
    }

    /// All that the head of a request says.
    fn accept(&self, head: &Parts) -> Result<(&'static Route, AdminCall), Reply> {
        // Before the path is looked at: a stranger does not learn which caches there are.
        let access = (self.0.access)(head);
        if access == Access::Denied {
            return Err(Reply::denied());
        }
        let (route, caches) = find(&self.0.caches, head)?;
        if route.is_change() {
            // Before the body is read, which costs the server something.
            if access != Access::Change {
                let line = "this client may read, and not change";
                return Err(Reply::error(StatusCode::FORBIDDEN, line));
            }
            if !is_json(head) {
                let line = "a change needs the header content-type: application/json";
                return Err(Reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
            }
        }
        let call = AdminCall {
            caches,
            query: route.query(head)?,
            body: Vec::new(),
        };
        Ok((route, call))
    }
}

/// No form of a page can send this, nor a script of another origin without the consent of the server.
fn is_json(head: &Parts) -> bool {
    let value = head.headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

impl<B: Body + Send + 'static> Service<Request<B>> for Admin {
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AdminBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let accepted = self.accept(&head);
        Box::pin(async {
            let answer = async {
                let (route, mut call) = accepted?;
                if route.has_body() {
                    call.body = read(body).await?;
                }
                route.answer(call).await
            };
            // An error is an answer like any other: a service that fails would close the connection of the client.
            let (Ok(reply) | Err(reply)) = answer.await;
            Ok(reply.into_response())
        })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("caches", &self.0.caches)
            .finish_non_exhaustive()
    }
}
