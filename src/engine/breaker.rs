//! The circuit breaker before L2. Closed, it sends each request. It opens when several requests were not answered: then
//! requests fail at once, and no call waits, until L2 answers a probe, which the subscriber sends. It also reports how
//! L2 answers: in the health, in the counters, and in the log when trouble begins and when it is over.

use std::error::Error;
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span, info, warn};

use super::metrics::Metrics;
use super::recent_misses::RecentMisses;
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::events::{CacheEvent, Events};
use crate::l2::{self, LONGEST_PAUSE, ReadResult, Reply, Reporter};
use crate::options::Options;
use crate::stats::Counters;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// The breaker opens when [`Failures::unanswered`] reaches this. It is low, as a probe soon closes the breaker again.
const OPENS_AT: u32 = 3;
/// A trouble is over when no request has failed for this long. Failures that are closer together are one trouble.
const OUTAGE_OVER_AFTER: Duration = Duration::from_secs(5);

pub(crate) struct Breaker {
    /// Whether there is a `trouble`. Without one, an answer takes no lock.
    in_trouble: AtomicBool,
    /// Whether the last request was not answered.
    is_silent: AtomicBool,
    is_open: AtomicBool,
    /// By when the next probe is sent. Past that, as when the runtime of the task that probes is not driven, nothing
    /// would close the breaker, so requests are sent. Zero without such a task.
    probed_until: AtomicU64,
    /// Whether a request was dropped before it was answered, and L2 not probed since.
    is_doubted: AtomicBool,
    /// Notified when a request was not answered, or dropped before that.
    silence: Notify,
    /// Requests that were not sent in this trouble.
    skipped: AtomicU64,
    /// Nothing is logged, and no event is sent, under this lock: a subscriber of `tracing` may ask for the health.
    trouble: Mutex<BreakerState>,
    /// The incarnation of the store whose epoch was read last.
    incarnation: AtomicU64,
    /// The number of partitions that the namespace has, if an answer says that it is another one. Zero before that.
    pub(super) other_partitions: Arc<watch::Sender<u16>>,
    /// What the last reads of keys have found.
    pub(super) recent_misses: RecentMisses,
    /// The name that OpenTelemetry has for this kind of L2.
    system: &'static str,
    /// Logs each cause once for all caches of the server.
    reporter: Reporter,
    options: Arc<Options>,
    counters: Arc<Counters>,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct BreakerState {
    trouble: Option<Failures>,
    /// Whether the breaker has opened or closed, and nobody was told. If it does both before anybody could be told,
    /// nobody is.
    untold: Option<ProbeTurn>,
    /// A thread tells it: the others leave the next turn to that thread, so that turns are told in their order.
    is_telling: bool,
}

/// What the breaker does.
#[derive(Clone, Copy, PartialEq)]
enum ProbeTurn {
    Opens,
    Closes,
}

/// Begins with a request that fails, and is over when none has failed for [`OUTAGE_OVER_AFTER`].
struct Failures {
    began: Tick,
    /// When a request failed last.
    last: Tick,
    failed: u64,
    /// Each request without an answer adds one, up to [`OPENS_AT`]; each answer takes one away.
    unanswered: u32,
    /// Whether the last request succeeded.
    is_up: bool,
}

impl Breaker {
    pub(crate) fn new(
        system: &'static str,
        reporter: Reporter,
        other_partitions: &Arc<watch::Sender<u16>>,
        options: &Arc<Options>,
        counters: &Arc<Counters>,
        events: &Arc<Events>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            in_trouble: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
            probed_until: AtomicU64::new(0),
            is_doubted: AtomicBool::new(false),
            silence: Notify::new(),
            skipped: AtomicU64::new(0),
            trouble: Mutex::default(),
            incarnation: AtomicU64::new(0),
            other_partitions: Arc::clone(other_partitions),
            recent_misses: RecentMisses::default(),
            system,
            reporter,
            options: Arc::clone(options),
            counters: Arc::clone(counters),
            events: Arc::clone(events),
            metrics: Arc::clone(metrics),
        }
    }

    /// Sends a request and counts its result, or fails at once while the breaker is open. The operation names its span.
    ///
    /// Cancel safe: if it is dropped L2 is probed, as nobody learns how long the request would have taken.
    pub(crate) fn send<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        request: Reply<'a, T>,
    ) -> impl Future<Output = Result<T, L2Error>> {
        self.request(operation, request, Err, |answer| answer.as_ref().err())
    }

    /// As [`send`](Self::send), for reads of several keys in one request.
    pub(crate) async fn send_reads(
        &self,
        keys: usize,
        request: impl Future<Output = Vec<ReadResult>>,
    ) -> Vec<ReadResult> {
        if keys == 0 {
            // Nothing is sent, which is no answer of L2.
            return Vec::new();
        }
        let skipped = |error| vec![Err(error); keys];
        self.request("get_many", request, skipped, |answers| {
            answers.iter().find_map(|answer| answer.as_ref().err())
        })
        .await
    }

    /// As [`send`](Self::send), with an answer of which it is said how it is made and asked.
    async fn request<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = T>,
        skipped: impl FnOnce(L2Error) -> T,
        error_of: impl Fn(&T) -> Option<&L2Error>,
    ) -> T {
        if let Err(error) = self.admit() {
            return skipped(error);
        }
        // A caller may be cancelled at the await, and then nobody learns whether L2 answers: the guard has it probed.
        let pending = OnDrop(|| {
            // Doubt, and no failure: callers with short time limits would open the breaker of a healthy L2.
            self.is_doubted.store(true, Ordering::Relaxed);
            self.silence.notify_one();
        });
        // A time that nobody asks for is not read.
        let sent = Metrics::ARE_ON.then(Instant::now);
        // Pinned and not moved into the await: its span is needed after the answer.
        let mut request = pin!(request.instrument(self.span(operation)));
        let answer = request.as_mut().await;
        mem::forget(pending);
        let error = error_of(&answer);
        if let Some(error) = error {
            // If the span is off, the current one is the caller's.
            let span = request.span();
            let kind = if error.is_unreachable() {
                "unreachable"
            } else {
                "refused"
            };
            span.record("otel.status_code", "ERROR");
            span.record("error.type", kind);
        }
        self.metrics.record_request(sent, error.is_some());
        self.note(error);
        answer
    }

    /// The span of a request, with the names that OpenTelemetry has for the spans of a database.
    fn span(&self, operation: &'static str) -> Span {
        debug_span!(
            "larder.l2",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = self.system,
            db.operation.name = operation,
            db.collection.name = self.options.namespace.as_str(),
            otel.status_code = Empty,
            error.type = Empty,
        )
    }

    /// Whether the breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        // Relaxed, as all flags of the breaker are: each is advice for the next request. They are changed under the
        // lock of `trouble` where two have to agree.
        self.is_open.load(Ordering::Relaxed)
    }

    /// Whether the last request succeeded.
    pub(crate) fn is_up(&self) -> bool {
        !self.in_trouble.load(Ordering::Relaxed)
            || (lock(&self.trouble).trouble.as_ref()).is_none_or(|now| now.is_up)
    }

    /// Whether the last request was not answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Returns when L2 has to be probed: the last request was not answered, or one was dropped before it was.
    pub(crate) async fn probe_needed(&self) {
        // The flags are set before the notification, whose permit is kept: none that comes between the look and the
        // wait is lost.
        while !self.is_silent() && !self.is_doubted.swap(false, Ordering::Relaxed) {
            self.silence.notified().await;
        }
    }

    /// Promises that L2 is probed while it is silent, until the returned guard is dropped.
    pub(crate) fn probing(&self) -> OnDrop<impl Fn()> {
        self.will_probe();
        OnDrop(|| self.probed_until.store(0, Ordering::Relaxed))
    }

    /// A probe is sent now, or after a pause.
    pub(crate) fn will_probe(&self) {
        self.will_probe_after(self.options.clock.now());
    }

    fn will_probe_after(&self, now: Tick) {
        // Jitter adds up to as much again to a pause.
        let within = 2 * nanos(LONGEST_PAUSE.saturating_add(self.options.l2_timeout));
        let until = now.saturating_add(within);
        self.probed_until.store(until, Ordering::Relaxed);
    }

    /// Ends a trouble in which no request has failed for a while.
    pub(crate) fn end_silent_outage(&self) {
        if self.in_trouble.load(Ordering::Relaxed) {
            let now = self.options.clock.now();
            let over = self.end_if_over(&mut lock(&self.trouble).trouble, now);
            log_end(over);
        }
    }

    /// Fails while the breaker is open and L2 is probed.
    pub(crate) fn admit(&self) -> Result<(), L2Error> {
        // Without a task that probes, nothing but these requests can close the breaker.
        let is_probed = || self.options.clock.now() < self.probed_until.load(Ordering::Relaxed);
        if self.is_open() && is_probed() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            self.counters.l2_skipped.bump();
            return Err(L2Error::skipped());
        }
        Ok(())
    }

    /// Counts the result of a request that is sent even while the breaker is open: a probe, or one that no caller waits
    /// for.
    pub(crate) fn observe<T>(&self, answer: Result<T, L2Error>) -> Result<T, L2Error> {
        self.note(answer.as_ref().err());
        answer
    }

    fn note(&self, error: Option<&L2Error>) {
        if let Some(error) = error {
            return self.note_error(error);
        }
        // Every answer passes here, so this takes no lock.
        if !self.in_trouble.load(Ordering::Relaxed) {
            return;
        }
        let now = self.options.clock.now();
        let mut state = lock(&self.trouble);
        if let Some(trouble) = state.trouble.as_mut() {
            // In one critical section with the flags that `note_error` sets: an answer and a failure at the same time
            // leave the state of one of them.
            trouble.is_up = true;
            self.note_answer(&mut state);
        }
        let over = self.end_if_over(&mut state.trouble, now);
        drop(state);
        self.tell_turns();
        log_end(over);
    }

    /// Whether an error says that the namespace has another number of partitions. That is no trouble: see
    /// [`Engine`](super::Engine).
    fn note_other_partitions(&self, error: &L2Error) -> bool {
        let partitions = error.partitions();
        if let Some(partitions) = partitions {
            self.other_partitions.send_replace(partitions);
        }
        partitions.is_some()
    }

    fn note_error(&self, error: &L2Error) {
        if self.note_other_partitions(error) {
            return;
        }
        self.counters.l2_errors.bump();
        // Before the lock: a store of a user may have made the error, and the clock may be a user's.
        let (cause, now) = (error.cause(), self.options.clock.now());
        let mut state = lock(&self.trouble);
        let trouble = self.begin(&mut state.trouble, now);
        trouble.is_up = false;
        trouble.failed += 1;
        let said = self.reporter.says(&cause);
        if error.is_refused() {
            // A refusal is an answer, too.
            self.note_answer(&mut state);
        } else {
            self.note_silence(&mut state, now);
        }
        drop(state);
        let (namespace, traced) = (self.options.namespace.as_str(), error as &dyn Error);
        // At WARN once for all caches of the server, however many requests meet the cause.
        match said {
            Some(namespaces) => warn!(
                namespaces,
                error = traced,
                "a request to L2 failed; going on without L2"
            ),
            None => debug!(namespace, error = traced, "a request to L2 failed"),
        }
        self.tell_turns();
    }

    fn note_silence(&self, state: &mut BreakerState, now: Tick) {
        let Some(trouble) = &mut state.trouble else {
            return;
        };
        self.is_silent.store(true, Ordering::Relaxed);
        self.silence.notify_one();
        trouble.unanswered = trouble.unanswered.saturating_add(1).min(OPENS_AT);
        if trouble.unanswered == OPENS_AT && !self.is_open.swap(true, Ordering::Relaxed) {
            // The task that probes has been notified, and may not have run yet.
            if self.probed_until.load(Ordering::Relaxed) != 0 {
                self.will_probe_after(now);
            }
            self.counters.l2_breaker_opened.bump();
            state.turns(ProbeTurn::Opens);
        }
    }

    fn note_answer(&self, state: &mut BreakerState) {
        let Some(trouble) = &mut state.trouble else {
            return;
        };
        self.is_silent.store(false, Ordering::Relaxed);
        trouble.unanswered = trouble.unanswered.saturating_sub(1);
        if self.is_open.swap(false, Ordering::Relaxed) {
            // Otherwise the next failure would open it again.
            trouble.unanswered = 0;
            state.turns(ProbeTurn::Closes);
        }
    }

    /// Tells listeners and the log that the breaker has opened or closed. To be called without the lock.
    fn tell_turns(&self) {
        let namespace = self.options.namespace.as_str();
        loop {
            let mut state = lock(&self.trouble);
            if state.is_telling {
                return;
            }
            let Some(turn) = state.untold.take() else {
                return;
            };
            state.is_telling = true;
            drop(state);
            // Also if a subscriber of `tracing` panics.
            let told = OnDrop(|| lock(&self.trouble).is_telling = false);
            match turn {
                ProbeTurn::Opens => {
                    self.events.emit(|| CacheEvent::BreakerOpened);
                    debug!(
                        namespace,
                        "the circuit breaker opens: L2 is not asked until it answers a probe"
                    );
                }
                ProbeTurn::Closes => {
                    self.events.emit(|| CacheEvent::BreakerClosed);
                    debug!(namespace, "the circuit breaker closes: L2 has answered");
                }
            }
            drop(told);
        }
    }

    /// Messages are received for the first time. One line for all caches of the server that are subscribed together.
    pub(crate) fn note_first_subscription(&self) {
        self.log_subscribed(self.reporter.subscribed());
    }

    fn log_subscribed(&self, namespaces: Option<String>) {
        if let Some(namespaces) = namespaces {
            // Tools show this name beside the number that the instance has as a member.
            let instance = self.options.instance_name.as_str();
            info!(namespaces, instance, "subscribed");
        }
    }

    /// A first subscription has lasted for a while. The line does not wait for other caches any longer.
    pub(crate) fn end_first_subscriptions(&self) {
        self.log_subscribed(self.reporter.subscribed_without_others());
    }

    /// The subscription was lost, or could not be made. It says nothing of requests, so their health stays as it is.
    pub(crate) fn note_lost_subscription(&self, error: &L2Error) {
        if self.note_other_partitions(error) {
            return;
        }
        let now = self.options.clock.now();
        self.begin(&mut lock(&self.trouble).trouble, now);
        let cause = if error.is_refused() {
            format!("messages: {}", error.cause())
        } else {
            error.cause()
        };
        let error = error as &dyn Error;
        match self.reporter.says(&cause) {
            Some(namespaces) => warn!(
                namespaces,
                error,
                "this instance does not receive changes of others; L1 is not used until it does"
            ),
            None => debug!(
                namespace = self.options.namespace.as_str(),
                error, "this instance does not receive changes of others"
            ),
        }
    }

    /// The epoch of L2 was read, in this incarnation of the store. One line for all caches reports a new incarnation.
    pub(crate) fn note_epoch(&self, incarnation: u64, is_new: bool) {
        // A clear that this instance has missed concerns one cache, and a restart all caches of the server.
        let is_restart = self.incarnation.swap(incarnation, Ordering::Relaxed) != incarnation;
        if !is_new {
            return;
        }
        let said = if is_restart {
            self.reporter.says(&format!("incarnation {incarnation}"))
        } else {
            Some(self.options.namespace.clone())
        };
        if let Some(namespaces) = said {
            warn!(
                namespaces,
                "L2 was restarted, replaced, cleared or damaged: values from before are not used any more"
            );
        }
    }

    fn begin<'t>(&self, trouble: &'t mut Option<Failures>, now: Tick) -> &'t mut Failures {
        // Stored and cleared under the lock, so that it agrees with `trouble`. An answer that reads it without the lock
        // may be a moment late, and the next answer is not.
        self.in_trouble.store(true, Ordering::Relaxed);
        let trouble = trouble.get_or_insert_with(|| {
            self.reporter.begin();
            Failures {
                began: now,
                last: now,
                failed: 0,
                unanswered: 0,
                is_up: true,
            }
        });
        trouble.last = now;
        trouble
    }

    /// Ends a trouble that is over. Returns it, with the namespaces for its line in the log, if it is over for all
    /// caches of the server.
    fn end_if_over(
        &self,
        trouble: &mut Option<Failures>,
        now: Tick,
    ) -> Option<(String, l2::Trouble)> {
        let is_over = |trouble: &mut Failures| {
            trouble.is_up && now.saturating_sub(trouble.last) >= nanos(OUTAGE_OVER_AFTER)
        };
        let over = trouble.take_if(is_over)?;
        debug_assert!(
            !self.is_open(),
            "the answer that ends a trouble has closed the breaker"
        );
        self.in_trouble.store(false, Ordering::Relaxed);
        let over = l2::Trouble {
            failing_for: Duration::from_nanos(over.last.saturating_sub(over.began)),
            failed: over.failed,
            skipped: self.skipped.swap(0, Ordering::Relaxed),
        };
        self.reporter.end(over)
    }
}

impl BreakerState {
    fn turns(&mut self, turn: ProbeTurn) {
        let former = self.untold.take();
        debug_assert!(former != Some(turn), "it opens and closes in turn");
        self.untold = former.is_none().then_some(turn);
    }
}

fn log_end(over: Option<(String, l2::Trouble)>) {
    if let Some((namespaces, all)) = over {
        info!(
            namespaces,
            failing_for = ?all.failing_for,
            failed = all.failed,
            skipped = all.skipped,
            "L2 is answering again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::l2::Outages;
    use crate::settings::Settings;

    fn breaker(clock: Clock) -> Breaker {
        let options = Options::new("ns".to_owned(), &Settings::default(), clock);
        Breaker::new(
            "memory",
            Arc::new(Outages::default()).join("ns"),
            &Arc::new(watch::Sender::new(0)),
            &Arc::new(options),
            &Arc::default(),
            &Arc::default(),
            &Arc::new(Metrics::new("ns")),
        )
    }

    /// Has requests end as a row says, and says how L2 does then, and whether the next request is sent.
    ///
    /// `lost` is a request without an answer, `unsubscribed` the loss of a subscription, `5s` a pause of five seconds,
    /// and `probe` begins one.
    fn state(row: &str) -> String {
        let clock = Clock::manual();
        let breaker = breaker(clock.clone());
        for word in row.split(' ') {
            match word {
                "answer" => breaker.note(None),
                "lost" => breaker.note(Some(&L2Error::timed_out(Duration::ZERO))),
                "refused" => breaker.note(Some(&L2Error::unexpected("of a test"))),
                "unsubscribed" => breaker.note_lost_subscription(&L2Error::closed()),
                "quiet" => breaker.end_silent_outage(),
                "probe" => breaker.will_probe(),
                pause => {
                    let secs = pause.strip_suffix('s').unwrap().parse().unwrap();
                    clock.advance(Duration::from_secs(secs));
                }
            }
        }
        let is_in_trouble = breaker.in_trouble.load(Ordering::Relaxed);
        let how = match (is_in_trouble, breaker.is_open(), breaker.is_up()) {
            (false, false, true) => "well",
            (true, false, true) => "troubled, up",
            (true, false, false) => "troubled, down",
            (true, true, false) => "open",
            _ => "wrong",
        };
        match breaker.admit() {
            Ok(()) => how.to_owned(),
            Err(_) => format!("{how}, skips"),
        }
    }

    fn check(table: &[&str]) {
        for row in table {
            let (requests, is) = row.split_once(" => ").unwrap();
            assert_eq!(state(requests), is, "{row}");
        }
    }

    #[test]
    fn it_opens_after_three_more_losses_than_answers() {
        check(&[
            "answer => well",
            "lost => troubled, down",
            "lost lost => troubled, down",
            "lost lost lost => open",
            "lost lost answer lost => troubled, down",
            "lost lost answer lost lost => open",
            // A refusal is an answer.
            "refused refused refused refused => troubled, down",
            "lost lost refused lost => troubled, down",
            "unsubscribed unsubscribed unsubscribed => troubled, up",
        ]);
    }

    #[test]
    fn one_answer_closes_it() {
        check(&[
            "lost lost lost answer => troubled, up",
            "lost lost lost refused => troubled, down",
            "lost lost lost lost lost answer => troubled, up",
            "lost lost lost answer lost lost => troubled, down",
            "lost lost lost answer lost lost lost => open",
        ]);
    }

    #[test]
    fn while_it_is_open_and_l2_is_probed_no_request_is_sent() {
        check(&[
            "probe lost lost => troubled, down",
            "probe lost lost lost => open, skips",
            "probe lost lost lost answer => troubled, up",
            // Nobody probes, or not for a while.
            "lost lost lost => open",
            "probe lost lost lost 60s => open",
            "probe lost lost lost 60s probe => open, skips",
            "probe 60s lost lost lost => open, skips",
        ]);
    }

    #[test]
    fn a_trouble_is_over_when_no_request_has_failed_for_a_while() {
        check(&[
            "lost answer 4s answer => troubled, up",
            "lost answer 5s answer => well",
            "lost 5s answer => well",
            "lost answer 5s quiet => well",
            "lost answer 4s quiet => troubled, up",
            "lost answer 4s refused 4s answer => troubled, up",
            "unsubscribed 5s quiet => well",
            // L2 has not answered since.
            "lost 5s quiet => troubled, down",
            "lost lost lost 5s quiet => open",
            "lost lost lost 5s answer => well",
        ]);
    }

    #[test]
    fn a_trouble_that_is_over_has_counted_its_requests() {
        let clock = Clock::manual();
        let breaker = breaker(clock.clone());
        breaker.will_probe();
        for _ in 0..3 {
            clock.advance(Duration::from_secs(1));
            breaker.note(Some(&L2Error::timed_out(Duration::ZERO)));
        }
        assert!(breaker.admit().is_err() && breaker.admit().is_err());
        breaker.note(None);
        clock.advance(OUTAGE_OVER_AFTER);
        let trouble = &mut lock(&breaker.trouble).trouble;
        let (_, over) = breaker.end_if_over(trouble, clock.now()).unwrap();
        assert_eq!(over.failing_for, Duration::from_secs(2));
        assert_eq!((over.failed, over.skipped), (3, 2));
    }
}
