//! The processes of a fleet. Each has some instances, does what a line tells it, and answers with a line.

use std::convert::Infallible;
use std::env;
use std::io::{BufRead, BufReader, Write, stdin};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use larder::{Cache, RedisL2};
use tokio::time::sleep;

/// Caches in one process: as more would begin at once than one thread can serve.
const TOGETHER: usize = 50;
/// The time between two look-ups of an instance.
const PAUSE: Duration = Duration::from_millis(100);
/// How exactly a process knows when an instance is back.
const WATCH: Duration = Duration::from_millis(5);

/// A process that does not answer for so long has failed.
const LIMIT: Duration = Duration::from_secs(120);

type Instance = Cache<u64, u64>;

pub(crate) struct Members {
    processes: Vec<Child>,
    answers: Receiver<String>,
}

impl Members {
    /// Starts the processes, and waits until all instances use their L1.
    pub(crate) fn start(url: &str, mut instances: usize, caches: usize) -> Self {
        let (sender, answers) = channel();
        let mut processes = Vec::new();
        while instances > 0 {
            let some = instances.min((TOGETHER / caches).max(1));
            instances -= some;
            let mut process = Command::new(env::current_exe().unwrap())
                .args(["--members", url, &some.to_string(), &caches.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (sender, output) = (sender.clone(), process.stdout.take().unwrap());
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // An error means that nobody asks any more.
                    _ = sender.send(line);
                }
            });
            processes.push(process);
        }
        let all = Self { processes, answers };
        all.answers();
        all
    }

    /// Tells all processes to do something.
    pub(crate) fn tell(&self, what: &str) {
        for process in &self.processes {
            writeln!(process.stdin.as_ref().unwrap(), "{what}").unwrap();
        }
    }

    /// Waits until each process has answered.
    pub(crate) fn answers(&self) -> Vec<String> {
        let answers = self.processes.iter().map(|_| self.answer());
        answers.collect()
    }

    pub(crate) fn ask_all(&self, what: &str) -> Vec<String> {
        self.tell(what);
        self.answers()
    }

    /// The answers that are there.
    pub(crate) fn answered(&self) -> impl Iterator<Item = String> {
        self.answers.try_iter()
    }

    pub(crate) fn processes(&self) -> usize {
        self.processes.len()
    }

    /// Has one process do something.
    pub(crate) fn ask_first(&self, what: &str) {
        writeln!(self.processes[0].stdin.as_ref().unwrap(), "{what}").unwrap();
        self.answer();
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(LIMIT).unwrap()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It ends with its input.
            drop(process.stdin.take());
            _ = process.wait();
        }
    }
}

/// Now, in ms, for all processes.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64() * 1e3
}

/// One of the processes, until its input ends.
pub(crate) fn run(url: &str, count: usize, caches: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let _on = runtime.enter();
    // Not by the URL, as all instances would share connections.
    let l2s: Vec<_> = (0..count).map(|_| RedisL2::open(url).unwrap()).collect();
    let all = (0..caches).map(|n| {
        let one = |l2: &RedisL2| {
            let builder = Cache::builder(format!("bench:fleet:{n}"));
            builder.l2(l2.clone()).build().unwrap()
        };
        l2s.iter().map(one).collect()
    });
    let all: Vec<Vec<Instance>> = all.collect();
    for cache in all.iter().flatten() {
        runtime.block_on(cache.ready());
    }
    let instances = &all[0];
    println!("ready");
    for line in stdin().lines().map_while(Result::ok) {
        let (what, times) = line.split_once(' ').unwrap_or((&line, "1"));
        runtime.block_on(async {
            for _ in 0..times.parse::<u32>().unwrap() {
                match what {
                    // On a busy machine an answer may come too late.
                    "invalidate" => {
                        while instances[0].invalidate(&0).await.is_err() {
                            sleep(PAUSE).await;
                        }
                    }
                    "wait" => {
                        while instances[0].invalidate_and_wait(&0).await.is_err() {
                            sleep(PAUSE).await;
                        }
                    }
                    "look" => {
                        for instance in instances.clone() {
                            tokio::spawn(look_up(instance));
                        }
                    }
                    _ => drop(tokio::spawn(watch(instances.clone()))),
                }
            }
        });
        if what != "watch" {
            println!("done");
        }
    }
}

/// Looks a key up now and then, as a service does: what L1 has lost comes from L2, or is loaded.
async fn look_up(instance: Instance) {
    sleep(PAUSE.mul_f64(fastrand::f64())).await;
    loop {
        let load = || async { Ok::<_, Infallible>(1) };
        instance.get_or_load(&1, load).await.unwrap();
        sleep(PAUSE).await;
    }
}

/// Says when each instance uses its L1 again, once all have lost the use of it and have it back.
async fn watch(instances: Vec<Instance>) {
    let mut back = vec![None; instances.len()];
    let mut was_off = vec![false; instances.len()];
    while back.iter().any(Option::is_none) {
        for (n, instance) in instances.iter().enumerate() {
            if !instance.health().is_subscriber_live() {
                (was_off[n], back[n]) = (true, None);
            } else if was_off[n] && back[n].is_none() {
                back[n] = Some(now());
            }
        }
        sleep(WATCH).await;
    }
    let back = back.into_iter().flatten().map(|at| at.to_string());
    println!("{}", back.collect::<Vec<_>>().join(" "));
}
