//! A configuration written down by hand: the members of a cluster as a JSON file.
//!
//! ```json
//! [
//!   { "id": "a", "address": "10.0.0.1:8300" },
//!   { "id": "b", "address": "10.0.0.2:8300", "non_voter": true }
//! ]
//! ```
//!
//! The model's older form, a list of addresses, is read as well: each is a voter whose id is its
//! address. It is a person's file at a bad hour, so what is wrong with it is said with its place, and
//! nothing is guessed: a field that nobody knows may be a misspelt `non_voter`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor, value::MapAccessDeserializer},
};

use super::{Configuration, InvalidConfiguration, Server};

/// Why a list of members in JSON is not a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPeers {
    /// It is not JSON.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It is JSON, but not a list of members: a field is unknown, missing, given twice, or of the
    /// wrong kind.
    #[error("line {line}, column {column}: {reason}")]
    Shape {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The members break a rule of every configuration.
    #[error(transparent)]
    Configuration(#[from] InvalidConfiguration),
}

/// Why a file of members cannot be used. Names the file.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersFileError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: Arc<io::Error>,
    },
    /// What the file says cannot be used; correct it.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: InvalidPeers,
    },
}

/// Reads a configuration from a file in the form of [`Configuration::from_json`]. Blocks.
///
/// # Errors
/// [`PeersFileError`] names the file and what is wrong with it, with line and column where there is
/// one.
pub fn read_peers_json(path: impl AsRef<Path>) -> Result<Configuration, PeersFileError> {
    let path = path.as_ref();
    let text = fs::read_to_string(path)
        .map_err(|error| PeersFileError::Read { path: path.to_owned(), source: Arc::new(error) })?;
    Configuration::from_json(&text)
        .map_err(|source| PeersFileError::Invalid { path: path.to_owned(), source })
}

impl Configuration {
    /// Reads a list of members, `[{"id": "a", "address": "host:1", "non_voter": false}, …]`, and
    /// validates it. `non_voter` may be left out. A member that is only a text is a voter with this
    /// address, and the same text as its id. A byte-order mark before it, as some editors write one, does
    /// no harm.
    ///
    /// ```
    /// let members = r#"[{"id": "a", "address": "10.0.0.1:8300"}]"#;
    /// let configuration = raft::Configuration::from_json(members)?;
    /// assert!(configuration.is_voter(&"a".into()));
    /// # Ok::<(), raft::InvalidPeers>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidPeers`] says what is wrong, and where in the text if it is not about the members
    /// together: correct it there.
    pub fn from_json(text: &str) -> Result<Self, InvalidPeers> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let peers: Vec<Peer> = serde_json::from_str(text).map_err(|error| invalid(&error))?;
        let configuration = Self::new(peers.into_iter().map(|Peer(server)| server));
        configuration.validate()?;
        Ok(configuration)
    }
}

fn invalid(error: &serde_json::Error) -> InvalidPeers {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    // What is wrong with the text as a whole is found before its first byte.
    let (line, column) = (error.line().max(1), error.column().max(1));
    let reason = said.strip_suffix(&place).unwrap_or(&said).to_owned();
    match error.classify() {
        serde_json::error::Category::Data => InvalidPeers::Shape { line, column, reason },
        _ => InvalidPeers::Syntax { line, column, reason },
    }
}

/// A member in either form.
struct Peer(Server);

/// A member in the form with fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: String,
    address: String,
    #[serde(default)]
    non_voter: bool,
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not an untagged enum: that would lose the place and the reason of every mistake.
        deserializer.deserialize_any(EitherForm)
    }
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Peer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member with id and address, or an address")
    }

    fn visit_str<E: de::Error>(self, address: &str) -> Result<Peer, E> {
        Ok(Peer(Server::voter(address, address)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Peer, A::Error> {
        let Fields { id, address, non_voter } =
            Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Peer(if non_voter { Server::nonvoter(id, address) } else { Server::voter(id, address) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let configuration = Configuration::from_json(
            r#"[
                {"id": "b", "address": "host-b", "non_voter": true},
                {"address": "host-a", "id": "a"},
                {"id": "c", "address": "host-c", "non_voter": false}
            ]"#,
        );
        let expected = Configuration::new([
            Server::voter("a", "host-a"),
            Server::nonvoter("b", "host-b"),
            Server::voter("c", "host-c"),
        ]);
        assert_eq!(configuration, Ok(expected));

        let configuration = Configuration::from_json(r#"["10.0.0.1:8300", "10.0.0.2:8300"]"#);
        let servers = ["10.0.0.1:8300", "10.0.0.2:8300"].map(|text| Server::voter(text, text));
        assert_eq!(configuration, Ok(Configuration::new(servers)));
    }

    #[test]
    fn a_byte_order_mark_does_no_harm() {
        let plain = r#"[{"id": "a", "address": "host-a"}]"#;
        let marked = Configuration::from_json(&format!("\u{feff}{plain}"));
        assert_eq!(marked, Configuration::from_json(plain));
        assert!(marked.is_ok(), "{marked:?}");
        let said = Configuration::from_json("\u{feff}[7]").unwrap_err().to_string();
        assert!(said.starts_with("line 1, column 2: "), "{said}");
    }

    #[test]
    fn a_mistake_is_shown_with_its_place() {
        let cases = [
            ("[\n  {\"id\": \"a\",}\n]", "line 2, column 14: trailing comma"),
            ("", "line 1, column 1: EOF while parsing a value"),
            ("[] []", "line 1, column 4: trailing characters"),
            ("{}", "line 1, column 1: invalid type: map, expected a sequence"),
            (
                "[\n  {\"id\": \"a\", \"address\": \"h\", \"nonvoter\": true}\n]",
                "line 2, column 40: unknown field `nonvoter`, expected one of `id`, `address`, \
                 `non_voter`",
            ),
            ("[{\"id\": \"a\"}]", "line 1, column 12: missing field `address`"),
            (
                "[{\"id\": \"a\", \"id\": \"b\", \"address\": \"h\"}]",
                "line 1, column 17: duplicate field `id`",
            ),
            (
                "[{\"id\": 1, \"address\": \"h\"}]",
                "line 1, column 9: invalid type: integer `1`, expected a string",
            ),
            (
                "[7]",
                "line 1, column 2: invalid type: integer `7`, expected a member with id and \
                 address, or an address",
            ),
        ];
        for (text, expected) in cases {
            let said = Configuration::from_json(text).unwrap_err().to_string();
            assert_eq!(said, expected, "{text}");
        }
        let syntax = Configuration::from_json("[").unwrap_err();
        assert!(matches!(syntax, InvalidPeers::Syntax { line: 1, .. }), "{syntax:?}");
        let shape = Configuration::from_json("[7]").unwrap_err();
        assert!(matches!(shape, InvalidPeers::Shape { line: 1, .. }), "{shape:?}");
    }

    #[test]
    fn members_that_break_a_rule_are_refused() {
        let cases = [
            ("[]", "a configuration needs at least one voter"),
            (
                r#"[{"id": "a", "address": "h", "non_voter": true}]"#,
                "a configuration needs at least one voter",
            ),
            (
                r#"[{"id": "a", "address": "h"}, {"id": "a", "address": "i"}]"#,
                "server id \"a\" appears twice",
            ),
            (
                r#"[{"id": "a", "address": "h"}, {"id": "b", "address": "h"}]"#,
                "servers \"a\" and \"b\" share the address \"h\"",
            ),
            (r#"[{"id": "a", "address": ""}]"#, "server \"a\" has an empty address"),
            (r#"[{"id": "", "address": "h"}]"#, "the server at address \"h\" has an empty id"),
        ];
        for (text, expected) in cases {
            let error = Configuration::from_json(text).unwrap_err();
            assert!(matches!(error, InvalidPeers::Configuration(_)), "{error:?}");
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn the_file_is_named() {
        let path = Path::new("no/such/peers.json");
        let said = read_peers_json(path).unwrap_err().to_string();
        assert!(said.starts_with("cannot read no/such/peers.json: "), "{said}");
        let source = InvalidConfiguration::NoVoter.into();
        let error = PeersFileError::Invalid { path: path.to_owned(), source };
        assert_eq!(
            error.to_string(),
            "no/such/peers.json: a configuration needs at least one voter"
        );
    }
}
