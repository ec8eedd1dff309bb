//! What a connection says of itself, and asks about itself and others.

use super::{Answer, Call, SYNTAX, fail, find, number, word};
use crate::reply::{Protocol, Reply};
use crate::server::{DATABASES, Session};

const WRONG_LOGIN: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn text(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}

fn session<'a>(call: &'a mut Call<'_>) -> Result<&'a mut Session, Reply> {
    let session = call.server.sessions.get_mut(&call.session);
    session.ok_or_else(|| Reply::error("ERR the connection has ended"))
}

fn log_in(call: &mut Call<'_>, user: &[u8], password: &[u8]) -> Result<(), Reply> {
    let wanted = call.server.settings.password.as_deref();
    // Without a password, the user has any.
    let is_right = wanted.is_none_or(|wanted| wanted.as_bytes() == password);
    if user != b"default" || !is_right {
        return fail(WRONG_LOGIN);
    }
    session(call)?.has_login = true;
    Ok(())
}

pub(super) fn hello(call: &mut Call<'_>) -> Answer {
    let mut protocol = session(call)?.protocol;
    let mut options = call.from(1).iter();
    if let Some(version) = options.next() {
        protocol = match number(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return fail("NOPROTO unsupported protocol version"),
            None => return fail("ERR Protocol version is not an integer or out of range"),
        };
    }
    while let Some(option) = options.next() {
        match (&*word(option), options.next()) {
            ("auth", Some(user)) => {
                let password = options.next().ok_or_else(|| Reply::error(SYNTAX))?;
                log_in(call, user, password)?;
            }
            ("setname", Some(name)) => session(call)?.name = text(name),
            (option, _) => return fail(format!("ERR Syntax error in HELLO option '{option}'")),
        }
    }
    if !session(call)?.has_login {
        return fail(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    session(call)?.protocol = protocol;
    let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
    let id = i64::try_from(call.session).unwrap_or(i64::MAX);
    let role = if call.server.settings.is_replica {
        "replica"
    } else {
        "master"
    };
    let says = [
        ("server", Reply::text("redis")),
        ("version", Reply::text(super::about::VERSION)),
        ("proto", Reply::Integer(version)),
        ("id", Reply::Integer(id)),
        ("mode", Reply::text(call.server.mode())),
        ("role", Reply::text(role)),
        ("modules", Reply::Array(Vec::new())),
    ];
    let pairs = says.map(|(name, value)| (Reply::text(name), value));
    Ok(Reply::Map(pairs.into()))
}

pub(super) fn auth(call: &mut Call<'_>) -> Answer {
    let (user, password) = match call.from(1) {
        [_] if call.server.settings.password.is_none() => {
            return fail(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            );
        }
        [password] => (b"default".to_vec(), password.clone()),
        [user, password] => (user.clone(), password.clone()),
        _ => return fail(SYNTAX),
    };
    log_in(call, &user, &password)?;
    Ok(Reply::ok())
}

pub(super) fn select(call: &mut Call<'_>) -> Answer {
    let number = call.number(1)?;
    match usize::try_from(number) {
        Ok(number) if number > 0 && call.server.cluster.is_some() => {
            fail("ERR SELECT is not allowed in cluster mode")
        }
        Ok(number) if number < DATABASES => {
            session(call)?.database = number;
            Ok(Reply::ok())
        }
        _ => fail("ERR DB index is out of range"),
    }
}

pub(super) fn ping(call: &mut Call<'_>) -> Answer {
    match call.from(1) {
        [] => Ok(Reply::Status("PONG".to_owned())),
        [text] => Ok(Reply::text(text)),
        _ => fail("ERR wrong number of arguments for 'ping' command"),
    }
}

pub(super) fn client(call: &mut Call<'_>) -> Answer {
    match (&*word(call.arg(1)), call.from(2)) {
        ("setname", [name]) => {
            session(call)?.name = text(name);
            Ok(Reply::ok())
        }
        // Redis 7.0 does not have it, and clients do without.
        ("setinfo", _) => fail("ERR unknown subcommand 'SETINFO'. Try CLIENT HELP."),
        ("id", []) => Ok(Reply::Integer(
            i64::try_from(call.session).unwrap_or(i64::MAX),
        )),
        ("getname", []) => match &*session(call)?.name {
            "" => Ok(Reply::Nil),
            name => Ok(Reply::text(name)),
        },
        ("list", []) => {
            let each = call.server.sessions.iter();
            let lines = each.map(|(id, session)| {
                let (name, db) = (&session.name, session.database);
                let (sub, ssub) = session.subscriptions();
                let last = session.command;
                format!("id={id} name={name} db={db} sub={sub} psub=0 ssub={ssub} cmd={last} \n")
            });
            Ok(Reply::text(lines.collect::<String>()))
        }
        // Of a node of a cluster, and until UNPAUSE.
        ("pause", [_, what]) if word(what) == "write" => hold_writes(call, true),
        ("unpause", []) => hold_writes(call, false),
        ("kill", [how, kind]) if word(how) == "type" => {
            let wanted = match &*word(kind) {
                "pubsub" => true,
                "normal" => false,
                other => return fail(format!("ERR Unknown client type '{other}'")),
            };
            let others = call.server.sessions.iter();
            let others = others.filter(|(id, _)| **id != call.session);
            let is_wanted = |session: &Session| session.channels.is_empty() != wanted;
            let ended: Vec<_> = others
                .filter(|(_, session)| is_wanted(session))
                .map(|(id, _)| *id)
                .collect();
            for id in &ended {
                call.server.disconnect(*id);
            }
            Ok(Reply::count(ended.len()))
        }
        (other, _) => {
            let other = format!("CLIENT {other}");
            call.server.unknown.push(other);
            fail(SYNTAX)
        }
    }
}

fn hold_writes(call: &mut Call<'_>, is_held: bool) -> Answer {
    let node = call.server.cluster.as_mut();
    let node =
        node.ok_or_else(|| Reply::error("ERR only a node of a cluster holds writes back"))?;
    node.hold_writes(is_held);
    Ok(Reply::ok())
}

impl Session {
    /// How many channels it has subscribed to, and how many of a shard.
    fn subscriptions(&self) -> (usize, usize) {
        let of_shard = self
            .channels
            .iter()
            .filter(|(of_shard, _)| *of_shard)
            .count();
        (self.channels.len() - of_shard, of_shard)
    }
}

pub(super) fn acl(call: &mut Call<'_>) -> Answer {
    match (&*word(call.arg(1)), call.from(2)) {
        ("whoami", []) => Ok(Reply::text("default")),
        ("dryrun", [user, name, ..]) => {
            if user != b"default" {
                return fail(format!("ERR User '{}' not found", text(user)));
            }
            let Some(command) = find(name) else {
                return fail(format!("ERR Command '{}' not found", text(name)));
            };
            // As a text and no error.
            Ok(match call.server.no_right(command) {
                None => Reply::ok(),
                Some(_) => {
                    let name = command.name;
                    Reply::text(format!(
                        "This user has no permissions to run the '{name}' command"
                    ))
                }
            })
        }
        ("setuser", [user, rights @ ..]) if user == b"default" => {
            for right in rights {
                let command = word(right.get(1..).unwrap_or_default());
                let refused = &mut call.server.settings.refused;
                match right.first() {
                    Some(b'-') => refused.insert(command),
                    Some(b'+') => refused.remove(&command),
                    _ => return fail(SYNTAX),
                };
            }
            Ok(Reply::ok())
        }
        (other, _) => {
            let other = format!("ACL {other}");
            call.server.unknown.push(other);
            fail(SYNTAX)
        }
    }
}
