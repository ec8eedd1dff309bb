//! Users and passwords that change while connections are used.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::{BasicAuth, RedisResult, StreamingCredentialsProvider};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::task_local;
use tokio::time::timeout;

use crate::util::lock::lock;

/// A provider of credentials that all connections share.
#[derive(Clone)]
pub(crate) struct Credentials(pub(crate) Arc<dyn StreamingCredentialsProvider>);

type Stream = BoxStream<'static, RedisResult<BasicAuth>>;

/// How many credentials of a stream a new connection tries.
const MAX_LOGINS: usize = 4;
/// How soon credentials have to follow those that Redis has refused.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

task_local! {
    /// What the provider gives for the connection that this task makes, after what was taken already.
    static FOLLOWING: Mutex<Option<Stream>>;
}

/// Makes a connection. If Redis refuses credentials of a provider, the credentials that follow are tried at once: a
/// provider may fetch these only when its stream is polled on, so that a stream of the next attempt would begin with the
/// refused ones again.
pub(crate) async fn log_in<T, E, Connecting: Future<Output = Result<T, E>>>(
    connect: impl Fn() -> Connecting,
    is_refused: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let connecting = async {
        let mut answer = connect().await;
        for _ in 1..MAX_LOGINS {
            if !answer.as_ref().is_err_and(&is_refused) || !has_following().await {
                break;
            }
            answer = connect().await;
        }
        answer
    };
    FOLLOWING.scope(Mutex::default(), connecting).await
}

/// Whether credentials follow those that were taken, soon enough.
async fn has_following() -> bool {
    let Some(mut following) = take_following() else {
        return false;
    };
    let Ok(Some(Ok(next))) = timeout(FOLLOW_WITHIN, following.next()).await else {
        return false;
    };
    keep_following(stream::iter([Ok(next)]).chain(following).boxed());
    true
}

fn take_following() -> Option<Stream> {
    FOLLOWING.try_with(|kept| lock(kept).take()).ok().flatten()
}

/// Returns the stream if this task makes no connection.
fn keep_following(stream: Stream) -> Option<Stream> {
    let mut stream = Some(stream);
    let keep = |kept: &Mutex<Option<Stream>>| mem::replace(&mut *lock(kept), stream.take());
    // Without the lock: the stream is the provider's, and so is its `Drop`.
    drop(FOLLOWING.try_with(keep));
    stream
}

impl StreamingCredentialsProvider for Credentials {
    /// The client subscribes twice for a connection: for the credentials to log in with, and then, when it has logged
    /// in, for all that follow. Both are parts of one stream of the provider.
    fn subscribe(&self) -> Stream {
        let error = |what: &str| io::Error::other(format!("the provider of credentials {what}"));
        let following = take_following();
        let is_new = following.is_none();
        let credentials = following.unwrap_or_else(|| {
            // The provider's own error may show a secret.
            let failed = move |_| error("has failed").into();
            (self.0.subscribe().map(move |given| given.map_err(failed))).boxed()
        });
        let first = credentials.into_future().map(move |(first, others)| {
            // Without this, the client takes a stream that ends at once for a refusal of Redis.
            let none = || is_new.then(|| Err(error("has given none").into()));
            // The client drops this stream when it has the first of them.
            stream::iter(first.or_else(none)).chain(stream::iter(keep_following(others)).flatten())
        });
        first.flatten_stream().boxed()
    }
}
