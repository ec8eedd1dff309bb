//! Commands for messages.

use std::collections::BTreeSet;

use super::{Answer, Call, fail, word};
use crate::reply::Reply;
use crate::server::{Channel, Server, SessionId};

pub(super) fn publish(call: &mut Call<'_>) -> Answer {
    Ok(send(call, false))
}

pub(super) fn spublish(call: &mut Call<'_>) -> Answer {
    Ok(send(call, true))
}

fn send(call: &mut Call<'_>, is_of_shard: bool) -> Reply {
    let (channel, message) = ((is_of_shard, call.arg(1).to_vec()), call.arg(2));
    let many = call.server.publish(&channel, message);
    call.server.publish_on_bus(&channel, message);
    Reply::count(many)
}

impl Server {
    /// Ends the subscriptions to the channels of a slot, and says so.
    pub(crate) fn end_subscriptions(&mut self, slot: u16) {
        let is_of_slot =
            |channel: &&Channel| channel.0 && crate::cluster::slot_of(&channel.1) == slot;
        let channels: Vec<_> = self.channels.keys().filter(is_of_slot).cloned().collect();
        for channel in channels {
            for id in self.channels.remove(&channel).unwrap_or_default() {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.channels.remove(&channel);
                }
                let name = Reply::text(&channel.1);
                let end = confirmation(self, id, "sunsubscribe", name, true);
                self.send(id, end);
            }
        }
    }
}

pub(super) fn subscribe(call: &mut Call<'_>) -> Answer {
    Ok(join(call, false))
}

pub(super) fn ssubscribe(call: &mut Call<'_>) -> Answer {
    Ok(join(call, true))
}

/// There is an answer for each channel. Those before the last one are sent from here.
fn join(call: &mut Call<'_>, is_of_shard: bool) -> Reply {
    let mut answers = Vec::new();
    for name in call.from(1) {
        let channel = (is_of_shard, name.clone());
        let server = &mut *call.server;
        let subscribers = server.channels.entry(channel.clone()).or_default();
        subscribers.insert(call.session);
        if let Some(session) = server.sessions.get_mut(&call.session) {
            session.channels.insert(channel);
        }
        let kind = if is_of_shard {
            "ssubscribe"
        } else {
            "subscribe"
        };
        let name = Reply::text(name);
        answers.push(confirmation(server, call.session, kind, name, is_of_shard));
    }
    send_all(call, answers)
}

pub(super) fn unsubscribe(call: &mut Call<'_>) -> Answer {
    Ok(part(call, false))
}

pub(super) fn sunsubscribe(call: &mut Call<'_>) -> Answer {
    Ok(part(call, true))
}

fn part(call: &mut Call<'_>, is_of_shard: bool) -> Reply {
    let kind = if is_of_shard {
        "sunsubscribe"
    } else {
        "unsubscribe"
    };
    let channels: Vec<Channel> = match call.from(1) {
        [] => {
            let session = call.server.sessions.get(&call.session);
            let channels = session.into_iter().flat_map(|session| &session.channels);
            channels
                .filter(|(of_shard, _)| *of_shard == is_of_shard)
                .cloned()
                .collect()
        }
        names => names
            .iter()
            .map(|name| (is_of_shard, name.clone()))
            .collect(),
    };
    let mut answers = Vec::new();
    for channel in channels {
        call.server.leave(call.session, &channel);
        if let Some(session) = call.server.sessions.get_mut(&call.session) {
            session.channels.remove(&channel);
        }
        let name = Reply::text(&channel.1);
        answers.push(confirmation(
            call.server,
            call.session,
            kind,
            name,
            is_of_shard,
        ));
    }
    if answers.is_empty() {
        answers.push(confirmation(
            call.server,
            call.session,
            kind,
            Reply::Nil,
            is_of_shard,
        ));
    }
    send_all(call, answers)
}

fn confirmation(
    server: &Server,
    id: SessionId,
    kind: &str,
    name: Reply,
    is_of_shard: bool,
) -> Reply {
    let session = server.sessions.get(&id);
    let channels = session.into_iter().flat_map(|session| &session.channels);
    let many = channels
        .filter(|(of_shard, _)| *of_shard == is_of_shard)
        .count();
    Reply::Push(vec![Reply::text(kind), name, Reply::count(many)])
}

fn send_all(call: &mut Call<'_>, mut answers: Vec<Reply>) -> Reply {
    let last = answers.pop();
    for answer in answers {
        call.server.send(call.session, answer);
    }
    last.unwrap_or(Reply::Nil)
}

pub(super) fn pubsub(call: &mut Call<'_>) -> Answer {
    let is_of_shard = match &*word(call.arg(1)) {
        // Tests ask for all.
        "channels" if call.from(2) == [b"*"] => {
            let channels = call.server.channels.keys();
            let names = channels.filter(|(is_of_shard, _)| !is_of_shard);
            let names = names.map(|(_, name)| Reply::Bulk(name.clone()));
            return Ok(Reply::Array(names.collect()));
        }
        "numsub" => false,
        "shardnumsub" => true,
        other => {
            return fail(format!(
                "ERR unknown subcommand '{other}'. Try PUBSUB HELP."
            ));
        }
    };
    let many = |name: &Vec<u8>| {
        let subscribers = call.server.channels.get(&(is_of_shard, name.clone()));
        subscribers.map_or(0, BTreeSet::len)
    };
    let each = (call.from(2).iter()).flat_map(|name| [Reply::text(name), Reply::count(many(name))]);
    Ok(Reply::Array(each.collect()))
}
