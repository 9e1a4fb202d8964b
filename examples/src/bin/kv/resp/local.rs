//! The commands between a connection and its client, and those about this server alone.

use bytes::Bytes;

use super::{
    Args, Protocol, Reply, glob,
    request::{self, Local},
    session::Session,
};
use crate::{command::parse_integer, route::Origin};

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
            session.name.clear();
            Reply::Status("RESET".into())
        }
        Local::Select => match parse_integer(&args[1]) {
            Some(0) => Reply::OK,
            Some(_) => Reply::error("ERR DB index is out of range"),
            None => Reply::error("ERR value is not an integer or out of range"),
        },
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
    let id = session.server.node.id();
    if id.as_str().as_bytes() != name {
        return Reply::error(format!("ERR this is server {id}"));
    }
    session.origin = Origin::Server { refused: false };
    Reply::OK
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
    if let Some(name) = name {
        session.name = name;
    }
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
            (b"auth", [_, _, ..]) => return Err(no_password()),
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

fn no_password() -> Reply {
    Reply::error(
        "ERR AUTH <password> called without any password configured for the default user. Are you \
         sure your configuration is correct?",
    )
}

fn client_id(session: &Session) -> Reply {
    Reply::Int(i64::try_from(session.id).unwrap_or(i64::MAX))
}

fn client_name(text: &[u8]) -> Result<String, Reply> {
    let is_plain = text.iter().all(u8::is_ascii_graphic);
    let refusal = "ERR Client names cannot contain spaces, newlines or special characters.";
    let name = std::str::from_utf8(text).ok().filter(|_| is_plain);
    name.map(str::to_owned).ok_or_else(|| Reply::error(refusal))
}

fn client(session: &mut Session, args: &[Bytes]) -> Reply {
    let subcommand = args.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
    match (&subcommand[..], &args[1..]) {
        (b"setname", [name]) => match client_name(name) {
            Ok(name) => {
                session.name = name;
                Reply::OK
            }
            Err(refusal) => refusal,
        },
        (b"getname", []) if session.name.is_empty() => Reply::Nil,
        (b"getname", []) => Reply::bulk(session.name.as_str()),
        (b"setinfo", [_, _]) | (b"no-evict" | b"no-touch", [_]) => Reply::OK,
        (b"id", []) => client_id(session),
        (b"info", []) => {
            let (id, name, protocol) = (session.id, &session.name, session.protocol.number());
            Reply::bulk(format!("id={id} name={name} db=0 resp={protocol}\n"))
        }
        (b"setname" | b"getname" | b"setinfo" | b"id" | b"info" | b"no-evict" | b"no-touch", _) => {
            let name = String::from_utf8_lossy(&subcommand).into_owned();
            request::wrong_arity(&format!("client|{name}"))
        }
        _ => unknown_subcommand("CLIENT", &args[0]),
    }
}

fn unknown_subcommand(command: &str, name: &[u8]) -> Reply {
    let name = String::from_utf8_lossy(name);
    Reply::error(format!("ERR unknown subcommand '{name}'. Try {command} HELP."))
}

fn command_info(args: &[Bytes]) -> Reply {
    let entry = |spec: &request::Spec| {
        let arity = i64::try_from(spec.arity).unwrap_or(0);
        let (none, zero) = (|| Reply::Array(vec![]), || Reply::Int(0));
        Reply::Array(vec![
            Reply::bulk(spec.name),
            Reply::Int(arity),
            none(),
            zero(),
            zero(),
            zero(),
            none(),
            none(),
            none(),
            none(),
        ])
    };
    let Some((subcommand, names)) = args.split_first() else {
        return Reply::Array(request::public().map(entry).collect());
    };
    match &subcommand.to_ascii_lowercase()[..] {
        b"count" => Reply::count(request::public().count()),
        // Help for people; `redis-cli` does without.
        b"docs" => Reply::Map(vec![]),
        b"list" => Reply::Array(request::public().map(|spec| Reply::bulk(spec.name)).collect()),
        b"info" if names.is_empty() => Reply::Array(request::public().map(entry).collect()),
        b"info" => {
            let found = names.iter().map(|name| request::find_public(name));
            let found = found.map(|spec| spec.map_or(Reply::Nil, entry));
            Reply::Array(found.collect())
        }
        _ => unknown_subcommand("COMMAND", subcommand),
    }
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
    let uptime = server.started.elapsed().as_secs();
    let leader = node.leader().map_or_else(String::new, |leader| leader.id.to_string());
    let port = server.contact.resp.rsplit(':').next().unwrap_or_default();
    let (keys, digest) = server.shared.read(|state| (state.map.len(), state.map.digest()));
    let keyspace =
        if keys == 0 { String::new() } else { format!("db0:keys={keys},expires=0,avg_ttl=0\r\n") };
    let all = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nraft_kv_version:{}\r\nredis_mode:standalone\r\n\
                 process_id:{}\r\ntcp_port:{port}\r\nuptime_in_seconds:{uptime}\r\n",
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\n", server.counters.connections())),
        ("Persistence", "loading:0\r\naof_enabled:1\r\n".to_owned()),
        ("Stats", format!("total_commands_processed:{}\r\n", server.counters.requests())),
        // Every server takes writes, whoever leads.
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
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
        ("Keyspace", keyspace),
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
