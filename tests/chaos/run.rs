//! One run: a service in three instances, its clients, and the faults.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::INSTANCES;
use crate::clients::{Fleet, Instance};
use crate::faults::{FAULT, FAULTS, Fault, Phase, ROUND, SLOT, WARM_UP};
use crate::recovery::{LIMIT, Recovery, WINDOW};
use crate::resources::Resources;
use crate::seen::{Second, Seen};
use crate::services::Service;
use crate::source::{Reader, Source};
use crate::support::proxy::Proxy;
use crate::support::redis_server::RedisServer;

const LOOK: Duration = Duration::from_millis(5);
/// In each second.
const SAMPLES: u32 = 10;

/// What was seen of a service.
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) phases: Vec<(Phase, Seen)>,
    /// The seconds of the last round.
    pub(crate) last_round: Vec<Second>,
    pub(crate) recoveries: Vec<Recovery>,
    /// After the warm-up, and at the end of each round.
    pub(crate) resources: Vec<Resources>,
}

struct Rig<S> {
    redis: RedisServer,
    proxy: Proxy,
    source: Arc<Source>,
    fleet: Arc<Fleet>,
    instances: [Arc<Instance<S>>; INSTANCES],
    runtimes: [Handle; INSTANCES],
}

/// Each instance has a runtime of one thread; another one has the proxy and what controls all.
pub(crate) fn run<S: Service>(rounds: u64) -> Run {
    let ours = runtime(2);
    let runtimes: [Runtime; INSTANCES] = std::array::from_fn(|_| runtime(1));
    let run = ours.block_on(async {
        let redis = RedisServer::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let (source, fleet) = (Arc::new(Source::new()), Arc::new(Fleet::new()));
        let rig = Rig {
            instances: std::array::from_fn(|index| {
                let _on = runtimes[index].enter();
                let reader = Reader {
                    instance: index,
                    source: Arc::clone(&source),
                };
                let service = S::start(&proxy.url(), Arc::new(reader));
                let instance = Arc::new(Instance::new(service, &source, &fleet));
                instance.start_clients();
                instance
            }),
            runtimes: std::array::from_fn(|index| runtimes[index].handle().clone()),
            redis,
            proxy,
            source,
            fleet,
        };
        rig.run(rounds).await
    });
    for runtime in runtimes {
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
    run
}

fn runtime(threads: usize) -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build();
    runtime.expect("a runtime starts")
}

impl<S: Service> Rig<S> {
    async fn run(mut self, rounds: u64) -> Run {
        let mut run = Run {
            name: S::NAME,
            phases: Vec::new(),
            last_round: Vec::new(),
            recoveries: Vec::new(),
            resources: Vec::new(),
        };
        let mut background = JoinSet::new();
        for instance in self.instances.clone() {
            background.spawn(async move {
                loop {
                    instance.look_at_flushes();
                    sleep(LOOK).await;
                }
            });
        }
        let mut recovering = JoinSet::new();
        let began = Instant::now();
        for second in 0..WARM_UP + rounds * ROUND {
            self.turn(second, &mut recovering).await;
            let resources = self.resources(began, second).await;
            let seen = self.take_seen();
            // What comes before the first round is not shown.
            if second >= WARM_UP && (second - WARM_UP).is_multiple_of(ROUND) {
                run.last_round.clear();
            }
            run.note(Phase::at(second), &seen);
            run.last_round.push(Second::of(&seen));
            let is_last = (second + 1).checked_sub(WARM_UP).map(|since| since % ROUND);
            if is_last == Some(0) {
                println!("{}, {} s: {resources:?}", S::NAME, second + 1);
                run.resources.push(resources);
            }
        }
        run.recoveries = recovering.join_all().await.into_iter().flatten().collect();
        run
    }

    /// Begins and ends what does so with this second.
    async fn turn(&mut self, second: u64, recovering: &mut JoinSet<Vec<Recovery>>) {
        let Some(since) = second.checked_sub(WARM_UP) else {
            return;
        };
        let slot = usize::try_from(since % ROUND / SLOT).expect("there are few");
        let (fault, at) = (FAULTS[slot], since % SLOT);
        let flushes = self.flushes();
        if at == 0 {
            self.fleet.forget_changes();
            fault.begin(&mut self.redis, &self.proxy).await;
        }
        if at == FAULT {
            fault.end(&mut self.redis, &self.proxy).await;
        }
        self.source.fail(fault.source_fails().contains(&at));
        if at == fault.is_over_after() {
            for (index, before) in flushes.into_iter().enumerate() {
                recovering.spawn(self.recovery(fault, index, before));
            }
        }
    }

    /// Waits until an instance works again, and then counts what it loads.
    fn recovery(
        &self,
        fault: Fault,
        index: usize,
        flushes: u64,
    ) -> impl Future<Output = Vec<Recovery>> + Send + use<S> {
        let (source, fleet) = (Arc::clone(&self.source), Arc::clone(&self.fleet));
        let instance = Arc::clone(&self.instances[index]);
        async move {
            let over = Instant::now();
            let is_noticed = || {
                fault != Fault::Flushed
                    || !S::NOTICES_FLUSHES
                    || instance.service.flushes() > flushes
            };
            let recovering = async {
                while !(is_noticed() && instance.service.is_well()) {
                    sleep(LOOK).await;
                }
            };
            let took = timeout(LIMIT, recovering)
                .await
                .ok()
                .map(|()| over.elapsed());
            source.take_by_key(index);
            let errors = instance.service.errors();
            sleep(WINDOW).await;
            let loads = source.take_by_key(index);
            let mut recovery = Recovery::new(fault, took, &loads, &fleet.changes());
            recovery.errors = instance.service.errors() - errors;
            vec![recovery]
        }
    }

    fn flushes(&self) -> [u64; INSTANCES] {
        std::array::from_fn(|index| self.instances[index].service.flushes())
    }

    /// Waits until this second is over; returns the least that was used in it.
    async fn resources(&self, began: Instant, second: u64) -> Resources {
        let mut least = Resources::now(&self.runtimes);
        for sample in 1..=SAMPLES {
            let at = Duration::from_secs(second) + Duration::from_secs(1) / SAMPLES * sample;
            sleep_until(began + at).await;
            least = least.least(&Resources::now(&self.runtimes));
        }
        least
    }

    fn take_seen(&self) -> Seen {
        let mut all = Seen {
            queries: self.source.take_queries(),
            seconds: 1,
            ..Seen::default()
        };
        for instance in &self.instances {
            all.add(&instance.take_seen());
        }
        all
    }
}

impl Run {
    fn note(&mut self, phase: Phase, seen: &Seen) {
        match self.phases.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, all)) => all.add(seen),
            None => {
                let mut all = Seen::default();
                all.add(seen);
                self.phases.push((phase, all));
            }
        }
    }

    /// All phases of one kind together.
    pub(crate) fn sum(&self, which: impl Fn(Phase) -> bool) -> Seen {
        let mut all = Seen::default();
        for (_, seen) in self.phases.iter().filter(|(phase, _)| which(*phase)) {
            all.add(seen);
        }
        all
    }
}
