//! What a client receives when a request fails: a status and `{"error": "..."}`.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use larder::LoadError;
use serde_json::json;

use crate::catalog::NotWritten;
use crate::db::DbError;

#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn no_product(id: u64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no product {id}"))
    }

    /// The details go to the log; the client can only try again.
    fn unavailable(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "the database did not answer");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer; try again",
        )
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this request failed inside the service; its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        match error.downcast_ref::<DbError>() {
            Some(error) => Self::unavailable(error),
            None if error.is_timeout() => Self::unavailable(&error),
            None => Self::internal(&error),
        }
    }
}

impl From<NotWritten> for ApiError {
    fn from(error: NotWritten) -> Self {
        match error {
            NotWritten::Db(error) => Self::unavailable(&error),
            NotWritten::CutOff(_) => Self::internal(&error),
        }
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_data() {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
        } else {
            Self::new(StatusCode::BAD_REQUEST, format!("no valid JSON: {error}"))
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(error: BytesRejection) -> Self {
        let message = if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            "the body is far too large for a product".to_owned()
        } else {
            error.body_text()
        };
        Self::new(error.status(), message)
    }
}

impl From<PathRejection> for ApiError {
    fn from(error: PathRejection) -> Self {
        Self::new(error.status(), error.body_text())
    }
}
