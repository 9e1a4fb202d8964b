//! `kv ctl`: the HTTP interface as a terminal shows it.

mod add;
mod newcomer;
mod rejoin;
mod status;
mod table;

use std::time::Duration;

use serde_json::{Value, json};

use self::table::{table, text_of};
use crate::{
    cli::{Action, Ctl},
    failure::Failure,
    operator::{Ask, Operator},
    output::print,
};

/// Longer than a server waits for a leader by default, so that its answer is seen.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// Carries out the command and prints what came of it.
pub(crate) fn run(options: &Ctl) -> Result<(), Failure> {
    let operator = Operator::new(&options.http, TIMEOUT);
    let text = match &options.action {
        Action::Status { json: true } => pretty(&operator.ask("/status", &Ask::Get)?),
        Action::Status { json: false } => status::show(&operator)?,
        Action::Members => members(&operator.ask("/members", &Ask::Get)?),
        Action::Add(add) => add::run(&options.http, add)?,
        Action::Demote { id, force } => {
            let path = format!("/members/{id}/demote?force={force}");
            let answer = operator.ask(&path, &Ask::Post(json!({})))?;
            format!("{id} is a nonvoter {}\n", since(&answer))
        }
        Action::Remove { id, force } => {
            let path = format!("/members/{id}?force={force}");
            let answer = operator.ask(&path, &Ask::Delete)?;
            format!("{id} is no member {}\n", since(&answer))
        }
        Action::Rejoin { id, force, timeout } => rejoin::run(&options.http, id, *force, *timeout)?,
        Action::Snapshot => snapshot(&operator.ask("/snapshot", &Ask::Post(json!({})))?),
        Action::Transfer { to } => {
            let answer = operator.ask("/transfer", &Ask::Post(json!({ "to": to })))?;
            format!("{} leads now\n", text_of(&answer["leader"]))
        }
    };
    print(&text)
}

fn snapshot(answer: &Value) -> String {
    let (index, term) = (&answer["last"]["index"], &answer["last"]["term"]);
    let newness = if answer["new"] == true { "" } else { "nothing new since " };
    let (id, size) = (text_of(&answer["id"]), &answer["size_bytes"]);
    format!("{newness}snapshot {id}: up to entry {index} of term {term}, {size} bytes\n")
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Since when it is so; or that it was so before and nothing was written.
fn since(answer: &Value) -> String {
    match answer["changed"] == false {
        true => "already".to_owned(),
        false => format!("since entry {}", answer["index"]),
    }
}

fn list(answer: &Value) -> &[Value] {
    answer["members"].as_array().map_or(&[], Vec::as_slice)
}

fn suffrage(member: &Value) -> String {
    if member["voter"] == true { "voter" } else { "nonvoter" }.to_owned()
}

fn members(answer: &Value) -> String {
    let head = ["ID", "SUFFRAGE", "RAFT", "REDIS", "HTTP", "LEADS"].map(str::to_owned);
    let row = |member: &Value| {
        let leads = if member["leader"] == true { "yes" } else { "-" };
        [
            text_of(&member["id"]),
            suffrage(member),
            text_of(&member["address"]),
            text_of(&member["resp"]),
            text_of(&member["http"]),
            leads.to_owned(),
        ]
    };
    table([head].into_iter().chain(list(answer).iter().map(row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_show_what_is_known() {
        let answer = json!({ "members": [
            { "id": "a", "address": "h:1", "voter": true, "leader": true, "resp": "h:2", "http": "h:3" },
            { "id": "b", "address": "h:4", "voter": false, "leader": false, "resp": null, "http": null },
        ]});
        let expected = "ID  SUFFRAGE  RAFT  REDIS  HTTP  LEADS\n\
                        a   voter     h:1   h:2    h:3   yes\n\
                        b   nonvoter  h:4   -      -     -\n";
        assert_eq!(members(&answer), expected);
    }
}
