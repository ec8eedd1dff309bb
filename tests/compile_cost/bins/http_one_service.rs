//! A service with the HTTP layer around one inner service. It is built and not run.

#[macro_use]
mod http;

service_of!(small, u8, std::io::Error);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    Box::pin(small::run()).await
}
