//! What a section found, and how its promises fared.

/// What one section hands back.
#[derive(Debug, Default)]
pub(crate) struct Outcome<T> {
    /// What was measured.
    pub(crate) raw: T,
    /// Applies or whole runs that failed.
    pub(crate) failures: Vec<String>,
    /// Promises that were not kept.
    pub(crate) broken: Vec<String>,
}

/// A figure that is promised.
pub(crate) struct Promise {
    pub(crate) section: &'static str,
    /// What is promised, limit included, as in "answers within 3 s".
    pub(crate) what: String,
    pub(crate) limit: Limit,
    pub(crate) measured: Option<f64>,
    pub(crate) unit: fn(f64) -> String,
}

/// Where a promised figure has to lie.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Promise {
    /// What is missing, if it was not kept. What was not measured was not kept.
    pub(crate) fn broken(&self) -> Option<String> {
        let Some(measured) = self.measured else {
            return Some(format!("{}: {}; nothing was measured", self.section, self.what));
        };
        let is_kept = match self.limit {
            Limit::AtLeast(limit) => limit <= measured,
            Limit::AtMost(limit) => measured <= limit,
        };
        let measured = (self.unit)(measured);
        (!is_kept).then(|| format!("{}: {}; measured: {measured}", self.section, self.what))
    }

    /// The sentence for the notes.
    pub(crate) fn note(&self, is_quick: bool) -> String {
        let verdict = match (is_quick, self.broken()) {
            (true, _) => "not judged (--quick)",
            (false, None) => "PASS",
            (false, Some(_)) => "FAIL",
        };
        let measured = self.measured.map_or_else(|| "nothing".to_owned(), self.unit);
        format!("Promised: {}; measured: {measured}: {verdict}.", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::percent;

    fn promise(limit: Limit, measured: impl Into<Option<f64>>) -> Promise {
        let what = "so much".to_owned();
        Promise { section: "s", what, limit, measured: measured.into(), unit: percent }
    }

    #[test]
    fn a_promise_is_kept_up_to_its_limit_and_not_without_a_figure() {
        assert_eq!(promise(Limit::AtLeast(0.85), 0.85).broken(), None);
        assert_eq!(promise(Limit::AtMost(0.85), 0.85).broken(), None);
        let below = promise(Limit::AtLeast(0.85), 0.84);
        assert_eq!(below.broken().unwrap(), "s: so much; measured: 84.0 %");
        assert!(below.note(false).ends_with("FAIL."));
        assert!(below.note(true).ends_with("not judged (--quick)."));
        assert!(promise(Limit::AtMost(0.85), 0.86).broken().is_some());
        assert!(promise(Limit::AtMost(0.85), f64::NAN).broken().is_some());
        assert!(promise(Limit::AtMost(0.85), None).broken().is_some());
    }
}
