//! `kv ctl rejoin`: takes back a server that has lost its data, and waits until it has caught up.

use std::{thread, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    PAUSE, TIMEOUT, list,
    newcomer::{Line, Newcomer},
    since,
    status::rough,
    table::text_of,
};
use crate::{
    failure::Failure,
    log::tell,
    operator::{Ask, AskError, Operator},
};

/// Before this has passed there is nothing to tell.
const QUIET: Duration = Duration::from_secs(2);

/// Takes the member back and says what it is now.
///
/// # Errors
/// When the leader refuses, or the server has not caught up in time; the failure says what the server
/// is then, and what to do.
pub(super) fn run(http: &str, id: &str, force: bool, timeout: Duration) -> Result<String, Failure> {
    let operator = Operator::new(http, TIMEOUT);
    let members = operator.ask("/members", &Ask::Get)?;
    let member = list(&members).iter().find(|member| member["id"] == id);
    let address = member.map_or("ADDRESS".to_owned(), |member| text_of(&member["address"]));
    let path = format!("/members/{id}/rejoin?force={force}");
    let started = Instant::now();
    let answer = thread::scope(|scope| {
        let (asking, mut line) = (Operator::new(http, timeout), Line::default());
        let asking = scope.spawn(move || asking.ask(&path, &Ask::Post(json!({}))));
        let mut is_told = false;
        while !asking.is_finished() {
            #[expect(clippy::disallowed_methods, reason = "a person waits here, and nothing else")]
            thread::sleep(PAUSE);
            if started.elapsed() < QUIET {
                continue;
            }
            if !is_told {
                is_told = true;
                tell!(
                    "taking {id} back; start it on an empty directory now, if it does not run; waiting \
                     up to {} until it has caught up",
                    rough(timeout)
                );
            }
            line.show(Newcomer::look(&operator, id));
        }
        asking.join()
    });
    match answer {
        Ok(Ok(answer)) => {
            Ok(format!("{id} has caught up and is what it was, {}\n", since(&answer)))
        }
        Ok(Err(AskError::Unanswered(_))) if timeout <= started.elapsed() => {
            Err(Failure::new(format!(
                "{id} has not caught up after {}: {}. Start it on an empty directory, if it does not run; \
                 `kv ctl --http {http} add {id} {address}` waits again and gives it its vote",
                rough(timeout),
                Newcomer::look(&operator, id)
            )))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::new("the request ended without an answer")),
    }
}
