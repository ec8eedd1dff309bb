//! The future of a call: small, however much the call does, and compiled with this crate but for its first step.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

/// The first step of a call, which L1 may answer.
pub(crate) enum Step<'a, T> {
    /// The call is over.
    Done(T),
    /// The call goes on with this. It is boxed here, for the calls that need it, so that the others stay small.
    Wait(BoxFuture<'a, T>),
}

/// A call that takes its first step when it is polled, and not when it is made: the key may change in between.
///
/// An `async` block would keep two copies of what its first step captures, such as a loader.
pub(crate) struct Call<'a, F, T, G> {
    first: Option<F>,
    rest: Option<BoxFuture<'a, T>>,
    /// Gives the result its type.
    answer: G,
}

// The first step is moved out before it is taken, and the rest is in a box.
impl<F, T, G> Unpin for Call<'_, F, T, G> {}

impl<'a, T, A, F: FnOnce() -> Step<'a, T>, G: Fn(T) -> A> Call<'a, F, T, G> {
    #[inline]
    pub(crate) fn new(first: F, answer: G) -> Self {
        Self {
            first: Some(first),
            rest: None,
            answer,
        }
    }

    #[inline(never)]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<A> {
        let Some(rest) = &mut self.rest else {
            // The call was polled after its end.
            return Poll::Pending;
        };
        let result = rest.as_mut().poll(cx);
        if result.is_ready() {
            self.rest = None;
        }
        result.map(&self.answer)
    }
}

impl<'a, T, A, F: FnOnce() -> Step<'a, T>, G: Fn(T) -> A> Future for Call<'a, F, T, G> {
    type Output = A;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A> {
        let call = self.get_mut();
        if let Some(first) = call.first.take() {
            match first() {
                Step::Done(result) => return Poll::Ready((call.answer)(result)),
                Step::Wait(rest) => call.rest = Some(rest),
            }
        }
        call.wait(cx)
    }
}
