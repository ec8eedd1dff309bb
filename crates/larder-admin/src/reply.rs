//! Answers: a status, and JSON that an operator can read.

use std::fmt::Display;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use larder::{L2Error, WriteError};
use serde_json::{Value, json};

use super::body::AdminBody;

/// An answer. Code that returns a `Result` has one in each of its arms.
pub(super) struct Reply {
    status: StatusCode,
    /// The methods that the path takes, of an answer to another one.
    allow: Option<HeaderValue>,
    body: Option<Value>,
}

impl Reply {
    fn new(status: StatusCode, body: Option<Value>) -> Self {
        let allow = None;
        Self {
            status,
            allow,
            body,
        }
    }

    pub(super) fn shown(body: Value) -> Self {
        Self::new(StatusCode::OK, Some(body))
    }

    /// The change is carried out.
    pub(super) fn done() -> Self {
        Self::new(StatusCode::NO_CONTENT, None)
    }

    /// Tells the client nothing.
    pub(super) fn denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, None)
    }

    /// An error, and a line that says what to do else.
    pub(super) fn error(status: StatusCode, line: impl Display) -> Self {
        Self::new(status, Some(json!({ "error": line.to_string() })))
    }

    pub(super) fn not_found(line: impl Display) -> Self {
        Self::error(StatusCode::NOT_FOUND, line)
    }

    pub(super) fn bad_request(line: impl Display) -> Self {
        Self::error(StatusCode::BAD_REQUEST, line)
    }

    pub(super) fn other_method(allowed: &str) -> Self {
        let line = format!("this path takes {allowed}");
        Self {
            allow: HeaderValue::from_str(allowed).ok(),
            ..Self::error(StatusCode::METHOD_NOT_ALLOWED, line)
        }
    }

    pub(super) fn into_response(self) -> Response<AdminBody> {
        let bytes = self.body.as_ref().map(Value::to_string);
        let mut response = Response::new(AdminBody::new(bytes.unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            // Keys are texts of users: no browser takes them for a page.
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        response
    }
}

/// Without the sources of the error, which may name servers.
impl From<L2Error> for Reply {
    fn from(error: L2Error) -> Self {
        let status = if error.is_refused() {
            StatusCode::BAD_GATEWAY
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self::error(status, error)
    }
}

/// A deferred change is accepted, and any other error is a failure of L2.
impl From<WriteError> for Reply {
    fn from(error: WriteError) -> Self {
        if error.is_deferred() {
            let line = json!({ "deferred": error.to_string() });
            return Self::new(StatusCode::ACCEPTED, Some(line));
        }
        Self::error(StatusCode::BAD_GATEWAY, error)
    }
}
