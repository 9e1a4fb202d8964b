//! `kv ctl add`: makes a server a member, and waits until it has its vote.
//!
//! The first request returns as soon as the server is a member, so that whoever has not started it
//! yet is told to. The others wait for its vote, each for a moment only: in between it is looked how
//! far the server has come. A member that moves has to be at its new address first, and is waited for
//! in the same way.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    PAUSE, TIMEOUT,
    newcomer::{Line, Newcomer},
    since,
    status::rough,
    suffrage,
};
use crate::{
    cli::Add,
    failure::Failure,
    log::tell,
    operator::{Ask, Operator},
};

/// How long one request waits for the vote.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Adds the member and says what it is now.
///
/// # Errors
/// When the leader refuses, or the server has not caught up in time; the failure says what the server
/// is then, and what to do.
pub(super) fn run(http: &str, add: &Add) -> Result<String, Failure> {
    let Add { id, address, nonvoter, moves, force, timeout } = add;
    let deadline = Instant::now() + *timeout;
    let body = |waits: bool| {
        Ask::Post(json!({
            "id": id, "address": address, "voter": !nonvoter, "move": moves, "force": force,
            "wait": waits,
        }))
    };
    let is_now =
        |answer: &Value| format!("{id} at {address} is a {} {}\n", suffrage(answer), since(answer));
    let operator = Operator::new(http, TIMEOUT);
    let added = if *moves {
        moved(&operator, &body(false), deadline, *timeout)?
    } else {
        operator.ask("/members", &body(false))?
    };
    if added["voter"] == !nonvoter {
        return Ok(is_now(&added));
    }
    tell!(
        "{id} is a nonvoter since entry {}; start it now, if it does not run; waiting up to {} until \
         it has caught up",
        added["index"],
        rough(*timeout)
    );
    let mut line = Line::default();
    loop {
        let patience = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        let asked = Operator::new(http, patience.max(PAUSE)).ask("/members", &body(true));
        match asked {
            Ok(answer) => return Ok(is_now(&answer)),
            Err(error) if !error.may_pass() => return Err(error.into()),
            Err(_) => {}
        }
        let state = Newcomer::look(&operator, id);
        if state == Newcomer::Gone {
            // The next request would add it once more.
            return Err(Failure::new(format!(
                "{id} is no member: somebody has removed it meanwhile"
            )));
        }
        if deadline <= Instant::now() {
            return Err(Failure::new(format!(
                "{id} is a nonvoter, and not a voter after {}: {state}. Start it as server {id} at \
                 {address} if it does not run; `kv ctl --http {http} add {id} {address}` waits again, \
                 `kv ctl --http {http} remove {id}` takes it out",
                rough(*timeout)
            )));
        }
        line.show(state);
        #[expect(clippy::disallowed_methods, reason = "a person waits here, and nothing else")]
        thread::sleep(PAUSE);
    }
}

/// Asks until the leader has reached the member at its new address: it may be just starting there.
fn moved(
    operator: &Operator,
    ask: &Ask,
    deadline: Instant,
    timeout: Duration,
) -> Result<Value, Failure> {
    let mut told = String::new();
    loop {
        let why = match operator.ask("/members", ask) {
            Ok(answer) => return Ok(answer),
            Err(error) if !error.may_pass() => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        if deadline <= Instant::now() {
            return Err(Failure::new(format!("not moved after {}: {why}", rough(timeout))));
        }
        if why != told {
            tell!("waiting up to {}: {why}", rough(timeout));
            told = why;
        }
        #[expect(clippy::disallowed_methods, reason = "a person waits here, and nothing else")]
        thread::sleep(PAUSE);
    }
}
