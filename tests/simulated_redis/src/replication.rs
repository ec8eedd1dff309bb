//! How a replica follows a primary: by the commands that this has executed, each a while after that. Which server is the
//! primary is decided elsewhere.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::keyspace::{Entry, Keyspace};
use crate::serve::lock;
use crate::server::{Server, random_id};

/// How many executions a server keeps for replicas that have lost their connection.
const BACKLOG: usize = 10_000;

/// The history of a server: all that it has executed which changes something, whoever was the primary.
pub(crate) struct Replication {
    /// The name of the history.
    pub(crate) id: String,
    /// That of the history which this one continues, and where it begins.
    former: Option<(String, u64)>,
    /// How much has been executed.
    offset: u64,
    /// The last of that. `None` before there was a replica: nothing is counted then.
    backlog: Option<VecDeque<Execution>>,
    /// Wakes the replicas.
    news: Arc<Notify>,
    /// Counts the primaries that it was told to follow. What was begun with an earlier one ends.
    link: u64,
    /// Whether it has a connection to its primary.
    is_linked: bool,
    /// Whether it answers without such a connection.
    pub(crate) serves_stale_data: bool,
    /// How long what its primary has executed takes until it is here.
    pub(crate) lag: Duration,
}

/// A command that was executed, with the time that it saw.
#[derive(Clone)]
pub(crate) struct Execution {
    at: Instant,
    /// The time of the server, in µs.
    pub(crate) micros: u64,
    pub(crate) database: usize,
    pub(crate) request: Vec<Vec<u8>>,
    /// What a key has from then on, which comes from another node of a cluster. The request names the key.
    pub(crate) entry: Option<Entry>,
}

/// What a primary has for a replica.
enum Answer {
    /// All that it holds, as there is no other way to what it is now: with the name of its history, and where that is.
    All(Vec<Keyspace>, String, u64),
    /// The history goes on under this name.
    Continues(String),
    /// What was executed next.
    Next(Execution),
    Nothing,
}

/// When a replica asks again.
enum Again {
    Now,
    At(Instant),
    /// When there are news.
    Later,
    Never,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            id: random_id(),
            former: None,
            offset: 0,
            backlog: None,
            news: Arc::default(),
            link: 0,
            is_linked: false,
            serves_stale_data: true,
            lag: Duration::ZERO,
        }
    }
}

impl Replication {
    /// The name of the history that this one continues; zeros for none.
    pub(crate) fn former(&self) -> String {
        let former = self.former.as_ref();
        former.map_or_else(|| "0".repeat(40), |(id, _)| id.clone())
    }

    /// Whether a replica has a connection to its primary.
    pub(crate) fn is_linked(&self) -> bool {
        self.is_linked
    }

    /// It begins anew, as a process that was just started.
    pub(crate) fn restart(&mut self) {
        *self = Self {
            news: Arc::clone(&self.news),
            link: self.link + 1,
            lag: self.lag,
            serves_stale_data: self.serves_stale_data,
            ..Self::default()
        };
        self.news.notify_waiters();
    }

    /// It follows another server from now on, or none. Returns the number of this.
    pub(crate) fn begin(&mut self) -> u64 {
        self.link += 1;
        self.is_linked = false;
        self.link
    }

    /// It is a primary from now on, whose history continues the one before.
    pub(crate) fn promote(&mut self) {
        self.begin();
        self.go_on_as(random_id());
        self.news.notify_waiters();
    }

    fn go_on_as(&mut self, id: String) {
        let former = mem::replace(&mut self.id, id);
        self.former = Some((former, self.offset));
    }

    /// How much has been executed.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Notes what it has executed, if replicas need it. A key that has come from another node has this entry.
    pub(crate) fn note(
        &mut self,
        micros: u64,
        database: usize,
        request: &[Vec<u8>],
        entry: Option<&Entry>,
    ) {
        if self.backlog.is_some() {
            self.add(Execution {
                at: Instant::now(),
                micros,
                database,
                request: request.to_vec(),
                entry: entry.cloned(),
            });
        }
    }

    fn add(&mut self, execution: Execution) {
        self.offset += 1;
        let backlog = self.backlog.get_or_insert_default();
        backlog.push_back(execution);
        if backlog.len() > BACKLOG {
            backlog.pop_front();
        }
        self.news.notify_waiters();
    }

    /// What comes after this place of a history with this name, if that is known.
    fn after(&self, id: &str, offset: u64) -> Option<Answer> {
        if self.id != id {
            let is_it = |(of, until): &(String, u64)| of == id && offset <= *until;
            let continues = self.former.as_ref().is_some_and(is_it);
            return continues.then(|| Answer::Continues(self.id.clone()));
        }
        let backlog = self.backlog.as_ref()?;
        let missing = usize::try_from(self.offset.checked_sub(offset)?).ok()?;
        let next = backlog.get(backlog.len().checked_sub(missing)?);
        Some(next.map_or(Answer::Nothing, |next| Answer::Next(next.clone())))
    }
}

impl Server {
    /// What it has for a replica that is at this place of a history.
    fn ask(&mut self, id: &str, offset: u64) -> Answer {
        if let Some(answer) = self.replication.after(id, offset) {
            return answer;
        }
        let data = self.data();
        let replication = &mut self.replication;
        replication.backlog.get_or_insert_default();
        Answer::All(data, replication.id.clone(), replication.offset)
    }

    /// Takes what its primary has answered.
    fn take(&mut self, answer: Answer) -> Again {
        match answer {
            Answer::All(data, id, offset) => {
                self.set_data(data);
                let replication = &mut self.replication;
                (replication.id, replication.offset, replication.former) = (id, offset, None);
                replication.backlog = Some(VecDeque::new());
            }
            Answer::Continues(id) => self.replication.go_on_as(id),
            Answer::Next(execution) => {
                let arrives = execution.at + self.replication.lag;
                if Instant::now() < arrives {
                    return Again::At(arrives);
                }
                self.execute_again(&execution);
                self.replication.add(execution);
            }
            Answer::Nothing => {
                self.replication.is_linked = true;
                return Again::Later;
            }
        }
        Again::Now
    }
}

/// Has a server follow another one, until it is told otherwise.
pub(crate) async fn follow(replica: Arc<Mutex<Server>>, primary: Arc<Mutex<Server>>, link: u64) {
    let lag = lock(&replica).replication.lag;
    sleep(lag).await;
    loop {
        let news = Arc::clone(&lock(&primary).replication.news);
        let news = news.notified();
        match ask_once(&replica, &primary, link) {
            Again::Now => {}
            Again::At(at) => sleep_until(at).await,
            Again::Later => news.await,
            Again::Never => return,
        }
    }
}

/// Has a server have all that another one has executed, whatever the lag, and follow it no more.
pub(crate) fn catch_up(replica: &Mutex<Server>, primary: &Mutex<Server>) {
    let (lag, link) = {
        let mut replica = lock(replica);
        let lag = mem::take(&mut replica.replication.lag);
        (lag, replica.demote())
    };
    while matches!(ask_once(replica, primary, link), Again::Now) {}
    lock(replica).replication.lag = lag;
}

/// One lock after the other: each of the two may follow the other one some day.
fn ask_once(replica: &Mutex<Server>, primary: &Mutex<Server>, link: u64) -> Again {
    let (id, offset) = {
        let replication = &mut lock(replica).replication;
        if replication.link != link {
            return Again::Never;
        }
        (replication.id.clone(), replication.offset)
    };
    let answer = {
        let mut primary = lock(primary);
        primary.is_up.then(|| primary.ask(&id, offset))
    };
    let mut replica = lock(replica);
    match answer {
        Some(answer) if replica.replication.link == link => replica.take(answer),
        Some(_) => Again::Never,
        None => {
            replica.replication.is_linked = false;
            Again::Later
        }
    }
}
