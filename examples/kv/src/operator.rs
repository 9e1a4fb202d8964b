//! The client's end of the HTTP interface, for `kv ctl`, for a server that joins, and for the demo.
//! It blocks: call it from a thread that may.

use std::{fmt, io::Read, time::Duration};

use serde_json::Value;
use ureq::{
    Agent, Body, SendBody,
    http::{Response, StatusCode, header},
};

use crate::failure::Failure;

/// How many times a request is sent on to somebody who should know better.
const MAX_HOPS: usize = 5;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to say whether it is well.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a long answer may take to begin: the server writes a snapshot first, or reads what it was
/// sent once more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a transfer that has begun may stand still.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

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

/// Why a request has not succeeded.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The server has not said what became of it.
    Unanswered(Failure),
    /// The server has said why not.
    Refused { status: StatusCode, why: Failure },
}

impl AskError {
    /// Whether the same request may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unanswered(_) => true,
            Self::Refused { status, .. } => !status.is_client_error(),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Unanswered(failure) | AskError::Refused { why: failure, .. } => failure,
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(failure) | Self::Refused { why: failure, .. } => failure.fmt(f),
        }
    }
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

    /// For transfers that take as long as they take: only connecting and the answer once everything
    /// is there have a limit, and nothing may come to a standstill.
    pub(crate) fn unhurried(server: impl Into<String>) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(ANSWER_TIMEOUT))
            .timeout_per_write(Some(SILENCE))
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
    pub(crate) fn ask(&self, path: &str, ask: &Ask) -> Result<Value, AskError> {
        let mut url = format!("http://{}{path}", self.server);
        for _ in 0..MAX_HOPS {
            let response = match ask {
                Ask::Get => self.agent.get(&url).call(),
                Ask::Post(body) => self.agent.post(&url).send_json(body),
                Ask::Delete => self.agent.delete(&url).call(),
            };
            let response = response.map_err(unreachable(&url))?;
            match elsewhere(&response) {
                Some(place) => url = place,
                None => return answer(&url, response),
            }
        }
        Err(self.no_leader())
    }

    /// Asks, follows the way to the leader, and returns a long answer, with its length if that is
    /// known. That it goes on is for the reader to watch.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) fn download(
        &self,
        path: &str,
    ) -> Result<(Option<u64>, impl Read + use<>), AskError> {
        let mut url = format!("http://{}{path}", self.server);
        for _ in 0..MAX_HOPS {
            is_alive(&url)?;
            let response = self.agent.get(&url).call().map_err(unreachable(&url))?;
            if let Some(place) = elsewhere(&response) {
                url = place;
            } else if response.status().is_success() {
                let length = response.body().content_length();
                return Ok((length, response.into_body().into_reader()));
            } else {
                // An error, in JSON.
                answer(&url, response)?;
                let failure = Failure::new(format!("{url} has no answer"));
                return Err(AskError::Unanswered(failure));
            }
        }
        Err(self.no_leader())
    }

    /// Sends `length` bytes to this server, which has to be the right one.
    ///
    /// # Errors
    /// When it does not answer, or the answer is an error; the failure is what the server said.
    pub(crate) fn upload(
        &self,
        path: &str,
        body: &mut dyn Read,
        length: u64,
    ) -> Result<Value, AskError> {
        let url = format!("http://{}{path}", self.server);
        let request = self
            .agent
            .post(&url)
            .header(header::CONTENT_LENGTH, length)
            // So that one who refuses is heard before everything is sent.
            .header(header::EXPECT, "100-continue");
        let response = request.send(SendBody::from_reader(body)).map_err(unreachable(&url))?;
        answer(&url, response)
    }

    fn no_leader(&self) -> AskError {
        let text = format!("no leader found from {} in {MAX_HOPS} steps", self.server);
        AskError::Unanswered(Failure::new(text))
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

/// Finds out about a server that hangs before it is asked for what may take long. That it is not well
/// is an answer too.
fn is_alive(url: &str) -> Result<(), AskError> {
    let server = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    match Operator::new(server, SIGN_OF_LIFE_TIMEOUT).ask("/health", &Ask::Get) {
        Err(unanswered @ AskError::Unanswered(_)) => Err(unanswered),
        Ok(_) | Err(AskError::Refused { .. }) => Ok(()),
    }
}

fn unreachable(url: &str) -> impl FnOnce(ureq::Error) -> AskError {
    move |error| {
        let why = match error {
            ureq::Error::Timeout(_) => "it does not answer in time; is it stuck?".to_owned(),
            error => error.to_string(),
        };
        AskError::Unanswered(Failure::new(format!("cannot ask {url}: {why}")))
    }
}

/// Where the answer says to ask instead.
fn elsewhere(response: &Response<Body>) -> Option<String> {
    if response.status() != StatusCode::TEMPORARY_REDIRECT {
        return None;
    }
    Some(response.headers().get(header::LOCATION)?.to_str().ok()?.to_owned())
}

fn answer(url: &str, mut response: Response<Body>) -> Result<Value, AskError> {
    let status = response.status();
    let body: Value = response.body_mut().read_json().map_err(unreachable(url))?;
    if status.is_success() {
        return Ok(body);
    }
    let why = body.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
    Err(AskError::Refused { status, why: Failure::new(why) })
}
