//! The server: what it holds, who is connected, and the execution of a command.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::{Asks, Node};
use crate::commands::{self, Call, Command};
use crate::compared::RealServer;
use crate::edits::are_edited;
use crate::keyspace::Keyspace;
use crate::lua::{Flags, Script};
use crate::observed::{Change, Changes, Held, Noted, Observer, Seen};
use crate::replication::{Execution, Replication};
use crate::reply::{Protocol, Reply};

pub(crate) type SessionId = u64;

/// The session of what a primary has executed.
const PRIMARY: SessionId = 0;

/// What a database number may be.
pub(crate) const DATABASES: usize = 16;

/// What the connections of a server share.
pub(crate) struct Server {
    databases: Vec<Keyspace>,
    /// Its time in µs.
    clock: Box<dyn Fn() -> u64 + Send>,
    /// The time of the command that is being executed, in µs. A script sees no other one.
    pub(crate) micros: u64,
    commands: u64,
    pub(crate) run_id: String,
    pub(crate) is_up: bool,
    pub(crate) replication: Replication,
    pub(crate) settings: Settings,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: SessionId,
    /// By whether they are of a shard, and their names.
    pub(crate) channels: BTreeMap<Channel, BTreeSet<SessionId>>,
    /// By the SHA1 of their texts.
    pub(crate) scripts: HashMap<String, Script>,
    pub(crate) script: Option<RunningScript>,
    /// How often each command was executed.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// A hash of all requests, in their order.
    pub(crate) digest: DefaultHasher,
    /// The first errors of Lua itself, which no script of the crate has.
    pub(crate) lua_errors: Vec<String>,
    pub(crate) observer: Option<Observer>,
    pub(crate) noted: Noted,
    /// The server with which it is compared.
    pub(crate) real: Option<RealServer>,
    /// Commands that this server does not have, and the crate has sent.
    pub(crate) unknown: Vec<String>,
    /// What it knows of its cluster, if it is a node of one.
    pub(crate) cluster: Option<Node>,
}

pub(crate) type Channel = (bool, Vec<u8>);

/// What can be set from outside.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The password of the user `default`.
    pub password: Option<String>,
    /// In bytes, as this server counts them; without one memory is never full.
    pub maxmemory: Option<usize>,
    /// `noeviction` if it is empty.
    pub policy: String,
    /// Whether it follows another server.
    pub is_replica: bool,
    /// How many replicas a write needs, and how many there are.
    pub replicas: Option<(u32, u32)>,
    /// Whether it still reads its data.
    pub is_loading: bool,
    /// Fields that INFO does not show.
    pub hidden: BTreeSet<String>,
    /// Names of commands, in lower case, that the user has no right to.
    pub refused: BTreeSet<String>,
    /// Whether keys that a script uses must be declared to it.
    pub declared_keys_only: bool,
    /// Of a sentinel: the primaries that it knows, by name, with host and port.
    pub primaries: BTreeMap<String, (String, u16)>,
}

/// A connection.
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) database: usize,
    pub(crate) has_login: bool,
    pub(crate) channels: BTreeSet<Channel>,
    /// The last one that it has sent.
    pub(crate) command: &'static str,
    /// What a node of a cluster knows of it.
    pub(crate) asks: Asks,
    /// What is to be sent, in its order. Messages and answers have one order.
    pub(crate) out: VecDeque<Reply>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) is_ended: bool,
}

/// A script that runs, and how it was called.
pub(crate) struct RunningScript {
    pub(crate) is_read_only: bool,
    /// Whether its calls are checked against full memory: of one that has no flags.
    pub(crate) checks_memory: bool,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) flags: Flags,
    /// Whether it has called a command that writes.
    pub(crate) has_written: bool,
}

const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
pub(crate) const READ_ONLY: &str = "READONLY You can't write against a read only replica.";
pub(crate) const NO_REPLICAS: &str = "NOREPLICAS Not enough good replicas to write.";
pub(crate) const MASTER_DOWN: &str =
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
pub(crate) const LOADING: &str = "LOADING Redis is loading the dataset in memory";

/// A test that has sent so many to edited scripts is taken to be endless.
const MOST_COMMANDS: u64 = 1_000_000;

/// A moment that says nothing of the day: 2033.
const BEGAN: u64 = 2_000_000_000_000_000;

impl Server {
    pub(crate) fn new(settings: Settings) -> Self {
        let since = Instant::now();
        let mut server = Self {
            databases: vec![Keyspace::default(); DATABASES],
            clock: Box::new(|| BEGAN),
            micros: BEGAN,
            commands: 0,
            run_id: random_id(),
            is_up: true,
            replication: Replication::default(),
            settings,
            sessions: BTreeMap::new(),
            last_session: 0,
            channels: BTreeMap::new(),
            scripts: HashMap::new(),
            script: None,
            calls: BTreeMap::new(),
            digest: DefaultHasher::new(),
            lua_errors: Vec::new(),
            observer: None,
            noted: Noted::default(),
            real: None,
            unknown: Vec::new(),
            cluster: None,
        };
        server.set_clock(move || since.elapsed());
        server
    }

    /// The time of the command that is being executed, in ms.
    pub(crate) fn now(&self) -> u64 {
        self.micros / 1000
    }

    /// Gives it a clock, which says how long it has run.
    pub(crate) fn set_clock(&mut self, clock: impl Fn() -> Duration + Send + 'static) {
        self.clock = Box::new(move || {
            let micros = u64::try_from(clock().as_micros()).unwrap_or(u64::MAX);
            BEGAN.saturating_add(micros)
        });
    }

    /// Stops its clock at this time, in µs.
    pub(crate) fn set_time(&mut self, micros: u64) {
        self.clock = Box::new(move || micros);
    }

    fn read_clock(&mut self) {
        self.micros = (self.clock)();
        self.commands += 1;
        assert!(
            self.commands < MOST_COMMANDS || !are_edited(),
            "the test does not end"
        );
        self.set_times();
    }

    fn set_times(&mut self) {
        let (now, command) = (self.now(), self.commands);
        for database in &mut self.databases {
            (database.now, database.command) = (now, command);
        }
    }

    pub(crate) fn db(&mut self, session: SessionId) -> &mut Keyspace {
        let selected = self.sessions.get(&session);
        let selected = selected.map_or(0, |session| session.database);
        &mut self.databases[selected]
    }

    /// The first database, the only one of a node of a cluster.
    pub(crate) fn first_db(&mut self) -> &mut Keyspace {
        &mut self.databases[0]
    }

    /// As it names its kind.
    pub(crate) fn mode(&self) -> &'static str {
        self.cluster.as_ref().map_or("standalone", |_| "cluster")
    }

    /// The keys of all databases.
    pub(crate) fn data(&self) -> Vec<Keyspace> {
        self.databases.clone()
    }

    pub(crate) fn set_data(&mut self, data: Vec<Keyspace>) {
        self.databases = data;
    }

    pub(crate) fn flush(&mut self) {
        for database in &mut self.databases {
            database.clear();
        }
    }

    /// It ends and begins anew, with this data: connections, scripts and what it was are gone.
    pub(crate) fn restart(&mut self, data: Vec<Keyspace>) {
        for session in self.sessions.values_mut() {
            session.end();
        }
        self.sessions.clear();
        self.channels.clear();
        self.databases = data;
        self.scripts.clear();
        self.run_id = random_id();
        self.replication.restart();
        if let Some(node) = &mut self.cluster {
            node.restart();
        }
    }

    /// It follows another server from now on, and takes no writes. Returns the number of this.
    pub(crate) fn demote(&mut self) -> u64 {
        self.settings.is_replica = true;
        self.replication.begin()
    }

    /// It follows no server any more.
    pub(crate) fn promote(&mut self) {
        if mem::take(&mut self.settings.is_replica) {
            self.replication.promote();
        }
    }

    /// Executes what its primary has executed. Its clock goes on from there with the next request.
    pub(crate) fn execute_again(&mut self, execution: &Execution) {
        let mut session = Session::new(true);
        session.database = execution.database;
        self.sessions.insert(PRIMARY, session);
        self.micros = execution.micros;
        self.set_times();
        if let Some(entry) = &execution.entry {
            self.databases[0].put(&execution.request[1], entry.clone());
        } else if let Some(command) = execution
            .request
            .first()
            .and_then(|name| commands::find(name))
        {
            let mut call = Call {
                server: self,
                session: PRIMARY,
                args: &execution.request,
            };
            _ = (command.run)(&mut call);
        }
        self.sessions.remove(&PRIMARY);
        self.noted = Noted::default();
    }

    pub(crate) fn connect(&mut self) -> (SessionId, Arc<Notify>) {
        self.last_session += 1;
        let session = Session::new(self.settings.password.is_none());
        let wake = Arc::clone(&session.wake);
        self.sessions.insert(self.last_session, session);
        (self.last_session, wake)
    }

    pub(crate) fn disconnect(&mut self, id: SessionId) {
        let Some(mut session) = self.sessions.remove(&id) else {
            return;
        };
        session.end();
        if let Some(real) = &mut self.real {
            real.forget(id);
        }
        for channel in session.channels {
            self.leave(id, &channel);
        }
    }

    /// A channel has one subscriber less.
    pub(crate) fn leave(&mut self, id: SessionId, channel: &Channel) {
        if let Some(subscribers) = self.channels.get_mut(channel) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                self.channels.remove(channel);
            }
        }
    }

    /// Sends a message to the subscribers of a channel. Returns how many these are.
    pub(crate) fn publish(&mut self, channel: &Channel, message: &[u8]) -> usize {
        let (is_of_shard, name) = channel;
        let message = Reply::Push(vec![
            Reply::text(if *is_of_shard { "smessage" } else { "message" }),
            Reply::text(name),
            Reply::text(message),
        ]);
        let subscribers = self.channels.get(channel).cloned().unwrap_or_default();
        for subscriber in &subscribers {
            self.send(*subscriber, message.clone());
        }
        subscribers.len()
    }

    pub(crate) fn send(&mut self, to: SessionId, reply: Reply) {
        if let Some(session) = self.sessions.get_mut(&to) {
            session.out.push_back(reply);
            session.wake.notify_one();
        }
    }

    /// How much is to be sent to each connection.
    pub(crate) fn queue_lengths(&self) -> BTreeMap<SessionId, usize> {
        let length = |(id, session): (&SessionId, &Session)| (*id, session.out.len());
        self.sessions.iter().map(length).collect()
    }

    /// What was added since then.
    pub(crate) fn queued_since(
        &self,
        lengths: &BTreeMap<SessionId, usize>,
    ) -> Vec<(SessionId, Vec<Reply>)> {
        let since = |(id, session): (&SessionId, &Session)| {
            let known = lengths.get(id).copied().unwrap_or(0);
            (*id, session.out.iter().skip(known).cloned().collect())
        };
        self.sessions.iter().map(since).collect()
    }

    pub(crate) fn cut_queues(&mut self, lengths: &BTreeMap<SessionId, usize>) {
        for (id, session) in &mut self.sessions {
            session.out.truncate(lengths.get(id).copied().unwrap_or(0));
        }
    }

    /// Executes a request of a connection, and has the answer sent.
    pub(crate) fn execute(&mut self, id: SessionId, request: &[Vec<u8>]) {
        let answer = match self.real.take() {
            None => self.answer(id, request),
            Some(mut real) => {
                let answer = real.execute(self, id, request);
                self.real = Some(real);
                answer
            }
        };
        request.hash(&mut self.digest);
        self.end_asking(id, request);
        self.tell(id);
        self.send(id, answer);
    }

    /// What a key holds now, and when it ends.
    fn see(&mut self, id: SessionId, key: &[u8]) -> Option<Seen> {
        let entry = self.db(id).entry(key)?;
        Some((Held::of(&entry.value), entry.expires_at))
    }

    /// Tells the observer what the request has changed.
    fn tell(&mut self, id: SessionId) {
        let Noted { before, entries } = mem::take(&mut self.noted);
        let keys = before.into_iter().filter_map(|(key, before)| {
            let (now, after) = (self.now(), self.see(id, &key));
            if before == after {
                return None;
            }
            let ends = after.as_ref().and_then(|(_, ends)| *ends);
            Some(Change {
                key,
                before: before.map(|(held, _)| held),
                after: after.map(|(held, _)| held),
                ttl: ends.map(|at| Duration::from_millis(at - now)),
            })
        });
        let changes = Changes {
            keys: keys.collect(),
            entries,
        };
        if let Some(observer) = &mut self.observer
            && !(changes.keys.is_empty() && changes.entries.is_empty())
        {
            observer(&changes);
        }
    }

    pub(crate) fn answer(&mut self, id: SessionId, request: &[Vec<u8>]) -> Reply {
        self.read_clock();
        let name = request.first().map_or(&[][..], Vec::as_slice);
        let Some(command) = commands::find(name) else {
            return self.refuse_unknown(request);
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.command = command.name;
        }
        if !command.takes(request.len()) {
            let name = command.name;
            return Reply::error(format!(
                "ERR wrong number of arguments for '{name}' command"
            ));
        }
        let has_login = self.sessions.get(&id).is_some_and(|at| at.has_login);
        if !has_login && command.needs_login() {
            return Reply::error("NOAUTH Authentication required.");
        }
        if let Some(refusal) = self.no_right(command) {
            return refusal;
        }
        if let Some(refusal) = self.redirect(id, command, request) {
            return refusal;
        }
        if self.is_full() && command.grows() {
            return Reply::error(OOM);
        }
        if let Some(why) = self.refuses_writes()
            && self.is_write(command, request)
        {
            return Reply::error(why);
        }
        if self.settings.is_loading && !command.is_always_executed() {
            return Reply::error(LOADING);
        }
        if self.is_cut_off() && !command.is_always_executed() {
            return Reply::error(MASTER_DOWN);
        }
        self.run(id, command, request)
    }

    /// Executes a command that the running script calls.
    pub(crate) fn answer_script(&mut self, id: SessionId, request: &[Vec<u8>]) -> Reply {
        let name = request.first().map_or(&[][..], Vec::as_slice);
        let Some(command) = commands::find(name) else {
            _ = self.refuse_unknown(request);
            return Reply::error("ERR Unknown Redis command called from script");
        };
        if !command.takes(request.len()) {
            return Reply::error("ERR Wrong number of args calling Redis command from script");
        }
        if !command.is_for_scripts() {
            return Reply::error("ERR This Redis command is not allowed from script");
        }
        if let Some(Reply::Error(_)) = self.no_right(command) {
            return Reply::error(
                "ERR The user executing the script can't run this command or subcommand",
            );
        }
        let is_undeclared = |key: &&Vec<u8>| {
            let script = self.script.as_ref();
            script.is_some_and(|script| !script.keys.contains(key))
        };
        if self.settings.declared_keys_only
            && command.keys(request).iter().any(|key| is_undeclared(&key))
        {
            return Reply::error(
                "ERR Script attempted to access a non local key in a cluster node",
            );
        }
        let is_full = command.grows() && self.is_full_now();
        let refuses_writes = self.refuses_writes();
        if let Some(script) = &mut self.script {
            if script.is_read_only && command.is_replicated() {
                return Reply::error("ERR Write commands are not allowed from read-only scripts.");
            }
            // What has begun to write goes on.
            if command.writes()
                && let Some(why) = refuses_writes
            {
                return Reply::error(why);
            }
            if is_full && script.checks_memory && !script.has_written {
                return Reply::error(OOM);
            }
            script.has_written |= command.writes();
        }
        if let Some(refusal) = self.redirect_script(id, command, request) {
            return refusal;
        }
        self.run(id, command, request)
    }

    fn run(&mut self, session: SessionId, command: &Command, args: &[Vec<u8>]) -> Reply {
        *self.calls.entry(command.name).or_default() += 1;
        if self.observer.is_some() && command.writes() {
            for key in command.keys(args) {
                if !self.noted.before.contains_key(key) {
                    let seen = self.see(session, key);
                    self.noted.before.insert(key.clone(), seen);
                }
            }
        }
        let mut call = Call {
            server: self,
            session,
            args,
        };
        let answer = (command.run)(&mut call);
        // The bus of a cluster has its messages.
        let is_noted = command.writes() || self.cluster.is_none() && command.is_replicated();
        if is_noted && answer.is_ok() {
            let database = self.sessions.get(&session).map_or(0, |at| at.database);
            self.replication.note(self.micros, database, args, None);
        }
        answer.unwrap_or_else(|error| error)
    }

    fn refuse_unknown(&mut self, request: &[Vec<u8>]) -> Reply {
        let text = |part: &Vec<u8>| String::from_utf8_lossy(part).into_owned();
        let name = request.first().map(text).unwrap_or_default();
        let quoted = |part| format!("'{}' ", text(part));
        let others: String = request.iter().skip(1).map(quoted).collect();
        self.unknown.push(name.clone());
        Reply::error(format!(
            "ERR unknown command '{name}', with args beginning with: {others}"
        ))
    }

    pub(crate) fn no_right(&self, command: &Command) -> Option<Reply> {
        let name = command.name;
        let refused = self.settings.refused.contains(name);
        refused.then(|| {
            Reply::error(format!(
                "NOPERM this user has no permissions to run the '{name}' command"
            ))
        })
    }

    /// Whether it is a replica that answers nothing, as it may lack what its primary has.
    pub(crate) fn is_cut_off(&self) -> bool {
        let replication = &self.replication;
        self.settings.is_replica && !replication.serves_stale_data && !replication.is_linked()
    }

    pub(crate) fn refuses_writes(&self) -> Option<&'static str> {
        if self.settings.is_replica {
            return Some(READ_ONLY);
        }
        let (needed, good) = self.settings.replicas.unwrap_or_default();
        (good < needed).then_some(NO_REPLICAS)
    }

    fn is_full_now(&self) -> bool {
        let used = || self.used();
        self.settings.maxmemory.is_some_and(|most| used() > most)
    }

    /// About how many bytes it uses.
    pub(crate) fn used(&self) -> usize {
        self.databases.iter().map(Keyspace::size).sum()
    }

    /// Whether memory is full, after all keys that may go have gone.
    pub(crate) fn is_full(&mut self) -> bool {
        while self.is_full_now() {
            let policy = &*self.settings.policy;
            let by_ttl = policy == "volatile-ttl";
            let may_evict = !policy.is_empty() && policy != "noeviction";
            let with_ttl = policy.starts_with("volatile-");
            let evict = |database: &mut Keyspace| {
                let victim = database.victim(with_ttl, by_ttl)?;
                database.take(&victim)
            };
            if !may_evict || self.databases.iter_mut().find_map(evict).is_none() {
                return true;
            }
        }
        false
    }
}

impl Session {
    fn new(has_login: bool) -> Self {
        Self {
            name: String::new(),
            protocol: Protocol::Resp2,
            database: 0,
            has_login,
            channels: BTreeSet::new(),
            command: "",
            asks: Asks::default(),
            out: VecDeque::new(),
            wake: Arc::default(),
            is_ended: false,
        }
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
        self.wake.notify_one();
    }
}

/// As many as Redis has in such a name: forty hex digits. A test seeds fastrand to have the same ones.
pub(crate) fn random_id() -> String {
    let digit = |_| char::from_digit(fastrand::u32(..16), 16).expect("a digit");
    (0..40).map(digit).collect()
}
