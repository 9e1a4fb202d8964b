//! What ends the program early: one line for a person.

use std::fmt;

/// A sentence that says what could not be done, and why. Always one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(sentence: impl fmt::Display) -> Self {
        let sentence = sentence.to_string();
        Self(sentence.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}
