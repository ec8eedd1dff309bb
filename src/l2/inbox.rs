//! The events of a subscription in their order: the answer to a heartbeat comes after all messages that were published
//! before it (rule 8: heartbeat).

use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::{Event, PartitionClock};

pub(super) struct Inbox {
    messages: mpsc::Receiver<Event>,
    /// The answer to a heartbeat, and how many messages come before it.
    answer: Option<(PartitionClock, usize)>,
}

impl Inbox {
    pub(super) fn new(messages: mpsc::Receiver<Event>) -> Self {
        Self {
            messages,
            answer: None,
        }
    }

    /// The answer to the last heartbeat, if it gets one. Messages that were published before it are in the queue by
    /// now.
    pub(super) fn set_answer(&mut self, answer: Option<PartitionClock>) {
        // Counted, since a queue that looks empty need not be: tokio makes a busy task yield.
        self.answer = answer.map(|clock| (clock, self.messages.len()));
    }

    /// The next event.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some((clock, _)) = self.answer.take_if(|(_, ahead)| *ahead == 0) {
            return Poll::Ready(Some(Event::Heartbeat(clock)));
        }
        // It may be pending with messages ahead, when tokio makes the task yield; it is polled again then.
        let event = ready!(self.messages.poll_recv(cx));
        if let Some((_, ahead)) = &mut self.answer {
            // Only this takes messages out, so as many are there as were counted.
            debug_assert!(*ahead <= self.messages.len() + 1);
            *ahead -= 1;
        }
        Poll::Ready(event)
    }
}
