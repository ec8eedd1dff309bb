//! What the server says of itself.

use std::fmt::Write;

use super::{Answer, Call, SYNTAX, fail, word};
use crate::reply::Reply;

/// The release whose answers it gives.
pub(super) const VERSION: &str = "7.0.15";

pub(super) fn time(call: &mut Call<'_>) -> Answer {
    let micros = call.server.micros;
    Ok(Reply::Array(vec![
        Reply::text((micros / 1_000_000).to_string()),
        Reply::text((micros % 1_000_000).to_string()),
    ]))
}

/// The sections that the crate reads, and of these the fields that say something here.
pub(super) fn info(call: &mut Call<'_>) -> Answer {
    let wanted: Vec<_> = call.from(1).iter().map(|section| word(section)).collect();
    let is_wanted = |section: &str| {
        let is_it = |name: &String| ["all", "default", "everything", section].contains(&&**name);
        wanted.is_empty() || wanted.iter().any(is_it)
    };
    let server = &*call.server;
    let mut text = String::new();
    let mut add = |section: &str, lines: &[String]| {
        if is_wanted(&section.to_ascii_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            _ = write!(text, "# {section}\r\n");
            let is_hidden = |line: &&String| {
                let field = line.split(':').next().unwrap_or_default();
                server.settings.hidden.contains(field)
            };
            for line in lines.iter().filter(|line| !is_hidden(line)) {
                _ = write!(text, "{line}\r\n");
            }
        }
    };
    add(
        "Server",
        &[
            format!("redis_version:{VERSION}"),
            format!("redis_mode:{}", server.mode()),
            format!("run_id:{}", server.run_id),
        ],
    );
    let settings = &server.settings;
    let policy = match &*settings.policy {
        "" => "noeviction",
        policy => policy,
    };
    add(
        "Memory",
        &[
            format!("used_memory:{}", server.used()),
            format!("maxmemory:{}", settings.maxmemory.unwrap_or(0)),
            format!("maxmemory_policy:{policy}"),
        ],
    );
    let role = if settings.is_replica {
        "slave"
    } else {
        "master"
    };
    let mut replication = vec![format!("role:{role}")];
    if settings.is_replica {
        let is_up = server.replication.is_linked();
        let link = if is_up { "up" } else { "down" };
        replication.push(format!("master_link_status:{link}"));
    }
    let (needed, good) = settings.replicas.unwrap_or_default();
    replication.push(format!("connected_slaves:{good}"));
    if needed > 0 {
        replication.push(format!("min_slaves_good_slaves:{good}"));
    }
    replication.push(format!("master_replid:{}", server.replication.id));
    replication.push(format!("master_replid2:{}", server.replication.former()));
    add("Replication", &replication);
    // Only on request.
    if wanted.iter().any(|section| section == "commandstats") {
        let calls = server.calls.iter();
        let lines = calls.map(|(name, calls)| format!("cmdstat_{name}:calls={calls},"));
        add("Commandstats", &lines.collect::<Vec<_>>());
    }
    Ok(Reply::text(text))
}

pub(super) fn role(call: &mut Call<'_>) -> Answer {
    let settings = &call.server.settings;
    let role = if settings.is_replica {
        "slave"
    } else {
        "master"
    };
    Ok(Reply::Array(vec![Reply::text(role)]))
}

/// It follows another server, or no one any more. There is no connection to that one: see `SimulatedRedis::follow`.
pub(super) fn replicaof(call: &mut Call<'_>) -> Answer {
    if word(call.arg(1)) == "no" {
        call.server.promote();
    } else {
        call.server.demote();
    }
    Ok(Reply::ok())
}

/// What a sentinel says of a primary. It knows no other command, which nobody tries here.
pub(super) fn sentinel(call: &mut Call<'_>) -> Answer {
    match (&*word(call.arg(1)), call.from(2)) {
        ("get-master-addr-by-name", [name]) => {
            let name = String::from_utf8_lossy(name);
            let known = call.server.settings.primaries.get(&*name);
            Ok(known.map_or(Reply::Nil, |(host, port)| {
                Reply::Array(vec![Reply::text(host), Reply::text(port.to_string())])
            }))
        }
        (other, _) => {
            let other = format!("SENTINEL {other}");
            call.server.unknown.push(other);
            fail(SYNTAX)
        }
    }
}

/// A number of bytes, such as `1mb`.
fn bytes(text: &str) -> Option<usize> {
    match text.strip_suffix("mb") {
        None => text.parse().ok(),
        Some(many) => many.parse().ok().map(|many: usize| many << 20),
    }
}

/// The two settings that tests change while the server runs, and its counters.
pub(super) fn config(call: &mut Call<'_>) -> Answer {
    match (&*word(call.arg(1)), call.from(2)) {
        ("resetstat", []) => {
            call.server.calls.clear();
            Ok(Reply::ok())
        }
        ("set", [name, value]) => {
            let value = String::from_utf8_lossy(value).into_owned();
            match &*word(name) {
                "maxmemory" => {
                    let most = bytes(&value).ok_or_else(|| Reply::error(SYNTAX))?;
                    call.server.settings.maxmemory = (most > 0).then_some(most);
                }
                "maxmemory-policy" => call.server.settings.policy = value,
                // How values are kept in memory, which is not so here.
                name if name.contains("listpack") || name.contains("ziplist") => {}
                other => {
                    let other = format!("CONFIG SET {other}");
                    call.server.unknown.push(other);
                    return fail(SYNTAX);
                }
            }
            Ok(Reply::ok())
        }
        (other, _) => {
            let other = format!("CONFIG {other}");
            call.server.unknown.push(other);
            fail(SYNTAX)
        }
    }
}
