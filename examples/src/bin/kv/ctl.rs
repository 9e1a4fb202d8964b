//! `kv ctl`: the HTTP interface as a terminal shows it.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use crate::{
    cli::{Action, Ctl},
    failure::Failure,
    operator::{Ask, Operator},
};

/// Longer than a server waits for a leader by default, so that its answer is seen.
const TIMEOUT: Duration = Duration::from_secs(15);
/// For asking each member how it is: one that hangs must not hide the others.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Carries out the command and prints what came of it.
pub(crate) fn run(options: &Ctl) -> Result<(), Failure> {
    let operator = Operator::new(&options.http, TIMEOUT);
    let text = match &options.action {
        Action::Status { json: true } => pretty(&operator.ask("/status", &Ask::Get)?),
        Action::Status { json: false } => status(&operator.ask("/members", &Ask::Get)?),
        Action::Members => members(&operator.ask("/members", &Ask::Get)?),
        Action::Add { id, address, nonvoter } => {
            let body = json!({ "id": id, "address": address, "voter": !nonvoter });
            let answer = operator.ask("/members", &Ask::Post(body))?;
            let kind = if *nonvoter { "nonvoter" } else { "voter" };
            format!("{id} at {address} is a {kind} {}\n", since(&answer))
        }
        Action::Demote { id } => {
            let answer = operator.ask(&format!("/members/{id}/demote"), &Ask::Post(json!({})))?;
            format!("{id} is a nonvoter {}\n", since(&answer))
        }
        Action::Remove { id } => {
            let answer = operator.ask(&format!("/members/{id}"), &Ask::Delete)?;
            format!("{id} is no member {}\n", since(&answer))
        }
        Action::Transfer { to } => {
            let answer = operator.ask("/transfer", &Ask::Post(json!({ "to": to })))?;
            format!("{} leads now\n", text_of(&answer["leader"]))
        }
    };
    print!("{text}");
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn since(answer: &Value) -> String {
    format!("since entry {}", answer["index"])
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
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

/// One line for every member, as it says itself.
fn status(answer: &Value) -> String {
    let head = ["ID", "SUFFRAGE", "ROLE", "TERM", "LAST", "COMMIT", "APPLIED", "KEYS", "CHECKSUM"];
    let row = |member: &Value| {
        let (id, suffrage) = (text_of(&member["id"]), suffrage(member));
        let said = match member["http"].as_str() {
            None => Err("has not told its address yet".to_owned()),
            Some(http) => Operator::new(http, STATUS_TIMEOUT)
                .ask("/status", &Ask::Get)
                .map_err(|_| format!("does not answer at {http}")),
        };
        let said = match said {
            Ok(said) if said["id"] == member["id"] => said,
            Ok(said) => {
                let why = format!("its address is {}'s now", text_of(&said["id"]));
                return [id, suffrage, why].into_iter().chain(vec![String::new(); 6]).collect();
            }
            Err(why) => {
                return [id, suffrage, why].into_iter().chain(vec![String::new(); 6]).collect();
            }
        };
        let (raft, kv) = (&said["raft"], &said["kv"]);
        let cells = [
            &raft["role"],
            &raft["term"],
            &raft["marks"]["last"],
            &raft["marks"]["committed"],
            &raft["marks"]["applied"],
            &kv["keys"],
            &kv["checksum"],
        ];
        let cells = cells.into_iter().map(|cell| text_of(cell).to_lowercase());
        [id, suffrage].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let head = head.map(str::to_owned).to_vec();
    table([head].into_iter().chain(list(answer).iter().map(row)))
}

/// Lines with aligned columns.
fn table<R: AsRef<[String]>>(rows: impl Iterator<Item = R>) -> String {
    let rows: Vec<_> = rows.collect();
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    // A cell that only a remark fills (its neighbours are empty) does not widen its column.
    let is_remark = |row: &[String], column: usize| {
        column + 1 < row.len() && row[column + 1..].iter().all(String::is_empty)
    };
    let width = |column: usize| {
        let cells = rows.iter().map(AsRef::as_ref).filter(|row| !is_remark(row, column));
        cells.filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_remarks_do_not_widen_them() {
        let rows = [["ID", "ROLE", "TERM"], ["a", "leader", "2"], ["long", "does not answer", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let expected = "ID    ROLE    TERM\na     leader  2\nlong  does not answer\n";
        assert_eq!(table(rows.into_iter()), expected);
    }

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
