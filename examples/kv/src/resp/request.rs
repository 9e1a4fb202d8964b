//! From what a client sent to what it means.

use bytes::Bytes;

use super::{
    Args, Reply,
    read::{Read, Scan},
};
use crate::{
    command::{Answer, Command, Condition, parse_integer},
    encoding,
};

/// What a request means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meaning {
    /// A command for the log, as the bytes that will stand there.
    Write(Bytes),
    /// A question about the map.
    Read(Read),
    /// Something between this connection and its client only.
    Local(Local),
    /// Nothing: the request is wrong, and this says how.
    Wrong(Reply),
}

/// The commands that concern only the connection or the server that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Auth,
    Client,
    Command,
    Config,
    Discard,
    Echo,
    Exec,
    Forwarded,
    Hello,
    Info,
    Multi,
    Ping,
    Quit,
    Reset,
    Select,
}

/// How the arguments of a command become its meaning.
type Build = fn(&[Bytes]) -> Result<Meaning, Reply>;

/// A command that is understood.
pub(crate) struct Spec {
    /// Its name in lower case.
    pub(crate) name: &'static str,
    /// How many words it has with its name; negative: at least so many. As in Redis.
    pub(crate) arity: isize,
    /// Which words are keys: the first, the last (negative: counted from the end), and how far it is from
    /// one to the next. As in Redis.
    pub(crate) keys: [i64; 3],
    /// What it is like, in the words of Redis: flags, and categories with an @.
    traits: &'static str,
    build: Build,
}

/// No word of it is a key.
const NONE: [i64; 3] = [0, 0, 0];
/// The first word is one.
const ONE: [i64; 3] = [1, 1, 1];
/// All words are.
const ALL: [i64; 3] = [1, -1, 1];
/// Every other word is.
const PAIRS: [i64; 3] = [1, -1, 2];
/// The traits of what is understood and not there to be used.
const INTERNAL: &str = "";

const fn spec(
    name: &'static str,
    arity: isize,
    keys: [i64; 3],
    traits: &'static str,
    build: Build,
) -> Spec {
    Spec { name, arity, keys, traits, build }
}

impl Spec {
    /// For instance `write` and `fast`.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.traits.split(' ').filter(|word| !word.starts_with('@'))
    }

    /// For instance `@write` and `@string`: those that follow from the flags, and the others.
    pub(crate) fn categories(&self) -> impl Iterator<Item = &'static str> {
        let has = |flag| self.flags().any(|word| word == flag);
        let derived = [
            has("write").then_some("@write"),
            has("readonly").then_some("@read"),
            Some(if has("fast") { "@fast" } else { "@slow" }),
        ];
        let named = self.traits.split(' ').filter(|word| word.starts_with('@'));
        named.chain(derived.into_iter().flatten())
    }
}

/// Every command, ordered by name.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("append", 3, ONE, "write denyoom fast @string", |a| {
        write(&Command::Append { key: &a[1], tail: &a[2] })
    }),
    spec("auth", -2, NONE, "noscript loading stale fast no_auth allow_busy @connection", |_| {
        Ok(Meaning::Local(Local::Auth))
    }),
    spec("client", -2, NONE, "@connection", |_| Ok(Meaning::Local(Local::Client))),
    spec("command", -1, NONE, "loading stale @connection", |_| Ok(Meaning::Local(Local::Command))),
    spec("config", -2, NONE, "@admin", |_| Ok(Meaning::Local(Local::Config))),
    spec("dbsize", 1, NONE, "readonly fast @keyspace", |_| Ok(Meaning::Read(Read::DbSize))),
    spec("decr", 2, ONE, "write denyoom fast @string", |a| {
        write(&Command::IncrBy { key: &a[1], by: -1 })
    }),
    spec("decrby", 3, ONE, "write denyoom fast @string", decrby),
    spec("del", -2, ALL, "write @keyspace", |a| write(&Command::Del { keys: borrowed(&a[1..]) })),
    spec("discard", 1, NONE, INTERNAL, |_| Ok(Meaning::Local(Local::Discard))),
    spec("echo", 2, NONE, "loading stale fast @connection", |_| Ok(Meaning::Local(Local::Echo))),
    spec("exec", 1, NONE, INTERNAL, |_| Ok(Meaning::Local(Local::Exec))),
    spec("exists", -2, ALL, "readonly fast @keyspace", |a| {
        Ok(Meaning::Read(Read::Exists(a[1..].to_vec())))
    }),
    spec("flushall", -1, NONE, "write @keyspace @dangerous", flush),
    spec("flushdb", -1, NONE, "write @keyspace @dangerous", flush),
    spec("get", 2, ONE, "readonly fast @string", |a| Ok(Meaning::Read(Read::Get(a[1].clone())))),
    spec("getset", 3, ONE, "write denyoom fast @string", |a| {
        set(&a[1], &a[2], Condition::Always, Answer::Previous)
    }),
    spec("hello", -1, NONE, "noscript loading stale fast no_auth allow_busy @connection", |_| {
        Ok(Meaning::Local(Local::Hello))
    }),
    spec("incr", 2, ONE, "write denyoom fast @string", |a| {
        write(&Command::IncrBy { key: &a[1], by: 1 })
    }),
    spec("incrby", 3, ONE, "write denyoom fast @string", |a| {
        write(&Command::IncrBy { key: &a[1], by: integer(&a[2])? })
    }),
    spec("info", -1, NONE, "loading stale @dangerous", |_| Ok(Meaning::Local(Local::Info))),
    spec("mget", -2, ALL, "readonly fast @string", |a| {
        Ok(Meaning::Read(Read::Mget(a[1..].to_vec())))
    }),
    spec("mset", -3, PAIRS, "write denyoom @string", mset),
    spec("multi", 1, NONE, INTERNAL, |_| Ok(Meaning::Local(Local::Multi))),
    spec("ping", -1, NONE, "fast @connection", |_| Ok(Meaning::Local(Local::Ping))),
    spec("pttl", 2, ONE, "readonly fast @keyspace", |a| Ok(Meaning::Read(Read::Ttl(a[1].clone())))),
    spec("quit", -1, NONE, "noscript loading stale fast no_auth allow_busy @connection", |_| {
        Ok(Meaning::Local(Local::Quit))
    }),
    spec("raft.announce", 4, NONE, INTERNAL, announce),
    spec("raft.forwarded", 2, NONE, INTERNAL, |_| Ok(Meaning::Local(Local::Forwarded))),
    spec("reset", 1, NONE, "noscript loading stale fast no_auth allow_busy @connection", |_| {
        Ok(Meaning::Local(Local::Reset))
    }),
    spec("scan", -2, NONE, "readonly @keyspace", scan),
    spec("select", 2, NONE, "loading stale fast @connection", |_| {
        Ok(Meaning::Local(Local::Select))
    }),
    spec("set", -3, ONE, "write denyoom @string", set_with_options),
    spec("setnx", 3, ONE, "write denyoom fast @string", |a| {
        set(&a[1], &a[2], Condition::Absent, Answer::Flag)
    }),
    spec("strlen", 2, ONE, "readonly fast @string", |a| {
        Ok(Meaning::Read(Read::Strlen(a[1].clone())))
    }),
    spec("ttl", 2, ONE, "readonly fast @keyspace", |a| Ok(Meaning::Read(Read::Ttl(a[1].clone())))),
    spec("type", 2, ONE, "readonly fast @keyspace", |a| {
        Ok(Meaning::Read(Read::Type(a[1].clone())))
    }),
    spec("unlink", -2, ALL, "write fast @keyspace", |a| {
        write(&Command::Del { keys: borrowed(&a[1..]) })
    }),
];

/// The commands for clients. The others are what servers say to each other, and what is refused by name.
pub(crate) fn public() -> impl Iterator<Item = &'static Spec> {
    COMMANDS.iter().filter(|spec| is_public(spec))
}

/// The command for clients of this name, in any case.
pub(crate) fn find_public(name: &[u8]) -> Option<&'static Spec> {
    find(name).filter(|spec| is_public(spec))
}

fn is_public(spec: &Spec) -> bool {
    spec.traits != INTERNAL
}

/// Finds out what a request means.
pub(crate) fn meaning(args: &Args) -> Meaning {
    let name = args.first().map_or(&[][..], |name| name);
    let Some(spec) = find(name) else { return Meaning::Wrong(unknown(name, args)) };
    let words = args.len() as isize;
    if words != spec.arity && (0 <= spec.arity || words < -spec.arity) {
        return Meaning::Wrong(wrong_arity(spec.name));
    }
    (spec.build)(args).unwrap_or_else(Meaning::Wrong)
}

/// The command of this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    let order = |spec: &Spec| spec.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase));
    COMMANDS.binary_search_by(order).ok().map(|position| &COMMANDS[position])
}

pub(crate) fn wrong_arity(name: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{name}' command"))
}

/// In the words of Redis, which clients take apart.
fn unknown(name: &[u8], args: &Args) -> Reply {
    const QUOTED_BYTES: usize = 128;
    let quote = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_BYTES)]).into_owned();
        format!("'{text}' ")
    };
    let mut beginning = String::new();
    for arg in args.iter().skip(1) {
        if QUOTED_BYTES <= beginning.len() {
            break;
        }
        beginning += &quote(arg);
    }
    let name = quote(name);
    let name = name.trim_end();
    Reply::error(format!("ERR unknown command {name}, with args beginning with: {beginning}"))
}

fn write(command: &Command<'_>) -> Result<Meaning, Reply> {
    Ok(Meaning::Write(encoding::encode(command).into()))
}

fn borrowed(args: &[Bytes]) -> Vec<&[u8]> {
    args.iter().map(|arg| &arg[..]).collect()
}

fn integer(arg: &[u8]) -> Result<i64, Reply> {
    parse_integer(arg).ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))
}

fn syntax_error() -> Reply {
    Reply::error("ERR syntax error")
}

fn decrby(args: &[Bytes]) -> Result<Meaning, Reply> {
    let by = integer(&args[2])?.checked_neg();
    let by = by.ok_or_else(|| Reply::error("ERR decrement would overflow"))?;
    write(&Command::IncrBy { key: &args[1], by })
}

fn mset(args: &[Bytes]) -> Result<Meaning, Reply> {
    let (pairs, []) = args[1..].as_chunks::<2>() else { return Err(wrong_arity("mset")) };
    let pairs = pairs.iter().map(|[key, value]| (&key[..], &value[..])).collect();
    write(&Command::Mset { pairs })
}

fn flush(args: &[Bytes]) -> Result<Meaning, Reply> {
    match &args[1..] {
        [] => write(&Command::FlushAll),
        [mode] if [&b"sync"[..], b"async"].iter().any(|m| mode.eq_ignore_ascii_case(m)) => {
            write(&Command::FlushAll)
        }
        _ => Err(syntax_error()),
    }
}

fn announce(args: &[Bytes]) -> Result<Meaning, Reply> {
    let text = |arg| {
        std::str::from_utf8(arg).map_err(|_| Reply::error("ERR an announcement must be UTF-8"))
    };
    write(&Command::Announce { id: text(&args[1])?, resp: text(&args[2])?, http: text(&args[3])? })
}

fn set(key: &[u8], value: &[u8], condition: Condition, answer: Answer) -> Result<Meaning, Reply> {
    write(&Command::Set { key, value, condition, answer })
}

fn set_with_options(args: &[Bytes]) -> Result<Meaning, Reply> {
    let (mut condition, mut answer) = (Condition::Always, Answer::Status);
    for option in &args[3..] {
        match &option.to_ascii_lowercase()[..] {
            b"nx" if condition != Condition::Present => condition = Condition::Absent,
            b"xx" if condition != Condition::Absent => condition = Condition::Present,
            b"get" => answer = Answer::Previous,
            b"ex" | b"px" | b"exat" | b"pxat" | b"keepttl" => {
                let option = String::from_utf8_lossy(option).to_uppercase();
                return Err(Reply::error(format!(
                    "ERR option {option} is not supported: keys do not expire here"
                )));
            }
            _ => return Err(syntax_error()),
        }
    }
    set(&args[1], &args[2], condition, answer)
}

fn scan(args: &[Bytes]) -> Result<Meaning, Reply> {
    const DEFAULT_COUNT: usize = 10;
    /// One page is answered while nothing is applied, so it must not be endless.
    const MAX_COUNT: usize = 10_000;
    let cursor = std::str::from_utf8(&args[1]).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or_else(|| Reply::error("ERR invalid cursor"))?;
    let mut scan = Scan { cursor, count: DEFAULT_COUNT, pattern: None, nothing: false };
    let (options, []) = args[2..].as_chunks::<2>() else { return Err(syntax_error()) };
    for [option, value] in options {
        match &option.to_ascii_lowercase()[..] {
            b"match" => scan.pattern = Some(value.clone()),
            b"count" => {
                let count = usize::try_from(integer(value)?).ok().filter(|count| 0 < *count);
                scan.count = count.ok_or_else(syntax_error)?.min(MAX_COUNT);
            }
            b"type" => scan.nothing = !value.eq_ignore_ascii_case(b"string"),
            _ => return Err(syntax_error()),
        }
    }
    Ok(Meaning::Read(Read::Scan(scan)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Meaning {
        meaning(&line.split(' ').map(|word| Bytes::from(word.to_owned())).collect())
    }

    fn command(line: &str) -> Command<'static> {
        let Meaning::Write(bytes) = request(line) else { panic!("{line}: {:?}", request(line)) };
        encoding::decode(Vec::leak(bytes.to_vec())).unwrap()
    }

    fn wrong(line: &str) -> String {
        match request(line) {
            Meaning::Wrong(Reply::Error(text)) => text.into_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(COMMANDS.iter().all(|spec| find(spec.name.to_uppercase().as_bytes()).is_some()));
    }

    #[test]
    fn a_wrong_number_of_words_is_told_in_the_words_of_redis() {
        let text = "ERR wrong number of arguments for 'get' command";
        assert_eq!(wrong("GET"), text);
        assert_eq!(wrong("gEt a b"), text);
        assert_eq!(wrong("mset a 1 b"), "ERR wrong number of arguments for 'mset' command");
        assert_eq!(wrong("del"), "ERR wrong number of arguments for 'del' command");
        let unknown = "ERR unknown command 'lpush', with args beginning with: 'l' 'x' ";
        assert_eq!(wrong("lpush l x"), unknown);
    }

    #[test]
    fn set_and_its_options() {
        let set = |condition, answer| Command::Set { key: b"k", value: b"v", condition, answer };
        assert_eq!(command("SET k v"), set(Condition::Always, Answer::Status));
        assert_eq!(command("set k v nx"), set(Condition::Absent, Answer::Status));
        assert_eq!(command("set k v GET XX"), set(Condition::Present, Answer::Previous));
        assert_eq!(command("setnx k v"), set(Condition::Absent, Answer::Flag));
        assert_eq!(command("getset k v"), set(Condition::Always, Answer::Previous));
        assert_eq!(wrong("set k v nx xx"), "ERR syntax error");
        assert_eq!(wrong("set k v soon"), "ERR syntax error");
        let expiry = "ERR option EX is not supported: keys do not expire here";
        assert_eq!(wrong("set k v ex 10"), expiry);
    }

    #[test]
    fn counting_and_its_limits() {
        assert_eq!(command("decr n"), Command::IncrBy { key: b"n", by: -1 });
        assert_eq!(command("decrby n -5"), Command::IncrBy { key: b"n", by: 5 });
        assert_eq!(wrong("incrby n 1.5"), "ERR value is not an integer or out of range");
        assert_eq!(wrong("decrby n -9223372036854775808"), "ERR decrement would overflow");
    }

    #[test]
    fn scan_and_its_options() {
        let Meaning::Read(Read::Scan(scan)) = request("scan 18446744073709551615 count 5 match a*")
        else {
            panic!("no scan")
        };
        assert_eq!((scan.cursor, scan.count), (u64::MAX, 5));
        assert_eq!(scan.pattern.as_deref(), Some(&b"a*"[..]));
        assert_eq!(wrong("scan x"), "ERR invalid cursor");
        assert_eq!(wrong("scan 0 count"), "ERR syntax error");
        assert_eq!(wrong("scan 0 count 0"), "ERR syntax error");
        assert_eq!(wrong("scan 0 count x"), "ERR value is not an integer or out of range");
        assert_eq!(wrong("scan 0 limit 1"), "ERR syntax error");
    }

    #[test]
    fn flush_takes_the_two_modes_of_redis() {
        assert_eq!(command("flushall"), Command::FlushAll);
        assert_eq!(command("flushdb async"), Command::FlushAll);
        assert_eq!(wrong("flushdb soon"), "ERR syntax error");
    }
}
