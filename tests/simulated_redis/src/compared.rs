//! Comparison with a real server: each request goes to both, and they have to answer alike and to hold the same.
//!
//! A real server has the time of the system. The clock of the simulated one is set to that time for each request. If a
//! millisecond passes while the real one executes it, the simulated one executes it for both, and has to agree in one.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, SystemTime};

use indexmap::IndexMap;

use crate::keyspace::{Keyspace, Value};
use crate::reply::{Reply, read};
use crate::server::{Server, SessionId};
use crate::stream::{Id, Stream};

/// How long a real server may take for an answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests begin in the first part of a millisecond, so that few of them last until the next one. In µs.
const BEGIN_WITHIN: u64 = 400;
/// After so many requests both have to have sent the same, and to hold the same; later, if they hold much.
const COMPARED_EVERY: u64 = 20;
/// The databases that tests select: 0 and 1.
const DATABASES: usize = 2;
/// How many requests a difference shows, and how much of each of their parts.
const RECENT: usize = 40;
const SHOWN: usize = 60;

/// A real server, with a connection for each of the simulated one.
pub(crate) struct RealServer {
    port: u16,
    connections: BTreeMap<SessionId, Connection>,
    own: Connection,
    /// Messages that the simulated server has sent to a connection, and the real one has not yet.
    ahead: BTreeMap<SessionId, Vec<Reply>>,
    pub(crate) requests: u64,
    /// How often the simulated one has taken over what the real one holds.
    adopted: u64,
    /// At this number both have to hold the same.
    next: u64,
    /// Whether it is of the release whose texts of errors the simulated one has.
    is_7_0: bool,
    /// The requests before this one.
    recent: VecDeque<String>,
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Messages that came before an answer.
    messages: Vec<Reply>,
}

impl Connection {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server is there");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        Self {
            stream,
            bytes: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn ask(&mut self, request: &[&[u8]]) -> Reply {
        let request: Vec<_> = request.iter().map(|part| part.to_vec()).collect();
        self.request(&request)
    }

    fn request(&mut self, request: &[Vec<u8>]) -> Reply {
        let name = request[0].to_ascii_lowercase();
        let mut bytes = Vec::new();
        let parts = request.iter().cloned().map(Reply::Bulk).collect();
        Reply::Array(parts).write(crate::reply::Protocol::Resp2, &mut bytes);
        self.stream.write_all(&bytes).expect("the server reads");
        // There is an answer for each channel.
        let many = if name.ends_with(b"subscribe") {
            request.len().max(2) - 1
        } else {
            1
        };
        let mut answers = (0..many).map(|_| self.answer());
        answers.next_back().expect("an answer")
    }

    fn answer(&mut self) -> Reply {
        loop {
            let reply = self.next();
            if !is_message(&reply) {
                return reply;
            }
            self.messages.push(reply);
        }
    }

    fn next(&mut self) -> Reply {
        loop {
            if let Some((reply, length)) = read(&self.bytes) {
                self.bytes.drain(..length);
                return reply;
            }
            let mut chunk = vec![0; 65536];
            let many = self.stream.read(&mut chunk).expect("the server answers");
            assert!(many > 0, "the real server has closed a connection");
            self.bytes.extend_from_slice(&chunk[..many]);
        }
    }
}

fn is_message(reply: &Reply) -> bool {
    let Reply::Push(items) = reply else {
        return false;
    };
    let is_kind = |kind: &&str| items.first() == Some(&Reply::text(*kind));
    ["message", "smessage"].iter().any(is_kind)
}

/// Of the system, in µs.
fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.expect("it is later than 1970").as_micros()).expect("and before 500 000")
}

/// The time of the system, when a millisecond has begun.
fn early_in_a_millisecond() -> u64 {
    loop {
        let now = micros();
        if now % 1000 < BEGIN_WITHIN {
            return now;
        }
        std::hint::spin_loop();
    }
}

impl RealServer {
    /// The server on this port, from which the simulated one takes its name.
    pub(crate) fn new(port: u16, simulated: &mut Server) -> Self {
        let mut own = Connection::new(port);
        let Reply::Bulk(info) = own.ask(&[b"INFO"]) else {
            panic!("INFO is a text");
        };
        let info = String::from_utf8(info).expect("INFO is a text");
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.expect("INFO has it").to_owned()
        };
        simulated.run_id = field("run_id:");
        simulated.replication.id = field("master_replid:");
        Self {
            port,
            connections: BTreeMap::new(),
            own,
            ahead: BTreeMap::new(),
            requests: 0,
            next: COMPARED_EVERY,
            adopted: 0,
            is_7_0: field("redis_version:").starts_with("7.0."),
            recent: VecDeque::new(),
        }
    }

    /// Has both execute a request, and returns the simulated answer.
    pub(crate) fn execute(
        &mut self,
        simulated: &mut Server,
        session: SessionId,
        request: &[Vec<u8>],
    ) -> Reply {
        let port = self.port;
        let connection = self.connections.entry(session);
        let connection = connection.or_insert_with(|| Connection::new(port));
        let queued = simulated.queue_lengths();
        let from = early_in_a_millisecond();
        let theirs = connection.request(request);
        let to = micros();
        let slack = to / 1000 - from / 1000;
        // Mostly there is one time, and nothing to go back to.
        let before = (slack > 0).then(|| simulated.data());
        let mut times = (from / 1000..=to / 1000).map(|ms| (ms * 1000).max(from));
        let mut differences = Vec::new();
        let ours = loop {
            let Some(now) = times.next() else {
                if slack > 0 {
                    // Redis 7.0 reads its clock again and again in a script, so no one time may be that of all its parts.
                    self.adopt(simulated, &queued);
                    return theirs;
                }
                let before = self.recent.make_contiguous().join("\n");
                let (request, differences) = (shown(request), differences.join("\n"));
                panic!("{before}\n{request}\n{differences}");
            };
            if let Some(before) = &before {
                simulated.set_data(before.clone());
                simulated.cut_queues(&queued);
            }
            simulated.set_time(now);
            let ours = simulated.answer(session, request);
            let sent = as_sent(simulated, session, &ours);
            if !is_same(request, &sent, &theirs, self.is_7_0) {
                differences.push(format!("ours: {sent:?}\nreal: {theirs:?}"));
            } else if slack == 0 {
                break ours;
            } else if let Some(difference) = self.difference(simulated, slack) {
                differences.push(difference);
            } else {
                break ours;
            }
        };
        for (to, queue) in simulated.queued_since(&queued) {
            let messages = queue.into_iter().filter(is_message);
            self.ahead.entry(to).or_default().extend(messages);
        }
        self.recent.push_back(shown(request));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.requests += 1;
        if self.requests.is_multiple_of(COMPARED_EVERY) {
            self.compare_messages(simulated);
        }
        if self.requests >= self.next {
            self.compare(simulated);
        }
        ours
    }

    /// Panics if both do not hold the same, or have not sent the same messages.
    pub(crate) fn compare(&mut self, simulated: &mut Server) {
        self.compare_messages(simulated);
        let held: usize = simulated.data().iter().map(Keyspace::parts).sum();
        self.next = self.requests + COMPARED_EVERY + u64::try_from(held).unwrap_or(0) / 10;
        if let Some(difference) = self.difference(simulated, 0) {
            let before = self.recent.make_contiguous().join("\n");
            panic!("{before}\n{difference}");
        }
    }

    fn compare_messages(&mut self, simulated: &Server) {
        for (session, ours) in &mut self.ahead {
            // One that the simulated server has closed gets no more messages.
            if !simulated.sessions.contains_key(session) {
                continue;
            }
            let Some(connection) = self.connections.get_mut(session) else {
                continue;
            };
            _ = connection.ask(&[b"PING"]);
            assert_eq!(*ours, connection.messages, "messages");
            ours.clear();
            connection.messages.clear();
        }
    }

    pub(crate) fn forget(&mut self, session: SessionId) {
        self.connections.remove(&session);
        self.ahead.remove(&session);
    }

    /// The simulated one takes over all that the real one holds and has sent.
    fn adopt(&mut self, simulated: &mut Server, queued: &BTreeMap<SessionId, usize>) {
        self.adopted += 1;
        assert!(
            self.adopted <= 5 + self.requests / 100,
            "too many requests were not compared"
        );
        let mut data = simulated.data();
        for (number, database) in data.iter_mut().enumerate().take(DATABASES) {
            database.clear();
            for (key, (value, at)) in self.held(number) {
                database.set(&key, value, at);
            }
        }
        simulated.set_data(data);
        simulated.cut_queues(queued);
        for (session, connection) in &mut self.connections {
            if simulated.sessions.contains_key(session) {
                _ = connection.ask(&[b"PING"]);
                let known = self.ahead.entry(*session).or_default().len();
                for message in connection.messages.iter().skip(known) {
                    simulated.send(*session, message.clone());
                }
                self.ahead.remove(session);
                connection.messages.clear();
            }
        }
    }

    /// What one of both holds and the other one does not. Keys may end apart by so many ms: then the simulated one takes
    /// the real time.
    fn difference(&mut self, simulated: &mut Server, slack: u64) -> Option<String> {
        let theirs: Vec<_> = (0..DATABASES).map(|number| self.held(number)).collect();
        let to = micros() / 1000;
        let mut ours = simulated.data();
        // The real one has no key any more that ends while it is read.
        let stays = |at: Option<u64>| at.is_none_or(|at| at > to + 1);
        for (number, theirs) in theirs.iter().enumerate() {
            let ours = &mut ours[number];
            for (key, (value, at)) in theirs {
                let entry = ours.entry_mut(key);
                let is_near = |of: Option<u64>| {
                    of == *at || of.zip(*at).is_some_and(|(of, at)| of.abs_diff(at) <= slack)
                };
                match entry {
                    Some(entry)
                        if is_same_value(value, &entry.value) && is_near(entry.expires_at) =>
                    {
                        entry.expires_at = *at;
                    }
                    None if !stays(*at) => {}
                    other => {
                        let key = String::from_utf8_lossy(key);
                        return Some(format!(
                            "{key} in {number}\nours: {other:?}\nreal: {value:?} until {at:?}"
                        ));
                    }
                }
            }
            for (key, value, at) in ours.all() {
                if stays(at) && !theirs.contains_key(key) {
                    let key = String::from_utf8_lossy(key);
                    return Some(format!(
                        "{key} in {number}\nours: {value:?} until {at:?}\nreal: nothing"
                    ));
                }
            }
        }
        simulated.set_data(ours);
        None
    }

    /// What the real one holds in a database.
    fn held(&mut self, number: usize) -> BTreeMap<Vec<u8>, (Value, Option<u64>)> {
        let own = &mut self.own;
        _ = own.ask(&[b"SELECT", number.to_string().as_bytes()]);
        let mut held = BTreeMap::new();
        let Reply::Array(keys) = own.ask(&[b"KEYS", b"*"]) else {
            panic!("KEYS is a list");
        };
        for key in keys {
            let key = bytes(key);
            let Reply::Integer(at) = own.ask(&[b"PEXPIRETIME", &key]) else {
                panic!("a time is a number");
            };
            let Reply::Status(kind) = own.ask(&[b"TYPE", &key]) else {
                panic!("a type is a status");
            };
            let value = match &*kind {
                "string" => match own.ask(&[b"GET", &key]) {
                    Reply::Bulk(text) => Value::Text(text),
                    _ => continue,
                },
                "hash" => {
                    let pairs = list(own.ask(&[b"HGETALL", &key]));
                    let pairs: Vec<_> = pairs.into_iter().map(bytes).collect();
                    let pairs = pairs.chunks(2).map(|two| (two[0].clone(), two[1].clone()));
                    Value::Hash(pairs.collect::<IndexMap<_, _>>())
                }
                "list" => {
                    let items = list(own.ask(&[b"LRANGE", &key, b"0", b"-1"]));
                    Value::List(items.into_iter().map(bytes).collect())
                }
                "stream" => Value::Stream(stream(own, &key)),
                // It has ended meanwhile.
                _ => continue,
            };
            // One that has ended since its type was read is read as an empty value.
            if at >= 0 && own.ask(&[b"EXISTS", &key]) == Reply::Integer(0) {
                continue;
            }
            held.insert(key, (value, u64::try_from(at).ok()));
        }
        held
    }
}

fn stream(own: &mut Connection, key: &[u8]) -> Stream {
    let mut stream = Stream::default();
    for entry in list(own.ask(&[b"XRANGE", key, b"-", b"+"])) {
        let mut parts = list(entry).into_iter();
        let (id, fields) = (bytes(parts.next().unwrap()), list(parts.next().unwrap()));
        let id = Id::parse(&id, 0).expect("an id");
        stream.add(id, fields.into_iter().map(bytes).collect());
    }
    let about = list(own.ask(&[b"XINFO", b"STREAM", key]));
    for pair in about.chunks(2) {
        match (&*bytes(pair[0].clone()), &pair[1]) {
            (b"last-generated-id", Reply::Bulk(id)) => stream.last = Id::parse(id, 0).unwrap(),
            (b"max-deleted-entry-id", Reply::Bulk(id)) => {
                stream.deleted = Id::parse(id, 0).unwrap();
            }
            (b"entries-added", Reply::Integer(many)) => {
                stream.added = u64::try_from(*many).unwrap();
            }
            _ => {}
        }
    }
    stream
}

fn bytes(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Bulk(bytes) => bytes,
        other => panic!("{other:?} is no text"),
    }
}

fn list(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(items) => items,
        _ => Vec::new(),
    }
}

fn is_same_value(one: &Value, other: &Value) -> bool {
    // The order of fields says nothing: that of a large hash is another one.
    match (one, other) {
        (Value::Hash(one), Value::Hash(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(field, value)| other.get(field) == Some(value))
        }
        (one, other) => one == other,
    }
}

/// An answer as a client reads it.
fn as_sent(simulated: &Server, session: SessionId, answer: &Reply) -> Reply {
    let (mut bytes, session) = (Vec::new(), simulated.sessions.get(&session));
    answer.write(session.expect("it asks").protocol, &mut bytes);
    read(&bytes).expect("a whole answer").0
}

/// Whether two answers say the same.
fn is_same(request: &[Vec<u8>], ours: &Reply, theirs: &Reply, is_7_0: bool) -> bool {
    let name = String::from_utf8_lossy(&request[0]).to_ascii_lowercase();
    match (&*name, ours, theirs) {
        // They say what only one of both can say: its name, the number of a connection, how far it has come.
        ("hello" | "info" | "client" | "time" | "scan" | "role" | "dbsize", ..) => true,
        (_, Reply::Error(ours), Reply::Error(theirs)) if !is_7_0 => {
            ours.split(' ').next() == theirs.split(' ').next()
        }
        (_, Reply::Error(ours), Reply::Error(theirs)) => {
            // A real server cuts off what it quotes.
            let start = |text: &str| text.split(", with args").next().map(str::to_owned);
            start(ours) == start(theirs)
        }
        (_, Reply::Error(_), _) | (_, _, Reply::Error(_)) => false,
        ("hgetall" | "hkeys" | "hvals" | "keys", ..) => sorted(ours) == sorted(theirs),
        // Scripts answer with lists that they have read from hashes.
        ("eval" | "evalsha" | "evalsha_ro", ..) => ours == theirs || sorted(ours) == sorted(theirs),
        _ => ours == theirs,
    }
}

/// Its parts in an order that the order of a hash does not change.
fn sorted(reply: &Reply) -> Vec<String> {
    let mut parts = match reply {
        Reply::Array(items) | Reply::Push(items) => items.iter().flat_map(sorted).collect(),
        Reply::Map(pairs) => (pairs.iter())
            .map(|(name, value)| format!("{name:?} {value:?}"))
            .collect(),
        other => vec![format!("{other:?}")],
    };
    parts.sort();
    parts
}

/// A request for people.
fn shown(request: &[Vec<u8>]) -> String {
    let shown = |part: &Vec<u8>| {
        let start = &part[..part.len().min(SHOWN)];
        format!("\"{}\" ", start.escape_ascii())
    };
    request.iter().map(shown).collect()
}
