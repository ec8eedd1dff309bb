//! Compares the answers to writes of this instance with the messages of the partition (rule 31: histories).
//!
//! Each answer names the partition's clock as the write has left it. Of one history, answers and messages have one order, and
//! one nonce for each number. So an answer and a message that do not fit are of two histories.

use std::collections::VecDeque;

use crate::ablation::{Rule, without};
use crate::l2::{ClockNumbers, Message};

/// How many of the last messages are remembered, for answers that come after the messages that follow them.
const MAX_MESSAGES: usize = 256;
/// How many answers wait for the message that follows them. If more come, the oldest is not compared.
const MAX_ANSWERS: usize = 256;

/// What the partition has named in answers, and in the messages that this instance has applied, in one epoch.
#[derive(Clone, Default)]
pub(super) struct Answers {
    /// The last messages that were applied in order, without a hole.
    messages: VecDeque<ClockNumbers>,
    /// The answers with which the message that follows them is still to be compared.
    waiting: Vec<ClockNumbers>,
}

impl From<&Message> for ClockNumbers {
    /// The clock as the write of this message has left it.
    fn from(message: &Message) -> Self {
        let &Message {
            epoch,
            seq,
            ver,
            nonce,
            ..
        } = message;
        Self {
            epoch,
            seq,
            ver,
            nonce,
        }
    }
}

/// Whether an answer and a message may be of one history.
fn fit(answer: &ClockNumbers, message: &ClockNumbers) -> bool {
    if without(Rule::Answers) {
        return true;
    }
    if answer.seq < message.seq {
        answer.ver < message.ver
    } else {
        let is_same = answer.nonce == message.nonce || without(Rule::Nonces);
        answer.ver >= message.ver && (is_same || answer.seq != message.seq)
    }
}

impl Answers {
    /// Compares an answer with the messages that were applied. Returns the number of a message that it does not fit.
    pub(super) fn add(&mut self, answer: ClockNumbers) -> Option<u64> {
        let next = self
            .messages
            .partition_point(|message| message.seq <= answer.seq);
        // Versions only grow, so it fits all messages if it fits those around it.
        let around = [next.checked_sub(1), Some(next)];
        let mut around = (around.into_iter().flatten()).filter_map(|at| self.messages.get(at));
        let misfit = around.find(|message| !fit(&answer, message));
        let misfit = misfit.map(|message| message.seq);
        if misfit.is_some() || next == self.messages.len() {
            match self.waiting.iter_mut().find(|one| one.seq == answer.seq) {
                Some(one) if one.nonce == answer.nonce => one.ver = one.ver.max(answer.ver),
                _ => {
                    if self.waiting.len() == MAX_ANSWERS {
                        self.waiting.remove(0);
                    }
                    self.waiting.push(answer);
                }
            }
        }
        misfit
    }

    /// Whether a message fits all answers that wait for it.
    pub(super) fn fit(&self, message: &Message) -> bool {
        let message = message.into();
        self.waiting.iter().all(|answer| fit(answer, &message))
    }

    /// A message that fits was applied: in order, or it begins anew.
    pub(super) fn apply(&mut self, message: &Message) {
        let message = ClockNumbers::from(message);
        self.waiting.retain(|answer| answer.seq >= message.seq);
        let last = self.messages.back();
        if last.is_some_and(|last| last.seq.checked_add(1) != Some(message.seq)) {
            self.messages.clear();
        }
        if self.messages.len() == MAX_MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back(message);
    }

    /// The messages with higher numbers do not count as applied any more.
    pub(super) fn forget_after(&mut self, seq: u64) {
        let known = self.messages.partition_point(|message| message.seq <= seq);
        self.messages.truncate(known);
    }

    /// The message that was applied with the number and the nonce that an answer names.
    pub(super) fn message_named_by(&self, answer: &ClockNumbers) -> Option<&ClockNumbers> {
        let is_it =
            |message: &&ClockNumbers| message.seq == answer.seq && message.nonce == answer.nonce;
        self.messages.iter().rev().find(is_it)
    }

    /// Another epoch has begun.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        self.messages.clear();
        self.waiting.retain(|answer| answer.epoch == epoch);
    }
}
