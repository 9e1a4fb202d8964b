//! The client's end of the HTTP interface, for `kv ctl`, for a server that joins, and for the demo.
//! It blocks: call it from a thread that may.

use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, http::StatusCode};

use crate::failure::Failure;

/// How many times a request is sent on to somebody who should know better.
const MAX_HOPS: usize = 5;

/// Talks to one server, and to the leader when that server says so.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    agent: Agent,
    server: String,
}

/// A request with or without a body.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Get,
    Post(Value),
    Delete,
}

impl Operator {
    /// Talks to the server with this HTTP address, waiting up to `timeout` for each answer.
    pub(crate) fn new(server: impl Into<String>, timeout: Duration) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            // Followed by hand: the body has to be sent again.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .build();
        Self { agent: config.into(), server: server.into() }
    }

    /// Asks, follows the way to the leader, and returns the answer.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error; the failure is what the server said.
    pub(crate) fn ask(&self, path: &str, ask: &Ask) -> Result<Value, Failure> {
        let mut url = format!("http://{}{path}", self.server);
        for _ in 0..MAX_HOPS {
            let unreachable = |error| Failure::new(format!("cannot ask {url}: {error}"));
            let response = match ask {
                Ask::Get => self.agent.get(&url).call(),
                Ask::Post(body) => self.agent.post(&url).send_json(body),
                Ask::Delete => self.agent.delete(&url).call(),
            };
            let mut response = response.map_err(unreachable)?;
            let status = response.status();
            if status == StatusCode::TEMPORARY_REDIRECT
                && let Some(place) = response.headers().get("location")
                && let Ok(place) = place.to_str()
            {
                url = place.to_owned();
                continue;
            }
            let body: Value = response.body_mut().read_json().map_err(unreachable)?;
            if status.is_success() {
                return Ok(body);
            }
            let why = body.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
            return Err(Failure::new(format!("refused ({}): {why}", status.as_u16())));
        }
        Err(Failure::new(format!("no leader found from {} in {MAX_HOPS} steps", self.server)))
    }

    /// The whole state of the server, as bytes.
    ///
    /// # Errors
    /// When nobody answers, or not to the end.
    pub(crate) fn dump(&self) -> Result<Vec<u8>, Failure> {
        const MAX_BYTES: u64 = 16 << 30;
        let url = format!("http://{}/dump", self.server);
        let bytes = self.agent.get(&url).call().and_then(|mut response| {
            response.body_mut().with_config().limit(MAX_BYTES).read_to_vec()
        });
        bytes.map_err(|error| Failure::new(format!("cannot read {url}: {error}")))
    }
}
