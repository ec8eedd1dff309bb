//! Lua scripts on the simulated Redis and on a real one, `redis-server` or the one that `LARDER_REDIS` names: short ones
//! that show one thing each, and those of the crate. They answer alike, and leave the same behind.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test"
)]

mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use fastrand::Rng;
use larder::l2::deadpool_redis::redis::cmd;
use simulated_redis::{Direct, Reply};

use crate::real::{RedisServer, compared, request, seeds, texts};

/// Random numbers that are packed, and random calls of the crate's scripts, of a seed.
const PACKS: usize = 500;
const CALLS: usize = 1000;

/// Scripts of one line.
const LINES: &str = r"
return redis.call('GET','list')
error('text')
error('text',0)
error('text',2)
error({err='PARTITIONS 3 x'})
error({err='NOSPACE'})
error()
error(3)
error(true)
return {err='a'}
return {err=''}
return {err='WRONG \255'}
return {ok='a\nb'}
return {ok='\255'}
x=1
return x
local a=nil; return a.b
return nofn()
return redis.call()
return redis.call({})
return redis.call('GET',nil)
return redis.pcall('GET',nil)
return redis.pcall()
return redis.call('GET')
return redis.pcall('GET','list')
return redis.pcall('GET','list').err
return redis.pcall('XADD',KEYS[1],'0-0','f','v')
return redis.call('PEXPIRE',KEYS[1],1.5)
return redis.call('SUBSCRIBE','x')
return redis.call('GET','\255\254')
return redis.call('PING')
return redis.call('TYPE','list').ok
return redis.call('SET','k','v')
return {redis.call('SET','k','v'),redis.call('GET','nokey'),redis.call('PING')}
return type(redis.call('GET','nokey'))
return redis.call('HGETALL','hash')
return redis.call('HMGET','hash','a','nofield','b')
return #redis.call('HMGET','hash','a','nofield','b')
return redis.call('XRANGE','stream','-','+')[1][2]
return {1,2,nil,3}
return {1.9,-1.9,1e15,2^53,true,false,'x',{1,{2,{}}}}
return 3.99
return -3.99
return 2^53
return true
return false
return nil
return
return ''
return {}
return function() end
return {function() end, 2}
return {{err='in err'},{ok='in ok'}}
return KEYS
return ARGV
return #KEYS..' '..#ARGV
return KEYS[3]
return {ARGV[1]+1, ARGV[1]..ARGV[4], tonumber(ARGV[2]), tonumber(ARGV[3])}
return unpack({1,2,3},2)
return unpack({},1,1e7)
return {pcall(function() error({err='X y'}) end)}
return {pcall(function() error('x') end)}
return {pcall(function() error('x', 0) end)}
return {pcall(function() error('x', 2) end)}
return {pcall(function() return redis.call('GET') end)}
return {pcall(function(a, b) return b, a end, 1, 2)}
return pcall(error,'x')
return {pcall(nil)}
local ok,e=pcall(redis.call,'GET') return e
local ok,e=pcall(redis.call,'GET','list') return e
local ok,e=pcall(redis.call,'GET','list') error(e)
local ok,e=pcall(redis.call,'GET','list') error({err=e..' (GET)'})
return redis.status_reply('FINE')
return redis.sha1hex('')
return redis.sha1hex('abc')
return redis.sha1hex(1.5)
string.foo=1
redis.foo=1
struct.foo=1
return redis.foo
KEYS[1]='b' return KEYS[1]
KEYS=1
ARGV=1
pcall=1
return print
return os
return io
return debug
return require
return struct.unpack('>I8','abc')
return {struct.unpack('>I2','12345678',3)}
return {struct.unpack('>I2','12345678',7)}
return {struct.unpack('>I2','12345678',8)}
return {struct.unpack('>I2','12345678',9)}
return {struct.unpack('>BI2B','1234')}
return {struct.unpack('>','')}
return struct.unpack('>I8','12345678',0)
return struct.unpack('>I8',{})
return struct.unpack('>I8',nil)
return struct.unpack('>I2',12)
return struct.pack('>I8')
return struct.pack('>I8','x')
return struct.pack('>I8','7')
return struct.pack('>I8I8',1,nil)
return struct.pack('>I8',{})
return struct.pack('>I8',false)
return struct.pack('>I3',2^40+7)
return struct.pack('>BI2I4I8',1,2,3,4,5)
return {pcall(function() return struct.pack('>I8','x') end)}
local function f(x) return struct.pack('>I8',x) end return f('x')
local function f() return f() + 1 end return f()
return string.rep('x',10):upper()
return ('x'):bad()
return nil .. 'x'
return 1 + {}
return 'x' + 1
return #nil
return {} < {}
return 1 < 'x'
if
return 'abc
x = = 1
for
goto x
table.sort({1,2,3},function(a,b) error('cmp') end)
string.gsub('abc','b',function() redis.call('GET') end)
string.gsub('abc','b',error)
string.sub()
local function f() redis.call('GET') end return f()
local function f() error('deep') end return f()
local function f() return redis.call('GET') end local x=f()
local function f() return redis.call('GET') end return f()
assert(false)
assert(false,'msg')
assert(nil,{err='A b'})
return tostring(nil)..tostring(1e15)..tostring(2^53)..tostring(0.1)
return string.format('%5.1f|%q|%s|%d|%x|%.0f',3.14159,'a\nb','x',5,255,2^53)
return {string.find('a.b','.',1,true)}
return {string.match('1:22:a','^(%d+):(%d+):(%x+)')}
return {math.max(1,3,2),math.min(3,1,2),math.floor(-1.5)}
return table.concat({1,2,'x'},',')
local t={3,1,2} table.insert(t,1,9) table.sort(t) return t
return tonumber('0x10')
return tonumber('1e3')
return tonumber(' 5 ')
return tonumber('5x')
return {select('#',1,nil,3), select(2,'a','b')}
local n=0 for _,v in ipairs({1,2,nil,4}) do n=n+v end return n
local n=0 for _,v in pairs({a=1,b=2}) do n=n+v end return n
return {next({}), next({7})}
error('\255x')
";

/// Whose lines matter.
const LONGER: &[&str] = &[
    "#!lua\nreturn 1",
    "#!lua flags=\nreturn 1",
    "#!lua flags=allow-oom\n\nerror('x')",
    "#!lua flags=allow-oom\n\nredis.call('GET', 'list')",
    "#!lua flags=allow-oom,allow-cross-slot-keys\nreturn 1",
    "#!lua flags=allow-oom,bad\nreturn 1",
    "#!lua flags=allow-oom, bad\nreturn 1",
    "#!lua name=x\nreturn 1",
    "#!js\nreturn 1",
    "#!\nreturn 1",
    "#!lua",
    "#! lua\nreturn 1",
    "#!luax\nreturn 1",
    "\n#!lua\nreturn 1",
    "",
    "return 1 -- \0",
    "return\n\nredis.call('lpush','a')\n",
    "local a\na.b=1",
    "\n\n  if x then\n",
    "local function f()\n  redis.call('GET',\n 'list')\nend\nlocal x = f()",
    "local function f()\n  return redis.call('GET', 'list')\nend\nreturn f()",
    "local function f(x)\n  error({err = 'PARTITIONS 3 is the number'})\nend\nf()",
    "local function f(x)\n  error('a', 2)\nend\nf()",
    "local function f(x)\n\n  return struct.pack('>I8', x)\nend\nreturn f('x')",
    "for i = 1, 3 do\n  local r = redis.pcall('GET', 'list')\n  if i == 3 then\n    error(r)\n  end\nend",
    "error({err = 'A b\\nc'})",
    "error({err = 'A b\\r\\n'})",
    "error({err = '\\nA b'})",
    "error('b\\nc')",
    "return {err = 'b\\nc'}",
    "return {ok = 'b\\nc'}",
    "local n = (ARGV[5] or 0) + 1\nreturn n",
];

#[tokio::test]
async fn scripts_answer_alike() {
    let server = RedisServer::start().await;
    if !is_7_0(&server).await {
        return;
    }
    let (simulated, connection) = compared(&server);
    let (keys, args) = (texts(&["k:1", "k:2"]), texts(&["7", "", "0x1f", "text"]));
    let lines = LINES.trim().lines();
    for script in lines.chain(LONGER.iter().copied()) {
        request(&connection, &["FLUSHALL"]);
        request(&connection, &["LPUSH", "list", "1", "2"]);
        request(&connection, &["HSET", "hash", "a", "1", "b", "2"]);
        request(&connection, &["XADD", "stream", "1-1", "f", "v"]);
        _ = call(&connection, &["EVAL", script], &keys, &args);
    }
    // The order of what scripts answer is not compared, as it may be that of a hash.
    let list = call(&connection, &["EVAL", "return {3, {2, 1}}"], &[], &[]);
    let inner = Reply::Array(vec![Reply::Integer(2), Reply::Integer(1)]);
    assert_eq!(list, Reply::Array(vec![Reply::Integer(3), inner]));
    assert!(simulated.compared() > 0);
}

#[tokio::test]
async fn scripts_are_found_by_their_hashes() {
    let server = RedisServer::start().await;
    let (simulated, connection) = compared(&server);
    let Reply::Bulk(sha) = request(&connection, &["SCRIPT", "LOAD", "return KEYS[1]"]) else {
        unreachable!("a hash is a text");
    };
    let sha = String::from_utf8(sha).unwrap();
    let none = "0".repeat(40);
    for sha in [&sha, &sha.to_uppercase(), &none] {
        request(&connection, &["EVALSHA", sha, "1", "key"]);
        request(&connection, &["EVALSHA_RO", sha, "1", "key"]);
        for keys in ["-1", "2", "x"] {
            request(&connection, &["EVALSHA", sha, keys, "key"]);
        }
    }
    request(&connection, &["SCRIPT", "EXISTS", &sha, &none]);
    request(&connection, &["SCRIPT", "LOAD", "if"]);
    let write = "return redis.call('SET', KEYS[1], 'x')";
    for script in [write, &format!("#!lua flags=allow-oom\n{write}")] {
        let Reply::Bulk(sha) = request(&connection, &["SCRIPT", "LOAD", script]) else {
            unreachable!("a hash is a text");
        };
        let sha = String::from_utf8(sha).unwrap();
        request(&connection, &["EVALSHA_RO", &sha, "1", "key"]);
    }
    request(&connection, &["SCRIPT", "FLUSH"]);
    request(&connection, &["EVALSHA", &sha, "0"]);
    assert!(simulated.compared() > 0);
}

#[tokio::test]
async fn a_command_that_is_not_there_fails_the_script() {
    let server = RedisServer::start().await;
    let (simulated, connection) = compared(&server);
    for script in [
        "return redis.call('nosuch')",
        "return redis.pcall('nosuch')",
    ] {
        _ = call(&connection, &["EVAL", script], &[], &[]);
    }
    assert_eq!(simulated.take_unknown(), ["nosuch", "nosuch"]);
}

#[tokio::test]
async fn numbers_are_packed_alike() {
    // One text, as the order of lists is not compared.
    const SCRIPT: &str = "
        local numbers, found = {}, {}
        for i = 3, #ARGV do
          numbers[#numbers + 1] = tonumber(ARGV[i])
          redis.call('SET', KEYS[1], numbers[#numbers])
          found[#found + 1] = redis.call('GET', KEYS[1])
        end
        local is_packed, bytes = pcall(function() return struct.pack(ARGV[1], unpack(numbers)) end)
        found[#found + 1] = bytes
        bytes = is_packed and bytes or 'abc'
        for _, value in ipairs({pcall(function() return struct.unpack(ARGV[2], bytes) end)}) do
          found[#found + 1] = type(value) == 'number' and string.format('%.17g', value) or tostring(value)
        end
        return {table.concat(found, ' '), unpack(numbers)}";
    const SPECIAL: [&str; 30] = [
        "0",
        "1",
        "255",
        "256",
        "65535",
        "65536",
        "4294967295",
        "4294967296",
        "999999999999999",
        "1e15",
        "1e16",
        "1e17",
        "123456789012345678",
        "9007199254740991",
        "9007199254740992",
        "9007199254740994",
        "9223372036854774784",
        "-1",
        "-2",
        "-129",
        "-9007199254740993",
        "-9223372036854775808",
        "0.5",
        "-0.5",
        "0.1",
        "-1.5",
        "1e-300",
        "0.0001",
        "0.00001",
        "123456.789",
    ];
    const OPTIONS: [&str; 9] = ["B", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"];
    let server = RedisServer::start().await;
    if !is_7_0(&server).await {
        return;
    }
    for seed in seeds().unwrap_or(0..2) {
        let (simulated, connection) = compared(&server);
        let mut rng = Rng::with_seed(seed);
        for round in 0..PACKS {
            let format = |rng: &mut Rng| {
                let many = rng.usize(1..7);
                let options = (0..many).map(|_| *rng.choice(OPTIONS.iter()).unwrap());
                format!(">{}", options.collect::<String>())
            };
            let packed = format(&mut rng);
            let unpacked = match round % 3 {
                0 => format(&mut rng),
                _ => packed.clone(),
            };
            let mut args = vec![packed, unpacked];
            args.extend((0..rng.u8(5..8)).map(|_| match rng.u8(..4) {
                0 => format!("{:e}", rng.f64() * 1e6),
                1 => (rng.u64(..1 << 63) >> rng.u8(..63)).to_string(),
                _ => (*rng.choice(SPECIAL.iter()).unwrap()).to_owned(),
            }));
            let args: Vec<_> = args.into_iter().map(String::into_bytes).collect();
            _ = call(&connection, &["EVAL", SCRIPT], &texts(&["key"]), &args);
        }
        assert!(simulated.compared() > 0);
    }
}

/// With keys and arguments by chance: many calls end with an error, in the same line. What they write is there for the
/// next ones.
#[tokio::test]
async fn scripts_of_the_crate_answer_alike() {
    let mut scripts = own_scripts();
    // It answers how much memory is used.
    scripts.remove("audit").unwrap();
    let server = RedisServer::start().await;
    for seed in seeds().unwrap_or(0..2) {
        let (simulated, connection) = compared(&server);
        let mut rng = Rng::with_seed(seed);
        let shas: Vec<_> = (scripts.iter())
            .map(|(name, text)| {
                let Reply::Bulk(sha) = request(&connection, &["SCRIPT", "LOAD", text]) else {
                    unreachable!("{name} has a hash");
                };
                (&**name, String::from_utf8(sha).unwrap())
            })
            .collect();
        let pool = pool();
        let (mut fine, mut failed) = (0, 0);
        for round in 0..CALLS {
            if round % 40 == 0 {
                request(&connection, &["FLUSHALL"]);
                let has_clocks = round % 80 == 0;
                for key in ["key:0", "key:1"].iter().filter(|_| has_clocks) {
                    let at = [&b"HSET"[..], key.as_bytes(), b"at", &numbers(&[7, 1, 2, 3])];
                    _ = connection.request(&at.map(<[u8]>::to_vec));
                }
            }
            let (name, sha) = rng.choice(&shas).unwrap();
            // The clock is among the first few keys, at a place that the script knows.
            let keys: Vec<_> = (0..rng.u8(4..11))
                .map(|_| format!("key:{}", rng.u8(..3)).into_bytes())
                .collect();
            let takes_flags = ["touch", "switch", "store_counts", "numbers"].contains(name);
            let args: Vec<_> = (0..12)
                .map(|_| match rng.u8(..4) {
                    // Not for others: a TTL of 1 ms would end at one time or another.
                    0 if takes_flags => b"1".to_vec(),
                    _ => rng.choice(&pool).unwrap().clone(),
                })
                .collect();
            match call(&connection, &["EVALSHA", sha], &keys, &args) {
                Reply::Error(_) => failed += 1,
                _ => fine += 1,
            }
        }
        assert!(fine > CALLS / 4 && failed > CALLS / 20, "{fine} {failed}");
        assert!(simulated.compared() > 0);
    }
}

/// Arguments that some script has at some place.
fn pool() -> Vec<Vec<u8>> {
    let mut pool = texts(&[
        "",
        "0",
        "60000",
        "3600000",
        "1700000000000",
        "5000000000000000",
        "*",
        "!",
        "~",
        "-",
        "+",
        "a",
        "channel",
        "channel!sharded",
        "json",
        "a b",
        "\u{4}",
    ]);
    pool.push(numbers(&[7, 1, 2, 3]));
    pool.push(numbers(&[60_000, 60_000, 0, 0, 120_000]));
    pool.push(numbers(&[7, 3]));
    pool.push(vec![0; 60]);
    pool.push([&[0; 44][..], &[b'x'; 30]].concat());
    pool
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// All scripts of the crate, by the names of their files. The tables of `lua!` in its sources say of which parts a script
/// is made.
fn own_scripts() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = Vec::new();
    add_sources(&root.join("src/l2/redis"), &mut sources);
    let part = |part: &str| {
        let folder = root.join("src/l2/redis/lua");
        let paths = ["parts", ""].map(|of| folder.join(of).join(format!("{part}.lua")));
        paths
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap()
    };
    let flags = |name: &str| {
        let constant = format!("const {name}: &str = \"");
        let mut values = sources.iter().filter_map(|source| {
            let (_, value) = source.split_once(&constant)?;
            Some(value.split_once('"')?.0)
        });
        values.next().unwrap().replace("\\n", "\n")
    };
    let mut scripts = BTreeMap::new();
    for source in &sources {
        let Some((_, table)) = source.split_once("\nlua! {") else {
            continue;
        };
        let (table, _) = table.split_once("\n}").unwrap();
        for script in table.split_terminator(';') {
            let (before, own) = script.split_once(']').unwrap();
            let (head, shared) = before.split_once('[').unwrap();
            let (_, head) = head.split_once(':').unwrap();
            let (head, own) = (head.trim(), own.trim());
            let shared: String = shared.split_whitespace().map(part).collect();
            scripts.insert(own.to_owned(), flags(head) + &shared + &part(own));
        }
    }
    scripts.insert(
        "other_languages".to_owned(),
        fs::read_to_string(root.join("examples/other_languages/invalidate.lua")).unwrap(),
    );
    assert!(scripts.len() > 30, "{:?}", scripts.keys());
    scripts
}

fn add_sources(folder: &Path, to: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(&path, to);
        } else if path.extension().is_some_and(|end| end == "rs") {
            to.push(fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether its Lua has the texts and the numbers of the simulated one: later releases write some otherwise.
async fn is_7_0(server: &RedisServer) -> bool {
    let info = cmd("INFO").arg("server").to_owned();
    let info: String = info
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
    let is_7_0 = info.contains("redis_version:7.0.");
    if !is_7_0 {
        eprintln!("skipped: it is not Redis 7.0");
    }
    is_7_0
}

/// Runs a script, by a command and its text or its hash.
fn call(connection: &Direct, script: &[&str], keys: &[Vec<u8>], args: &[Vec<u8>]) -> Reply {
    let many = keys.len().to_string().into_bytes();
    connection.request(&[&texts(script)[..], &[many], keys, args].concat())
}

/// A name that no part declares before its use is `nil` at the first call that comes by it, which may be a rare one.
#[test]
fn scripts_of_the_crate_declare_the_names_that_they_use() {
    let scripts = own_scripts();
    assert!(scripts.len() > 20, "{}", scripts.len());
    for (name, text) in &scripts {
        let undeclared = undeclared(text);
        assert!(undeclared.is_empty(), "{name}: {undeclared:?}");
    }
    assert_eq!(undeclared("local a = 1\nreturn a + b.c(d)"), ["b", "d"]);
    assert_eq!(
        undeclared("f()\nlocal function f(x) return {y = x} end"),
        ["f"]
    );
    assert_eq!(
        undeclared("for i, v in ipairs(KEYS) do redis.log(i, v, 'w') end"),
        [""; 0]
    );
    assert_eq!(undeclared("local t = {}; u = t.x -- w"), ["u"]);
}

/// The names that are used before they are declared, and are none of Redis or Lua.
fn undeclared(text: &str) -> Vec<String> {
    const GIVEN: &str = "redis struct string table math KEYS ARGV ipairs pairs next tonumber tostring type error pcall unpack select \
        and break do else elseif end false for function if in local nil not or repeat return then true until while";
    let mut declared: BTreeSet<String> = GIVEN.split_whitespace().map(str::to_owned).collect();
    let (mut missing, mut braces) = (Vec::new(), 0);
    let tokens = tokens(text);
    let mut declares = "";
    for (place, token) in tokens.iter().enumerate() {
        let before = place.checked_sub(1).map_or("", |before| &tokens[before]);
        let next = tokens.get(place + 1).map_or("", String::as_str);
        match token.as_str() {
            "{" => braces += 1,
            "}" => braces -= 1,
            "local" | "for" => declares = "names",
            "function" if before != "local" => declares = "parameters",
            "function" => declares = "name of a function",
            "=" | "in" | ")" => declares = "",
            name if !name.starts_with(|char: char| char.is_alphabetic() || char == '_') => {}
            name if before == "." || before == ":" => _ = name,
            name => match declares {
                "names" | "parameters" => {
                    declared.insert(name.to_owned());
                    // Without a value, the next statement begins.
                    if declares == "names" && !matches!(next, "," | "=" | "in") {
                        declares = "";
                    }
                }
                "name of a function" => {
                    declared.insert(name.to_owned());
                    declares = "parameters";
                }
                _ if braces > 0 && next == "=" => {}
                _ if declared.contains(name) || missing.iter().any(|other| other == name) => {}
                _ => missing.push(name.to_owned()),
            },
        }
    }
    missing
}

/// Names, and other characters each by itself, without comments and texts.
fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut chars) = (Vec::<String>::new(), text.chars().peekable());
    while let Some(char) = chars.next() {
        match char {
            '-' if chars.peek() == Some(&'-') => _ = chars.by_ref().find(|char| *char == '\n'),
            '#' if tokens.is_empty() => _ = chars.by_ref().find(|char| *char == '\n'),
            '\'' | '"' => {
                while let Some(next) = chars.next() {
                    match next {
                        '\\' => _ = chars.next(),
                        next if next == char => break,
                        _ => {}
                    }
                }
                tokens.push("''".to_owned());
            }
            '=' | '~' | '<' | '>' if chars.peek() == Some(&'=') => {
                chars.next();
                tokens.push("==".to_owned());
            }
            char if char.is_alphanumeric() || char == '_' => {
                let mut name = char.to_string();
                while let Some(more) = chars.next_if(|char| char.is_alphanumeric() || *char == '_')
                {
                    name.push(more);
                }
                tokens.push(name);
            }
            char if char.is_whitespace() => {}
            char => tokens.push(char.to_string()),
        }
    }
    tokens
}
