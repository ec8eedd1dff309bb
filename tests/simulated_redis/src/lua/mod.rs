//! Lua scripts, run as a Redis 7.0 server does it. What no script of the crate uses is not there.
//!
//! - [`shebang`]: the first line of a script; [`globals`]: what scripts see; [`structs`]: their library for bytes
//! - [`values`]: what commands and scripts answer; [`errors`]: what functions raise

mod errors;
mod globals;
mod shebang;
mod structs;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use mlua::chunk::ChunkMode;
use mlua::{Error, Function, Lua, Table, Value};
use sha1::{Digest, Sha1};

use self::errors::Raised;
pub(crate) use self::shebang::Flags;
use crate::edits::edited;
use crate::reply::Reply;

thread_local! {
    /// Of all servers that scripts are run for on this thread: a script leaves nothing behind, and what it is compiled to
    /// is the same for all.
    static INTERPRETER: Interpreter = Interpreter::new();
}

/// A script that a server knows.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) flags: Flags,
    sha: Arc<str>,
    text: Arc<[u8]>,
    /// The SHA1 of its text, also if that is not the one that was loaded.
    compiled_as: Arc<str>,
}

struct Interpreter {
    lua: Lua,
    /// By the SHA1 of their texts.
    compiled: RefCell<HashMap<Arc<str>, Function>>,
    /// Runs a script and catches its error.
    runner: Function,
    /// Lua's own, for numbers that commands are given.
    format: Function,
    /// The globals, and `redis` among them. Scripts only see tables in front of them, which they cannot change.
    globals: Table,
    redis: Table,
}

impl Script {
    /// Compiles a script.
    pub(crate) fn load(text: &[u8]) -> Result<Self, Reply> {
        let edited = edited(text);
        let script = Self {
            flags: shebang::read(text)?.0,
            sha: sha1hex(text).into(),
            compiled_as: sha1hex(&edited).into(),
            text: (*edited).into(),
        };
        INTERPRETER.with(|interpreter| interpreter.compile(&script).map(drop))?;
        Ok(script)
    }

    /// Runs it. Its commands go to `call`.
    pub(crate) fn run(
        &self,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        call: impl FnMut(&[Vec<u8>]) -> Reply,
    ) -> Reply {
        INTERPRETER.with(|interpreter| {
            let function = match interpreter.compile(self) {
                Ok(function) => function,
                Err(error) => return error,
            };
            let ended = interpreter.run(&function, keys, args, call);
            let answer = ended.and_then(|(is_fine, value)| match value {
                value if is_fine => values::reply(&value),
                Value::Table(error) => values::error(&error, &self.sha),
                error => panic!("the error of a script is {error:?}"),
            });
            // An error of a script is an answer. This one is that of a function in these files.
            answer.unwrap_or_else(|error| panic!("{error}"))
        })
    }
}

/// Scripts are compiled anew.
pub(crate) fn forget_compiled() {
    INTERPRETER.with(|interpreter| interpreter.compiled.borrow_mut().clear());
}

impl Interpreter {
    fn compile(&self, script: &Script) -> Result<Function, Reply> {
        if let Some(function) = self.compiled.borrow().get(&script.compiled_as) {
            return Ok(function.clone());
        }
        let (_, body) = shebang::read(&script.text)?;
        let chunk = self.lua.load(body).set_name("@user_script");
        let function = chunk.set_mode(ChunkMode::Text).into_function();
        let function = function.map_err(|error| {
            let text = match error {
                Error::SyntaxError { message, .. } => message,
                error => error.to_string(),
            };
            Reply::error(format!("ERR Error compiling script (new function): {text}"))
        })?;
        let sha = Arc::clone(&script.compiled_as);
        self.compiled.borrow_mut().insert(sha, function.clone());
        Ok(function)
    }

    /// Answers whether the script has come to its end, and what it has returned or raised.
    fn run(
        &self,
        script: &Function,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        call: impl FnMut(&[Vec<u8>]) -> Reply,
    ) -> mlua::Result<(bool, Value)> {
        globals::begin();
        for (name, values) in [("KEYS", keys), ("ARGV", args)] {
            let table = self.lua.create_sequence_from(values::texts(values))?;
            self.globals.raw_set(name, table)?;
        }
        let call = RefCell::new(call);
        let panicked = Cell::new(None);
        let execute = |args| {
            let parts = values::command(&self.format, args)?;
            let mut call = call.borrow_mut();
            // A panic is not for the script, which could catch it, but for the caller.
            panic::catch_unwind(AssertUnwindSafe(|| call(&parts))).map_err(|panic| {
                panicked.set(Some(panic));
                Raised::Table("ERR a command has panicked".to_owned()).into()
            })
        };
        let ended = self.lua.scope(|scope| {
            let call = scope.create_function(|lua, args| match execute(args)? {
                Reply::Error(text) => Err(Raised::Table(text).into()),
                reply => values::into_lua(lua, reply),
            })?;
            let pcall = scope.create_function(|lua, args| match execute(args) {
                Ok(reply) => values::into_lua(lua, reply),
                Err(error) => Raised::of(&error).into_lua(lua),
            })?;
            self.redis.raw_set("call", call)?;
            self.redis.raw_set("pcall", pcall)?;
            self.runner.call(script)
        });
        if let Some(panic) = panicked.take() {
            panic::resume_unwind(panic);
        }
        ended
    }
}

/// The SHA1 of a text in hex digits, by which a server names a script.
pub(crate) fn sha1hex(text: &[u8]) -> String {
    let digits =
        |byte: u8| [byte >> 4, byte & 15].map(|n| char::from(b"0123456789abcdef"[usize::from(n)]));
    Sha1::digest(text).into_iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_panic_in_a_command_is_that_of_the_caller() {
        let script = Script::load(b"return pcall(redis.call, 'x')").unwrap();
        let run = |panics| {
            script.run(&[], &[], |_| {
                if panics {
                    panic!("as expected")
                } else {
                    Reply::Nil
                }
            })
        };
        assert!(panic::catch_unwind(|| run(true)).is_err());
        assert_eq!(run(false), Reply::Integer(1));
    }

    #[test]
    fn a_script_is_run_on_other_threads() {
        let script = Script::load(b"return KEYS[1]").unwrap();
        let run = move || script.run(&[b"key".to_vec()], &[], |_| Reply::Nil);
        assert_eq!(thread::spawn(run).join().unwrap(), Reply::text("key"));
    }
}
