//! A fleet, its source and its store, and one run of them in simulated time.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::internal::with_local_values;
use larder::write_behind::WriteBehind;
use larder::{Cache, Clock, Mode, Token};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::config::{Config, ValuesIn};
use crate::dialer;
use crate::faults::{Counts, Fault};
use crate::history::{History, Invariant, Known, Terms, Violation};
use crate::link::Link;
use crate::recorder::Recorder;
use crate::source::{self, Number, PANIC, Source, Versioned};
use crate::store::Store;
use crate::{chaos, clients};

/// What came of a world.
pub(crate) struct Outcome {
    pub(crate) history: History,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    /// Those that are excused.
    pub(crate) excused: Vec<Violation>,
    /// How many tasks have panicked, but for loaders whose plan it was.
    pub(crate) panics: u64,
}

thread_local! {
    /// Those of the world that this thread runs.
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Runs one world. The same seed and constants give the same history.
pub(crate) fn run(seed: u64, config: &Config) -> Outcome {
    watch_panics();
    PANICS.set(0);
    let _named = NamedIfItFails(seed);
    fastrand::seed(seed);
    larder::seed_randomness(Some(seed));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let config = Arc::new(config.clone());
    let (history, counts, instances) = runtime.block_on(World::live(Arc::clone(&config), seed));
    let terms = Terms {
        max_staleness: (0..instances)
            .map(|instance| config.max_staleness_of(instance))
            .collect(),
        answered_within: config.answered_within(),
        types: config.types,
    };
    let mut all = history.check_strictly(&terms);
    if config.values_in != ValuesIn::L2 {
        // Each instance loads for itself.
        all.retain(|one| one.invariant != Invariant::I6OneLoad);
    }
    let (excused, violations) = all.into_iter().partition(|one| history.excuses(one));
    Outcome {
        history,
        counts,
        violations,
        excused,
        panics: PANICS.get(),
    }
}

/// The seed of a world, which a step that fails cannot say.
struct NamedIfItFails(u64);

impl Drop for NamedIfItFails {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in the world of seed {}", self.0);
        }
    }
}

/// Counts panics: one in a task of its own ends that task alone. Those in loaders are part of the plan, and are to fill no
/// terminal.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&PANIC) {
                PANICS.set(PANICS.get() + 1);
                usual(panic);
            }
        }));
    });
}

/// One process of the fleet.
pub(crate) struct Instance {
    pub(crate) index: usize,
    pub(crate) cache: Cache<Number, Versioned>,
    pub(crate) link: Arc<Link>,
    pub(crate) behind: Option<WriteBehind<Number, Versioned>>,
    /// Commits whose invalidation L2 may not have accepted yet, by key: they are lost if the process dies.
    pub(crate) uninvalidated: Mutex<BTreeMap<u64, u64>>,
}

pub(crate) struct World {
    pub(crate) config: Arc<Config>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) source: Arc<Source>,
    pub(crate) store: Arc<Store>,
    /// The instances that are alive.
    fleet: Mutex<Vec<Arc<Instance>>>,
    /// Whether all instances are switched off. A client that switches them holds the lock until the switch has its effect.
    pub(crate) is_off: tokio::sync::Mutex<bool>,
    /// Of the last writes that returned one, as users keep them.
    pub(crate) tokens: Mutex<VecDeque<(Token, usize, Known)>>,
    /// All that ever were.
    born: Mutex<usize>,
    start: Instant,
    over: AtomicBool,
}

impl World {
    async fn live(config: Arc<Config>, seed: u64) -> (History, Counts, usize) {
        let rng = &mut Rng::with_seed(seed);
        let world = Self::new(config, rng);
        let mut clients = Vec::new();
        for seat in 0..world.config.instances {
            world.place(seat, rng);
            for _ in 0..world.config.readers {
                clients.push(tokio::spawn(clients::read(
                    Arc::clone(&world),
                    seat,
                    rng.fork(),
                )));
            }
        }
        for _ in 0..world.config.writers {
            clients.push(tokio::spawn(clients::write(Arc::clone(&world), rng.fork())));
        }
        clients.push(tokio::spawn(chaos::reign(Arc::clone(&world), rng.fork())));
        sleep(Duration::from_millis(world.config.lasts_ms)).await;
        world.over.store(true, SeqCst);
        for instance in world.fleet() {
            instance.link.heal();
        }
        for client in clients {
            client.await.unwrap();
        }
        // A write that waits for the next try of its worker is in the cache, and not in the source.
        for instance in world.fleet() {
            world.flush(&instance).await;
        }
        // Refreshes and loads whose callers were cancelled go on for a while.
        sleep(world.config.recovery() + world.config.answered_within()).await;
        clients::rest(&world).await;
        for instance in world.fleet() {
            world.comes_to_rest(&instance).await;
        }
        let (history, counts) = world.recorder.take();
        (history, counts, *world.born.lock().unwrap())
    }

    /// Waits until nothing is under way and all is well: what is kept of a call goes with the call, and instances recover
    /// without one.
    async fn comes_to_rest(&self, instance: &Instance) {
        let index = instance.index;
        let until = Instant::now() + self.config.recovery() + self.config.answered_within();
        loop {
            let (left, health) = (instance.cache.left_over(), instance.cache.health());
            let is_well = if self.config.are_heartbeats_in_time(index) {
                health.is_ok()
            } else {
                // By chance the subscriber is live or not.
                health.is_l2_up() && health.is_storing()
            };
            if left.is_empty() && is_well {
                return;
            }
            assert!(Instant::now() < until, "{index}: {left:?}, {health:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all that was written behind is in the source. Connections may have to recover first.
    async fn flush(&self, instance: &Instance) {
        const TRIES: usize = 10;
        let Some(behind) = &instance.behind else {
            return;
        };
        for tried in 1..=TRIES {
            match behind.flush().await {
                Ok(()) => return,
                Err(error) => assert!(tried < TRIES, "{error:?}"),
            }
            sleep(self.config.recovery()).await;
        }
    }

    fn new(config: Arc<Config>, rng: &mut Rng) -> Arc<Self> {
        let recorder = Arc::new(Recorder::new());
        let source = Arc::new(Source::new(&config, Arc::clone(&recorder)));
        let start = Instant::now();
        let store = Store::new(time(start, rng), &config, &source, &recorder);
        Arc::new(Self {
            config,
            recorder,
            source,
            store: Arc::new(store),
            fleet: Mutex::default(),
            is_off: tokio::sync::Mutex::default(),
            tokens: Mutex::default(),
            born: Mutex::default(),
            start,
            over: AtomicBool::new(false),
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    pub(crate) fn fleet(&self) -> Vec<Arc<Instance>> {
        self.fleet.lock().unwrap().clone()
    }

    /// The living instance in a seat.
    pub(crate) fn at(&self, seat: usize) -> Arc<Instance> {
        Arc::clone(&self.fleet.lock().unwrap()[seat])
    }

    /// Starts an instance, and gives back whose place it took.
    pub(crate) fn place(&self, seat: usize, rng: &mut Rng) -> Option<Arc<Instance>> {
        let instance = Arc::new(self.start(rng));
        let mut fleet = self.fleet.lock().unwrap();
        if seat == fleet.len() {
            fleet.push(instance);
            return None;
        }
        Some(std::mem::replace(&mut fleet[seat], instance))
    }

    fn start(&self, rng: &mut Rng) -> Instance {
        let index = {
            let mut born = self.born.lock().unwrap();
            *born += 1;
            *born - 1
        };
        let link = Arc::new(Link::new(
            index,
            Arc::clone(&self.config),
            Arc::clone(&self.recorder),
            rng.fork(),
        ));
        let partitions = self.config.partitions_at(self.start.elapsed(), rng);
        if self.config.partitions.len() > 1 {
            // It may have been told a number that it has to learn is too small.
            let recovery = self.config.recovery();
            self.recorder.disturbed(recovery, Some(index), None);
        }
        let cache = self.cache(&link, Clock::from_fn(time(self.start, rng)), partitions);
        let behind = (self.config.written_behind > 0.0).then(|| {
            let source = Arc::clone(&self.source);
            WriteBehind::builder(cache.clone())
                .store(move |batch| source::store(Arc::clone(&source), batch))
                .attempts(u32::MAX)
                .claim_after(Duration::from_secs(1))
                .build()
                .unwrap()
        });
        Instance {
            index,
            cache,
            link,
            behind,
            uninvalidated: Mutex::default(),
        }
    }

    fn cache(&self, link: &Arc<Link>, clock: Clock, partitions: u16) -> Cache<Number, Versioned> {
        let config = &self.config;
        let ms = Duration::from_millis;
        let mut builder = Cache::builder("simulation:row")
            .l2(dialer::l2(link, &self.store))
            .clock(clock)
            .instance_name(link.instance.to_string())
            .max_staleness(config.max_staleness_of(link.instance))
            .l1_capacity(config.l1_capacity)
            .l2_timeout(config.l2_timeout())
            .l2_ttl(ms(config.l2_ttl_ms))
            .lease_ttl(ms(config.lease_ttl_ms))
            .lease_wait(config.lease_wait())
            .load_timeout(ms(config.load_timeout_ms))
            .max_deferred(config.max_deferred)
            .schema_version(config.type_of(link.instance))
            .partitions(partitions);
        if let Some(ttl) = config.l1_ttl_ms {
            builder = builder.l1_ttl(ms(ttl));
        }
        if let Some(idle) = config.sliding_ms {
            builder = builder.sliding(ms(idle));
        }
        if let Some(share) = config.refresh_ahead {
            builder = builder.refresh_ahead(share);
        }
        if let Some(ttl) = config.soft_ttl_ms {
            builder = builder.soft_ttl(ms(ttl));
        }
        builder = builder
            .stale_if_error(ms(config.stale_if_error_ms))
            .stale_wait(config.stale_wait)
            .error_ttl(ms(config.error_ttl_ms));
        if let Some(limit) = config.available_ms {
            builder = builder.mode(Mode::Available { limit: ms(limit) });
        }
        if config.values_in.are_local_to(link.instance) {
            builder = with_local_values(builder);
        }
        builder.build().unwrap()
    }

    /// Takes down a fault of one instance, or of all, and how long it may show.
    pub(crate) fn struck(&self, fault: Fault, lasts: Duration, instance: Option<usize>) {
        self.recorder.count(fault);
        self.recorder
            .disturbed(lasts + self.config.recovery(), instance, None);
    }
}

/// Every process has a clock of its own; only how fast they go is the same.
fn time(start: Instant, rng: &mut Rng) -> impl Fn() -> Duration + Send + Sync + use<> {
    let ahead = Duration::from_micros(rng.u64(0..10_000_000_000));
    move || ahead + start.elapsed()
}
