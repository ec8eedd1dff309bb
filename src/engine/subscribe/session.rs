//! How far an instance is in the messages of its partition, and the decision what it does with the next one (rules 7, 9 to
//! 11, 21 and 31).
//!
//! A [`Session`] is told of each input, and answers with the next step. It waits for nothing, and knows neither L1 nor
//! L2. Two other places empty L1, too: `subscription_run` for a message of an unknown kind, and for another incarnation
//! of the store (rule 13: a new incarnation is a new epoch); and `Freshness::connected`.

use std::mem::take;
use std::time::Duration;

use arrayvec::ArrayVec;
use tokio::time::Instant;

use super::answers::Answers;
use crate::ablation::{Rule, without};
use crate::l2::{
    Applied, ClockNumbers, HEARTBEATS, Kind, KnownHistory, MemberInfo, Message, PartitionClock,
};

/// A heartbeat out of turn is sent no sooner than this after the last one.
const MIN_EXTRA_HEARTBEAT_GAP: Duration = Duration::from_millis(50);
/// How many clears may come before the partition is asked for its epoch. If more come, the oldest emit no event.
const MAX_REMEMBERED_CLEARS: usize = 16;

/// How many of the epochs that it has left an instance remembers.
const MAX_FORMER_EPOCHS: usize = 16;

/// A message of one history of the partition (rule 31: histories).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    seq: u64,
    nonce: u64,
}

/// How far an instance is in the messages of this epoch.
#[derive(Clone, Default)]
pub(super) struct Progress {
    /// The last message that was applied, with all before it. `None` before the first subscription.
    applied: Option<Position>,
    /// The last message that the partition itself has named. Any publisher can make up messages (rule 21: numbers can be
    /// made up).
    confirmed: Option<Position>,
    /// The version that the partition has named with it.
    confirmed_ver: u64,
    /// The number of the last message that was reported: to listeners and counters, or to other programs.
    reported: u64,
    /// The answers to writes of this instance, beside the messages.
    answers: Answers,
    /// The last answer; of any epoch.
    last_answer: ClockNumbers,
    /// An answer does not fit a message that the partition has named: they are of two histories of this epoch.
    is_contradicted: bool,
    /// The epochs that this instance has left: a partition that has one of them again was put back.
    former_epochs: ArrayVec<u64, MAX_FORMER_EPOCHS>,
    /// The epoch in which the partition was found with another history than the one that is known: it has to end.
    ending_epoch: Option<u64>,
}

/// The state of one subscription. What its methods answer is done before anything else is received.
pub(super) struct Session {
    pub(super) me: MemberInfo,
    /// The partition's epoch, as it was found last. Zero before that.
    epoch: u64,
    pub(super) progress: Progress,
    /// The last answer to a write of this instance that was there when the partition was asked for its clock.
    answered: ClockNumbers,
    /// Whether the caller of an invalidation waits until this instance has applied it.
    is_awaited: bool,
    last_heartbeat: Instant,
    next_heartbeat: Instant,
    /// The epochs that the last clears have announced, in their order, and whether each is one of this instance.
    cleared: ArrayVec<(u64, bool), MAX_REMEMBERED_CLEARS>,
    /// When L1 was last suspended because of a message of an unknown epoch.
    last_suspended_at: Option<Instant>,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MessageAction {
    /// Apply it to L1.
    Apply {
        /// Report it: it is the next one, and no former subscription has reported it.
        is_new: bool,
        /// Send a heartbeat now: a caller waits for this instance.
        wants_heartbeat: bool,
    },
    /// Its epoch may be made up, so it is not applied. When the partition confirms the epoch, the message counts as
    /// applied with all before it.
    OtherEpoch {
        /// Do not use L1 until the partition has answered.
        suspends: bool,
    },
    /// Nothing: only without rule 21.
    Ignore,
}

/// The next step of an instance that catches up with the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CatchUpStep {
    /// All messages up to there are applied.
    UpToDate,
    /// Read the log from this number on. The message with the number has been applied.
    Replay { from: u64 },
    /// Empty L1: it is not known which messages are missing.
    StartOver,
    /// Empty L1, and have the partition begin another epoch: it was put back, and has values that were invalidated (rule
    /// 31: histories).
    EndEpoch,
}

/// What has happened to a partition whose messages are counted anew.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StartedOver {
    /// Clears by other instances.
    pub(super) clears: usize,
    /// The partition has left the epoch that was known, and no clear was announced.
    pub(super) is_new_epoch: bool,
}

impl Position {
    /// The last message of a clock; or of the clock as the write of a message has left it, which is that message.
    fn of(clock: impl Into<ClockNumbers>) -> Self {
        let ClockNumbers { seq, nonce, .. } = clock.into();
        Self { seq, nonce }
    }

    /// The message before this one.
    fn before(message: &Message) -> Option<Self> {
        let seq = message.seq.checked_sub(1)?;
        Some(Self {
            seq,
            nonce: message.previous_nonce,
        })
    }

    /// Whether this is the message before that one.
    fn precedes(self, message: &Message) -> bool {
        Self::before(message).is_some_and(|at| at.seq == self.seq && !at.differs_from(self))
    }

    /// Whether both have one number, and are messages of two histories.
    fn differs_from(self, other: Self) -> bool {
        self.seq == other.seq && self.nonce != other.nonce && !without(Rule::Nonces)
    }
}

/// Adds what is the last; the first goes if there is no room.
fn push_last<T, const N: usize>(list: &mut ArrayVec<T, N>, last: T) {
    if list.is_full() {
        list.remove(0);
    }
    list.push(last);
}

impl Session {
    pub(super) fn new(me: MemberInfo, epoch: u64, progress: Progress, now: Instant) -> Self {
        Self {
            me,
            epoch,
            progress,
            answered: ClockNumbers::default(),
            is_awaited: false,
            last_heartbeat: now,
            next_heartbeat: now,
            cleared: ArrayVec::new(),
            last_suspended_at: None,
        }
    }

    /// The number of the last message that was applied. A heartbeat that is sent now is answered by a partition which has
    /// reached it.
    pub(super) fn last_applied(&self) -> Option<u64> {
        self.progress.applied.map(|last| last.seq)
    }

    /// What it knows when it subscribes.
    pub(super) fn known_history(&self) -> KnownHistory {
        match self.progress.ending_epoch {
            Some(epoch) => KnownHistory::Contradicted { epoch },
            None if self.progress.confirmed.is_none() => KnownHistory::Unknown,
            None => KnownHistory::Fits,
        }
    }

    /// When the next heartbeat is due.
    pub(super) const fn next_heartbeat_at(&self) -> Instant {
        self.next_heartbeat
    }

    /// Compares answers to writes of this instance with the messages that were applied.
    pub(super) fn hear(&mut self, answers: impl IntoIterator<Item = ClockNumbers>) {
        for answer in answers {
            let progress = &mut self.progress;
            if progress.former_epochs.contains(&answer.epoch) {
                // It comes late: numbers that count no more.
                continue;
            }
            let last = &mut progress.last_answer;
            if (last.seq, last.ver) <= (answer.seq, answer.ver) {
                *last = answer;
            }
            if answer.epoch != self.epoch {
                continue;
            }
            let Some(misfit) = progress.answers.add(answer) else {
                continue;
            };
            if progress.confirmed.is_some_and(|last| misfit <= last.seq) {
                progress.is_contradicted = !without(Rule::Histories);
            } else {
                // The message may be made up (rule 21: numbers can be made up). The log says what stands in its place.
                self.fall_back();
            }
            self.bring_heartbeat_forward();
        }
    }

    /// The partition is asked for its clock. All answers that have come were heard.
    pub(super) fn begin_question(&mut self) {
        let progress = &mut self.progress;
        self.answered = progress.last_answer;
        // The partition has named this message, if it was applied.
        let named = (self.answered.epoch == self.epoch)
            .then(|| progress.answers.message_named_by(&self.answered))
            .flatten();
        if let Some(named) = named
            && progress.confirmed.is_some_and(|last| last.seq < named.seq)
        {
            progress.confirmed = Some(Position::of(*named));
            progress.confirmed_ver = named.ver;
        }
    }

    /// The messages that the partition has not named may be made up: they do not count as applied any more.
    fn fall_back(&mut self) {
        let progress = &mut self.progress;
        progress.applied = progress.confirmed;
        let last = progress.confirmed.map_or(0, |last| last.seq);
        progress.answers.forget_after(last);
    }

    /// Until when a heartbeat waits for its answer.
    pub(super) fn answer_deadline(&self) -> Instant {
        self.last_heartbeat + self.me.max_staleness
    }

    /// The time between two heartbeats.
    pub(super) fn interval(&self) -> Duration {
        self.me.max_staleness / HEARTBEATS
    }

    /// A heartbeat is sent now. Returns what it has the partition note.
    pub(super) fn send_heartbeat(&mut self, now: Instant, next: Instant) -> Applied {
        (self.last_heartbeat, self.next_heartbeat) = (now, next);
        Applied {
            epoch: self.epoch,
            // Callers of other instances rely on this number (rules 16: members and 21: numbers can be made up).
            seq: self.progress.confirmed.map_or(0, |last| last.seq),
        }
    }

    /// Has a heartbeat sent soon, though none is due: a message says something that only the partition can confirm. At most
    /// this often, however many messages come.
    fn bring_heartbeat_forward(&mut self) {
        let pause = MIN_EXTRA_HEARTBEAT_GAP.min(self.me.max_staleness / 30);
        self.next_heartbeat = self.next_heartbeat.min(self.last_heartbeat + pause);
    }

    /// Receives a message. It is applied whatever its number, as it only evicts older entries: a message that has the
    /// number of an earlier one was replayed, or the earlier one was made up (rule 21: numbers can be made up). If its
    /// number is above the next one, others were lost (rules 9: lost messages and 10: slow subscribers), and the
    /// partition is asked.
    pub(super) fn receive(&mut self, message: &Message, now: Instant) -> MessageAction {
        if message.epoch != self.epoch {
            return self.receive_other_epoch(message, now);
        }
        if without(Rule::Overflow) {
            self.progress.applied = message.seq.checked_sub(1).map(|seq| Position {
                seq,
                nonce: message.previous_nonce,
            });
        }
        let applied = self.progress.applied;
        let has_its_number = |last: Position| message.seq <= last.seq;
        if applied.is_some_and(has_its_number) && without(Rule::SeenNumbers) {
            return MessageAction::Ignore;
        }
        let is_next =
            applied.is_some_and(|last| last.precedes(message)) && !self.contradicts_named(message);
        if is_next {
            self.progress.applied = Some(Position::of(message));
            self.progress.answers.apply(message);
        } else if !applied.is_some_and(has_its_number) {
            // Messages are missing, or this one or the last one was made up, or the partition was put back.
            self.bring_heartbeat_forward();
        }
        let wants_heartbeat =
            message.kind == Kind::InvalidateAwaited && message.origin != self.me.id;
        // Until the next proof: a heartbeat that is under way has noted an earlier number.
        self.is_awaited |= wants_heartbeat;
        MessageAction::Apply {
            is_new: is_next && self.mark_reported(message),
            wants_heartbeat,
        }
    }

    /// Only the partition knows whether the epoch of a message has begun. L1 is suspended until the partition answers,
    /// and emptied only if the answer names the epoch. If such a message suspended L1 a moment ago, this one does not:
    /// it may be made up (rule 21: numbers can be made up).
    fn receive_other_epoch(&mut self, message: &Message, now: Instant) -> MessageAction {
        if message.kind == Kind::Clear {
            let is_own = message.origin == self.me.id;
            push_last(&mut self.cleared, (message.epoch, is_own));
        }
        let pause = self.interval();
        let was_just = |at| now.saturating_duration_since(at) < pause;
        // Otherwise such messages, one after the other, would keep L1 unused.
        let suspends = !self.last_suspended_at.is_some_and(was_just);
        if suspends {
            self.last_suspended_at = Some(now);
        } else {
            self.bring_heartbeat_forward();
        }
        MessageAction::OtherEpoch { suspends }
    }

    /// Whether a message was not reported yet; from now on it is. Messages that are replayed after a new subscription
    /// may have been reported before it.
    pub(super) fn mark_reported(&mut self, message: &Message) -> bool {
        let is_new = message.seq > self.progress.reported;
        self.progress.reported = message.seq.max(self.progress.reported);
        is_new
    }

    /// The partition's clock was read after the instance has subscribed (rule 7: catch up before L1 is used).
    pub(super) fn on_subscribed(&mut self, partition: &PartitionClock) -> CatchUpStep {
        // Messages that came after the last number which the partition has named may be made up. Their numbers may be the
        // numbers of messages that are lost now (rule 21: numbers can be made up).
        self.fall_back();
        let from = self.last_applied();
        if without(Rule::CatchUp) && from.is_some() {
            self.progress.applied = Some(Position::of(partition));
        }
        self.next_step(partition, from)
    }

    /// A heartbeat was answered: each message that it counts has been applied, or was lost (rules 8: heartbeat and 9:
    /// lost messages). The last message that had been applied when it was sent is `from`: later ones may have come
    /// before this answer.
    pub(super) fn on_answer(
        &mut self,
        partition: &PartitionClock,
        from: Option<u64>,
    ) -> CatchUpStep {
        if without(Rule::LostMessages) && self.last_applied() < Some(partition.seq) {
            self.progress.applied = Some(Position::of(partition));
        }
        self.next_step(partition, from)
    }

    /// Makes sure that all messages of the partition up to here have been applied, or that L1 holds nothing older.
    ///
    /// This instance has received messages up to number `from` when the partition was asked.
    fn next_step(&mut self, partition: &PartitionClock, from: Option<u64>) -> CatchUpStep {
        let progress = &self.progress;
        debug_assert!(
            cfg!(larder_ablation)
                || progress.confirmed.map(|at| at.seq) <= progress.applied.map(|at| at.seq),
            "all messages up to the number that the partition has named are applied"
        );
        if partition.epoch != self.epoch {
            let was_left = progress.former_epochs.contains(&partition.epoch);
            return if was_left && !without(Rule::FormerEpochs) {
                self.end_epoch(partition.epoch)
            } else {
                CatchUpStep::StartOver
            };
        }
        let (Some(confirmed), Some(applied)) = (progress.confirmed, progress.applied) else {
            return CatchUpStep::StartOver;
        };
        let named = Position::of(partition);
        let answered = &self.answered;
        let is_answer_lost = if answered.epoch == self.epoch {
            // What the partition has answered it would name still.
            named.seq < answered.seq
                || partition.ver < answered.ver
                || named.differs_from(Position::of(*answered))
        } else {
            // It has left this epoch, by a clear of this instance, and is there again.
            answered.seq > confirmed.seq
        };
        if named.seq < confirmed.seq
            || partition.ver < progress.confirmed_ver
            || named.differs_from(confirmed)
            || is_answer_lost && !without(Rule::Answers)
            || progress.is_contradicted
        {
            return self.end_epoch(partition.epoch);
        }
        if from.is_some_and(|from| from > partition.seq) || named.differs_from(applied) {
            // Some messages were made up, and may have had the numbers of others that were lost.
            self.fall_back();
        }
        self.go_on(partition)
    }

    fn go_on(&mut self, partition: &PartitionClock) -> CatchUpStep {
        match self.last_applied() {
            None => CatchUpStep::StartOver,
            Some(last) if last < partition.seq => CatchUpStep::Replay { from: last },
            Some(_) => {
                self.confirm(partition);
                CatchUpStep::UpToDate
            }
        }
    }

    /// Whether a message is not of the history of which the partition has named a clock, or has answered writes.
    fn contradicts_named(&self, message: &Message) -> bool {
        let confirmed = self.progress.confirmed;
        let is_later = confirmed.is_some_and(|last| message.seq > last.seq);
        let goes_back = is_later && message.ver <= self.progress.confirmed_ver;
        goes_back && !without(Rule::Nonces) || !self.progress.answers.fit(message)
    }

    fn confirm(&mut self, partition: &PartitionClock) {
        self.progress.confirmed = Some(Position::of(partition));
        self.progress.confirmed_ver = partition.ver;
    }

    /// Rule 31 (histories): values that were invalidated may be valid in this epoch again.
    fn end_epoch(&mut self, epoch: u64) -> CatchUpStep {
        if without(Rule::Histories) {
            return CatchUpStep::StartOver;
        }
        self.progress.ending_epoch = Some(epoch);
        CatchUpStep::EndEpoch
    }

    /// The log was read, as [`CatchUpStep::Replay`] has said. Returns the messages that are to be applied before the step.
    pub(super) fn on_log<'m>(
        &mut self,
        log: &'m [Message],
        partition: &PartitionClock,
    ) -> (&'m [Message], CatchUpStep) {
        let Some(applied) = self.progress.applied else {
            return (&[], CatchUpStep::StartOver);
        };
        // The log begins with the last message that was applied. It may lack that one if it is the first of its epoch, which
        // is a clear: the next one names it.
        let is_in_epoch = |message: &Message| message.epoch == self.epoch;
        let (known, missed) = match log {
            [first, others @ ..] if is_in_epoch(first) && first.seq == applied.seq => {
                (Some(Position::of(first)), others)
            }
            [first, ..] if is_in_epoch(first) => (Position::before(first), log),
            _ => (None, &[][..]),
        };
        if known.is_some_and(|known| known.differs_from(applied)) {
            let confirmed = self.progress.confirmed;
            if confirmed == Some(applied) {
                return (&[], self.end_epoch(partition.epoch));
            }
            // The messages since then were made up.
            self.fall_back();
            return (&[], self.go_on(partition));
        }
        if missed
            .iter()
            .any(|message| is_in_epoch(message) && self.contradicts_named(message))
        {
            return (&[], self.end_epoch(partition.epoch));
        }
        let mut last = applied;
        let follows = |message: &&Message| {
            let follows = is_in_epoch(message) && last.precedes(message);
            last = Position::of(*message);
            follows
        };
        let in_order = missed.iter().take_while(follows).count();
        let (in_order, others) = missed.split_at(in_order);
        let Some(last) = in_order.last() else {
            // The log has no more, or does not reach back far enough.
            return (&[], CatchUpStep::StartOver);
        };
        self.progress.applied = Some(Position::of(last));
        for message in in_order {
            self.progress.answers.apply(message);
        }
        let step = if others.is_empty() {
            self.go_on(partition)
        } else {
            CatchUpStep::StartOver
        };
        (in_order, step)
    }

    /// Resets the progress to the partition's clock, as [`CatchUpStep::StartOver`] has said: all earlier messages count as
    /// applied. The caller empties L1.
    pub(super) fn start_over(&mut self, partition: &PartitionClock) -> StartedOver {
        // With the clears before this one: the partition has left their epochs.
        let announced = (self.cleared.iter()).position(|(epoch, _)| *epoch == partition.epoch);
        let cleared = self.cleared.drain(..announced.map_or(0, |at| at + 1));
        let clears = cleared.filter(|(_, is_own)| !is_own).count();
        let is_other_epoch = self.epoch != 0 && self.epoch != partition.epoch;
        let is_new_epoch = is_other_epoch && announced.is_none();
        let progress = &mut self.progress;
        if is_other_epoch {
            push_last(&mut progress.former_epochs, self.epoch);
        }
        progress.applied = Some(Position::of(partition));
        progress.reported = partition.seq;
        progress.ending_epoch = None;
        progress.is_contradicted = false;
        progress.answers.begin_epoch(partition.epoch);
        if progress.last_answer.epoch != partition.epoch {
            progress.last_answer = ClockNumbers::default();
        }
        self.epoch = partition.epoch;
        self.confirm(partition);
        StartedOver {
            clears,
            is_new_epoch,
        }
    }

    /// A proof was taken. Returns whether another heartbeat is wanted now: the caller of an invalidation waits for the
    /// one that says what was applied.
    pub(super) fn take_awaited(&mut self) -> bool {
        take(&mut self.is_awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u64 = 1;
    const OTHER: u64 = 2;

    /// Runs an instance through the inputs of a row, and says what it does with the last of them. An L1 that is to be
    /// emptied is emptied, and a message that is to be applied is applied.
    ///
    /// `7` is number 7 of epoch 1, and `2/7` of epoch 2. `7b` is number 7 of another history, which begins with `4B` if it has
    /// the first three messages. `7v30` has the version 30 in the place of 7. A `heartbeat` is one that is sent and
    /// answered at once; `ask` sends one that the next `answer` answers. `wrote` is the answer to a write of this instance.
    struct Run {
        session: Session,
        now: Instant,
        partition: PartitionClock,
        from: Option<u64>,
    }

    fn session(progress: Progress, epoch: u64, now: Instant) -> Session {
        let me = MemberInfo {
            id: ME,
            max_staleness: Duration::from_secs(3),
        };
        Session::new(me, epoch, progress, now)
    }

    /// Epoch and position, the nonce of the message before that, and the version.
    fn number(text: &str) -> (u64, Position, u64, u64) {
        const OTHER_HISTORY: u64 = 1000;
        let (epoch, rest) = text.split_once('/').unwrap_or(("1", text));
        let (rest, ver) = rest.split_once('v').unwrap_or((rest, ""));
        let seq = rest.trim_end_matches(['b', 'B']);
        let history = &rest[seq.len()..];
        let seq: u64 = seq.parse().unwrap();
        let nonce = |seq: u64, is_other| seq.saturating_add(u64::from(is_other) * OTHER_HISTORY);
        let at = Position {
            seq,
            nonce: nonce(seq, !history.is_empty()),
        };
        let previous_nonce = nonce(seq.saturating_sub(1), history == "b");
        (
            epoch.parse().unwrap(),
            at,
            previous_nonce,
            ver.parse().unwrap_or(seq),
        )
    }

    fn message(at: &str, kind: Kind, origin: u64) -> Message {
        let (epoch, Position { seq, nonce }, previous_nonce, ver) = number(at);
        Message {
            epoch,
            seq,
            ver,
            nonce,
            previous_nonce,
            kind,
            origin,
            keys: Vec::new(),
        }
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                session: session(Progress::default(), 0, now),
                now,
                partition: PartitionClock::default(),
                from: None,
            }
        }

        fn input(&mut self, text: &str) -> String {
            let words: Vec<&str> = text.split(' ').collect();
            match words[..] {
                ["subscribe", at] => {
                    self.session =
                        session(self.session.progress.clone(), self.session.epoch, self.now);
                    self.session.begin_question();
                    self.read_clock(at);
                    let step = self.session.on_subscribed(&self.partition);
                    self.carry_out(step)
                }
                ["message", at] => self.receive(&message(at, Kind::Insert, OTHER)),
                ["awaited", at] => self.receive(&message(at, Kind::InvalidateAwaited, OTHER)),
                ["own", "awaited", at] => self.receive(&message(at, Kind::InvalidateAwaited, ME)),
                ["clear", at] => self.receive(&message(at, Kind::Clear, OTHER)),
                ["own", "clear", at] => self.receive(&message(at, Kind::Clear, ME)),
                ["ask"] => self.ask(),
                ["wrote", at] => {
                    let (epoch, Position { seq, nonce }, _, ver) = number(at);
                    self.session.hear([ClockNumbers {
                        epoch,
                        seq,
                        ver,
                        nonce,
                    }]);
                    String::new()
                }
                ["answer", at] => {
                    self.read_clock(at);
                    let step = self.session.on_answer(&self.partition, self.from);
                    self.carry_out(step)
                }
                ["heartbeat", at] => {
                    self.ask();
                    self.input(&format!("answer {at}"))
                }
                ["log", ref log @ ..] => self.replay(log),
                ["wait", ms] => {
                    self.now += Duration::from_millis(ms.parse().unwrap());
                    String::new()
                }
                _ => panic!("{text}"),
            }
        }

        fn read_clock(&mut self, at: &str) {
            let (epoch, Position { seq, nonce }, _, ver) = number(at);
            self.partition = PartitionClock {
                epoch,
                seq,
                ver,
                nonce,
                ..self.partition
            };
        }

        fn ask(&mut self) -> String {
            self.session.begin_question();
            self.from = self.session.last_applied();
            let next = self.now + self.session.interval();
            let Applied { epoch, seq } = self.session.send_heartbeat(self.now, next);
            format!("note {epoch}/{seq}")
        }

        fn receive(&mut self, message: &Message) -> String {
            let due = self.session.next_heartbeat_at();
            let mut does = match self.session.receive(message, self.now) {
                MessageAction::Apply {
                    is_new,
                    wants_heartbeat,
                } => {
                    let all = [
                        (true, "apply"),
                        (is_new, "report"),
                        (wants_heartbeat, "ask now"),
                    ];
                    all.into_iter()
                        .filter_map(|(is, does)| is.then_some(does))
                        .collect()
                }
                MessageAction::OtherEpoch { suspends: true } => vec!["suspend L1"],
                MessageAction::OtherEpoch { suspends: false } => vec!["leave L1"],
                MessageAction::Ignore => vec!["ignore"],
            };
            let at = self.session.next_heartbeat_at();
            let soon = format!("ask in {} ms", (at - self.now).as_millis());
            if at != due {
                does.push(&soon);
            }
            does.join(", ")
        }

        fn replay(&mut self, log: &[&str]) -> String {
            let log = log.iter().map(|at| message(at, Kind::Insert, OTHER));
            let log: Vec<_> = log.collect();
            let (missed, step) = self.session.on_log(&log, &self.partition);
            let mut does = Vec::new();
            for message in missed {
                let is_new = self.session.mark_reported(message);
                let again = if is_new { "" } else { " again" };
                does.push(format!("apply {}{again}", message.seq));
            }
            does.push(self.carry_out(step));
            does.join(", ")
        }

        fn carry_out(&mut self, step: CatchUpStep) -> String {
            match step {
                CatchUpStep::UpToDate if self.session.take_awaited() => "prove, ask now".to_owned(),
                CatchUpStep::UpToDate => "prove".to_owned(),
                CatchUpStep::Replay { from } => format!("replay from {from}"),
                CatchUpStep::EndEpoch => "end the epoch".to_owned(),
                CatchUpStep::StartOver => match self.session.start_over(&self.partition) {
                    StartedOver {
                        clears: 0,
                        is_new_epoch: false,
                    } => "empty L1".to_owned(),
                    StartedOver {
                        clears: 0,
                        is_new_epoch: true,
                    } => "empty L1, warn".to_owned(),
                    StartedOver { clears, .. } => format!("empty L1, clears: {clears}"),
                },
            }
        }
    }

    fn check(table: &[&str]) {
        for row in table {
            let (inputs, does) = row.split_once(" => ").unwrap();
            let mut run = Run::new();
            let outputs = inputs.split(" -> ").map(|input| run.input(input));
            assert_eq!(outputs.last().unwrap(), does, "{row}");
        }
    }

    #[test]
    fn messages_are_applied_and_only_the_next_one_is_reported() {
        check(&[
            "subscribe 5 => empty L1",
            "subscribe 5 -> message 6 => apply, report",
            "subscribe 5 -> message 6 -> message 7 => apply, report",
            "subscribe 5 -> message 5 => apply",
            "subscribe 5 -> message 6 -> message 6 => apply",
            "subscribe 5 -> message 7 => apply",
            "subscribe 5 -> message 7 -> message 6 => apply, report",
            // A hole: the partition is asked, and not again and again.
            "subscribe 5 -> heartbeat 5 -> message 7 => apply, ask in 50 ms",
            "subscribe 5 -> heartbeat 5 -> message 7 -> message 9 => apply",
            "subscribe 5 -> heartbeat 5 -> wait 30 -> message 7 => apply, ask in 20 ms",
            "subscribe 5 -> heartbeat 5 -> message 18446744073709551615 => apply, ask in 50 ms",
        ]);
    }

    #[test]
    fn a_clock_is_a_proof_or_says_which_messages_are_missing() {
        check(&[
            "subscribe 5 -> heartbeat 5 => prove",
            "subscribe 5 -> message 6 -> heartbeat 6 => prove",
            "subscribe 5 -> message 5 -> heartbeat 7 => replay from 5",
            "subscribe 5 -> message 6 -> heartbeat 7 => replay from 6",
            "subscribe 5 -> message 7 -> heartbeat 7 => replay from 5",
            // The message came behind the answer, which was looked at later.
            "subscribe 5 -> ask -> message 6 -> answer 5 => prove",
            "subscribe 5 -> ask -> message 6 -> answer 5 -> heartbeat 6 => prove",
            "subscribe 5 -> ask -> message 6 -> answer 7 => replay from 6",
            "subscribe 5 -> heartbeat 2/5 => empty L1, warn",
            "subscribe 5 -> message 6 -> heartbeat 2/1 -> message 2/2 => apply, report",
        ]);
    }

    /// Rule 21.
    #[test]
    fn a_number_that_the_partition_has_not_named_is_not_relied_on() {
        check(&[
            "subscribe 5 -> message 6 -> ask => note 1/5",
            "subscribe 5 -> message 6 -> heartbeat 6 -> ask => note 1/6",
            "subscribe 5 -> ask -> message 6 -> answer 5 -> ask => note 1/5",
            "subscribe 5 -> message 6 -> heartbeat 5 => prove",
            "subscribe 5 -> message 6 -> heartbeat 5 -> heartbeat 6 => replay from 5",
            "subscribe 5 -> message 6 -> message 7 -> heartbeat 6 => replay from 5",
            "subscribe 5 -> message 6 -> subscribe 6 => replay from 5",
        ]);
    }

    /// Rule 7.
    #[test]
    fn a_new_subscription_goes_on_where_the_partition_had_confirmed() {
        check(&[
            "subscribe 5 -> subscribe 5 => prove",
            "subscribe 5 -> subscribe 7 => replay from 5",
            "subscribe 5 -> message 6 -> heartbeat 6 -> subscribe 7 => replay from 6",
            "subscribe 5 -> subscribe 2/5 => empty L1, warn",
            "subscribe 5 -> message 6 -> subscribe 7 -> log 5 6 7 => apply 6 again, apply 7, prove",
            "subscribe 5 -> message 6 -> message 7 -> subscribe 5 -> message 6 -> message 7 => apply",
            // A hole before the former subscription ended.
            "subscribe 5 -> message 7 -> subscribe 7 -> log 5 6 7 => apply 6, apply 7, prove",
        ]);
    }

    /// Rule 9.
    #[test]
    fn a_log_brings_all_that_is_missing_or_l1_is_emptied() {
        check(&[
            "subscribe 5 -> heartbeat 7 -> log 5 6 7 => apply 6, apply 7, prove",
            "subscribe 5 -> heartbeat 7 -> log 5 6 7 8 => apply 6, apply 7, apply 8, prove",
            "subscribe 0 -> heartbeat 2 -> log 1 2 => apply 1, apply 2, prove",
            // In several steps.
            "subscribe 5 -> heartbeat 8 -> log 5 6 => apply 6, replay from 6",
            "subscribe 5 -> heartbeat 8 -> log 5 6 -> log 6 7 8 => apply 7, apply 8, prove",
            // The last message that was applied is the first of its epoch, which no log has.
            "subscribe 5 -> heartbeat 7 -> log 6 7 => apply 6, apply 7, prove",
            // It does not reach back far enough, ends too early, has a hole, or is of another epoch.
            "subscribe 5 -> heartbeat 7 -> log => empty L1",
            "subscribe 5 -> heartbeat 7 -> log 5 => empty L1",
            "subscribe 5 -> heartbeat 7 -> log 5 7 => empty L1",
            "subscribe 5 -> heartbeat 8 -> log 5 6 8 => apply 6, empty L1",
            "subscribe 5 -> heartbeat 7 -> log 2/5 2/6 2/7 => empty L1",
            "subscribe 5 -> heartbeat 7 -> log 5 6 2/7 => apply 6, empty L1",
            "subscribe 0 -> heartbeat 2 -> log 2 => empty L1",
        ]);
    }

    /// Rule 31.
    #[test]
    fn an_epoch_with_another_history_is_ended() {
        check(&[
            // Numbers go back.
            "subscribe 5 -> heartbeat 4 => end the epoch",
            "subscribe 5 -> subscribe 4 => end the epoch",
            "subscribe 5v30 -> heartbeat 5v29 => end the epoch",
            "subscribe 5v30 -> heartbeat 5v30 => prove",
            "subscribe 5 -> message 6 -> heartbeat 6 -> heartbeat 5 => end the epoch",
            // Nobody but the publisher has named it.
            "subscribe 5 -> message 6 -> heartbeat 5 => prove",
            // Another message has the number.
            "subscribe 5 -> heartbeat 5b => end the epoch",
            "subscribe 5 -> subscribe 5b => end the epoch",
            "subscribe 5 -> heartbeat 7b -> log 5b 6b 7b => end the epoch",
            "subscribe 5 -> heartbeat 7b -> log 6b 7b => end the epoch",
            "subscribe 5 -> message 6 -> heartbeat 6 -> message 6b -> message 7b => apply, ask in 50 ms",
            "subscribe 5 -> message 6 -> heartbeat 6 -> message 7b -> heartbeat 7b -> log 6b 7b => end the epoch",
            "subscribe 5 -> message 6 -> heartbeat 6 -> message 6B -> heartbeat 6b => end the epoch",
            // Somebody has made the message up, which counts no more.
            "subscribe 5 -> message 6b -> heartbeat 6 => replay from 5",
            "subscribe 5 -> message 6B -> heartbeat 6 => replay from 5",
            "subscribe 5 -> message 6B -> heartbeat 7 => replay from 6",
            "subscribe 5 -> message 6B -> heartbeat 7 -> log 6 7 => replay from 5",
            "subscribe 5 -> message 6B -> heartbeat 7 -> log 6 7 -> log 5 6 7 => apply 6 again, apply 7, prove",
            // It was put back to an epoch that has ended.
            "subscribe 5 -> heartbeat 2/6 -> heartbeat 9 => end the epoch",
            "subscribe 5 -> heartbeat 2/6 -> heartbeat 3/7 -> subscribe 1/9 => end the epoch",
            "subscribe 5 -> clear 2/6 -> heartbeat 2/6 -> heartbeat 5 => end the epoch",
            "subscribe 5 -> heartbeat 4 -> subscribe 2/4 => empty L1, warn",
            "subscribe 5 -> heartbeat 4 -> subscribe 4 => end the epoch",
        ]);
    }

    /// Rule 31.
    #[test]
    fn an_answer_that_does_not_fit_the_messages_ends_the_epoch() {
        check(&[
            // A clock has less than was answered.
            "subscribe 5 -> wrote 5v8 -> heartbeat 5v7 => end the epoch",
            "subscribe 5 -> wrote 6 -> heartbeat 5v9 => end the epoch",
            "subscribe 5 -> wrote 6 -> heartbeat 6b => end the epoch",
            "subscribe 5 -> wrote 5v8 -> subscribe 5v7 => end the epoch",
            "subscribe 5 -> wrote 5v8 -> heartbeat 5v8 => prove",
            // The answer came after the question.
            "subscribe 5 -> ask -> wrote 5v8 -> answer 5v7 => prove",
            "subscribe 5 -> ask -> message 6 -> wrote 6 -> answer 5 -> ask => note 1/6",
            // A fill was lost: the next message has no higher version.
            "subscribe 5 -> heartbeat 5 -> wrote 5v8 -> message 6v8 => apply, ask in 50 ms",
            "subscribe 5 -> wrote 5v8 -> message 6v8 -> heartbeat 6v9 -> log 5 6v8 => end the epoch",
            "subscribe 5 -> wrote 5v8 -> message 6v9 => apply, report",
            "subscribe 5 -> heartbeat 5 -> wrote 5v8 -> wrote 5v7 -> message 6v8 => apply, ask in 50 ms",
            "subscribe 5 -> wrote 5v8 -> message 6v9 -> message 7v10 -> heartbeat 7v10 => prove",
            // A write was lost, and another one has its number.
            "subscribe 5 -> heartbeat 5 -> wrote 6 -> message 6B => apply, ask in 50 ms",
            "subscribe 5 -> wrote 6 -> message 6B -> heartbeat 7b -> log 5 6B 7b => end the epoch",
            "subscribe 5 -> wrote 6 -> message 6 -> heartbeat 6 => prove",
            // The answer comes after the message.
            "subscribe 5 -> message 6 -> wrote 5v6 -> heartbeat 6 => replay from 5",
            "subscribe 5 -> message 6 -> wrote 5v6 -> heartbeat 6 -> log 5 6 => end the epoch",
            "subscribe 5 -> message 6 -> wrote 6b -> heartbeat 6 => end the epoch",
            "subscribe 5 -> message 6 -> heartbeat 6 -> wrote 5v6 -> heartbeat 6 => end the epoch",
            "subscribe 5 -> message 6 -> heartbeat 6 -> wrote 5v6 -> heartbeat 2/6 => empty L1, warn",
            "subscribe 5 -> message 6 -> wrote 5v5 -> heartbeat 6 => prove",
            // The message was made up.
            "subscribe 5 -> message 6B -> wrote 6 -> heartbeat 6 -> log 5 6 => apply 6 again, prove",
            // A clear was lost.
            "subscribe 5 -> wrote 2/6 -> heartbeat 5 => end the epoch",
            "subscribe 5 -> wrote 2/6 -> heartbeat 7 => end the epoch",
            "subscribe 5 -> wrote 2/6 -> heartbeat 2/6 => empty L1, warn",
            "subscribe 5 -> wrote 2/6 -> heartbeat 3/7 -> heartbeat 3/7 => prove",
            // An answer of an epoch that has ended comes late.
            "subscribe 5 -> heartbeat 2/6 -> wrote 9 -> heartbeat 2/6 => prove",
        ]);
        // Only the last messages are known.
        let messages: Vec<_> = (6..=262).map(|seq| format!("message {seq}")).collect();
        let messages = messages.join(" -> ");
        check(&[
            &format!("subscribe 5 -> {messages} -> wrote 5v6 -> heartbeat 262 => prove"),
            &format!("subscribe 5 -> {messages} -> wrote 6v7 -> heartbeat 262 => replay from 5"),
        ]);
    }

    /// Rules 11 and 21.
    #[test]
    fn a_message_of_another_epoch_suspends_l1_now_and_then() {
        check(&[
            "subscribe 5 -> message 2/1 => suspend L1",
            "subscribe 5 -> message 2/1 -> message 2/2 => leave L1",
            "subscribe 5 -> message 2/1 -> heartbeat 5 => prove",
            "subscribe 5 -> message 2/1 -> heartbeat 5 -> message 2/2 => leave L1, ask in 50 ms",
            "subscribe 5 -> message 2/1 -> wait 999 -> heartbeat 5 -> message 2/2 => leave L1, ask in 50 ms",
            "subscribe 5 -> message 2/1 -> wait 1000 -> message 2/2 => suspend L1",
            "subscribe 5 -> message 2/6 -> message 6 => apply, report",
        ]);
    }

    #[test]
    fn a_clear_is_told_once_the_partition_confirms_it() {
        check(&[
            "subscribe 5 -> clear 2/1 => suspend L1",
            "subscribe 5 -> clear 2/1 -> heartbeat 2/1 => empty L1, clears: 1",
            "subscribe 5 -> own clear 2/1 -> heartbeat 2/1 => empty L1",
            "subscribe 5 -> clear 2/1 -> clear 3/1 -> heartbeat 3/1 => empty L1, clears: 2",
            "subscribe 5 -> clear 2/1 -> clear 3/1 -> heartbeat 2/1 => empty L1, clears: 1",
            "subscribe 5 -> clear 2/1 -> heartbeat 2/1 -> message 2/2 => apply, report",
            // It was made up.
            "subscribe 5 -> clear 2/1 -> heartbeat 5 => prove",
            "subscribe 5 -> clear 2/1 -> heartbeat 3/1 => empty L1, warn",
        ]);
        // Only the last clears are known.
        let clears: Vec<_> = (2..=18).map(|epoch| format!("clear {epoch}/1")).collect();
        let clears = clears.join(" -> ");
        check(&[&format!(
            "subscribe 5 -> {clears} -> heartbeat 18/1 => empty L1, clears: 16"
        )]);
    }

    /// Rule 16.
    #[test]
    fn who_is_waited_for_says_so_at_once() {
        check(&[
            "subscribe 5 -> awaited 6 => apply, report, ask now",
            "subscribe 5 -> own awaited 6 => apply, report",
            "subscribe 5 -> awaited 6 -> ask => note 1/5",
            "subscribe 5 -> awaited 6 -> heartbeat 6 => prove, ask now",
            "subscribe 5 -> awaited 6 -> heartbeat 6 -> ask => note 1/6",
            "subscribe 5 -> awaited 6 -> heartbeat 6 -> heartbeat 6 => prove",
        ]);
    }
}
