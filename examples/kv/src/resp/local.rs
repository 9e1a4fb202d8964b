//! The commands between a connection and its client, and those about this server alone.

use std::{collections::BTreeSet, mem, sync::atomic::Ordering};

use bytes::Bytes;

use super::{
    Args, Protocol, Reply, glob,
    request::{self, Local, Spec},
    session::{Refused, Session},
};
use crate::{command::parse_integer, route::Origin, server::Server};

/// The version of Redis whose behaviour is followed; clients decide by it what they may ask.
const REDIS_VERSION: &str = "7.4.0";

/// Answers a command that needs nobody else.
pub(crate) fn answer(session: &mut Session, command: Local, args: &Args) -> Reply {
    let rest = &args[1..];
    match command {
        Local::Ping => match rest {
            [] => Reply::Status("PONG".into()),
            [message] => Reply::Bulk(message.clone()),
            _ => request::wrong_arity("ping"),
        },
        Local::Echo => Reply::Bulk(args[1].clone()),
        Local::Quit => {
            session.quit = true;
            Reply::OK
        }
        Local::Reset => {
            session.protocol = Protocol::Resp2;
            session.refused = Refused::default();
            session.card.note(|state| {
                state.protocol = Protocol::Resp2;
                state.name.clear();
            });
            Reply::Status("RESET".into())
        }
        Local::Select => match parse_integer(&args[1]) {
            Some(0) => {
                session.refused.database = false;
                Reply::OK
            }
            number => {
                // What follows is not meant for this database.
                session.refused.database = true;
                Reply::error(match number {
                    Some(_) => "ERR DB index is out of range",
                    None => "ERR value is not an integer or out of range",
                })
            }
        },
        Local::Multi => {
            session.refused.transaction = true;
            Reply::error(
                "ERR unknown command 'MULTI': there are no transactions; nothing is carried out until \
                 EXEC, DISCARD or RESET",
            )
        }
        Local::Exec if mem::take(&mut session.refused.transaction) => {
            Reply::error("EXECABORT Transaction discarded because of previous errors.")
        }
        Local::Exec => Reply::error("ERR EXEC without MULTI"),
        Local::Discard if mem::take(&mut session.refused.transaction) => Reply::OK,
        Local::Discard => Reply::error("ERR DISCARD without MULTI"),
        Local::Auth => auth(rest).map_or_else(|refusal| refusal, |()| Reply::OK),
        Local::Forwarded => forwarded(session, &args[1]),
        Local::Hello => hello(session, rest).unwrap_or_else(|error| error),
        Local::Client => client(session, rest),
        Local::Command => command_info(rest),
        Local::Config => config(rest),
        Local::Info => info(session, rest),
    }
}

/// Another server passes requests on, taking us for the leader `name`.
fn forwarded(session: &mut Session, name: &[u8]) -> Reply {
    let server = &session.server;
    let id = server.node.id();
    let refusal = if id.as_str().as_bytes() == name {
        match server.places.server() {
            Some(place) => {
                session.place = place;
                session.origin = Origin::Server { refused: false };
                return Reply::OK;
            }
            None => format!(
                "ERR no place for one more connection of a server: the limit of open files is {}",
                server.places.descriptors()
            ),
        }
    } else {
        format!("ERR this is server {id}")
    };
    // What follows is not meant for us.
    session.quit = true;
    Reply::error(refusal)
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`
fn hello(session: &mut Session, args: &[Bytes]) -> Result<Reply, Reply> {
    let mut protocol = session.protocol;
    let mut name = None;
    if let [version, options @ ..] = args {
        protocol = match parse_integer(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(Reply::error("NOPROTO unsupported protocol version")),
            None => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Reply::error(text));
            }
        };
        name = hello_options(options)?;
    }
    session.protocol = protocol;
    session.card.note(|state| {
        state.protocol = protocol;
        state.name = name.unwrap_or_else(|| state.name.clone());
    });
    let word = |text: &str| Reply::bulk(text);
    Ok(Reply::Map(vec![
        (word("server"), word("redis")),
        (word("version"), word(REDIS_VERSION)),
        (word("proto"), Reply::Int(protocol.number())),
        (word("id"), client_id(session)),
        (word("mode"), word("standalone")),
        (word("role"), word("master")),
        (word("modules"), Reply::Array(vec![])),
    ]))
}

fn hello_options(mut options: &[Bytes]) -> Result<Option<String>, Reply> {
    let mut name = None;
    while let [option, rest @ ..] = options {
        options = match (&option.to_ascii_lowercase()[..], rest) {
            (b"auth", [user, password, rest @ ..]) => {
                auth(&[user.clone(), password.clone()])?;
                rest
            }
            (b"setname", [text, rest @ ..]) => {
                name = Some(client_name(text)?);
                rest
            }
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(Reply::error(format!("ERR Syntax error in HELLO option '{option}'")));
            }
        };
    }
    Ok(name)
}

/// There is one user, who has no password: any password will do.
fn auth(words: &[Bytes]) -> Result<(), Reply> {
    match words {
        [_] => Err(Reply::error(
            "ERR AUTH <password> called without any password configured for the default user. Are you \
             sure your configuration is correct?",
        )),
        [user, _] if **user == *b"default" => Ok(()),
        [_, _] => {
            Err(Reply::error("WRONGPASS invalid username-password pair or user is disabled."))
        }
        _ => Err(syntax_error()),
    }
}

fn client_id(session: &Session) -> Reply {
    Reply::Int(i64::try_from(session.card.id()).unwrap_or(i64::MAX))
}

fn client_name(text: &[u8]) -> Result<String, Reply> {
    client_text(text, "Client names")
}

/// A text that can stand in a line of `CLIENT LIST`.
fn client_text(text: &[u8], what: &str) -> Result<String, Reply> {
    let is_plain = text.iter().all(u8::is_ascii_graphic);
    let plain = std::str::from_utf8(text).ok().filter(|_| is_plain);
    plain.map(str::to_owned).ok_or_else(|| {
        let refusal = "cannot contain spaces, newlines or special characters.";
        Reply::error(format!("ERR {what} {refusal}"))
    })
}

fn client(session: &mut Session, args: &[Bytes]) -> Reply {
    let subcommand = args[0].to_ascii_lowercase();
    let name = String::from_utf8_lossy(&subcommand).into_owned();
    match (&subcommand[..], &args[1..]) {
        (b"setname", [name]) => match client_name(name) {
            Ok(name) => {
                session.card.note(|state| state.name = name);
                Reply::OK
            }
            Err(refusal) => refusal,
        },
        (b"getname", []) => match session.card.name() {
            name if name.is_empty() => Reply::Nil,
            name => Reply::bulk(name),
        },
        (b"setinfo", [what, text]) => client_info(session, what, text),
        (b"no-evict" | b"no-touch", [switch]) if is_one_of(switch, &["on", "off"]) => Reply::OK,
        (b"reply", [switch]) if is_one_of(switch, &["on"]) => Reply::OK,
        (b"reply", [switch]) if is_one_of(switch, &["off", "skip"]) => {
            // The client would take the answer to this for the one to what follows.
            session.quit = true;
            Reply::error(
                "ERR CLIENT REPLY OFF and SKIP are not supported: every request is answered",
            )
        }
        (b"no-evict" | b"no-touch" | b"reply", [_]) => syntax_error(),
        (b"id", []) => client_id(session),
        (b"info", []) => Reply::bulk(session.card.line()),
        (b"list", options) => client_list(session, options),
        (
            b"setname" | b"getname" | b"setinfo" | b"id" | b"info" | b"no-evict" | b"no-touch"
            | b"reply",
            _,
        ) => request::wrong_arity(&format!("client|{name}")),
        _ => unknown_subcommand("CLIENT", &args[0]),
    }
}

/// `CLIENT SETINFO lib-name|lib-ver text`
fn client_info(session: &Session, what: &[u8], text: &[u8]) -> Reply {
    let name = what.to_ascii_lowercase();
    let is_name = match &name[..] {
        b"lib-name" => true,
        b"lib-ver" => false,
        _ => {
            let what = String::from_utf8_lossy(what);
            return Reply::error(format!("ERR Unrecognized option '{what}'"));
        }
    };
    match client_text(text, if is_name { "lib-name" } else { "lib-ver" }) {
        Ok(text) => {
            session.card.note(|state| {
                *(if is_name { &mut state.library } else { &mut state.library_version }) = text;
            });
            Reply::OK
        }
        Err(refusal) => refusal,
    }
}

/// `CLIENT LIST [TYPE normal|master|replica|pubsub] [ID id …]`
fn client_list(session: &Session, options: &[Bytes]) -> Reply {
    let clients = &session.server.clients;
    match options {
        [] => Reply::bulk(clients.list(|_| true)),
        [word, kind] if is_one_of(word, &["type"]) => {
            if !is_one_of(kind, &["normal", "master", "replica", "slave", "pubsub"]) {
                let kind = String::from_utf8_lossy(kind);
                return Reply::error(format!("ERR Unknown client type '{kind}'"));
            }
            let is_normal = is_one_of(kind, &["normal"]);
            Reply::bulk(clients.list(|_| is_normal))
        }
        [word, ids @ ..] if is_one_of(word, &["id"]) && !ids.is_empty() => {
            let number = |id: &Bytes| parse_integer(id).and_then(|id| u64::try_from(id).ok());
            match ids.iter().map(number).collect::<Option<BTreeSet<_>>>() {
                Some(ids) => Reply::bulk(clients.list(|id| ids.contains(&id))),
                None => Reply::error("ERR Invalid client ID"),
            }
        }
        _ => syntax_error(),
    }
}

fn is_one_of(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes()))
}

fn syntax_error() -> Reply {
    Reply::error("ERR syntax error")
}

fn unknown_subcommand(command: &str, name: &[u8]) -> Reply {
    let name = String::from_utf8_lossy(name);
    Reply::error(format!("ERR unknown subcommand '{name}'. Try {command} HELP."))
}

/// What `COMMAND INFO` says of one.
fn command_entry(spec: &Spec) -> Reply {
    let arity = i64::try_from(spec.arity).unwrap_or(0);
    let words = |words: &mut dyn Iterator<Item = &'static str>| {
        Reply::Array(words.map(|word| Reply::Status(word.into())).collect())
    };
    let none = || Reply::Array(vec![]);
    let [first, last, step] = spec.keys.map(Reply::Int);
    Reply::Array(vec![
        Reply::bulk(spec.name),
        Reply::Int(arity),
        words(&mut spec.flags()),
        first,
        last,
        step,
        words(&mut spec.categories()),
        none(),
        none(),
        none(),
    ])
}

fn command_info(args: &[Bytes]) -> Reply {
    let Some((subcommand, names)) = args.split_first() else {
        return Reply::Array(request::public().map(command_entry).collect());
    };
    match (&subcommand.to_ascii_lowercase()[..], names) {
        (b"count", []) => Reply::count(request::public().count()),
        // Help for people; `redis-cli` does without.
        (b"docs", _) => Reply::Map(vec![]),
        (b"list", filter) => command_list(filter),
        (b"info", []) => Reply::Array(request::public().map(command_entry).collect()),
        (b"info", names) => {
            let found = names.iter().map(|name| request::find_public(name));
            let found = found.map(|spec| spec.map_or(Reply::Nil, command_entry));
            Reply::Array(found.collect())
        }
        (b"count", _) => request::wrong_arity("command|count"),
        _ => unknown_subcommand("COMMAND", subcommand),
    }
}

/// `COMMAND LIST [FILTERBY MODULE name|ACLCAT category|PATTERN pattern]`
fn command_list(filter: &[Bytes]) -> Reply {
    let (kind, text) = match filter {
        [] => (Bytes::new(), Bytes::new()),
        [word, kind, text] if is_one_of(word, &["filterby"]) => (kind.clone(), text.clone()),
        _ => return syntax_error(),
    };
    let text = text.to_ascii_lowercase();
    let is_wanted: &dyn Fn(&Spec) -> bool = match &kind.to_ascii_lowercase()[..] {
        b"" => &|_| true,
        b"pattern" => &|spec| glob::matches(&text, spec.name.as_bytes()),
        b"aclcat" => &|spec| spec.categories().any(|category| category.as_bytes()[1..] == *text),
        // There are none.
        b"module" => &|_| false,
        _ => return syntax_error(),
    };
    let found = request::public().filter(|spec| is_wanted(spec));
    Reply::Array(found.map(|spec| Reply::bulk(spec.name)).collect())
}

/// What benchmark tools want to know: nothing is saved on a schedule, everything is logged.
const SETTINGS: [(&str, &str); 4] =
    [("appendfsync", "always"), ("appendonly", "yes"), ("databases", "1"), ("save", "")];

fn config(args: &[Bytes]) -> Reply {
    match args {
        [get, patterns @ ..] if get.eq_ignore_ascii_case(b"get") && !patterns.is_empty() => {
            let asked = |name: &str| {
                let is_asked =
                    |pattern: &Bytes| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes());
                patterns.iter().any(is_asked)
            };
            let found = SETTINGS.iter().filter(|(name, _)| asked(name));
            Reply::Map(
                found.map(|(name, value)| (Reply::bulk(*name), Reply::bulk(*value))).collect(),
            )
        }
        [get] if get.eq_ignore_ascii_case(b"get") => request::wrong_arity("config|get"),
        [reset] if reset.eq_ignore_ascii_case(b"resetstat") => Reply::OK,
        [set, ..] if set.eq_ignore_ascii_case(b"set") => {
            Reply::error("ERR settings are flags of `kv serve` and cannot be changed here")
        }
        [name, ..] => unknown_subcommand("CONFIG", name),
        [] => request::wrong_arity("config"),
    }
}

fn info(session: &Session, sections: &[Bytes]) -> Reply {
    let server = &session.server;
    let (node, marks) = (&server.node, server.node.marks());
    let leader = node.leader().map_or_else(String::new, |leader| leader.id.to_string());
    let (keys, digest) = server.shared.read(|state| (state.map.len(), state.map.digest()));
    let all = [
        ("Server", server_info(server)),
        (
            "Clients",
            format!(
                "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
                server.places.clients(),
                server.places.max_clients(),
            ),
        ),
        ("Memory", memory_info()),
        (
            "Persistence",
            "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:1\r\n\
             aof_rewrite_in_progress:0\r\n"
                .to_owned(),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n\
                 rejected_connections:{}\r\nexpired_keys:0\r\nevicted_keys:0\r\n",
                server.counters.accepted.load(Ordering::Relaxed),
                server.counters.requests.load(Ordering::Relaxed),
                server.counters.rejected.load(Ordering::Relaxed),
            ),
        ),
        // Every server takes writes, whoever leads.
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        (
            "Raft",
            format!(
                "raft_id:{}\r\nraft_role:{}\r\nraft_leader:{leader}\r\nraft_term:{}\r\n\
                 raft_last_index:{}\r\nraft_commit_index:{}\r\nraft_applied_index:{}\r\n\
                 state_digest:{digest:016x}\r\n",
                node.id(),
                node.role(),
                node.term(),
                marks.last,
                marks.committed,
                marks.applied,
            ),
        ),
        (
            "Keyspace",
            match keys {
                0 => String::new(),
                keys => format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"),
            },
        ),
    ];
    let general = [&b"all"[..], b"default", b"everything"];
    let wanted = |name: &str| {
        let is_wanted = |section: &Bytes| {
            section.eq_ignore_ascii_case(name.as_bytes())
                || general.iter().any(|word| section.eq_ignore_ascii_case(word))
        };
        sections.is_empty() || sections.iter().any(is_wanted)
    };
    let chosen = all.iter().filter(|(name, _)| wanted(name));
    let text: Vec<_> = chosen.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect();
    Reply::bulk(text.join("\r\n"))
}

fn server_info(server: &Server) -> String {
    let uptime = server.started.elapsed().as_secs();
    let port = server.contact.resp.rsplit(':').next().unwrap_or_default();
    format!(
        "redis_version:{REDIS_VERSION}\r\nraft_kv_version:{}\r\nredis_mode:standalone\r\nos:{} {}\r\n\
         arch_bits:{}\r\nprocess_id:{}\r\ntcp_port:{port}\r\nuptime_in_seconds:{uptime}\r\n\
         uptime_in_days:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        usize::BITS,
        std::process::id(),
        uptime / (24 * 60 * 60),
    )
}

/// What the operating system says of this process; nothing where it does not say it this way.
fn memory_info() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (Some(now), Some(peak)) = (bytes("VmRSS:"), bytes("VmHWM:")) else { return String::new() };
    let human = |bytes: u64| format!("{:.2}M", bytes as f64 / f64::from(1 << 20));
    format!(
        "used_memory:{now}\r\nused_memory_human:{}\r\nused_memory_rss:{now}\r\n\
         used_memory_peak:{peak}\r\nused_memory_peak_human:{}\r\nmaxmemory:0\r\n\
         maxmemory_policy:noeviction\r\n",
        human(now),
        human(peak),
    )
}
