//! Lua scripts, run as a Redis 7.0 server does it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, IntoLua, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value,
};
use sha1::{Digest, Sha1};

use crate::reply::Reply;

/// The functions of Lua that scripts have. `pcall` and others that catch errors are in [`PRELUDE`].
const GLOBALS: [&str; 19] = [
    "_VERSION",
    "assert",
    "collectgarbage",
    "error",
    "gcinfo",
    "getmetatable",
    "ipairs",
    "load",
    "loadstring",
    "next",
    "pairs",
    "rawequal",
    "rawget",
    "select",
    "tonumber",
    "tostring",
    "type",
    "unpack",
    "coroutine",
];

/// What must be Lua, as errors go through it: a Rust function that fails raises an object of mlua, of which scripts
/// must not see anything. Answers the function that runs a script.
const PRELUDE: &str = r"
local real, untangle, where = ...
-- A pcall of Lua 5.1 with some twenty results fails an assertion of its own, in a build for debugging.
local pcall, xpcall, resume, type, tostring = pcall, xpcall, coroutine.resume, type, tostring

-- As in Redis, a script gets the text of an error and not its table.
local function caught(ok, ...)
  if ok then
    return ok, ...
  end
  local e = untangle((...))
  if type(e) == 'table' then
    local text = e.err
    if type(text) == 'string' or type(text) == 'number' then
      e = text
    end
  end
  return false, e
end

function real.pcall(...)
  return caught(pcall(...))
end

function real.xpcall(f, handle)
  return xpcall(f, function(e) return handle(untangle(e)) end)
end

local function resumed(ok, ...)
  if ok then
    return ok, ...
  end
  return false, untangle((...))
end

function real.coroutine.resume(...)
  return resumed(resume(...))
end

local function handler(e)
  e = untangle(e)
  local source, line = where()
  if type(e) ~= 'table' then
    e = {err = 'ERR ' .. tostring(e)}
  end
  if source then
    e.source = source
    e.line = line
  end
  return e
end

return function(script)
  return xpcall(script, handler)
end
";

const READ_ONLY: &str = "Attempt to modify a readonly table";

/// How deep tables may be in one another in an answer. Redis stops at several thousand: no client reads that.
const DEEPEST: usize = 200;

/// What a script is allowed to, by its first line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "they are flags")]
pub(crate) struct Flags {
    pub no_writes: bool,
    pub allow_oom: bool,
    pub allow_stale: bool,
    pub no_cluster: bool,
    pub allow_cross_slot_keys: bool,
    /// Without such a line, a script is treated as by a Redis before 7.0.
    pub has_shebang: bool,
}

struct Script {
    function: Function,
    flags: Flags,
}

/// Compiles and runs scripts.
pub(crate) struct Interpreter {
    lua: Lua,
    scripts: HashMap<String, Script>,
    /// Runs a script and catches its error.
    runner: Function,
    /// The globals, and `redis` among them. Scripts only see tables in front of them, which they cannot change.
    globals: Table,
    redis: Table,
    names: Names,
    /// Whether the script has asked for answers of commands as of RESP3.
    is_resp3: Arc<AtomicBool>,
}

/// Names of fields, which Lua would otherwise look up for each table.
struct Names {
    keys: LuaString,
    args: LuaString,
    call: LuaString,
    pcall: LuaString,
    err: LuaString,
    ok: LuaString,
    double: LuaString,
    big_number: LuaString,
    verbatim_string: LuaString,
    map: LuaString,
    set: LuaString,
}

impl Interpreter {
    pub(crate) fn new() -> Self {
        // Only without memory this fails.
        Self::make().unwrap_or_else(|error| panic!("no Lua: {error}"))
    }

    /// Compiles a script, and answers the SHA1 of its text. As in a server, one that is known is not compiled anew.
    pub(crate) fn load(&mut self, text: &[u8]) -> Result<String, Reply> {
        let sha = sha1hex(text);
        if !self.scripts.contains_key(&sha) {
            let shebang = read_shebang(text);
            let (flags, body) = shebang.map_err(|text| Reply::Error(format!("ERR {text}")))?;
            // Redis reads no compiled scripts.
            if body.starts_with(b"\x1b") {
                let text = "user_script:1: unexpected symbol near 'char(27)'";
                return Err(uncompiled(text));
            }
            let chunk = self.lua.load(body).set_name("@user_script");
            let function = chunk.set_mode(ChunkMode::Text).into_function();
            let function = function.map_err(|error| {
                let text = match error {
                    Error::SyntaxError { message, .. } => message,
                    error => error.to_string(),
                };
                uncompiled(&text)
            })?;
            self.scripts.insert(sha.clone(), Script { function, flags });
        }
        Ok(sha)
    }

    /// What a script is allowed to; `None` if it is not known.
    pub(crate) fn flags(&self, sha: &str) -> Option<Flags> {
        self.scripts.get(sha).map(|script| script.flags)
    }

    /// Forgets all scripts.
    pub(crate) fn flush(&mut self) {
        *self = Self::new();
    }

    /// Runs a script. Its commands go to `call`.
    pub(crate) fn run(
        &mut self,
        sha: &str,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        call: &mut dyn FnMut(&[Vec<u8>]) -> Reply,
    ) -> Reply {
        let Some(script) = self.scripts.get(sha) else {
            return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned());
        };
        self.is_resp3.store(false, Ordering::Relaxed);
        let result = self.execute(&script.function, keys, args, call);
        match result {
            Ok((true, value)) => self.reply(&value, 0),
            Ok((false, Value::Table(error))) => self.error(&error, Some(sha)),
            // The handler has failed: too deep a recursion, for example.
            Ok((false, error)) => {
                let text = self.text(&error).unwrap_or_default();
                let text = if text.is_empty() {
                    "execution failure"
                } else {
                    &text
                };
                let text: String = text.chars().take(100).collect();
                failure(&format!("Error running script {sha}, {text}"))
            }
            Err(error) => failure(&format!("Error running script {sha}, {error}")),
        }
    }

    fn execute(
        &self,
        script: &Function,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        call: &mut dyn FnMut(&[Vec<u8>]) -> Reply,
    ) -> mlua::Result<(bool, Value)> {
        let lua = &self.lua;
        for (name, values) in [(&self.names.keys, keys), (&self.names.args, args)] {
            let table = lua.create_sequence_from(values.iter().map(|value| Text(value)))?;
            self.globals.raw_set(name, table)?;
        }
        let call = RefCell::new(call);
        let panicked = Cell::new(None);
        let execute = |args: MultiValue| -> Result<Reply, Raised> {
            let args = command(&args)?;
            let Ok(mut call) = call.try_borrow_mut() else {
                return Err(Raised::error("a script runs already"));
            };
            // A panic is not for the script, which could catch it, but for the caller.
            panic::catch_unwind(AssertUnwindSafe(|| call(&args))).map_err(|panic| {
                panicked.set(Some(panic));
                Raised::error("a command has panicked")
            })
        };
        let is_resp3 = || self.is_resp3.load(Ordering::Relaxed);
        let called = lua.scope(|scope| {
            let call = scope.create_function(|lua, args| match execute(args) {
                Ok(Reply::Error(text)) => Err(Raised::answered(&text).into()),
                Ok(reply) => into_lua(lua, reply, is_resp3()),
                Err(raised) => Err(raised.into()),
            })?;
            let pcall = scope.create_function(|lua, args| match execute(args) {
                Ok(reply) => into_lua(lua, reply, is_resp3()),
                Err(raised) => raised.value(lua),
            })?;
            self.redis.raw_set(&self.names.call, call)?;
            self.redis.raw_set(&self.names.pcall, pcall)?;
            self.runner.call(script)
        });
        if let Some(panic) = panicked.take() {
            panic::resume_unwind(panic);
        }
        called
    }

    /// The answer with a value that a script has returned.
    fn reply(&self, value: &Value, depth: usize) -> Reply {
        match value {
            Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
            // As a script in RESP3 may tell them apart, only RESP2 has no value instead of false.
            Value::Boolean(false) if self.is_resp3.load(Ordering::Relaxed) => Reply::Integer(0),
            Value::Boolean(true) => Reply::Integer(1),
            Value::Integer(n) => Reply::Integer(*n),
            Value::Number(n) => Reply::Integer(truncated(*n)),
            Value::Table(table) => self.reply_of_table(table, depth),
            _ => Reply::Nil,
        }
    }

    fn reply_of_table(&self, table: &Table, depth: usize) -> Reply {
        if depth >= DEEPEST {
            return failure("reached lua stack limit");
        }
        let get = |name: &LuaString| table.raw_get(name).unwrap_or(Value::Nil);
        let names = &self.names;
        if let Value::String(_) = get(&names.err) {
            return self.error(table, None);
        }
        if let Value::String(text) = get(&names.ok) {
            return Reply::Status(on_one_line(&c_text(&text)));
        }
        match get(&names.double) {
            Value::Integer(n) => return Reply::Bulk(general(exact(n)).into_bytes()),
            Value::Number(n) => return Reply::Bulk(general(n).into_bytes()),
            _ => {}
        }
        if let Value::String(text) = get(&names.big_number) {
            let mut text = text.as_bytes().to_vec();
            for byte in &mut text {
                if matches!(byte, b'\r' | b'\n') {
                    *byte = b' ';
                }
            }
            return Reply::Bulk(text);
        }
        if let Value::Table(verbatim) = get(&names.verbatim_string) {
            let get = |name: &str| verbatim.raw_get(name).unwrap_or(Value::Nil);
            if let (Value::String(_), Value::String(text)) = (get("format"), get("string")) {
                return Reply::Bulk(text.as_bytes().to_vec());
            }
        }
        if let Value::Table(map) = get(&names.map) {
            let pairs = map.pairs::<Value, Value>().flatten();
            let pairs = pairs.map(|(key, value)| {
                let key = self.reply(&key, depth + 1);
                (key, self.reply(&value, depth + 1))
            });
            return Reply::Map(pairs.collect());
        }
        if let Value::Table(set) = get(&names.set) {
            let keys = set.pairs::<Value, Value>().flatten();
            let keys = keys.map(|(key, _)| self.reply(&key, depth + 1));
            return Reply::Array(keys.collect());
        }
        let mut array = Vec::with_capacity(table.raw_len());
        // The first nil ends it.
        while let Ok(value) = table.raw_get::<Value>(array.len() + 1)
            && !value.is_nil()
        {
            array.push(self.reply(&value, depth + 1));
        }
        Reply::Array(array)
    }

    /// The answer with an error: one that a script has returned, or that has ended it.
    fn error(&self, error: &Table, raised_by: Option<&str>) -> Reply {
        let get = |name| {
            let value: Value = error.raw_get(name).ok()?;
            self.text(&value)
        };
        // Redis 7.0 crashes without a text, later releases say this.
        let mut text = get("err").unwrap_or_else(|| "ERR unknown error".to_owned());
        if let Some(sha) = raised_by
            && let (Some(source), Some(line)) = (get("source"), get("line"))
        {
            let _ = write!(text, " script: {sha}, on {source}:{line}.");
        }
        Reply::Error(on_one_line(text.trim_end_matches(['\r', '\n'])))
    }

    /// The text of a string or a number.
    fn text(&self, value: &Value) -> Option<String> {
        if !matches!(
            value,
            Value::String(_) | Value::Integer(_) | Value::Number(_)
        ) {
            return None;
        }
        let text = self.lua.coerce_string(value.clone()).ok()??;
        Some(c_text(&text))
    }

    fn make() -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        let has = lua.globals();
        let is_resp3 = Arc::new(AtomicBool::new(false));
        let globals = lua.create_table()?;
        for name in GLOBALS {
            globals.raw_set(name, has.raw_get::<Value>(name)?)?;
        }
        let untangle = lua.create_function(|lua, value: Value| match value {
            Value::Error(error) => Raised::of(&error).value(lua),
            value => Ok(value),
        })?;
        let place = lua.create_function(|lua, ()| Ok(place(lua)))?;
        let prelude = lua.load(PRELUDE).set_name("=[C]");
        let runner = prelude.call((&globals, untangle, place))?;

        // What scripts can see of the tables, and cannot change.
        let fronts = Arc::new(Fronts::default());
        let protect = |table: &Table| -> mlua::Result<Table> {
            let front = lua.create_table()?;
            let meta = lua.create_table()?;
            meta.raw_set("__index", table)?;
            meta.raw_set(
                "__newindex",
                lua.create_function(|lua, _: MultiValue| -> mlua::Result<()> {
                    Err(Raised::located(lua, READ_ONLY).into())
                })?,
            )?;
            meta.raw_set("__metatable", lua.create_table()?)?;
            front.set_metatable(Some(meta))?;
            fronts.add(&front);
            Ok(front)
        };
        let redis = redis_table(&lua, &is_resp3)?;
        globals.raw_set("redis", protect(&redis)?)?;
        globals.raw_set("struct", protect(&struct_table(&lua)?)?)?;
        let math: Table = has.raw_get("math")?;
        add_random(&lua, &math)?;
        globals.raw_set("math", protect(&math)?)?;
        for name in ["string", "table"] {
            globals.raw_set(name, protect(&has.raw_get(name)?)?)?;
        }
        let coroutine = globals.raw_get("coroutine")?;
        globals.raw_set("coroutine", protect(&coroutine)?)?;
        add_raw(&lua, &globals, &fronts)?;
        let front = protect(&globals)?;
        globals.raw_set("_G", &front)?;
        let meta = lua.create_table()?;
        meta.raw_set("__index", lua.create_function(missing)?)?;
        globals.set_metatable(Some(meta))?;
        // Also of what a script compiles itself.
        lua.set_globals(front)?;

        let name = |name: &str| lua.create_string(name);
        let names = Names {
            keys: name("KEYS")?,
            args: name("ARGV")?,
            call: name("call")?,
            pcall: name("pcall")?,
            err: name("err")?,
            ok: name("ok")?,
            double: name("double")?,
            big_number: name("big_number")?,
            verbatim_string: name("verbatim_string")?,
            map: name("map")?,
            set: name("set")?,
        };
        Ok(Self {
            scripts: HashMap::new(),
            runner,
            globals,
            redis,
            names,
            is_resp3,
            lua,
        })
    }
}

/// An error that a function raises: what scripts see is a text, or a table with a text.
#[derive(Debug)]
enum Raised {
    Text(String),
    Table {
        text: Vec<u8>,
        /// Whether a command has answered it: then the server has counted it already.
        is_answered: bool,
    },
}

impl Raised {
    /// An error of Redis itself.
    fn error(text: &str) -> Self {
        Self::Table {
            text: format!("ERR {text}").into_bytes(),
            is_answered: false,
        }
    }

    fn answered(text: &str) -> Self {
        Self::Table {
            text: with_code(text.as_bytes()),
            is_answered: true,
        }
    }

    /// A text with the place from where the function is called, as a function of Lua raises it.
    fn located(lua: &Lua, text: &str) -> Self {
        let place = lua.inspect_stack(1, |debug| {
            let line = debug.current_line()?;
            Some(format!("{}:{line}: ", debug.source().short_src?))
        });
        Self::Text(place.flatten().unwrap_or_default() + text)
    }

    /// What is wrong with an argument.
    fn argument(lua: &Lua, mut n: usize, text: &str) -> Self {
        let names = lua.inspect_stack(0, |debug| {
            let names = debug.names();
            let name = names.name.map(std::borrow::Cow::into_owned);
            (name, names.name_what == Some("method"))
        });
        let (name, is_method) = names.unwrap_or_default();
        let name = name.unwrap_or_else(|| "?".to_owned());
        if is_method {
            n -= 1;
            if n == 0 {
                return Self::located(lua, &format!("calling '{name}' on bad self ({text})"));
            }
        }
        Self::located(lua, &format!("bad argument #{n} to '{name}' ({text})"))
    }

    fn expected(lua: &Lua, n: usize, expected: &str, value: Option<&Value>) -> Self {
        let got = match value {
            None => "no value",
            Some(Value::Integer(_)) => "number",
            Some(Value::Error(_)) => "userdata",
            Some(value) => value.type_name(),
        };
        Self::argument(lua, n, &format!("{expected} expected, got {got}"))
    }

    /// What a function has raised, out of what mlua has made of it.
    fn of(mut error: &Error) -> Self {
        loop {
            error = match error {
                Error::CallbackError { cause, .. } => cause,
                Error::ExternalError(raised) => {
                    return match raised.downcast_ref() {
                        Some(Self::Text(text)) => Self::Text(text.clone()),
                        Some(Self::Table { text, is_answered }) => Self::Table {
                            text: text.clone(),
                            is_answered: *is_answered,
                        },
                        None => Self::Text(raised.to_string()),
                    };
                }
                error => return Self::Text(error.to_string()),
            }
        }
    }

    fn value(&self, lua: &Lua) -> mlua::Result<Value> {
        match self {
            Self::Text(text) => Ok(Value::String(lua.create_string(text)?)),
            Self::Table { text, is_answered } => {
                let table = lua.create_table()?;
                table.raw_set("err", lua.create_string(text)?)?;
                if *is_answered {
                    table.raw_set("ignore_error_stats_update", true)?;
                }
                Ok(Value::Table(table))
            }
        }
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Table { text, .. } => f.write_str(&String::from_utf8_lossy(text)),
        }
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

/// The tables in front of others, by their addresses.
#[derive(Default)]
struct Fronts(std::sync::RwLock<Vec<usize>>);

impl Fronts {
    fn add(&self, table: &Table) {
        if let Ok(mut fronts) = self.0.write() {
            fronts.push(table.to_pointer().addr());
        }
    }

    fn contains(&self, table: &Table) -> bool {
        let address = table.to_pointer().addr();
        self.0.read().is_ok_and(|fronts| fronts.contains(&address))
    }
}

/// Where an error was raised: the source and the line of the function, or of its caller if it is not one of Lua.
/// Called by the handler of errors.
fn place(lua: &Lua) -> (Option<String>, Option<i64>) {
    let at = |level| {
        lua.inspect_stack(level, |debug| {
            let (source, line) = (debug.source(), debug.current_line());
            let line = line.and_then(|line| i64::try_from(line).ok());
            let text = source.source.map(std::borrow::Cow::into_owned);
            (source.what == "C", text, line.unwrap_or(-1))
        })
    };
    // This function, the handler, and what has failed.
    let place = match at(2) {
        Some((true, ..)) => at(3),
        place => place,
    };
    place.map_or((None, None), |(_, source, line)| (source, Some(line)))
}

/// Called for a global that there is not.
fn missing(lua: &Lua, (_, name): (Value, Value)) -> mlua::Result<()> {
    let text = match name {
        Value::String(_) | Value::Integer(_) | Value::Number(_) => {
            let name = lua.coerce_string(name)?;
            let name = name.as_ref().map(c_text).unwrap_or_default();
            format!("Script attempted to access nonexistent global variable '{name}'")
        }
        _ => "Second argument to luaProtectedTableError must be a string or number".to_owned(),
    };
    Err(Raised::located(lua, &text).into())
}

/// The functions that change tables directly: not those in front of others.
fn add_raw(lua: &Lua, globals: &Table, fronts: &Arc<Fronts>) -> mlua::Result<()> {
    let check = |lua: &Lua, fronts: &Fronts, table: Option<&Value>| match table {
        Some(Value::Table(table)) if fronts.contains(table) => {
            Err(Raised::Text(READ_ONLY.to_owned()))
        }
        Some(Value::Table(table)) => Ok(table.clone()),
        table => Err(Raised::expected(lua, 1, "table", table)),
    };
    let protected = Arc::clone(fronts);
    let rawset = lua.create_function(move |lua, args: MultiValue| {
        let table = check(lua, &protected, args.front())?;
        for n in [2, 3] {
            if args.len() < n {
                return Err(Raised::argument(lua, n, "value expected").into());
            }
        }
        let (key, value) = (args.get(1).cloned(), args.get(2).cloned());
        if key.as_ref().is_some_and(Value::is_nil) {
            return Err(Raised::Text("table index is nil".to_owned()).into());
        }
        table.raw_set(key, value)?;
        Ok(table)
    })?;
    globals.raw_set("rawset", rawset)?;
    let protected = Arc::clone(fronts);
    let setmetatable = lua.create_function(move |lua, args: MultiValue| {
        let table = check(lua, &protected, args.front())?;
        let meta = match args.get(1) {
            Some(Value::Nil) => None,
            Some(Value::Table(meta)) => Some(meta.clone()),
            _ => return Err(Raised::argument(lua, 2, "nil or table expected").into()),
        };
        if let Some(meta) = table.metatable()
            && !meta.raw_get::<Value>("__metatable")?.is_nil()
        {
            return Err(Raised::located(lua, "cannot change a protected metatable").into());
        }
        table.set_metatable(meta)?;
        Ok(table)
    })?;
    globals.raw_set("setmetatable", setmetatable)
}

/// The table `redis`, but for what runs commands.
fn redis_table(lua: &Lua, is_resp3: &Arc<AtomicBool>) -> mlua::Result<Table> {
    let redis = lua.create_table()?;
    for (name, value) in [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", 0x0007_000f),
    ] {
        redis.raw_set(name, value)?;
    }
    redis.raw_set("REDIS_VERSION", "7.0.15")?;
    let one_text = |args: &MultiValue| match args.front() {
        Some(Value::String(text)) if args.len() == 1 => Some(text.clone()),
        _ => None,
    };
    let wrong = |lua: &Lua| Raised::error("wrong number or type of arguments").value(lua);
    let error_reply = lua.create_function(move |lua, args: MultiValue| {
        let Some(text) = one_text(&args) else {
            return wrong(lua);
        };
        let text = text.as_bytes();
        let text = until_nul(&text);
        let text = with_code(text.strip_prefix(b"-").unwrap_or(text));
        let table = lua.create_table()?;
        table.raw_set("err", lua.create_string(text)?)?;
        Ok(Value::Table(table))
    })?;
    redis.raw_set("error_reply", error_reply)?;
    let status_reply = lua.create_function(move |lua, args: MultiValue| {
        let Some(text) = one_text(&args) else {
            return wrong(lua);
        };
        let table = lua.create_table()?;
        table.raw_set("ok", text)?;
        Ok(Value::Table(table))
    })?;
    redis.raw_set("status_reply", status_reply)?;
    let sha1hex = lua.create_function(|lua, args: MultiValue| {
        if args.len() != 1 {
            return Err(Raised::error("wrong number of arguments").into());
        }
        let text = bytes(lua, args.front())?;
        Ok(self::sha1hex(&text.unwrap_or_default()))
    })?;
    redis.raw_set("sha1hex", sha1hex)?;
    let log = lua.create_function(|lua, args: MultiValue| {
        if args.len() < 2 {
            let text = "redis.log() requires two arguments or more.";
            return Err(Raised::error(text).into());
        }
        let Some(level) = number(lua, args.front())? else {
            let text = "First argument must be a number (log level).";
            return Err(Raised::error(text).into());
        };
        if !(0..=3).contains(&truncated(level)) {
            return Err(Raised::error("Invalid debug level.").into());
        }
        Ok(())
    })?;
    redis.raw_set("log", log)?;
    let is_resp3 = Arc::clone(is_resp3);
    let setresp = lua.create_function(move |lua, args: MultiValue| {
        if args.len() != 1 {
            return Err(Raised::error("redis.setresp() requires one argument.").into());
        }
        let version = number(lua, args.front())?.map_or(0, truncated);
        if version != 2 && version != 3 {
            return Err(Raised::error("RESP version must be 2 or 3.").into());
        }
        is_resp3.store(version == 3, Ordering::Relaxed);
        Ok(())
    })?;
    redis.raw_set("setresp", setresp)?;
    let set_repl = lua.create_function(|lua, args: MultiValue| {
        if args.len() != 1 {
            return Err(Raised::error("redis.set_repl() requires two arguments.").into());
        }
        let flags = number(lua, args.front())?.map_or(0, truncated);
        if flags & !3 != 0 {
            let text =
                "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.";
            return Err(Raised::error(text).into());
        }
        Ok(())
    })?;
    redis.raw_set("set_repl", set_repl)?;
    let always = lua.create_function(|_, _: MultiValue| Ok(true))?;
    redis.raw_set("replicate_commands", always)?;
    let never = lua.create_function(|_, _: MultiValue| Ok(false))?;
    redis.raw_set("breakpoint", never)?;
    let nothing = lua.create_function(|_, _: MultiValue| Ok(()))?;
    redis.raw_set("debug", nothing)?;
    Ok(redis)
}

/// Random numbers are the same ones after each start, as those of a server.
fn add_random(lua: &Lua, math: &Table) -> mlua::Result<()> {
    /// Lua's int.
    fn int(lua: &Lua, args: &MultiValue, n: usize) -> mlua::Result<i64> {
        let value = args.get(n - 1);
        let number = number(lua, value)?;
        let number = number.ok_or_else(|| Raised::expected(lua, n, "number", value))?;
        #[allow(clippy::cast_possible_truncation, reason = "as in C")]
        let int = truncated(number) as i32;
        Ok(i64::from(int))
    }
    const MOST: u64 = 0x7fff_ffff;
    let state = Arc::new(AtomicU64::new(0x1234_abcd_330e));
    let shared = Arc::clone(&state);
    let random = lua.create_function(move |lua, args: MultiValue| {
        // As drand48 in C, whose numbers have 48 bits.
        let next = shared.load(Ordering::Relaxed);
        let next = next.wrapping_mul(0x0005_deec_e66d).wrapping_add(11) & 0xffff_ffff_ffff;
        shared.store(next, Ordering::Relaxed);
        let part = exact((next >> 17 & MOST).cast_signed() % MOST.cast_signed());
        let part = part / exact(MOST.cast_signed());
        let (low, high) = match args.len() {
            0 => return Ok(part),
            1 => (1, int(lua, &args, 1)?),
            2 => (int(lua, &args, 1)?, int(lua, &args, 2)?),
            _ => return Err(Raised::located(lua, "wrong number of arguments").into()),
        };
        if low > high {
            return Err(Raised::argument(lua, args.len(), "interval is empty").into());
        }
        Ok((part * exact(high - low + 1)).floor() + exact(low))
    })?;
    math.raw_set("random", random)?;
    let randomseed = lua.create_function(move |lua, args: MultiValue| {
        let seed = int(lua, &args, 1)?.cast_unsigned() & 0xffff_ffff;
        state.store(seed << 16 | 0x330e, Ordering::Relaxed);
        Ok(())
    })?;
    math.raw_set("randomseed", randomseed)
}

/// The arguments of a command.
fn command(args: &MultiValue) -> Result<Vec<Vec<u8>>, Raised> {
    if args.is_empty() {
        return Err(Raised::error(
            "Please specify at least one argument for this redis lib call",
        ));
    }
    let parts = args.iter().map(|arg| match arg {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        // 8.2 writes the shortest number that is the same.
        Value::Integer(n) => Ok(general(exact(*n)).into_bytes()),
        Value::Number(n) => Ok(general(*n).into_bytes()),
        _ => Err(Raised::error(
            "Lua redis lib command arguments must be strings or integers",
        )),
    });
    parts.collect()
}

/// What a command has answered, for a script.
fn into_lua(lua: &Lua, reply: Reply, is_resp3: bool) -> mlua::Result<Value> {
    let list = |list: Vec<Reply>| {
        let list = list.into_iter().map(|reply| Answer(reply, is_resp3));
        Ok(Value::Table(lua.create_sequence_from(list)?))
    };
    match reply {
        Reply::Status(text) => {
            let table = lua.create_table_with_capacity(0, 1)?;
            table.raw_set("ok", text)?;
            Ok(Value::Table(table))
        }
        Reply::Error(text) => Raised::answered(&text).value(lua),
        Reply::Integer(n) => Ok(Value::Integer(n)),
        Reply::Bulk(bytes) => Ok(Value::String(lua.create_string(bytes)?)),
        Reply::Nil if is_resp3 => Ok(Value::Nil),
        Reply::Nil => Ok(Value::Boolean(false)),
        Reply::Map(pairs) if is_resp3 => {
            let map = lua.create_table_with_capacity(0, pairs.len())?;
            for (key, value) in pairs {
                map.raw_set(
                    into_lua(lua, key, is_resp3)?,
                    into_lua(lua, value, is_resp3)?,
                )?;
            }
            let table = lua.create_table_with_capacity(0, 1)?;
            table.raw_set("map", map)?;
            Ok(Value::Table(table))
        }
        Reply::Array(replies) | Reply::Push(replies) => list(replies),
        Reply::Map(pairs) => list(pairs.into_iter().flat_map(<[Reply; 2]>::from).collect()),
    }
}

/// What a command has answered, and whether as of RESP3.
struct Answer(Reply, bool);

impl IntoLua for Answer {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        into_lua(lua, self.0, self.1)
    }
}

/// Bytes that are a string of Lua.
struct Text<'a>(&'a [u8]);

impl IntoLua for Text<'_> {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        Ok(Value::String(lua.create_string(self.0)?))
    }
}

/// Reads the first line of a script, if it begins as one of a program does: `#!lua flags=no-writes,allow-oom`. Answers
/// the rest, too: with the end of the line, so that lines keep their numbers.
fn read_shebang(text: &[u8]) -> Result<(Flags, &[u8]), String> {
    let mut flags = Flags::default();
    if !text.starts_with(b"#!") {
        return Ok((flags, text));
    }
    let line = until_nul(text);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return Err("Invalid script shebang".to_owned());
    };
    let (line, body) = text.split_at(end);
    let Some(parts) = split_args(line) else {
        return Err("Invalid engine in script shebang".to_owned());
    };
    let mut parts = parts.iter().map(|part| String::from_utf8_lossy(part));
    let engine = parts.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(format!("Unexpected engine in script shebang: {engine}"));
    }
    flags.has_shebang = true;
    for part in parts {
        let Some(list) = part.strip_prefix("flags=") else {
            return Err(format!("Unknown lua shebang option: {part}"));
        };
        for flag in list.split(',').filter(|_| !list.is_empty()) {
            let flag = match flag {
                "no-writes" => &mut flags.no_writes,
                "allow-oom" => &mut flags.allow_oom,
                "allow-stale" => &mut flags.allow_stale,
                "no-cluster" => &mut flags.no_cluster,
                "allow-cross-slot-keys" => &mut flags.allow_cross_slot_keys,
                _ => return Err(format!("Unexpected flag in script shebang: {flag}")),
            };
            *flag = true;
        }
    }
    Ok((flags, body))
}

/// The words of a line, which may be in quotes; `None` if a quote does not end.
fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let mut words = Vec::new();
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(is_space).is_some() {}
        if bytes.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                quote @ (b'"' | b'\'') => {
                    loop {
                        match bytes.next()? {
                            byte if byte == quote => break,
                            b'\\' if quote == b'\'' => {
                                word.push(bytes.next_if_eq(&b'\'').unwrap_or(b'\\'));
                            }
                            b'\\' => word.push(unescaped(&mut bytes)?),
                            byte => word.push(byte),
                        }
                    }
                    // A word ends with its quote.
                    if bytes.peek().is_some_and(|next| !is_space(next)) {
                        return None;
                    }
                    break;
                }
                byte if is_space(&byte) => break,
                byte => word.push(byte),
            }
        }
        words.push(word);
    }
}

/// What follows a backslash in double quotes.
fn unescaped(bytes: &mut (impl Iterator<Item = u8> + Clone)) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut ahead = bytes.clone();
    if let (Some(b'x'), Some(high), Some(low)) = (
        ahead.next(),
        ahead.next().and_then(digit),
        ahead.next().and_then(digit),
    ) {
        *bytes = ahead;
        return u8::try_from(high * 16 + low).ok();
    }
    Some(match bytes.next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        byte => byte,
    })
}

/// The library `struct`.
fn struct_table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("pack", lua.create_function(|lua, args| pack(lua, &args))?)?;
    table.raw_set(
        "unpack",
        lua.create_function(|lua, args| unpack(lua, &args))?,
    )?;
    table.raw_set("size", lua.create_function(|lua, args| size(lua, &args))?)?;
    Ok(table)
}

/// A format that is read from left to right.
struct Format<'a> {
    rest: &'a [u8],
    is_big: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(format: &'a [u8]) -> Self {
        Self {
            rest: until_nul(format),
            is_big: cfg!(target_endian = "big"),
            align: 1,
        }
    }

    /// The next option, and how many bytes it takes.
    fn next(&mut self, lua: &Lua) -> Result<Option<(u8, usize)>, Raised> {
        let Some((option, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'f' => 4,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'c' => self.number(lua, 1)?,
            b'i' | b'I' => {
                let size = self.number(lua, 4)?;
                if size > 32 {
                    let text = format!("integral size {size} is larger than limit of 32");
                    return Err(Raised::located(lua, &text));
                }
                size
            }
            _ => 0,
        };
        Ok(Some((*option, size)))
    }

    fn number(&mut self, lua: &Lua, otherwise: usize) -> Result<usize, Raised> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(digits.count());
        self.rest = rest;
        if digits.is_empty() {
            return Ok(otherwise);
        }
        let number = std::str::from_utf8(digits).ok();
        let number: Option<i32> = number.and_then(|digits| digits.parse().ok());
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| Raised::located(lua, "integral size overflow"))
    }

    /// How many bytes come before a part, as it may have to begin at a multiple of its size.
    fn padding(&self, at: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        size.wrapping_sub(at & (size - 1)) & (size - 1)
    }

    /// An option that changes how others are read.
    fn control(&mut self, lua: &Lua, option: u8) -> Result<(), Raised> {
        match option {
            b' ' => {}
            b'>' => self.is_big = true,
            b'<' => self.is_big = false,
            b'!' => {
                let align = self.number(lua, 8)?;
                if !align.is_power_of_two() {
                    let text = format!("alignment {align} is not a power of 2");
                    return Err(Raised::located(lua, &text));
                }
                self.align = align;
            }
            _ => {
                let option = char::from(option);
                let text = format!("invalid format option '{option}'");
                return Err(Raised::argument(lua, 1, &text));
            }
        }
        Ok(())
    }
}

fn pack(lua: &Lua, args: &MultiValue) -> mlua::Result<LuaString> {
    let format = text_at(lua, args, 1, None)?;
    let mut format = Format::new(&format);
    // Redis puts a nil behind the arguments.
    let last = Some(&Value::Nil);
    let mut out = Vec::new();
    let mut arg = 2;
    while let Some((option, size)) = format.next(lua)? {
        let padding = format.padding(out.len(), option, size);
        out.resize(out.len() + padding, 0);
        let number = |n: usize| {
            let value = args.get(n - 1).or(last);
            let number = self::number(lua, value)?;
            number.ok_or_else(|| Error::from(Raised::expected(lua, n, "number", value)))
        };
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let value = whole(number(arg)?);
                arg += 1;
                // Of more than eight bytes, the first ones are zero, also for a negative number.
                let mut bytes = [0; 32];
                let (low, _) = bytes.split_at_mut(8);
                low.copy_from_slice(&value.to_le_bytes());
                put(&mut out, bytes.get_mut(..size), format.is_big);
            }
            b'x' => out.push(0),
            b'f' => {
                #[allow(clippy::cast_possible_truncation, reason = "as in C")]
                let value = number(arg)? as f32;
                arg += 1;
                put(&mut out, Some(&mut value.to_le_bytes()), format.is_big);
            }
            b'd' => {
                let value = number(arg)?;
                arg += 1;
                put(&mut out, Some(&mut value.to_le_bytes()), format.is_big);
            }
            b'c' | b's' => {
                let text = text_at(lua, args, arg, last)?;
                arg += 1;
                let size = if size == 0 { text.len() } else { size };
                let Some(part) = text.get(..size) else {
                    return Err(Raised::argument(lua, arg, "string too short").into());
                };
                out.extend_from_slice(part);
                if option == b's' {
                    out.push(0);
                }
            }
            _ => format.control(lua, option)?,
        }
    }
    lua.create_string(out)
}

/// Adds bytes that come with the lowest one first.
fn put(out: &mut Vec<u8>, bytes: Option<&mut [u8]>, is_big: bool) {
    let bytes = bytes.unwrap_or_default();
    if is_big {
        bytes.reverse();
    }
    out.extend_from_slice(bytes);
}

fn unpack(lua: &Lua, args: &MultiValue) -> mlua::Result<MultiValue> {
    let format = text_at(lua, args, 1, None)?;
    let mut format = Format::new(&format);
    let data = text_at(lua, args, 2, None)?;
    let at = match args.get(2) {
        None | Some(Value::Nil) => 1,
        value => {
            let number = number(lua, value)?;
            truncated(number.ok_or_else(|| Raised::expected(lua, 3, "number", value))?)
        }
    };
    if at == 0 {
        return Err(Raised::argument(lua, 3, "offset must be 1 or greater").into());
    }
    let too_short = |lua| Raised::argument(lua, 2, "data string too short");
    // A negative one is beyond any data, as in C.
    let mut at = usize::try_from(at).map_or(usize::MAX, |at| at - 1);
    let mut values = Vec::new();
    while let Some((option, size)) = format.next(lua)? {
        at = at.saturating_add(format.padding(at, option, size));
        let rest = data.get(at..).unwrap_or_default();
        let part = rest.get(..size).filter(|_| at <= data.len());
        let part = part.ok_or_else(|| too_short(lua))?;
        let mut used = size;
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let value = integer(part, format.is_big, option.is_ascii_lowercase());
                values.push(Value::Number(value));
            }
            b'x' => {}
            b'f' => {
                let mut bytes = <[u8; 4]>::try_from(part).unwrap_or_default();
                if format.is_big {
                    bytes.reverse();
                }
                values.push(Value::Number(f64::from(f32::from_le_bytes(bytes))));
            }
            b'd' => {
                let mut bytes = <[u8; 8]>::try_from(part).unwrap_or_default();
                if format.is_big {
                    bytes.reverse();
                }
                values.push(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' if size == 0 => {
                let Some(length) = number(lua, values.last())? else {
                    let text = "format 'c0' needs a previous size";
                    return Err(Raised::located(lua, text).into());
                };
                values.pop();
                used = usize::try_from(unsigned(length)).unwrap_or(usize::MAX);
                let part = rest.get(..used).ok_or_else(|| too_short(lua))?;
                values.push(Value::String(lua.create_string(part)?));
            }
            b'c' => values.push(Value::String(lua.create_string(part)?)),
            b's' => {
                let text = until_nul(rest);
                if text.len() == rest.len() {
                    return Err(Raised::located(lua, "unfinished string in data").into());
                }
                used = text.len() + 1;
                values.push(Value::String(lua.create_string(text)?));
            }
            _ => format.control(lua, option)?,
        }
        at += used;
    }
    // A place beyond the data that no part has asked for is only counted on.
    #[allow(clippy::cast_possible_wrap, reason = "as in C")]
    values.push(Value::Integer(at.wrapping_add(1) as i64));
    Ok(MultiValue::from_vec(values))
}

fn size(lua: &Lua, args: &MultiValue) -> mlua::Result<usize> {
    let format = text_at(lua, args, 1, None)?;
    let mut format = Format::new(&format);
    let mut at: usize = 0;
    while let Some((option, size)) = format.next(lua)? {
        at += format.padding(at, option, size);
        if option == b's' {
            return Err(Raised::argument(lua, 1, "option 's' has no fixed size").into());
        }
        if option == b'c' && size == 0 {
            return Err(Raised::argument(lua, 1, "option 'c0' has no fixed size").into());
        }
        if !option.is_ascii_alphanumeric() {
            format.control(lua, option)?;
        }
        at += size;
    }
    Ok(at)
}

/// A whole number in bytes. Lua has only doubles: from 2^53 on it is rounded.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "as in C"
)]
fn integer(bytes: &[u8], is_big: bool, is_signed: bool) -> f64 {
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    let value = if is_big {
        bytes.iter().fold(0, add)
    } else {
        bytes.iter().rev().fold(0, add)
    };
    if !is_signed {
        return value as f64;
    }
    #[allow(clippy::cast_possible_truncation, reason = "there are at most 32")]
    let sign = u64::MAX.wrapping_shl((bytes.len() as u32 * 8).wrapping_sub(1));
    let value = if value & sign == 0 {
        value
    } else {
        value | sign
    };
    value as i64 as f64
}

/// The bits that Redis packs for a number, as x86 converts it: one that does not fit becomes 2^63 if it is negative or
/// not a number, and 0 otherwise.
#[allow(clippy::cast_sign_loss, reason = "as in C")]
fn whole(n: f64) -> u64 {
    if n < 0.0 {
        truncated(n) as u64
    } else {
        unsigned(n)
    }
}

#[allow(clippy::cast_sign_loss, reason = "as in C")]
fn unsigned(n: f64) -> u64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    if n >= HALF {
        truncated(n - HALF) as u64 ^ 1 << 63
    } else {
        truncated(n) as u64
    }
}

/// A double without its fraction, as x86 converts it: -2^63 if that does not fit.
#[allow(clippy::cast_possible_truncation, reason = "as in C")]
fn truncated(n: f64) -> i64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    if (-HALF..HALF).contains(&n) {
        n as i64
    } else {
        i64::MIN
    }
}

/// A whole number of Lua, which was a double.
#[allow(clippy::cast_precision_loss, reason = "it was a double")]
fn exact(n: i64) -> f64 {
    n as f64
}

/// A number as C writes it with `%.17g`.
fn general(n: f64) -> String {
    let sign = if n.is_sign_negative() { "-" } else { "" };
    if n.is_nan() {
        return format!("{sign}nan");
    }
    if n.is_infinite() {
        return format!("{sign}inf");
    }
    if n == 0.0 {
        return format!("{sign}0");
    }
    if n.abs() < 1e15 && n.fract() == 0.0 {
        return truncated(n).to_string();
    }
    let text = format!("{:.16e}", n.abs());
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = digits.replace('.', "");
    let digits = digits.trim_end_matches('0');
    if !(-4..17).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let minus = if exponent < 0 { '-' } else { '+' };
        let exponent = exponent.abs();
        return format!("{sign}{first}{point}{rest}e{minus}{exponent:02}");
    }
    let Ok(before) = usize::try_from(exponent + 1) else {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    };
    match digits.split_at_checked(before) {
        Some((whole, "")) => format!("{sign}{whole}"),
        Some(("", part)) => format!("{sign}0.{part}"),
        Some((whole, part)) => format!("{sign}{whole}.{part}"),
        None => format!("{sign}{digits:0<before$}"),
    }
}

/// The number that a value is, or that its text says.
fn number(lua: &Lua, value: Option<&Value>) -> mlua::Result<Option<f64>> {
    match value {
        Some(Value::Integer(n)) => Ok(Some(exact(*n))),
        Some(Value::Number(n)) => Ok(Some(*n)),
        Some(Value::String(text)) => lua.coerce_number(Value::String(text.clone())),
        _ => Ok(None),
    }
}

/// The text of a value that is a string or a number.
fn bytes(lua: &Lua, value: Option<&Value>) -> mlua::Result<Option<Vec<u8>>> {
    match value {
        Some(Value::String(text)) => Ok(Some(text.as_bytes().to_vec())),
        Some(value @ (Value::Integer(_) | Value::Number(_))) => {
            let text = lua.coerce_string(value.clone())?;
            Ok(text.map(|text| text.as_bytes().to_vec()))
        }
        _ => Ok(None),
    }
}

/// An argument that must be a text, where `last` stands behind all of them.
fn text_at(lua: &Lua, args: &MultiValue, n: usize, last: Option<&Value>) -> mlua::Result<Vec<u8>> {
    let value = args.get(n - 1).or(last);
    let text = bytes(lua, value)?;
    text.ok_or_else(|| Raised::expected(lua, n, "string", value).into())
}

/// A text as C reads it.
fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn c_text(text: &LuaString) -> String {
    String::from_utf8_lossy(until_nul(&text.as_bytes())).into_owned()
}

/// An error as Redis keeps it for scripts: each has a code.
fn with_code(text: &[u8]) -> Vec<u8> {
    let (code, text) = match text.iter().position(|byte| *byte == b' ') {
        Some(end) => (text.get(..end), text.get(end + 1..)),
        None => (Some(&b"ERR"[..]), Some(text)),
    };
    let mut text = text.unwrap_or_default();
    while let Some(trimmed) = (text.strip_prefix(b"\r"))
        .or_else(|| text.strip_prefix(b"\n"))
        .or_else(|| text.strip_suffix(b"\r"))
        .or_else(|| text.strip_suffix(b"\n"))
    {
        text = trimmed;
    }
    [code.unwrap_or_default(), b" ", text].concat()
}

/// A line is all that a status or an error has.
fn on_one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn failure(text: &str) -> Reply {
    let text = text.trim_end_matches(['\r', '\n']);
    Reply::Error(format!("ERR {}", on_one_line(text)))
}

fn uncompiled(text: &str) -> Reply {
    failure(&format!("Error compiling script (new function): {text}"))
}

fn sha1hex(text: &[u8]) -> String {
    let mut hex = String::with_capacity(40);
    for byte in Sha1::digest(text) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
