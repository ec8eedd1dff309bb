//! Requests that no cache answers, in any service: the page shows beside each other how long a product page takes with
//! the caches and without.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use reqwest::RequestBuilder;

/// Says so from one service to the next.
const HEADER: &str = "x-uncached";

tokio::task_local! {
    /// Set while such a request is answered.
    static UNCACHED: ();
}

pub(crate) fn is_wanted() -> bool {
    UNCACHED.try_with(|()| ()).is_ok()
}

/// Runs the work without caches.
pub(crate) async fn during<T>(work: impl Future<Output = T>) -> T {
    UNCACHED.scope((), work).await
}

/// Tells the next service.
pub(super) fn pass_on(request: RequestBuilder) -> RequestBuilder {
    if is_wanted() {
        return request.header(HEADER, "1");
    }
    request
}

/// Does as the service before was told.
pub(super) async fn follow(request: Request, next: Next) -> Response {
    if request.headers().contains_key(HEADER) {
        return during(next.run(request)).await;
    }
    next.run(request).await
}
