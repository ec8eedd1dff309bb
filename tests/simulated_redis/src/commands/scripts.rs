//! Commands that run Lua.

use super::{Answer, Call, NO_NUMBER, fail, number, word};
use crate::lua::{self, Flags};
use crate::reply::Reply;
use crate::server::{MASTER_DOWN, RunningScript};

/// How many errors are kept.
const MOST_ERRORS: usize = 10;

const NO_SCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

pub(super) fn eval(call: &mut Call<'_>) -> Answer {
    let sha = load(call, call.arg(1))?;
    run(call, &sha, false)
}

pub(super) fn evalsha(call: &mut Call<'_>) -> Answer {
    let sha = word(call.arg(1));
    run(call, &sha, false)
}

pub(super) fn evalsha_ro(call: &mut Call<'_>) -> Answer {
    let sha = word(call.arg(1));
    run(call, &sha, true)
}

fn run(call: &mut Call<'_>, sha: &str, is_read_only: bool) -> Answer {
    let many = number(call.arg(2)).ok_or_else(|| Reply::error(NO_NUMBER))?;
    let Ok(many) = usize::try_from(many) else {
        return fail("ERR Number of keys can't be negative");
    };
    let rest = call.from(3);
    let (Some(keys), Some(args)) = (rest.get(..many), rest.get(many..)) else {
        return fail("ERR Number of keys can't be greater than number of args");
    };
    let (server, session) = (&mut *call.server, call.session);
    let script = server.scripts.get(sha).cloned();
    let script = script.ok_or_else(|| Reply::error(NO_SCRIPT))?;
    let (flags, is_full) = (script.flags, server.is_full());
    if flags.has_shebang {
        check(flags, is_read_only, is_full, server.refuses_writes())?;
    }
    if server.is_cut_off() {
        return fail(MASTER_DOWN);
    }
    server.script = Some(RunningScript {
        is_read_only,
        checks_memory: !flags.has_shebang && is_full,
        keys: keys.to_vec(),
        flags,
        has_written: false,
    });
    let answer = script.run(keys, args, |request| server.answer_script(session, request));
    server.script = None;
    if let Reply::Error(text) = &answer
        && text.starts_with("ERR user_script:")
        && server.lua_errors.len() < MOST_ERRORS
    {
        server.lua_errors.push(text.clone());
    }
    Ok(answer)
}

/// Loads a script, and answers the SHA1 of its text. One that is known is not compiled anew.
fn load(call: &mut Call<'_>, text: &[u8]) -> Result<String, Reply> {
    let (sha, scripts) = (lua::sha1hex(text), &mut call.server.scripts);
    if !scripts.contains_key(&sha) {
        scripts.insert(sha.clone(), lua::Script::load(text)?);
    }
    Ok(sha)
}

/// What is checked before a script that has flags.
fn check(
    flags: Flags,
    is_read_only: bool,
    is_full: bool,
    refuses_writes: Option<&str>,
) -> Result<(), Reply> {
    if is_read_only {
        return fail("ERR Can not execute a script with write flag using *_ro command.");
    }
    if let Some(why) = refuses_writes {
        return fail(why);
    }
    if is_full && !flags.allow_oom {
        return fail(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
        );
    }
    Ok(())
}

pub(super) fn script(call: &mut Call<'_>) -> Answer {
    let (what, rest) = (word(call.arg(1)), call.from(2));
    match (&*what, rest) {
        ("load", [text]) => Ok(Reply::text(load(call, text)?)),
        ("exists", shas) => {
            let is_there = |sha| call.server.scripts.contains_key(&word(sha));
            let each = shas.iter().map(|sha| Reply::Integer(is_there(sha).into()));
            Ok(Reply::Array(each.collect()))
        }
        ("flush", _) => {
            call.server.scripts.clear();
            Ok(Reply::ok())
        }
        (other, _) => fail(format!(
            "ERR unknown subcommand '{other}'. Try SCRIPT HELP."
        )),
    }
}
