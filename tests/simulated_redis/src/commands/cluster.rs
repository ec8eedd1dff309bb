//! Commands of nodes of a cluster.

use super::{Answer, Call, fail, number, word};
use crate::cluster::{Failover, Node};
use crate::reply::Reply;

const DISABLED: &str = "ERR This instance has cluster support disabled";

fn node<'a>(call: &'a mut Call<'_>) -> Result<&'a mut Node, Reply> {
    let node = call.server.cluster.as_mut();
    node.ok_or_else(|| Reply::error(DISABLED))
}

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) fn cluster(call: &mut Call<'_>) -> Answer {
    let (what, words) = (word(call.arg(1)), call.from(2));
    let node = node(call)?;
    match (&*what, words) {
        ("nodes", []) => Ok(Reply::text(node.nodes_text())),
        ("info", []) => Ok(Reply::text(node.info_text())),
        ("myid", []) => Ok(Reply::text(&node.myself().id)),
        ("keyslot", [key]) => Ok(integer(u64::from(crate::cluster::slot_of(key)))),
        ("countkeysinslot", [slot]) => {
            let slot = read_slot(slot)?;
            Ok(Reply::count(call.server.keys_in(slot).len()))
        }
        ("getkeysinslot", [slot, count]) => {
            let slot = read_slot(slot)?;
            let count = number(count).and_then(|count| usize::try_from(count).ok());
            let Some(count) = count else {
                return fail("ERR Invalid number of keys");
            };
            let keys = call.server.keys_in(slot).into_iter().take(count);
            Ok(Reply::Array(keys.map(Reply::Bulk).collect()))
        }
        ("bumpepoch", []) => {
            let (word, epoch) = match node.bump_epoch() {
                Some(epoch) => ("BUMPED", epoch),
                None => ("STILL", node.myself().config_epoch),
            };
            Ok(Reply::Status(format!("{word} {epoch}")))
        }
        ("setslot", [slot, words @ ..]) if !words.is_empty() => set_slot(call, slot, words),
        ("failover", words) => fail_over(call, words),
        ("replicate", [id]) => replicate(call, id),
        (other, _) => {
            let other = format!("CLUSTER {other}");
            call.server.unknown.push(other);
            fail(super::SYNTAX)
        }
    }
}

fn read_slot(slot: &[u8]) -> Result<u16, Reply> {
    let slot = number(slot).and_then(|slot| u16::try_from(slot).ok());
    let slot = slot.filter(|slot| *slot < crate::cluster::SLOTS);
    slot.ok_or_else(|| Reply::error("ERR Invalid or out of range slot"))
}

fn set_slot(call: &mut Call<'_>, slot: &[u8], words: &[Vec<u8>]) -> Answer {
    let node = node(call)?;
    if node.follows().is_some() {
        return fail("ERR Please use SETSLOT only with masters.");
    }
    let slot = read_slot(slot)?;
    let (me, owner) = (node.me, node.owners.of(slot));
    let (what, id) = (word(&words[0]), words.get(1));
    let known = |node: &Node, unknown: &str| {
        let id = id.map_or(&[][..], Vec::as_slice);
        let Some(found) = node.find(id) else {
            let id = String::from_utf8_lossy(id);
            return fail(format!("ERR {unknown} {id}"));
        };
        if node.peers[found].follows.is_some() {
            return fail("ERR Target node is not a master");
        }
        Ok(found)
    };
    match (&*what, id) {
        ("migrating", Some(_)) => {
            if owner != Some(me) {
                return fail(format!("ERR I'm not the owner of hash slot {slot}"));
            }
            let to = known(node, "I don't know about node")?;
            node.migrating.insert(slot, to);
        }
        ("importing", Some(_)) => {
            if owner == Some(me) {
                return fail(format!("ERR I'm already the owner of hash slot {slot}"));
            }
            let from = known(node, "I don't know about node")?;
            node.importing.insert(slot, from);
        }
        ("stable", None) => {
            node.migrating.remove(&slot);
            node.importing.remove(&slot);
        }
        ("node", Some(_)) => {
            let to = known(node, "Unknown node")?;
            let is_empty = call.server.keys_in(slot).is_empty();
            if owner == Some(me) && to != me && !is_empty {
                return fail(format!(
                    "ERR Can't assign hashslot {slot} to a different node while I still hold keys for this hash slot."
                ));
            }
            call.server
                .change_node(|node| node.assign(slot, to, is_empty));
        }
        _ => {
            return fail(
                "ERR Invalid CLUSTER SETSLOT action or number of arguments. Try CLUSTER HELP",
            );
        }
    }
    Ok(Reply::ok())
}

fn fail_over(call: &mut Call<'_>, words: &[Vec<u8>]) -> Answer {
    let how = match words {
        [] => Failover::Graceful,
        [how] if word(how) == "force" => Failover::Force,
        [how] if word(how) == "takeover" => Failover::Takeover,
        _ => return fail(super::SYNTAX),
    };
    let node = node(call)?;
    let Some(primary) = node.follows() else {
        return fail("ERR You should send CLUSTER FAILOVER to a replica");
    };
    if how == Failover::Graceful && node.peers[primary].has_failed() {
        return fail("ERR Master is down or failed, please use CLUSTER FAILOVER FORCE");
    }
    call.server.change_node(|node| node.fail_over(how));
    Ok(Reply::ok())
}

fn replicate(call: &mut Call<'_>, id: &[u8]) -> Answer {
    let is_empty = call.server.first_db().keys().is_empty();
    let node = node(call)?;
    let Some(primary) = node.find(id) else {
        let id = String::from_utf8_lossy(id);
        return fail(format!("ERR Unknown node {id}"));
    };
    if primary == node.me {
        return fail("ERR Can't replicate myself");
    }
    if node.peers[primary].follows.is_some() {
        return fail("ERR I can only replicate a master, not a replica.");
    }
    if node.follows().is_none() && (node.owners.count(node.me) > 0 || !is_empty) {
        return fail("ERR To set a master the node must be empty and without assigned slots.");
    }
    call.server.change_node(|node| {
        node.follow(primary);
        node.announce();
    });
    Ok(Reply::ok())
}

pub(super) fn asking(call: &mut Call<'_>) -> Answer {
    node(call)?;
    if let Some(session) = call.server.sessions.get_mut(&call.session) {
        session.asks.is_asking = true;
    }
    Ok(Reply::ok())
}

pub(super) fn readonly(call: &mut Call<'_>) -> Answer {
    reads_replicas(call, true)
}

pub(super) fn readwrite(call: &mut Call<'_>) -> Answer {
    reads_replicas(call, false)
}

fn reads_replicas(call: &mut Call<'_>, is_it: bool) -> Answer {
    node(call)?;
    if let Some(session) = call.server.sessions.get_mut(&call.session) {
        session.asks.reads_replicas = is_it;
    }
    Ok(Reply::ok())
}
