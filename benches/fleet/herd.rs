//! All instances lose their connections at once, and connect again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use larder::l2::deadpool_redis::redis::cmd;

use crate::members::{Members, now};
use crate::server::{Server, accepted, cpu_ms};

/// How long a server is down that is restarted.
const DOWN: Duration = Duration::from_secs(3);
/// The time between two questions to the server.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections are counted in windows of so many ms.
const WINDOW: f64 = 100.0;

/// What is measured when the server closes all connections.
pub(crate) const CLOSED: [&str; 5] = [
    "loss: CPU of the server, ms",
    "loss: connects",
    "loss: most connects in 100 ms",
    "loss: ms until half of the L1s are used again",
    "loss: ms until all are",
];
/// What is measured when it is restarted.
pub(crate) const RESTARTED: [&str; 5] = [
    "restart: CPU of the server, ms",
    "restart: connects",
    "restart: most connects in 100 ms",
    "restart: ms until half of the L1s are used again",
    "restart: ms until all are",
];

/// What the server has said.
struct Seen {
    samples: Vec<Sample>,
    cpu_ms: f64,
    /// When the instances were back.
    back: Vec<f64>,
}

/// How many connections the server had accepted until then.
struct Sample {
    at: f64,
    accepted: f64,
}

pub(crate) fn closed(server: &mut Server, members: &Members) -> [f64; 5] {
    let calm = calm(server, members);
    let (before, first) = (server.cpu_ms(), server.accepted());
    let began = now();
    let closing = async {
        for kind in ["normal", "pubsub"] {
            let mut kill = cmd("CLIENT");
            let kill = kill.arg("KILL").arg("TYPE").arg(kind);
            let kill = kill.arg("SKIPME").arg("yes");
            let mut connection = server.connection.clone();
            kill.query_async::<u64>(&mut connection).await.unwrap();
        }
    };
    server.runtime.block_on(closing);
    until_back(server, members).figures([began, first, before], calm)
}

pub(crate) fn restarted(server: &mut Server, members: &Members) -> [f64; 5] {
    let calm = calm(server, members);
    server.kill();
    sleep(DOWN);
    server.restart();
    let began = now();
    until_back(server, members).figures([began, 0.0, 0.0], calm)
}

/// How much the server computes in a ms, while all instances are there and look their key up. Then they are watched.
fn calm(server: &Server, members: &Members) -> f64 {
    sleep(Duration::from_secs(3));
    let (began, before) = (Instant::now(), server.cpu_ms());
    let lasts = Duration::from_secs(2);
    server.runtime.block_on(async {
        while began.elapsed() < lasts {
            accepted(&server.connection).await;
            tokio::time::sleep(PAUSE).await;
        }
    });
    let spent = server.cpu_ms() - before;
    let calm = spent / (began.elapsed().as_secs_f64() * 1e3);
    members.tell("watch");
    // Until they have read that.
    sleep(Duration::from_millis(300));
    calm
}

/// Asks the server until all instances are back.
fn until_back(server: &Server, members: &Members) -> Seen {
    server.runtime.block_on(async {
        let (mut samples, mut answers) = (Vec::new(), Vec::new());
        while answers.len() < members.processes() {
            let accepted = accepted(&server.connection).await;
            samples.push(Sample {
                at: now(),
                accepted,
            });
            answers.extend(members.answered());
            tokio::time::sleep(PAUSE).await;
        }
        let back = answers.iter().flat_map(|line| line.split(' '));
        Seen {
            samples,
            cpu_ms: cpu_ms(&server.connection).await,
            back: back.map(|at| at.parse().unwrap()).collect(),
        }
    })
}

impl Seen {
    /// Since then, when the server had accepted so many connections and computed for so long. In calm it computes so much
    /// in a ms.
    fn figures(mut self, [began, accepted, before]: [f64; 3], calm: f64) -> [f64; 5] {
        self.back.sort_by(f64::total_cmp);
        let first = Sample {
            at: began,
            accepted,
        };
        self.samples.insert(0, first);
        let last = self.samples.last().unwrap();
        // A server that is busy answers later than at the end of a window.
        let of = |sample: &Sample| {
            let is_end = |other: &&Sample| other.at - sample.at >= WINDOW;
            let end = self.samples.iter().find(is_end).unwrap_or(last);
            let windows = ((end.at - sample.at) / WINDOW).max(1.0);
            (end.accepted - sample.accepted) / windows
        };
        let most = self.samples.iter().map(of).fold(0.0, f64::max);
        [
            self.cpu_ms - before - calm * (last.at - began),
            last.accepted - accepted,
            most,
            self.back[self.back.len() / 2] - began,
            self.back.last().unwrap() - began,
        ]
    }
}
