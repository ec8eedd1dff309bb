//! The future of a call: small, however much the call does, and compiled with this crate but for its first step.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

/// The first step of a call, which L1 may answer.
pub(crate) enum FirstStep<T> {
    /// The call is over.
    Done(T),
    /// The call goes on with this. It is boxed here, for the calls that need it, so that the others stay small.
    Wait(BoxFuture<'static, T>),
}

/// A call that takes its first step when it is polled, and not when it is made: the key may change in between.
///
/// An `async` block would keep two copies of the captures of its first step, such as a loader.
pub(crate) struct Call<F, T, G> {
    first: Option<F>,
    rest: Option<BoxFuture<'static, T>>,
    /// Gives the result its type.
    answer: G,
}

// The first step is moved out before it is taken, and the rest is in a box.
impl<F, T, G> Unpin for Call<F, T, G> {}

impl<T, A, F: FnOnce() -> FirstStep<T>, G: Fn(T) -> A> Call<F, T, G> {
    #[inline]
    pub(crate) fn new(first: F, answer: G) -> Self {
        Self {
            first: Some(first),
            rest: None,
            answer,
        }
    }
}

impl<T, A, F: FnOnce() -> FirstStep<T>, G: Fn(T) -> A> Future for Call<F, T, G> {
    type Output = A;

    /// # Panics
    ///
    /// If the future is polled after its end, as an `async` block panics.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A> {
        let call = self.get_mut();
        if let Some(first) = call.first.take() {
            match first() {
                FirstStep::Done(result) => return Poll::Ready((call.answer)(result)),
                FirstStep::Wait(rest) => call.rest = Some(rest),
            }
        }
        poll_rest(&mut call.rest, cx).map(&call.answer)
    }
}

/// Depends on the kind of result alone, so the calls of a user share it.
#[inline(never)]
fn poll_rest<T>(rest: &mut Option<BoxFuture<'static, T>>, cx: &mut Context<'_>) -> Poll<T> {
    let Some(future) = rest else {
        unreachable!("no caller polls a future after its end, or after a panic of a key");
    };
    let result = future.as_mut().poll(cx);
    if result.is_ready() {
        *rest = None;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    #[should_panic(expected = "no caller polls a future after its end")]
    async fn a_call_that_has_ended_does_not_hang() {
        let wait = || FirstStep::Wait(ready(7).boxed());
        let mut call = Call::new(wait, |n| n + 1);
        assert_eq!(poll!(&mut call), Poll::Ready(8));
        let _ = poll!(&mut call);
    }
}
