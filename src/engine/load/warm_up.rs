//! A warm-up of all lanes: takes values from a stream, hands each to its lane, and adds up what the lanes have stored.
//!
//! Does not know the type of the stream: [`WarmUp::poll`] is given the stream each time.

use std::collections::VecDeque;
use std::mem::take;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::{BoxFuture, try_join_all};
use tokio::sync::mpsc::{self, Sender, error::TrySendError};

use super::lanes::LaneLoads;
use super::warm::{BATCH, Item};
use crate::engine::lanes::Lanes;
use crate::error::WriteError;
use crate::l2::Applied;
use crate::stats::Warming;
use crate::util::lock::lock;

/// A warm-up under way.
pub(crate) struct WarmUp {
    /// Stores the values of all lanes.
    storing: BoxFuture<'static, Result<(), WriteError>>,
    /// The ways to the lanes. `None` after the end of the stream.
    lanes: Option<Lanes<Sender<Item>>>,
    /// A value for which its lane had no room.
    next: Option<Item>,
    progress: Arc<Mutex<Progress>>,
}

struct Progress {
    /// Whether each lane knows its position in the log: the stream is not polled before, as its values may be read
    /// then.
    has_begun: bool,
    /// How many values the stream has, if it says so.
    total: Option<u64>,
    /// The sums of each lane.
    lanes: Vec<Warming>,
    /// The sums of all lanes after each batch that the caller has not been told of.
    news: VecDeque<Warming>,
}

impl Progress {
    fn sum(&self) -> Warming {
        let lanes = self.lanes.iter().copied();
        Warming {
            total: self.total,
            ..lanes.fold(Warming::default(), Warming::and)
        }
    }
}

impl WarmUp {
    /// Begins to store values that are no older than these positions of the log. A lane without a position sets one.
    pub(crate) fn new(
        loads: &Arc<LaneLoads>,
        before: Lanes<Option<Applied>>,
        total: Option<u64>,
    ) -> Self {
        let mut receivers = Vec::new();
        let lanes = loads.map(|_, _| {
            // Room for a batch, while another one is stored.
            let (sender, receiver) = mpsc::channel(BATCH);
            receivers.push(receiver);
            sender
        });
        let progress = Arc::new(Mutex::new(Progress {
            has_begun: false,
            total,
            lanes: vec![Warming::default(); receivers.len()],
            news: VecDeque::new(),
        }));
        let (loads, shared) = (Arc::clone(loads), Arc::clone(&progress));
        let storing = async move {
            let begin = loads.iter().zip(before.iter());
            let begin = begin.map(|(lane, before)| lane.begin_warming(*before));
            let changes = try_join_all(begin).await?;
            lock(&shared).has_begun = true;
            let lanes = loads.iter().zip(receivers).zip(changes).enumerate();
            let storing = lanes.map(|(index, ((lane, items), changes))| {
                let shared = &shared;
                lane.warm(items, changes, move |warming| {
                    let mut progress = lock(shared);
                    if let Some(own) = progress.lanes.get_mut(index) {
                        *own = *warming;
                    }
                    let sum = progress.sum();
                    progress.news.push_back(sum);
                })
            });
            try_join_all(storing).await.map(drop)
        };
        Self {
            storing: Box::pin(storing),
            lanes: Some(lanes),
            next: None,
            progress,
        }
    }

    /// Takes values from the stream while the lanes have room for them, and calls `progress` after each batch of a
    /// lane.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        items: Pin<&mut dyn Stream<Item = Item>>,
        progress: &mut dyn FnMut(&Warming),
    ) -> Poll<Result<Warming, WriteError>> {
        // First: it makes room for the values that follow.
        let stored = self.storing.as_mut().poll(cx);
        let (has_begun, news) = {
            let mut progress = lock(&self.progress);
            (progress.has_begun, take(&mut progress.news))
        };
        news.iter().for_each(progress);
        if let Poll::Ready(stored) = stored {
            return Poll::Ready(stored.map(|()| lock(&self.progress).sum()));
        }
        if has_begun {
            self.feed(cx, items);
        }
        Poll::Pending
    }

    /// Hands values to their lanes, until the stream has none or a lane has no room. A lane with new values wakes the
    /// caller, and so `storing` is polled again.
    fn feed(&mut self, cx: &mut Context<'_>, mut items: Pin<&mut dyn Stream<Item = Item>>) {
        while let Some(lanes) = &self.lanes {
            let next = match self.next.take() {
                Some(next) => next,
                None => match items.as_mut().poll_next(cx) {
                    Poll::Ready(Some(next)) => next,
                    Poll::Ready(None) => {
                        self.lanes = None;
                        return;
                    }
                    Poll::Pending => return,
                },
            };
            // A key that is too long is counted by whichever lane.
            let key = next.0.as_deref().unwrap_or_default();
            match lanes.of(key).try_send(next) {
                Ok(()) => {}
                Err(TrySendError::Full(next)) => {
                    self.next = Some(next);
                    return;
                }
                // The lane has failed, and `storing` ends with its error.
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }
}
