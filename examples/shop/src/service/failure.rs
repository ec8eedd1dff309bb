//! Errors as responses, and those that keep a service from starting.

use std::error::Error;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use larder::{LoadError, WriteError};
use serde_json::json;

use super::db::DbError;

/// Why an instance cannot run.
pub(crate) type Trouble = Box<dyn Error + Send + Sync>;

/// The result of a handler.
pub(crate) type Answer<T> = Result<T, Failure>;

/// Why a request has failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    fn unavailable(error: &(dyn Error + 'static)) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::unavailable(&error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        // The loader's own error, if it was one of these.
        match error.downcast_ref::<Self>() {
            Some(own) => own.clone(),
            None => Self::unavailable(&error),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}
