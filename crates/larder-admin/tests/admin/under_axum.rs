//! Behind an axum server, as users mount it.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use larder_admin::{Access, Admin};
use serde_json::{Value, from_str, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fleet::{Instance, two};
use crate::support::redis_server::RedisServer;

#[derive(Clone)]
struct Operator;

async fn authenticate(mut request: Request, next: Next) -> Response {
    match request.headers().get("authorization") {
        Some(value) if value == "Bearer known" => {
            request.extensions_mut().insert(Operator);
            next.run(request).await
        }
        Some(_) => StatusCode::UNAUTHORIZED.into_response(),
        None => next.run(request).await,
    }
}

fn app(instance: &Instance) -> Router {
    let admin = Admin::new(&instance.caches, |head| {
        match head.extensions.get::<Operator>() {
            Some(Operator) => Access::Change,
            None => Access::Denied,
        }
    });
    Router::new()
        .nest_service("/caches", admin)
        .route("/", get(|| async { "the shop" }))
        .layer(from_fn(authenticate))
}

/// The status, and what comes after the head.
async fn ask_at(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn an_axum_server_has_the_routes_below_a_path() {
    const KNOWN: &str = "authorization: Bearer known\r\ncontent-type: application/json";
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, app(&a)).into_future());
    let ask = async |line: &str, headers: &str, body: &str| {
        ask_at(address, &format!("{line} HTTP/1.1\r\n{headers}"), body).await
    };
    a.store("eu/tea & milk").await;
    b.prices.get("eu/tea & milk").await.unwrap();
    let key = "/caches/test:price/key?key=eu%2Ftea%20%26%20milk";

    for path in ["/caches", "/caches/", key, "/caches/none"] {
        assert_eq!(
            ask(&format!("GET {path}"), "accept: */*", "").await,
            (403, String::new())
        );
    }
    let (status, shown) = ask(&format!("GET {key}"), KNOWN, "").await;
    let shown: Value = from_str(&shown).unwrap();
    assert_eq!((status, &shown["key"]), (200, &json!("eu/tea & milk")));
    for path in ["/caches", "/caches/"] {
        let (status, shown) = ask(&format!("GET {path}"), KNOWN, "").await;
        let shown: Value = from_str(&shown).unwrap();
        assert_eq!(
            (status, &shown[1]["namespace"]),
            (200, &json!("test:stock/shelf"))
        );
    }
    let (status, shown) = ask("GET /caches/test:stock%2Fshelf", KNOWN, "").await;
    let shown: Value = from_str(&shown).unwrap();
    assert_eq!(
        (status, &shown["namespace"]),
        (200, &json!("test:stock/shelf"))
    );
    // The head of the answer to GET, without its body.
    assert_eq!(ask("HEAD /caches", KNOWN, "").await, (200, String::new()));

    assert_eq!(
        ask("PUT /caches/enabled", KNOWN, "false").await,
        (204, String::new())
    );
    assert!(!a.prices.is_enabled() && b.prices.is_enabled());
    assert_eq!(ask("PUT /caches/enabled", KNOWN, "true").await.0, 204);
    assert_eq!(
        ask(&format!("DELETE {key}"), KNOWN, "").await,
        (204, String::new())
    );
    assert!(a.prices.get("eu/tea & milk").await.is_none());
    let form = "authorization: Bearer known\r\ncontent-type: application/x-www-form-urlencoded";
    assert_eq!(ask("POST /caches/values", form, "").await.0, 405);
    assert_eq!(ask("DELETE /caches/values", form, "").await.0, 415);
    assert_eq!(
        ask("GET /", "accept: */*", "").await,
        (200, "the shop".to_owned())
    );
    server.abort();
}
