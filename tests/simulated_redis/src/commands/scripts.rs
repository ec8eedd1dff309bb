//! Commands that run Lua.

use super::{Answer, Call, NO_NUMBER, fail, number, word};
use crate::lua::Flags;
use crate::reply::Reply;
use crate::server::{NO_REPLICAS, READ_ONLY, Script};

const NO_SCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

pub(super) fn eval(call: &mut Call<'_>) -> Answer {
    let text = call.arg(1);
    let Some(interpreter) = &mut call.server.interpreter else {
        return fail(NO_SCRIPT);
    };
    let sha = interpreter.load(text)?;
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
    let (keys, args) = (keys.to_vec(), args.to_vec());
    let (server, session) = (&mut *call.server, call.session);
    let flags = server.interpreter.as_ref().and_then(|all| all.flags(sha));
    let flags = flags.ok_or_else(|| Reply::error(NO_SCRIPT))?;
    let is_full = server.is_full();
    if flags.has_shebang {
        check(&flags, is_read_only, is_full, server.refuses_writes())?;
    }
    let Some(mut interpreter) = server.interpreter.take() else {
        return fail(NO_SCRIPT);
    };
    server.script = Some(Script {
        sha: sha.to_owned(),
        is_read_only: is_read_only || flags.no_writes,
        checks_memory: !flags.has_shebang && is_full,
        keys: keys.clone(),
        has_written: false,
    });
    let answer = interpreter.run(sha, &keys, &args, &mut |request| {
        server.answer_script(session, request)
    });
    server.interpreter = Some(interpreter);
    server.script = None;
    Ok(answer)
}

/// What is checked before a script that has flags.
fn check(
    flags: &Flags,
    is_read_only: bool,
    is_full: bool,
    refuses_writes: Option<&str>,
) -> Result<(), Reply> {
    if !flags.no_writes {
        if is_read_only {
            return fail("ERR Can not execute a script with write flag using *_ro command.");
        }
        match refuses_writes {
            Some(READ_ONLY) => {
                return fail(
                    "READONLY You can not run script with write flag on readonly replica.",
                );
            }
            Some(_) => return fail(NO_REPLICAS),
            None => {}
        }
    }
    if is_full && !flags.allow_oom && !flags.no_writes {
        return fail(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
        );
    }
    Ok(())
}

pub(super) fn script(call: &mut Call<'_>) -> Answer {
    let (what, rest) = (word(call.arg(1)), call.from(2));
    let Some(interpreter) = &mut call.server.interpreter else {
        return fail(NO_SCRIPT);
    };
    match (&*what, rest) {
        ("load", [text]) => Ok(Reply::text(interpreter.load(text)?)),
        ("exists", shas) => {
            let is_there = |sha| interpreter.flags(&word(sha)).is_some();
            let each = shas.iter().map(|sha| Reply::Integer(is_there(sha).into()));
            Ok(Reply::Array(each.collect()))
        }
        ("flush", _) => {
            interpreter.flush();
            Ok(Reply::ok())
        }
        (other, _) => fail(format!(
            "ERR unknown subcommand '{other}'. Try SCRIPT HELP."
        )),
    }
}
