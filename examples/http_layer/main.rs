//! A server whose responses are cached, with axum: products that are listed often and changed seldom.
//!
//! ```sh
//! cargo run -p http_layer -- redis://127.0.0.1:6379
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::routing::get;
use larder::Cache;
use larder_http::CacheLayer;
use tokio::net::TcpListener;

/// The price, and how often it was read from where it is kept.
static PRICE: AtomicU32 = AtomicU32::new(450);
static READS: AtomicU32 = AtomicU32::new(0);

async fn read() -> impl IntoResponse {
    READS.fetch_add(1, Ordering::SeqCst);
    let price = PRICE.load(Ordering::SeqCst);
    // Fresh for a minute; for ten more seconds the old one is shown while the new one is read.
    let directives = "public, max-age=60, stale-while-revalidate=10";
    ([(CACHE_CONTROL, directives)], format!("tea: {price} cents"))
}

async fn raise() -> &'static str {
    PRICE.fetch_add(20, Ordering::SeqCst);
    "raised"
}

/// One server of several.
async fn serve(redis: &str) -> Result<SocketAddr, Box<dyn Error>> {
    let cache = Cache::builder("shop:http")
        .redis(redis)
        // Kept past their time, to be revalidated, or to answer while the service is down.
        .stale_if_error(Duration::from_secs(3600))
        // L1 holds 128 MiB of them.
        .l1_capacity_bytes(128 << 20);
    let layer = CacheLayer::new(cache)?;
    layer.cache().ready().await;
    let app = Router::new()
        .route("/products/tea", get(read).put(raise))
        .layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn show(what: &str, request: reqwest::RequestBuilder) -> Result<String, Box<dyn Error>> {
    // Both servers are reached by one name.
    let response = request.header("host", "shop.example").send().await?;
    let how = response.headers().get("cache-status").cloned();
    let text = response.text().await?;
    println!(
        "{what}: {text} ({})",
        how.as_ref()
            .and_then(|how| how.to_str().ok())
            .unwrap_or_default()
    );
    Ok(text)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis = std::env::args().nth(1).ok_or("give the URL of a Redis")?;
    let (a, b) = (serve(&redis).await?, serve(&redis).await?);
    let client = reqwest::Client::new();
    let tea = |server| format!("http://{server}/products/tea");

    show("a", client.get(tea(a))).await?;
    show("a again", client.get(tea(a))).await?;
    show("b", client.get(tea(b))).await?;
    assert_eq!(
        READS.load(Ordering::SeqCst),
        1,
        "one request has reached the handler"
    );

    show("a changes it", client.put(tea(a))).await?;
    let text = show("a", client.get(tea(a))).await?;
    assert_eq!(text, "tea: 470 cents");
    Ok(())
}
