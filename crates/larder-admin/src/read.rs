//! Reads the body of a request, up to a bound.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, BufMut};
use http::StatusCode;
use http_body::Body;

use super::reply::Reply;

/// The longest body, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The bytes of the body.
pub(super) async fn read<B: Body>(body: B) -> Result<Vec<u8>, Reply> {
    let mut bytes = Vec::new();
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let Ok(frame) = frame else {
            return Err(Reply::bad_request("the body could not be read"));
        };
        // Trailers say nothing here.
        if let Ok(data) = frame.into_data() {
            if data.remaining() > MAX_BODY_BYTES - bytes.len() {
                let line = "the body is over 64 KiB";
                return Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, line));
            }
            bytes.put(data);
        }
    }
    Ok(bytes)
}
