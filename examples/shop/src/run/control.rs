//! The buttons of the page that start, kill and pause processes. The gateway hands them on, with a password that only the
//! services of this shop know.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, serve};
use nix::sys::signal::Signal;
use tokio::net::TcpListener;

use super::Running;
use crate::plan::Name;
use crate::service::failure::Trouble;

pub(crate) struct Control {
    listener: TcpListener,
    url: String,
    password: String,
}

impl Control {
    pub(super) async fn new() -> Result<Self, Trouble> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let password = format!("{:032x}", u128::from_le_bytes(random));
        Ok(Self {
            listener,
            url,
            password,
        })
    }

    pub(super) fn address(&self) -> (String, String) {
        (self.url.clone(), self.password.clone())
    }

    pub(super) async fn serve(self, running: Arc<Running>) -> Result<(), Trouble> {
        let password: Arc<str> = format!("Bearer {}", self.password).into();
        let app = Router::new()
            .route("/redis/{action}", post(redis))
            .route("/{service}/{instance}/{action}", post(service))
            .with_state(running)
            .layer(from_fn_with_state(password, check));
        Ok(serve(self.listener, app).await?)
    }
}

async fn check(State(password): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION);
    if given.is_some_and(|given| given.as_bytes() == password.as_bytes()) {
        return next.run(request).await;
    }
    StatusCode::UNAUTHORIZED.into_response()
}

async fn redis(State(running): State<Arc<Running>>, Path(action): Path<String>) -> Done {
    let redis = running.redis()?;
    match action.as_str() {
        "start" => redis.restart().await?,
        "kill" => redis.kill().await?,
        "flush" => redis.flush().await?,
        "pause" => redis.signal(Signal::SIGSTOP).await?,
        "resume" => redis.signal(Signal::SIGCONT).await?,
        _ => return Err(Trouble::from("there is no such action").into()),
    }
    Ok(StatusCode::OK)
}

async fn service(
    State(running): State<Arc<Running>>,
    Path((name, instance, action)): Path<(Name, u16, String)>,
) -> Done {
    let (all, instance) = (&running.processes, (name, instance));
    match action.as_str() {
        "start" => all.start(instance).await?,
        "kill" => all.kill(instance).await?,
        "pause" => all.signal(instance, Signal::SIGSTOP).await?,
        "resume" => all.signal(instance, Signal::SIGCONT).await?,
        _ => return Err(Trouble::from("there is no such action").into()),
    }
    Ok(StatusCode::OK)
}

type Done = Result<StatusCode, Refused>;

struct Refused(Trouble);

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        Self(trouble)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, self.0.to_string()).into_response()
    }
}
